"""The part of a page that says who beats whom; the terminal prints the same rows.

A comparison is a run, and its page is that of `backflip report RUN RUN` on the runs that it compared, with this part before the others.
Leaves out how the numbers come about (`experiments.compare`, `measures.head_to_head`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backflip.data import Estimate
from backflip.errors import DataError
from backflip.report.compare import comparison
from backflip.report.evidence import Evidence, estimate, gather
from backflip.report.headline import Finding, status_sentence
from backflip.report.marks import Axis, Dots, dot, run_role
from backflip.report.render import Page, Section, sample_data
from backflip.report.sweep import cannot_tell, show_p
from backflip.report.tables import Cell, Table, cell
from backflip.report.wording import show, show_gap, show_interval, wording

RESULT = "head_to_head"
DUELS = ("the first", "the second", "first wins", "ties", "p, of all duels", "told apart?")
POLICIES = ("policy", "rating, log-odds", "KL from base, nats", "distinct bigrams", "repetition", "length, tokens")
ENDS = "lowest to highest seed"
MEASURED = ("kl_nats_per_sequence", "distinct2", "repetition", "length_tokens")
MANY_DUELS = 28
"""Duels drawn as a figure at most; the table holds all."""
MANY_ROWS = 10
"""Duels beyond which their table is folded."""
OFF = 0.05
"""Share by which a win rate may miss what the ratings say before it is called missed."""


@dataclass(frozen=True)
class Row:
    """One row as it is read: for the terminal as text, for the page with what stands small beneath."""

    cells: tuple[Cell, ...]

    def texts(self) -> tuple[str, ...]:
        """Return the cells as plain text."""
        return tuple(f"{one.text} ({one.small})" if one.small else one.text for one in self.cells)


def duel_rows(result: Mapping[str, Any], *, arms: bool = False) -> list[Row]:
    """Return a row for each duel of runs, or of arms over seeds; its cells are those of `duel_columns`."""
    names = [one["name"] for one in result["arms" if arms else "policies"]]
    unit = "seeds" if arms else str(result["unit"])
    rows: list[Row] = []
    for one in result["arm_duels" if arms else "duels"]:
        won, gap = _read(one["win_rate"]), estimate(one.get("difference"))
        rate = Cell(show(won.value, "share"), f"{show_interval(won, 'share')}, n = {won.n:,}")
        middle = Cell(show(float(one["ties"]), "share")) if gap is None else _gap(gap)
        told = Cell("yes" if one["told"] else cannot_tell(one["needed"], unit))
        ends = (_ends(one, share=gap is None),) if arms else ()
        p = Cell(show_p(one["p_of_all"]))
        rows.append(Row((Cell(names[one["first"]]), Cell(names[one["second"]]), rate, middle, *ends, p, told)))
    return rows


def duel_columns(result: Mapping[str, Any], *, arms: bool = False) -> tuple[str, ...]:
    """Return what the columns of `duel_rows` are called: the difference of returns stands in place of the ties where there is one."""
    middle = ("more true return" if result["unit"] == "episodes" else "ties", *((ENDS,) if arms else ()))
    return tuple(each for name in DUELS for each in (middle if name == "ties" else (name,)))


def _ends(one: Mapping[str, Any], *, share: bool) -> Cell:
    """Return the lowest and the highest of the seeds: of what the first won, or of by how much it was more."""
    low, high = one.get("lowest"), one.get("highest")
    if low is None or high is None:
        return Cell("-")
    unit = "share" if share else wording("true_return").unit
    return Cell(f"{show(float(low), unit, bare=True)} to {show(float(high), unit, bare=True)}")


def policy_rows(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Row]]:
    """Return columns and a row for each policy: its rating or its return, and what stands beside it; the best first."""
    if result["unit"] == "episodes":
        held = [(one["name"], _read(one["measured"]["true_return"])) for one in result["policies"]]
        held.sort(key=lambda pair: -pair[1].value)
        return ("policy", "true return"), [Row((Cell(name), cell(value, "true_return"))) for name, value in held]
    ratings = result["ratings"] or [None] * len(result["policies"])
    rows: list[tuple[float, Row]] = []
    for one, rating in zip(result["policies"], ratings, strict=True):
        rated = estimate(rating)
        first = Cell("-") if rated is None else Cell(f"{rated.value:+.2f}", f"{rated.low:+.2f} to {rated.high:+.2f}")
        others = (cell(estimate(one["measured"].get(name)), name, with_n=False) for name in MEASURED)
        rows.append((0.0 if rated is None else -rated.value, Row((Cell(one["name"]), first, *others))))
    return POLICIES, [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def head_to_head_page(evidence: Evidence) -> Page:
    """Compose the page of a comparison: who beats whom, then all that the runs themselves say, as far as their folders are still there."""
    result: Mapping[str, Any] = evidence.record.results[RESULT]
    found, warnings = _runs(result)
    beside = comparison(found) if len(found) > 1 else None
    kept = () if beside is None else tuple(one for one in beside.sections if one.id not in ("samples", "results"))
    own = [one for one in beside.sections if one.id == "results"] if beside is not None else []
    if own:
        kept = (replace(own[0], title="What each run measured itself"), *kept)
    names = {one["name"]: (one["name"], run_role(place)) for place, one in enumerate(result["policies"])}
    data: dict[str, Any] = dict(beside.data) if beside is not None else {"explorer": {"runs": [], "words": {}}}
    data["samples"] = sample_data(evidence.samples, evidence.samples_total, names)
    sections = [*_sections(result)]
    if evidence.samples:
        sections.append(Section("samples", "Read the answers", "What was compared, side by side.", special="samples"))
    told = sum(bool(one["told"]) for one in result["duels"])
    status = [sentence] if (sentence := status_sentence(evidence)) else []
    return Page(
        title=f"Backflip: {len(result['policies'])} policies, head to head",
        kicker=f"Backflip comparison, judged by {result['judge']}",
        headline=headline(result),
        lead=(_asked(result), *evidence.record.notes),
        badge=(
            f"{told} of {len(result['duels'])} duels told apart",
            "good" if told == len(result["duels"]) else "caution",
        ),
        warnings=(*status, *warnings),
        findings=tuple(findings(result)),
        sections=(*sections, *kept),
        data=data,
    )


def headline(result: Mapping[str, Any]) -> str:
    """Say who beats whom, over seeds first, or that so many units cannot tell."""
    return " ".join([*(_over_seeds(one, result) for one in result["arm_duels"][:3]), _single(result)])


def _over_seeds(one: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    won, arms = _read(one["win_rate"]), [arm["name"] for arm in result["arms"]]
    verdict = "tell the two apart" if one["told"] else "cannot tell the two apart"
    ends = (
        f", the seeds {_ends(one, share=True).text}"
        if one.get("difference") is None and one.get("lowest") is not None
        else ""
    )
    rate = f"{show(won.value, 'share')} ({show_interval(won, 'share')}{ends})"
    return f"{arms[one['first']]} against {arms[one['second']]}: {rate} over seeds; {won.n} seeds {verdict}."


def _single(result: Mapping[str, Any]) -> str:
    names = [one["name"] for one in result["policies"]]
    told = [one for one in result["duels"] if one["told"]]
    if not told:
        return f"These {_units(result)} cannot tell {'the two' if len(names) == 2 else 'any two of them'} apart."
    said: list[str] = []
    for one in sorted(told, key=lambda one: -abs(one["win_rate"]["value"] - 0.5))[:3]:
        won, first, second = _read(one["win_rate"]), names[one["first"]], names[one["second"]]
        if won.value < 0.5:
            won, first, second = Estimate(1 - won.value, 1 - won.high, 1 - won.low, won.n), second, first
        said.append(f"{first} beats {second} in {show(won.value, 'share')} ({show_interval(won, 'share')})")
    rest = len(result["duels"]) - len(told)
    more = f", and {len(told) - 3} more duels are told apart" if len(told) > 3 else ""
    open_ = f" {rest} of {len(result['duels'])} duels cannot be told." if rest else ""
    return f"{'; '.join(said)}{more}; n = {_units(result)}.{open_}"


def _units(result: Mapping[str, Any]) -> str:
    """Say how many units the duels rest on: those that somebody judged, not those that were asked about."""
    counts = sorted({int(one["win_rate"]["n"]) for one in result["duels"]})
    return f"{counts[0]:,}{f' to {counts[-1]:,}' if len(counts) > 1 else ''} {result['unit']}"


def findings(result: Mapping[str, Any]) -> list[Finding]:
    """Return every reason to trust or to doubt the comparison."""
    found: list[Finding] = []
    if not result["arm_duels"]:
        found.append(
            Finding(
                "caution",
                "one seed is one draw",
                "Verdicts are on these very policies. Whether the settings differ takes several seeds of each: backflip sweep.",
            )
        )
    for each in result["cycles"]:
        ring = " beats ".join([*each, each[0]])
        found.append(
            Finding("bad", "the judge goes in a circle", f"{ring}; no rating can say that, so read the duels.")
        )
    misses = [one for one in result["duels"] if one.get("by_ratings") is not None and _missed(one)]
    if misses and len(result["policies"]) > 2:
        names = [one["name"] for one in result["policies"]]
        worst = max(misses, key=lambda one: abs(one["by_ratings"] - one["win_rate"]["value"]))
        text = (
            f"{names[worst['first']]} against {names[worst['second']]}: {show(worst['win_rate']['value'], 'share')} where the ratings say "
            f"{show(worst['by_ratings'], 'share')}."
        )
        found.append(Finding("caution", "ratings leave something out", text))
    shown = estimate(result.get("first_shown"))
    if shown is not None and (shown.low > 0.5 or shown.high < 0.5):
        place = "first" if shown.value > 0.5 else "second"
        found.append(
            Finding(
                "caution",
                f"the judge favours what stands {place}",
                f"The answer shown first wins {show(shown.value, 'share')} ({show_interval(shown, 'share')}). Orders are in balance, so no "
                "policy gains by it, but it blurs every duel.",
            )
        )
    if result.get("different_bases"):
        found.append(
            Finding(
                "caution",
                "KL is from different bases",
                "The runs began with different policies; KL says how far from its own.",
            )
        )
    missing = int(result.get("could_not_judge", 0))
    if missing and missing > 0.05 * int(result["asked"]):
        found.append(
            Finding(
                "caution",
                "questions that could not be judged",
                f"{missing:,} of {result['asked']:,}; they count for nobody.",
            )
        )
    return found


def _sections(result: Mapping[str, Any]) -> list[Section]:
    columns, policies = policy_rows(result)
    names = [one["name"] for one in result["policies"]]
    episodes = result["unit"] == "episodes"
    wins = tuple(
        dot(f"{names[one['first']]} against {names[one['second']]}", run_role(one["first"]), _read(one["win_rate"]))
        for one in result["duels"]
    )
    axis = Axis("share won", "share")
    figures: list[Dots] = []
    if len(wins) <= MANY_DUELS:
        caption = "How often the first wins, a tie being half; 95 % interval."
        figures.append(Dots("duels", "Win rates", caption, axis, wins, (0.5, "neither")))
    rated = [(one["name"], place, estimate(rating)) for place, (one, rating) in enumerate(zip(result["policies"], result["ratings"] or [], strict=False))]  # fmt: skip
    if rated and len(rated) > 2:
        dots = tuple(dot(name, run_role(place), value) for name, place, value in rated if value is not None)
        figures.append(
            Dots("ratings", "Ratings", "Bradley-Terry, log-odds against the mean of all; 95 % interval over prompts.", Axis("rating, log-odds"), dots, (0.0, "mean"))
        )  # fmt: skip
    tables = [Table(columns, tuple(row.cells for row in policies), _beside(result))]
    tables.append(
        Table(
            duel_columns(result),
            tuple(row.cells for row in duel_rows(result)),
            _duel_words(result),
            wide=True,
            folded=_fold(result),
        )
    )
    found = [Section("results", "Head to head", "", tuple(figures), tables=tuple(tables))]
    if result["arm_duels"]:
        intro = (
            "Runs that differ in the seed alone are one arm. A duel of arms is over the seeds that both have, each seed's run against the "
            "other's of that seed: this, and not the duels of single runs, says what a setting is worth. p is Student's; fewer than five seeds "
            f"tell nothing.{_raised(len(result['arm_duels']))}"
        )
        rows = tuple(row.cells for row in duel_rows(result, arms=True))
        found.append(
            Section("arms", "Over seeds", intro, tables=(Table(duel_columns(result, arms=True), rows, wide=True),))
        )
    if episodes:
        found[0] = replace(
            found[0], intro="Nobody was asked: each run recorded what its unseen episodes were truly worth."
        )
    return found


def _fold(result: Mapping[str, Any]) -> str:
    count = len(result["duels"])
    return f"All {count} duels" if count > MANY_ROWS else ""


def _beside(result: Mapping[str, Any]) -> str:
    if result["unit"] == "episodes":
        return "Mean over unseen episodes, 95 % interval."
    return (
        "Ratings are log-odds against the mean of all: +1 more wins 73 %. KL and length as each run measured them; bigrams and repetition on "
        "these answers, equally many words of each."
    )


def _duel_words(result: Mapping[str, Any]) -> str:
    count = len(result["duels"])
    held = f", raised for {count} duels (Holm)" if count > 1 else ""
    needed = f" Where not, {result['unit']} that would tell, held to as much." if count > 1 else ""
    how = "by exchanging the two"
    if not all(one["paired"] for one in result["duels"]):
        how += " (of runs that began unlike: the larger p of Welch's test and of his t with episodes exchanged)"
    return f"95 % interval over {result['unit']}. p: two-sided, {how}{held}; told apart at 0.05.{needed}"


def _raised(count: int) -> str:
    return f" Verdicts, and the seeds that would tell, are raised for {count} duels of arms." if count > 1 else ""


def _asked(result: Mapping[str, Any]) -> str:
    if result["unit"] == "episodes":
        return ""
    orders = "in both orders" if result["orders"] == "both" else "half of them in either order"
    same = f"{_counted(result['identical'], 'pair')} of equal answers {'is a tie' if result['identical'] == 1 else 'are ties'}, and nobody was asked"
    missing = f"; {result['could_not_judge']:,} could not be judged" if result["could_not_judge"] else ""
    return (
        f"Asked of {result['judge']}: \u201c{result['question']}\u201d {_counted(result['asked'], 'question')} on {_counted(result['units'], 'prompt')}, "
        f"{orders}, blind{missing}. {same}."
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _runs(result: Mapping[str, Any]) -> tuple[list[Evidence], list[str]]:
    found: list[Evidence] = []
    warnings: list[str] = []
    for path in dict.fromkeys(one["run"] for one in result["policies"]):
        try:
            found.append(gather(Path(path)))
        except DataError as error:
            warnings.append(f"A compared run is not shown any more: {error}.")
    return found, warnings


def _missed(one: Mapping[str, Any]) -> bool:
    won = _read(one["win_rate"])
    return abs(one["by_ratings"] - won.value) > OFF and not won.low <= one["by_ratings"] <= won.high


def _gap(gap: Estimate) -> Cell:
    text = show_gap(gap, wording("true_return").unit)
    value, _, rest = text.partition(" (")
    return Cell(value, rest.removesuffix(")"))


def _read(value: Any) -> Estimate:
    found = estimate(value)
    assert found is not None, value
    return found

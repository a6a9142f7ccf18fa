"""Write the page about one run, or hand several runs to the comparison.

The page answers, in this order: what came out and can it be trusted, the numbers with their intervals, whether proxy
and gold parted, how training went, how good the reward model is, whether answers stayed varied, the answers
themselves, what it cost, how to do it again. A part whose data the run did not write is named as missing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backflip.errors import ConfigError
from backflip.experiments import listing
from backflip.report import figures as draw
from backflip.report import goodhart
from backflip.report.arms import PAGE, arms_section, runs_within
from backflip.report.collapse import collapse_section
from backflip.report.compare import comparison
from backflip.report.curves import read_lines
from backflip.report.evidence import Evidence, estimate, gather, number
from backflip.report.frontier import frontier_section
from backflip.report.head_to_head import RESULT, head_to_head_page
from backflip.report.headline import findings, outcome, status_sentence, verdict
from backflip.report.marks import Axis, Dot, Dots, Lines
from backflip.report.people import again_section, weighting_section
from backflip.report.render import Page, Section, Video, explorer_data, sample_data, write_page
from backflip.report.reward import fit_figures, reward_model_figures
from backflip.report.sweep import sweep_measures, sweep_section
from backflip.report.tables import Cell, Table, cell, flat_table, unit_words
from backflip.report.wording import duration, show, show_interval, wording

MAX_VIDEO_BYTES = 8_000_000
"""Films embedded at most, all together."""
_BADGES = {"done": "good", "running": "unmeasured", "failed": "bad"}


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write one offline HTML page about a run, or a comparison of several runs, and return where it is.

    Without `out` the page of one run is `report.html` in its folder, and a comparison `comparison.html` beside the
    first run. Where a run has arms, each of their runs gets its page too, in its own folder. Raises DataError where a folder is no run, ConfigError where no run or a folder as `out` is given,
    StoreError where the page cannot be written.
    """
    if not paths:
        raise ConfigError("no run to report; expected at least one run folder, such as runs/latest")
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; expected the name of the file to write, such as {out}/report.html")
    found = [gather(path) for path in paths]
    repeated = {str(one.path) for one in found if sum(one.path == other.path for other in found) > 1}
    if repeated:
        raise ConfigError(f"run {min(repeated)} is given more than once; expected different runs to compare")
    if len(found) > 1:
        return write_page(comparison(found), out or found[0].path.parent / "comparison.html")
    if isinstance(found[0].record.results.get(RESULT), Mapping):
        return write_page(head_to_head_page(found[0]), out or found[0].path / PAGE)
    within = runs_within(found[0].path)
    for arm in within:
        write_page(run_page(arm), arm.path / PAGE)
    return write_page(run_page(found[0], within), out or found[0].path / PAGE)


def run_page(evidence: Evidence, within: Sequence[Evidence] = ()) -> Page:
    """Compose the page of one run; `within` are the runs of its arms."""
    reasons, faults = findings(evidence), list(evidence.faults)
    own = read_lines(evidence.record.results.get("lines"), faults)
    laws = goodhart.goodhart_section(evidence.record.results, faults)
    methods = (frontier_section(evidence.record.results, faults), collapse_section(evidence.record.results, faults))
    warnings = [sentence] if (sentence := status_sentence(evidence)) else []
    warnings += [
        f"Phase {phase!r} logged {rows:,} rows; curves show an even share of them, extremes kept."
        for phase, rows in evidence.thinned.items()
    ]
    warnings += [f"Could not be read: {fault}." for fault in faults]
    about = listing().get(evidence.record.experiment, "")
    asked = evidence.cost.get("comparisons")
    budget = f"It was given {show(asked, 'count')} comparisons." if isinstance(asked, int | float) else ""
    parts = (*methods, *_sections(evidence, own, laws, within))
    sections = tuple(section for section in parts if section is not None)
    data = {"explorer": explorer_data([(evidence.name, evidence)])}
    data["samples"] = sample_data(evidence.samples, evidence.samples_total, policy_names(evidence))
    status = evidence.record.status
    return Page(
        title=titled(evidence),
        kicker=f"Backflip report on one run of {evidence.record.experiment}",
        headline=f"{outcome(evidence)} {verdict(reasons)}",
        lead=tuple(
            part for part in (f"Asked: {about} {budget}".rstrip() if about else budget, *_notes(evidence)) if part
        ),
        badge=(status, _BADGES.get(status, "caution")),
        warnings=tuple(warnings),
        findings=tuple(reasons),
        sections=sections,
        data=data,
    )


def _notes(evidence: Evidence) -> list[str]:
    """Return what the run noted, without the note that is its headline."""
    said = outcome(evidence).rstrip(".").lower()
    return [note for note in evidence.record.notes if note.rstrip(".").lower() != said]


def titled(evidence: Evidence) -> str:
    """Return the run's name, after its experiment's where the name does not hold it."""
    experiment = evidence.record.experiment
    return evidence.name if experiment in evidence.name else f"{experiment}: {evidence.name}"


def policy_names(evidence: Evidence) -> dict[str, tuple[str, str]]:
    """Return what each policy of the samples is called, and its colour role."""
    names = list(dict.fromkeys(name for sample in evidence.samples for name in sample.answers))
    return {name: (evidence.label(name), draw.role_of(name, place)) for place, name in enumerate(names)}


def _sections(
    evidence: Evidence, own: tuple[Lines, ...], laws: Section | None, within: Sequence[Evidence]
) -> Iterator[Section | None]:
    spread = ("distinct2", "repetition", "entropy_nats", "length_tokens")
    dots = draw.table_figures(evidence)
    varied = tuple(figure for figure in dots if figure.id.removeprefix("table-") in spread)
    yield sweep_section(evidence.record.results)
    yield _results(evidence, tuple(figure for figure in dots if figure not in varied))
    yield arms_section(evidence.path, within, sweep_measures(evidence.record.results))
    yield again_section(evidence)
    yield _own_lines(own, laws is not None)
    yield laws
    if films := videos(evidence.path):
        yield Section("video", "Watch it", "As fast as it says; nothing is chosen for being good.", videos=films)
    curves = draw.kl_figures(evidence)
    if curves:
        yield Section(
            "kl",
            "Proxy and gold against KL",
            "Each point is a check on held-out openings, joined in the order of training. As long as gold climbs with the "
            "proxy, the reward model is being used; where the proxy climbs on and gold turns, it is being gamed.",
            tuple(curves),
            linked=True,
        )
    scatter = draw.scatter_figure(evidence)
    if scatter is not None:
        yield Section("scatter", "Does the proxy mean the same on every policy's answers?", figures=(scatter,))
    training = draw.training_figures(evidence)
    if training:
        yield Section(
            "training",
            "Learning curves",
            "One point an update; the other numbers of each update are under Every logged number.",
            tuple(training),
            linked=True,
        )
    overlay = draw.overlay_figure(evidence)
    if overlay is not None:
        yield Section("overlay", "The same curve again", figures=(overlay,))
    # Where an experiment says itself what is to be drawn, the rest is under Every logged number.
    for phase, others in (draw.other_figures(evidence) if not own else {}).items():
        yield Section(f"phase-{anchor(phase)}", f"Learning curves: {phase}", figures=tuple(others), linked=True)
    fit = (*reward_model_figures(evidence), *fit_figures(evidence))
    if fit:
        yield Section("reward", "How good is the reward model?", _calibration_words(evidence), fit)
    yield weighting_section(evidence)
    diversity = (*varied, *draw.check_figures(evidence))
    if diversity:
        intro = "A policy that says one good thing again and again has failed, whatever its score."
        yield Section("diversity", "Diversity and length", intro, diversity)
    if any(evidence.metrics.values()):
        yield Section("explorer", "Every logged number", "Choose any phase and any number.", special="explorer")
    if evidence.samples:
        yield Section("samples", "Read the answers", special="samples")
    yield _cost(evidence)
    yield _reproduce(evidence)
    yield _settings(evidence)


def _own_lines(own: tuple[Lines, ...], laws: bool) -> Section | None:
    """Return the figures that the experiment itself describes; `laws`: whether they are of over-optimisation."""
    if not own:
        return None
    if laws:
        return Section("lines", goodhart.TITLE, goodhart.INTRO, own)
    if all(series.mark == "points" for figure in own for series in figure.series):
        return Section("lines", "What came out", "Points are measured: 95 % intervals. Point at one to read it.", own)
    intro = "Lines are computed, points are measured: 95 % intervals. Point at one to read it."
    return Section("lines", "What came out, beside what is exact", intro, own)


def videos(run: Path) -> tuple[Video, ...]:
    """Return the films that a run left in its folder `videos`, in the order of their names, as far as they fit into a page."""
    found: list[Video] = []
    room = MAX_VIDEO_BYTES
    for path in sorted((run / "videos").glob("*.mp4")):
        content = path.read_bytes()
        room -= len(content)
        if room >= 0:
            data = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
            found.append(Video(path.stem.replace("_", " "), data))
    return tuple(found)


def anchor(name: str) -> str:
    """Return a name as it can stand in a link."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _results(evidence: Evidence, dots: tuple[Dots, ...]) -> Section:
    tables: list[Table] = []
    if evidence.table:
        columns = ("", *(evidence.label(policy) for policy in evidence.table))
        rows = tuple(_table_row(evidence, measure) for measure in evidence.measures)
        tables.append(Table(columns, rows, "Held-out openings; small: 95 % interval, and n independent units."))
    if any("gold_win_rate_worst" in row for row in evidence.best_of_n):
        tables.append(_chosen_table(evidence))
    if evidence.estimates:
        listed = tuple((Cell(wording(name).label), cell(one, name)) for name, one in evidence.estimates.items())
        name = f"All {len(listed)} estimates of summary.json"
        tables.append(
            Table(
                ("Estimate", "value"),
                listed,
                folded=name if evidence.table or {"arms", "laws"} & evidence.record.results.keys() else "",
            )
        )
    intro = "" if tables else "This run has not written a result table or an estimate."
    return Section("results", "Results", intro, dots, tables=tuple(tables))


def _chosen_table(evidence: Evidence) -> Table:
    """Return what the proxy's favourite of n, any of them, and its least favourite are worth."""
    names = ("gold_win_rate", "gold_win_rate_mean", "gold_win_rate_worst")
    rows = tuple(
        (
            Cell(show(number(row["n"]) or 0, "count")),
            *(cell(estimate(row.get(name)), "gold_win_rate") for name in names),
        )
        for row in evidence.best_of_n
    )
    return Table(
        ("n", "best of n", "mean", "worst of n"),
        rows,
        "Gold win rate of the answer that the proxy likes best of n of the base's, of all of them, and of the one it likes least.",
        folded="Best, mean and worst of n",
    )


def _table_row(evidence: Evidence, measure: str) -> tuple[Cell, ...]:
    """Return one measure over all policies; an n that they share stands with the row's name."""
    held = [row.get(measure) for row in evidence.table.values()]
    counts = {one.n for one in held if one is not None}
    shared = f"n = {counts.pop():,}" if len(counts) == 1 and 0 not in counts else ""
    cells = [cell(one, measure, with_n=not shared) for one in held]
    for place, (policy, one) in enumerate(zip(evidence.table, held, strict=True)):
        if one is not None and evidence.is_bound(policy, measure):
            cells[place] = Cell(f"\u2264 {cells[place].text}", "upper bound")
    return (Cell(wording(measure).label, "\n".join(part for part in (unit_words(measure), shared) if part)), *cells)


def _calibration_words(evidence: Evidence) -> str:
    result = evidence.reward_model
    if result is None or result.ece is None:
        return ""
    seen = result.ece.value if result.ece_seen is None else result.ece_seen
    less = (
        ""
        if result.ece_seen is None
        else f". Without what luck adds it is {show(result.ece.value, 'share')} ({show_interval(result.ece, 'share')})"
    )
    return (
        f"Expected calibration error {show(seen, 'share')}: by so much its probability misses the overseer's "
        f"choices on average{_by_luck(result.ece_of_chance)}{less}. Intervals on the bins are Wilson's."
    )


def _by_luck(chance: float | None) -> str:
    return "" if chance is None else f"; on so few pairs a perfect model would show {show(chance, 'share')} by luck"


def _cost(evidence: Evidence) -> Section | None:
    rows = [(Cell(wording(key).label), Cell(show(amount, wording(key).unit))) for key, amount in evidence.spent.items()]
    if isinstance(judge := evidence.cost.get("judge"), str):
        rows.insert(0, (Cell("Who judged"), Cell(judge)))
    phases = evidence.cost.get("seconds_by_phase")
    bars: tuple[Dots, ...] = ()
    if isinstance(phases, Mapping):
        times = {str(name): seconds for name, value in phases.items() if (seconds := number(value)) is not None}
        if times:
            dots = tuple(Dot(name.replace("_", " "), "ppo", value, value, value, 0) for name, value in times.items())
            caption = f"{duration(sum(times.values()))} in phases."
            bars = (
                Dots("cost-phases", "Time by phase", caption, Axis("Seconds", "seconds", low=0.0), dots, bars=True),
            )
    if not rows and not bars:
        return None
    return Section("cost", "What it cost", "", bars, tables=(Table(("", "spent"), tuple(rows)),) if rows else ())


def _reproduce(evidence: Evidence) -> Section:
    command = evidence.record.command
    lines = (evidence.command_line,) if evidence.command_line else ()
    revision, dirty = command.get("revision"), command.get("dirty")
    intro = f"At revision {revision}" if revision else "The git revision was not recorded"
    intro += ", with uncommitted changes: the command alone does not bring this run back." if dirty else "."
    if not lines:
        intro += " The command was not recorded."
    given = {name: value for name, value in command.items() if value is not None}
    table = flat_table(
        given, "Environment", leave_out=("argv", "revision", "dirty", "id"), folded="Machine and versions"
    )
    return Section("reproduce", "Do it again", intro, commands=lines, tables=(table,) if table.rows else ())


def _settings(evidence: Evidence) -> Section | None:
    table = flat_table(evidence.record.config, "Setting", folded="Every setting of this run")
    return Section("settings", "Settings", tables=(table,)) if table.rows else None

"""Compose the page that compares runs: the same estimates side by side, curves overlaid, and what was set differently.

One run is one draw of everything random in training. An interval of one run covers its held-out openings, not what
another seed would have given, and the page says so; only runs that differ in nothing but the seed show that spread.
Leaves out rankings: which difference matters is the reader's question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backflip.data import Estimate
from backflip.report import figures as draw
from backflip.report.evidence import Evidence, Sample
from backflip.report.headline import status_sentence
from backflip.report.intervals import difference
from backflip.report.marks import Axis, Dots, Lines, Reference, Series, dot, run_role
from backflip.report.render import Page, Section, explorer_data, sample_data
from backflip.report.tables import Cell, Table, cell, flat
from backflip.report.wording import show, show_gap, show_interval, wording
from backflip.run_record import names_of

MAX_SAMPLE_COLUMNS = 6
"""Runs whose answers are shown side by side; more would be too narrow to read."""


def gathered_estimates(evidence: Evidence, own: str = "") -> dict[str, Estimate]:
    """Return the estimates of the summary; where there are none, those of the table as POLICY_MEASURE.

    `own`: what the policy that the run trained is called, in place of its method's name, so that runs of several methods share names.
    """
    found = dict(evidence.estimates)
    if not found:
        found = {f"{policy}_{name}": one for policy, row in evidence.table.items() for name, one in row.items()}
    method = f"{evidence.method}_"
    return {
        own + name.removeprefix(method) if own and name.startswith(method) else name: one for name, one in found.items()
    }


def settings(evidence: Evidence) -> dict[str, str]:
    """Return what was set, flat, without the seed."""
    return {key: text for key, text in flat(dict(evidence.record.config)).items() if key != "seed"}


def differing(found: Sequence[Evidence]) -> dict[str, list[str]]:
    """Return each setting (the seed apart) that is not the same in all runs, with its value in every run."""
    every = [settings(one) for one in found]
    names = list(dict.fromkeys(name for one in every for name in one))
    rows = {name: [one.get(name, "(absent)") for one in every] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def comparison(found: Sequence[Evidence]) -> Page:
    """Compose the page that compares two or more runs."""
    names = names_of([one.path for one in found])
    own = "" if len({one.method for one in found}) == 1 else "policy_"
    estimates = [gathered_estimates(one, own) for one in found]
    different = differing(found)
    warnings = [
        f"{name}: {sentence}" for name, one in zip(names, found, strict=True) if (sentence := status_sentence(one))
    ]
    warnings += [
        f"{name}: could not be read: {fault}." for name, one in zip(names, found, strict=True) for fault in one.faults
    ]
    sections = (
        _results(names, found, estimates),
        _differences(names, found, different),
        _curves(names, found),
        Section("explorer", "Every logged number", "Choose any phase and any number.", special="explorer"),
        _answers(names, found),
        _costs(names, found),
        _commands(names, found),
    )
    samples, answers = _shared_samples(names, found)
    data = {"explorer": explorer_data(list(zip(names, found, strict=True)))}
    data["samples"] = sample_data(samples, len(samples), answers)
    done = sum(not one.partial for one in found)
    return Page(
        title=f"Backflip: {len(found)} runs compared",
        kicker="Backflip comparison",
        headline=_headline(names, estimates),
        lead=(_spread(found, estimates, different),),
        badge=(f"{done} of {len(found)} done", "good" if done == len(found) else "caution"),
        warnings=tuple(warnings),
        findings=(),
        sections=tuple(section for section in sections if section is not None),
        data=data,
    )


def _first_shared(estimates: Sequence[Mapping[str, Estimate]]) -> str | None:
    shared = [name for name in estimates[0] if all(name in other for other in estimates)]
    rates = [name for name in shared if name.endswith("win_rate")]
    preferred = [name for name in rates if name.startswith(("ppo", "policy"))] or rates or shared
    return preferred[0] if preferred else None


def _headline(names: Sequence[str], estimates: Sequence[Mapping[str, Estimate]]) -> str:
    name = _first_shared(estimates)
    if name is None:
        return f"{len(names)} runs; they share no estimate that could be compared."
    words = wording(name)
    first = estimates[0][name]
    said: list[str] = []
    for label, other in zip(names[1:], estimates[1:], strict=True):
        gap = difference(first, other[name])
        verdict = "differs by" if gap.low > 0 or gap.high < 0 else "is not shown to differ:"
        said.append(f"{label} {verdict} {show_gap(gap, words.unit)}")
    return f"{words.label}: {names[0]} has {show(first.value, words.unit)} (95 % interval {show_interval(first, words.unit)}); {'; '.join(said)}."


def _spread(
    found: Sequence[Evidence], estimates: Sequence[Mapping[str, Estimate]], different: Mapping[str, Sequence[str]]
) -> str:
    """Say what the intervals cover, and the spread over seeds where the runs show it."""
    if different or len({one.record.experiment for one in found}) > 1:
        return (
            "Each interval covers the held-out openings of that one run, not what another seed would have given: "
            "a small difference between single runs may be the seed's."
        )
    name = _first_shared(estimates)
    if name is None:
        return "The runs were set up alike but for the seed."
    values = [one[name].value for one in estimates]
    unit = wording(name).unit
    return (
        f"The runs were set up alike but for the seed. Over {len(values)} seeds {wording(name).label} has mean "
        f"{show(sum(values) / len(values), unit)}, from {show(min(values), unit)} to {show(max(values), unit)}."
    )


def _results(names: Sequence[str], found: Sequence[Evidence], estimates: Sequence[Mapping[str, Estimate]]) -> Section:
    measures = list(dict.fromkeys(name for one in estimates for name in one))
    rows: list[tuple[Cell, ...]] = []
    plots: list[Dots] = []
    for measure in measures:
        words = wording(measure)
        rows.append((Cell(words.label), *(_against_first(measure, estimates, place) for place in range(len(found)))))
        dots = tuple(
            dot(name, run_role(place), one[measure])
            for place, (name, one) in enumerate(zip(names, estimates, strict=True))
            if measure in one
        )
        reference = (0.5, "no better than base") if measure.endswith("win_rate") else None
        plots.append(Dots(f"estimate-{measure}", words.label, "", Axis(words.label, words.unit), dots, reference))
    table = Table(
        ("", *names), tuple(rows), f"95 % interval and n beneath; then the difference from {names[0]}.", wide=True
    )
    intro = "" if rows else "None of these runs has written an estimate."
    return Section("results", "Results", intro, tuple(plots), tables=(table,) if rows else ())


def _against_first(measure: str, estimates: Sequence[Mapping[str, Estimate]], place: int) -> Cell:
    own, first = estimates[place].get(measure), estimates[0].get(measure)
    written = cell(own, measure)
    if place == 0 or own is None or first is None or own.n == 0 or first.n == 0:
        return written
    return Cell(written.text, f"{written.small}\n{show_gap(difference(first, own), wording(measure).unit)}")


def _differences(names: Sequence[str], found: Sequence[Evidence], different: Mapping[str, Sequence[str]]) -> Section:
    rows = [(Cell(key), *(Cell(value) for value in values)) for key, values in different.items()]
    rows.append((Cell("seed"), *(Cell(str(one.record.seed)) for one in found)))
    revisions = [str(one.record.command.get("revision", "not recorded")) for one in found]
    if len(set(revisions)) > 1:
        rows.append((Cell("git revision"), *(Cell(revision[:12]) for revision in revisions)))
    intro = "" if different else "Nothing was set differently but the seed."
    return Section(
        "settings",
        "What was set differently",
        intro,
        tables=(Table(("Setting", *names), tuple(rows), wide=True),),
    )


def _curves(names: Sequence[str], found: Sequence[Evidence]) -> Section | None:
    figures: list[Lines] = []
    for measure in draw.AGAINST_KL:
        series: list[Series] = []
        for place, (name, one) in enumerate(zip(names, found, strict=True)):
            path = draw.path_series(one.metrics.get("check", []), measure, name, run_role(place))
            series += [path] if path is not None else []
        if series:
            words = wording(measure)
            references = (Reference("no better than base", 0.5),) if words.unit == "share" else ()
            kl = Axis("KL from base, nats per answer", "nats", low=0.0, root_choice=True)
            y = Axis(words.label, words.unit)
            figures.append(
                Lines(f"kl-{measure}", words.label, words.meaning, kl, y, tuple(series), references, nearest="point")
            )
    if not figures:
        return None
    intro = "Held-out checks, joined in the order of training. Proxies of different runs have different scales of their own."
    return Section("kl", "Proxy and gold against KL", intro, tuple(figures), linked=True)


def _shared_samples(names: Sequence[str], found: Sequence[Evidence]) -> tuple[list[Sample], dict[str, tuple[str, str]]]:
    """Put the runs' own last policies beside each other on the openings that all of the shown runs answered."""
    shown = [(name, one) for name, one in zip(names, found, strict=True) if one.samples][:MAX_SAMPLE_COLUMNS]
    if len(shown) < 2:
        return [], {}
    books = [{sample.prompt: sample for sample in one.samples} for _, one in shown]
    known: dict[str, tuple[str, str]] = {"base": ("Base (of the first run)", "base")}
    known.update({f"run {place}": (name, run_role(place)) for place, (name, _) in enumerate(shown)})
    rows: list[Sample] = []
    for prompt in (prompt for prompt in books[0] if all(prompt in book for book in books[1:])):
        answers: dict[str, str] = {}
        proxy: dict[str, float] = {}
        gold: dict[str, float] = {}
        taken = [("base", books[0][prompt], "base")]
        taken += [(f"run {place}", book[prompt], list(book[prompt].answers)[-1]) for place, book in enumerate(books)]
        for column, sample, policy in taken:
            if policy in sample.answers:
                answers[column] = sample.answers[policy]
                proxy |= {column: sample.proxy[policy]} if policy in sample.proxy else {}
                gold |= {column: sample.gold[policy]} if policy in sample.gold else {}
        rows.append(Sample(prompt, answers, proxy, gold))
    return rows, known


def _answers(names: Sequence[str], found: Sequence[Evidence]) -> Section | None:
    rows, _ = _shared_samples(names, found)
    if not rows:
        return None
    return Section(
        "samples",
        "Read the answers",
        "Openings that every run answered, each run's trained policy. Proxy scores of different runs are not on one scale.",
        special="samples",
    )


def _costs(names: Sequence[str], found: Sequence[Evidence]) -> Section:
    rows = [
        (
            Cell(wording(key).label),
            *(Cell(show(one.spent[key], wording(key).unit)) if key in one.spent else Cell("-") for one in found),
        )
        for key in dict.fromkeys(key for one in found for key in one.spent)
    ]
    intro = "" if rows else "No cost was recorded."
    return Section("cost", "What it cost", intro, tables=(Table(("", *names), tuple(rows), wide=True),) if rows else ())


def _commands(names: Sequence[str], found: Sequence[Evidence]) -> Section:
    lines = tuple(one.command_line or f"# {name}: command not recorded" for name, one in zip(names, found, strict=True))
    return Section("reproduce", "Do it again", "In the order of the runs.", commands=lines)

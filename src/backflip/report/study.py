"""Write the page about a labeling study: who judged what, what the judgements are worth, and under which guideline they stand.

It reads a store alone, whether a run asked or a file of pairs was brought. **Nobody's name and nobody's words are on it**: people go by a
number and by what their judgements are signed with, which export and `--without` use too; whoever was erased is a number that is empty.
Leaves out every measure (`backflip.measures.quality`, `.weighting`) and the tables of people (`study_people`).
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from backflip.errors import ConfigError, DataError
from backflip.measures.chance import NOMINAL
from backflip.measures.judges import ENOUGH, together
from backflip.measures.quality import quality
from backflip.measures.weighting import Versus, Weighting, weighting_of_study
from backflip.report.render import Page, Section, write_page
from backflip.report.study_findings import headline, study_findings
from backflip.report.study_people import between_section, in_order, people_section
from backflip.report.study_tables import (
    Read,
    adjudication_section,
    beside_section,
    cell_of,
    counts_section,
    date,
    gap_of,
    guideline_section,
    people_of,
)
from backflip.report.tables import Cell, Table, flat_table
from backflip.store import Store
from backflip.store.judged import study_counts
from backflip.store.opinions import SETTLED
from backflip.store.people import CONSENT, People
from backflip.store.study import StudyBook
from backflip.store.totals import totals

MOST_BETWEEN = 300
"""Pairs of people at most; the page says how many are left out."""
TIES = (
    "Two choices agree by 1 where they are equal, ties included; by a half where exactly one of them is a tie; else by 0. "
    f"\u201cCan't tell\u201d is no choice. {NOMINAL} Intervals are 95 %; below {ENOUGH} judgements nothing is said."
)
SOURCES = (
    ("Counts, overlap", "tables queries, judgements, claims", "backflip.store.totals"),
    ("Each person, each two people", "judgements (answer, seconds, details.shown), known", "backflip.measures.judges"),
    ("Agreement, alpha", "judgements of pairs that two or more judged, checks apart", "backflip.measures.judges"),
    ("Weights", "judgements, known", "backflip.measures.judges.noise, weights"),
    ("What weighting changed", "judgements, items", "backflip.measures.weighting"),
    ("Further questions", "judgements (details.axes, details.sub)", "backflip.measures.quality.beside"),
    ("Where people disagreed", "judgements (details.purpose adjudicate, discussed)", "backflip.store.opinions"),
    ("Guideline", "documents, judgements (details.instructions), acts", "backflip.store.study"),
)


def write_study_report(where: str | Path, out: Path | None = None) -> Path:
    """Write one offline HTML page about the study in a store, and return where it is.

    Without `out` it is NAME.report.html beside a SQLite file, and study.report.html in the current folder for a database.
    Raises StoreError where there is no store or one of another schema, DataError where nobody judged anything in it, ConfigError where
    `out` is a folder.
    """
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; expected the name of the file to write, such as {out}/study.html")
    with Store.open(where, mode="read") as store:
        page = study_page(read_study(store))
    beside = Path("study.report.html") if "://" in str(where) else Path(where).with_suffix(".report.html")
    return write_page(page, out or beside)


def read_study(store: Store) -> Read:
    """Read all that the page says.

    Raises:
        DataError: nobody judged anything.
    """
    begun, book, people = store.last_judgement(), StudyBook(store), People(store)
    found = totals(store)
    if not found.standing:
        asked = study_counts(store)["open"]
        wait = f"{asked:,} questions wait there" if asked else "nothing is asked there"
        raise DataError(
            f"nobody's judgement is in {store.where}; {wait}: serve it (`backflip serve {store.where}`) and let people judge"
        )
    agreed = people.everybodys_acts(CONSENT)
    return Read(
        where=store.where,
        people=people_of(people.everybody(), found),
        study=book.settings(),
        totals=found,
        states=study_counts(store),
        quality=quality(store, most_between=MOST_BETWEEN),
        weighting=weighting_of_study(store),
        versions=[(number, written, len(text)) for number, written, text in book.versions("instructions")],
        consents=[(person, int(act["version"])) for person, act in agreed],
        settings=[written for _, written, _ in book.versions("settings")],
        known={one.query.id: one.answer for one in book.known()},
        settled=len(people.everybodys_acts(SETTLED)),
        changed=store.last_judgement() != begun,
        last=begun,
    )


def study_page(read: Read) -> Page:
    """Compose the page."""
    warnings = (
        ["People judged while this page was made: its parts may differ by those answers."] if read.changed else []
    )
    sections = (
        counts_section(read),
        _together(read),
        people_section(read),
        between_section(read),
        _weighting(read),
        beside_section(read),
        adjudication_section(read),
        guideline_section(read),
        _settings(read),
        _again(read),
    )
    made = [one.created for one in read.totals.standing]
    return Page(
        title="Labeling study",
        kicker=f"Backflip report on the judgements in {read.name}",
        headline=headline(read),
        lead=(
            f"Judged from {date(min(made))} to {date(max(made))} (UTC). Names and words of people are not on this page: each "
            "goes by a number, and by what their judgements are signed with.",
        ),
        badge=(f"{len(read.totals.standing):,} judgements", "unmeasured"),
        warnings=tuple(warnings),
        findings=tuple(study_findings(read)),
        sections=tuple(one for one in sections if one is not None),
    )


def _together(read: Read) -> Section:
    """Return how everybody agrees, researchers and labelers apart."""
    found = read.quality
    owners = {one.judge for one in read.people.values() if one.role == "owner"}
    labelers = {one.judge for one in read.people.values() if one.role != "owner"}
    rows = [(Cell("Anybody with anybody"), cell_of(together(found.said), "agreement_share"))]
    if owners & {one.judge for one in found.said}:
        rows += [
            (Cell("Labeler with labeler"), cell_of(together(found.said, labelers, labelers), "agreement_share")),
            (Cell("Owner with labeler"), cell_of(together(found.said, owners, labelers), "agreement_share")),
        ]
    alpha = cell_of(found.alpha, "alpha") if found.alpha else Cell("not defined", found.why_no_alpha)
    rows.append((Cell("Krippendorff's alpha (nominal)"), alpha))
    caption = (
        "n is pairs: of each the mean over any two people who judged it. Known answers and repetitions are left out. "
        "Usual: 72 to 77 % (Stiennon et al. 2020; Ouyang et al. 2022)."
    )
    return Section("agreement", "Do people agree?", TIES, tables=(Table(("", "agreement"), tuple(rows), caption),))


def _weighting(read: Read) -> Section:
    rows = tuple(
        (read.label(worth.judge), Cell(f"{worth.judgements:,}"), Cell(f"{weight:.2f}"))
        for worth, weight in in_order(read)
    )
    intro = (
        "A weight is estimated from known answers and from agreement (one rate a person; Dawid and Skene 1979): 2 p - 1, on average 1, "
        "never below 0.1 before scaling. Nobody is dropped."
    )
    tables = [Table(("Person", "Choices", "Weight in a fit"), rows)]
    found = read.weighting
    if isinstance(found, Weighting):
        tables.append(_changed(found))
    else:
        intro += f" What weighting changed cannot be said here: {found}."
    return Section("weighting", "Whose answers weigh how much, and what that changes", intro, tables=tuple(tables))


def _changed(found: Weighting) -> Table:
    """Return how well two rewards, alike but for the weights, give answers that they were not fitted to."""
    rows = (
        (
            Cell("With the weights"),
            *(cell_of(each and each.weighted, "accuracy") for each in (found.held, found.known)),
        ),
        (Cell("Everybody alike"), *(cell_of(each and each.equal, "accuracy") for each in (found.held, found.known))),
        (Cell("Difference"), *(_gain(each) for each in (found.held, found.known))),
    )
    caption = (
        f"A bag of words, fitted to {found.answers:,} answers of the study, four fifths of the prompts at a time, with weights that do not know "
        "the fifth held out; known answers after a fit to all other prompts. Intervals over prompts. What people said of the held-out prompts "
        "all counts alike there, so careless answers are held against the better reward too. The two rewards correlate by "
        f"{found.changed['correlation']:.3f} and prefer different texts in {100 * found.changed['turned']:.1f} % of comparisons."
    )
    return Table(("Accuracy", "on people's held-out answers", "on known answers"), rows, caption)


def _gain(found: Versus | None) -> Cell:
    if found is not None and found.gain is None:
        return Cell("none", "both order every pair alike")
    return gap_of(found and found.gain)


def _settings(read: Read) -> Section:
    changes = len(read.settings)
    last = f"; last on {date(read.settings[-1])} (UTC)" if changes else ""
    intro = f"As they are now. They were changed {changes:,} {'time' if changes == 1 else 'times'}{last}: earlier answers came under earlier ones."
    table = flat_table(asdict(read.study), "Setting", folded="Every setting of the study")
    return Section("settings", "Settings", intro, tables=(table,))


def _again(read: Read) -> Section:
    rows = tuple(tuple(Cell(part) for part in row) for row in SOURCES)
    store = "STORE" if "://" in read.where else read.name
    commands = (f"backflip report {store}", f"backflip export {store} judged.jsonl", f"backflip serve {store}")
    intro = (
        f"Every number is computed from the store as it was at judgement event {read.last:,}; folds are drawn from a fixed seed, so the same "
        f"store gives the same numbers. Made on {date(time.time())} (UTC). Export writes every judgement with its id; the page "
        "Lineage of the server shows each one. Who is which number: table people of the store, for its owners."
    )
    table = Table(("What", "Read from", "Computed by"), rows, folded="Where each number comes from")
    return Section("reproduce", "Do it again", intro, commands=commands, tables=(table,))

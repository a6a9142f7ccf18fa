"""What the page about a labeling study is made of, and its tables of counts, further questions, disagreements and versions.

Leaves out what the numbers mean for trust (`study_findings`) and the tables of people (`study_people`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backflip.data import Estimate, Judgement
from backflip.measures.quality import Quality
from backflip.measures.weighting import Weighting
from backflip.report.render import Section
from backflip.report.tables import Cell, Table, cell
from backflip.report.wording import duration, show_gap
from backflip.store.desk import PURPOSES
from backflip.store.judged import choice_of
from backflip.store.people import PERSON, Person
from backflip.store.study import Study
from backflip.store.totals import Totals

TOO_FEW = "too few to say"
MOST_DIVIDED = 100
"""Pairs on which people disagree that are listed; the page says how many are left out."""
WORDS = {1: "the first", -1: "the second", 0: "equal"}
FOR = {
    "study": "the study itself",
    "gold": "silent checks against known answers",
    "repeat": "the same pair again, sides swapped",
    "trial": "the trial",
    "practice": "practice (counts nowhere)",
    "adjudicate": "judged blind, since others disagreed",
    "discussed": "judged again after a talk",
}


@dataclass(frozen=True)
class Labeler:
    """A person as the page calls them."""

    judge: str
    number: int
    role: str
    """owner, labeler, or empty where the store knows no account of theirs."""
    erased: bool

    @property
    def label(self) -> str:
        """A number in place of a name."""
        return f"Person {self.number}"


@dataclass(frozen=True)
class Read:
    """Everything that was read of a study."""

    where: str
    people: Mapping[str, Labeler]
    """By the name that judgements are signed with."""
    study: Study
    totals: Totals
    states: Mapping[str, int]
    quality: Quality
    weighting: Weighting | str
    versions: Sequence[tuple[int, float, int]]
    """Of the guideline: number, when written, letters."""
    consents: Sequence[tuple[str, int]]
    """Person and version of every agreement."""
    settings: Sequence[float]
    """When settings were changed."""
    known: Mapping[str, tuple[float, ...]]
    settled: int
    changed: bool
    """Whether somebody judged while it was read."""
    last: int

    @property
    def name(self) -> str:
        """What the store is called, without where it lies or who may open it: a page that is handed on names nobody."""
        return self.where.partition("?")[0].rpartition("/")[2]

    def label(self, judge: str) -> Cell:
        """Return how a person is called, and beneath it what their judgements are signed with."""
        one = self.people[judge]
        role = ", ".join(part for part in (one.role, "erased" if one.erased else "") if part)
        return Cell(one.label, "\n".join(part for part in (role, judge.removeprefix(PERSON)) if part))


def people_of(known: Sequence[Person], found: Totals) -> dict[str, Labeler]:
    """Return everybody who judged or may, numbered in the order in which they came; those without an account come last."""
    told = {one.judge for one in found.standing}
    people = [Labeler(one.judge, n, one.role, one.state == "erased") for n, one in enumerate(known, 1)]
    others = sorted(told - {one.judge for one in people})
    people += [Labeler(judge, n, "", False) for n, judge in enumerate(others, len(people) + 1)]
    return {one.judge: one for one in people}


def cell_of(found: Estimate | None, name: str) -> Cell:
    """Write an estimate with its interval and n, or that there are too few."""
    return Cell(TOO_FEW) if found is None else cell(found, name)


def gap_of(found: Estimate | None) -> Cell:
    """Write a difference of shares in percentage points, or that there are too few."""
    if found is None:
        return Cell(TOO_FEW)
    value, _, rest = show_gap(found, "share").partition(" (")
    return Cell(value, f"{rest.removesuffix(')')}\nn = {found.n:,}")


def date(seconds: float) -> str:
    """Write a moment, in UTC, so that it reads alike everywhere."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def counts_section(read: Read) -> Section:
    """Return how much there is of everything, and how many people judged each question."""
    found, states = read.totals, read.states
    judged = {one.judge for one in found.standing}
    asked = sum(states[name] for name in ("waiting for aid", "open", "answered", "expired"))
    spent = sum(one.seconds or 0.0 for one in found.standing)
    rows = [
        ("People who came", f"{len(read.people):,}"),
        ("of these, who judged", f"{len(judged):,}"),
        ("of these, erased since", f"{sum(read.people[one].erased for one in judged):,}"),
        ("Questions of the study", f"{asked:,}"),
        ("of these, still open", f"{states['open'] + states['waiting for aid']:,}"),
        ("of these, withdrawn", f"{states['expired']:,}"),
        ("Judgements that stand", f"{len(found.standing):,}"),
        ("of these, skipped (can't tell)", f"{found.cannot_tell.total():,}"),
        ("of these, late", f"{found.late:,}"),
        ("Taken back", f"{found.taken_back:,}"),
        ("Time judging", duration(spent)),
    ]
    purposes = tuple(
        (Cell(FOR[one]), Cell(f"{found.by_purpose[one]:,}"), Cell(f"{found.cannot_tell[one]:,}"))
        for one in PURPOSES
        if found.by_purpose[one]
    )
    reached = sum(count for people, count in found.overlap.items() if people >= read.study.overlap)
    overlap = tuple((Cell(f"{people:,}"), Cell(f"{count:,}")) for people, count in found.overlap.items())
    wanted = f"The study asks for {read.study.overlap} now; {reached:,} of {sum(found.overlap.values()):,} questions have as many or more."
    tables = (
        Table(("", "count"), tuple((Cell(name), Cell(value)) for name, value in rows)),
        Table(("Asked for", "Judgements", "Can't tell"), purposes, "What the judgements that stand were given for."),
        Table(
            ("People who judged it", "Questions"), overlap, f"Overlap reached, can't tell counted as judged. {wanted}"
        ),
    )
    return Section("results", "What was judged", tables=tables)


def beside_section(read: Read) -> Section | None:
    """Return how further questions and sub-questions were answered; None where none were, nor claims marked."""
    found = read.quality.beside
    marks = Counter(mark for one in read.totals.standing for mark in (one.details.get("claims") or {}).values())
    if not found and not marks:
        return None
    rows = tuple(
        (
            Cell(one.question, "in words" if one.in_words else "first, equal or second"),
            Cell(f"{one.answered:,} of {one.of:,}"),
            Cell("-") if one.in_words else cell_of(one.agrees, "agreement_share"),
        )
        for one in found
    )
    intro = (
        "Only the whole judgement is learned from. A part that always agrees with it adds nothing; one that agrees in half of the pairs asks "
        "for something else. Intervals are over pairs. Of answers in words it is counted how often they were given: the words are in the "
        "export (record, details.sub) and on each judgement's page."
    )
    tables = [Table(("Question", "Answered", "Agrees with the whole judgement"), rows)] if rows else []
    if marks:
        names = {"strong": "Supported", "weak": "Weakly supported", "none": "Not supported"}
        counted = tuple((Cell(names[mark]), Cell(f"{marks[mark]:,}")) for mark in names)
        tables.append(
            Table(("Claims were marked", "times"), counted, "From details.claims of the judgements that stand.")
        )
    return Section("beside", "What was asked beside the choice", intro, tables=tuple(tables))


def adjudication_section(read: Read) -> Section:
    """Return the pairs on which people chose against each other, and what became of them."""
    found, talk = read.quality.divided, read.quality.talk
    if not found:
        return Section("divided", "Where people disagreed", "No pair was judged by two people against each other.")
    blind, discussed = (sum(bool(getattr(one, name)) for one in found) for name in ("blind", "discussed"))
    intro = (
        f"People chose against each other on {len(found):,} {'pair' if len(found) == 1 else 'pairs'}. {blind:,} of these were judged blind by "
        f"an adjudicator, {discussed:,} once more after a talk; owners settled {read.settled:,} answers, of pairs that all agreed on too. These pairs were "
        "chosen because people disagreed: agreement before is low by that choice, and says nothing of all pairs."
    )
    rows = tuple(
        (
            Cell(one.query.id[:12]),
            Cell(_chose(one.alone)),
            Cell(_chose(one.blind)),
            Cell(_chose(one.discussed)),
            Cell(WORDS[choice_of(read.known[one.known_id])] if one.known_id in read.known else "no"),
        )
        for one in found[:MOST_DIVIDED]
    )
    more = f" The first {MOST_DIVIDED} are listed." if len(found) > MOST_DIVIDED else ""
    alphas = [
        cell_of(value, "alpha") if value else Cell(TOO_FEW, why)
        for value, why in (
            (talk.alpha_before, talk.why_no_alpha_before),
            (talk.alpha_after, talk.why_no_alpha_after),
        )
    ]
    changed = (
        (Cell("Agreement"), cell_of(talk.before, "agreement_share"), cell_of(talk.after, "agreement_share")),
        (Cell("Krippendorff's alpha"), *alphas),
    )
    columns = ("Question", "By themselves", "Adjudicator, blind", "After the talk", "Settled as")
    tables = (
        Table(
            ("The same people, the same pairs", "By themselves", "After the talk"),
            changed,
            f"{talk.pairs:,} {'pair was' if talk.pairs == 1 else 'pairs were'} judged before and after by two people or more.",
        ),
        Table(
            columns,
            rows,
            f"By the pair as stored, whatever stood left.{more}",
            folded="Every pair on which people disagreed",
        ),
    )
    return Section("divided", "Where people disagreed", intro, tables=tables)


def guideline_section(read: Read) -> Section:
    """Return under which version of the guideline judgements stand, and to which consent people agreed."""
    written = {0: "came with Backflip"} | {number: date(when) for number, when, _ in read.versions}
    letters = {number: f"{count:,} letters" for number, _, count in read.versions}
    under: dict[int | None, list[Judgement]] = {number: [] for number in letters}
    for one in read.totals.standing:
        under.setdefault(one.details.get("instructions"), []).append(one)
    rows = tuple(
        (
            Cell("not said" if number is None else f"version {number}", letters.get(number or 0, "")),
            Cell("-" if number is None else written.get(number, "not in this store")),
            Cell(f"{len(told):,}"),
            Cell(f"{len({one.judge for one in told}):,}"),
        )
        for number, told in sorted(under.items(), key=lambda row: -1 if row[0] is None else row[0])
    )
    newest = dict(read.consents)  # in order: the last agreement of each counts
    agreed = tuple(
        (Cell(f"version {version}"), Cell(f"{count:,}")) for version, count in sorted(Counter(newest.values()).items())
    )
    tables = [Table(("Guideline", "Written (UTC)", "Judgements that stand under it", "People"), rows)]
    if agreed:
        caption = "The last version that each labeler agreed to; of people who were erased nothing is kept, and owners need not."
        tables.append(Table(("Consent", "People"), agreed, caption))
    intro = "A judgement stands under the version that its page showed. The texts: table documents of the store, by these numbers."
    return Section("guideline", "Under which guideline", intro, tables=tuple(tables))


def _chose(told: Sequence[Judgement]) -> str:
    """Return choices in words, the commonest first: `2 the first, 1 equal`."""
    words = Counter("can't tell" if one.answer is None else WORDS[choice_of(one.answer)] for one in told)
    return ", ".join(f"{count} {word}" for word, count in words.most_common()) or "-"

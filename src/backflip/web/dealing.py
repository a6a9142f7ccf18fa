"""What a person is given next: pairs of the study, silent checks among them, pairs of before with their sides swapped; exercises.

Which of these comes is a function of the person and of how much they have judged, so it can be repeated and says nothing. Leaves out
the pages (`judging`) and how a question is held (`backflip.store.desk`).
"""

from __future__ import annotations

from dataclasses import replace

from backflip.data import Query, digest
from backflip.store.desk import GOLD, PRACTICE, REPEAT, STUDY, TRIAL, Held, Tally
from backflip.store.people import Person
from backflip.store.study import Study
from backflip.store.waiting import since_of
from backflip.web.guard import Place

TRIAL_PAIRS = 10
"""Pairs of a trial, or as many as have known answers."""
AGO = 5
"""Judgements between a pair and its repetition at least."""
LOOK_BACK = 50
"""Pairs of the study that a person judged last, among which one is drawn to come again."""
MOST_REPEATS = LOOK_BACK
"""Repetitions that a person judged last: no pair among the above can have come again before these."""
HOUR = 3600.0
MOST_REASONS = 50
"""Questions of the study among whose reasons a check's is drawn."""
MOST_TURNS = 1000
"""Exercises that are looked through for one that this person has not had in the same turn."""
SEEN = "seen others"
"""Act of a person who was shown what others said of a question."""


def order_for(person: Person, held: Held) -> tuple[int, ...]:
    """Return which item is shown at which place: drawn for each person and pair, but swapped where a pair comes again."""
    if held.purpose == REPEAT:
        return held.query.order
    return order_of_first(person, held.query)


def order_of_first(person: Person, query: Query) -> tuple[int, ...]:
    """Return the places drawn for a pair that comes for the first time."""
    places = tuple(range(len(query.items)))
    return places if _share(person.id, query.id, "places") < 0.5 else places[::-1]


def reason_for(here: Place, person: Person, query: Query) -> str:
    """Return why a check is said to be asked: as one of the study's own latest questions is, so that it does not stand out."""
    reasons = here.book.reasons(MOST_REASONS)
    return reasons[int(_share(person.id, query.id, "reason") * len(reasons))] if reasons else "random"


def next_for(here: Place, person: Person, study: Study, tally: Tally, count: int) -> list[Held]:
    """Return up to `count` questions that are now before this person; `tally` is what they had when they asked."""
    now, hold = here.clock(), 60 * study.hold_minutes
    if person.state == "trial":
        return _trial(here, person, tally, count, (now, hold))
    left = _left_this_hour(here, person, study, now)
    if left < 1:
        return []
    count = min(count, left)
    first = tally.came + tally.before
    # No more new ones than these: an answer that arrives meanwhile makes room for another, whose place is drawn when that is asked for.
    wanted = {number: _wanted(person, study, number) for number in range(first, tally.came + count)}
    places = [number for number, purpose in wanted.items() if purpose == STUDY]
    held = here.desk.take(person, count, study.overlap, now, hold, places=places)
    moments = {since_of(now, place) for place in places}
    old = sum(one.since not in moments for one in held)
    for number, purpose in wanted.items():
        if purpose == STUDY:
            continue
        if number - first > len(held) - old:
            break  # the study has nothing to put before this check, and checks alone are no study
        check = _check(here, person, purpose, number, (since_of(now, number), hold))
        if check is None:
            more = here.desk.take(person, len(held) + 1, study.overlap, now, hold, places=[number])
            held += [one for one in more if one.since == since_of(now, number)]
        else:
            held.append(check)
    return held[:old] + sorted(held[old:], key=lambda one: one.since)


def wait_seconds(here: Place, person: Person, study: Study) -> float:
    """Return how long a person must wait for the next pair because they were fast: 0 where they need not."""
    return 0.0 if _left_this_hour(here, person, study, here.clock()) > 0 else 60.0


def trial_length(here: Place) -> int:
    """Return how many pairs a trial has."""
    return min(TRIAL_PAIRS, len(here.book.known_ids("check")))


def practice(here: Place, person: Person, count: int) -> list[Held]:
    """Return up to `count` exercises: those for practice and those of the person's own trial, in turn, again and again.

    Each is an asking of its own, for this person alone; none is a pair that may yet be a silent check.
    """
    now, hold = here.clock(), 60 * here.book.settings().hold_minutes
    tally = here.desk.tally(person)
    missing = count - tally.held.get(PRACTICE, 0)
    known = sorted(here.book.exercises(person), key=lambda one: digest([person.id, one, "practice"]))
    turn, tried = tally.done.get(PRACTICE, 0) + count - missing, 0
    while known and missing > 0 and tried < MOST_TURNS:
        number, place = divmod(turn, len(known))
        exercise = asked_of(person, here.store.query(known[place]), f"practice {number}")
        missing -= here.desk.deal_own(person, exercise, PRACTICE, now, hold)
        turn, tried = turn + 1, tried + 1
    return here.desk.take(person, count, 0, now, hold, [PRACTICE])


def seen(here: Place, person: Person) -> set[str]:
    """Return the questions on which this person was shown what others said: to ask them again would check nothing."""
    return {act["query"] for act in here.people.acts(person.id, SEEN)}


def _left_this_hour(here: Place, person: Person, study: Study, now: float) -> int:
    if study.an_hour == 0:
        return 1_000_000
    return study.an_hour - here.desk.answered_between(person, now - HOUR, now)


def _trial(here: Place, person: Person, tally: Tally, count: int, span: tuple[float, float]) -> list[Held]:
    done, held, (now, hold) = tally.done.get(TRIAL, 0), tally.before, span
    missing = min(count, trial_length(here) - done) - held
    unseen = sorted(here.desk.unseen_known(person, 1000), key=lambda one: digest([person.id, one]))
    for query_id in unseen[: max(0, missing)]:
        here.desk.deal(person, query_id, TRIAL, now, hold)
    if done + held + len(unseen[: max(0, missing)]) == 0:
        return []
    # Nothing of the study is taken: with an overlap of none there is no place for one more.
    return here.desk.take(person, count, 0, now, hold)


def _wanted(person: Person, study: Study, number: int) -> str:
    """Return what the `number`-th question of this person should be for: drawn once for each number, however many a page asks for."""
    drawn = _share(person.id, str(number), "check")
    return GOLD if drawn < study.gold_share else REPEAT if drawn < study.gold_share + study.repeat_share else STUDY


def _check(here: Place, person: Person, purpose: str, number: int, span: tuple[float, float]) -> Held | None:
    """Put a silent check or a repetition before the person, where there is one, and return it."""
    now, hold = span
    if purpose == GOLD:
        unseen = here.desk.unseen_known(person, 1)
        if unseen and here.desk.deal(person, unseen[0], GOLD, now, hold):
            return Held(here.desk.question(unseen[0]), GOLD, now)
        return None
    talked = seen(here, person)
    before = [one for one in here.desk.answered_by(person, STUDY, LOOK_BACK)[AGO:] if one not in talked]
    came_again = set(here.desk.answered_by(person, REPEAT, MOST_REPEATS))
    start = int(_share(person.id, str(number), "which") * len(before))
    for query_id in before[start:] + before[:start]:
        first = here.desk.question(query_id)
        again = replace(asked_of(person, first), order=order_of_first(person, first)[::-1], reason="random")
        if again.id not in came_again and here.desk.deal_own(person, again, REPEAT, now, hold):
            return Held(again, REPEAT, now)
    return None


def asked_of(person: Person, first: Query, *why: str) -> Query:
    """Return the same question, to be asked of this person alone."""
    number = 1 + int(digest([person.id, first.id, *why])[:7], 16)
    return replace(first, repeat=first.repeat + number, order=())


def _share(*parts: str) -> float:
    """Return a number from 0 to 1 that depends on the parts alone."""
    return int(digest(list(parts))[:12], 16) / 16**12

"""Practice: at any time, explained at once, counted nowhere, learned from by nobody, and without giving a check away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backflip.measures.quality import quality
from backflip.overseers.people import PeopleOverseer
from backflip.store.study import Known, Study

from .conftest import Site, Somebody, pair

Make = Callable[[int], list[Known]]
QUIET = Study(gold_share=0.0, repeat_share=0.0)


def exercises(who: Somebody, count: int = 1) -> list[dict[str, object]]:
    found = who.browser.get(f"/practice/next?count={count}")
    assert found.status_code == 200, found.text
    return found.json()["pairs"]


def texts(shown: dict[str, object]) -> frozenset[str]:
    sides = shown["sides"]
    assert isinstance(sides, list)
    return frozenset(str(side["text"]) for side in sides)


def test_there_is_nothing_to_practise_on_before_a_trial(site: Site, known: Make) -> None:
    site.book.add_known(known(4))
    site.book.change(QUIET, "owner", site.clock())
    ann = site.come("Ann")
    assert "nothing to practise on yet" in ann.browser.get("/practice").text and exercises(ann) == []
    new = site.come("Bea", ready=False)
    assert new.browser.get("/practice").headers["location"] == "/judge"
    assert new.browser.get("/practice/next").status_code == 403


def test_pairs_set_aside_are_explained_again_and_again_and_count_nowhere(site: Site, known: Make) -> None:
    site.book.add_known([replace(one, use="practice") for one in known(3)])
    site.book.change(QUIET, "owner", site.clock())
    ann = site.come("Ann")
    assert 'data-ask="/practice/next"' in ann.browser.get("/practice").text
    came: list[frozenset[str]] = []
    for _ in range(8):
        (shown,) = exercises(ann)
        found = ann.send(str(shown["id"]), "1").json()
        assert found["known"] in ("1 is better", "2 is better") and found["over"] is False
        assert found["agrees"] == (1.0 if found["known"] == "1 is better" else 0.0)
        assert found["explanation"] == "It says more."
        came.append(texts(shown))
    assert len(set(came)) == 3 and came[:3] == came[3:6], "all in turn, then all again"
    judged = ann.browser.get("/judge/next").json()
    assert judged["done"] == 0 and len(judged["pairs"]) == 3
    assert quality(site.store).people == []
    training = PeopleOverseer(site.store, clock=lambda: site.clock() + 1e6)
    assert not {one.query_id for one in training.answers(0)[0]} & {pair(n).id for n in range(10)}
    undone = ann.browser.post("/judge/undo", data={"event": ann.event()}, headers={"X-CSRF-Token": ann.csrf})
    assert undone.status_code == 409 and "seen what it is worth" in undone.json()["error"]


def test_practice_gives_no_check_away(site: Site, known: Make) -> None:
    """Whatever somebody practises on, every silent check is still before them, and what they were checked by is no exercise."""
    checks, aside = known(10)[:6], [replace(one, use="practice") for one in known(10)[6:]]
    site.book.add_known([*checks, *aside])
    site.book.change(replace(QUIET, gold_share=0.5), "owner", site.clock())
    site.store.add_queries([pair(n) for n in range(100, 150)])  # a draw a pair: six of 40 are checks for sure
    ann = site.come("Ann")
    secret = {frozenset(item.content for item in one.query.items) for one in checks}
    practised: set[frozenset[str]] = set()
    for _ in range(40):
        for one in ann.next():
            assert ann.send(one["id"]).status_code == 200
        (shown,) = exercises(ann)
        practised.add(texts(shown))
        ann.send(str(shown["id"]))
    assert len(practised) == 4 and not practised & secret
    purposes = [one.details["purpose"] for one in site.store.judgements(0)[0]]
    assert purposes.count("gold") == 6 and purposes.count("practice") == 40


def test_the_pairs_of_a_trial_may_be_practised_and_change_nothing_of_it(site: Site, known: Make) -> None:
    site.book.add_known(known(3))
    site.book.change(replace(QUIET, trial=True), "owner", site.clock())
    ann = site.come("Ann")
    assert exercises(ann) == []
    (shown,) = ann.next()
    wrong = "1" if len(shown["sides"][0]["text"]) < len(shown["sides"][1]["text"]) else "2"
    ann.send(shown["id"], wrong)
    (again,) = exercises(ann, 1)
    assert texts(again) == texts(shown) and again["id"] != shown["id"]
    assert ann.next()[0]["id"] not in (shown["id"], again["id"]), "an exercise held is not a pair of the trial"
    ann.send(str(again["id"]), "=")
    over = [ann.send(ann.next()[0]["id"], "=").json()["over"] for _ in range(2)]
    assert over == [False, True]
    trial = site.people.acts(ann.person.id, "trial")[-1]
    assert (trial["pairs"], trial["agreed"]) == (3, 1.0), "one wrong, two ties; the exercise is not among them"


def test_what_a_trial_explained_is_not_taken_back(site: Site, known: Make) -> None:
    site.book.add_known(known(2))
    site.book.change(replace(QUIET, trial=True), "owner", site.clock())
    ann = site.come("Ann")
    ann.send(ann.next()[0]["id"])
    undone = ann.browser.post("/judge/undo", data={"event": ann.event()}, headers={"X-CSRF-Token": ann.csrf})
    assert undone.status_code == 409, "the right answer was on the screen"


def test_practice_does_not_use_up_the_hour(site: Site, known: Make) -> None:
    site.book.add_known([replace(one, use="practice") for one in known(1)])
    site.book.change(replace(QUIET, an_hour=2), "owner", site.clock())
    ann = site.come("Ann")
    for _ in range(5):
        ann.send(str(exercises(ann)[0]["id"]))
    assert len(ann.next(2)) == 2

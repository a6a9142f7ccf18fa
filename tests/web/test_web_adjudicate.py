"""Where people disagree: judged blind first, then shown, talked over and judged again. Nobody sees another's answer before their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backflip.data import Judgement, Query
from backflip.store.desk import ADJUDICATE, DISCUSSED, REPEAT, STUDY
from backflip.store.lineage import Lineage
from backflip.store.study import Study, asked_again
from backflip.web.dealing import asked_of

from .conftest import Site, Somebody, pair

QUIET = Study(gold_share=0.0, repeat_share=0.0, overlap=2, sub_questions=("What is claimed?",))
SPLIT: dict[str, Any] = {"sub": {"What is claimed?": "the length"}}
COMMENTS = {"Ann": "aunt Berta would like it", "Bob": "uncle Otto would not"}
SUB = {"What is claimed?": "nothing at all"}
SECRETS = (
    " ".join(*SUB.items()),
    *COMMENTS.values(),
    ">the first<",
    ">the second<",
    "first: 1.00",
    "first: 0.00",
    "1.0 : 0.0",
    "0.0 : 1.0",
)
"""Words, choices in a table, and shares as the pages of lineage say them."""


def judge_longer(who: Somebody, shown: dict[str, Any], *, longer: bool, **more: Any) -> None:
    first = len(shown["sides"][0]["text"]) > len(shown["sides"][1]["text"])
    more = SPLIT | more
    assert who.send(shown["id"], "1" if first == longer else "2", **more).status_code == 200


class Quarrel:
    """Ann prefers the longer, Bob the shorter, of pair 0; what others might do about it."""

    def __init__(self, site: Site, adjudicators: Any = "owner") -> None:
        site.book.change(replace(QUIET, adjudicators=adjudicators), "owner", site.clock())
        self.site, self.query = site, pair(0)
        self.olga = site.come("Olga", "owner")
        self.ann, self.bob, self.cy = (site.come(name) for name in ("Ann", "Bob", "Cy"))
        for who, longer in ((self.ann, True), (self.bob, False)):
            (shown,) = who.next()
            assert shown["id"] == self.query.id
            judge_longer(who, shown, longer=longer, comment=COMMENTS[who.person.name], sub=SUB)
        site.clock.now += QUIET.undo_seconds + 1

    @property
    def page(self) -> str:
        return f"/adjudicate/{self.query.id}"

    def blind(self, who: Somebody) -> None:
        (shown,) = who.browser.get(f"{self.page}/next").json()["pairs"]
        judge_longer(who, shown, longer=True)

    def repeat(self, who: Somebody) -> None:
        self.repeat_of(self.site, who, self.query)

    @staticmethod
    def repeat_of(site: Site, who: Somebody, asked: Query) -> None:
        """Let somebody judge a pair a second time, as their queue may ask them to."""
        query = replace(asked_of(who.person, asked), order=(1, 0))
        place = site.app.state.place
        assert place.desk.deal_own(who.person, query, REPEAT, site.clock(), 1000.0)
        judge_longer(who, next(one for one in who.next(8) if one["id"] == query.id), longer=True)

    def again(self, who: Somebody) -> None:
        (shown,) = who.browser.get(f"{self.page}/again/next").json()["pairs"]
        judge_longer(who, shown, longer=True)


def everything(who: Somebody, quarrel: Quarrel) -> str:
    """All that somebody can get at: every page there is about answers, and every judgement by its id."""
    site = quarrel.site
    model = Lineage(site.store).add_reward("run", "reward", site.store.judgements(0)[0], 0.0)
    where = ["/judge", "/judge/next?count=8", "/practice", "/practice/next", "/study", "/study?state=answered"]
    where += ["/study/known", "/quality", "/lineage", f"/lineage/model/{model}", "/adjudicate"]
    where += [f"{quarrel.page}{part}" for part in ("", "/next", "/again", "/again/next")]
    where += [f"/lineage/judgement/{key}" for _, key, _ in site.store.judgement_events()]
    pages = [who.browser.get(path, headers={"Accept": "application/json"}) for path in where]
    assert all(one.status_code in (200, 303, 403, 404) for one in pages)
    return "\n".join(one.text for one in pages if one.status_code not in (403, 404))


def leaks(text: str) -> set[str]:
    """What gives an answer away."""
    return {secret for secret in SECRETS if secret in text}


@pytest.mark.parametrize("role", ["owner", "labeler"])
def test_nobody_sees_anothers_answer_before_their_own(site: Site, role: str) -> None:
    quarrel = Quarrel(site, "everybody")
    who = quarrel.olga if role == "owner" else quarrel.cy
    quarrel.repeat(quarrel.ann)
    assert leaks(everything(who, quarrel)) == set(), "before anybody adjudicated"
    other = site.come("Pia", "owner")
    quarrel.blind(other)
    assert leaks(everything(who, quarrel)) == set(), "nor what another adjudicator said"
    assert who.post(f"{quarrel.page}/note", text="what did they say?").status_code == 403
    quarrel.blind(who)
    text = everything(who, quarrel)
    seen = set(SECRETS) if role == "owner" else set(SECRETS[:5])
    assert leaks(text) == seen, "and now they see it: this test can see a leak"


def test_whoever_judged_the_pair_sees_the_others_only_after_an_adjudicator(site: Site) -> None:
    quarrel = Quarrel(site)
    found = quarrel.ann.browser.get(quarrel.page)
    assert found.status_code == 403 and "once an adjudicator has judged it too" in found.text
    assert "1 pair that you judged waits" in quarrel.ann.browser.get("/adjudicate").text
    assert quarrel.cy.browser.get(quarrel.page).status_code == 404, "in this study its owners adjudicate"
    quarrel.blind(quarrel.olga)
    text = quarrel.ann.browser.get(quarrel.page).text
    assert COMMENTS["Bob"] in text and "Bob" not in text.replace(COMMENTS["Bob"], "") and "Olga" not in text
    assert "somebody else (1)" in text and ">you<" in text
    owners = quarrel.olga.browser.get(quarrel.page).text
    assert "Ann" in owners and "Bob" in owners
    assert quarrel.cy.browser.get(quarrel.page).status_code == 404


def test_the_adjudicator_judges_as_everybody_does_and_it_is_final(site: Site) -> None:
    quarrel = Quarrel(site)
    page = quarrel.olga.browser.get(quarrel.page).text
    assert f'data-after="{quarrel.page}"' in page and 'id="pair"' in page
    (shown,) = quarrel.olga.browser.get(f"{quarrel.page}/next").json()["pairs"]
    assert set(shown) == set(quarrel.cy.next()[0])
    judge_longer(quarrel.olga, shown, longer=True)
    told = site.store.judgements(0)[0][-1]
    assert told.details["purpose"] == ADJUDICATE and told.query_id == asked_again(quarrel.query, ADJUDICATE).id
    undone = quarrel.olga.browser.post(
        "/judge/undo", data={"event": quarrel.olga.event()}, headers={"X-CSRF-Token": quarrel.olga.csrf}
    )
    assert undone.status_code == 409
    assert quarrel.olga.browser.get(f"{quarrel.page}/next").status_code == 403
    assert quarrel.olga.send(shown["id"], "=", **SPLIT).status_code == 409


def test_a_second_answer_stands_beside_the_first(site: Site) -> None:
    quarrel = Quarrel(site)
    assert quarrel.bob.browser.get(f"{quarrel.page}/again/next").status_code == 403
    quarrel.blind(quarrel.olga)
    assert quarrel.bob.browser.get(f"{quarrel.page}/again").status_code == 403, "not without having looked"
    quarrel.bob.browser.get(quarrel.page)
    quarrel.again(quarrel.bob)
    said = [one for one in site.store.judgements(0)[0] if one.judge == quarrel.bob.person.judge]
    assert [one.details["purpose"] for one in said] == [STUDY, DISCUSSED]
    assert said[0].answer is not None and said[1].answer == said[0].answer[::-1]
    assert quarrel.bob.browser.get(f"{quarrel.page}/again/next").json()["pairs"] == []
    assert quarrel.bob.browser.get(f"{quarrel.page}/again").headers["location"] == quarrel.page
    text = quarrel.bob.browser.get(quarrel.page).text
    assert "both answers stand" in text


def test_notes_are_words_of_people_who_saw_the_pair_and_go_with_them(site: Site) -> None:
    quarrel = Quarrel(site)
    quarrel.blind(quarrel.olga)
    assert quarrel.ann.post(f"{quarrel.page}/note", text="early").status_code == 403
    quarrel.ann.browser.get(quarrel.page)
    assert quarrel.ann.post(f"{quarrel.page}/note", text="  ").status_code == 409
    assert quarrel.ann.post(f"{quarrel.page}/note", text="x" * 2001).status_code == 422
    assert quarrel.ann.post(f"{quarrel.page}/note", text="<b>shorter is kinder</b>").status_code == 303
    for who, name in ((quarrel.olga, "Ann:"), (quarrel.bob, "somebody else (1):"), (quarrel.ann, "you:")):
        text = who.browser.get(quarrel.page).text
        assert "&lt;b&gt;shorter is kinder" in text and name in text.replace("</bdi>:", ":")
    assert quarrel.olga.post(f"/people/{quarrel.ann.person.id}/erase", sure="yes").status_code == 303
    text = quarrel.olga.browser.get(quarrel.page).text
    assert "shorter is kinder" not in text and "Berta" not in text and "Bob" in text


def test_who_was_shown_what_others_said_is_asked_for_it_nowhere_else(site: Site) -> None:
    quarrel = Quarrel(site, "everybody")
    quarrel.blind(quarrel.cy)
    quarrel.ann.browser.get(quarrel.page)
    quarrel.cy.browser.get(quarrel.page)
    site.book.change(replace(QUIET, overlap=5, repeat_share=0.5), "owner", site.clock())
    mine = {item.content for item in quarrel.query.items}
    site.store.add_queries([pair(n) for n in range(20, 50)])
    for who, count in ((quarrel.cy, 3), (quarrel.ann, 40)):
        for shown in (one for _ in range(count) for one in who.next()):
            assert {side["text"] for side in shown["sides"]} != mine
            who.send(shown["id"], **SPLIT)
    purposes = [one.details["purpose"] for one in site.store.judgements(0)[0]]
    assert purposes.count("repeat") > 0
    olga = quarrel.olga
    early = olga.post("/study/known/make", query=quarrel.query.id, right="equal")
    assert early.status_code == 409 and "what was talked over" in early.text, "not before they judged it themselves"
    quarrel.blind(olga)
    assert olga.post("/study/known/make", query=quarrel.query.id).status_code == 409, "it must be said which is right"
    assert (
        olga.post("/study/known/make", query=quarrel.query.id, right="equal", explanation="talked").status_code == 303
    )
    site.book.change(replace(QUIET, gold_share=0.5), "owner", site.clock())
    before = len(site.store.judgements(0)[0])
    for _ in range(12):
        for shown in quarrel.cy.next():
            quarrel.cy.send(shown["id"], **SPLIT)
    gold = [one for one in site.store.judgements(0)[0][before:] if one.details["purpose"] == "gold"]
    assert gold == [] and "settled" in quarrel.cy.browser.get("/adjudicate").text


def test_a_pair_that_may_still_come_to_an_adjudicator_is_judged_there(site: Site) -> None:
    quarrel = Quarrel(site)
    site.book.change(replace(QUIET, overlap=3), "owner", site.clock())
    assert quarrel.olga.browser.get(quarrel.page).status_code == 404
    assert "No pair waits for you" in quarrel.olga.browser.get("/adjudicate").text
    assert quarrel.olga.next()[0]["id"] == quarrel.query.id


def test_a_last_answer_that_may_be_taken_back_is_not_yet_ones_own(site: Site) -> None:
    quarrel = Quarrel(site)
    quarrel.blind(quarrel.olga)
    site.clock.now -= QUIET.undo_seconds
    assert quarrel.ann.browser.get(quarrel.page).status_code == 404
    site.clock.now += QUIET.undo_seconds
    assert quarrel.ann.browser.get(quarrel.page).status_code == 200


def told_of(who: Somebody, query_id: str) -> list[tuple[int, str]]:
    """Everything that the pages about quarrels say of a pair: the same, whatever others chose, until one's own answer is final."""
    page = f"/adjudicate/{query_id}"
    headers = {"Accept": "application/json"}
    asked = [who.browser.get(page + part, headers=headers) for part in ("", "/next", "/again", "/again/next")]
    asked += [who.post(f"{page}/note", text="a word"), who.browser.get("/adjudicate")]
    return [(one.status_code, one.text) for one in asked]


def test_who_may_still_change_their_answer_does_not_learn_whether_others_chose_the_same(site: Site) -> None:
    site.book.change(QUIET, "owner", site.clock())
    ann, bob, other = site.come("Ann"), site.come("Bob"), site.come("Olga", "owner")
    (shown,) = ann.next()
    judge_longer(ann, shown, longer=True)
    site.clock.now += QUIET.undo_seconds + 1
    (shown,) = bob.next()
    said = [told_of(bob, shown["id"])]
    for longer in (True, False):
        judge_longer(bob, shown, longer=longer)
        said.append(told_of(bob, shown["id"]))
        site.clock.now += QUIET.undo_seconds  # the last moment
        said.append(told_of(bob, shown["id"]))
        if not longer:
            break
        undone = bob.browser.post("/judge/undo", data={"event": bob.event()}, headers={"X-CSRF-Token": bob.csrf})
        assert undone.status_code == 200
    assert all(one == said[0] for one in said) and {status for status, _ in said[0]} == {404, 200}
    site.clock.now += 1
    assert told_of(bob, shown["id"]) != said[0], "now it is final: this test can see a difference"
    assert "1 pair that you judged waits" in bob.browser.get("/adjudicate").text
    assert other.browser.get(f"/adjudicate/{shown['id']}").status_code == 200


def test_an_owner_who_may_still_change_their_answer_reads_no_others(site: Site) -> None:
    """Neither in Lineage, nor by the numbers of Quality, nor by what can be made known."""
    site.book.change(replace(QUIET, overlap=4), "owner", site.clock())
    three, olga = [site.come(name) for name in ("Ann", "Bob", "Cy")], site.come("Olga", "owner")
    for who in three:
        judge_longer(who, who.next()[0], longer=True)
    Quarrel.repeat_of(site, three[0], pair(0))
    site.clock.now += QUIET.undo_seconds + 1

    def told() -> list[Any]:
        pages = [olga.browser.get(f"/lineage/judgement/{key}").text for _, key, _ in site.store.judgement_events()]
        made = olga.post("/study/known/make", query=pair(0).id)
        olga.browser.get("/quality")
        found = site.app.state.kept_quality.found
        return [[sorted(leaks(one)) for one in pages], made.status_code, len(found.divided), found.between == []]

    before = told()
    assert before == [[[]] * 4, 409, 0, False], "a repetition answers the same question"
    (shown,) = olga.next()
    judge_longer(olga, shown, longer=False)
    site.clock.now += QUIET.undo_seconds
    assert told() == [[[]] * 5, 409, 0, False]
    site.clock.now += 1
    pages, _, divided, _ = told()
    assert all(pages) and divided == 1, "now it stands: this test can see a leak"


def test_who_has_not_answered_yet_does_not_learn_that_others_disagree(site: Site) -> None:
    site.book.change(replace(QUIET, overlap=3, adjudicators="everybody"), "owner", site.clock())
    ann, bob, cy = (site.come(name) for name in ("Ann", "Bob", "Cy"))
    (shown,) = cy.next()
    before = told_of(cy, shown["id"])
    for who, longer in ((ann, True), (bob, False)):
        judge_longer(who, next(one for one in who.next(8) if one["id"] == shown["id"]), longer=longer)
    site.clock.now += QUIET.undo_seconds + 1
    assert told_of(cy, shown["id"]) == before


def test_quality_says_what_the_talks_changed(site: Site) -> None:
    """Ten quarrels, all made up after a talk: agreement of the same three people before and after."""
    site.book.change(replace(QUIET, overlap=2), "owner", site.clock())
    olga, ann, bob = site.come("Olga", "owner"), site.come("Ann"), site.come("Bob")
    for who, longer in ((ann, True), (bob, False)):
        for _ in range(10):
            judge_longer(who, who.next()[0], longer=longer)
    site.clock.now += QUIET.undo_seconds + 1
    for n in range(10):
        where = f"/adjudicate/{pair(n).id}"
        (shown,) = olga.browser.get(f"{where}/next").json()["pairs"]
        judge_longer(olga, shown, longer=True)
        for who in (ann, bob, olga):
            who.browser.get(where)
            (shown,) = who.browser.get(f"{where}/again/next").json()["pairs"]
            judge_longer(who, shown, longer=True)
    text = olga.browser.get("/quality").text
    found = site.app.state.kept_quality.found
    assert len(found.divided) == found.talk.pairs == 10
    assert found.talk.before and found.talk.after and found.talk.before.value == pytest.approx(1 / 3)
    assert found.talk.after.value == 1.0
    judged: list[Judgement] = site.store.judgements(0)[0]
    assert len(judged) == 20 + 10 + 30, "nothing is overwritten"
    assert sum(one.judgements for one, _ in found.people) == 20, "talks do not count in anybody's quality"
    assert 0.2 < found.talk.before.low < 0.3 < 0.4 < found.talk.before.high, "ten alike do not prove that all are"
    assert "33 % (24 to 44), n = 10" in text and "10 pairs" in text

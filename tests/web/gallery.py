"""Every page of the application with content as people really meet it: long, foreign, from right to left, broken, hostile.

A scene says who opens what, and what is done then; `hang` makes a store of all that they need. Scenes are looked at by the tests of
accessibility and layout, and by people: `BACKFLIP_SCREENSHOTS=folder` keeps a picture of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from playwright.sync_api import Page, expect

from backflip.data import Aid, Item, Query
from backflip.store.desk import ADJUDICATE, STUDY, Desk, Told
from backflip.store.lineage import Lineage
from backflip.store.people import CONSENT, Person
from backflip.store.resets import Resets
from backflip.store.study import Known, Study, asked_again
from backflip.web.adjudicating import NOTE

from .visitors import QUIET, Served, film

LONG_WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 4
PROSE = (
    "The bridge opened in 1932 after eight years of work. It carries eight lanes and two tracks, and on a clear day one sees it from "
    "forty kilometres away. Nobody who built it expected that it would be paid off only in 1988.\n\nThe toll has stayed all the same. "
)
CODE = "def area(radius: float) -> float:\n    # a comment that is longer than the column in which it is shown, so that it must be wrapped somewhere\n    return 3.14159 * radius ** 2\n\n\tprint(area(2))"
ARABIC = "افتتح الجسر عام 1932 بعد ثماني سنوات من العمل، ويحمل ثمانية مسارات (وسكتين)."
FOREIGN = "桥于1932年开通、耗时八年。かけ橋は八年をかけて完成した。 Мост открыли в 1932 году. ג 1932"
EMOJI = "I loved it 😀👩‍👩‍👧‍👦🏳️‍🌈 — 10/10 🎬🎬🎬, would watch again!!"
HOSTILE = "<script>window.canary=1</script><img src=x onerror='window.canary=1'> **bold** [a](javascript:window.canary=1) &lt;b&gt; \u202eelpmaxe"
CLAIMS = {
    "claims": ["It opened in 1932.", "It carries eight lanes and two railway tracks, " + LONG_WORD],
    "sources": [{"title": "Bridges of the world", "text": PROSE}, {"title": HOSTILE, "text": ARABIC}],
}
PAIRS = {
    "prose": (PROSE * 6, PROSE * 2 + "It is a fine bridge."),
    "code": (CODE, CODE.replace("3.14159", "math.pi")),
    "foreign": (ARABIC * 3, FOREIGN * 3),
    "emoji": (EMOJI, HOSTILE),
    "huge": ("word " * 20_000, LONG_WORD),
    "clips": ("a clip of the dot", "another clip of the dot"),
    "thin": ("a clip one pixel high", "a clip that is missing"),
}


@dataclass(frozen=True)
class Scene:
    """One page, as one person sees it."""

    name: str
    who: str
    """Whose browser: "", "olga" (an owner), or the state of a labeler."""
    path: str
    sees: str
    """A selector that is visible once the page is ready."""
    pair: str = ""
    """The pair that lies before the person, of `PAIRS`."""
    then: Callable[[Page], Any] = lambda page: None
    study: Study = QUIET
    agreed: bool = True


def _chosen(key: str) -> Callable[[Page], Any]:
    return lambda page: page.keyboard.press(key)


def _explained(page: Page) -> None:
    page.keyboard.press("1")
    expect(page.locator("#known button")).to_be_visible()


def _refused(page: Page) -> None:
    page.locator("#name").fill("Nobody")
    page.locator("#password").fill("not the password")
    page.keyboard.press("Enter")
    expect(page.locator(".error")).to_be_visible()


def _invited(page: Page) -> None:
    page.get_by_role("button", name="Make an invitation").click()
    expect(page.locator("#link")).to_be_visible()
    page.locator("summary", has_text="erase").first.click()


def _forgotten(page: Page) -> None:
    page.locator("summary", has_text="forgot").first.click()
    page.get_by_role("button", name="Make a link to a new password").first.click()
    expect(page.locator("#link")).to_contain_text("/reset/")


def _offline(page: Page) -> None:
    page.route("**/judge/answer", lambda route: route.abort())
    page.keyboard.press("1")
    expect(page.locator("#trouble")).to_be_visible()


READY = "[data-choice='s']:enabled"
ASKS = replace(
    QUIET,
    axes=("more truthful", "more useful to somebody who knows nothing"),
    sub_questions=("What is claimed?", "Is it so?"),
)


def _judges(name: str, pair: str, then: Callable[[Page], Any] = lambda page: None, study: Study = QUIET) -> Scene:
    """Return the page for judging, as somebody who was let in sees it."""
    return Scene(f"judge-{name}", "passed", "/judge", READY, pair, then, study)


def _owner(name: str, path: str, sees: str = "table", then: Callable[[Page], Any] = lambda page: None) -> Scene:
    """Return a page as the owner of the study sees it."""
    return Scene(name, "olga", path, sees, then=then)


SCENES = [
    Scene("sign-in", "", "/sign-in", "#password"),
    Scene("sign-in-refused", "", "/sign-in", "#password", then=_refused),
    Scene("join", "", "/join/{labeler}", "#password"),
    Scene("join-owner", "", "/join/{owner}", "#password"),
    Scene("join-expired", "", "/join/unknown", ".error"),
    Scene("reset", "", "/reset/{reset}", "#password"),
    Scene("reset-used", "", "/reset/unknown", ".error"),
    _owner("no-page", "/nowhere", ".error"),
    Scene("consent", "new", "/judge", "[name=agree]"),
    Scene("consent-changed", "passed", "/judge", ".note", agreed=False),
    Scene("trial", "trial", "/judge", READY),
    Scene("trial-explained", "trial", "/judge", READY, then=_explained),
    Scene("after-trial", "waiting", "/judge", "h1"),
    Scene("not-let-in", "failed", "/judge", "h1"),
    _judges("prose", "prose"),
    _judges("differences", "code", _chosen("d")),
    _judges("foreign", "foreign", _chosen("w")),
    _judges("hostile", "emoji"),
    _judges("huge", "huge"),
    _judges("clips", "clips"),
    _judges("missing", "thin"),
    _judges("seven", "prose", study=replace(QUIET, scale="seven")),
    _judges("axes", "code", study=ASKS),
    _judges("guideline", "prose", _chosen("?")),
    _judges("offline", "prose", _offline),
    Scene("judge-nothing", "passed", "/judge", "#question:text('Nothing')"),
    _owner("study", "/study"),
    _owner("study-answered", "/study?state=answered"),
    _owner("known", "/study/known"),
    _owner("adjudicate", "/adjudicate", "section.card"),
    _owner("adjudicate-blind", "/adjudicate/{divided}", READY),
    _owner("talk", "/adjudicate/{talked}"),
    _owner("judge-again", "/adjudicate/{talked}/again", READY),
    Scene("practice", "passed", "/practice", READY),
    _owner("people", "/people", then=_invited),
    Scene("people-forgotten", "olga", "/people", "table", then=_forgotten),
    _owner("quality", "/quality"),
    _owner("live", "/live", ".curves figure"),
    _owner("lineage", "/lineage"),
    _owner("model", "/lineage/model/{model}"),
    _owner("judgement", "/lineage/judgement/{judgement}", "h1"),
]


def pair_called(name: str) -> Query:
    """Return one of `PAIRS`: clips where it is about clips, with claims, sources and aids where it is prose."""
    media: Any = "clip" if name in ("clips", "thin") else "text"
    payload = CLAIMS if name == "prose" else {}
    prompt = "Tell me about the bridge. " * 12 if media == "text" else "dot"
    items = tuple(Item(prompt, content, {**payload, "k": k}, media=media) for k, content in enumerate(PAIRS[name]))
    aids = (Aid("critic 1", f"The second leaves out the year. {HOSTILE}"),) if name == "prose" else ()
    question = "Which answer is more helpful, more honest, and nearer to what somebody who is in a hurry wants to read?"
    return Query(items, question if media == "text" else "Which is better?", aids=aids, reason="disagreement")


@dataclass
class Gallery:
    """A store with all that the scenes show."""

    served: Served
    ids: dict[str, str]
    people: int = 0

    def open(self, page: Page, scene: Scene) -> None:
        """Bring a scene onto a page: sign in whoever sees it, and wait until it can be seen."""
        self.served.study(scene.study)
        page.context.clear_cookies()
        if scene.who:
            person = self.somebody(scene)
            token = self.served.people.sign_in(person, time.time(), 1.0)
            page.context.add_cookies([{"name": self.served.cookie, "value": token, "url": self.served.url}])
        page.goto(self.served.url + scene.path.format(**self.ids))
        expect(page.locator(scene.sees).first).to_be_visible()
        scene.then(page)

    def somebody(self, scene: Scene) -> Person:
        """Return who sees a scene, with its pair before them."""
        if scene.who == "olga":
            return self.served.people.person(self.ids["olga"])
        self.people += 1
        found = join(self.served, f"Labeler {self.people} {LONG_WORD[:30]}")
        self.served.people.move(found.id, scene.who)  # type: ignore[arg-type]
        if scene.agreed:
            self.served.people.note_act(found.id, CONSENT, {"version": 0}, time.time())
        desk, now = Desk(self.served.store), time.time()
        if scene.pair:
            desk.deal(found, pair_called(scene.pair).id, STUDY, now, 3600.0)
        if scene.who in ("waiting", "failed"):
            self.served.people.note_act(found.id, "trial", {"pairs": 10, "agreed": 7.5, "seconds": 12.3}, now)
        return found


def join(served: Served, name: str, role: Any = "labeler") -> Person:
    """Let somebody come without a browser; nobody knows a password of theirs."""
    now = time.time()
    return served.people.join(served.people.invite(role, "", now, 1.0), name, "no password", now)


def hang(served: Served) -> Gallery:
    """Fill a store with what the scenes need."""
    olga, now = join(served, "Olga", "owner"), time.time()
    served.store.add_queries([pair_called(name) for name in PAIRS])
    judged = [
        Query((Item("p" * 300, f"{PROSE} {n}", {}), Item("q", f"{HOSTILE} {n}", {})), f"Which, {n}? {HOSTILE}")
        for n in range(24)
    ]
    served.store.add_queries(judged)
    for name, high in (("clips", 64), ("thin", 1)):
        for item in pair_called(name).items[: 2 if name == "clips" else 1]:
            served.store.add_media(item.id, "video/mp4", film(high))
    desk = Desk(served.store)
    for k, name in enumerate(("<img src=x onerror=window.canary=1>", "Bob " + LONG_WORD[:50], "آن")):
        person = join(served, name)
        served.people.move(person.id, "passed")
        for n, one in enumerate(judged):
            desk.deal(person, one.id, STUDY, now, 3600.0)
            shares = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))[(n + k * (n % 3 == 0)) % 3]
            details = {
                "shown": [n % 2, 1 - n % 2],
                "comment": HOSTILE,
                "axes": {"more truthful": "1"},
                "sub": {ARABIC: LONG_WORD},
            }
            desk.answer(person, Told(one.id, shares, f"{k:016x}{n:08x}", seconds=3.0 + n % 5, details=details), now)
    served.book.add_known(
        [
            Known(replace(pair_called("code"), repeat=9), (1.0, 0.0), PROSE),
            Known(replace(pair_called("foreign"), repeat=9), (0.0, 1.0), ARABIC),
        ]
    )
    exercise = Known(replace(pair_called("prose"), repeat=9), (1.0, 0.0), PROSE, use="practice")
    served.book.add_known([exercise])
    blind = asked_again(judged[3], ADJUDICATE)
    desk.deal_own(olga, blind, ADJUDICATE, now, 3600.0)
    desk.answer(olga, Told(blind.id, (1.0, 0.0), f"{9:024x}", seconds=9.0), now)
    served.people.note_act(olga.id, NOTE, {"query": judged[3].id, "text": f"{HOSTILE} {ARABIC} {LONG_WORD}"}, now)
    lineage, told = Lineage(served.store), served.store.judgement_events()
    reward = lineage.add_reward(f"run {HOSTILE}", "reward-1", [one for _, _, one in told], now)
    model = lineage.add_policy("20261122-control-long-name-of-a-run", f"policy {LONG_WORD[:60]}", [reward], now)
    rows = [
        {"step": 10 * k, "phase": "reward", "seconds": 1.0, "held_out_accuracy": 0.5 + 0.02 * k, "loss": 0.7 / (1 + k)}
        for k in range(20)
    ]
    served.store.add_metrics("<img src=x onerror=window.canary=1>", [{**row, "phase": HOSTILE} for row in rows])
    served.book.write("instructions", f"{PROSE}\n\n{PROSE}\n\n{HOSTILE}\n\n{ARABIC}", olga.id, now)
    ids = {"olga": olga.id, "model": model, "judgement": told[0][1], "divided": judged[0].id, "talked": judged[3].id}
    forgot = next(one for one in served.people.everybody() if one.name.startswith("Bob"))
    ids["reset"] = Resets(served.store).make(forgot.id, olga.id, now, 1.0)
    ids |= {role: served.people.invite(role, "", now, 1.0) for role in ("owner", "labeler")}
    return Gallery(served, ids)

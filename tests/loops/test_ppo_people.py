"""The text loop with several people as its overseer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backflip.data import Judgement, Query
from backflip.loops import fitting
from backflip.loops import ppo as loop
from backflip.loops.parts import Parts
from backflip.loops.ppo import train
from backflip.progress import Progress
from backflip.run import Run
from backflip.store import Store

from .test_ppo_loop import TINY, Late, parts_of
from .toy import Crash, likes_good, new_run


class Three(Late):
    """Three people judge every pair at once; the last of them chooses by the question's number."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, [])

    def ask(self, queries: Sequence[Query]) -> None:
        super().ask(queries)
        for query in queries:
            share = likes_good("", query.items[0].content, query.items[1].content)
            for n, first in enumerate((share, share, float(int(query.id[:8], 16) % 2))):
                self.store.add_judgements([Judgement(query.id, f"person:{n}", (first, 1 - first), created=1.0)])


def test_after_a_kill_comparisons_weigh_what_they_weighed_in_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[float] = []
    true = fitting.fit_reward

    def seen(parts: Parts, pairs: Sequence[Any], *rest: Any, **more: Any) -> Any:
        fitted[:] = fitted or [pair.weight for pair in pairs]
        return true(parts, pairs, *rest, **more)

    def crash(*args: object) -> None:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash), new_run(tmp_path / "run", TINY) as run:
        patch.setattr(fitting, "fit_reward", seen)
        patch.setattr(loop, "improve", crash)
        train(parts_of(run, overseer=Three(run.store)), TINY, run)
    with Run.resume(tmp_path / "run") as run:
        run.progress = Progress(quiet=True)
        trained = train(parts_of(run, overseer=Three(run.store)), TINY, run)
    assert [pair.weight for pair in trained.pairs] == fitted and len(set(fitted)) > 1

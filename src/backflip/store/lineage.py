"""From a policy to every judgement that taught it, and back.

A reward model is taught by judgements, a policy by reward models. A model's id hashes what it was made from, so telling it twice
records it once. Leaves out the weights, which are in the run's folder under the model's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select

from backflip.data import Judgement, digest
from backflip.errors import StoreError
from backflip.store import records, schema
from backflip.store.store import PAGE, Store, insert_new


@dataclass(frozen=True)
class Model:
    """A reward model or a policy, and what it was made from."""

    id: str
    kind: Literal["reward", "policy"]
    run: str
    name: str
    """What it is called in its run's folder."""
    parents: tuple[str, ...]
    """Ids of the models that it was trained on."""
    created: float


def judgement_id(judgement: Judgement) -> str:
    """Return the id under which a judgement is stored: the hash of all it says."""
    return records.judgement_id(judgement)


class Lineage:
    """The models of one store."""

    def __init__(self, store: Store) -> None:
        """Read and write those of `store`."""
        self._database = store.database

    def add_reward(self, run: str, name: str, judgements: Iterable[Judgement], now: float) -> str:
        """Record a reward model and the judgements that it was fitted to; return its id."""
        taught = sorted({judgement_id(one) for one in judgements})
        found = digest(["reward", run, name, taught])
        self._add(Model(found, "reward", run, name, (), now), taught)
        return found

    def add_policy(self, run: str, name: str, parents: Sequence[str], now: float) -> str:
        """Record a policy and the reward models that it was trained on; return its id."""
        found = digest(["policy", run, name, sorted(parents)])
        self._add(Model(found, "policy", run, name, tuple(parents), now), [])
        return found

    def models(self) -> list[Model]:
        """Return every model, the oldest first."""
        table = schema.models
        with self._database.transaction("read") as connection:
            rows = connection.execute(select(table).order_by(table.c.created, table.c.id)).mappings().all()
        return [
            Model(row["id"], row["kind"], row["run"], row["name"], tuple(row["parents"]), row["created"])
            for row in rows
        ]

    def teachers_of(self, model_id: str) -> list[str]:
        """Return the ids of all judgements that taught a model, through every model that it was made from.

        Raises:
            StoreError: no such model is known.
        """
        known = {one.id: one for one in self.models()}
        if model_id not in known:
            raise StoreError(f"no model {model_id} is known here; was it trained in another run?")
        seen, table = _made_from(model_id, known), schema.taught
        with self._database.transaction("read") as connection:
            wanted = select(table.c.judgement_id).where(table.c.model_id.in_(list(seen))).distinct()
            return sorted(connection.execute(wanted).scalars())

    def counts(self, models: Sequence[Model], first: int, most: int) -> list[tuple[Model, int]]:
        """Return the newest models but for the `first`, at most `most`, each with the number of judgements that taught it.

        `models` are all of them, as `models()` returns them.
        """
        known, table = {one.id: one for one in models}, schema.taught
        wanted = select(func.count(table.c.judgement_id.distinct()))
        with self._database.transaction("read") as connection:
            return [
                (one, connection.execute(wanted.where(table.c.model_id.in_(_made_from(one.id, known)))).scalar_one())
                for one in list(reversed(models))[first : first + most]
            ]

    def taught_by(self, judgement_ids: Sequence[str]) -> list[Model]:
        """Return every model that any of these judgements taught, directly or through another model."""
        table, direct = schema.taught, set[str]()
        with self._database.transaction("read") as connection:
            for start in range(0, len(judgement_ids), PAGE):
                part = list(judgement_ids[start : start + PAGE])
                wanted = select(table.c.model_id).where(table.c.judgement_id.in_(part)).distinct()
                direct |= set(connection.execute(wanted).scalars())
        everything, grown = self.models(), True
        while grown:
            new = {one.id for one in everything if set(one.parents) & direct} - direct
            direct, grown = direct | new, bool(new)
        return [one for one in everything if one.id in direct]

    def of_person(self, judge: str) -> tuple[list[str], list[Model]]:
        """Return the ids of a person's judgements, and every model that they taught."""
        table = schema.judgements
        with self._database.transaction("read") as connection:
            wanted = select(table.c.id).where(table.c.judge == judge).order_by(table.c.seq)
            ids = list(connection.execute(wanted).scalars())
        return ids, self.taught_by(ids)

    def _add(self, model: Model, taught: Sequence[str]) -> None:
        row = {
            "id": model.id,
            "kind": model.kind,
            "run": model.run,
            "name": model.name,
            "created": model.created,
            "parents": list(model.parents),
        }
        with self._database.transaction("durable") as connection:
            insert_new(connection, schema.models, [row])
            for start in range(0, len(taught), PAGE):
                part = taught[start : start + PAGE]
                insert_new(connection, schema.taught, [{"judgement_id": one, "model_id": model.id} for one in part])


def _made_from(model_id: str, known: Mapping[str, Model]) -> list[str]:
    """Return a model and every one that it was made from."""
    waiting, seen = [model_id], dict[str, None]()
    while waiting:
        one = waiting.pop()
        if one not in seen and one in known:
            seen[one] = None
            waiting += known[one].parents
    return list(seen)

"""Crews of simulations that act for a whole row of decisions: in this process, and in helping processes beside it.

Threads do not help here: `mj_step` lets go of the interpreter's lock, but taking it back for every decision of every environment costs as
much as the step. A helper keeps nothing. It is sent states, policy and a stream of draws, and sends rows and states back, so what comes
out does not depend on who did it, and one that dies is not missed. It takes seconds to start, and nobody waits for it.

Shapes: C environments of a crew, T steps, F features, A numbers of an action, S numbers of a scene.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from threadpoolctl import ThreadpoolController

from backflip.policies.actor_critic import ActorCritic
from backflip.protocols import Policy
from backflip.worlds.mujoco_tasks import TASKS, Array, Task
from backflip.worlds.simulated import EVERYBODY, Simulations, Subject

PATIENCE = 2
"""Rows that a world collects before it starts helpers: short work is done before they could begin."""


@dataclass(frozen=True)
class Rows:
    """What a crew saw and did."""

    obs: NDArray[np.float32]
    """(C, T + 1, F)."""
    scene: NDArray[np.float64]
    """(C, T + 1, S)."""
    action: NDArray[np.float32]
    """(C, T, A)."""
    logp: NDArray[np.float32]
    """(C, T)."""
    value: NDArray[np.float32]
    """(C, T); 0 from a policy without values."""


ROWS = tuple(one.name for one in fields(Rows))
SENT_OF_A_TASK = ("id", "turning", "horizon")
"""What of a task may differ from the one that its id names; with anything else changed it gets no helpers."""


def controls(batch: Simulations) -> Callable[[NDArray[np.float32]], Array]:
    """Return what makes the actuators' settings of actions from -1 to 1; what lies beyond is cut."""
    middle_A, reach_A = (batch.high_A + batch.low_A) / 2, (batch.high_A - batch.low_A) / 2
    return lambda action: middle_A + reach_A * action.clip(-1, 1)


def follow(
    subject: Subject, batch: Simulations, policy: Policy, steps: int, rng: np.random.Generator, crew: slice = EVERYBODY
) -> Rows:
    """Let a crew of `batch` take `steps` decisions of `policy`.

    Raises:
        DataError: as the simulations do.
    """
    control_of = controls(batch)
    seen_CS = batch.scene_ES[crew]
    features_CF = subject.features(seen_CS)
    count = len(seen_CS)
    obs = np.empty((count, steps + 1, features_CF.shape[1]), dtype=np.float32)
    scene = np.empty((count, steps + 1, seen_CS.shape[1]))
    action = np.empty((count, steps, len(batch.low_A)), dtype=np.float32)
    logp, value = np.zeros((2, count, steps), dtype=np.float32)
    obs[:, 0], scene[:, 0] = features_CF, seen_CS
    acting = policy.acting(count, steps, rng) if isinstance(policy, ActorCritic) else None
    for step in range(steps):
        if acting is not None:
            action[:, step] = action_CA = acting(step, obs[:, step])
        else:
            act = policy.act(torch.from_numpy(obs[:, step : step + 1]), rng)
            action[:, step] = action_CA = act.action[:, 0].numpy()
            logp[:, step] = act.logp_BT[:, 0].numpy()
            if act.value_BT is not None:
                value[:, step] = act.value_BT[:, 0].numpy()
        scene[:, step + 1] = seen_CS = batch.step(control_of(action_CA), crew)
        obs[:, step + 1] = subject.features(seen_CS)
    if acting is not None and isinstance(policy, ActorCritic):
        logp[:], value[:] = acting.logp_BT(), policy.values(obs[:, :-1])
    return Rows(obs, scene, action, logp, value)


class Crews:
    """The crews of one batch, and the helpers that take some of them."""

    def __init__(self, subject: Subject, batch: Simulations, processes: int | None) -> None:
        """Use up to `processes` processes, this one among them; None: one for every processor that this one may use."""
        self.subject, self.batch = subject, batch
        sent = {name: getattr(subject, name) for name in SENT_OF_A_TASK} if isinstance(subject, Task) else {}
        told = bool(sent) and subject.id in TASKS and replace(TASKS[subject.id], **sent) == subject
        self._task = subject if told and isinstance(subject, Task) else None
        self.processes = min(len(batch.crews), processes or processors()) if self._task else 1
        self._helpers: list[Helper] = []
        self._waited = 0
        self._products = ThreadpoolController().select(user_api="blas")

    def rows(self, policy: Policy, steps: int, rng: np.random.Generator) -> list[Rows]:
        """Return the rows of every crew, in order; each crew draws for itself. Raises as `follow` does."""
        # A product of a few rows gains nothing from a second thread, which would spin on the processor that a helper needs.
        with self._products.limit(limits=1):
            return self._rows(policy, steps, rng)

    def _rows(self, policy: Policy, steps: int, rng: np.random.Generator) -> list[Rows]:
        crews = self.batch.crews
        draws = rng.spawn(len(crews))
        helpers = self._ready()
        share = len(helpers) + 1
        found: list[Rows | None] = [None] * len(crews)
        state = self.batch.state() if helpers else None
        asked: list[tuple[Helper, list[int]]] = []
        for number, helper in enumerate(helpers, 1):
            places = list(range(number, len(crews), share))
            assert state is not None
            if helper.ask([state[crews[k]] for k in places], [draws[k] for k in places], policy, steps):
                asked.append((helper, places))
        given = {place for _, places in asked for place in places}
        try:
            for place in range(len(crews)):
                if place not in given:
                    found[place] = follow(self.subject, self.batch, policy, steps, draws[place], crews[place])
        finally:  # what was asked for is taken, or the next answer would be to this question
            answers = [(places, helper.answer(len(places))) for helper, places in asked]
        for places, answer in answers:
            for place, done in zip(places, answer or [None] * len(places), strict=True):
                if (
                    done is None
                ):  # the helper died, or the policy failed there: then it fails here, where it can be seen
                    found[place] = follow(self.subject, self.batch, policy, steps, draws[place], crews[place])
                else:
                    found[place] = done[0]
                    self.batch.restore(done[1], crews[place])
        return [one for one in found if one is not None]

    def wait_for_helpers(self) -> int:
        """Start the helpers if they were not, wait until they are ready, and return how many there are; measurements begin so."""
        self._begin()
        while any(one.starting for one in self._helpers):
            time.sleep(0.01)
        return len([one for one in self._helpers if one.ready()])

    def _ready(self) -> list[Helper]:
        self._waited += 1
        if self._waited > PATIENCE:
            self._begin()
        return [one for one in self._helpers if one.ready()]

    def _begin(self) -> None:
        if not self._helpers and self._task is not None:
            self._helpers = [Helper(self._task) for _ in range(self.processes - 1)]


class Helper:
    """A process that simulates."""

    def __init__(self, task: Task) -> None:
        """Start it; it says when it is ready."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backflip.worlds.crews"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._alive, self._started = True, False
        self._send({name: getattr(task, name) for name in SENT_OF_A_TASK}, {})
        weakref.finalize(self, _end, self._process)

    def ready(self) -> bool:
        """Return whether it may be asked."""
        if self._alive and not self._started and select.select([self._from], [], [], 0)[0]:
            self._started = self._receive() is not None
        return self._alive and self._started

    @property
    def starting(self) -> bool:
        """Whether it may yet become ready."""
        return not self.ready() and self._alive

    def ask(self, states: Sequence[Array], draws: Sequence[np.random.Generator], policy: Policy, steps: int) -> bool:
        """Let it begin; return False where it cannot be asked, or the policy is none that can be sent."""
        if type(policy) is not ActorCritic:
            return False
        card = {"steps": steps, "policy": policy.shape(), "draws": [one.bit_generator.state for one in draws]}
        arrays: dict[str, NDArray[Any]] = {f"state {place}": state for place, state in enumerate(states)}
        arrays |= {f"policy {name}": value.detach().numpy() for name, value in policy.state_dict().items()}
        return self._send(card, arrays)

    def answer(self, count: int) -> list[tuple[Rows, Array]] | None:
        """Return the rows and the last states of `count` crews; None where it died or failed."""
        got = self._receive()
        if got is None or got[0].get("failed"):
            return None
        return [
            (Rows(**{name: got[1][f"{name} {place}"] for name in ROWS}), got[1][f"state {place}"])
            for place in range(count)
        ]

    def _send(self, card: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bool:
        try:
            _write(self._to, card, arrays)
        except OSError:
            self._alive = False
        return self._alive

    def _receive(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        try:
            return _read(self._from)
        except (EOFError, OSError):
            self._alive = False
            return None


def processors() -> int:
    """Return how many processors this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a helper see that nobody will ask again."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Be a helper: until the other end is closed, take states and send rows."""
    from backflip.worlds.mujoco_batch import MujocoBatch

    card, _ = _read(source)
    task = replace(TASKS[card["id"]], **card)
    batches: dict[int, MujocoBatch] = {}
    policy: ActorCritic | None = None
    _write(sink, {"ready": True}, {})
    while True:
        try:
            card, arrays = _read(source)
        except EOFError:
            return
        answer: dict[str, NDArray[Any]] = {}
        try:
            if policy is None or policy.shape() != card["policy"]:
                policy = ActorCritic.of_shape(card["policy"])
            policy.load_state_dict({name: torch.from_numpy(arrays[f"policy {name}"]) for name in policy.state_dict()})
            for place, drawn in enumerate(card["draws"]):
                state, draws = arrays[f"state {place}"], np.random.default_rng()
                draws.bit_generator.state = drawn
                if len(state) not in batches:
                    batches[len(state)] = MujocoBatch(task, len(state))
                batch = batches[len(state)]
                batch.restore(state)
                rows = follow(task, batch, policy, card["steps"], draws)
                answer |= {f"{name} {place}": getattr(rows, name) for name in ROWS} | {f"state {place}": batch.state()}
        except Exception:
            _write(sink, {"failed": True}, {})
        else:
            _write(sink, {}, answer)


def _write(pipe: IO[bytes], card: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Send one message: how long it is, then numbers and a card, as safetensors."""
    text = np.frombuffer(json.dumps(card).encode(), dtype=np.uint8)
    message = save({"card": text, **{name: np.array(value, order="C") for name, value in arrays.items()}})
    pipe.write(len(message).to_bytes(8, "little") + message)
    pipe.flush()


def _read(pipe: IO[bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Take one message. Raises EOFError where the other end was closed, or in the middle of one."""
    head = pipe.read(8)
    size = int.from_bytes(head, "little")
    message = pipe.read(size) if len(head) == 8 else b""
    if len(head) < 8 or len(message) < size:
        raise EOFError
    arrays = load(message)
    return json.loads(arrays.pop("card").tobytes()), arrays


def concat_rows(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all crews as one."""
    return Rows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in ROWS})


if __name__ == "__main__":
    # Whoever asked deals with Ctrl-C; and what some library prints must not get between the answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    from backflip.worlds import crews  # what is sent must be of that module, and this one is called __main__

    try:
        crews.serve(sys.stdin.buffer, answers)
    except BrokenPipeError:  # whoever asked has gone, and waits for no answer
        os._exit(0)  # closing `answers` would complain of what is left in it

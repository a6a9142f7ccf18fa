"""What all tests share: no skips where everything is required, no network, and a real PostgreSQL.

A part of the system that is missing (PostgreSQL, a browser) skips its tests by name; `BACKFLIP_REQUIRE=all` turns every
skip into a failure, whatever caused it.
"""

from __future__ import annotations

import gc
import math
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # test processes share the processors
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REQUIRED = "BACKFLIP_REQUIRE"
SERVER_USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; who runs it then."""

LONGEST = (
    "test_web_accessible.py",
    "test_web_live.py",
    "test_methods.py",
    "test_web_misfortune.py",
    "test_web_reviews.py",
    "test_web_browser.py",
    "test_resume_after_kill.py",
    "test_web_phone.py",
    "test_atari_reward_run.py",
    "test_arms.py",
    "test_ppo_loop.py",
    "test_atari.py",
    "test_control_learning_proof.py",
    "test_report_browser.py",
    "test_web_adjudicate.py",
    "test_sampler.py",
    "test_control_loop.py",
    "test_reviews_job.py",
    "test_web_judging.py",
    "test_overoptimisation_run.py",
    "test_crews.py",
    "test_web_names.py",
)
"""Files that begin first, in this order, where several processes share them out: nobody waits for them in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives to the end: hundreds of thousands of objects of modules and collected tests."""
    gc.freeze()


def all_required() -> bool:
    return os.environ.get(REQUIRED) == "all"


def skip_reason(report: pytest.CollectReport | pytest.TestReport) -> str | None:
    """Return why a test or a whole file was skipped, or None where it was not (an expected failure is no skip)."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


def refuse_skip(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Turn a skip into a failure where everything is required."""
    reason = skip_reason(report)
    if reason is not None and all_required():
        report.outcome = "failed"
        report.longrepr = f"{REQUIRED}=all allows no skips, and this was one: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.fixture(scope="module", autouse=True)
def simulated_here() -> Iterator[None]:
    """Keep simulations in this process: a helper costs seconds of a processor to start, and the short runs of tests end before it is ready.

    Tests of the helpers themselves have a fixture of this name that does nothing.
    """
    crews = sys.modules.get("backflip.worlds.crews")
    with pytest.MonkeyPatch.context() as patch:
        if crews is not None:
            patch.setattr(crews, "PATIENCE", math.inf)
        yield


@pytest.fixture(scope="module", autouse=True)
def threads_as_found() -> Iterator[None]:
    """Let no file leave torch with more threads: where test processes share the processors, they slow all later tests of both, threefold."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before, "this file left torch with another number of threads"


def postgres_program(name: str) -> str | None:
    """Find a program of the PostgreSQL server; Debian keeps them off the PATH, in a folder for each version."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name), reverse=True)
    return shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ.get("PATH", "")]))


def as_server_user() -> dict[str, Any]:
    """Return arguments of `subprocess.run` that leave root, which PostgreSQL will not run as."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(known[name] for name in SERVER_USERS if name in known)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@dataclass
class Postgres:
    """A PostgreSQL server that can be stopped and started again."""

    url: str
    command: list[Any]
    common: dict[str, Any]

    def start(self) -> None:
        options = f"-k {self.common['cwd']} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
        subprocess.run([*self.command, "-o", options, "-l", self.common["cwd"] / "log", "start"], **self.common)

    def stop(self) -> None:
        subprocess.run([*self.command, "-m", "immediate", "stop"], **self.common)


@contextmanager
def running_postgres() -> Generator[Postgres]:
    """Run a PostgreSQL server for one use alone."""
    initdb, control = postgres_program("initdb"), postgres_program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("PostgreSQL's server programs are not installed; `make system` installs them")
    who = as_server_user()
    # Not under pytest's own folder: that is closed to the user the server runs as.
    place = Path(tempfile.mkdtemp(prefix="bf-pg-"))
    if who:
        os.chown(place, who["user"], who["group"])
    common: dict[str, Any] = {"cwd": place, "check": True, "capture_output": True, "text": True, **who}
    server = Postgres(f"postgresql://backflip@/postgres?host={place}", [control, "-D", place / "data", "-w"], common)
    try:
        subprocess.run(
            [initdb, "-D", place / "data", "-U", "backflip", "-A", "trust", "-E", "UTF8", "--no-sync"], **common
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server: `BACKFLIP_TEST_POSTGRES`, or one that runs for these tests alone."""
    if given := os.environ.get("BACKFLIP_TEST_POSTGRES"):
        yield given
        return
    with running_postgres() as server:
        yield server.url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database on a real PostgreSQL server, dropped afterwards."""
    import secrets

    import psycopg
    from psycopg import sql

    name = f"backflip_test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    head, mark, query = postgres_server.partition("?")
    yield f"{head.rpartition('/')[0]}/{name}{mark}{query}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real browser, without a screen."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed; `make system` installs it")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM), timeout=60_000)
        yield started
        started.close()


LETTERS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .?:<>|"]
TEMPLATE = (
    "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that writes letters, on disk; its weights are large enough for distributions that differ."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    raw: Any = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(LETTERS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

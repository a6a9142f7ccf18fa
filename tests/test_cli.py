"""The command line: what is printed, which code it ends with, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backflip import __version__
from backflip.cli import COMMANDS, main
from backflip.cli import run as run_command
from backflip.cli.config import option_names, parse
from backflip.errors import ConfigError, DataError
from backflip.experiments import Experiment, listing
from backflip.plan import Plan
from backflip.run import Run, read_run


@dataclass(frozen=True)
class Leash:
    beta: float = 0.1
    """Weight."""


@dataclass(frozen=True)
class Spring:
    beta: float = 0.2
    """Weight."""
    target: float = 6.0
    """Where it pulls to."""


@dataclass(frozen=True)
class Inner:
    clip: float = 0.2
    """Limit."""
    mini_batches: int = 3
    """Parts."""

    def __post_init__(self) -> None:
        if self.clip <= 0:
            raise ConfigError(f"clip is {self.clip}, expected above 0")


@dataclass(frozen=True)
class ToyConfig:
    seed: int = 0
    """Seed."""
    steps: int = 2
    """Steps."""
    ppo: Inner = field(default_factory=Inner)
    """The inner part."""
    kl: Leash | Spring = field(default_factory=Spring)
    """Either of two."""
    fails: bool = False
    """Whether to fail."""


def toy_plan(config: ToyConfig) -> Plan:
    return Plan({"model": 10.0 * config.steps}, {"train": 60.0}, 5, 0.0)


def toy_function(config: ToyConfig, run: Run) -> None:
    """Count to a number."""
    for step in range(config.steps):
        run.log(step, "toy", value=float(step))
    if config.fails:
        raise DataError("a line\nand another")


TOY = Experiment("toy", ToyConfig, toy_function, toy_plan)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make `toy` an experiment, and a folder of its own the current one."""
    monkeypatch.setattr(run_command, "find", lambda name: TOY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must end with code 2 and one line on standard error; return the line."""
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1, said.err
    return said.err.strip()


# -- commands and their options --------------------------------------------------------------------------------------


def test_help_names_every_command_and_each_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert f"backflip {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"backflip {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["reprot"], 'ConfigError: no command "reprot"; did you mean "report"?'),
        (["xyz"], 'ConfigError: no command "xyz"; expected one of list, run,'),
        (["list", "--zzzz"], 'ConfigError: backflip list does not know "--zzzz"; see'),
        (["report", "x", "--outt", "y"], 'does not know "--outt"; did you mean "--out"?'),
        (["report"], "ConfigError: backflip report: the following arguments are required: RUN; see"),
        (["doctor", "--modl=x"], 'did you mean "--model"?'),
        (["run"], "ConfigError: backflip run needs the name of an experiment:"),
        (["run", "revews"], 'ConfigError: no experiment "revews"; did you mean "reviews"?'),
        (["sample", "/no/such/run"], "DataError: /no/such/run is no run folder"),
        (["report", "/no/such/run"], "DataError: /no/such/run is no run folder"),
        (["run", "--resume", "/no/such/run"], "DataError: /no/such/run is no run folder"),
        (["export", "/no/such.sqlite", "x.jsonl"], "ConfigError: no store at /no/such.sqlite"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert said in failure(capsys, *argv)


def test_list_shows_what_the_files_say_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from backflip.cli import main; main(['list']);"
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'tyro', 'numpy'}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[-1] == "[]"
    assert [line.split()[0] for line in said[:-1]] == list(listing())
    assert all(summary in line for summary, line in zip(listing().values(), said, strict=False))


def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-c", "from backflip.cli import main; raise SystemExit(main(['--help']))"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


# -- settings --------------------------------------------------------------------------------------------------------


def settings(*args: str) -> ToyConfig:
    return parse(ToyConfig, args, "backflip run toy", ["--trackers", "--resume"])


def test_dotted_names_reach_nested_settings() -> None:
    assert settings() == ToyConfig()
    assert settings("--ppo.clip", "0.1", "--steps=5", "--fails") == ToyConfig(steps=5, ppo=Inner(clip=0.1), fails=True)
    assert settings("--ppo.mini-batches", "4") == settings("--ppo.mini_batches", "4") == ToyConfig(ppo=Inner(0.2, 4))
    assert settings("--kl.target", "3") == ToyConfig(kl=Spring(target=3.0))
    assert settings("kl:leash", "--ppo.clip", "0.1", "--kl.beta", "1") == ToyConfig(ppo=Inner(0.1), kl=Leash(1.0))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--ppo.clp 0.1", 'no field "ppo.clp" in ToyConfig; did you mean "ppo.clip"?'),
        ("--trakers x", 'no field "trakers" in ToyConfig; did you mean "trackers"?'),
        ("--zzzzzz 1", 'no field "zzzzzz" in ToyConfig; see --help'),
        ("--ppo 1", '"ppo" of ToyConfig is a group of settings; give one of them, such as "ppo.clip"'),
        ("--ppo.clip x", "could not convert string to float: 'x'; see `backflip run toy --help`"),
        ("--steps 1.5", "invalid literal for int() with base 10: '1.5'"),
        ("--steps", "Missing value for argument '--steps'"),
        ("stray", "Unrecognized options: stray"),
        ("kl:leash --kl.target 3", "--kl.target (applied to backflip run toy kl:leash)"),
        ("--ppo.clip -1", "clip is -1.0, expected above 0"),
    ],
)
def test_a_wrong_setting_is_one_line(args: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(*args.split())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "---" not in str(caught.value)


def test_every_setting_has_one_dotted_name() -> None:
    expected = {"seed", "steps", "fails", "ppo.clip", "ppo.mini_batches", "kl.beta", "kl.target"}
    assert option_names(ToyConfig) == expected


def test_help_of_a_run_shows_its_settings_and_its_own_options(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "toy", "--help"]) == 0
    said = capsys.readouterr().out
    for name in (*(option_names(ToyConfig) - {"kl.beta"}), "resume", "plan", "trackers", "runs"):
        assert f"--{name}" in said
    assert "Where it pulls to." in said
    assert not (toy / "runs").exists()


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_folder_that_says_everything(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "toy", "--steps", "3", "--seed", "7", "--quiet"]) == 0
    record = read_run(toy / "runs" / "latest")
    assert (record.status, record.experiment, record.seed) == ("done", "toy", 7)
    assert record.config["steps"] == 3
    assert [row["value"] for row in record.metrics] == [0.0, 1.0, 2.0]
    assert str(record.path) in capsys.readouterr().out


def test_a_folder_holds_one_run(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "toy", "--folder", "mine"]) == 0
    before = {path: path.read_bytes() for path in (toy / "mine").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert failure(capsys, "run", "toy", "--folder", "mine").startswith("ConfigError:")
    assert {path: path.read_bytes() for path in (toy / "mine").rglob("*") if path.is_file()} == before


def test_our_errors_are_one_line_and_the_run_has_failed(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, "run", "toy", "--fails") == "DataError: a line and another"
    assert read_run(toy / "runs" / "latest").status == "failed"


def test_settings_that_are_refused_before_anything_happened_leave_nothing(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "toy", "--folder", "runs/good"]) == 0
    assert main(["run", "toy"]) == 0
    good = sorted((toy / "runs").iterdir())
    latest = (toy / "runs" / "latest").readlink()
    for folder in ([], ["--folder", "mine"]):  # it could only be resumed into the same error
        failure(capsys, "run", "toy", "--fails", "--steps", "0", *folder)
    assert not (toy / "mine").exists()
    assert sorted((toy / "runs").iterdir()) == good and (toy / "runs" / "latest").readlink() == latest


def test_the_first_run_of_all_leaves_no_link_to_nothing(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failure(capsys, "run", "toy", "--fails", "--steps", "0")
    assert not list((toy / "runs").iterdir())


@pytest.mark.parametrize("where", ["sqlite:///x", "here", "mysql://u@h/d"])
def test_a_run_keeps_its_own_store_or_one_on_a_server(
    toy: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    assert "--store takes a postgresql:// address" in failure(capsys, "run", "toy", "--store", where)
    assert not list(toy.iterdir())


def test_a_fault_of_the_program_keeps_its_traceback(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: ToyConfig, run: Run) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(run_command, "find", lambda name: Experiment("toy", ToyConfig, broken, None))
    with pytest.raises(ZeroDivisionError):
        main(["run", "toy"])
    assert read_run(toy / "runs" / "latest").status == "failed"


def test_a_plan_is_printed_and_nothing_is_run(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "toy", "--plan", "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert "about 40 MiB" in said
    assert "judgements  5" in said
    assert not (toy / "runs").exists()


def test_no_plan_is_said(toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_command, "find", lambda name: Experiment("toy", ToyConfig, toy_function, None))
    assert '"toy" has no plan' in failure(capsys, "run", "toy", "--plan")


def test_a_resumed_run_keeps_its_settings(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failure(capsys, "run", "toy", "--fails", "--folder", "mine", "--steps", "4")
    for given in (["--steps", "9"], ["--folder", "other"], ["--plan"]):
        assert given[0] in failure(capsys, "run", "--resume", "mine", *given)
    assert 'not of "other"' in failure(capsys, "run", "other", "--resume", "mine")
    assert "a line and another" in failure(capsys, "run", "--resume", "mine")  # it went on, with the setting to fail
    record = read_run(Path("mine"))
    assert record.config["steps"] == 4
    assert [row["value"] for row in record.metrics] == [0.0, 1.0, 2.0, 3.0]


def test_a_run_that_is_done_is_not_resumed(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "toy", "--folder", "mine", "--quiet"]) == 0
    capsys.readouterr()
    assert "is done" in failure(capsys, "run", "--resume", "mine")


CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it runs in the background
from backflip.cli import main, run
from backflip.experiments import Experiment
sys.path.insert(0, {here!r})
from interrupted import Config, work
run.find = lambda name: Experiment("interrupted", Config, work, None)
raise SystemExit(main(sys.argv[1:]))
"""
WORK = """
import time
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    seed: int = 0

def work(config, run):
    first = (run.load_state() or {"step": 0})["step"]
    for step in range(first, 3):
        run.log(step, "toy", value=float(step))
        run.save_state("step", {"step": step + 1})
        if first == 0 and step == 1:
            print("waiting", flush=True)
            time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_stops_cleanly_and_goes_on(tmp_path: Path, number: int) -> None:
    (tmp_path / "interrupted.py").write_text(WORK)
    command = [sys.executable, "-c", CHILD.format(here=str(tmp_path))]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    with subprocess.Popen([*command, "run", "interrupted", "--quiet"], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == 130
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("stopped; go on with: backflip run --resume ")
    folder = Path(lines[0].split()[-1])
    assert read_run(folder).status == "stopped"
    done = subprocess.run(
        [*command, *lines[0].split("backflip ")[1].split()], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    record = read_run(folder)
    assert record.status == "done"
    assert [row["value"] for row in record.metrics] == [0.0, 1.0, 2.0]


def test_the_installed_command_is_this_one() -> None:
    command = Path(sys.executable).with_name("backflip")
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, env=os.environ)
    assert said.stdout == f"backflip {__version__}\n"

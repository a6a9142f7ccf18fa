"""Rules of the project that need it installed: what is imported when, settings with help, pins and ranges."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from backflip.experiments import find, listing

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", listing())
def test_every_setting_of_an_experiment_has_help(name: str) -> None:
    def walk(kind: type[Any]) -> Iterator[type[Any]]:
        yield kind
        hints = get_type_hints(kind)
        for spec in fields(kind):
            for part in (hints[spec.name], *get_args(hints[spec.name])):
                if is_dataclass(part):
                    yield from walk(part)  # pyright: ignore[reportArgumentType] a type, not an instance

    for kind in walk(find(name).config):
        assert kind.__dataclass_params__.frozen, f"{kind.__name__} is not frozen"  # pyright: ignore[reportAttributeAccessIssue]
        assert without_help(kind) == [], kind.__name__


def without_help(kind: type[Any]) -> list[str]:
    """Names of a dataclass's own fields that no string follows."""
    body = next(node for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef)).body
    return [
        ast.unparse(field.target)
        for field, text in zip(body, [*body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign)
        and not (isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant))
    ]


@dataclass(frozen=True)
class HalfTold:
    first: int = 0
    """Told."""
    second: int = 0


def test_a_setting_without_help_would_be_seen() -> None:
    assert without_help(HalfTold) == ["second"]


@pytest.mark.parametrize("name", listing())
def test_every_experiment_is_found_under_its_own_name(name: str) -> None:
    assert find(name).name == name


@pytest.mark.parametrize("name", listing())
def test_every_experiment_stands_in_the_documents(name: str) -> None:
    said = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert re.search(rf"backflip run {name}\b", said)


LIGHT = (
    "backflip",
    "backflip.cli",
    "backflip.data",
    "backflip.protocols",
    "backflip.experiments",
    "backflip.run",
    "backflip.store",
    "backflip.report",
)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {{'torch', 'transformers', 'tyro'}}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_heavy_import_would_be_seen() -> None:
    code = "import sys, backflip.masked; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def requirement_names(lines: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines if line.strip()}


def test_ranges_in_pyproject_and_pins_in_constraints_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in asked if "==" in line] == []
    assert [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    assert requirement_names(asked) - requirement_names(pinned) == set()


def test_what_is_imported_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    asked = {name.replace("-", "_") for name in requirement_names([*project["dependencies"], *extras])}
    asked |= {"argon2"} if "argon2_cffi" in asked else set()
    used: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                used.add(node.module.partition(".")[0])
    assert used - set(sys.stdlib_module_names) - {"backflip"} - asked == set()
    assert {name.replace("-", "_") for name in requirement_names(project["dependencies"])} - used == set()

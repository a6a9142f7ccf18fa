"""The rules of the house that a test can enforce, and for each a violation that it must find.

A rule takes a tree (path -> source) and returns one line for each violation. What ruff and pyright enforce (docstrings,
prints, types) is not repeated here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
Tree = dict[str, str]
Rule = Callable[[Tree], list[str]]
RULES: dict[str, tuple[Rule, Tree]] = {}
"""Name -> (the rule, a tree that breaks it)."""

FILE_LINES, FUNCTION_LINES, LOOP_LINES, PARAMETERS = 400, 60, 120, 7
FORBIDDEN = ("manager", "handler", "builder", "factory", "mixin", "utils", "helpers", "base")
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("data",),
    ("protocols",),
    ("masked", "checkpoint", "store", "run*", "progress", "trackers", "truth", "memory"),
    ("worlds", "policies", "rewards", "overseers", "assistants", "optimise", "measures", "invariants"),
    ("loops", "testing", "doctor", "plan"),
    ("experiments",),
    ("cli", "report", "web", "__main__"),
)
"""Imports go to the same layer or one before it."""
TRUTH_READERS = ("src/backflip/overseers/synthetic.py", "src/backflip/measures/")
CLOSED = {"report": ("cli",), "web": ("cli",), "cli": ("__main__",)}
"""Rooms that nobody imports but these."""
DEEP = ("src/backflip/store/migrations/",)
"""Three levels where a library's own layout wants them."""
SEEDING = {"src/backflip/experiments/reviews_base.py": "Hugging Face initialises weights from torch's global generator"}
"""Files that may set a global seed, and why."""
HOSTS_OWN = re.compile("|".join("/" + name + "/" for name in ("root", "work")) + r"|/(?:home|Users)/\w+/")


def rule(name: str, **broken: str) -> Callable[[Rule], Rule]:
    """Register a rule with a tree that breaks it; in keywords `__` stands for `/`, and `.py` is added."""

    def remember(check: Rule) -> Rule:
        RULES[name] = check, {path.replace("__", "/") + ".py": source for path, source in broken.items()}
        return check

    return remember


def the_tree() -> Tree:
    """Every Python file of ours."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in ("src", "tests", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def package(tree: Tree) -> Iterator[tuple[str, ast.Module]]:
    for path, source in tree.items():
        if path.startswith("src/backflip/"):
            yield path, ast.parse(source)


def room(path: str) -> str:
    """`src/backflip/optimise/ppo.py` -> `optimise`; `src/backflip/data.py` -> `data`."""
    return path.removeprefix("src/backflip/").partition("/")[0].removesuffix(".py")


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def dotted(node: ast.expr) -> str:
    """`np.random.rand` of the expression that says so; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{head}.{node.attr}" if isinstance(node, ast.Attribute) and (head := dotted(node.value)) else ""


def calls(module: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    return ((dotted(node.func), node) for node in ast.walk(module) if isinstance(node, ast.Call))


def imports(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@rule("files have 400 lines at most", src__backflip__long="x = 1\n" * 401)
def file_length(tree: Tree) -> list[str]:
    lengths = {path: source.count("\n") for path, source in tree.items()}
    return [f"{path} has {lines} lines" for path, lines in lengths.items() if lines > FILE_LINES]


@rule(
    "functions have 60 lines at most, those of a loop 120",
    src__backflip__masked="def f():\n" + "    x = 1\n" * 60,
    src__backflip__loops__ppo="def f():\n" + "    x = 1\n" * 120,
)
def function_length(tree: Tree) -> list[str]:
    found: list[str] = []
    for path, module in package(tree):
        limit = LOOP_LINES if room(path) == "loops" or path.startswith(DEEP) else FUNCTION_LINES
        for node in functions(module):
            text = node.body[0] if ast.get_docstring(node) else None
            said = 0 if text is None else (text.end_lineno or 0) - text.lineno + 1
            lines = (node.end_lineno or 0) - node.lineno + 1 - said
            found += [f"{path}: {node.name} has {lines} lines without its docstring"] if lines > limit else []
    return found


@rule("functions take 7 parameters at most", src__backflip__masked="def f(a, b, c, d, *, e, f, g, h): ...")
def parameter_count(tree: Tree) -> list[str]:
    found: list[str] = []
    for path, module in package(tree):
        for node in functions(module):
            given = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len([name for name in given if name not in ("self", "cls")])
            found += [f"{path}: {node.name} takes {count}"] if count > PARAMETERS else []
    return found


@rule(
    "our classes inherit over one level at most",
    src__backflip__data="class A: ...\nclass B(A): ...",
    src__backflip__masked="from backflip.data import B\nclass C(B): ...",
)
def inheritance(tree: Tree) -> list[str]:
    parents: dict[str, list[str]] = {}
    for path, module in package(tree):
        if room(path) != "errors":
            for node in ast.walk(module):
                if isinstance(node, ast.ClassDef):
                    parents[node.name] = [dotted(base).rpartition(".")[2] for base in node.bases]
    return [
        f"{name} inherits from {parent}, which inherits from {above}"
        for name, direct in parents.items()
        for parent in direct
        for above in parents.get(parent, ())
        if above in parents
    ]


@rule(
    "no module or class has a name that says nothing",
    src__backflip__text_utils="",
    src__backflip__data="class RunManager: ...\nclass BaseWorld: ...",
)
def empty_names(tree: Tree) -> list[str]:
    found: list[str] = []
    for path, module in package(tree):
        stem = Path(path).stem
        found += [path] if stem in FORBIDDEN or stem.split("_")[-1] in FORBIDDEN[:-1] else []
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", node.name)
                found += [f"{path}: {node.name}"] if {words[0].lower(), words[-1].lower()} & set(FORBIDDEN) else []
    return found


def layer(name: str) -> int | None:
    for place, rooms in enumerate(LAYERS):
        if any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in rooms):
            return place
    return None


@rule(
    "imports go one way",
    src__backflip__data="from backflip.store import Store",
    src__backflip__loops__ppo="from backflip.report import write_report",
    src__backflip__worlds__text="def f():\n    import backflip.experiments.reviews",
    src__backflip__attic="",
)
def one_way(tree: Tree) -> list[str]:
    found: list[str] = []
    for path, module in package(tree):
        mine = room(path)
        if mine == "__init__":
            continue
        if layer(mine) is None:
            found.append(f"{path} is in no layer: give {mine} its place in LAYERS")
            continue
        for name in imports(module):
            other = name.split(".")[1] if name.startswith("backflip.") else ""
            place = layer(other)
            late = place is not None and place > (layer(mine) or 0)
            closed = other in CLOSED and mine != other and mine not in CLOSED[other]
            found += [f"{path} imports {name}"] if late or closed else []
    return found


@rule(
    "only the synthetic teacher and measures read the ground truth",
    src__backflip__loops__ppo="from backflip.truth import GoldJudge",
    src__backflip__rewards__fit="def f():\n    from backflip import truth",
)
def ground_truth(tree: Tree) -> list[str]:
    return [
        f"{path} imports {name}"
        for path, module in package(tree)
        if not path.startswith(TRUTH_READERS)
        for name in imports(module)
        if name.startswith("backflip.truth")
    ]


@rule("two levels of folders, never three", src__backflip__worlds__text__inner="")
def depth(tree: Tree) -> list[str]:
    return [path for path, _ in package(tree) if path.count("/") > 3 and not path.startswith(DEEP)]


@rule(
    "files with shape suffixes explain every letter",
    src__backflip__masked='"""Sums.\n\nShapes: B rows.\n"""\ndef f(x_BT): ...',
    src__backflip__data='"""Nothing said."""\nreward_B = 1',
)
def shape_legends(tree: Tree) -> list[str]:
    found: list[str] = []
    for path, module in package(tree):
        names = {node.id for node in ast.walk(module) if isinstance(node, ast.Name)}
        names |= {node.arg for node in ast.walk(module) if isinstance(node, ast.arg)}
        suffixes = {m[1] for name in names if (m := re.fullmatch(r"[a-z][a-z0-9_]*_([A-Z][A-Z0-9]{0,3})", name))}
        letters = sorted({letter for suffix in suffixes for letter in suffix if letter.isalpha()})
        legend = (ast.get_docstring(module) or "").partition("Shapes:")[2]
        missing = [letter for letter in letters if not re.search(rf"\b{letter}\b", legend)]
        found += [f"{path} explains no {', '.join(missing)} after `Shapes:`"] if missing else []
    return found


@rule(
    "nothing is ever unpickled",
    src__backflip__store="import pickle",
    src__backflip__checkpoint="import torch\ntorch.load('x')",
    src__backflip__run="import numpy as np\nnp.load('x', allow_pickle=True)",
)
def unpickling(tree: Tree) -> list[str]:
    found: list[str] = []
    for path, module in package(tree):
        found += [
            f"{path} imports {name}"
            for name in imports(module)
            if re.match(r"(pickle|dill|joblib|shelve|cloudpickle)\b", name)
        ]
        for name, node in calls(module):
            allowed = any(word.arg == "allow_pickle" for word in node.keywords)
            found += [f"{path}: {name}"] if name in ("torch.load", "torch.save") or allowed else []
    return found


@rule(
    "no hash() of Python, no code from a checkpoint, no YAML",
    src__backflip__data="key = hash('x')",
    src__backflip__policies__lm="load(x, trust_remote_code=True)",
    src__backflip__run="import yaml",
)
def unsafe(tree: Tree) -> list[str]:
    found: list[str] = []
    for path, module in package(tree):
        found += [f"{path} imports {name}" for name in imports(module) if name.split(".")[0] == "yaml"]
        for name, node in calls(module):
            remote = [word for word in node.keywords if word.arg == "trust_remote_code"]
            trusted = any(not (isinstance(word.value, ast.Constant) and word.value.value is False) for word in remote)
            found += [f"{path}: {name}() at line {node.lineno}"] if name == "hash" or trusted else []
    return found


@rule(
    "randomness comes from an explicit generator",
    src__backflip__worlds__text="import random",
    src__backflip__worlds__toy="import numpy as np\nnp.random.seed(0)",
    src__backflip__policies__lm="import torch\ntorch.manual_seed(0)",
    src__backflip__policies__draw="import torch\ntorch.multinomial(p, 1)",
)
def randomness(tree: Tree) -> list[str]:
    found: list[str] = []
    drawing = {
        f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal")
    }
    for path, module in package(tree):
        if path in SEEDING:
            continue
        found += [f"{path} imports {name}" for name in imports(module) if name.split(".")[0] == "random"]
        for name, node in calls(module):
            legacy = re.fullmatch(r"(np|numpy)\.random\.[a-z]\w*", name) and not name.endswith(
                ("default_rng", "get_state")
            )
            seeded = name in ("torch.manual_seed", "torch.seed", "torch.cuda.manual_seed_all")
            hidden = name in drawing and not any(word.arg == "generator" for word in node.keywords)
            found += [f"{path}: {name} at line {node.lineno}"] if legacy or seeded or hidden else []
    return found


@rule(
    "configs are frozen, with help under every field",
    src__backflip__loops__ppo='@dataclass\nclass LoopConfig:\n    rounds: int = 1\n    """Rounds."""\n    lr: float = 1.0',
)
def configs(tree: Tree) -> list[str]:
    found: list[str] = []
    for path, module in package(tree):
        for node in ast.walk(module):
            if not isinstance(node, ast.ClassDef) or not node.name.endswith("Config"):
                continue
            frozen = any("frozen=True" in ast.unparse(mark) for mark in node.decorator_list)
            found += [] if frozen else [f"{path}: {node.name} is not frozen"]
            found += [f"{path}: {node.name}.{name} has no help" for name in fields_without_help(node)]
    return found


def fields_without_help(node: ast.ClassDef) -> list[str]:
    """Names of fields that no string follows."""
    after = [*node.body[1:], None]
    return [
        ast.unparse(field.target)
        for field, text in zip(node.body, after, strict=True)
        if isinstance(field, ast.AnnAssign)
        and not (
            isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        )
    ]


@rule(
    "no blanket ignores",
    src__backflip__data="# pyright: basic\n",
    tests__test_x="x = 1  # type: ignore\n",
    bench__y="import os  # noqa\n",
    src__backflip__masked="# ruff: noqa\n",
)
def blanket_ignores(tree: Tree) -> list[str]:
    # Pieces, so that this line is not itself what it looks for.
    pattern = re.compile(
        "#" + r"\s*(pyright: *(basic|strict|off|ignore(?!\[))|type: *ignore(?!\[)|noqa(?!:)|ruff: *noqa)"
    )
    return [
        f"{path} line {number}: {line.strip()}"
        for path, source in tree.items()
        if path != "tests/test_house.py"
        for number, line in enumerate(source.splitlines(), 1)
        if pattern.search(line)
    ]


@rule("no path of one person's machine", src__backflip__run='HOME = "/home/somebody/runs"', bench__x="# see /root/x")
def own_paths(tree: Tree) -> list[str]:
    sources = {path: source for path, source in tree.items() if path != "tests/test_house.py"}
    return [f"{path}: {found[0]}" for path, source in sources.items() if (found := HOSTS_OWN.search(source))]


@rule("test files have names of their own", tests__store__test_x="", tests__worlds__test_x="", tests__worlds__init="")
def clashing_names(tree: Tree) -> list[str]:
    names = [Path(path).name for path in tree if path.startswith("tests/") and Path(path).name.startswith("test_")]
    return sorted({name for name in names if names.count(name) > 1})


@pytest.mark.parametrize("name", RULES)
def test_the_house_keeps_its_rule(name: str) -> None:
    check, _ = RULES[name]
    found = check(the_tree())
    assert not found, f"{name}:\n" + "\n".join(found)


@pytest.mark.parametrize("name", RULES)
def test_each_planted_violation_is_found(name: str) -> None:
    check, broken = RULES[name]
    for path, source in broken.items():
        alone = {path: source} if name not in ALL_NEEDED else broken
        assert check(alone), f"{name} did not notice {path}"


ALL_NEEDED = ("our classes inherit over one level at most", "test files have names of their own")
"""Rules whose violation takes more than one file."""


def test_the_rules_allow_what_is_right() -> None:
    fine = {
        "src/backflip/worlds/toy.py": (
            '"""A toy.\n\nShapes: B rows, T decisions.\n"""\nimport numpy as np\nfrom backflip.data import Item\n\n\n'
            "def f(x_BT, rng: np.random.Generator):\n    return np.random.default_rng(0).normal()\n"
        ),
        "src/backflip/overseers/synthetic.py": "from backflip.truth import Truth\n",
        "src/backflip/experiments/reviews_base.py": "class ReviewsBaseSize: ...\n",
    }
    assert {name: check(fine) for name, (check, _) in RULES.items() if check(fine)} == {}

"""Saving is whole or not at all: killed at every step of a save, on a full disk, read back cut off or changed."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backflip import checkpoint
from backflip.checkpoint import TENSORS, TREE, atomic_file, atomic_folder, load_tensors, save_tensors, write_atomic
from backflip.errors import DataError, StoreError


def equal(one: Any, other: Any) -> bool:
    """Compare trees exactly: kinds, dtypes, values; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one.nan_to_num(7), other.nan_to_num(7))
        )
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other or (one != one and other != other)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
TENSOR = st.builds(
    lambda dtype, shape: torch.arange(int(np.prod(shape))).reshape(shape).to(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | TENSOR
    | st.just(np.arange(4, dtype=np.uint32))
)
KEY = (
    st.text(max_size=4)
    | st.integers()
    | st.booleans()
    | st.just("$tensor")
    | st.tuples(st.integers(), st.text(max_size=2))
)
TREES = st.recursive(
    LEAF,
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(KEY, part, max_size=3) | st.lists(part, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(tree=TREES)
def test_what_is_loaded_is_what_was_saved(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("trees") / "tree"
    save_tensors(path, tree)
    assert equal(load_tensors(path), tree)


def test_training_goes_on_bit_for_bit_from_a_saved_optimizer(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()

    whole, whole_optimizer = make()
    steps(whole, whole_optimizer, 6)
    model, optimizer = make()
    steps(model, optimizer, 3)
    save_tensors(tmp_path / "state", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    again, again_optimizer = make()
    state = load_tensors(tmp_path / "state")
    again.load_state_dict(state["model"])
    again_optimizer.load_state_dict(state["optimizer"])
    steps(again, again_optimizer, 3)
    assert equal(dict(again.state_dict()), dict(whole.state_dict()))
    assert equal(again_optimizer.state_dict(), whole_optimizer.state_dict())


def test_how_a_tensor_lies_in_memory_is_kept(tmp_path: Path) -> None:
    """Fused Adam walks through memory: moments that come back in another order would be paired with other weights."""
    turned = torch.arange(6.0).view(2, 3).T
    save_tensors(tmp_path / "x", {"turned": turned, "wide": torch.ones(1).expand(4), "part": torch.arange(8.0)[::2]})
    found = load_tensors(tmp_path / "x")
    assert found["turned"].stride() == turned.stride() and torch.equal(found["turned"], turned)
    both = torch.arange(6.0).view(2, 3).T
    save_tensors(tmp_path / "y", [both, both])
    first, second = load_tensors(tmp_path / "y")
    assert first.data_ptr() == second.data_ptr(), "tied weights stay tied"
    assert found["wide"].tolist() == [1.0] * 4 and found["part"].tolist() == [0.0, 2.0, 4.0, 6.0]


def test_tied_and_overlapping_tensors_are_saved(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    save_tensors(tmp_path / "t", {"a": weight, "b": weight.view(6), "row": weight[2:4], "c": weight.view(2, 3).T})
    back = load_tensors(tmp_path / "t")
    back["a"][0] = 9.0
    assert back["b"][0] == 9.0, "tied tensors share memory again"
    assert back["row"].tolist() == [2.0, 3.0] and back["c"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.parametrize("bad", [object(), {1, 2}, b"bytes", torch.ones(2).to_sparse(), np.array(["text"])])
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path: Path, bad: Any) -> None:
    save_tensors(tmp_path / "t", {"old": 1})
    with pytest.raises(DataError, match=r"cannot save tree\['a'\]\[1\]"):
        save_tensors(tmp_path / "t", {"a": [0, bad]})
    assert load_tensors(tmp_path / "t") == {"old": 1}


def test_loading_never_unpickles(tmp_path: Path) -> None:
    import pickle

    save_tensors(tmp_path / "t", {"x": torch.ones(1)})
    (tmp_path / "t" / TENSORS).write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(DataError, match=TENSORS):
        load_tensors(tmp_path / "t")


@pytest.mark.parametrize("name", [TREE, TENSORS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save_tensors(tmp_path / "t", {"x": torch.ones(4)})
    (tmp_path / "t" / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing; give"):
        load_tensors(tmp_path / "t")
    with pytest.raises(DataError, match="no checkpoint at"):
        load_tensors(tmp_path / "nothing")


@pytest.mark.parametrize("name", [TREE, TENSORS])
def test_a_file_cut_off_at_any_length_is_named(tmp_path: Path, name: str) -> None:
    save_tensors(tmp_path / "t", {"x": torch.arange(20.0), "y": [1, 2]})
    file = tmp_path / "t" / name
    whole = file.read_bytes()
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"{name}.*restore it from a copy"):
            load_tensors(tmp_path / "t")


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t", {"x": torch.arange(20.0)})
    file = tmp_path / "t" / TENSORS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="checksum"):
        load_tensors(tmp_path / "t")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t", {})
    file = tmp_path / "t" / TREE
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match="format 2, expected 1"):
        load_tensors(tmp_path / "t")


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_replaced_only_when_the_block_ends_well(
    tmp_path: Path, swaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swaps:
        monkeypatch.setattr(checkpoint, "_swap", lambda *_: False)
    path = tmp_path / "folder"
    with atomic_folder(path) as new:
        (new / "a").write_text("1")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as new:
        (new / "a").write_text("2")
        raise KeyboardInterrupt
    assert (path / "a").read_text() == "1"
    with atomic_folder(path) as new:
        (new / "b").write_text("3")
    assert [file.name for file in path.iterdir()] == ["b"]
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_a_folder_may_be_filled_by_something_that_saves_atomically_itself(tmp_path: Path) -> None:
    """As when a policy's own `save` fills a checkpoint of a run."""
    for value in ("1", "2"):
        with atomic_folder(tmp_path / "outer") as outer:
            (outer / "lost").touch()
            with atomic_folder(outer) as inner:
                (inner / "a").write_text(value)
            with atomic_folder(outer / "part") as inner:
                (inner / "b").write_text(value)
            write_atomic(outer / "c", value)
        found = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
        assert found == {"outer/a": value, "outer/part/b": value, "outer/c": value}


def test_this_file_system_swaps_folders_in_one_step(tmp_path: Path) -> None:
    """Else the kill test below would test the two-step way twice."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").touch()
    if sys.platform not in ("linux", "darwin"):
        pytest.skip("only Linux and macOS can swap two folders in one step")
    assert checkpoint._swap(tmp_path / "a", tmp_path / "b") and (tmp_path / "b" / "x").exists()


def test_links_are_followed_and_files_are_not_replaced_by_folders(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    save_tensors(tmp_path / "link", {"x": 1})
    assert (tmp_path / "link").is_symlink() and load_tensors(tmp_path / "real") == {"x": 1}
    write_atomic(tmp_path / "file", "text")
    with pytest.raises(DataError, match="a file has that name"):
        save_tensors(tmp_path / "file", {})
    assert (tmp_path / "file").read_text() == "text"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    name = checkpoint._beside(tmp_path / "x").name
    (tmp_path / name).mkdir()
    (tmp_path / name.replace(str(os.getpid()), dead.stdout.strip())).mkdir()
    write_atomic(tmp_path / "x", "text")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "x"])


# Forks children that save again and again, and kills each at its k-th look at the outside world (file opened, renamed,
# removed, ...), for every k until a save comes to its end. What is there afterwards must be whole: the old or the new.
KILLER = """
import os, signal, sys
import torch
from backflip import checkpoint
from backflip.checkpoint import load_tensors, save_tensors

path, swaps = sys.argv[1], sys.argv[2] == "swap"
if not swaps:
    checkpoint._swap = lambda *_: False
tree = lambda version: {"version": version, "weights": [torch.full((500,), float(version)) for _ in range(3)]}
save_tensors(path, tree(0))
kills, kept, version = 0, {"old": 0, "new": 0}, 0
while True:
    kills += 1
    child = os.fork()
    if child == 0:
        left = kills
        def hook(event, arguments):
            global left
            if event.split(".")[0] in ("open", "os", "shutil", "ctypes"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        save_tensors(path, tree(version + 1))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = load_tensors(path)
    assert found["version"] in (version, version + 1), (found["version"], version)
    assert all(bool((part == found["version"]).all()) for part in found["weights"])
    kept["old" if found["version"] == version else "new"] += 1
    version = found["version"]
    if not os.WIFSIGNALED(status):
        left = os.listdir(os.path.dirname(path))
        assert status == 0 and left == [os.path.basename(path)], (status, left)
        print(kills, kept["old"], kept["new"])
        break
"""


@pytest.mark.parametrize("how", ["swap", "two steps"])
def test_killed_at_any_step_of_a_save_leaves_the_old_or_the_new(tmp_path: Path, how: str) -> None:
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-c", KILLER, str(tmp_path / "in" / "state"), how]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kills, old, new = map(int, done.stdout.split())
    assert kills > 15 and old > 5 and new > 1, "the kills must fall before and after the moment of replacement"


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


FULL = """
    import sys, torch
    from pathlib import Path
    from backflip.checkpoint import atomic_folder, load_tensors, save_tensors, write_atomic
    from backflip.errors import StoreError
    folder = Path(sys.argv[1])
    def save_model(path):
        with atomic_folder(path) as new:
            from safetensors.torch import save_file
            save_file({"x": torch.ones(100_000)}, new / "model.safetensors")
    tries = {
        "tensors": lambda path: save_tensors(path, {"x": torch.ones(100_000)}),
        "tree": lambda path: save_tensors(path, {"x": list(range(100_000))}),
        "model": save_model,
        "text": lambda path: write_atomic(path, "x" * 100_000),
    }
    for name, save in tries.items():
        try:
            save(folder / name)
        except StoreError as error:
            assert "cannot save" in str(error) and "make room" in str(error) and "\\n" not in str(error), error
            print(name, end=" ")
"""


def test_a_full_disk_is_one_clear_line_and_the_old_stays(tmp_path: Path) -> None:
    for name in ("tensors", "tree"):
        save_tensors(tmp_path / name, {"x": torch.zeros(3)})
    with atomic_folder(tmp_path / "model") as new:
        (new / "old").touch()
    write_atomic(tmp_path / "text", "old")
    script = textwrap.dedent(FULL)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, preexec_fn=limited(50_000)
    )
    assert done.stdout.split() == ["tensors", "tree", "model", "text"], done.stderr
    assert equal(load_tensors(tmp_path / "tensors"), {"x": torch.zeros(3)})
    assert equal(load_tensors(tmp_path / "tree"), {"x": torch.zeros(3)})
    assert (tmp_path / "model" / "old").exists() and (tmp_path / "text").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "tensors", "text", "tree"]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_file(tmp_path / "x"):
        raise PermissionError("no")
    with pytest.raises(StoreError, match="quota"), checkpoint.saving(tmp_path):
        raise OSError(checkpoint.errno.EDQUOT, "quota")

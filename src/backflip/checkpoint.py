"""Put files and folders in place whole or not at all, and keep trees of tensors without pickling.

A reader sees the old content or the new one, never a part, whatever happens to the writer: an error, `kill -9`, a
full disk, a power cut (everything is synced before it is renamed). Leaves out *what* is saved, and how many
checkpoints are kept: see `backflip.run`. Importing this module does not import torch.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backflip.errors import DataError, StoreError

if TYPE_CHECKING:
    from torch import Tensor

TREE, TENSORS = "tree.json", "tensors.safetensors"
FORMAT = 1
_SWAP = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS happen to be the same number
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
}


def write_atomic(path: str | Path, content: bytes | str, sync: bool = True) -> None:
    """Replace one file, so that a reader finds the old content or the new one. Text is written as UTF-8.

    `sync=False` is for what is written often and worth little: it too survives `kill -9`, but a power cut may lose it.
    Raises StoreError where the disk is full; the old file is then intact.
    """
    with atomic_file(path, sync) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: str | Path, sync: bool = True) -> Generator[Path, None, None]:
    """Yield a file name for the block to write to; when the block ends well, that file takes the place of `path`.

    When the block raises, `path` is untouched. Raises StoreError where the disk is full.
    """
    path = Path(os.path.realpath(path))
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        new = _beside(path)
        try:
            yield new
            if sync:
                _sync(new)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        if sync:
            _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Generator[Path, None, None]:
    """Yield an empty folder that takes the place of `path` when the block ends well; the old one stays until then.

    When the block raises, the new folder is removed and `path` is untouched. Raises StoreError where the disk is full.
    """
    path = Path(os.path.realpath(path))
    if path.is_file():
        raise DataError(
            f"cannot save a folder at {path}: a file has that name; give another path, or move the file away"
        )
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        settle(path)
        sweep(path.parent, path.name)
        new = _beside(path)
        new.mkdir()
        try:
            yield new
            for folder, _, names in os.walk(new, topdown=False):
                for name in names:
                    _sync(Path(folder, name))
                _sync_folder(Path(folder))
            _take_place(new, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def settle(path: Path) -> None:
    """Finish a replacement that was cut off between its two renames: the old folder comes back under its name.

    Needed only where the file system cannot swap two folders in one step; harmless everywhere else.
    """
    old = _old(path)
    if not old.exists():
        return
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.rename(path)


def sweep(folder: Path, name: str = "") -> None:
    """Remove what writers on this machine, now dead, left half-written in `folder` (for `name` only, if given)."""
    pattern = re.compile(rf"\.({re.escape(name) or '.+'})\.(\d+)@{re.escape(socket.gethostname())}-[0-9a-f]{{8}}\.new")
    for entry in list(folder.iterdir()):
        match = pattern.fullmatch(entry.name)
        if match and not _alive(int(match.group(2))):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)


@contextmanager
def saving(path: Path) -> Generator[None, None, None]:
    """Turn a full disk while saving `path` into a StoreError of one line; other errors pass unchanged."""
    try:
        yield
    except Exception as error:
        reason = disk_full(error)
        if reason is None:
            raise
        free = shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.is_dir())).free // 2**20
        raise StoreError(
            f"cannot save {path}: {reason} ({free} MiB free); what was there before is intact; make room and go on"
        ) from error


def disk_full(error: BaseException) -> str | None:
    """Say in words why there was no room, or return None when `error` is about something else."""
    if isinstance(error, OSError):
        return _FULL.get(error.errno or 0)
    # safetensors reports the system's error number in the text of its own exception
    if type(error).__name__ == "SafetensorError" and (match := re.search(r"(?:code: |os error )(\d+)", str(error))):
        return _FULL.get(int(match.group(1)))
    return None


def save_tensors(path: str | Path, tree: Any) -> None:
    """Save nested dicts, lists and tuples of tensors, arrays and JSON scalars as one folder, atomically.

    Keys may be any scalar (optimizer state has integers); a tensor that occurs twice is stored once; everything is
    stored on the CPU, detached. `load_tensors` returns an equal tree. Raises DataError naming what cannot be stored.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain = _encode(tree, "tree", tensors, {})
    with atomic_folder(path) as new:
        save_file(tensors, new / TENSORS)
        document = {"format": FORMAT, "crc32": _crc32(new / TENSORS), "tree": plain}
        (new / TREE).write_text(json.dumps(document, allow_nan=False), encoding="utf-8")


def load_tensors(path: str | Path) -> Any:
    """Return the tree that `save_tensors` put at `path`, tensors on the CPU.

    Raises DataError naming the file where something is missing, cut off, changed, or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    settle(path)
    for name in (TREE, TENSORS):
        if not (path / name).is_file():
            raise DataError(f"no checkpoint at {path}: {name} is missing; give the path of a whole one, or start anew")
    remedy = "the file is cut off or damaged: restore it from a copy, or start from an older checkpoint"
    try:
        document = json.loads((path / TREE).read_text(encoding="utf-8"))
        form, crc32, plain = document["format"], document["crc32"], document["tree"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path / TREE} ({error}); {remedy}") from error
    if form != FORMAT:
        raise DataError(
            f"{path / TREE} has format {form}, expected {FORMAT}: it was written by another version of backflip"
        )
    if _crc32(path / TENSORS) != crc32:
        raise DataError(f"cannot read {path / TENSORS}: its checksum is not the one noted in {TREE}; {remedy}")
    try:
        return _decode(plain, load_file(path / TENSORS))
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"cannot read {path / TENSORS} ({error}); {remedy}") from error


def _encode(value: Any, where: str, tensors: dict[str, Tensor], seen: dict[Any, tuple[str, Any]]) -> Any:
    """Replace tensors by their number and everything JSON lacks by {"$kind": ...}. `seen` keeps what it names alive."""
    import numpy as np
    import torch

    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, torch.Tensor | np.ndarray):
        kind = "$tensor" if isinstance(value, torch.Tensor) else "$array"
        try:
            tensor = torch.as_tensor(value).detach()
            # tied weights are two tensors on one memory: they share a number, and memory again once loaded
            same = (kind, tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if same not in seen or not tensor.numel():
                seen[same] = (str(len(tensors)), value)
                tensors[seen[same][0]] = tensor.cpu().clone(memory_format=torch.contiguous_format)
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"cannot save {where}: {error}; expected a dense tensor or a numeric array") from error
        if tensor.is_contiguous() or kind == "$array":
            return {kind: seen[same][0]}
        # How it lies in memory is kept: a fused optimiser walks through memory, and pairs moments with weights by it.
        return {"$strided": [seen[same][0], list(torch.empty_like(tensor, device="meta").stride())]}
    if isinstance(value, np.generic):
        return _encode(value.item(), where, tensors, seen)
    if isinstance(value, list | tuple):
        parts = [_encode(part, f"{where}[{i}]", tensors, seen) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {"$tuple": parts}
    if isinstance(value, Mapping):
        pairs = [(key, _encode(part, f"{where}[{key!r}]", tensors, seen)) for key, part in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$dict": [[_encode(key, f"key {key!r} of {where}", tensors, seen), part] for key, part in pairs]}
    raise DataError(
        f"cannot save {where}: it is a {type(value).__name__}; expected dicts, lists, tensors, arrays, numbers or text"
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        return {key: _decode(part, tensors) for key, part in value.items()}
    ((kind, content),) = value.items()
    match kind:
        case "$tensor":
            return tensors[content]
        case "$strided":
            number, stride = content
            flat = tensors[number]
            if flat.stride() != tuple(stride):
                tensors[number] = flat.new_empty_strided(flat.shape, stride).copy_(flat)
            return tensors[number]
        case "$array":
            return tensors[content].numpy()
        case "$float":
            return float(content)
        case "$tuple":
            return tuple(_decode(part, tensors) for part in content)
        case "$dict":
            return {_decode(key, tensors): _decode(part, tensors) for key, part in content}
        case _:
            return {kind: _decode(content, tensors)}


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _beside(path: Path) -> Path:
    """Return a hidden name in the same folder (a rename must not cross file systems) that says who writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}-{secrets.token_hex(4)}.new")


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _take_place(new: Path, path: Path) -> None:
    """Give `new` the name `path`; afterwards `new` holds what was there, or is gone."""
    if not path.exists():
        new.rename(path)
    elif not _swap(new, path):
        path.rename(_old(path))
        new.rename(path)
        shutil.rmtree(_old(path))


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names in one step. Returns False where the system or the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(one), os.fsencode(other))
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        code = libc.renamex_np(*names, ctypes.c_uint(_SWAP))
    elif hasattr(libc, "renameat2"):
        here = ctypes.c_int(-100)  # AT_FDCWD
        code = libc.renameat2(here, names[0], here, names[1], ctypes.c_uint(_SWAP))
    else:
        return False
    number = ctypes.get_errno()
    if code and number not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(other))
    return code == 0


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

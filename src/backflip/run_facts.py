"""What a run folder says about where its numbers come from: command, code revision, versions, machine, memory.

Leaves out the folder itself (`run.py`). Importing this module does not import torch; `machine_facts` does.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    *("backflip", "torch", "transformers", "tokenizers", "peft"),
    *("safetensors", "accelerate", "numpy", "scipy", "sqlalchemy"),
)


def command_facts() -> dict[str, Any]:
    """Return what `command.json` holds: argv, folder, code revision, versions, machine."""
    return {
        "argv": list(sys.argv),
        "cwd": str(Path.cwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **code_facts(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        **machine_facts(),
        "versions": versions(),
    }


def code_facts(source: Path = Path(__file__)) -> dict[str, Any]:
    """Return the git revision of the code that runs, and whether it was changed since; None where git cannot tell.

    An installed package lies in no work tree of its own: then the current folder's revision counts.
    """
    tracked = _git(source.parent, "ls-files", "--error-unmatch", source.name) is not None
    folder = source.parent if tracked else Path.cwd()
    revision = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain") if revision else None
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def machine_facts() -> dict[str, Any]:
    """Return the device that torch would use, its name, and the number of threads."""
    import torch

    if torch.cuda.is_available():
        return {"device": "cuda", "device_name": torch.cuda.get_device_name(), "threads": torch.get_num_threads()}
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    return {
        "device": device,
        "device_name": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Return the installed version of each package that can change a number; an absent one is left out."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_rss_mb() -> float:
    """Return this process's largest memory so far, in MB (10^6 bytes).

    Linux carries `ru_maxrss` over from the process that started this one, so there the kernel's own mark is read.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

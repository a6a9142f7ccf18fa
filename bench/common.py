"""What the side-by-side measurements share: threads, timing, the machine's own peak, and the result file.

A result is `bench/results/NAME.json` with `name`, `ours`, `peer`, `ratio`, `unit`, `machine`, `command`, `date` and
`detail`. Every number in it was measured in the run that wrote it. Left out: what is measured (one file each).
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent


def machine(device: str = "cpu", threads: int | None = None) -> str:
    """Describe what the numbers were measured on, in words, without names of hosts."""
    import torch

    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the processor's own name must do
    used = threads or torch.get_num_threads()
    return f"{model}, {used} threads of {os.cpu_count()} processors, torch {torch.__version__}"


def processors() -> int:
    """Return how many processors this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, MiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1 << 20) if sys.platform == "darwin" else used / 1024


def seconds_of(work: Callable[[], object], device: str = "cpu", repeats: int = 5, warmup: int = 2) -> list[float]:
    """Run `work` a few times unmeasured, then measured; wait for the device before each clock reading."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    for _ in range(warmup):
        work()
    seconds: list[float] = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return seconds


def matmul_peak_gflops(dtype_name: str, device: str = "cpu") -> float:
    """Return the best rate of square matrix products on this device now, GFLOP/s: the peak that can really be had.

    Through PyTorch's own library and, in float32 on a CPU, through oneDNN, which the updates use: the faster one counts.
    """
    import torch

    from backflip.policies.products import times

    sizes = (1024, 2048, 4096) if device == "cpu" else (4096, 8192, 16384)
    best = 0.0
    for size in sizes:
        a = torch.randn(size, size, dtype=torch.float32, device=device).to(getattr(torch, dtype_name))
        b = torch.randn(size, size, dtype=torch.float32, device=device).to(getattr(torch, dtype_name))
        for product in (torch.matmul, times):
            best = max(best, 2 * size**3 / min(seconds_of(partial(product, a, b), device)) / 1e9)
    return best


def peer(name: str) -> Path:
    """Return the Python of a peer's own environment, or stop and say how to make it."""
    python = ROOT / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is missing; make it with: make bench, or make .venv-{name}/.installed")
    return python


def child(command: Sequence[str], threads: int, before: str = "") -> Any:
    """Run one side in a process of its own and read its last line; `before` is put in front of the command."""
    done = subprocess.run(
        [*shlex.split(before), *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def clock_of(name: str) -> Callable[[], float]:
    """Return a clock by its name: wall, or processor (this process's own seconds, fair on a machine that others use)."""
    return {"wall": time.perf_counter, "processor": time.process_time}[name]


def per(unit: str, clock: str) -> str:
    """Return the words for so many units in a second of a clock."""
    return f"{unit} a second" if clock == "wall" else f"{unit} a processor second"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def record(
    name: str,
    ours: float | None,
    peer: float | None,
    unit: str,
    detail: dict[str, Any],
    *,
    on: str,
    lower: bool = False,
) -> Path:
    """Write `bench/results/NAME.json` and print its main line; `ratio` above 1 says that ours is better.

    `lower=True` where less is better. A side that was not measured is None, and then there is no ratio.
    """
    ratio = None
    if ours is not None and peer is not None and min(ours, peer) > 0:
        ratio = peer / ours if lower else ours / peer
    result = {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "unit": unit,
        "machine": on,
        "command": " ".join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "detail": detail,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    shown = {key: result[key] for key in ("name", "ours", "peer", "ratio", "unit")}
    print(json.dumps(shown))
    return path

"""The worker's side of the protocol in `benchmarks.mpc.workers`, for systems of one process: the suite `he`.

What it runs is asked for by a JSON object with kind, name, parameters, inputs (an npz file) and outputs.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

__all__ = ["System", "clocked", "serve"]

T = TypeVar("T")


class System(Protocol):
    """One case on one system."""

    versions: dict[str, str]

    def run(self) -> dict[str, Any]:
        """One repetition: cpu_s and wall_s by `clocked`, and what else there is to tell."""
        ...

    def outputs(self) -> dict[str, Any]:
        """Arrays by name: what the last repetition computed."""
        ...


def clocked(work: Callable[[], T], least_s: float = 0.0) -> tuple[T, dict[str, Any]]:
    """The result of `work`, and the CPU time (all threads) and wall-clock time of one call.

    Args:
        least_s: call again until so much CPU time has gone by, and give the mean.
    """
    calls, began_s, began_cpu_s = 0, time.perf_counter(), time.process_time()
    while True:
        found = work()
        calls += 1
        cpu_s = time.process_time() - began_cpu_s
        if cpu_s >= least_s:
            wall_s = time.perf_counter() - began_s
            return found, {"cpu_s": [cpu_s / calls], "wall_s": wall_s / calls}


def serve(argument: str, make: Callable[[dict[str, Any]], System]) -> int:
    """Runs until it is told to stop; `make` raises LookupError for what it cannot do."""
    task: dict[str, Any] = json.loads(argument)
    try:
        system = make(task)
    except LookupError as error:
        _say({"unavailable": str(error)})
        return 0
    _say({"ready": True, "versions": system.versions})
    for line in sys.stdin:
        if line.strip() == "stop":
            np.savez(task["outputs"], **system.outputs())
            return 0
        found = system.run()
        _say({"peak_rss_bytes": _peak_bytes(), **found})
    return 1


def _peak_bytes() -> int:
    """The most memory of this process. The figure that `resource` has starts with that of whoever started it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _say(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()

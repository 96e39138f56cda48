"""The systems `enclave` and `plain`: this project, and float64 in the clear; each in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.he.cases import Case
from benchmarks.he.inputs import make_inputs
from benchmarks.peers.serving import System, serve
from benchmarks.suite import Unavailable

__all__ = ["main"]


def _make(task: dict[str, Any]) -> System:
    case = Case(task["kind"], task["name"], task["parameters"])
    data = None if task["data"] is None else Path(task["data"])
    try:
        return _enclave(case, data) if task["system"] == "enclave" else _plain(case, data)
    except Unavailable as error:
        raise LookupError(str(error)) from error


def _enclave(case: Case, data: Path | None) -> System:
    if case.kind == "train":
        from benchmarks.he.jobs import Train

        return Train(case, data)
    inputs = make_inputs(case)
    if case.kind == "operation":
        from benchmarks.he.operations import Operation

        return Operation(case.name, case.parameters["n"], inputs)
    from benchmarks.he import hybrid, jobs, products, scoring

    kinds: dict[str, Callable[[Any], System]] = {
        "matvec": products.Matvec,
        "cnn": products.Tutorial,
        "scoring": scoring.Scoring,
        "hybrid": hybrid.Hybrid,
        "rmse": jobs.Rmse,
    }
    return kinds[case.kind](inputs)


def _plain(case: Case, data: Path | None) -> System:
    from benchmarks.he.plain import Plain

    return Plain(case, data)


def main(argument: str) -> int:
    """The worker: see `benchmarks.peers.serving`."""
    return serve(argument, _make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

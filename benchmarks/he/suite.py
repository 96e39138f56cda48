"""Runs cases on systems that take turns, checks what they computed, and writes down what it cost."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.he.cases import LISTED, Case, systems_of
from benchmarks.he.inputs import make_inputs
from benchmarks.he.truth import Truth
from benchmarks.measurement import Measurement, Spread
from benchmarks.mpc.workers import Worker, WorkerFailed
from benchmarks.peers import environment
from benchmarks.suite import Settings, Unavailable

__all__ = ["HeSuite"]

SYSTEMS = ("enclave", "tenseal", "openfhe", "plain")
_OWN = ("enclave", "plain")
_FROM_FILES = ("matvec", "cnn", "operation")  # what peers compute too
_LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told."""

    system: str
    case: Case
    folder: Path
    data: Path | None

    @property
    def outputs(self) -> Path:
        """Where the worker leaves its results."""
        return self.folder / f"{self.system}.npz"

    def command(self) -> list[str]:
        """The process to start. Raises Unavailable when a peer's environment is missing."""
        argument = json.dumps(
            {
                "system": self.system,
                "kind": self.case.kind,
                "name": self.case.name,
                "parameters": dict(self.case.parameters),
                "data": None if self.data is None else str(self.data.resolve()),
                "inputs": str(self.folder / "inputs.npz"),
                "outputs": str(self.outputs),
            }
        )
        if self.system in _OWN:
            return [sys.executable, "-m", "benchmarks.he.enclave", argument]
        return [str(_interpreter(self.system)), "-m", f"benchmarks.peers.{self.system}_he", argument]


def _interpreter(system: str) -> Path:
    if system == "tenseal":
        return Path(sys.executable)
    named = os.environ.get("ENCLAVE_PEERS_PYTHON")
    try:
        return environment.python_of(system, Path(named).parent.parent if named else environment.DEFAULT)
    except FileNotFoundError as error:
        raise Unavailable(str(error)) from error


class HeSuite:
    """Homomorphic encryption, beside the libraries of others."""

    name = "he"
    systems = SYSTEMS
    usual = ("enclave", "tenseal", "plain")

    def listed(self) -> Sequence[tuple[str, str]]:
        """The cases that are usually measured; any size may be asked for by name."""
        return [(name, f"systems {', '.join(systems_of(Case.parse(name)))}") for name in LISTED]

    def exists(self, name: str) -> bool:
        """Whether a name is that of a case, with whatever sizes."""
        try:
            Case.parse(name)
        except ValueError:
            return False
        return True

    def measure(self, name: str, systems: Sequence[str], settings: Settings) -> Iterator[Measurement]:
        """One line per system that has such an operation; they take turns repetition by repetition."""
        case = Case.parse(name)
        able = [system for system in systems if system in systems_of(case)]
        for system in systems:
            if system not in able:
                settings.say(f"{case}: {system} has no such operation")
        if not able:
            return
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
            if case.kind in _FROM_FILES:
                np.savez(folder / "inputs.npz", **make_inputs(case))  # type: ignore[arg-type]  # of arrays by name
            turns = _Turns(case, able, settings, folder, stack)
            turns.run()
            yield from turns.lines()


class _Turns:
    """The repetitions of one case on all its systems."""

    def __init__(self, case: Case, systems: Sequence[str], settings: Settings, folder: Path, stack: ExitStack) -> None:
        self._case, self._systems, self._settings = case, systems, settings
        self._folder, self._stack = folder, stack
        self._workers: dict[str, Worker] = {}
        self._found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
        self._errors: dict[str, str] = {}

    def run(self) -> None:
        """Starts the systems one after the other, warms each up, and lets them take turns."""
        for system in self._systems:
            self._settings.say(f"{self._case}: starting {system}")
            task = Task(system, self._case, self._folder, self._settings.data)
            try:
                self._workers[system] = worker = self._stack.enter_context(Worker(task, _LIMIT_S))
                worker.greet()
                if self._case.kind != "train":
                    worker.run()
            except (Unavailable, WorkerFailed) as error:
                self._errors[system] = str(error)
        for turn in range(self._settings.repeat):
            for system in self._systems:
                if system not in self._errors:
                    self._turn(system, turn)

    def _turn(self, system: str, turn: int) -> None:
        try:
            found = self._workers[system].run()
            self._found[system].append(found)
            cpu_s = sum(found["cpu_s"])
            self._settings.say(f"{self._case}: {system}, {turn + 1} of {self._settings.repeat}: {1e3 * cpu_s:.3f} ms")
        except (KeyError, WorkerFailed) as error:
            self._errors[system] = str(error)

    def lines(self) -> Iterator[Measurement]:
        """What each system did, or why it did not."""
        done = [system for system in self._systems if system not in self._errors]
        truth = Truth(self._case, self._settings.data) if done else None
        for system in self._systems:
            line = Measurement("he", str(self._case), system, error=self._errors.get(system))
            if truth is not None and line.error is None:
                try:
                    line = truth.judged(line, self._workers[system].stop())
                except (ValueError, WorkerFailed) as error:
                    line = replace(line, error=str(error))
            yield line if line.error is not None else self._with_figures(line)

    def _with_figures(self, line: Measurement) -> Measurement:
        runs, worker = self._found[line.system], self._workers[line.system]
        times, last = Spread.of([sum(run["cpu_s"]) for run in runs]), runs[-1]
        figures = dict(line.figures or {})
        for name in last.get("figures", {}):
            figures[name] = float(np.median([run["figures"][name] for run in runs]))
        figures["wall_s"] = float(np.median([run["wall_s"] for run in runs]))
        peak = last.get("peak_rss_bytes")
        return replace(
            line,
            median_s=times.median_s,
            p10_s=times.p10_s,
            p90_s=times.p90_s,
            repeats=times.repeats,
            cpu_s=[round(float(np.median(s)), 7) for s in zip(*(run["cpu_s"] for run in runs), strict=True)],
            rounds=last.get("rounds"),
            sent_bytes=last.get("sent_bytes"),
            received_bytes=last.get("received_bytes"),
            dealer_bytes=last.get("dealer_bytes"),
            peak_rss_bytes=None if peak is None else {"largest": int(peak)},
            figures=figures,
            versions=worker.versions,
        )

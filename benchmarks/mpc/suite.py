"""Runs cases on systems that take turns, checks what they computed, and writes down what it cost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurement import Measurement, Spread, versions
from benchmarks.mpc.cases import LISTED, Case
from benchmarks.mpc.exact import bound, error_of, exact
from benchmarks.mpc.inputs import Arrays, make_inputs
from benchmarks.mpc.workers import SYSTEMS, Task, Worker, WorkerFailed
from benchmarks.suite import Settings, Unavailable

__all__ = ["MpcSuite"]


PLAN = "plan"


class MpcSuite:
    """Protocols and small models on secret-shared inputs, beside other systems of secure computation."""

    name = "mpc"
    systems = (*SYSTEMS, PLAN)
    usual = ("enclave", "plain")

    def listed(self) -> Sequence[tuple[str, str]]:
        """The cases that are usually measured; any size may be asked for by name."""
        return [(name, "") for name in LISTED]

    def exists(self, name: str) -> bool:
        """Whether a name is that of a case, with whatever sizes."""
        try:
            Case.parse(name)
        except ValueError:
            return False
        return True

    def measure(self, name: str, systems: Sequence[str], settings: Settings) -> Iterator[Measurement]:
        """One line per system: all of them are up, and take turns repetition by repetition."""
        case = Case.parse(name)
        if PLAN in systems:
            yield _planned(case, settings.profile)
        systems = [system for system in systems if system != PLAN]
        if not systems:
            return
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
            inputs = make_inputs(case)
            np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]  # of arrays by name
            turns = _Turns(case, inputs, systems, settings, folder, stack)
            turns.run()
            wanted = exact(case, inputs)
            for system in systems:
                yield turns.line(system, wanted)


class _Turns:
    """The repetitions of one case on all its systems."""

    def __init__(
        self,
        case: Case,
        inputs: Arrays,
        systems: Sequence[str],
        settings: Settings,
        folder: Path,
        stack: ExitStack,
    ) -> None:
        self._inputs = inputs
        self._case, self._settings, self._folder, self._stack = case, settings, folder, stack
        self._systems = systems
        self._workers: dict[str, Worker] = {}
        self._found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
        self._errors: dict[str, str] = {}

    def run(self) -> None:
        """Starts all systems, warms each up, and lets them take turns."""
        self._settings.say(f"{self._case}: starting {', '.join(self._systems)}")
        for system in self._systems:
            task = Task(system, self._case, self._settings.profile, self._folder, self._settings.repeat + 1)
            try:
                self._workers[system] = self._stack.enter_context(Worker(task))
            except Unavailable as error:
                self._errors[system] = str(error)
        for system, worker in self._workers.items():
            try:
                worker.greet()
                worker.run()
            except (Unavailable, WorkerFailed) as error:
                self._errors[system] = str(error)
        for turn in range(self._settings.repeat):
            for system in self._systems:
                if system in self._errors:
                    continue
                try:
                    found = self._workers[system].run()
                    self._found[system].append(found)
                    self._settings.say(
                        f"{self._case}: {system}, {turn + 1} of {self._settings.repeat}: {1e3 * found['wall_s']:.2f} ms"
                    )
                except (KeyError, WorkerFailed) as error:
                    self._errors[system] = str(error)

    def line(self, system: str, wanted: Arrays) -> Measurement:
        """What one system did, or why it did not."""
        worker, profile = self._workers.get(system), self._settings.profile
        error, largest = self._errors.get(system), None
        if error is None and worker is not None:
            try:
                largest = error_of(self._case, worker.stop(), wanted)
                allowed = bound(self._case, system, self._inputs, wanted)
                if largest > allowed:
                    error = f"wrong: the error is {largest:.3g}, at most {allowed:.3g}"
            except (ValueError, WorkerFailed) as problem:
                error = str(problem)
        base = Measurement("mpc", str(self._case), system, profile=profile, max_error=largest, error=error)
        return _with_figures(base, self._found[system], worker) if error is None and worker is not None else base


def _planned(case: Case, profile: str) -> Measurement:
    """What this project will send, without running: of one repetition after the first."""
    from benchmarks.mpc.repetitions import plan_of

    first, both = plan_of(case, 1, profile), plan_of(case, 2, profile)
    ranks = range(case.parties)
    return Measurement(
        "mpc",
        str(case),
        PLAN,
        profile,
        rounds=both.rounds - first.rounds,
        sent_bytes=max(both.sent_bytes(rank) - first.sent_bytes(rank) for rank in ranks),
        received_bytes=max(both.received_bytes(rank) - first.received_bytes(rank) for rank in ranks),
        dealer_bytes=both.dealer_bytes - first.dealer_bytes,
        versions=versions(),
    )


def _work(base: Measurement) -> dict[str, float]:
    from benchmarks.mpc.work import work_of

    return work_of(Case.parse(base.case), base.profile)


def _with_figures(base: Measurement, runs: Sequence[dict[str, Any]], worker: Worker) -> Measurement:
    times, last = Spread.of([run["wall_s"] for run in runs]), runs[-1]
    peak = last.get("peak_rss_bytes")
    return replace(
        base,
        median_s=times.median_s,
        p10_s=times.p10_s,
        p90_s=times.p90_s,
        repeats=times.repeats,
        cpu_s=[round(float(np.median(seconds)), 6) for seconds in zip(*(run["cpu_s"] for run in runs), strict=True)],
        rounds=last.get("rounds"),
        sent_bytes=last.get("sent_bytes"),
        received_bytes=last.get("received_bytes"),
        dealer_bytes=last.get("dealer_bytes"),
        peak_rss_bytes=None if peak is None else {"largest": int(peak)},
        figures=_work(base) if base.system == "enclave" else None,
        versions=worker.versions,
    )

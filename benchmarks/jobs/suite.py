"""Runs cases on systems and sets their figures beside those of the plaintext twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.jobs.cases import LISTED, build, check_name
from benchmarks.jobs.names import Name
from benchmarks.measurement import Measurement, Spread, versions
from benchmarks.suite import Settings, Unavailable

if TYPE_CHECKING:
    from benchmarks.jobs.job import Job, Outcome

__all__ = ["JobSuite"]

Runner = Callable[[], "Outcome"]


class JobSuite:
    """Evaluations and trainings, compared with plaintext on the same rows."""

    name = "jobs"
    systems = ("enclave", "memory", "oracle", "oracle20", "plain")
    usual = ("enclave", "plain")

    def listed(self) -> Sequence[tuple[str, str]]:
        """The cases with the parameters that are usually measured."""
        return LISTED

    def exists(self, name: str) -> bool:
        """Whether a name is that of a case, with whatever parameters."""
        try:
            check_name(Name.parse(name))
        except ValueError:
            return False
        return True

    def measure(self, name: str, systems: Sequence[str], settings: Settings) -> Iterator[Measurement]:
        """One line per system. A system that fails yields its error, and does not stop the others."""
        from benchmarks.jobs.plain import run_plain

        settings.say(f"{name}: preparing")
        try:
            job = build(Name.parse(name), settings.data)
        except Unavailable as missing:
            yield from (Measurement(self.name, name, system, error=str(missing)) for system in systems)
            return
        twin = run_plain(job)
        outcomes: dict[str, list[Outcome]] = {system: [] for system in systems}
        errors: dict[str, str] = {}
        with ExitStack() as stack:
            runners: dict[str, Runner] = {}
            for turn in range(settings.repeat):
                for system in (s for s in systems if s not in errors):
                    settings.say(f"{name}: {system}, run {turn + 1} of {settings.repeat}")
                    try:
                        if system not in runners:
                            runners[system] = _runner(system, job, stack)
                        outcomes[system].append(runners[system]())
                    except Exception as error:  # noqa: BLE001  a benchmark goes on with the next system
                        errors[system] = f"{type(error).__name__}: {error}"
        for system in systems:
            if system in errors:
                yield Measurement(self.name, name, system, error=errors[system], versions=versions())
            else:
                yield _line(job, system, outcomes[system], twin)


def _runner(system: str, job: Job, stack: ExitStack) -> Runner:
    """What runs the job once. Nodes are started here and stay up for all repeats."""
    if system == "enclave":
        from benchmarks.jobs.nodes import fleet

        return stack.enter_context(fleet(job)).run
    if system == "plain":
        from benchmarks.jobs.plain import run_plain

        return partial(run_plain, job)
    from benchmarks.jobs.inprocess import run_memory, run_oracle

    return partial(run_memory, job) if system == "memory" else partial(run_oracle, job, rounded=system == "oracle20")


def _line(job: Job, system: str, runs: Sequence[Outcome], twin: Outcome) -> Measurement:
    last, times = runs[-1], Spread.of([run.seconds for run in runs])
    traffic = last.traffic
    own, plain = last.figures, twin.figures
    session = None if last.session_s is None else float(np.median([run.session_s for run in runs]))
    return Measurement(
        suite=JobSuite.name,
        case=job.case,
        system=system,
        accuracy=own.accuracy,
        plain_accuracy=plain.accuracy,
        reference_accuracy=job.reference.accuracy,
        difference_points=_difference(own.accuracy, plain.accuracy, 100.0),
        auc=own.auc,
        plain_auc=plain.auc,
        reference_auc=job.reference.auc,
        difference_auc=_difference(own.auc, plain.auc, 1.0),
        max_error=_max_error(last, twin),
        median_s=times.median_s,
        p10_s=times.p10_s,
        p90_s=times.p90_s,
        repeats=times.repeats,
        session_s=session,
        rounds=traffic.rounds if traffic else None,
        sent_bytes=traffic.sent_bytes if traffic else None,
        received_bytes=traffic.received_bytes if traffic else None,
        dealer_bytes=traffic.dealer_bytes if traffic else None,
        peak_rss_bytes=last.peak_rss_bytes,
        versions=versions(),
    )


def _difference(own: float | None, plain: float | None, unit: float) -> float | None:
    return None if own is None or plain is None else (own - plain) * unit


def _max_error(run: Outcome, twin: Outcome) -> float | None:
    if run.model is not None and twin.model is not None:
        pairs = [(value, twin.model.weights[name]) for name, value in run.model.weights.items()]
        return max(float(np.abs(a - b).max()) for a, b in pairs)
    both = ((run.figures.accuracy, twin.figures.accuracy), (run.figures.auc, twin.figures.auc))
    gaps = [abs(a - b) for a, b in both if a is not None and b is not None]
    return max(gaps, default=None)

"""What happens to jobs right now, in memory: progress of sessions, and waking those who wait for a change.

Progress is not in the store: it means nothing after a crash, and a synced write per step would slow the job down.
"""

from __future__ import annotations

import threading

from enclave.store import FINAL


class Watch:
    """Progress and change counters of the jobs of one process. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._versions: dict[str, int] = {}
        self._progress: dict[str, tuple[int, int, str]] = {}

    def version(self, job_id: str) -> int:
        """A number that differs after every change of the job."""
        with self._changed:
            return self._versions.get(job_id, 0)

    def wait(self, job_id: str, version: int, timeout_s: float) -> bool:
        """Blocks until the job's version is no longer `version`; False when `timeout_s` passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._versions.get(job_id, 0) != version, timeout_s)

    def changed(self, job_id: str, state: str) -> None:
        """Notes that the job is now in `state`, and wakes who waits for it."""
        with self._changed:
            if state == "RUNNING":
                self._progress.setdefault(job_id, (0, 0, ""))
            elif state in FINAL:
                self._progress.pop(job_id, None)
            self._bump(job_id)

    def advanced(self, job_id: str, steps_done: int, steps_total: int, stage: str) -> None:
        """Notes progress; ignored for a job without a session."""
        with self._changed:
            if job_id in self._progress:
                self._progress[job_id] = (steps_done, steps_total, stage)
                self._bump(job_id)

    def progress(self, job_id: str) -> tuple[int, int, str]:
        """Steps done, steps in all, and the stage's name; (0, 0, "") without a session."""
        with self._changed:
            return self._progress.get(job_id, (0, 0, ""))

    def _bump(self, job_id: str) -> None:
        self._versions[job_id] = self._versions.get(job_id, 0) + 1
        self._changed.notify_all()

"""The buyer's own record of its jobs: the same state machine and signed ledger as at a node.

A buyer is a party like the others, so its statement names the head of its own ledger. It has no server: each
command opens the store, and a job whose command died is failed by the next one once its lease ran out.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from enclave.clock import Clock
from enclave.errors import EnclaveError, Refused
from enclave.identity import Identity
from enclave.jobs import History, JobLimits, JobRecord, Jobs
from enclave.messages import JobSpec, Reason, Signed
from enclave.store import Store

__all__ = ["Book"]

_LEASE_S = 60
_RENEW_S = 15.0
_MAX_OPEN = 100_000  # the nodes' limits count, and they say so
_FAR_S = 365 * 86_400


class Book:
    """Opens the store under `home`; close it."""

    def __init__(self, home: Path, identity: Identity, clock: Clock) -> None:
        self._store = Store.open(home / "jobs.db")
        self.jobs = Jobs(self._store, identity, clock, JobLimits(_MAX_OPEN, _FAR_S, _FAR_S))
        self.jobs.expire_due()

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def find(self, job_id: str) -> JobRecord | None:
        """The job's record, None when it was never recorded."""
        try:
            return self.jobs.get(job_id)
        except Refused as error:
            if error.code != "job.unknown":
                raise
            return None

    def propose(self, signed: Signed, spec: JobSpec) -> None:
        """Records a new job before anybody else hears of it."""
        self.jobs.propose(signed, spec)

    def admit(self, job_id: str) -> None:
        """All nodes have admitted the job."""
        if self.jobs.get(job_id).state == "PROPOSED":
            self.jobs.decide(job_id, _yes)

    @contextlib.contextmanager
    def running(self, job_id: str) -> Iterator[str]:
        """Holds the lease of the job while its session runs in this process; yields the lease holder's id."""
        worker = f"buyer-{secrets.token_hex(4)}"
        self.jobs.ask_start(job_id)
        if self.jobs.lease(worker, _LEASE_S, job_id) is None:
            raise EnclaveError(f"job {job_id} is being run by another command", code="job.lease")
        done = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(job_id, worker, done), name="lease", daemon=True)
        renewer.start()
        try:
            yield worker
        finally:
            done.set()
            renewer.join()

    def end(self, job_id: str, state: str, reasons: Sequence[Reason]) -> None:
        """Ends a job that will have no result; a job that is final already stays as it is."""
        record = self.jobs.get(job_id)
        if record.is_final:
            return
        if record.state == "PROPOSED" and state == "FAILED":
            state = "WITHDRAWN"
        if record.state == "RUNNING" and state == "REFUSED":
            state = "FAILED"
        self.jobs.advance(job_id, state, reasons)

    def withdraw(self, job_id: str, name: str) -> JobRecord:
        """Ends a job as withdrawn by its buyer `name`; a job that ended without a result stays as it is.

        Raises:
            Refused: its result was released.
        """
        with contextlib.suppress(Refused):
            self.jobs.advance(job_id, "WITHDRAWN", (Reason("job.withdrawn", f"withdrawn by {name}"),))
        record = self.jobs.get(job_id)
        if record.state == "RELEASED":
            raise Refused(
                f"job {job_id} is released already",
                hint=f"see `enclave buyer result {job_id}`",
                code="job.state",
            )
        return record

    def _renew(self, job_id: str, worker: str, done: threading.Event) -> None:
        while not done.wait(_RENEW_S):
            try:
                self.jobs.renew(job_id, worker, _LEASE_S)
            except EnclaveError:
                return  # the job is final, or the store is gone: the session's own gate will say so


def _yes(record: JobRecord, history: History) -> tuple[str, tuple[Reason, ...]]:
    return "ADMITTED", ()

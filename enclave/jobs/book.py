"""The book of all jobs: every change of a job's state goes through `Jobs._move`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from enclave.clock import Clock
from enclave.errors import BadSpec, Refused
from enclave.identity import Identity, verify
from enclave.jobs.recovery import checked_ledger
from enclave.jobs.rules import TRANSITIONS, History, JobLimits, Judge, bounded, spec_digest
from enclave.jobs.watch import Watch
from enclave.ledger import head, link
from enclave.messages import Approval, JobSpec, JobStatus, LedgerEntry, Reason, Signed
from enclave.store import DOCUMENTS, JobRecord, Store, StoredApproval, Tx

MAX_DOCUMENT_BYTES = 64 << 20


class Jobs:
    """All jobs of one party. Safe to use from many threads; one process at a time calls `recover` and runs jobs."""

    def __init__(self, store: Store, identity: Identity, clock: Clock, limits: JobLimits | None = None) -> None:
        self._store = store
        self._identity = identity
        self._clock = clock
        self._limits = limits or JobLimits()
        self._watch = Watch()

    # ---- from proposal to admission
    def propose(self, signed: Signed, spec: JobSpec) -> JobRecord:
        """Records a proposal. The same signed bytes twice are one job, whatever became of it meanwhile.

        Args:
            signed: the buyer's signature, already verified by the caller against `spec.buyer`.
            spec: parsed from `signed.body`.

        Raises:
            Refused: another specification has this id, the job has expired or would live too long, or the buyer
                has too many open jobs. Nothing is recorded then.
        """
        digest, now, limits = spec_digest(signed.body), self._clock.unix_s(), self._limits
        if signed.key_id != spec.buyer.key_id:
            raise BadSpec(f"the job must be signed by its buyer {spec.buyer.name}, found another key")

        def body(tx: Tx) -> JobRecord:
            known = tx.job(spec.job_id)
            if known is not None:
                if known.spec_digest != digest:
                    raise Refused(
                        f"another specification is known as job {spec.job_id}: expected digest "
                        f"{known.spec_digest.hex()[:16]}, found {digest.hex()[:16]}",
                        hint="a changed specification is a new job with a new id",
                        code="job.conflict",
                    )
                return known
            if spec.expires_unix_s <= now:
                late_s = now - spec.expires_unix_s
                raise Refused(f"job {spec.job_id} expired {late_s} s ago", code="job.expired")
            if spec.expires_unix_s > now + limits.max_lifetime_s:
                raise Refused(
                    f"the job must expire within {limits.max_lifetime_s} s, found {spec.expires_unix_s - now} s",
                    code="job.lifetime",
                )
            if tx.count_open(signed.key_id) >= limits.max_open_per_buyer:
                raise Refused(
                    f"at most {limits.max_open_per_buyer} open jobs per buyer",
                    hint="wait until some are done, or withdraw them",
                    code="job.limit",
                )
            dataset = next((d.name for d in spec.datasets if d.owner == self._identity.name), "")
            record = JobRecord(
                spec.job_id, signed, digest, dataset, "PROPOSED", (), now, now, expires_unix_s=spec.expires_unix_s
            )
            tx.insert_job(record)
            self._log(tx, record, b"")
            return record

        return self._write("propose", body)

    def approve(self, signed: Signed) -> JobRecord:
        """Records the operator's signed consent; `decide` then counts it. Idempotent.

        Raises:
            Untrusted: not signed by this node's own operator.
            Refused: unknown job, another specification than the one approved, or no longer PROPOSED.
        """
        approval = Approval.decode(verify(signed, "approval", self._identity.card))

        def body(tx: Tx) -> JobRecord:
            record = _known(tx, approval.job_id)
            if approval.spec_digest != record.spec_digest:
                raise Refused(
                    f"the approval is for another specification: expected {record.spec_digest.hex()[:16]}, "
                    f"found {approval.spec_digest.hex()[:16]}",
                    code="job.conflict",
                )
            if tx.approval(record.job_id) is None:
                if record.state != "PROPOSED":
                    raise Refused(
                        f"job {record.job_id} is {record.state}, only PROPOSED can be approved", code="job.state"
                    )
                tx.insert_approval(StoredApproval(record.job_id, signed, self._clock.unix_s()))
            return record

        return self._write("approve", body)

    def decide(self, job_id: str, judge: Judge) -> JobRecord:
        """Asks the policy about a PROPOSED job and records the answer in the same transaction.

        Two proposals at once can so never both be the last one that a limit allows. A job that is no longer PROPOSED
        is returned as it is.

        Args:
            judge: pure and quick; answers ADMITTED, REFUSED, or PROPOSED (still waiting, for the given reasons).
        """

        def body(tx: Tx) -> JobRecord:
            record = _known(tx, job_id)
            if record.state != "PROPOSED":
                return record
            history = _history(tx, record)
            to, reasons = judge(record, history)
            if to != "PROPOSED":
                return self._move(tx, record, to, reasons)
            if bounded(reasons) != record.reasons:
                record = replace(record, reasons=bounded(reasons), updated_unix_s=self._clock.unix_s())
                tx.update_job(record)
            return record

        return self._write("decide", body)

    def history(self, job_id: str) -> History:
        """What a policy may ask for at the release: as for `decide`, the job itself not counted."""
        return self._store.read("history", lambda tx: _history(tx, _known(tx, job_id)))

    # ---- from start to release
    def ask_start(self, job_id: str) -> JobRecord:
        """Notes that the buyer wants the session now; `lease` hands it out. Idempotent while the job is ADMITTED.

        A job that has gone further is returned as it is; the caller reads its state.

        Raises:
            Refused: the job is still PROPOSED, or has expired.
        """

        def body(tx: Tx) -> JobRecord:
            record, now = _known(tx, job_id), self._clock.unix_s()
            if record.state == "PROPOSED":
                raise Refused(f"job {job_id} is PROPOSED, only ADMITTED can start", code="job.state")
            if record.state != "ADMITTED" or record.start_unix_s:
                return record
            if record.expires_unix_s <= now:
                raise Refused(f"job {job_id} expired {now - record.expires_unix_s} s ago", code="job.expired")
            record = replace(record, start_unix_s=now, updated_unix_s=now)
            tx.update_job(record)
            return record

        return self._write("ask_start", body)

    def lease(self, worker_id: str, duration_s: int, job_id: str = "") -> JobRecord | None:
        """Gives `worker_id` the job that waited longest for its start (or the one named) and makes it RUNNING.

        A job is leased once in its life. None when nothing waits.
        """
        if not worker_id or duration_s < 1:
            raise ValueError(f"a lease needs a worker and at least 1 s, found {worker_id!r} and {duration_s}")

        def body(tx: Tx) -> JobRecord | None:
            now = self._clock.unix_s()
            record = tx.next_startable(now, job_id)
            if record is None:
                return None
            return self._move(
                tx,
                replace(
                    record,
                    worker=worker_id,
                    lease_unix_s=now + duration_s,
                    deadline_unix_s=now + self._limits.max_run_s,
                ),
                "RUNNING",
            )

        record = self._store.run_tx("lease", body)
        if record is not None:
            self._watch.changed(record.job_id, record.state)
        return record

    def renew(self, job_id: str, worker_id: str, duration_s: int) -> JobRecord:
        """Extends a lease.

        Raises:
            Refused: the job is no longer this worker's: it must stop, and nothing it has may leave.
        """

        def body(tx: Tx) -> JobRecord:
            record = _held(_known(tx, job_id), worker_id)
            record = replace(record, lease_unix_s=self._clock.unix_s() + duration_s)
            tx.update_job(record)
            return record

        return self._store.run_tx("renew", body)

    def advance(
        self, job_id: str, to: str, reasons: Sequence[Reason] = (), detail: bytes = b"", *, worker_id: str = ""
    ) -> JobRecord:
        """Moves a job to state `to` and writes the signed ledger entry, durably and in one transaction.

        Args:
            reasons: why, with stable rule ids.
            detail: goes into the ledger entry, for instance a digest of what is released.
            worker_id: if given, the lease must be its.

        Raises:
            Refused: not an allowed transition from the job's present state (code `job.state`), or not the holder's
                lease (`job.lease`). Whoever was about to release must not.
        """
        return self._write(
            f"advance to {to}",
            lambda tx: self._move(
                tx,
                _held(_known(tx, job_id), worker_id) if worker_id else _known(tx, job_id),
                to,
                tuple(reasons),
                detail,
            ),
        )

    # ---- time and restarts
    def recover(self) -> tuple[JobRecord, ...]:
        """Run once at start: claims the store, checks the ledger, and ends what the last process left behind.

        Returns:
            The jobs that were failed.

        Raises:
            StoreError: another process serves this store, or the ledger is damaged or disagrees with the jobs.
        """
        self._store.claim()
        self.check_ledger()
        reason = Reason("node.restarted", "the node restarted while the job was running")

        def body(tx: Tx) -> tuple[JobRecord, ...]:
            for waiting in tx.jobs(("ADMITTED",)):
                if waiting.start_unix_s:
                    tx.update_job(replace(waiting, start_unix_s=0))
            return tuple(self._move(tx, record, "FAILED", (reason,)) for record in tx.jobs(("RUNNING", "SEALED")))

        return self._store.run_tx("recover", body)

    def expire_due(self) -> tuple[JobRecord, ...]:
        """Ends what is overdue: unstarted jobs past their expiry, sessions past their lease or their deadline.

        Returns:
            The jobs that were ended; the caller stops their workers.
        """

        def body(tx: Tx) -> tuple[JobRecord, ...]:
            now = self._clock.unix_s()
            return tuple(self._move(tx, record, *_overdue(record, now)) for record in tx.overdue(now))

        if not self._store.read("expire_due", lambda tx: tx.overdue(self._clock.unix_s())):
            return ()
        ended = self._store.run_tx("expire_due", body)
        for record in ended:
            self._watch.changed(record.job_id, record.state)
        return ended

    def check_ledger(self) -> tuple[LedgerEntry, ...]:
        """Verifies the whole ledger against this party's key and the jobs' states; see `checked_ledger`."""
        return checked_ledger(self._store, self._identity.card)

    # ---- reading
    def get(self, job_id: str) -> JobRecord:
        """The job; raises Refused (code `job.unknown`) if there is none."""
        return self._store.read("get", lambda tx: _known(tx, job_id))

    def list(self, states: Sequence[str] = (), *, limit: int = -1) -> tuple[JobRecord, ...]:
        """Jobs in order of arrival; all, or those in `states`; only the newest `limit`."""
        return self._store.read("list", lambda tx: tx.jobs(states, limit=limit))

    def status(self, job_id: str) -> JobStatus:
        """Where the job stands, with the progress of its session."""
        record = self.get(job_id)
        done, total, stage = self._watch.progress(job_id)
        return JobStatus(job_id, record.state, record.reasons, done, total, stage, record.updated_unix_s)

    def wait(self, job_id: str, seen: JobStatus | None, timeout_s: float) -> JobStatus:
        """Blocks until the status differs from `seen`, or `timeout_s` have passed, and returns it."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            version = self._watch.version(job_id)
            status = self.status(job_id)
            if status != seen or not self._watch.wait(job_id, version, deadline_s - self._clock.monotonic_s()):
                return status

    def progress(self, job_id: str, steps_done: int, steps_total: int, stage: str) -> None:
        """Notes how far the session is; ignored for a job without one."""
        self._watch.advanced(job_id, steps_done, steps_total, stage)

    def ledger_entries(self, start: int = 0, stop: int | None = None) -> tuple[Signed, ...]:
        """Ledger entries at positions start <= p < stop."""
        return self._store.read("ledger", lambda tx: tx.entries(start, stop))

    def ledger_position(self, job_id: str) -> tuple[int, bytes]:
        """Position and hash of the job's newest ledger entry."""
        last = self._store.read("ledger", lambda tx: (_known(tx, job_id), tx.last_entry(job_id)))[1]
        assert last is not None, "a job exists only together with its first entry"
        return last[0], head(last[1])

    # ---- documents
    def save_document(self, job_id: str, name: str, data: bytes) -> None:
        """Keeps the job's statement, receipt or report. Written once: the same bytes again change nothing.

        Raises:
            Refused: unknown job, unknown name, too long, or other bytes are already there.
        """
        if name not in DOCUMENTS:
            raise Refused(f"a document is one of {', '.join(DOCUMENTS)}, found {name[:40]!r}", code="job.document")
        if len(data) > MAX_DOCUMENT_BYTES:
            raise Refused(
                f"{name} too long: at most {MAX_DOCUMENT_BYTES} bytes, found {len(data)}", code="job.document"
            )

        def body(tx: Tx) -> None:
            _known(tx, job_id)
            known = tx.document(job_id, name)
            if known is None:
                tx.insert_document(job_id, name, data)
            elif known != data:
                raise Refused(f"job {job_id} already has another {name}", code="job.document")

        self._store.run_tx(f"save {name}", body)

    def document(self, job_id: str, name: str) -> bytes | None:
        """The job's document of that name, or None while it has none."""
        return self._store.read("document", lambda tx: (_known(tx, job_id), tx.document(job_id, name))[1])

    # ---- the one place where a state changes
    def _move(
        self, tx: Tx, record: JobRecord, to: str, reasons: tuple[Reason, ...] = (), detail: bytes = b""
    ) -> JobRecord:
        if (record.state, to) not in TRANSITIONS:
            raise Refused(f"job {record.job_id} is {record.state}, it cannot become {to[:20]}", code="job.state")
        moved = replace(record, state=to, reasons=bounded(reasons), updated_unix_s=self._clock.unix_s())
        if moved.is_final:
            moved = replace(moved, worker="", lease_unix_s=0, deadline_unix_s=0)
        tx.update_job(moved)
        self._log(tx, moved, detail)
        return moved

    def _log(self, tx: Tx, record: JobRecord, detail: bytes) -> None:
        last = tx.last_entry()
        entry = link(
            self._identity,
            None if last is None else last[1],
            unix_s=record.updated_unix_s,
            event=record.state.lower(),
            job_id=record.job_id,
            spec_digest=record.spec_digest,
            reasons=record.reasons,
            detail=detail,
        )
        tx.append_entry(0 if last is None else last[0] + 1, record.job_id, record.state.lower(), entry)

    def _write(self, name: str, body: Callable[[Tx], JobRecord]) -> JobRecord:
        record = self._store.run_tx(name, body)
        self._watch.changed(record.job_id, record.state)
        return record


def _history(tx: Tx, record: JobRecord) -> History:
    granted = tx.count_granted(record.signed.key_id, record.dataset, apart_from=record.job_id)
    return History(granted, tx.approval(record.job_id) is not None)


def _known(tx: Tx, job_id: str) -> JobRecord:
    record = tx.job(job_id)
    if record is None:
        raise Refused(f"no job {job_id[:64]!r} at this node", code="job.unknown")
    return record


def _held(record: JobRecord, worker_id: str) -> JobRecord:
    if record.worker != worker_id:
        raise Refused(f"job {record.job_id} is {record.state} and not leased to {worker_id}", code="job.lease")
    return record


def _overdue(record: JobRecord, now_unix_s: int) -> tuple[str, tuple[Reason, ...]]:
    if record.state in ("PROPOSED", "ADMITTED"):
        return "EXPIRED", (Reason("job.expired", f"not started before its expiry at {_utc(record.expires_unix_s)}"),)
    if record.deadline_unix_s <= now_unix_s:
        return "FAILED", (
            Reason("job.deadline", f"still running at the node's deadline {_utc(record.deadline_unix_s)}"),
        )
    return "FAILED", (Reason("job.lease", f"worker {record.worker} stopped renewing its lease"),)


def _utc(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))

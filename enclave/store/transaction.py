"""What can be read and written inside one transaction. Typed rows in and out; no SQL above this file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, literal_column, or_, select
from sqlalchemy.engine import Connection, Row

from enclave.errors import Refused
from enclave.messages import Reason, Signed
from enclave.store.records import FINAL, JobRecord, StoredApproval
from enclave.store.schema import approvals, documents, jobs, ledger


class Tx:
    """One open transaction. Valid only inside the function given to `Store.run_tx` or `Store.read`."""

    __slots__ = ("_connection", "name")

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name

    # ---- jobs
    def insert_job(self, record: JobRecord) -> None:
        """Adds a job; its id must be new."""
        fixed = {
            "job_id": record.job_id,
            "spec": record.signed.body,
            "key_id": record.signed.key_id,
            "signature": record.signed.signature,
            "spec_digest": record.spec_digest,
            "dataset": record.dataset,
            "received_unix_s": record.received_unix_s,
            "expires_unix_s": record.expires_unix_s,
        }
        self._connection.execute(jobs.insert().values(**fixed, **self._changing(record)))

    def update_job(self, record: JobRecord) -> None:
        """Writes the part of a job that may change; the specification and its signature never do."""
        done = self._connection.execute(
            jobs.update().where(jobs.c.job_id == record.job_id).values(**self._changing(record))
        )
        if done.rowcount != 1:
            raise Refused(f"no job {record.job_id}", code="job.unknown")

    def _changing(self, record: JobRecord) -> dict[str, str | int]:
        return {
            "state": record.state,
            "reasons": json.dumps([[r.rule, r.text] for r in record.reasons]),
            "updated_unix_s": record.updated_unix_s,
            "updated_by": self.name,
            "start_unix_s": record.start_unix_s,
            "worker": record.worker,
            "lease_unix_s": record.lease_unix_s,
            "deadline_unix_s": record.deadline_unix_s,
        }

    def job(self, job_id: str) -> JobRecord | None:
        """The job, or None."""
        row = self._connection.execute(select(jobs).where(jobs.c.job_id == job_id)).one_or_none()
        return None if row is None else _record(row)

    def jobs(self, states: Iterable[str] = (), *, limit: int = -1) -> tuple[JobRecord, ...]:
        """Jobs in the order in which they came; all of them, or those in one of `states`; the newest `limit`."""
        query = select(jobs)
        wanted = tuple(states)
        if wanted:
            query = query.where(jobs.c.state.in_(wanted))
        if limit >= 0:
            newest = self._connection.execute(query.order_by(_arrival().desc()).limit(limit)).all()
            return tuple(_record(row) for row in reversed(newest))
        return tuple(_record(row) for row in self._connection.execute(query.order_by(_arrival())))

    def states(self) -> dict[str, str]:
        """State of every job, by id."""
        return {row.job_id: row.state for row in self._connection.execute(select(jobs.c.job_id, jobs.c.state))}

    def next_startable(self, now_unix_s: int, job_id: str = "") -> JobRecord | None:
        """Of the admitted jobs whose start was asked for and that have not expired, the one that waits longest.

        With `job_id`, that one or none.
        """
        query = select(jobs).where(
            jobs.c.state == "ADMITTED", jobs.c.start_unix_s > 0, jobs.c.expires_unix_s > now_unix_s
        )
        if job_id:
            query = query.where(jobs.c.job_id == job_id)
        query = query.order_by(jobs.c.start_unix_s, jobs.c.job_id).limit(1)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _record(row)

    def overdue(self, now_unix_s: int) -> tuple[JobRecord, ...]:
        """Jobs that waited past their expiry, and sessions past their lease or their deadline."""
        waited = and_(jobs.c.state.in_(("PROPOSED", "ADMITTED")), jobs.c.expires_unix_s <= now_unix_s)
        stuck = and_(
            jobs.c.state.in_(("RUNNING", "SEALED")),
            or_(jobs.c.lease_unix_s <= now_unix_s, jobs.c.deadline_unix_s <= now_unix_s),
        )
        query = select(jobs).where(or_(waited, stuck)).order_by(_arrival())
        return tuple(_record(row) for row in self._connection.execute(query))

    def count_open(self, buyer_key_id: bytes) -> int:
        """Jobs of one buyer that are not final."""
        query = select(func.count()).where(jobs.c.key_id == buyer_key_id, jobs.c.state.not_in(tuple(FINAL)))
        return int(self._connection.execute(query).scalar_one())

    def count_granted(self, buyer_key_id: bytes, dataset: str, *, apart_from: str) -> int:
        """Jobs of one buyer on one data set that were admitted and may run, or that ever ran, whatever their end.

        A job that failed counts: how it failed may have told its buyer something. `apart_from` is not counted.
        """
        ran = exists().where(ledger.c.job_id == jobs.c.job_id, ledger.c.event == "running")
        query = select(func.count()).where(
            jobs.c.key_id == buyer_key_id,
            jobs.c.dataset == dataset,
            jobs.c.job_id != apart_from,
            or_(jobs.c.state.in_(("ADMITTED", "RUNNING", "SEALED", "RELEASED")), ran),
        )
        return int(self._connection.execute(query).scalar_one())

    # ---- ledger
    def append_entry(self, position: int, job_id: str, event: str, signed: Signed) -> None:
        """Adds an entry at `position`, which must be the next one."""
        self._connection.execute(
            ledger.insert().values(
                position=position,
                job_id=job_id,
                event=event,
                body=signed.body,
                key_id=signed.key_id,
                signature=signed.signature,
            )
        )

    def last_entry(self, job_id: str = "") -> tuple[int, Signed] | None:
        """Position and entry of the newest entry, of the whole ledger or of one job; None if there is none."""
        query = select(ledger).order_by(ledger.c.position.desc()).limit(1)
        if job_id:
            query = query.where(ledger.c.job_id == job_id)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else (row.position, Signed(row.body, row.key_id, row.signature))

    def entries(self, start: int = 0, stop: int | None = None) -> tuple[Signed, ...]:
        """Entries at positions start <= p < stop, in order."""
        query = select(ledger).where(ledger.c.position >= start).order_by(ledger.c.position)
        if stop is not None:
            query = query.where(ledger.c.position < stop)
        return tuple(Signed(row.body, row.key_id, row.signature) for row in self._connection.execute(query))

    # ---- documents
    def document(self, job_id: str, name: str) -> bytes | None:
        """A stored document, or None."""
        query = select(documents.c.data).where(documents.c.job_id == job_id, documents.c.name == name)
        data = self._connection.execute(query).scalar_one_or_none()
        return None if data is None else bytes(data)

    def insert_document(self, job_id: str, name: str, data: bytes) -> None:
        """Adds a document; a job has at most one of each name."""
        self._connection.execute(documents.insert().values(job_id=job_id, name=name, data=data))

    # ---- approvals
    def approval(self, job_id: str) -> StoredApproval | None:
        """The operator's consent to a job, or None."""
        row = self._connection.execute(select(approvals).where(approvals.c.job_id == job_id)).one_or_none()
        if row is None:
            return None
        return StoredApproval(row.job_id, Signed(row.body, row.key_id, row.signature), row.unix_s)

    def insert_approval(self, approval: StoredApproval) -> None:
        """Adds the consent to a job; there is at most one."""
        self._connection.execute(
            approvals.insert().values(
                job_id=approval.job_id,
                body=approval.signed.body,
                key_id=approval.signed.key_id,
                signature=approval.signed.signature,
                unix_s=approval.unix_s,
            )
        )


def _arrival() -> ColumnElement[int]:
    return literal_column("jobs.rowid")


def _record(row: Row[Any]) -> JobRecord:
    return JobRecord(
        job_id=row.job_id,
        signed=Signed(bytes(row.spec), bytes(row.key_id), bytes(row.signature)),
        spec_digest=bytes(row.spec_digest),
        dataset=row.dataset,
        state=row.state,
        reasons=tuple(Reason(rule, text) for rule, text in json.loads(row.reasons)),
        received_unix_s=row.received_unix_s,
        updated_unix_s=row.updated_unix_s,
        expires_unix_s=row.expires_unix_s,
        start_unix_s=row.start_unix_s,
        worker=row.worker,
        lease_unix_s=row.lease_unix_s,
        deadline_unix_s=row.deadline_unix_s,
    )

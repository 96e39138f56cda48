"""What a node states of a finished job, signed, once."""

from __future__ import annotations

from collections.abc import Callable

from enclave.clock import Clock
from enclave.errors import Refused, StoreError
from enclave.executor.claims import job_claims
from enclave.executor.orders import Outcome
from enclave.identity import Identity
from enclave.jobs import FINAL, Jobs
from enclave.leakage.declared import view_of
from enclave.messages import JobSpec, Signed, Statement
from enclave.receipts import digest, sign_statement

__all__ = ["Statements"]


class Statements:
    """Writes statements and reports of one node's jobs into its store.

    Args:
        node_claims: lines "node.key=value" about this node.
    """

    def __init__(
        self, jobs: Jobs, identity: Identity, clock: Clock, node_claims: Callable[[JobSpec], tuple[str, ...]]
    ) -> None:
        self._jobs = jobs
        self._identity = identity
        self._clock = clock
        self._node_claims = node_claims

    def write(self, job_id: str, outcome: Outcome | None = None) -> Signed:
        """The signed statement of a final job: the one on record, or a new one, which is recorded.

        Args:
            outcome: how the session ended, if there was one that this node still knows of.

        Raises:
            StoreError: the job is not final, or the disk refuses.
        """
        if outcome is not None and outcome.report and self._jobs.document(job_id, "report") is None:
            self._jobs.save_document(job_id, "report", outcome.report)
        known = self._jobs.document(job_id, "statement")
        if known is not None:
            return Signed.decode(known, limit_bytes=len(known))
        record = self._jobs.get(job_id)
        if record.state not in FINAL:
            raise StoreError(f"no statement of job {job_id} while it is {record.state}")
        spec = record.spec()
        index, head = self._jobs.ledger_position(job_id)
        report = self._jobs.document(job_id, "report")
        view = view_of(spec, self._identity.name)
        reasons = record.reasons
        if outcome is not None and outcome.failure is not None and record.state == "RELEASED":
            reasons = (*reasons, outcome.failure.reason())
        statement = Statement(
            job_id=job_id,
            party=self._identity.name,
            spec_digest=record.spec_digest,
            plan_digest=spec.plan_digest,
            state=record.state,
            claims=(*job_claims(spec), *self._node_claims(spec)),
            views=(*(f"sees {line}" for line in view.sees), *(f"does not see {line}" for line in view.hidden)),
            ledger_head=head,
            ledger_index=index,
            finished_unix_s=self._clock.unix_s(),
            transcript=outcome.transcript if outcome is not None else None,
            reasons=reasons,
            report_digest=b"" if report is None else digest(report),
        )
        signed = sign_statement(self._identity, statement)
        try:
            self._jobs.save_document(job_id, "statement", signed.encode())
        except Refused:
            # Two calls at once: the first one's statement counts.
            known = self._jobs.document(job_id, "statement")
            if known is None:
                raise
            return Signed.decode(known, limit_bytes=len(known))
        return signed

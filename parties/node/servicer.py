"""The one servicer of owners and dealers. It knows no role by name: policies, limits and data sets differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from enclave.clock import Clock
from enclave.errors import NotReady, Refused, SessionError, Untrusted
from enclave.executor.assignment import read_job
from enclave.executor.local import LocalExecutor
from enclave.executor.orders import Outcome
from enclave.executor.session import Sealing
from enclave.identity import Card, Identity, TrustStore, verify
from enclave.jobs import FINAL, JobRecord, Jobs
from enclave.messages import Decision, DescribeReply, JobRef, JobSpec, JobStatus, Reason, ReceiptBody, Signed
from enclave.receipts import MAX_RECEIPT_BYTES, countersign, verify_receipt
from parties.config import NodeConfig
from parties.node.admission import Admission
from parties.node.leases import Leases
from parties.node.runner import Desk, Peers
from parties.node.statements import Statements

__all__ = ["Node", "Parts"]

_CLOCK_SKEW_S = 300
_DEAL_POLL_S = 0.1
_SETTLE_S = 2.0  # between a job's last state and the end of its worker; who asks too early asks again


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node is made of."""

    identity: Identity
    trust: TrustStore
    config: NodeConfig
    jobs: Jobs
    admission: Admission
    statements: Statements
    executor: LocalExecutor
    peers: Peers
    clock: Clock
    advertised_host: str
    code_version: str
    claims: tuple[str, ...]
    silence_s: float = 60.0


class Node:
    """Implements `parties.server.Handler`. `open` before serving, `close` after."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._jobs = parts.jobs
        desk = Desk(
            jobs=parts.jobs,
            executor=parts.executor,
            peers=parts.peers,
            judge_release=self._judge_release,
            conclude=self._conclude,
            advertised_host=parts.advertised_host,
            silence_s=parts.silence_s,
            clock=parts.clock,
        )
        self._leases = Leases(
            desk,
            parts.identity,
            parts.config,
            settle=parts.statements.write,
            decide=lambda record: self._decide(record, record.spec()),
        )

    # ---- life
    def open(self) -> tuple[JobRecord, ...]:
        """Ends what the last process left behind, then takes jobs; returns the jobs that were failed."""
        failed = self._jobs.recover()
        for record in failed:
            self._p.statements.write(record.job_id)
        self._leases.open()
        return failed

    def close(self, drain_s: float) -> None:
        """Takes no more jobs; running sessions get `drain_s` to end, then fail with the reason."""
        self._leases.close(drain_s)

    # ---- calls
    def describe(self, caller: Card) -> DescribeReply:
        """Who this node is, and what it offers the caller."""
        p = self._p
        offers = p.admission.offers(caller) if p.identity.role == "owner" else ()
        return DescribeReply(
            name=p.identity.name,
            role=p.identity.role,
            datasets=offers,
            claims=p.claims,
            code_version=p.code_version,
            profile=p.config.profile,
            organisation=p.identity.card.organisation,
        )

    def propose(self, caller: Card, signed: Signed) -> Decision:
        """Records a job and decides on it; a refusal by policy is a normal, recorded answer.

        Raises: Untrusted, BadSpec, Refused when the job cannot even be recorded.
        """
        if self._leases.closing:
            raise NotReady("the node is shutting down", hint="propose again in a moment")
        if len(signed.body) > self._p.config.max_spec_bytes:
            raise Refused(f"a job may have {self._p.config.max_spec_bytes} bytes here, found {len(signed.body)}")
        job = read_job(signed, self._p.identity, self._p.trust)
        if caller.key_id != signed.key_id:
            raise Untrusted(f"the job is signed by {job.spec.buyer.name} and proposed by {caller.name}")
        if job.spec.created_unix_s > self._p.clock.unix_s() + _CLOCK_SKEW_S:
            raise Refused(
                f"the job was created {job.spec.created_unix_s - self._p.clock.unix_s()} s in the future",
                hint="compare the clocks of the two machines",
                code="job.clock",
            )
        record = self._jobs.propose(signed, job.spec)
        return _decision(self._decide(record, job.spec))

    def approve(self, caller: Card, signed: Signed) -> Decision:
        """The operator's signed consent, from the operator's own commands only."""
        if caller.key_id != self._p.identity.key_id:
            raise Untrusted(f"only the operator of {self._p.identity.name} approves its jobs, found {caller.name}")
        record = self._jobs.approve(signed)
        return _decision(self._decide(record, record.spec()))

    def start(self, caller: Card, job_id: str, wait_s: float, deal: bool = False) -> JobStatus:
        """Queues the job for a worker, and waits a while for it. Repeating it keeps the job in the queue.

        Args:
            deal: for the dealing phase of a job that is dealt ahead; what was dealt to it before is thrown away.
        """
        record, spec = self._job_of(caller, job_id, buyer_only=True)
        if deal and not spec.deal_ahead:
            raise Refused("the job is to be dealt online", code="job.dealing")
        if record.state == "PROPOSED":
            # The policy, or the operator, may have spoken since.
            record = self._decide(record, spec)
        if record.state == "ADMITTED" and not self._leases.closing:
            if deal:
                self._leases.ask(job_id, deal=True)
                return self._dealing_soon(job_id, wait_s)
            if spec.deal_ahead and self._leases.dealing(job_id)[0] not in ("dealt", "running"):
                raise NotReady("the job was not dealt yet", job_id=job_id, hint="deal it first")
            self._jobs.ask_start(job_id)
            self._leases.ask(job_id)
        status = self._status(job_id)
        end_s = self._p.clock.monotonic_s() + wait_s
        while status.state == "ADMITTED" and (left_s := end_s - self._p.clock.monotonic_s()) > 0:
            if self._leases.closing:
                raise NotReady("the node is shutting down", job_id=job_id)
            self._jobs.wait(job_id, self._jobs.status(job_id), min(left_s, 1.0))
            status = self._status(job_id)
        self._leases.touch(job_id)
        return status

    def _dealing_soon(self, job_id: str, wait_s: float) -> JobStatus:
        end_s = self._p.clock.monotonic_s() + wait_s
        while (status := self._status(job_id)).dealing == "waiting" and self._p.clock.monotonic_s() < end_s:
            if self._leases.closing:
                raise NotReady("the node is shutting down", job_id=job_id)
            self._jobs.wait(job_id, self._jobs.status(job_id), _DEAL_POLL_S)
        self._leases.touch(job_id)
        return status

    def locate(self, caller: Card, job_id: str, wait_s: float) -> str:
        """Where this party's worker listens, for the other parties of the job."""
        record, _ = self._job_of(caller, job_id)
        end_s = self._p.clock.monotonic_s() + wait_s
        while True:
            runner = self._leases.runner(job_id)
            address = runner.address(max(0.0, end_s - self._p.clock.monotonic_s())) if runner is not None else ""
            record = self._jobs.get(job_id)
            if record.state in FINAL:
                said = "; ".join(reason.text for reason in record.reasons)
                text = f"the job is {record.state.lower()} at {self._p.identity.name}" + (f": {said}" if said else "")
                raise SessionError(text, code="session.ended")
            if address:
                return address
            if self._p.clock.monotonic_s() >= end_s:
                raise NotReady(f"the worker of {self._p.identity.name} does not listen yet", job_id=job_id)
            self._jobs.wait(job_id, self._jobs.status(job_id), min(0.5, end_s - self._p.clock.monotonic_s()))

    def status(self, caller: Card, job_id: str, stop: Callable[[], bool]) -> Iterator[JobStatus]:
        """Every change of the job's status until it is final."""
        _, spec = self._job_of(caller, job_id)
        buyer = caller.key_id == spec.buyer.key_id
        seen: JobStatus | None = None
        while True:
            status = self._status(job_id)
            if status != seen:
                yield status
                seen = status
            if status.state in FINAL or stop():
                return
            if buyer:
                self._leases.touch(job_id)
            self._jobs.wait(job_id, self._jobs.status(job_id), 1.0)

    def fetch(self, caller: Card, job_id: str, wait_s: float) -> Iterator[tuple[str, bytes]]:
        """The signed statement, then the report and the receipt as far as they exist."""
        record = self._jobs.get(job_id)
        if caller.role != "auditor":
            record, _ = self._job_of(caller, job_id)
        yield "statement", self._settled(record, wait_s).encode()
        for name in ("report", "receipt"):
            data = self._jobs.document(job_id, name)
            if data is not None:
                yield name, data

    def countersign(self, caller: Card, signed: Signed, wait_s: float) -> Signed:
        """This party's signature under a receipt body that holds its own statement unchanged."""
        body = verify(signed, "receipt", caller)
        spec = JobSpec.decode(ReceiptBody.decode(body, limit_bytes=MAX_RECEIPT_BYTES).spec)
        record, _ = self._job_of(caller, spec.job_id, buyer_only=True)
        statement = self._settled(record, wait_s)
        cards = (*self._p.trust.cards(), self._p.identity.card)
        return countersign(self._p.identity, body, statement=statement, spec=record.signed, cards=cards)

    def deposit(self, caller: Card, receipt: bytes) -> str:
        """Keeps a complete receipt that names this party and verifies against the cards trusted here."""
        verified = verify_receipt(receipt, (*self._p.trust.cards(), self._p.identity.card))
        if verified.spec is None or verified.body is None or verified.mode != "authenticated":
            raise Refused("not a receipt", code="refused.receipt")
        record, _ = self._job_of(caller, verified.spec.job_id, buyer_only=True)
        wrong = [str(check) for check in verified.failures if not check.name.startswith("transcript.")]
        own = self._jobs.document(record.job_id, "statement")
        if own is None or all(s.encode() != own for s in verified.body.statements):
            wrong.append("statement.own: expected this party's statement, unchanged")
        if record.signed.body != verified.body.spec:
            wrong.append("spec.own: expected the job as it was proposed here")
        if wrong:
            raise Refused("receipt refused: " + "; ".join(wrong)[:1000], code="refused.receipt")
        self._jobs.save_document(record.job_id, "receipt", receipt)
        return record.job_id

    def withdraw(self, caller: Card, signed: Signed) -> JobStatus:
        """Ends the job at this node, for its buyer or for this node's own operator."""
        job_id = JobRef.decode(verify(signed, "withdraw", caller)).job_id
        if caller.key_id == self._p.identity.key_id:
            self._jobs.get(job_id)
        else:
            self._job_of(caller, job_id, buyer_only=True)
        try:
            text = f"withdrawn by {caller.name}"
            self._jobs.advance(job_id, "WITHDRAWN", (Reason("job.withdrawn", text),), detail=signed.signature)
        except Refused as error:
            if error.code != "job.state":
                raise
        self._leases.enforce(job_id)
        return self._status(job_id)

    # ---- decisions
    def _decide(self, record: JobRecord, spec: JobSpec) -> JobRecord:
        if record.state != "PROPOSED":
            return record
        decided = self._jobs.decide(record.job_id, self._p.admission.judge(spec))
        if decided.state in FINAL:
            self._p.statements.write(record.job_id)
        return decided

    def _judge_release(self, spec: JobSpec, sealing: Sealing) -> tuple[Reason, ...]:
        return self._p.admission.release(spec, sealing, self._jobs.history(spec.job_id))

    def _conclude(self, job_id: str, outcome: Outcome) -> None:
        self._p.statements.write(job_id, outcome)

    def _settled(self, record: JobRecord, wait_s: float) -> Signed:
        """The statement of a job that is final and whose session is over; NotReady before."""
        runner = self._leases.runner(record.job_id)
        if record.state not in FINAL or (runner is not None and not runner.join(min(wait_s, _SETTLE_S))):
            text = f"job {record.job_id} is {record.state} at {self._p.identity.name}"
            raise NotReady(text, job_id=record.job_id)
        return self._p.statements.write(record.job_id)

    def _job_of(self, caller: Card, job_id: str, *, buyer_only: bool = False) -> tuple[JobRecord, JobSpec]:
        """The job, if the caller has a part in it; to everybody else it does not exist."""
        record = self._jobs.get(job_id)
        spec = record.spec()
        parties = (spec.buyer,) if buyer_only else spec.parties
        own = not buyer_only and caller.key_id == self._p.identity.key_id
        if not own and caller.key_id not in {party.key_id for party in parties}:
            raise Refused(f"no job {job_id[:64]!r} at this node", code="job.unknown")
        return record, spec

    def _status(self, job_id: str) -> JobStatus:
        status = self._jobs.status(job_id)
        if status.state != "ADMITTED":
            return status
        if self._jobs.get(job_id).spec().deal_ahead:
            dealing, failure = self._leases.dealing(job_id)
            status = replace(status, dealing=dealing, reasons=() if failure is None else (failure.reason(),))
        ahead = self._leases.ahead(job_id)
        if ahead is None:
            return status
        return replace(status, stage=f"waiting for a worker of {self._p.identity.name} ({ahead} jobs before it)")


def _decision(record: JobRecord) -> Decision:
    return Decision(record.job_id, record.state, record.reasons)

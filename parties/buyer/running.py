"""One job of a buyer from the signed specification to the receipt (design, section 8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from enclave.clock import Clock
from enclave.errors import EnclaveError, NotReady, PolicyRefused, SessionError, Untrusted
from enclave.executor.dealing import shelf_of
from enclave.executor.orders import Failure, Outcome
from enclave.identity import Identity, TrustStore
from enclave.messages import Decision, JobSpec, Reason, Signed
from parties.buyer.book import Book
from parties.buyer.closing import no_claims
from parties.buyer.network import Network, everywhere
from parties.buyer.records import JobFolder
from parties.buyer.results import Progress
from parties.buyer.watching import Watch, refused_by
from parties.node.statements import Statements

if TYPE_CHECKING:
    from enclave.executor.evidence import Evidence
    from enclave.executor.session import SessionResult
    from enclave.workloads import Inputs
    from parties.server import NodeClient

__all__ = ["Finished", "Run"]

_POLL_S = 2.0
_PROGRESS_S = 0.1


@dataclass(frozen=True, slots=True)
class Finished:
    """What a session leaves at the buyer: the opened outputs and the public record of the run."""

    opened: Mapping[str, NDArray[Any]]
    session: SessionResult
    seconds: float


class Run:
    """Drives the job in `folder` at all its nodes."""

    def __init__(
        self,
        *,
        folder: JobFolder,
        identity: Identity,
        trust: TrustStore,
        network: Network,
        book: Book,
        clock: Clock,
        report: Progress,
    ) -> None:
        self.folder = folder
        self.signed: Signed = folder.signed()
        self.spec: JobSpec = folder.spec()
        self._identity = identity
        self._trust = trust
        self._book = book
        self._clock = clock
        self._report = report
        self.clients = network.clients(self.spec)

    # ---- before the session
    def admit(self, wait_s: float) -> None:
        """Records the job here, hands it to every node, and returns once all of them have admitted it.

        Raises: NotReady when a person must still agree after `wait_s`; PolicyRefused with the reasons of all nodes
        that refuse; what a node raised that cannot take the job at all. Except for NotReady the job is then
        withdrawn wherever it was taken.
        """
        self._book.propose(self.signed, self.spec)
        self._report("proposing", 0, 0, 0)
        end_s = time.monotonic() + wait_s
        while True:
            # Proposing again is how a node is asked: the same signed bytes are the same job.
            decisions = self._proposed()
            waiting = self._settle(decisions)
            if not waiting:
                self._book.admit(self.spec.job_id)
                return
            names = ", ".join(waiting)
            if time.monotonic() >= end_s:
                raise NotReady(
                    f"job {self.spec.job_id} waits for approval by {names}",
                    job_id=self.spec.job_id,
                    hint=f"run `enclave buyer result {self.spec.job_id}` once they have run `enclave owner approve`",
                )
            self._report(f"waiting for approval by {names}", 0, 0, 0)
            time.sleep(min(_POLL_S, max(0.0, end_s - time.monotonic())))

    def _proposed(self) -> dict[str, Decision]:
        results = everywhere(lambda client: client.propose(self.signed), self.clients)
        decisions: dict[str, Decision] = {}
        failure: EnclaveError | None = None
        for client, result in zip(self.clients, results, strict=True):
            if isinstance(result, EnclaveError):
                failure = failure or result
            else:
                decisions[client.card.name] = result
        if failure is not None:
            self.abandon(failure)
            raise failure
        return decisions

    def _settle(self, decisions: Mapping[str, Decision]) -> list[str]:
        """Names of the nodes that wait for a person; raises where the job has ended."""
        refused = {name: d.reasons for name, d in decisions.items() if d.state == "REFUSED"}
        ended = {name: d for name, d in decisions.items() if d.state in ("FAILED", "WITHDRAWN", "EXPIRED", "RELEASED")}
        error: EnclaveError | None = None
        if refused:
            error = refused_by(refused)
        elif ended:
            name, decision = next(iter(ended.items()))
            text = "; ".join(reason.text for reason in decision.reasons)
            error = SessionError(
                f"the job is {decision.state.lower()} at {name}" + (f": {text}" if text else ""),
                hint="propose it again as a new job",
                code="session.ended",
            )
        if error is not None:
            self.abandon(error, refusals=refused)
            raise error
        return [name for name, decision in decisions.items() if decision.state == "PROPOSED"]

    def deal(self) -> None:
        """Has the admitted job dealt ahead, if it says so and was not yet; raises NotReady when that failed for now."""
        from parties.buyer.dealing import deal, is_dealt

        if not self.spec.deal_ahead:
            return
        # What commands that died have left.
        open_jobs = self._book.jobs.list(("PROPOSED", "ADMITTED", "RUNNING", "SEALED"))
        shelf_of(self._identity.home).sweep({record.job_id for record in open_jobs})
        if is_dealt(self.spec, self._identity, self.clients):
            return
        try:
            deal(
                self.signed,
                self.spec,
                identity=self._identity,
                trust=self._trust,
                clients=self.clients,
                locate=self._locate,
                report=self._report,
            )
        except NotReady:
            raise
        except EnclaveError as error:
            self.abandon(error)
            raise

    # ---- the session
    def perform(self, inputs: Inputs) -> Finished:
        """Starts the job everywhere and runs this party's own rank.

        Raises: what ended the session, in the words of the node that knows best. The job is then failed here and
        withdrawn everywhere, and this party's statement about it is on record.
        """
        from enclave.executor.evidence import Evidence

        started_s = time.monotonic()
        watch, evidence = Watch(self.clients, self.spec.job_id), Evidence()
        try:
            session = self._session(inputs, watch, evidence)
        except EnclaveError as error:
            best = watch.explain(error)
            self.abandon(best, evidence, watch.refusals())
            if best is error:
                raise
            raise best from error
        except BaseException:
            # Ctrl-C: the nodes must not wait for a buyer that is gone.
            self.abandon(EnclaveError("the buyer stopped", code="buyer.interrupted"), evidence)
            raise
        finally:
            watch.stop()
        return Finished(session.opened or {}, session, time.monotonic() - started_s)

    def _session(self, inputs: Inputs, watch: Watch, evidence: Evidence) -> SessionResult:
        from enclave.executor import session as core
        from enclave.executor.session import Sealing, run_session
        from parties.server import start_everywhere

        jobs, job_id = self._book.jobs, self.spec.job_id

        def gate(sealing: Sealing) -> tuple[str, ...]:
            jobs.advance(job_id, "SEALED", detail=sealing.transcript.digest, worker_id=worker)
            return sealing.outputs

        drawn_s = float("-inf")

        def progress(step: core.Progress) -> None:
            nonlocal drawn_s
            now_s = time.monotonic()
            if now_s - drawn_s >= _PROGRESS_S or step.steps_done == step.steps_total:
                drawn_s = now_s
                self._report(step.stage, step.steps_done, step.steps_total, watch.traffic_bytes())

        with self._book.running(job_id) as worker:
            self._report("waiting for workers", 0, 0, 0)
            start_everywhere(
                self.clients,
                self.spec,
                waiting=lambda client, _: self._report(f"waiting for a worker at {client.card.name}", 0, 0, 0),
            )
            return run_session(
                self.signed,
                identity=self._identity,
                trust=self._trust,
                inputs=inputs,
                locate=lambda rank: self._locate(rank, watch),
                gate=gate,
                commit=lambda: _done(jobs.advance(job_id, "RELEASED", worker_id=worker)),
                progress=progress,
                attach=watch.attach,
                evidence=evidence,
            )

    def state(self, session: SessionResult) -> Signed:
        """This party's signed statement about the finished job."""
        return self._statements().write(
            self.spec.job_id, Outcome(None, session.transcript, session.report, session.plan.digest)
        )

    def abandon(
        self,
        error: EnclaveError,
        evidence: Evidence | None = None,
        refusals: Mapping[str, Sequence[Reason]] | None = None,
    ) -> None:
        """Ends the job here and, as far as they can be reached, at all nodes.

        Args:
            refusals: the rules that decided, by node, if the job was refused.
        """
        everywhere(_withdraw(self.spec.job_id), self.clients)
        shelf_of(self._identity.home).discard(self.spec.job_id)
        # The statement travels in the receipt: no number that only this party has.
        reasons: tuple[Reason, ...] = (Reason(error.code, Failure.for_peers(error).text[:500]),)
        refused = isinstance(error, PolicyRefused)
        if refused and refusals:
            reasons = tuple(Reason(r.rule, f"{name}: {r.text}") for name, found in refusals.items() for r in found)
        self._book.end(self.spec.job_id, "REFUSED" if refused else "FAILED", reasons)
        state, outcome = self._book.jobs.get(self.spec.job_id).state, None
        if evidence is not None:
            report = evidence.report(self.signed, self.spec, self._identity.name, state, reasons)
            plan_digest = evidence.plan.digest if evidence.plan is not None else b""
            outcome = Outcome(Failure.of(error), evidence.transcript, report, plan_digest)
        self._statements().write(self.spec.job_id, outcome)

    def _statements(self) -> Statements:
        return Statements(self._book.jobs, self._identity, self._clock, no_claims)

    def _locate(self, rank: int, watch: Watch) -> str:
        party = self.spec.parties[rank]
        client = next((c for c in self.clients if c.card.key_id == party.key_id), None)
        if client is None:
            raise Untrusted(f"rank {rank} is {party.name}, which has no node")
        return client.locate(self.spec.job_id, stop=watch.broken)


def _done(record: object) -> None:
    del record


def _withdraw(job_id: str) -> Callable[[NodeClient], object]:
    return lambda client: client.withdraw(job_id)

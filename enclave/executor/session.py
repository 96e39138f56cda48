"""One session of one job at one rank: the core that a node's worker and a buyer's own process share.

    connect → hello (plan digests) → the workload → sealed → every gate → agree → commit → open → close

A job that is dealt ahead has a session before this one, see `dealing`; here its parties open what it left them.

A job is one session: its channel is named by the job id, and a retry is a new job with fresh randomness.
The caller hands in everything that has an address or a person behind it: how to find a peer's worker (`locate`),
who decides whether a sealed result may leave (`gate`), and what makes that durable (`commit`). This module is the
only place that makes a `Permit` for a session of shares.

Every party's gate must say yes before any party commits: a refusal at one leaves no release on another's record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import NDArray

from enclave.engines.interface import Permit
from enclave.errors import Desynchronised, EnclaveError, SessionError
from enclave.executor.assignment import Assignment, read_job
from enclave.executor.dealing import find_stock
from enclave.executor.evidence import Evidence
from enclave.executor.meeting import Seal, check_plan, job_engine, kept_encodings, meet, plan_job, sealed_plan
from enclave.executor.orders import Failure
from enclave.executor.shares import keep_shares
from enclave.leakage.audit import OpeningAudit
from enclave.messages import LinkTraffic, Signed, Transcript

if TYPE_CHECKING:
    from enclave.channel import Channel
    from enclave.channel.grpc_link import Listener
    from enclave.engines.he.linear.encodings import Encodings
    from enclave.engines.mpc.ahead import Stock, Witness
    from enclave.engines.mpc.engine import MpcEngine
    from enclave.engines.mpc.ranks import DealerSession, PartySession
    from enclave.engines.mpc.tensor import RingTensor
    from enclave.identity import Identity, TrustStore
    from enclave.plan import Plan
    from enclave.workloads import Inputs

__all__ = ["Gate", "Progress", "Sealing", "SessionResult", "plan_job", "run_session"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a session stands: plan rounds done and in all, and the name of the stage."""

    steps_done: int
    steps_total: int
    stage: str


@dataclass(frozen=True, slots=True)
class Sealing:
    """What the gate is told once the result exists, as shares only. `rows` counts the rows of all parties.

    `transcript` is of the session so far; its `equals_plan` says so of the plan up to the seal.
    """

    job_id: str
    outputs: tuple[str, ...]
    rows: int
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class SessionResult:
    """What a session leaves at one rank. `opened` is None everywhere but at the buyer."""

    opened: Mapping[str, NDArray[Any]] | None
    transcript: Transcript
    plan: Plan
    report: bytes  # the leakage report as JSON
    kept: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # uint64 shares of what stays shared


# Returns the outputs that may be opened to the buyer; raises Refused otherwise.
Gate = Callable[[Sealing], tuple[str, ...]]


def run_session(
    signed: Signed,
    *,
    identity: Identity,
    trust: TrustStore,
    inputs: Inputs,
    locate: Callable[[int], str],
    gate: Gate,
    commit: Callable[[], None] = lambda: None,
    listener: Listener | None = None,
    progress: Callable[[Progress], None] | None = None,
    attach: Callable[[Channel], None] | None = None,
    evidence: Evidence | None = None,
    connect_s: float = 60.0,
    deadline_s: float = 30.0,
    dealer_bytes_limit: int | None = None,
    encodings_limit_bytes: int = 0,
) -> SessionResult:
    """Runs this party's rank of the job `signed`, from connecting to the released outputs.

    Args:
        signed: the buyer's signed JobSpec, as received; its signature is verified again here.
        identity: whose rank to run: its key id must be one of the spec's parties.
        inputs: this party's rows and model (both None at the dealer).
        locate: rank -> "host:port" of that rank's worker; may block; raises EnclaveError; called from other threads.
        gate: decides on release; at the buyer `lambda sealing: sealing.outputs`.
        commit: makes the release durable, once all parties' gates have agreed; nothing has left before it returns.
        listener: where peers connect; None at the buyer, who only dials. Closed at the end.
        progress: called often and from this thread; must be quick.
        attach: given the open channel, so that another thread can end the session with `channel.close(error)`.
        evidence: filled as far as the session gets.
        connect_s: how long to wait for all peers to be connected.
        deadline_s: how long to wait for any one frame.
        dealer_bytes_limit: at the dealer, the most bytes of correlated randomness it agrees to deal.
        encodings_limit_bytes: at an owner, what rows encoded for encrypted products may take in HOME/encodings.

    Raises:
        Untrusted, PlanMismatch, PolicyRefused, BadInput, PeerLost, Desynchronised.
        SessionError: (code `session.stock`) the job is to be dealt ahead and was not, or what was dealt is used.
    """
    stock: Stock | None = None
    evidence = evidence if evidence is not None else Evidence()
    try:
        job = read_job(signed, identity, trust)
        seal = sealed_plan(job.spec)
        evidence.plan = seal.plan
        check_plan(job, seal.plan, dealer_bytes_limit)
        if job.spec.deal_ahead:
            stock = find_stock(job, seal.plan, identity.home)
        if seal.plan.uses_torch:
            import torch  # noqa: F401  now, while nobody waits for a frame of ours
        channel = meet(
            job,
            job.spec.job_id,
            identity=identity,
            trust=trust,
            listener=listener,
            locate=locate,
            deadline_s=deadline_s,
            connect_s=connect_s,
        )
    except BaseException:
        if listener is not None:
            listener.close()
        raise
    try:
        if attach is not None:
            attach(channel)
        kept = kept_encodings(job, identity.home, encodings_limit_bytes)
        result = _Run(job, seal, channel, inputs, gate, commit, progress, evidence, stock, kept).run()
        if result.kept:
            keep_shares(identity.home, job.spec, result.kept)
        channel.close()
        return result
    except EnclaveError as error:
        # The peers read this; the text of a storage error has paths of this machine.
        channel.close(Failure.for_peers(error).error())
        raise
    except BaseException:
        channel.close(SessionError(f"{identity.name} stopped", code="session.stopped"))
        raise
    finally:
        if stock is not None:
            stock.close()


@dataclass(slots=True)
class _Run:
    """The part of a session that has a channel."""

    job: Assignment
    seal: Seal
    channel: Channel
    inputs: Inputs
    gate: Gate
    commit: Callable[[], None]
    progress: Callable[[Progress], None] | None
    evidence: Evidence
    stock: Stock | None
    encodings: Encodings | None
    audit: OpeningAudit = field(default_factory=OpeningAudit)
    before: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def run(self) -> SessionResult:
        """Hello, workload, gates, release."""
        from enclave import workloads

        spec, plan, session = self.job.spec, self.seal.plan, self._begin()
        # The hello and the agreement are no steps of the plan: traffic is counted from here on, without the latter.
        self.before = {link.rank: (link.sent_bytes, link.received_bytes) for link in self.channel.stats()}
        engine = job_engine(spec, session, self.encodings)
        try:
            sealed = workloads.run(engine, spec, self.inputs)
            permit = self._through_gate(session)
            opened = workloads.release(engine, spec, sealed, permit)
        finally:
            self.evidence.audit = self.audit.result()
            self.evidence.transcript = self._transcript(session, session.digest == plan.digest)
        report = self.evidence.report(self.job.signed, spec, self.job.names[self.job.rank], "RELEASED")
        kept = {}
        if session.rank is not None:
            shares = cast("MpcEngine", engine)  # only training on shares leaves some
            kept = {name: shares.own_share(cast("RingTensor", value)) for name, value in sealed.shared.items()}
        return SessionResult(opened, self.evidence.transcript, plan, report, kept)

    def _begin(self) -> PartySession | DealerSession | Witness:
        from enclave.engines.mpc.ahead import Witness
        from enclave.engines.mpc.ranks import DealerSession, PartySession

        agreed = (self.channel, len(self.job.spec.compute_parties), self.seal.plan.digest, self.job.digest)
        if self.job.role != "dealer":
            return PartySession(*agreed, observer=self.audit.observe, progress=self._on_step, stock=self.stock)
        if self.stock is not None:
            return Witness(*agreed, self.stock, progress=self._on_step)
        return DealerSession(*agreed, progress=self._on_step)

    def _through_gate(self, session: PartySession | DealerSession | Witness) -> Permit:
        from enclave.workloads import opened_outputs

        spec = self.job.spec
        transcript = self._transcript(session, session.digest == self.seal.digest)
        allowed = self.gate(Sealing(spec.job_id, opened_outputs(spec), spec.rows, transcript))
        self._agree(session)
        self.commit()
        # Safety: the only Permit of a session that has shares; those of `meeting` open shapes.
        return Permit(spec.job_id, allowed)

    def _agree(self, session: PartySession | DealerSession | Witness) -> None:
        """Every gate has said yes, or this raises what the one that did not told its peers."""
        reached, planned, step = session.digest, self.seal.digest, session.rounds
        if reached != planned:
            me = self.job.names[self.job.rank]
            raise Desynchronised(planned.hex()[:16], reached.hex()[:16], who=me)
        for peer in self.job.peers:
            self.channel.send(peer, step, "agree", [reached])
        for peer in self.job.peers:
            said = bytes(self.channel.receive(peer, step, "agree", len(planned)))
            if said != planned:
                raise Desynchronised(planned.hex()[:16], said.hex()[:16], who=self.job.names[peer])
        size = len(planned)
        self.before = {rank: (sent + size, got + size) for rank, (sent, got) in self.before.items()}

    def _on_step(self, rounds: int, stage: str) -> None:
        if self.progress is not None:
            self.progress(Progress(rounds, self.seal.plan.rounds, stage))

    def _transcript(self, session: PartySession | DealerSession | Witness, equals_plan: bool) -> Transcript:
        audit = self.audit.result()
        links = []
        for link in self.channel.stats():
            sent, received = self.before.get(link.rank, (0, 0))
            links.append(LinkTraffic(link.peer, link.sent_bytes - sent, link.received_bytes - received))
        return Transcript(
            rounds=session.rounds,
            links=tuple(links),
            digest=session.digest,
            equals_plan=equals_plan,
            openings=session.openings,
            opened_words=session.opened_words,
            uniformity_p=audit.uniformity_p,
            reused_masks=audit.reused_masks,
            peak_rss_bytes=session.peak_rss_bytes,
            wall_s=session.wall_s,
        )

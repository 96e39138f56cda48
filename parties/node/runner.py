"""One leased job at one node, from its order to its end: the node's side of the worker's pipe."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from enclave.channel.addresses import Offer
from enclave.clock import Clock
from enclave.errors import BadSpec, EnclaveError, PolicyRefused, SessionError
from enclave.executor.local import LocalExecutor, WorkerProcess
from enclave.executor.orders import (
    Failure,
    Located,
    NodeOrder,
    Order,
    Outcome,
    PermitOrder,
    Ready,
    SealedEvent,
    WorkerEvent,
)
from enclave.executor.session import Sealing
from enclave.jobs import FINAL, Jobs
from enclave.messages import JobSpec, Reason, sha256

__all__ = ["Desk", "Peers", "Runner"]

_STOP_PATIENCE_S = 5.0  # the worker tells its peers first, see `Channel.close`
_PEERS_EVERY_S = 2.0


class Peers(Protocol):
    """What a runner asks of the nodes of the other parties."""

    def locate(self, spec: JobSpec, rank: int, stop: Callable[[], bool]) -> str:
        """Where the worker of a rank listens; blocks until it does or `stop()`; raises EnclaveError."""
        ...

    def broken(self, spec: JobSpec) -> EnclaveError | None:
        """Why the job has ended at some other node, or None while it has not, as far as they can be asked."""
        ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What all runners of a node share. `judge_release` gives the reasons against a release."""

    jobs: Jobs
    executor: LocalExecutor
    peers: Peers
    judge_release: Callable[[JobSpec, Sealing], tuple[Reason, ...]]
    conclude: Callable[[str, Outcome], None]
    advertised_host: str
    silence_s: float
    clock: Clock


class Runner:
    """Runs one job in its own thread; `done` is called at the end, whatever happened."""

    def __init__(self, desk: Desk, spec: JobSpec, order: Order, worker_id: str, done: Callable[[Runner], None]) -> None:
        self.spec = spec
        self.worker_id = worker_id
        self._desk = desk
        self._order = order
        self._done = done
        self._log = logging.getLogger(__name__)
        self._lock = threading.Lock()
        self._address = ""
        self._listening = threading.Event()
        self._connected = False
        self._over = threading.Event()
        self._cancelled: EnclaveError | None = None
        self._worker: WorkerProcess | None = None
        self._touched_s = desk.clock.monotonic_s()
        self._decided_s: float | None = None
        self._sealing: Sealing | None = None
        self.failure: Failure | None = None

    @property
    def deals(self) -> bool:
        """Whether this is the dealing phase of a job, which leaves the job as it is."""
        return self._order.deal

    def start(self) -> None:
        """Begins; returns at once."""
        threading.Thread(target=self._run, name=f"job {self.spec.job_id[:8]}", daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether the worker is gone and the job's end is recorded."""
        return self._over.is_set()

    def join(self, timeout_s: float) -> bool:
        """Waits for the end; False when it did not come in time."""
        return self._over.wait(timeout_s)

    def touch(self) -> None:
        """The buyer has shown that it is still there."""
        self._touched_s = self._desk.clock.monotonic_s()

    @property
    def overdue(self) -> bool:
        """Whether the session goes on long after its end was decided: a peer does not take leave."""
        limit_s = 2 * self._order.step_deadline_s
        return self._decided_s is not None and self._desk.clock.monotonic_s() - self._decided_s > limit_s

    def address(self, wait_s: float) -> str:
        """Where the worker listens; empty while it does not after `wait_s`."""
        self._listening.wait(wait_s)
        return self._address

    def cancel(self, error: EnclaveError) -> None:
        """Ends the session for the reason given, which the peers are told. The first reason counts."""
        with self._lock:
            if self._cancelled is not None or self._over.is_set():
                return
            self._cancelled = error
            worker = self._worker
        if worker is not None:
            threading.Thread(target=self._stop, args=(worker, error), daemon=True).start()

    def _stop(self, worker: WorkerProcess, error: EnclaveError) -> None:
        worker.send(NodeOrder(cancel=Failure.of(error)))
        if not self._over.wait(_STOP_PATIENCE_S):
            worker.kill()

    # ---- the job's thread
    def _run(self) -> None:
        try:
            outcome = self._session()
        except EnclaveError as error:
            self._log.error("job %s: %s", self.spec.job_id, error.public)
            outcome = Outcome(Failure.of(self._cancelled or error))
        try:
            self._end(outcome)
        except EnclaveError as error:
            # The disk is full, say. The lease runs out, and the job fails when it can be written.
            self._log.error("job %s: its end cannot be recorded: %s", self.spec.job_id, error.public)
        finally:
            self._listening.set()
            self._over.set()
            self._done(self)

    def _session(self) -> Outcome:
        worker = self._desk.executor.take(self.spec.job_id)
        try:
            with self._lock:
                self._worker = worker
                cancelled = self._cancelled
            if cancelled is not None:
                raise cancelled
            worker.send(NodeOrder(start=self._order))
            threading.Thread(target=self._watch_setup, name="setup", daemon=True).start()
            outcome = None
            for event in worker.events():
                outcome = self._take(worker, event) or outcome
            if outcome is not None:
                return outcome
        finally:
            status = worker.stop(1.0)
        if self._cancelled is not None:
            raise self._cancelled
        raise SessionError(
            f"the worker ended without a result (exit status {status})",
            hint=f"its last words are in the file {self.spec.job_id}.log among the node's logs",
            code="session.worker",
        )

    def _take(self, worker: WorkerProcess, event: WorkerEvent) -> Outcome | None:
        if event.listening is not None:
            offer = Offer.parse(event.listening.address, "this node")
            self._address = str(offer.at(self._desk.advertised_host))
            self._listening.set()
        elif event.locate is not None:
            # Its own thread: the peer's worker may take a while, and the pipe must be read meanwhile.
            threading.Thread(target=self._locate, args=(worker, event.locate.rank), daemon=True).start()
        elif event.connected is not None:
            self._connected = True
        elif event.progress is not None:
            p = event.progress
            self._desk.jobs.progress(self.spec.job_id, p.steps_done, p.steps_total, p.stage)
        elif event.sealed is not None:
            self._decide(worker, event.sealed)
        elif event.agreed is not None:
            self._commit(worker)
        return event.outcome

    def _locate(self, worker: WorkerProcess, rank: int) -> None:
        try:
            if not 0 <= rank < len(self.spec.parties):
                raise BadSpec(f"the job has no rank {rank}")
            located = Located(rank, self._desk.peers.locate(self.spec, rank, self._over.is_set))
        except EnclaveError as error:
            located = Located(rank, failure=Failure.of(error))
        worker.send(NodeOrder(located=located))

    def _decide(self, worker: WorkerProcess, event: SealedEvent) -> None:
        """The gate, first half: the result is sealed, and this party says whether it may leave."""
        jobs, job_id = self._desk.jobs, self.spec.job_id
        try:
            jobs.advance(job_id, "SEALED", detail=event.transcript.digest, worker_id=self.worker_id)
            sealing = Sealing(event.job_id, event.outputs, event.rows, event.transcript)
            if sealing.job_id != job_id:
                raise SessionError(f"the worker sealed job {sealing.job_id[:32]}, expected {job_id}")
            self._judge(sealing)
            self._sealing = sealing
        except EnclaveError as error:
            worker.send(NodeOrder(refuse=Failure.of(error)))
        else:
            worker.send(NodeOrder(permit=PermitOrder(job_id, sealing.outputs)))

    def _judge(self, sealing: Sealing) -> None:
        """Raises PolicyRefused, once the refusal is recorded, when the sealed result may not leave."""
        reasons = self._desk.judge_release(self.spec, sealing)
        if reasons:
            self._desk.jobs.advance(self.spec.job_id, "REFUSED", reasons, worker_id=self.worker_id)
            self._decided_s = self._desk.clock.monotonic_s()
            rules = tuple(reason.rule for reason in reasons)
            raise PolicyRefused(f"release refused: {'; '.join(r.text for r in reasons)}", rules=rules)

    def _commit(self, worker: WorkerProcess) -> None:
        """The gate, second half: all parties agreed. Safety: the share leaves only after this is on the disk."""
        detail = sha256(*(output.encode() for output in self.spec.outputs))
        try:
            if self._sealing is None:
                raise SessionError("the worker asks for a release that was not permitted")
            # Again: the policy may have changed, or a card gone, while the others made up their minds.
            self._judge(self._sealing)
            self._desk.jobs.advance(self.spec.job_id, "RELEASED", detail=detail, worker_id=self.worker_id)
            self._decided_s = self._desk.clock.monotonic_s()
        except EnclaveError as error:
            worker.send(NodeOrder(refuse=Failure.of(error)))
        else:
            worker.send(NodeOrder(release=Ready()))

    def _watch_setup(self) -> None:
        """Until the session stands, nobody notices through it that a peer has given up: ask instead."""
        asked_s = self._desk.clock.monotonic_s()
        while not self._connected and not self._over.wait(0.25):
            now_s = self._desk.clock.monotonic_s()
            if now_s - self._touched_s > self._desk.silence_s:
                silent_s = int(now_s - self._touched_s)
                self.cancel(
                    SessionError(
                        f"the buyer {self.spec.buyer.name} was silent for {silent_s} s before the session began",
                        code="session.buyer_silent",
                    )
                )
                return
            if self._desk.clock.unix_s() > self.spec.expires_unix_s:
                self.cancel(SessionError("the job expired before its session began", code="job.expired"))
                return
            if now_s - asked_s > _PEERS_EVERY_S:
                error = self._desk.peers.broken(self.spec)
                if error is not None and not self._connected:
                    self.cancel(error)
                    return
                asked_s = self._desk.clock.monotonic_s()

    def _end(self, outcome: Outcome) -> None:
        """Records the end of a job that is not final yet, then has the statement written."""
        jobs, job_id = self._desk.jobs, self.spec.job_id
        record = jobs.get(job_id)
        self.failure = outcome.failure
        if self.deals and record.state not in FINAL:
            return
        if record.state not in FINAL:
            failure = outcome.failure or Failure("session", "the worker ended before the release")
            error = self._cancelled or failure.error()
            try:
                jobs.advance(job_id, "FAILED", (Reason(error.code, error.public[:2000]),))
            except EnclaveError:
                # Withdrawn or expired in this very moment: final either way.
                if jobs.get(job_id).state not in FINAL:
                    raise
        self._desk.conclude(job_id, outcome)

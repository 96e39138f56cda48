"""The worker's main: one order on standard input, one session, events on standard output.

Threads: the main thread runs the session; a second one reads what the node says meanwhile (a permit, where a peer
listens, to stop) and ends the process when the node is gone.
"""

from __future__ import annotations

import os
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from enclave.channel.buffers import hand_over_quickly, keep_freed_memory
from enclave.errors import BadData, EnclaveError, Refused
from enclave.executor.orders import (
    Endpoint,
    Failure,
    Locate,
    Located,
    NodeOrder,
    Order,
    Outcome,
    ProgressEvent,
    Ready,
    SealedEvent,
    WorkerEvent,
    read_frame,
    write_frame,
)

if TYPE_CHECKING:
    from enclave.channel import Channel
    from enclave.datasets import RowSource
    from enclave.executor.assignment import Assignment
    from enclave.executor.evidence import Evidence
    from enclave.executor.session import Progress, Sealing
    from enclave.identity import Identity, TrustStore

__all__ = ["main", "no_core_dumps"]

_PROGRESS_S = 0.1


class _Node:
    """The other end of the pipe, as the session sees it."""

    def __init__(self, orders: BinaryIO, events: BinaryIO) -> None:
        self._orders = orders
        self._events = events
        self._write_lock = threading.Lock()
        self._released: queue.SimpleQueue[EnclaveError | None] = queue.SimpleQueue()
        self._verdict: queue.SimpleQueue[tuple[str, ...] | EnclaveError] = queue.SimpleQueue()
        self._located: dict[int, queue.SimpleQueue[Located]] = {}
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._cancelled: EnclaveError | None = None
        self._progress_s = 0.0

    def emit(self, event: WorkerEvent) -> None:
        """Tells the node; a node that is gone ends the process."""
        with self._write_lock:
            try:
                write_frame(self._events, event)
            except OSError:
                os._exit(3)

    def listen(self) -> None:
        """Reads orders until the node is gone. Runs in its own thread."""
        try:
            while (order := read_frame(self._orders, NodeOrder)) is not None:
                self._take(order)
        except (EnclaveError, OSError):
            traceback.print_exc()
        # Safety: without its node a worker has nobody to ask whether a result may leave.
        os._exit(3)

    def _take(self, order: NodeOrder) -> None:
        if order.permit is not None:
            self._verdict.put(order.permit.outputs)
        elif order.refuse is not None:
            self._verdict.put(order.refuse.error())
            self._released.put(order.refuse.error())
        elif order.release is not None:
            self._released.put(None)
        elif order.located is not None:
            self._answers(order.located.rank).put(order.located)
        elif order.cancel is not None:
            self._cancel(order.cancel.error())

    def _cancel(self, error: EnclaveError) -> None:
        with self._lock:
            self._cancelled = error
            channel = self._channel
        self._verdict.put(error)
        self._released.put(error)
        if channel is None:
            # No session yet: no peer to tell, and the main thread may wait for a connection for a long time.
            self.emit(WorkerEvent(outcome=Outcome(Failure.of(error))))
            os._exit(0)
        channel.close(error)

    def attach(self, channel: Channel) -> None:
        """The session began; from now on it ends through its channel."""
        with self._lock:
            self._channel = channel
        self.emit(WorkerEvent(connected=Ready()))

    def locate(self, rank: int) -> str:
        """Asks the node where a peer's worker listens. One thread at a time for each rank."""
        self.emit(WorkerEvent(locate=Locate(rank)))
        answer = self._answers(rank).get()
        if answer.failure is not None:
            raise answer.failure.error()
        return answer.address

    def _answers(self, rank: int) -> queue.SimpleQueue[Located]:
        with self._lock:
            return self._located.setdefault(rank, queue.SimpleQueue())

    def gate(self, sealing: Sealing) -> tuple[str, ...]:
        """Asks the node whether the sealed result may leave."""
        event = SealedEvent(sealing.job_id, sealing.outputs, sealing.rows, sealing.transcript)
        self.emit(WorkerEvent(sealed=event))
        verdict = self._verdict.get()
        if isinstance(verdict, EnclaveError):
            raise verdict
        return verdict

    def commit(self) -> None:
        """Says that all parties agreed, and waits until the node has made the release durable."""
        self.emit(WorkerEvent(agreed=Ready()))
        error = self._released.get()
        if error is not None:
            raise error

    def progress(self, progress: Progress) -> None:
        """Tells the node where the session stands, a few times a second at most."""
        now_s = time.monotonic()
        if now_s - self._progress_s >= _PROGRESS_S or progress.steps_done == progress.steps_total:
            self._progress_s = now_s
            event = ProgressEvent(progress.steps_done, progress.steps_total, progress.stage)
            self.emit(WorkerEvent(progress=event))

    def reason(self, error: EnclaveError) -> EnclaveError:
        """Why the session really ended: the node's order to stop explains whatever came of it."""
        with self._lock:
            return self._cancelled or error


def main() -> int:
    """Runs one session; returns the exit status: 0 when an outcome was told, 3 when the node is gone."""
    no_core_dumps()
    keep_freed_memory()
    hand_over_quickly()
    orders, events = _claim_pipes()
    _import_engine()
    node = _Node(orders, events)
    node.emit(WorkerEvent(ready=Ready()))
    first = read_frame(orders, NodeOrder)
    if first is None or first.start is None:
        return 0
    threading.Thread(target=node.listen, name="orders", daemon=True).start()
    limit_memory(first.start.memory_limit_bytes)
    node.emit(WorkerEvent(outcome=_run(first.start, node)))
    # Threads of libraries that are still alive must not keep the process.
    sys.stderr.flush()
    os._exit(0)


def _run(order: Order, node: _Node) -> Outcome:
    """The session's outcome; nothing is raised."""
    from enclave.executor.evidence import Evidence

    evidence = Evidence()
    try:
        _session(order, node, evidence)
    except Exception as error:  # noqa: BLE001  the edge of the process: the node must hear of it, without details
        traceback.print_exc()
        known = error if isinstance(error, EnclaveError) else EnclaveError(f"the worker failed: {type(error).__name__}")
        return _outcome(order, evidence, Failure.of(node.reason(known)))
    return _outcome(order, evidence, None)


def _outcome(order: Order, evidence: Evidence, failure: Failure | None) -> Outcome:
    from enclave.identity import Identity
    from enclave.messages import JobSpec

    report = b""
    try:
        name = Identity.load(Path(order.home)).name
        reasons = () if failure is None else (failure.reason(),)
        state = "FAILED" if failure is not None else "RELEASED"
        report = evidence.report(order.spec, JobSpec.decode(order.spec.body), name, state, reasons)
    except EnclaveError:
        traceback.print_exc()
    return Outcome(failure, evidence.transcript, report, evidence.plan.digest if evidence.plan is not None else b"")


def _session(order: Order, node: _Node, evidence: Evidence) -> None:
    from enclave.channel.grpc_link import Listener
    from enclave.executor.assignment import read_job
    from enclave.executor.catalogue import Catalogue
    from enclave.executor.claims import untrue
    from enclave.executor.session import run_session
    from enclave.identity import Identity, TrustStore
    from enclave.workloads import Inputs

    home = Path(order.home)
    identity, trust = Identity.load(home), TrustStore(home)
    job = read_job(order.spec, identity, trust)
    false = untrue(job.spec) if order.profile == "production" else ()
    if false:
        raise Refused(f"a claim of the receipt would be false: {'; '.join(false)}", code="refused.claims")
    if order.deal:
        _deal(order, node, job, identity, trust)
        return
    rows = None
    if order.dataset:
        catalogue, ref = Catalogue(home, identity.name), job.spec.datasets[job.rank]
        rows = _fitting(lambda: catalogue.rows(ref, job.spec.encoding), identity.name)
    ports = range(order.port_low, order.port_high + 1)
    sockets = order.transport == "socket"
    listener = Listener(identity, trust, job.spec.job_id, order.listen_host, ports, job.peers, sockets=sockets)
    node.emit(WorkerEvent(listening=Endpoint(listener.address)))
    run_session(
        order.spec,
        identity=identity,
        trust=trust,
        inputs=Inputs(rows=rows),
        locate=node.locate,
        gate=node.gate,
        commit=node.commit,
        listener=listener,
        progress=node.progress,
        attach=node.attach,
        evidence=evidence,
        connect_s=order.connect_s,
        deadline_s=order.step_deadline_s,
        dealer_bytes_limit=order.dealer_bytes_limit or None,
        encodings_limit_bytes=order.encodings_limit_bytes,
    )


def _deal(order: Order, node: _Node, job: Assignment, identity: Identity, trust: TrustStore) -> None:
    from enclave.channel.grpc_link import Listener
    from enclave.executor.dealing import dealing_session_id, run_dealing
    from enclave.executor.session import Progress

    ports = range(order.port_low, order.port_high + 1)
    session_id = dealing_session_id(job.spec.job_id)
    sockets = order.transport == "socket"
    listener = Listener(identity, trust, session_id, order.listen_host, ports, job.peers, sockets=sockets)
    node.emit(WorkerEvent(listening=Endpoint(listener.address)))
    run_dealing(
        order.spec,
        identity=identity,
        trust=trust,
        locate=node.locate,
        listener=listener,
        progress=lambda done, total: node.progress(Progress(done, total, "dealing ahead")),
        attach=node.attach,
        connect_s=order.connect_s,
        deadline_s=order.step_deadline_s,
        dealer_bytes_limit=order.dealer_bytes_limit or None,
        stock_bytes_limit=order.stock_bytes_limit,
    )


def _fitting(rows: Callable[[], RowSource], owner: str) -> RowSource:
    """The opened and checked rows.

    Raises: BadData that says no more than that they do not fit: which column, and how, depends on values and would
        travel to the buyer. The operator finds it in the job's log.
    """
    try:
        return rows()
    except BadData as error:
        if not error.detail:
            raise
        sys.stderr.write(f"rows refused: {error.public} ({error.detail})\n")
        sys.stderr.flush()
        raise BadData(f"the rows of {owner} do not fit the encoding", hint=error.hint) from None


def no_core_dumps() -> None:
    """Keeps shares, rows and keys of this process, and of those that it starts, from the disk when one crashes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(limit_bytes: int) -> None:
    """Ends an allocation, and with it the session, that would take this process beyond the limit; 0: none.

    What counts is memory that can be written to, used or not: a job that asks for too much must fail alone, and not
    bring its machine down.
    """
    if limit_bytes:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = limit_bytes if most == resource.RLIM_INFINITY else min(limit_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Takes descriptors 0 and 1 for itself, so that no stray print of a library ends up among the events."""
    orders = os.fdopen(os.dup(0), "rb")
    events = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return orders, events


def _import_engine() -> None:
    """What takes long to import, before there is a job that waits for it."""
    from enclave.channel.tls import require_tls13

    require_tls13()
    import enclave.channel.grpc_link
    import enclave.datasets
    import enclave.engines.mpc.engine
    import enclave.executor.session
    import enclave.plan
    import enclave.workloads  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())

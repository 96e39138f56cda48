"""Which jobs run now: the queue for workers, the runners, and the loop that keeps both in step with the store.

Workers are a node's scarce good, and a job needs one at several nodes at once. A job holds its worker from `Start`
on; buyers take workers at one node after the other in the order of key ids (`start_everywhere`), which is why no
two jobs can hold what the other waits for. A node relies on nobody for that: a job whose session has not begun and
whose buyer is silent loses its worker, and one that waits loses its place.

The dealing phase of a job that is dealt ahead takes a worker in the same way, and leaves the job ADMITTED: whether it
was dealt is a matter of this party's disk. What was dealt to a job that has ended is deleted.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from enclave.errors import EnclaveError, Refused, SessionError, Untrusted
from enclave.executor.dealing import shelf_of
from enclave.executor.orders import Failure, Order
from enclave.identity import Identity
from enclave.jobs import FINAL, JobRecord, Jobs
from enclave.messages import Reason
from parties.config import NodeConfig
from parties.node.runner import Desk, Runner

__all__ = ["Leases"]

_TICK_S = 0.5
_MAX_DEALINGS = 10
_CONNECT_S = 86_400.0  # how long a session may take to begin is bounded by its buyer's patience, see Runner


class Leases:
    """The running and waiting jobs of one node.

    Args:
        settle: called for every job that became final without a runner: its statement is due.
        decide: called for every job that its operator has approved in the store.
    """

    def __init__(
        self,
        desk: Desk,
        identity: Identity,
        config: NodeConfig,
        *,
        settle: Callable[[str], object],
        decide: Callable[[JobRecord], object],
    ) -> None:
        self._desk = desk
        self._jobs: Jobs = desk.jobs
        self._identity = identity
        self._config = config
        self._settle = settle
        self._decide = decide
        self._log = logging.getLogger(__name__)
        self._lock = threading.Lock()
        self._filling = threading.Lock()  # held while a job becomes RUNNING and gets its runner
        self._runners: dict[str, Runner] = {}
        self._waiting: dict[str, float] = {}
        self._to_deal: set[str] = set()  # those that wait for a dealing phase, until it has its runner
        self._not_dealt: dict[str, Failure] = {}
        self._dealings: Counter[str] = Counter()
        self._shelf = shelf_of(identity.home, config.max_stock_bytes)
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="leases", daemon=True)

    @property
    def closing(self) -> bool:
        """Whether no more jobs are taken."""
        return self._closing

    def open(self) -> None:
        """Warms a worker and starts the loop."""
        self._shelf.sweep(self._open_jobs(), unfinished=True)
        self._desk.executor.warm()
        self._thread.start()

    def close(self, drain_s: float) -> None:
        """Takes no more jobs; running sessions get `drain_s` to end, then fail with the reason."""
        self._closing = True
        self._wake.set()
        deadline_s = self._desk.clock.monotonic_s() + drain_s
        with self._filling, self._lock:
            runners = tuple(self._runners.values())
        for runner in runners:
            runner.join(max(0.0, deadline_s - self._desk.clock.monotonic_s()))
        for runner in runners:
            runner.cancel(SessionError(f"the node of {self._identity.name} shut down", code="session.shutdown"))
        for runner in runners:
            runner.join(10.0)
        self._desk.executor.close()
        if self._thread.is_alive():
            self._thread.join(10.0)

    # ---- for the servicer
    def ask(self, job_id: str, *, deal: bool = False) -> None:
        """Puts an ADMITTED job into the queue, for its session or for its dealing phase, or keeps it there.

        Raises: Refused (job.dealing) when the job was dealt too often: every time costs the dealer and the disks the
            whole tape, and only a session costs the buyer its job.
        """
        with self._lock:
            launching = job_id in self._to_deal and job_id not in self._waiting
            if deal and (launching or job_id in self._runners):
                return
            if deal and self._dealings[job_id] >= _MAX_DEALINGS:
                text = f"the job was dealt {_MAX_DEALINGS} times without being started"
                raise Refused(text, hint="propose it again as a new job", code="job.dealing")
            self._waiting[job_id] = self._desk.clock.monotonic_s()
            if deal:
                self._to_deal.add(job_id)
                self._not_dealt.pop(job_id, None)
            else:
                self._to_deal.discard(job_id)
        self._wake.set()

    def dealing(self, job_id: str) -> tuple[str, Failure | None]:
        """How far the dealing phase of an ADMITTED job is, see `JobStatus`, and why it failed."""
        with self._lock:
            if job_id in self._runners:
                return "running", None
            if job_id in self._to_deal:
                return "waiting", None
            failure = self._not_dealt.get(job_id)
        if self._shelf.ready(job_id):
            return "dealt", None
        return ("open", None) if failure is None else ("failed", failure)

    def runner(self, job_id: str) -> Runner | None:
        """The runner of a job whose session is not over."""
        with self._lock:
            return self._runners.get(job_id)

    def touch(self, job_id: str) -> None:
        """The job's buyer has been heard of."""
        runner = self.runner(job_id)
        if runner is not None:
            runner.touch()

    def ahead(self, job_id: str) -> int | None:
        """How many jobs run or wait before this one; None when it does not wait."""
        with self._lock:
            queue = list(self._waiting)
            return queue.index(job_id) + len(self._runners) if job_id in queue else None

    def enforce(self, job_id: str) -> None:
        """Stops the session of a job that has become final otherwise, or has its statement written."""
        with self._lock:
            runner = self._runners.get(job_id)
            if runner is None:
                self._waiting.pop(job_id, None)
        record = self._jobs.get(job_id)
        if record.state not in FINAL:
            return
        if runner is not None and record.state in ("RELEASED", "REFUSED"):
            # Its session ends by itself, unless a peer keeps it: the worker is needed by others.
            if runner.overdue:
                runner.cancel(SessionError("a peer kept the session open after its end", code="session.lingering"))
            return
        if runner is None:
            self._shelf.discard(job_id)
            self._forget(job_id)
            self._settle(job_id)
            return
        reason = record.reasons[0] if record.reasons else Reason("session", record.state.lower())
        runner.cancel(SessionError(reason.text, code=reason.rule))

    # ---- the loop
    def _work(self) -> None:
        renewed_s = self._desk.clock.monotonic_s()
        while not (self._closing and not self._runners):
            self._wake.wait(_TICK_S)
            self._wake.clear()
            try:
                self._fill()
                for record in self._jobs.expire_due():
                    self.enforce(record.job_id)
                for job_id in tuple(self._runners):
                    self.enforce(job_id)
                self._hear_operators()
                if self._desk.clock.monotonic_s() - renewed_s > self._config.lease_s / 3:
                    renewed_s = self._desk.clock.monotonic_s()
                    self._renew()
                    if self._shelf.names():
                        self._shelf.sweep(self._open_jobs())
            except EnclaveError as error:
                # Disk full, for instance: jobs keep running, leases keep ageing, and the next tick tries again.
                self._log.error("lease loop: %s", error.public)

    def _fill(self) -> None:
        """Gives free places to waiting jobs, the longest waiting first; forgets those whose buyer is silent."""
        now_s = self._desk.clock.monotonic_s()
        with self._lock:
            for job_id in [j for j, touched_s in self._waiting.items() if now_s - touched_s > self._desk.silence_s]:
                del self._waiting[job_id]
                self._to_deal.discard(job_id)
        with self._filling:
            while not self._closing:
                with self._lock:
                    # A job whose dealing phase is about to end waits for that.
                    job_id = next((j for j in self._waiting if j not in self._runners), "")
                    if len(self._runners) >= self._config.max_jobs or not job_id:
                        return
                    del self._waiting[job_id]
                    deal = job_id in self._to_deal
                try:
                    self._begin(job_id, deal)
                finally:
                    with self._lock:
                        self._to_deal.discard(job_id)

    def _begin(self, job_id: str, deal: bool) -> None:
        worker_id = f"{self._identity.name}-{job_id[:8]}"
        if deal:
            record = self._jobs.get(job_id)
            if record.state == "ADMITTED":
                self._launch(record, worker_id, deal)
            return
        leased = self._jobs.lease(worker_id, self._config.lease_s, job_id)
        if leased is not None:
            self._launch(leased, worker_id, deal)

    def _launch(self, record: JobRecord, worker_id: str, deal: bool) -> None:
        config = self._config
        order = Order(
            spec=record.signed,
            home=str(Path(self._identity.home).resolve()),
            dataset="" if deal else record.dataset,
            listen_host=config.listen_host,
            port_low=config.worker_ports[0],
            port_high=config.worker_ports[1],
            connect_s=_CONNECT_S,
            step_deadline_s=config.step_deadline_s,
            dealer_bytes_limit=config.max_dealer_bytes if self._identity.role == "dealer" else 0,
            profile=config.profile,
            deal=deal,
            stock_bytes_limit=config.max_stock_bytes,
            transport=config.transport,
            encodings_limit_bytes=config.max_encodings_bytes,
            memory_limit_bytes=config.max_worker_bytes,
        )
        self._dealings[record.job_id] += deal
        runner = Runner(self._desk, record.spec(), order, worker_id, self._done)
        with self._lock:
            self._runners[record.job_id] = runner
        runner.start()

    def _done(self, runner: Runner) -> None:
        job_id = runner.spec.job_id
        with self._lock:
            if runner.deals and runner.failure is not None:
                self._not_dealt[job_id] = runner.failure
            if not runner.deals:
                self._dealings.pop(job_id, None)
            self._runners.pop(job_id, None)
        self._wake.set()
        if not self._closing:
            try:
                self._desk.executor.warm()
            except EnclaveError as error:
                self._log.error("no spare worker: %s", error.public)

    def _hear_operators(self) -> None:
        """Decides on jobs that were approved in the store, by the operator's commands, since the last look."""
        for record in self._jobs.list(("PROPOSED",)):
            if self._jobs.history(record.job_id).approved:
                # A party whose card was removed since: the job waits on, and expires.
                with contextlib.suppress(Untrusted):
                    self._decide(record)

    def _forget(self, job_id: str) -> None:
        with self._lock:
            self._to_deal.discard(job_id)
            self._not_dealt.pop(job_id, None)
            self._dealings.pop(job_id, None)

    def _open_jobs(self) -> frozenset[str]:
        return frozenset(record.job_id for record in self._jobs.list(("PROPOSED", "ADMITTED", "RUNNING", "SEALED")))

    def _renew(self) -> None:
        for job_id, runner in tuple(self._runners.items()):
            if runner.deals:
                continue
            try:
                self._jobs.renew(job_id, runner.worker_id, self._config.lease_s)
            except Refused:
                self.enforce(job_id)

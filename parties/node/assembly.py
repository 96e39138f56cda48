"""A node put together from its home directory, and served until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import enclave
from enclave.clock import Clock, SystemClock
from enclave.errors import PlanMismatch, Refused, Untrusted
from enclave.executor.catalogue import Catalogue
from enclave.executor.claims import node_claims, untrue
from enclave.executor.local import LocalExecutor
from enclave.executor.session import plan_job
from enclave.executor.worker import no_core_dumps
from enclave.identity import Identity, TrustStore
from enclave.jobs import JobLimits, Jobs
from enclave.messages import JobSpec
from enclave.store import Store
from parties.config import NodeConfig
from parties.node.admission import Admission
from parties.node.peers import NodePeers
from parties.node.servicer import Node, Parts
from parties.node.statements import Statements
from parties.server import serve

if TYPE_CHECKING:
    from parties.server.wiring import NodeServer

__all__ = ["NodeProcess", "open_jobs", "open_node"]

STORE_NAME = "node.db"


class NodeProcess:
    """A running node. `address` is its control port as bound."""

    def __init__(self, node: Node, server: NodeServer, store: Store, config: NodeConfig) -> None:
        self.node = node
        self.address = server.address
        self._server = server
        self._store = store
        self._config = config
        self._stop = threading.Event()

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains. Must be called from the main thread."""

        def told(_signal: int, _frame: FrameType | None) -> None:
            self._stop.set()

        no_core_dumps()
        before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._stop.wait()
        finally:
            self.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Refuses new work, lets sessions end for as long as the configuration says, then ends everything."""
        self._server.refuse_traffic()
        self.node.close(self._config.shutdown_s)
        self._server.stop()
        self._store.close()


def open_node(home: Path, *, role: str = "", clock: Clock | None = None, silence_s: float = 60.0) -> NodeProcess:
    """Starts the node whose home directory is `home`: takes jobs when it returns.

    Args:
        role: "owner" or "dealer"; what the home must be. Empty: either.

    Raises:
        BadInput: the port is in use, or the configuration is wrong.
        Refused: the production profile, in a process where a claim would be false.
        Untrusted: the home's role does not run a node, or its certificate has expired.
        StoreError: another process serves this home, the store is of a newer version or damaged, the disk is full.
    """
    clock = clock or SystemClock()
    identity = Identity.load(home, clock)
    if identity.role not in ((role,) if role else ("owner", "dealer")):
        raise Untrusted(f"{home} is the home of {identity.role} {identity.name}, expected {role or 'owner or dealer'}")
    config, trust = NodeConfig.load(home), TrustStore(home, clock)
    false = untrue() if config.production else ()
    if false:
        raise Refused(
            f"a claim of this node's receipts would be false: {'; '.join(false)}",
            hint='switch it off, or set profile = "development" in node.toml',
            code="refused.claims",
        )
    store = open_store(home, config)
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        jobs = open_jobs(store, identity, clock, config)
        claims = node_claims(config.profile, config.transport)
        executor = LocalExecutor(home / "logs", threads=max(1, (os.cpu_count() or 1) // config.max_jobs))
        stack.callback(executor.close)
        parts = Parts(
            identity=identity,
            trust=trust,
            config=config,
            jobs=jobs,
            admission=Admission(
                identity, trust, Catalogue(home, identity.name), config, clock, lambda spec: check_plan(spec, identity)
            ),
            statements=Statements(jobs, identity, clock, lambda _: claims),
            executor=executor,
            peers=NodePeers(identity, trust),
            clock=clock,
            advertised_host=advertised_host(config, identity),
            code_version=enclave.__version__,
            claims=claims,
            silence_s=silence_s,
        )
        node = Node(parts)
        node.open()
        stack.callback(node.close, 0.0)
        reflect = not config.production
        server = serve(node, identity=identity, trust=trust, listen=config.listen, clock=clock, reflect=reflect)
        stack.pop_all()
    return NodeProcess(node, server, store, config)


def advertised_host(config: NodeConfig, identity: Identity) -> str:
    """The host under which peers dial this node's workers: the one under which they dial the node."""
    address = config.advertise or identity.card.address or config.listen
    return address.rpartition(":")[0]


def open_store(home: Path, config: NodeConfig) -> Store:
    """The node's store; see `Store.open`."""
    return Store.open(home / STORE_NAME, max_bytes=config.max_store_bytes)


def open_jobs(store: Store, identity: Identity, clock: Clock, config: NodeConfig) -> Jobs:
    """The node's jobs, with the limits of its configuration."""
    limits = JobLimits(config.max_open_jobs_per_buyer, config.max_lifetime_s, config.max_run_s)
    return Jobs(store, identity, clock, limits)


def check_plan(spec: JobSpec, identity: Identity) -> int:
    """Dealer bytes of the plan derived here; raises PlanMismatch unless it is the plan that the job names."""
    plan = plan_job(spec)
    if plan.digest != spec.plan_digest:
        raise PlanMismatch(spec.plan_digest, plan.digest, who=identity.name)
    return plan.dealer_bytes

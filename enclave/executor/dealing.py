"""Dealing a job ahead: the short session before a job's own, in which its parties are dealt to (`mpc.ahead`).

    connect → hello (plan and spec digests) → the dealer streams → durable everywhere → close

It belongs to a job that is admitted and not started yet, and changes nothing about that: no data is opened, nothing
is computed, nothing can be released. Its channel has a name of its own, so that a worker of this session and one
of the job's can never meet. Stocks lie in HOME/stock, at the dealer too, which keeps only their ids: to countersign
the job it must have dealt it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from enclave.errors import BadSpec, EnclaveError, SessionError
from enclave.executor.assignment import Assignment, read_job
from enclave.executor.meeting import check_plan, job_engine, meet, run_on, sealed_plan
from enclave.executor.orders import Failure
from enclave.messages import JobSpec, Signed

if TYPE_CHECKING:
    from enclave.channel import Channel
    from enclave.channel.grpc_link import Listener
    from enclave.engines.mpc.sealed import Binding
    from enclave.engines.mpc.session import Session
    from enclave.engines.mpc.shelf import Shelf
    from enclave.engines.mpc.stock import Stock
    from enclave.identity import Identity, TrustStore
    from enclave.plan import Plan

__all__ = ["dealing_session_id", "find_stock", "run_dealing", "shelf_of", "stock_bytes"]


def dealing_session_id(job_id: str) -> str:
    """The name of a job's dealing phase on the network."""
    return f"{job_id}-dealing"


def shelf_of(home: Path, limit_bytes: int | None = None) -> Shelf:
    """What is dealt ahead to the party whose home is `home`."""
    from enclave.engines.mpc.shelf import Shelf

    return Shelf(home, limit_bytes=limit_bytes)


def stock_bytes(spec: JobSpec, rank: int, dealer_bytes: int) -> int:
    """What a job that is dealt ahead takes on the disk of one rank."""
    from enclave.engines.mpc.sealed import Binding

    return Binding(spec.job_id, len(spec.compute_parties), rank, bytes(32), bytes(32), dealer_bytes).disk_bytes


def find_stock(job: Assignment, plan: Plan, home: Path) -> Stock:
    """What was dealt ahead for the job, unused.

    Raises: SessionError (code `session.stock`) when there is nothing, or it was used; StoreError when it is damaged.
    """
    return shelf_of(home).find(_binding(job, plan))


def _binding(job: Assignment, plan: Plan) -> Binding:
    from enclave.engines.mpc.sealed import Binding

    spec = job.spec
    return Binding(
        spec.job_id,
        len(spec.compute_parties),
        job.rank,
        plan.digest,
        job.digest,
        plan.dealer_bytes,
        spec.expires_unix_s,
    )


def run_dealing(
    signed: Signed,
    *,
    identity: Identity,
    trust: TrustStore,
    locate: Callable[[int], str],
    listener: Listener | None = None,
    progress: Callable[[int, int], None] | None = None,
    attach: Callable[[Channel], None] | None = None,
    connect_s: float = 60.0,
    deadline_s: float = 30.0,
    dealer_bytes_limit: int | None = None,
    stock_bytes_limit: int | None = None,
) -> None:
    """This party's rank of the dealing phase of the job `signed`; all parties have it on their disks when it returns.

    What was dealt for the job before is thrown away: a stock belongs to one dealing, and all parties need the same.

    Args:
        listener: made for `dealing_session_id`; None at the buyer. Closed at the end.
        progress: called with the bytes dealt so far and in all.
        stock_bytes_limit: what all stocks of this party together may take on its disk.

    The others, and what it raises, are as for `run_session`; beyond that PolicyRefused (node.stock) beyond the
    limit, and StoreError (`store.full`) when there is no room. Nothing is left on any disk then.
    """
    try:
        job = read_job(signed, identity, trust)
        if not job.spec.deal_ahead:
            raise BadSpec("the job is to be dealt online")
        seal = sealed_plan(job.spec)
        check_plan(job, seal.plan, dealer_bytes_limit)
        channel = meet(
            job,
            dealing_session_id(job.spec.job_id),
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
        _deal(job, seal.plan, channel, shelf_of(identity.home, stock_bytes_limit), progress)
        channel.close()
    except EnclaveError as error:
        # The peers read this; the text of a storage error has paths of this machine.
        channel.close(Failure.for_peers(error).error())
        raise
    except BaseException:
        channel.close(SessionError(f"{identity.name} stopped", code="session.stopped"))
        raise


def _deal(
    job: Assignment, plan: Plan, channel: Channel, shelf: Shelf, progress: Callable[[int, int], None] | None
) -> None:
    from enclave.engines.mpc.ahead import deal_ahead, keep_ahead

    binding = _binding(job, plan)
    if job.role != "dealer":
        keep_ahead(channel, binding, shelf, progress=progress)
        return

    def workload(session: Session) -> None:
        run_on(job_engine(job.spec, session), job.spec)

    deal_ahead(channel, binding, workload, shelf=shelf, progress=progress)

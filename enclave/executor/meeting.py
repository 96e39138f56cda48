"""What comes before the first frame of a job: its plan, derived here and compared, and the channel to its parties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave.engines.interface import Permit
from enclave.errors import BadSpec, PlanMismatch, PolicyRefused
from enclave.executor.assignment import Assignment
from enclave.executor.catalogue import encodings_folder
from enclave.messages import JobSpec

if TYPE_CHECKING:
    from enclave.channel import Channel
    from enclave.channel.grpc_link import Listener
    from enclave.engines.he.linear.encodings import Encodings
    from enclave.engines.interface import Engine
    from enclave.engines.mpc.session import Session
    from enclave.identity import Identity, TrustStore
    from enclave.plan import Plan

__all__ = ["Seal", "check_plan", "job_engine", "kept_encodings", "meet", "plan_job", "run_on", "sealed_plan"]

# A dealer runs far ahead of the parties and then waits for them: what ends its wait is the channel's own watch.
_DEALER_PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Seal:
    """The plan of a job, with the digest of its steps up to the seal."""

    plan: Plan
    digest: bytes


def plan_job(spec: JobSpec) -> Plan:
    """The plan of a job, computed from its specification alone. Raises BadInput for one that cannot be run."""
    return sealed_plan(spec).plan


def kept_encodings(job: Assignment, home: Path, limit_bytes: int) -> Encodings | None:
    """Where an owner keeps its encoded rows from job to job; None where it does not, or the job has no use for them."""
    if job.role != "owner" or job.spec.engine == "mpc" or limit_bytes == 0:
        return None
    from enclave.engines.he.linear.encodings import Encodings

    return Encodings(folder=encodings_folder(home), folder_bytes=limit_bytes)


def job_engine(spec: JobSpec, session: Session, encodings: Encodings | None = None) -> Engine:
    """The engine that a job names, on a session of one of its parties."""
    from enclave.engines.hybrid import engine_for

    rows, largest = _read_once(spec), _largest(spec)
    return engine_for(spec.engine, session, spec.frac_bits, spec.network, rows, encodings, largest)


def _read_once(spec: JobSpec) -> dict[int, int]:
    """Rows by rank, where a job reads each of them once; a training reads them again and again."""
    from enclave.workloads import row_holders

    return dict(row_holders(spec)) if spec.kind == "evaluate" else {}


def _largest(spec: JobSpec) -> float:
    """The largest magnitude of an encoded value, by declared ranges."""
    from enclave.workloads.specification import input_bound

    return input_bound(spec)


def run_on(engine: Any, spec: JobSpec) -> bytes:
    """Runs a job on an engine that holds shapes only; the digest of its steps up to the seal."""
    from enclave import workloads

    sealed = workloads.run(engine, spec, workloads.Inputs())
    digest: bytes = engine.session.digest
    # Safety: nobody's share is here; what is opened is shapes.
    workloads.release(engine, spec, sealed, Permit(spec.job_id, spec.outputs))
    return digest


def sealed_plan(spec: JobSpec) -> Seal:
    """As `plan_job`, with the digest at the seal."""
    from enclave import workloads
    from enclave.plan import make_plan

    workloads.check_spec(spec)
    sealed_at: list[bytes] = []
    try:
        plan = make_plan(
            len(spec.compute_parties),
            spec.frac_bits,
            lambda engine: sealed_at.append(run_on(engine, spec)),
            spec.network,
            engine=spec.engine,
            has_dealer=spec.has_dealer,
            rows=_read_once(spec),
            largest=_largest(spec),
        )
    except (ArithmeticError, ValueError, MemoryError, RecursionError) as error:
        # Sizes and constants come from the specification: one that breaks the arithmetic is at fault itself.
        raise BadSpec(f"the job cannot be planned: {type(error).__name__}") from error
    return Seal(plan, sealed_at[0])


def check_plan(job: Assignment, plan: Plan, dealer_bytes_limit: int | None) -> None:
    """Holds the plan derived here against the job and this party's limit.

    Raises: PlanMismatch unless it is the one that the specification names; PolicyRefused (dealer.bytes) when it asks
        for more correlated randomness than the limit.
    """
    if plan.digest != job.spec.plan_digest:
        raise PlanMismatch(job.spec.plan_digest, plan.digest, who=job.names[job.rank])
    if dealer_bytes_limit is not None and plan.dealer_bytes > dealer_bytes_limit:
        raise PolicyRefused(
            f"the job needs {plan.dealer_bytes} dealer bytes, at most {dealer_bytes_limit} here",
            rules=("dealer.bytes",),
        )


def meet(
    job: Assignment,
    session_id: str,
    *,
    identity: Identity,
    trust: TrustStore,
    listener: Listener | None,
    locate: Callable[[int], str],
    deadline_s: float,
    connect_s: float,
) -> Channel:
    """The channel to all parties of the job; see `open_channel`."""
    from enclave.channel.grpc_link import open_channel

    return open_channel(
        session_id,
        job.rank,
        job.names,
        job.peers,
        identity,
        trust,
        listener,
        locate,
        len(job.spec.datasets),
        deadline_s * (_DEALER_PATIENCE if job.role == "dealer" else 1),
        connect_s=connect_s,
    )

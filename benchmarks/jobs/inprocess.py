"""Systems that need no nodes.

`oracle` runs the job's workload on plain numbers, and `oracle20` on numbers rounded to the job's fractional bits:
what remains between it and `plain` is the algorithm, and between `oracle20` and `memory` the protocols. `memory`
runs the encrypted job over channels in memory, one thread a party: the engine without processes, TLS and nodes.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.jobs.job import Figures, Job, Outcome, Traffic, specification
from enclave.channel.memory import memory_network
from enclave.engines.interface import Engine, Permit
from enclave.engines.mpc.engine import engine_on
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.plain import InsecurePlainEngine
from enclave.errors import EnclaveError, SessionError
from enclave.messages import JobSpec
from enclave.models import Model
from enclave.plan import make_plan
from enclave.workloads import Inputs, Result, finish, opened_outputs, release, run

__all__ = ["run_memory", "run_oracle"]

_DEADLINE_S = 600.0


def run_oracle(job: Job, *, rounded: bool) -> Outcome:
    """The workload itself, in the clear."""
    spec = specification(job)
    started_s = time.perf_counter()
    parties = len(spec.compute_parties)
    engine = InsecurePlainEngine(spec.frac_bits, parties=parties, round_to=spec.frac_bits if rounded else None)
    opened = _job(engine, spec, Inputs(model=job.model, by_rank=job.rows()))
    return _outcome(job, finish(spec, opened or {}), time.perf_counter() - started_s, None)


def run_memory(job: Job) -> Outcome:
    """The encrypted job in this process; raises what the first party to fail raised."""
    spec = specification(job)
    started_s = time.perf_counter()
    parties = len(spec.compute_parties)
    plan = make_plan(parties, spec.frac_bits, lambda engine: _job(engine, spec, Inputs()))
    rows = job.rows()
    inputs = [Inputs(rows=rows.get(r), model=job.model if r == parties - 1 else None) for r in range(parties)]
    channels = memory_network([party.name for party in spec.parties], _DEADLINE_S)
    opened: dict[int, Any] = {}
    failures: list[BaseException] = []

    def party(rank: int) -> None:
        channel = channels[rank]
        try:
            if rank == parties:
                session: Any = DealerSession(channel, parties, plan.digest)
                _job(engine_on(session, spec.frac_bits), spec, Inputs())
            else:
                session = PartySession(channel, parties, plan.digest)
                opened[rank] = _job(engine_on(session, spec.frac_bits), spec, inputs[rank])
            channel.close()
            if session.digest != plan.digest:
                raise SessionError(f"{spec.parties[rank].name} did not run the plan")
        except EnclaveError as error:
            failures.append(error)
            channel.close(error)
        except BaseException as error:
            failures.append(error)
            channel.close(SessionError("a party stopped"))
            raise

    threads = [
        threading.Thread(target=party, args=(rank,), name=spec.parties[rank].name) for rank in range(parties + 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    ranks = range(parties)
    traffic = Traffic(
        plan.rounds,
        max(plan.sent_bytes(rank) for rank in ranks),
        max(plan.received_bytes(rank) for rank in ranks),
        plan.dealer_bytes,
    )
    return _outcome(job, finish(spec, opened[parties - 1]), time.perf_counter() - started_s, traffic)


def _job(engine: Engine, spec: JobSpec, inputs: Inputs) -> dict[str, Any] | None:
    sealed = run(engine, spec, inputs)
    return release(engine, spec, sealed, Permit(spec.job_id, opened_outputs(spec)))


def _outcome(job: Job, found: Result, seconds: float, traffic: Traffic | None) -> Outcome:
    if found.weights is None:
        return Outcome(Figures(found.accuracy, found.auc), seconds, traffic=traffic)
    model = Model(specification(job).architecture, found.weights)
    return Outcome(job.score(model), seconds, model, traffic)

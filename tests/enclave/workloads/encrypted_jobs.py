"""Jobs of engine "he" without a dealer, run by owners and a buyer in threads against their plan."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.channel.memory import memory_network
from enclave.engines.he.engine import HeEngine
from enclave.engines.interface import Permit
from enclave.engines.mpc.ranks import PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.messages import Architecture, JobSpec, Target
from enclave.workloads import Inputs, Result, check_spec, finish, release, run
from tests.enclave.workloads.made_jobs import NamedWeights, holders, job


@dataclass
class Ran:
    """What a job left: the buyer's result, and by rank the sessions, engines and released arrays."""

    result: Result
    sessions: list[Any]
    engines: list[Any]
    opened: list[Any]
    records: list[Any]


def encrypted_job(
    x: NDArray[np.float64], target: Target | None, architecture: Architecture, outputs: Sequence[str], **rest: Any
) -> JobSpec:
    """As `made_jobs.job`, for engine he without a dealer."""
    spec = job(x, target, architecture, outputs, **rest)
    return replace(spec, engine="he", parties=spec.parties[:-1])


def run_job(
    spec: JobSpec,
    x: NDArray[np.float64],
    y: NDArray[Any],
    weights: Mapping[str, NDArray[np.float64]],
    permit: Permit | None = None,
    engine: Callable[..., HeEngine] = HeEngine,
) -> Ran:
    """The whole job at every rank; raises what the buyer raised, or else an owner."""
    check_spec(spec)
    parties = len(spec.parties)
    recorder = Recorder(parties, has_dealer=False)
    rows = holders(spec, x, y)
    granted = permit or Permit(spec.job_id, spec.outputs)

    def work(session: Any, inputs: Inputs) -> tuple[HeEngine, Any]:
        made = engine(session, spec.frac_bits)
        return made, release(made, spec, run(made, spec, inputs), granted)  # type: ignore[arg-type]

    work(recorder, Inputs())
    channels = memory_network([party.name for party in spec.parties], deadline_s=30.0)
    found: list[Any] = [None] * parties
    sessions: list[Any] = [None] * parties

    def main(rank: int) -> None:
        try:
            sessions[rank] = PartySession(channels[rank], parties, recorder.digest)
            own = Inputs(model=NamedWeights(weights)) if rank == parties - 1 else Inputs(rows=rows[rank])
            found[rank] = work(sessions[rank], own)
            channels[rank].close()
        except Exception as error:
            found[rank] = error
            channels[rank].close(error if hasattr(error, "public") else None)

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in (each for each in reversed(found) if isinstance(each, Exception)):
        raise error
    assert {session.digest for session in sessions} == {recorder.digest}, "a run left its plan"
    engines, opened = zip(*found, strict=True)
    return Ran(finish(spec, opened[-1]), sessions, list(engines), list(opened), recorder.records)

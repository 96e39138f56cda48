"""Runs one program at every rank of an in-memory session, with a dealer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from enclave.channel.memory import memory_network
from enclave.engines.interface import Permit
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.recorder import Recorder


@dataclass
class Ran:
    """What a run left: results by rank, sessions, channels, and (label, words) opened at rank 0."""

    results: list[Any]
    sessions: list[Any]
    channels: Any
    opened: list[tuple[str, np.ndarray]] = field(default_factory=list)


def _run(parties: int, program: Callable[[MpcEngine], Any], frac_bits: int = 20) -> Ran:
    recorder = Recorder(parties)
    program(MpcEngine(recorder, frac_bits))
    digest = recorder.digest
    if recorder.uses_torch:
        import torch  # noqa: F401
    channels = memory_network([*(f"p{rank}" for rank in range(parties)), "dealer"], deadline_s=30.0)
    ran = Ran([None] * (parties + 1), [None] * (parties + 1), channels)
    errors: list[Exception] = []

    def main(rank: int) -> None:
        channel = channels[rank]
        try:
            if rank == parties:
                session: Any = DealerSession(channel, parties, digest)
            else:
                watch = (lambda label, words: ran.opened.append((label, words.copy()))) if rank == 0 else None
                session = PartySession(channel, parties, digest, observer=watch)
            ran.sessions[rank] = session
            ran.results[rank] = program(MpcEngine(session, frac_bits))
            channel.close()
        except Exception as error:
            errors.append(error)
            channel.close(error if hasattr(error, "public") else None)

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(parties + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    assert {session.digest for session in ran.sessions} == {digest}, "a run left its plan"
    return ran


@pytest.fixture
def run() -> Callable[..., Ran]:
    """run(parties, program, frac_bits=20): the program at every rank; its plan is recorded first and must be met."""
    return _run


@pytest.fixture
def reveal() -> Callable[[MpcEngine, Any], Any]:
    """reveal(engine, value): opens to rank 0."""
    return lambda engine, value: engine.open("value", value, 0, Permit("test", ["value"]))


@pytest.fixture
def evaluate(reveal: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """evaluate(parties, function, *inputs): function(engine, *secrets), input k held by rank k mod parties.

    Integer inputs (dtype int64) become integers.
    """

    def main(parties: int, function: Callable[..., Any], *inputs: np.ndarray, frac_bits: int = 20) -> np.ndarray:
        def program(engine: MpcEngine) -> Any:
            secrets = [
                engine.private(
                    x if engine.rank == k % parties else None, x.shape, k % parties, integer=x.dtype == np.int64
                )
                for k, x in enumerate(inputs)
            ]
            return reveal(engine, function(engine, *secrets))

        return np.asarray(_run(parties, program, frac_bits).results[0])

    return main


@pytest.fixture(params=[2, 3, 4])
def parties(request: pytest.FixtureRequest) -> int:
    return int(request.param)

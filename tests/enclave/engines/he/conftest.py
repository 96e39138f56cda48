"""Runs one program at every rank of an in-memory session without a dealer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from enclave.channel.memory import memory_network
from enclave.engines.he.engine import HeEngine
from enclave.engines.mpc.ranks import PartySession
from enclave.engines.mpc.recorder import Recorder


@dataclass
class Ran:
    """What a run left, by rank: results, sessions, channels; the steps of its plan, and (label, words) by receiver."""

    results: list[Any]
    sessions: list[Any]
    channels: Any
    records: list[Any]
    opened: list[list[tuple[str, Any]]]


@pytest.fixture
def run_he() -> Callable[..., Ran]:
    """run_he(parties, program): program(engine) at every rank, the buyer last; its plan must be met.

    An error at a rank is raised here, the first one of the lowest rank.
    """

    def main(parties: int, program: Callable[[HeEngine], Any]) -> Ran:
        recorder = Recorder(parties, has_dealer=False)
        program(HeEngine(recorder))
        channels = memory_network([f"p{rank}" for rank in range(parties)], deadline_s=30.0)
        ran = Ran([None] * parties, [None] * parties, channels, recorder.records, [[] for _ in range(parties)])
        errors: list[tuple[int, Exception]] = []

        def work(rank: int) -> None:
            try:
                session = PartySession(
                    channels[rank],
                    parties,
                    recorder.digest,
                    observer=lambda label, words: ran.opened[rank].append((label, words.copy())),
                )
                ran.sessions[rank] = session
                ran.results[rank] = program(HeEngine(session, workers=1))
                channels[rank].close()
            except Exception as error:
                errors.append((rank, error))
                channels[rank].close(error if hasattr(error, "public") else None)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise min(errors, key=lambda found: found[0])[1]
        assert {session.digest for session in ran.sessions} == {recorder.digest}, "a run left its plan"
        return ran

    return main

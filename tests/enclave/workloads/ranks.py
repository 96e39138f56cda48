"""One program at every rank of an in-memory session with a dealer, each in a thread, against its plan."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from enclave.channel.memory import memory_network
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Session


def at_every_rank(parties: int, program: Callable[[Session], Any]) -> list[Any]:
    """What the program returned, by rank, the dealer last; raises what any rank raised."""
    plan = Recorder(parties)
    program(plan)
    channels = memory_network([*(f"p{rank}" for rank in range(parties)), "dealer"], deadline_s=60)
    found: list[Any] = [None] * (parties + 1)

    def main(rank: int) -> None:
        kind = DealerSession if rank == parties else PartySession
        try:
            session = kind(channels[rank], parties, plan.digest)
            found[rank] = program(session)
            assert session.digest == plan.digest
            channels[rank].close()
        except Exception as error:
            found[rank] = error
            channels[rank].close(error if hasattr(error, "public") else None)

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(parties + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value in found:
        if isinstance(value, Exception):
            raise value
    return found

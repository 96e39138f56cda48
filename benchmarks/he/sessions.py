"""Sessions of all parties in one process: a thread per rank over channels in memory, held to their plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from enclave.channel.memory import memory_network
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.errors import EnclaveError, SessionError
from enclave.plan import Plan

__all__ = ["Ran", "run_session"]

_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What a session left, by rank, a dealer last: results, and CPU seconds of the rank's thread."""

    results: Sequence[Any]
    cpu_s: Sequence[float]

    def traffic(self, plan: Plan) -> dict[str, Any]:
        """What the benchmark asks of a session of owner and buyer; bytes of the buyer."""
        buyer = plan.parties - 1
        return {
            "rounds": plan.rounds,
            "sent_bytes": plan.sent_bytes(buyer),
            "received_bytes": plan.received_bytes(buyer),
        }


def run_session(plan: Plan, program: Callable[[Any, int], Any], *, dealer: bool = False) -> Ran:
    """program(session, rank) at every rank of a plan; raises what the first rank to fail raised."""
    count = plan.parties + dealer
    channels = memory_network([f"rank{rank}" for rank in range(count)], deadline_s=_DEADLINE_S)
    results: list[Any] = [None] * count
    cpu_s = [0.0] * count
    failures: list[BaseException] = []

    def party(rank: int) -> None:
        kind = DealerSession if rank == plan.parties else PartySession
        try:
            session = kind(channels[rank], plan.parties, plan.digest)
            results[rank] = program(session, rank)
            cpu_s[rank] = time.thread_time()
            channels[rank].close()
            if session.digest != plan.digest:
                raise SessionError(f"rank {rank} did not run the plan")
        except EnclaveError as error:
            failures.append(error)
            channels[rank].close(error)
        except BaseException as error:
            failures.append(error)
            channels[rank].close(SessionError("a party stopped"))
            raise

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Ran(results, cpu_s)

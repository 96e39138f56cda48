"""Runs one CrypTen program at every rank of an in-memory session, with a dealer, each rank in a thread.

Importing this module fences CrypTen in the test process: nothing else may import crypten there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from enclave.channel.memory import memory_network
from enclave.engines.mpc.fence.active import Fence, behind
from enclave.engines.mpc.fence.free import DealerLimits, FreeDealer, FreeSession, program_digest
from enclave.engines.mpc.fence.install import install

crypten = install()


@dataclass
class Ran:
    """What a run left, by rank; the dealer is the last."""

    results: list[Any]
    errors: list[BaseException | None]
    sessions: list[Any]
    channels: Any
    opened: list[tuple[str, Any]] = field(default_factory=list)  # at rank 0

    @property
    def result(self) -> Any:
        """At rank 0."""
        return self.results[0]


def attempt(
    parties: int,
    program: Callable[..., Any],
    *,
    allow_open: bool = True,
    frac_bits: int = 16,
    limits: DealerLimits | None = None,
    digests: Callable[[int], bytes] | None = None,
    deadline_s: float = 30.0,
) -> Ran:
    """Runs `program(rank)` at every rank; errors are kept."""
    channels = memory_network([*(f"p{rank}" for rank in range(parties)), "dealer"], deadline_s=deadline_s)
    ran = Ran([None] * (parties + 1), [None] * (parties + 1), [None] * (parties + 1), channels)

    def main(rank: int) -> None:
        channel = channels[rank]
        digest = program_digest(parties) if digests is None else digests(rank)
        try:
            if rank == parties:
                ran.sessions[rank] = dealer = FreeDealer(channel, parties, digest, limits)
                dealer.serve()
            else:
                watch = (lambda label, words: ran.opened.append((label, words.copy()))) if rank == 0 else None
                ran.sessions[rank] = session = FreeSession(channel, parties, digest, observer=watch)
                with behind(Fence(session, allow_open=allow_open, frac_bits=frac_bits)):
                    ran.results[rank] = program(rank)
                session.finish()
            channel.close()
        except Exception as error:
            ran.errors[rank] = error
            channel.close(error if hasattr(error, "public") else None)

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(parties + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ran


def run(parties: int, program: Callable[..., Any], **settings: Any) -> Ran:
    """The same; the first error that is not an echo of another is raised."""
    ran = attempt(parties, program, **settings)
    errors = [error for error in ran.errors if error is not None]
    if errors:
        raise min(errors, key=lambda error: type(error).__name__ == "PeerLost")
    assert len({session.digest for session in ran.sessions[:parties]}) == 1
    return ran

"""The loop of one process of a peer: it waits for orders, repeats, and answers with figures."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.peers import network
from benchmarks.peers.task import Seat

__all__ = ["Party", "clocked", "obey", "take_seat"]

_PR_SET_PDEATHSIG = 1


class Party(Protocol):
    """One rank of a peer with its shares of the inputs."""

    @property
    def versions(self) -> dict[str, str]: ...

    def run(self, count: bool) -> dict[str, Any]:
        """One repetition; `count` says whether messages and bytes are counted, which costs time."""
        ...

    def finish(self) -> None:
        """Opens the outputs of the last repetition; rank 0 writes them."""
        ...


def take_seat(argument: str) -> Seat:
    """Reads what this process is told, and puts it behind its wire if it has one. Call it before threads start.

    Standard output becomes standard error: libraries print there.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive the worker
    os.dup2(2, 1)
    seat = Seat.parse(argument)
    if seat.tunnel >= 0:
        network.enter(seat.tunnel, seat.addresses[seat.rank])
    return seat


def clocked(barrier: Callable[[], None], work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What `work` returns, and its wall and CPU time (all threads of this process) after a barrier."""
    barrier()
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    found = work()
    return found, {"wall_s": time.perf_counter() - start_s, "cpu_s": time.process_time() - start_cpu_s}


def obey(seat: Seat, party: Party) -> None:
    """Answers `run` and `stop` until standard input ends. Messages and bytes of the first repetition stand for all."""
    counts: dict[str, Any] = {}
    with os.fdopen(seat.reply, "w") as reply:

        def answer(fields: dict[str, Any]) -> None:
            reply.write(json.dumps(fields) + "\n")
            reply.flush()

        answer({"versions": party.versions})
        for line in sys.stdin:
            if line.strip() == "stop":
                party.finish()
                answer({})
                return
            figures = party.run(count=not counts)
            counts = counts or {name: value for name, value in figures.items() if name not in ("wall_s", "cpu_s")}
            answer({**counts, **figures})

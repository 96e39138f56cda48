"""Parties with disks of their own, which are dealt to ahead and then run, over channels in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from enclave.channel.memory import memory_network
from enclave.engines.interface import Permit
from enclave.engines.mpc.ahead import Binding, Shelf, Stock, deal_ahead, keep_ahead
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Session

FRAC_BITS = 20
Program = Callable[[MpcEngine], Any]


X = np.linspace(-3.0, 3.0, 200)
LARGE = 60_000  # more than two chunks of corrections


def small(e: MpcEngine) -> object:
    x = e.private(X if e.rank == 0 else None, X.shape, 0)
    y = e.private(X[::-1].copy() if e.rank == 1 else None, X.shape, 1)
    return e.open("value", e.relu(e.mul(x, y)), 0, Permit("t", ["value"]))


def large(e: MpcEngine) -> object:
    x = e.private(np.linspace(-3.0, 3.0, LARGE) if e.rank == 0 else None, (LARGE,), 0)
    return e.open("value", e.relu(x), 0, Permit("t", ["value"]))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def everyone(names: list[str], main: Callable[[Any], Any]) -> list[Any]:
    """`main(channel)` in a thread for every rank; raises an error that says why, rather than who was lost."""
    channels = memory_network(names, deadline_s=10.0)
    results: list[Any] = [None] * len(names)
    errors: list[Exception] = []

    def one(rank: int) -> None:
        try:
            results[rank] = main(channels[rank])
            channels[rank].close()
        except Exception as error:
            errors.append(error)
            channels[rank].close(error if hasattr(error, "public") else None)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if getattr(e, "code", "") != "session.peer_lost"), errors[0])
    return results


@dataclass
class Room:
    """One program, its plan, and a shelf for every rank."""

    root: Path
    parties: int
    program: Program
    spec_digest: bytes = bytes(32)
    session: str = "job-1"
    limit_bytes: int | None = None
    network: str = "lan"

    def __post_init__(self) -> None:
        recorder = Recorder(self.parties)
        self.on(recorder)
        self.digest = recorder.digest
        self.dealt_bytes = sum(record[2] for _, record in recorder.records if record[0] == "deal")
        self.names = [*(f"p{rank}" for rank in range(self.parties)), "dealer"]

    def on(self, session: Session) -> Any:
        """The program on a session."""
        return self.program(MpcEngine(session, FRAC_BITS, self.network))

    def shelf(self, rank: int) -> Shelf:
        return Shelf(self.root / self.names[rank], limit_bytes=self.limit_bytes)

    def binding(self, rank: int, **changes: Any) -> Binding:
        found = Binding(self.session, self.parties, rank, self.digest, self.spec_digest, self.dealt_bytes)
        return replace(found, **changes)

    def folder(self, rank: int = 0) -> Path:
        return self.root / self.names[rank] / "stock" / "dealt" / self.session

    def deal(self, **options: Any) -> bytes:
        """The dealing phase; the id of the stock."""

        def main(channel: Any) -> bytes:
            rank = channel.rank
            if rank == self.parties:
                return deal_ahead(channel, self.binding(rank), self.on, **options)
            return keep_ahead(channel, self.binding(rank), self.shelf(rank))

        ids = set(everyone(self.names, main))
        assert len(ids) == 1
        return ids.pop()

    def find(self, rank: int) -> Stock:
        return self.shelf(rank).find(self.binding(rank))

    def run(self, stocks: Callable[[int], Stock | None] | None = None) -> list[Any]:
        """A session without a dealer; results by rank."""
        find = stocks or self.find

        def main(channel: Any) -> Any:
            with_stock = find(channel.rank)
            assert with_stock is not None
            with with_stock as stock:
                session = PartySession(channel, self.parties, self.digest, self.spec_digest, stock=stock)
                found = self.on(session)
                assert session.digest == self.digest
                assert stock.left_bytes == 0
                return found

        return everyone(self.names[:-1], main)

    def run_online(self) -> list[Any]:
        """The same with a dealer."""

        def main(channel: Any) -> Any:
            if channel.rank == self.parties:
                session: Any = DealerSession(channel, self.parties, self.digest, self.spec_digest)
            else:
                session = PartySession(channel, self.parties, self.digest, self.spec_digest)
            return self.on(session)

        return everyone(self.names, main)[:-1]

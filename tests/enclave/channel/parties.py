"""Real parties with keys, certificates and trust, and their sessions over loopback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from enclave.channel.grpc_link import Listener, open_channel
from enclave.channel.linked import LinkedChannel
from enclave.identity import Card, Identity, TrustStore

NAMES = ("ada", "bob", "cyd")
ROLES = ("owner", "buyer", "dealer")
BUYER = 1
ANY_PORT = range(1)


@dataclass(frozen=True)
class Parties:
    """Everybody trusts everybody: an owner, a buyer and a dealer, and `eve`, trusted by all but in no session."""

    identities: tuple[Identity, ...]
    trusts: tuple[TrustStore, ...]
    eve: Identity
    eve_trust: TrustStore

    def cards(self, rank: int) -> dict[int, Card]:
        return {r: i.card for r, i in enumerate(self.identities) if r != rank}

    def listener(self, rank: int, session: str, ports: range = ANY_PORT, *, sockets: bool = False) -> Listener:
        me, trust, cards = self.identities[rank], self.trusts[rank], self.cards(rank)
        return Listener(me, trust, session, "127.0.0.1", ports, cards, sockets=sockets)

    def open(
        self,
        rank: int,
        session: str,
        listener: Listener | None,
        locate: Callable[[int], str],
        deadline_s: float = 10,
        connect_s: float = 10,
    ) -> LinkedChannel:
        return open_channel(
            session,
            rank,
            NAMES,
            self.cards(rank),
            self.identities[rank],
            self.trusts[rank],
            listener,
            locate,
            BUYER,
            deadline_s,
            connect_s=connect_s,
        )

    def connect(self, session: str, deadline_s: float, transports: str = "ggg") -> tuple[LinkedChannel, ...]:
        """A whole session in this process; each rank offers gRPC alone (g), or sockets too (s)."""
        listeners = [
            None if r == BUYER else self.listener(r, session, sockets=t == "s") for r, t in enumerate(transports)
        ]

        def locate(rank: int) -> str:
            listener = listeners[rank]
            assert listener is not None
            return listener.address

        with ThreadPoolExecutor(3) as pool:
            return tuple(pool.map(lambda r: self.open(r, session, listeners[r], locate, deadline_s), range(3)))


def make_parties(home: Path) -> Parties:
    """New parties below `home`."""
    people = [Identity.create(home / n, r, n) for n, r in zip((*NAMES, "eve"), (*ROLES, "owner"), strict=True)]
    trusts = [TrustStore(p.home) for p in people]
    introduce(people, trusts)
    return Parties(tuple(people[:3]), tuple(trusts[:3]), people[3], trusts[3])


def introduce(people: Sequence[Identity], trusts: Sequence[TrustStore]) -> None:
    """Makes all trust each other."""
    for me, trust in zip(people, trusts, strict=True):
        for other in people:
            if other is not me:
                trust.add(other.card.encoded)

"""The ranks of a program as processes of this machine: throw-away identities, and channels over mutual TLS.

Whoever starts the processes makes the identities (`make_homes`), hands every process a folder, its rank and a way to
learn where the others listen, and each calls `join`. Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from enclave.channel import Channel
from enclave.channel.grpc_link import Listener, open_channel
from enclave.identity import Identity, TrustStore

__all__ = ["join", "make_homes", "names_of"]

_HOST = "127.0.0.1"
_NO_BUYER = -1  # nobody dials out only: of two ranks the higher one dials


def names_of(parties: int) -> tuple[str, ...]:
    """Names of all ranks; the dealer is the last."""
    return (*(f"rank{rank}" for rank in range(parties)), "dealer")


def make_homes(folder: Path, parties: int) -> None:
    """New identities for all ranks below `folder`, each trusting the others. They are worth nothing afterwards."""
    names = names_of(parties)
    people = [Identity.create(folder / name, "dealer" if name == "dealer" else "owner", name) for name in names]
    for person in people:
        trust = TrustStore(person.home)
        for other in people:
            if other.name != person.name:
                trust.add(other.card.encoded)


def join(
    folder: Path,
    rank: int,
    parties: int,
    exchange: Callable[[str], Sequence[str]],
    *,
    session_id: str = "program",
    deadline_s: float,
    connect_s: float = 60.0,
) -> Channel:
    """Connects one rank to all others over gRPC with mutual TLS.

    Args:
        folder: where `make_homes` put the identities.
        exchange: tells the others this rank's address and returns those of all ranks; may block.
        deadline_s: the longest wait for a frame.
    """
    names = names_of(parties)
    identity = Identity.load(folder / names[rank])
    trust = TrustStore(identity.home)
    cards = {peer: trust.by_name(name) for peer, name in enumerate(names) if peer != rank}
    listener = Listener(identity, trust, session_id, _HOST, range(1), cards)
    addresses = exchange(listener.address)
    return open_channel(
        session_id,
        rank,
        names,
        cards,
        identity,
        trust,
        listener,
        lambda peer: addresses[peer],
        _NO_BUYER,
        deadline_s,
        connect_s=connect_s,
    )

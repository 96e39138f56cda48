"""Labelled frames between the ranks of one session.

One session is one process per rank and one stream per pair of ranks. A frame carries (step, label, size), and
the receiver says which one it expects: anything else is `Desynchronised` at once. The same code frames, counts,
and ends sessions over gRPC (`enclave.channel.grpc_link.open_channel`), between threads
(`enclave.channel.memory.memory_network`), and under injected faults (`enclave.channel.fault`).

Discussion: the flow control of HTTP/2 alone would bound memory too, by not reading, but then nobody could tell a
party with a full inbox that the session has ended. So every link has a window of its own: a sender holds data
back until the receiver has consumed what it has, while the few control messages always pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from enclave.errors import EnclaveError

__all__ = ["Channel", "LinkStats"]


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Traffic with one peer: payload bytes and frames, without headers and control messages."""

    peer: str
    rank: int
    sent_bytes: int
    received_bytes: int
    sent_frames: int
    received_frames: int


class Channel(Protocol):
    """One rank's end of a session. One thread at a time sends to, or receives from, one peer.

    The first error ends the session: every later call raises it again, and `close(error)` tells the peers.
    """

    @property
    def rank(self) -> int:
        """This party's own rank."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all ranks, the dealer's included."""
        ...

    def send(self, to: int, step: int, label: str, parts: Sequence[bytes | memoryview]) -> None:
        """Queues the concatenation of `parts` as one frame; the caller may reuse the buffers at once.

        Waits first while more than a bound of bytes is unsent to that peer. A frame longer than the bound is
        queued whole, so that two parties which send each other one frame and then receive never block each
        other, whatever its size.

        Args:
            label: at most 64 bytes of UTF-8, equal at both ends.
            parts: contiguous buffers of any item type.

        Raises:
            PeerLost, Desynchronised: the session has ended.
        """
        ...

    def receive(self, frm: int, step: int, label: str, size_bytes: int) -> memoryview:
        """The payload of the next frame of `frm`, which must be exactly this one; aligned to 8 bytes.

        Raises:
            PeerLost: it did not come before the deadline, or somebody left. Names the party at fault: a peer
                that itself waits for a third is not blamed for it.
            Desynchronised: another step, label or size came.
        """
        ...

    def stats(self) -> tuple[LinkStats, ...]:
        """Traffic with every peer, in rank order."""
        ...

    def close(self, error: EnclaveError | None = None) -> None:
        """Ends the session and frees its connections. Further calls do nothing.

        Without an error everything queued is delivered first: it returns when every peer has read all of it into
        its memory or has ended its own side. With an error, what is queued is dropped and the peers are told why;
        all of them raise PeerLost for the same party: the one that `error` names, or else this one.

        Raises:
            PeerLost: without an error only, when a peer did not confirm the end.
        """
        ...

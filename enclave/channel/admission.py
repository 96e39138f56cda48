"""Who may open a link of a session: what both transports' listeners ask, and where they put who came."""

from __future__ import annotations

import threading

from enclave.channel import frames
from enclave.channel.link import Link
from enclave.errors import EnclaveError

__all__ = ["Arrivals", "why_no_hello"]


class Arrivals:
    """The links made so far, and the first error that ended the attempt."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.links: dict[int, Link] = {}
        self.error: EnclaveError | None = None
        self.over = False
        self.own_rank: int | None = None
        self._claimed: set[int] = set()

    def claim(self, rank: int) -> bool:
        """Whether `rank`, who is about to be welcomed, is the first to come under it, by whatever transport."""
        with self.changed:
            fresh = rank not in self._claimed
            self._claimed.add(rank)
            return fresh

    def waive(self, rank: int) -> None:
        """The one that claimed `rank` was turned away after all."""
        with self.changed:
            self._claimed.discard(rank)

    def add(self, link: Link) -> None:
        """One more peer is connected."""
        with self.changed:
            self.links[link.rank] = link
            self.changed.notify_all()

    def fail(self, error: EnclaveError) -> None:
        """The session will not begin; the first reason counts."""
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()


def why_no_hello(message: bytes, session_id: str, rank: int, own_rank: int | None) -> str:
    """Why `message` of `rank` does not open a link of this session at `own_rank`; empty when it does."""
    try:
        head = frames.parse(message)
    except ValueError as error:
        return f"expected a greeting, found {error}"
    if head.kind != frames.HELLO:
        return f"expected a greeting, found {head}"
    if head.text != session_id:
        return f"another session: expected {session_id[:40]!r}, found {head.text[:40]!r}"
    if head.value != rank:
        return f"another rank: this certificate is rank {rank}'s, the greeting says {head.value}"
    if own_rank is not None and head.step != own_rank:
        return f"another party: this is rank {own_rank}, the greeting is for {head.step}"
    return ""

"""Channels between the threads of one process: for tests, and for engines that simulate parties.

There is no thread behind it: whoever makes a message deliverable, by sending or by granting credit, carries it over.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from enclave.channel.link import WINDOW_BYTES, Link
from enclave.channel.linked import LinkedChannel

__all__ = ["memory_network"]


class _Pipe:
    """One direction between two links."""

    def __init__(self, source: Link, target: Link) -> None:
        self._source, self._target = source, target
        self._busy = threading.Lock()
        self._broken = False
        source.outbox.on_ready = self.pump
        source.sever = self.cut

    def pump(self) -> None:
        """Carries over what can be. Order is kept: one thread at a time, and none leaves a message behind.

        Safety: a thread that finds another at work may go, because that one looks again after it let go.
        """
        while self._source.outbox.has_next or self._source.outbox.finished:
            if not self._busy.acquire(blocking=False):
                return
            try:
                while not self._broken and (message := self._source.outbox.poll()) is not None:
                    self._target.deliver(message)
                if self._broken:
                    return
                if self._source.outbox.finished:
                    self._broken = True
                    self._target.closed("the connection was closed")
            finally:
                self._busy.release()

    def cut(self) -> None:
        """Breaks the pipe without a word."""
        self._broken = True
        self._source.outbox.kill()
        self._target.closed("the connection broke")


def memory_network(
    names: Sequence[str], deadline_s: float = 10.0, *, window_bytes: int = WINDOW_BYTES
) -> tuple[LinkedChannel, ...]:
    """One connected channel per name, each for a thread of its own."""
    ranks = range(len(names))
    links = {(a, b): Link(b, names[b], window_bytes) for a in ranks for b in ranks if a != b}
    for (a, b), link in links.items():
        _Pipe(link, links[b, a])
    return tuple(LinkedChannel(a, names, {b: links[a, b] for b in ranks if b != a}, deadline_s) for a in ranks)

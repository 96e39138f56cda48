"""A `Channel` over one `Link` per peer: frames, deadlines, blame, and the end of a session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import Empty

import numpy as np

from enclave.channel import LinkStats, frames
from enclave.channel.link import Failure, Link
from enclave.errors import Desynchronised, EnclaveError, PeerLost

__all__ = ["LinkedChannel", "abort_links"]

# A sender whose peer lives but does not take its frames waits this many deadlines: a dealer runs far ahead.
_PATIENCE = 60
_ABORT_S = 1.5


class LinkedChannel:
    """The ranks of a session seen from one of them.

    Args:
        names: all ranks' names.
        links: rank → link, for every rank but this one.
        deadline_s: the longest wait for a frame that is due.
        release: called once at the end, after all links were hung up.
    """

    def __init__(
        self,
        rank: int,
        names: Sequence[str],
        links: Mapping[int, Link],
        deadline_s: float,
        release: Callable[[], None] | None = None,
    ) -> None:
        if set(links) != set(range(len(names))) - {rank}:
            raise ValueError(f"rank {rank} of {len(names)} needs one link to every other rank, got {sorted(links)}")
        self._rank, self._names, self._links = rank, tuple(names), dict(links)
        self._deadline_s = deadline_s
        self._release = release
        self._lock = threading.Lock()
        self._failure: EnclaveError | None = None
        self._step = 0
        self._closed = False
        self._traffic = {peer: [0, 0, 0, 0] for peer in sorted(links)}
        for link in links.values():
            link.attach(self._on_failure)

    @property
    def rank(self) -> int:
        """This party's own rank."""
        return self._rank

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all ranks."""
        return self._names

    def send(self, to: int, step: int, label: str, parts: Sequence[bytes | memoryview]) -> None:
        """See `Channel`."""
        link = self._open(to, step)
        size = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
        messages = frames.messages(step, label, parts, size)
        if link.ended:
            raise self._fail(Desynchronised("an open session", f"its end, before step {step} {label!r}", who=link.name))
        if not link.outbox.put(messages, self._deadline_s / 4):
            self._tell(to)
            taken = link.outbox.put(messages, self._deadline_s * _PATIENCE)
            self._tell(frames.NOBODY)
            if not taken:
                raise self._fail(PeerLost(link.name, step, why=f"it takes no more frames, {label!r} is due"))
        if self._failure is not None:
            raise self._failure
        traffic = self._traffic[to]
        traffic[0] += size
        traffic[2] += 1

    def receive(self, frm: int, step: int, label: str, size_bytes: int) -> memoryview:
        """See `Channel`."""
        link = self._open(frm, step)
        head = frames.frame_head(step, label, size_bytes)
        message = self._take(link, step, label)
        first = min(size_bytes, frames.CHUNK_BYTES)
        if message[: len(head)] != head or len(message) != len(head) + first:
            raise self._fail(_unexpected(message, f"step {step} {label!r} of {size_bytes} bytes", link.name))
        payload = memoryview(message)[len(head) :]
        if first < size_bytes:
            # Safety: numpy.empty, because zeroing the buffer first would cost as much as filling it.
            whole = np.empty(size_bytes, np.uint8).data
            whole[:first] = payload
            while first < size_bytes:
                head = frames.control(frames.MORE, step, size_bytes - first)
                message = self._take(link, step, label)
                stop = min(first + frames.CHUNK_BYTES, size_bytes)
                if message[: len(head)] != head or len(message) != len(head) + stop - first:
                    raise self._fail(_unexpected(message, f"the rest of step {step} {label!r}", link.name))
                whole[first:stop] = memoryview(message)[len(head) :]
                first = stop
            payload = whole
        traffic = self._traffic[frm]
        traffic[1] += size_bytes
        traffic[3] += 1
        return payload

    def stats(self) -> tuple[LinkStats, ...]:
        """See `Channel`."""
        return tuple(
            LinkStats(self._names[rank], rank, sent_bytes, received_bytes, sent_frames, received_frames)
            for rank, (sent_bytes, received_bytes, sent_frames, received_frames) in self._traffic.items()
        )

    def close(self, error: EnclaveError | None = None) -> None:
        """See `Channel`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            reason = error or self._failure
        found: EnclaveError | None = None
        if reason is not None:
            self._fail(reason)
        else:
            reason = found = self._end()
        if reason is not None:
            abort_links(self._links.values(), self._rank, self._names, self._step, reason)
        else:
            for link in self._links.values():
                link.outbox.finish()
            for link in self._links.values():
                link.hang_up()
        if self._release is not None:
            self._release()
        if found is not None:
            raise found

    def sever(self) -> None:
        """Breaks every link without a word, as the death of this process would. For tests of the others."""
        self._closed = True
        for link in self._links.values():
            link.sever()
        if self._release is not None:
            self._release()

    # ---- waiting

    def _open(self, rank: int, step: int) -> Link:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise EnclaveError("the session is closed")
        self._step = step
        link = self._links.get(rank)
        if link is None:
            raise ValueError(f"rank {self._rank} has no link to rank {rank}")
        return link

    def _take(self, link: Link, step: int, label: str) -> bytes | memoryview:
        begin, told = time.monotonic(), False
        while True:
            left = begin + self._deadline_s * (1.0 if told else 0.25) - time.monotonic()
            try:
                message = link.take(max(left, 0.0))
            except Empty:
                if told:
                    raise self._fail(self._blame(link, step, label)) from None
                # The others must know that we are not the ones to blame when their own wait ends.
                told = True
                self._tell(link.rank)
                continue
            if message is not None:
                if told:
                    self._tell(frames.NOBODY)
                return message
            if self._failure is not None:
                raise self._failure

    def _tell(self, rank: int) -> None:
        message = frames.control(frames.WAITING, self._step, rank)
        for link in self._links.values():
            link.outbox.control(message)

    def _blame(self, link: Link, step: int, label: str) -> EnclaveError:
        """Whose fault it is that a frame did not come: follows who waits for whom to the one that waits for none."""
        chain, rank = [self._rank], link.rank
        while rank not in chain:
            chain.append(rank)
            waits_for = self._links[rank].waits_for
            if not 0 <= waits_for < len(self._names):
                why = f"no {label!r} within {self._deadline_s:g} s"
                return PeerLost(self._names[rank], step, why=why)
            rank = waits_for
        circle = chain[chain.index(rank) :]
        names = " for ".join(self._names[r] for r in (*circle, rank))
        return PeerLost(self._names[min(circle)], step, why=f"a circle of parties that wait: {names}")

    # ---- failing and ending

    def _on_failure(self, failure: Failure) -> None:
        self._fail(failure.as_error(self._names, self._step))

    def _fail(self, error: EnclaveError) -> EnclaveError:
        with self._lock:
            first = self._failure = self._failure or error
        for link in self._links.values():
            link.outbox.discard()
            link.wake()
        return first

    def _end(self) -> EnclaveError | None:
        for link in self._links.values():
            link.outbox.end(frames.control(frames.END, self._step))
        until = time.monotonic() + self._deadline_s * _PATIENCE
        for link in self._links.values():
            while not link.settled.wait(0.2):
                if self._failure is not None:
                    return self._failure
                if time.monotonic() > until:
                    return PeerLost(link.name, self._step, why="it did not confirm the end of the session")
        return None


def abort_links(links: Iterable[Link], rank: int, names: Sequence[str], step: int, error: EnclaveError) -> None:
    """Tells the peers of `rank` why the session ends at `step`, gives them a moment to confirm, and hangs up."""
    who = error.who if isinstance(error, PeerLost | Desynchronised) else names[rank]
    culprit = list(names).index(who) if who in names else rank
    step = error.step if isinstance(error, PeerLost) else step
    why = error.public.removeprefix(f"lost {who} at step {step}").removeprefix(": ")
    message = frames.control(frames.ABORT, step, culprit, why)
    told = list(links)
    for link in told:
        link.outbox.finish(last=message)
    until = time.monotonic() + _ABORT_S
    for link in told:
        link.settled.wait(max(0.0, until - time.monotonic()))
    for link in told:
        link.hang_up()


def _unexpected(message: bytes | memoryview, expected: str, who: str) -> EnclaveError:
    try:
        head = frames.parse(message)
    except ValueError as error:
        return Desynchronised(expected, str(error), who=who)
    found = str(head)
    return Desynchronised(expected, f"{found}, {len(message)} bytes long" if found == expected else found, who=who)

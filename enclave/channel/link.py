"""One end of the stream between two ranks, whatever carries it.

A transport takes messages from `Link.outbox` and hands what arrives to `Link.deliver`, which never waits: data goes
to the inbox, which the window bounds, and control messages act at once, however full the inbox is.

A transport that has no thread of its own for this sets `drive`: then whoever waits, for a message or for space, moves
the bytes meanwhile. That saves the hand-over from one thread to another, which costs more than a small frame does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from enclave.channel import frames
from enclave.errors import Desynchronised, EnclaveError, PeerLost

__all__ = ["WINDOW_BYTES", "Drive", "Link", "Outbox"]

WINDOW_BYTES = 1 << 24
# What a queued message takes beyond its length. Counted, so that a flood of empty frames is bounded too.
_OVERHEAD_BYTES = 256
_SHORT_BYTES = frames.BATCH_BYTES // 4
# How long a thread that finds another one driving waits before it looks again.
_TURN_S = 0.02

# Moves bytes for at most so many seconds, or until something happened; False when another thread is doing so.
Drive = Callable[[float], bool]


class Outbox:
    """Messages on their way to one peer: control messages first, data as far as the peer's window allows."""

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._space = threading.Condition(self._lock)
        self._control: deque[bytes] = deque()
        self._data: deque[tuple[bytes, int]] = deque()
        self._window = self._credit = window_bytes
        self._unsent_bytes = 0
        self._closed = False
        self.on_ready: Callable[[], None] | None = None
        self.drive: Drive | None = None

    def put(self, messages: Sequence[bytes], timeout_s: float) -> bool:
        """Queues a whole frame, after waiting while more than a window is unsent; False when the wait was in vain."""
        if self._unsent_bytes > self._window and not self._wait_for_space(timeout_s):
            return False
        with self._lock:
            if not self._closed:
                for message in messages:
                    self._data.append((message, len(message) + _OVERHEAD_BYTES))
                    self._unsent_bytes += len(message)
                self._ready.notify()
        self._signal()
        return True

    def control(self, message: bytes) -> None:
        """Queues a message that overtakes data and needs no window."""
        with self._lock:
            if not self._closed:
                self._control.append(message)
                self._ready.notify()
        self._signal()

    def grant(self, size_bytes: int) -> bool:
        """The peer has consumed this much; False when it claims more than it was sent."""
        with self._lock:
            self._credit += size_bytes
            sound = self._credit <= self._window
            self._ready.notify()
        self._signal()
        return sound

    def discard(self) -> None:
        """Drops the data and lets a waiting sender go: the session has failed."""
        with self._lock:
            self._drop_data()

    def end(self, message: bytes) -> None:
        """Queues the last message after all data."""
        with self._lock:
            if not self._closed:
                self._data.append((message, 0))
                self._ready.notify()
        self._signal()

    def finish(self, last: bytes | None = None) -> None:
        """Takes nothing more. With `last`, drops what is queued and sends that instead."""
        with self._lock:
            if last is not None and not self._closed:
                self._drop_data()
                self._control.clear()
                self._control.append(last)
            self._closed = True
            self._ready.notify_all()
            self._space.notify_all()
        self._signal()

    def kill(self) -> None:
        """Takes and gives nothing more: the stream is gone."""
        with self._lock:
            self._drop_data()
            self._control.clear()
            self._closed = True
            self._ready.notify_all()
        self._signal()

    def next(self) -> bytes | None:
        """The next message, or a batch of short ones; waits for it. None when there will be no more."""
        with self._lock:
            while (message := self._pop()) is None and not self._finished():
                self._ready.wait()
            if message is None or len(message) > _SHORT_BYTES:
                return message
            found, room = [message], frames.BATCH_BYTES - len(message)
            while (more := self._pop(min(room, _SHORT_BYTES))) is not None:
                found.append(more)
                room -= len(more)
        return found[0] if len(found) == 1 else frames.batch(found)

    def poll(self, limit_bytes: int | None = None) -> bytes | None:
        """The next message if there is one, and it is not longer than `limit_bytes`."""
        with self._lock:
            return self._pop(limit_bytes)

    @property
    def has_next(self) -> bool:
        """Whether `poll` would give a message."""
        with self._lock:
            return bool(self._control) or (bool(self._data) and self._data[0][1] <= self._credit)

    @property
    def finished(self) -> bool:
        """Whether all was taken and nothing more will come."""
        with self._lock:
            return self._finished()

    def _finished(self) -> bool:
        return self._closed and not self._control and not self._data

    def _has_space(self) -> bool:
        return self._unsent_bytes <= self._window or self._closed

    def _wait_for_space(self, timeout_s: float) -> bool:
        if self.drive is None:
            with self._lock:
                return self._space.wait_for(self._has_space, timeout_s)
        until = time.monotonic() + timeout_s
        while not self._has_space():
            left = until - time.monotonic()
            if left <= 0:
                return False
            if not self.drive(left):
                with self._lock:
                    self._space.wait_for(self._has_space, min(left, _TURN_S))
        return True

    def _drop_data(self) -> None:
        self._data.clear()
        self._unsent_bytes = 0
        self._space.notify_all()

    def _pop(self, limit_bytes: int | None = None) -> bytes | None:
        if self._control:
            return None if _longer(self._control[0], limit_bytes) else self._control.popleft()
        if self._data and self._data[0][1] <= self._credit and not _longer(self._data[0][0], limit_bytes):
            message, cost = self._data.popleft()
            self._credit -= cost
            if cost:
                self._unsent_bytes -= len(message)
            self._space.notify()
            return message
        return None

    def _signal(self) -> None:
        if self.on_ready is not None:
            self.on_ready()


class Link:
    """The stream to one peer. The transport calls `deliver` and `closed`, from one thread at a time each.

    Attributes:
        ended: the peer has said that it needs and sends nothing more.
        settled: the peer has confirmed our end, has ended itself, or is gone: nothing to wait for.
        waits_for: the rank that the peer says it has been waiting for, NOBODY when for none.
        hang_up: set by the transport; ends the stream, after giving the last messages a moment to leave.
        sever: set by the transport; breaks the stream without a word, as a dying process would.
        interrupt: set by a transport that is driven; makes the thread that drives return.
    """

    def __init__(self, rank: int, name: str, window_bytes: int = WINDOW_BYTES) -> None:
        self.rank, self.name = rank, name
        self.outbox = Outbox(window_bytes)
        self.ended = self._aborted = False
        self.settled = threading.Event()
        self.waits_for = frames.NOBODY
        self.hang_up: Callable[[], None] = _nothing
        self.sever: Callable[[], None] = _nothing
        self.interrupt: Callable[[], None] = _nothing
        self._drive: Drive | None = None
        self._inbox: SimpleQueue[bytes | memoryview | None] = SimpleQueue()
        self._window = window_bytes
        self._delivered = self._granted = self._consumed = 0
        self._lock = threading.Lock()
        self._owner: Callable[[Failure], None] | None = None
        self._failure: Failure | None = None

    def attach(self, owner: Callable[[Failure], None]) -> None:
        """Names who is told of a failure, an earlier one included."""
        with self._lock:
            self._owner = owner
            failure = self._failure
        if failure is not None:
            owner(failure)

    @property
    def failure(self) -> Failure | None:
        """The first thing that went wrong here."""
        return self._failure

    def drive_by(self, drive: Drive) -> None:
        """From now on whoever waits here moves the bytes itself."""
        self._drive = self.outbox.drive = drive

    def take(self, timeout_s: float) -> bytes | memoryview | None:
        """The next FRAME, MORE or END message; None when woken for another reason. Raises queue.Empty in time."""
        message = self._inbox.get(timeout=timeout_s) if self._drive is None else self._driven(self._drive, timeout_s)
        if message is not None:
            self._consumed += len(message) + _OVERHEAD_BYTES
            # A quarter: few grants for many small frames, and the sender never idles for lack of one.
            if self._consumed * 4 >= self._window:
                grant, self._consumed = self._consumed, 0
                self._granted += grant
                self.outbox.control(frames.control(frames.CREDIT, value=grant))
        return message

    def _driven(self, drive: Drive, timeout_s: float) -> bytes | memoryview | None:
        until = time.monotonic() + timeout_s
        while self._inbox.empty():
            left = until - time.monotonic()
            if left <= 0:
                raise Empty
            if not drive(left):
                try:
                    return self._inbox.get(timeout=min(left, _TURN_S))
                except Empty:
                    continue
        return self._inbox.get()

    def wake(self) -> None:
        """Makes a waiting `take` return."""
        self._inbox.put(None)
        self.interrupt()

    def deliver(self, message: bytes | memoryview) -> None:
        """Takes one message from the peer, and keeps it as it is.

        Never waits, never raises: what is wrong with it ends the session.
        """
        kind = message[3] if len(message) >= frames.HEAD_BYTES else 0
        if kind in (frames.FRAME, frames.MORE) and message[:3] == frames.PREFIX:
            self._delivered += len(message) + _OVERHEAD_BYTES
            if self.ended:
                self._garbage("nothing after the end", "a frame")
            elif self._delivered - self._granted > self._window:
                self._garbage(f"at most {self._window} unread bytes", f"{self._delivered - self._granted}")
            else:
                self._inbox.put(message)
            return
        try:
            head = frames.parse(message)
            if head.kind == frames.BATCH:
                for part in frames.unbatch(message):
                    # Safety: a copy, because a view would keep the whole batch, of which the window counts this part.
                    self.deliver(bytes(part))
                return
        except ValueError as error:
            return self._garbage("a message of this protocol", str(error))
        if head.kind == frames.CREDIT:
            if not self.outbox.grant(head.value):
                self._garbage("credit for what was sent", f"{head.value} bytes more")
        elif head.kind == frames.WAITING:
            self.waits_for = head.value
        elif head.kind == frames.END and not self.ended:
            self.ended = True
            self._inbox.put(message)
            self.outbox.control(frames.control(frames.ACK))
            self.settled.set()
        elif head.kind == frames.ACK:
            self.settled.set()
        elif head.kind == frames.ABORT and not self._aborted:
            self._aborted = True
            self.outbox.control(frames.control(frames.ACK))
            self._fail(Failure(self, head.value, head.step, head.text))
            self.settled.set()
        else:
            self._garbage("a message of an open session", f"kind {head.kind}")

    def closed(self, why: str) -> None:
        """The stream has ended. A failure, unless both sides were done with it."""
        if not self.settled.is_set():
            self._fail(Failure(self, self.rank, None, why))
        self.settled.set()
        self.outbox.kill()

    def _garbage(self, expected: str, found: str) -> None:
        self._fail(Failure(self, self.rank, None, "", Desynchronised(expected, found, who=self.name)))

    def _fail(self, failure: Failure) -> None:
        with self._lock:
            if self._failure is not None:
                return
            self._failure = failure
            owner = self._owner
        self.wake()
        if owner is not None:
            owner(failure)


class Failure:
    """Why a link failed: the rank at fault, the step if it is known, and a typed error if there is one already."""

    __slots__ = ("culprit", "error", "link", "step", "why")

    def __init__(self, link: Link, culprit: int, step: int | None, why: str, error: EnclaveError | None = None) -> None:
        self.link, self.culprit, self.step, self.why, self.error = link, culprit, step, why, error

    def as_error(self, names: Sequence[str], step: int) -> EnclaveError:
        """The error that the party's own calls raise; `step` is the one it was at."""
        if self.error is not None:
            return self.error
        if not 0 <= self.culprit < len(names):
            return Desynchronised(f"a rank below {len(names)}", f"{self.culprit}", who=self.link.name)
        told = self.step is not None
        why = f"{self.why}, says {self.link.name}" if told and self.culprit != self.link.rank else self.why
        return PeerLost(names[self.culprit], self.step if self.step is not None else step, why=why)


def _longer(message: bytes, limit_bytes: int | None) -> bool:
    return limit_bytes is not None and len(message) > limit_bytes


def _nothing() -> None:
    pass

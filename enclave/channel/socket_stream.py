"""One end of a link over a TLS socket without gRPC: whoever waits moves the bytes.

On the TLS stream every message has its length in front of it, 4 bytes, little-endian. A thread that sends writes at
once what the kernel takes; a thread that waits for a frame reads it itself. So a frame needs no hand-over between
threads, and costs one system call a TLS record. A third thread, the watch, is asleep unless bytes have been lying
there for a moment and nobody attends to them, because the party computes: then it reads (an abort, a credit) or
writes on. It also says every second that this process is alive, and hears when the peer's does no longer.

Discussion: OpenSSL does not allow two threads in one connection, and a blocking read would keep a writer out for ever.
Hence the socket never blocks, a lock is held for each call into it, and all waiting is in `poll`.

Its limit: a process that holds Python's lock for longer than `_SILENCE_TICKS` seconds looks like a stopped one, where
gRPC's own threads would still answer.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections import deque

import numpy as np

from enclave.channel import frames
from enclave.channel.link import Link

__all__ = ["LENGTH", "RECORD_BYTES", "SocketStream"]

LENGTH = struct.Struct("<I")
RECORD_BYTES = 1 << 14  # the most that one TLS record carries
HANG_UP_S = 1.5
_GRACE_S = 0.01
_TICK_S = 1.0
_SILENCE_TICKS = 7
_SCRATCH_BYTES = 4 * RECORD_BYTES
# What the watch reads in one go before it looks whether somebody waits to do it instead.
_WATCH_READS = 64
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR | select.POLLNVAL


class SocketStream:
    """Joins `link` to a connected TLS socket, and owns the socket from then on."""

    def __init__(self, link: Link, connection: ssl.SSLSocket) -> None:
        self.link = link
        connection.setblocking(False)
        self._connection = connection
        self._tls = threading.Lock()  # around every call into the TLS library
        self._turn = threading.Lock()  # to read, and to wait for what can be read
        self._writing = threading.Lock()  # to take from the outbox, so that order is kept
        self._missed = False
        self._turns = 0
        self._heard = False
        self._unwritten: deque[bytes | memoryview] = deque()
        self._blocked = self._dumb = False
        self._inbound = _Inbound(link)
        self._gone = threading.Event()
        self._driver, self._watcher = _Alarm(connection), _Alarm(connection)
        self._watch_over = False
        self._thread = threading.Thread(target=self._watch, name=f"watch {link.name}", daemon=True)
        link.outbox.on_ready = self._on_ready
        link.drive_by(self._drive)
        link.interrupt = self._driver.ring
        link.hang_up = self.hang_up
        link.sever = self.sever
        self._thread.start()
        self._on_ready()

    def hang_up(self) -> None:
        """Sends what is left, waits a moment for the other end to follow, and frees the socket."""
        until = time.monotonic() + HANG_UP_S
        told = False
        while not self._gone.is_set() and (left := until - time.monotonic()) > 0:
            if not told and not self._unwritten and not self.link.outbox.has_next:
                told = True
                self._shut(socket.SHUT_WR)
            if not self._drive(left):
                self._gone.wait(_GRACE_S)
        self._free()

    def sever(self) -> None:
        """Breaks the connection without a word."""
        self._dumb = True
        self._shut(socket.SHUT_RDWR)
        self._lose("the connection broke")
        self._free()

    # ---- writing

    def _on_ready(self) -> None:
        """Writes what the kernel takes, and leaves the rest to whoever drives, or else to the watch. Never waits."""
        self._write_now()
        if self._blocked:
            (self._driver if self._turn.locked() else self._watcher).ring()

    def _write_now(self) -> None:
        """Safety: a thread that finds another at work may go, because that one looks again after it let go."""
        while not self._blocked and (self._unwritten or self.link.outbox.has_next):
            if not self._writing.acquire(blocking=False):
                return
            try:
                self._write()
            finally:
                self._writing.release()

    def _write(self) -> None:
        while self._unwritten or self._fill():
            data = self._unwritten[0]
            written = len(data)
            with self._tls:
                try:
                    if not self._dumb:
                        written = self._connection.send(data)
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    # The TLS library wants the very same bytes again.
                    self._blocked = True
                    return
                except OSError:
                    # What the peer still said is read first; then the end of the stream is found there.
                    self._dumb = True
            if written < len(data):
                self._unwritten[0] = memoryview(data)[written:]
            else:
                self._unwritten.popleft()

    def _fill(self) -> bool:
        """Takes the next messages from the outbox: small ones together in one record, a large one as it is."""
        first = self.link.outbox.poll()
        if first is None:
            return False
        if LENGTH.size + len(first) > RECORD_BYTES:
            # The length fills the first record up, so that the later ones begin with a whole record of the message.
            cut = RECORD_BYTES - LENGTH.size
            self._unwritten += [LENGTH.pack(len(first)) + first[:cut], memoryview(first)[cut:]]
            return True
        parts = [LENGTH.pack(len(first)), first]
        room = RECORD_BYTES - LENGTH.size - len(first)
        while (more := self.link.outbox.poll(room - LENGTH.size)) is not None:
            parts += [LENGTH.pack(len(more)), more]
            room -= LENGTH.size + len(more)
        self._unwritten.append(b"".join(parts))
        return True

    # ---- reading

    def _drive(self, timeout_s: float) -> bool:
        """Moves bytes until something arrived, somebody rang, or the time is over; False if another thread does."""
        if not self._turn.acquire(blocking=False):
            self._missed = True
            if not self._turn.acquire(blocking=False):
                return False
        try:
            self._turns += 1
            if self._gone.is_set():
                self._gone.wait(min(timeout_s, _GRACE_S))  # the failure that this was is on its way
            elif self._connection.pending():
                self._read()
            else:
                self._attend(self._driver.wait(timeout_s, self._blocked))
        finally:
            self._release_turn()
        return True

    def _attend(self, events: int) -> bool:
        """Does what the socket is ready for; whether something was read."""
        if events & select.POLLOUT:
            self._blocked = False
            self._write_now()
        return bool(events & _READABLE) and self._read()

    def _release_turn(self) -> None:
        self._turn.release()
        if self._missed:
            self._missed = False
            self.link.wake()

    def _read(self) -> bool:
        """Reads what one call gives, or the rest of a long message as far as it is there; whether there was any."""
        inbound, done = self._inbound, 0
        with self._tls:
            try:
                while (count := self._connection.recv_into(space := inbound.space(), len(space))) > 0:
                    done += count
                    if not inbound.filled(count):
                        break
                else:
                    done = -1
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except (OSError, ValueError):
                done = -1
        if done < 0:
            self._lose("its connection broke")
            return False
        self._heard = self._heard or done > 0
        if not inbound.deliver():
            self._lose("it broke the protocol")
        return done > 0

    def _lose(self, why: str) -> None:
        self.link.closed(why)
        self._gone.set()

    # ---- the watch

    def _watch(self) -> None:
        tick, silent = time.monotonic() + _TICK_S, 0
        while not self._gone.is_set() and not self._watch_over:
            events = self._watcher.wait(max(0.0, tick - time.monotonic()), self._blocked)
            if time.monotonic() >= tick:
                tick = time.monotonic() + _TICK_S
                silent = 0 if self._heard or events & _READABLE else silent + 1
                self._heard = False
                if silent >= _SILENCE_TICKS:
                    self._lose(f"no sign of life for {_SILENCE_TICKS * _TICK_S:g} s")
                    self.link.wake()
                elif not self._blocked:
                    self.link.outbox.control(frames.control(frames.CREDIT))  # of nothing: it says that we live
            if events:
                turns = self._turns
                time.sleep(_GRACE_S)
                if self._turns == turns and self._turn.acquire(blocking=False):
                    self._stand_in()

    def _stand_in(self) -> None:
        """Does what a waiting thread would do, while none waits."""
        try:
            for _ in range(_WATCH_READS):
                if self._gone.is_set() or self._missed or not self._attend(self._watcher.wait(0.0, self._blocked)):
                    return
        finally:
            self._release_turn()

    # ---- the end

    def _shut(self, how: int) -> None:
        try:
            # The end of TLS itself is not said: END and ACK say it, and a stream without them has failed.
            socket.socket.shutdown(self._connection, how)
        except OSError:
            self._dumb = True

    def _free(self) -> None:
        self._watch_over = True
        self._gone.set()
        self._watcher.ring()
        self._driver.ring()
        if threading.current_thread() is not self._thread:
            self._thread.join(HANG_UP_S)
        with self._turn, self._tls:
            self._dumb = True
            self._connection.close()
            self._driver.close()
            self._watcher.close()


class _Inbound:
    """The bytes that arrived, and the messages they make. Short ones pass through a buffer that is used again."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._begin = self._end = 0
        self._long: memoryview | None = None
        self._long_filled = 0

    def space(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._long[self._long_filled :] if self._long is not None else self._scratch[self._end :]

    def filled(self, count: int) -> bool:
        """So many bytes came; True while a long message still lacks some."""
        if self._long is None:
            self._end += count
            return False
        self._long_filled += count
        return self._long_filled < len(self._long)

    def deliver(self) -> bool:
        """Hands whole messages on; False when the stream makes no sense any more."""
        if self._long is not None:
            if self._long_filled == len(self._long):
                message, self._long = self._long, None
                self._link.deliver(message)
            return True
        scratch = self._scratch
        while self._end - self._begin >= LENGTH.size:
            (length,) = LENGTH.unpack_from(scratch, self._begin)
            if not frames.HEAD_BYTES <= length <= frames.MAX_MESSAGE_BYTES:
                self._link.deliver(bytes(scratch[self._begin : self._end][: frames.HEAD_BYTES - 1]))
                return False
            start, stop = self._begin + LENGTH.size, self._begin + LENGTH.size + length
            if stop <= self._end:
                self._link.deliver(bytes(scratch[start:stop]))
                self._begin = stop
                continue
            if length > RECORD_BYTES:
                self._go_long(start, length)
            break
        if self._begin:
            left = self._end - self._begin
            scratch[:left] = scratch[self._begin : self._end]
            self._begin, self._end = 0, left
        return True

    def _go_long(self, start: int, length: int) -> None:
        # Safety: no zeroing, which would cost as much as filling; no byte of it is handed out before all are written.
        self._long = np.empty(length, np.uint8).data
        self._long_filled = self._end - start
        self._long[: self._long_filled] = self._scratch[start : self._end]
        self._begin = self._end = 0


class _Alarm:
    """Waits for a socket, or for a ring from another thread."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._socket_fd = connection.fileno()
        self._hears, self._rings = socket.socketpair()
        self._hears.setblocking(False)
        self._rings.setblocking(False)
        self._bell_fd = self._hears.fileno()
        self._poll = select.poll()
        self._poll.register(self._socket_fd, select.POLLIN)
        self._poll.register(self._bell_fd, select.POLLIN)
        self._writes = False

    def ring(self) -> None:
        """Makes `wait` return."""
        try:
            self._rings.send(b"\0")
        except OSError:
            pass  # it is full, and thus rung already, or it is closed

    def wait(self, timeout_s: float, writes: bool) -> int:
        """The socket's events; 0 when none came in time, or the bell was rung."""
        if writes != self._writes:
            self._writes = writes
            self._poll.modify(self._socket_fd, select.POLLIN | select.POLLOUT if writes else select.POLLIN)
        events = 0
        for fd, found in self._poll.poll(timeout_s * 1000):
            if fd == self._socket_fd:
                events = found
            else:
                self._silence()
        return events

    def close(self) -> None:
        """Frees its descriptors."""
        self._hears.close()
        self._rings.close()

    def _silence(self) -> None:
        try:
            self._hears.recv(4096)
        except OSError:
            pass

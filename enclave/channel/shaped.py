"""A channel over a slower network than the one it runs on, for benchmarks: both ends of every link are shaped.

A frame of s bytes that is sent at t begins to leave at b = max(t, when the frame before it had left), has left at
b + 8 s / bandwidth, and is there one latency after that. The shaped sender holds it back until b + latency and sends
with it the time at which its last byte is due; the shaped receiver hands it out no earlier. So the cost of the
transport itself is added to the latency, and hidden behind the time on the wire where it is shorter: as with a real
network, and without a proxy whose own work would be measured.

Not modelled: the frame's head, control messages, the opening and the end of the session. The ends must share a
monotonic clock: they run on one machine.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from enclave.channel import Channel, LinkStats
from enclave.errors import EnclaveError

__all__ = ["ShapedChannel", "shape"]

_DUE = struct.Struct("<Q")
_BUFFER_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class _Held:
    """A frame on its way: when it is handed to the transport, and what."""

    leaves_ns: int
    step: int
    label: str
    data: bytes


def shape(channel: Channel, latency_s: float, bandwidth_bps: float) -> Channel:
    """`channel` as it would be over a network of this profile; every rank of the session must be shaped alike.

    Args:
        latency_s: one way, half the round trip; 0 with an infinite bandwidth gives back `channel` itself.
        bandwidth_bps: bits a second of each direction of each link; may be infinite.
    """
    if latency_s < 0 or not bandwidth_bps > 0:
        raise ValueError(f"expected latency >= 0 and bandwidth > 0, found {latency_s} s and {bandwidth_bps} bit/s")
    if latency_s == 0 and bandwidth_bps == float("inf"):
        return channel
    return ShapedChannel(channel, latency_s, bandwidth_bps)


class ShapedChannel:
    """See `shape`. A thread for every peer holds back what goes there."""

    def __init__(self, inner: Channel, latency_s: float, bandwidth_bps: float) -> None:
        self._inner = inner
        ranks = [rank for rank in range(len(inner.names)) if rank != inner.rank]
        self._wires = {rank: _Wire(inner, rank, latency_s, bandwidth_bps) for rank in ranks}

    @property
    def rank(self) -> int:
        """See `Channel`."""
        return self._inner.rank

    @property
    def names(self) -> tuple[str, ...]:
        """See `Channel`."""
        return self._inner.names

    def send(self, to: int, step: int, label: str, parts: Sequence[bytes | memoryview]) -> None:
        """See `Channel`; waits while more than a bound of bytes is held back."""
        if to not in self._wires:
            raise ValueError(f"rank {self.rank} has no link to rank {to}")
        self._wires[to].put(step, label, b"".join(parts))

    def receive(self, frm: int, step: int, label: str, size_bytes: int) -> memoryview:
        """See `Channel`; waits until the frame is due."""
        payload = self._inner.receive(frm, step, label, size_bytes + _DUE.size)
        (due_ns,) = _DUE.unpack(payload[size_bytes:])
        _sleep_until(due_ns)
        return payload[:size_bytes]

    def stats(self) -> tuple[LinkStats, ...]:
        """See `Channel`: what is held back counts as sent, the times sent along do not count."""
        return tuple(
            replace(
                link,
                sent_bytes=self._wires[link.rank].sent_bytes,
                sent_frames=self._wires[link.rank].sent_frames,
                received_bytes=link.received_bytes - _DUE.size * link.received_frames,
            )
            for link in self._inner.stats()
        )

    def close(self, error: EnclaveError | None = None) -> None:
        """See `Channel`: without an error what is held back leaves first, in its time."""
        for wire in self._wires.values():
            wire.end(drop=error is not None)
        for wire in self._wires.values():
            error = error or wire.failure
        self._inner.close(error)


class _Wire:
    """One direction of one link. All times are of the monotonic clock, in nanoseconds."""

    def __init__(self, inner: Channel, to: int, latency_s: float, bandwidth_bps: float) -> None:
        self._inner, self._to = inner, to
        self._latency_ns = round(latency_s * 1e9)
        self._ns_per_byte = 8e9 / bandwidth_bps
        self._changed = threading.Condition()
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._free_ns = 0
        self._over = False
        self.failure: EnclaveError | None = None
        self.sent_bytes = self.sent_frames = 0
        self._thread = threading.Thread(target=self._run, name=f"wire to {inner.names[to]}", daemon=True)
        self._thread.start()

    def put(self, step: int, label: str, data: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._held_bytes <= _BUFFER_BYTES or self._over or self.failure is not None)
            if self.failure is not None:
                raise self.failure
            if self._over:
                raise EnclaveError("the session is closed")
            begins_ns = max(time.monotonic_ns(), self._free_ns)
            self._free_ns = begins_ns + round(len(data) * self._ns_per_byte)
            due = _DUE.pack(self._free_ns + self._latency_ns)
            self._held.append(_Held(begins_ns + self._latency_ns, step, label, data + due))
            self._held_bytes += len(data)
            self.sent_bytes += len(data)
            self.sent_frames += 1
            self._changed.notify_all()

    def end(self, drop: bool) -> None:
        """Takes nothing more; waits until what is held has left, unless it is dropped."""
        with self._changed:
            self._over = True
            if drop:
                self._held.clear()
            self._changed.notify_all()
        if not drop:
            self._thread.join()

    def _run(self) -> None:
        while (frame := self._first()) is not None:
            _sleep_until(frame.leaves_ns)
            try:
                self._inner.send(self._to, frame.step, frame.label, [frame.data])
            except (EnclaveError, ValueError) as error:
                self._fail(error)
                return
            with self._changed:
                self._held_bytes -= len(frame.data) - _DUE.size
                self._changed.notify_all()

    def _first(self) -> _Held | None:
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._over)
            return self._held.popleft() if self._held else None

    def _fail(self, error: EnclaveError | ValueError) -> None:
        with self._changed:
            wrong = error if isinstance(error, EnclaveError) else EnclaveError(str(error), code="internal.frame")
            self.failure = self.failure or wrong
            self._held.clear()
            self._changed.notify_all()


def _sleep_until(when_ns: int) -> None:
    left_ns = when_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)

"""The bytes of one message: a fixed head, then a label and payload, or the body of a control message.

    0   2  "EN"
    2   1  version of this format
    3   1  kind
    4   1  bytes of the label (FRAME only)
    5   3  zero
    8   8  step
    16  8  value: the frame's payload bytes, or the number that a control message carries
    24     label, zeros up to a multiple of 16 bytes, payload

All integers are little-endian. A FRAME carries the first CHUNK_BYTES of its payload; the rest follows in MORE
messages of exactly CHUNK_BYTES, the last one shorter. Both ends thus know every message's length beforehand,
and a peer cannot stretch a frame out drop by drop.

A BATCH carries short messages that were queued at the same time, where a message of its own would cost more than what
is in it: after the head, for each message, 8 bytes of length and the message, then zeros up to a multiple of 8 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = [
    "ABORT",
    "ACK",
    "BATCH",
    "BATCH_BYTES",
    "CHUNK_BYTES",
    "CREDIT",
    "END",
    "FRAME",
    "HEAD_BYTES",
    "HELLO",
    "MAX_MESSAGE_BYTES",
    "MORE",
    "NOBODY",
    "PREFIX",
    "WAITING",
    "WELCOME",
    "Head",
    "batch",
    "control",
    "frame_head",
    "messages",
    "parse",
    "unbatch",
]

HELLO, WELCOME, FRAME, MORE, CREDIT, WAITING, END, ACK, ABORT, BATCH = range(1, 11)
CHUNK_BYTES = 1 << 21
BATCH_BYTES = 1 << 16  # of a whole batch; a frame beyond a quarter of it travels alone
HEAD_BYTES = 24
MAX_LABEL_BYTES = 64
MAX_TEXT_BYTES = 512
MAX_MESSAGE_BYTES = CHUNK_BYTES + 128
NOBODY = (1 << 64) - 1

_HEAD = struct.Struct("<2sBBB3xQQ")
_SLOT = struct.Struct("<Q")
_MAGIC, _VERSION = b"EN", 2
PREFIX = b"EN\x02"


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a payload."""

    kind: int
    step: int
    value: int
    label: str
    text: str

    def __str__(self) -> str:
        if self.kind == FRAME:
            return f"step {self.step} {self.label!r} of {self.value} bytes"
        if self.kind == MORE:
            return f"the rest of a frame, {self.value} bytes before its end"
        return "the end of the session" if self.kind == END else f"a control message of kind {self.kind}"


def frame_head(step: int, label: str, size_bytes: int) -> bytes:
    """The head of a frame, a multiple of 16 bytes long; raises ValueError when a field does not fit."""
    name = label.encode()
    if len(name) > MAX_LABEL_BYTES:
        raise ValueError(f"a label has at most {MAX_LABEL_BYTES} bytes, got {label!r}")
    if not (0 <= step < 1 << 63 and 0 <= size_bytes < 1 << 48):
        raise ValueError(f"step or size out of range: {step}, {size_bytes}")
    head = _HEAD.pack(_MAGIC, _VERSION, FRAME, len(name), step, size_bytes) + name
    return head + bytes(-len(head) % 16)


def messages(step: int, label: str, parts: Sequence[bytes | memoryview], size_bytes: int) -> list[bytes]:
    """The messages of one frame. Every payload byte is copied once."""
    head = frame_head(step, label, size_bytes)
    if size_bytes <= CHUNK_BYTES:
        return [b"".join((head, *parts))]
    found: list[bytes] = []
    pieces, left, room = [memoryview(head)], size_bytes, CHUNK_BYTES
    for part in _flat(parts):
        rest = part
        while len(rest) >= room:
            pieces.append(rest[:room])
            rest, left = rest[room:], left - room
            found.append(b"".join(pieces))
            if not left:
                return found
            pieces, room = [memoryview(control(MORE, step, left))], min(CHUNK_BYTES, left)
        if rest:
            pieces.append(rest)
            room, left = room - len(rest), left - len(rest)
    raise ValueError(f"the parts of a frame have fewer than {size_bytes} bytes")


def _flat(parts: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part)
        if view.nbytes:
            yield view.cast("B") if view.ndim != 1 or view.format != "B" else view


def control(kind: int, step: int = 0, value: int = 0, text: str = "") -> bytes:
    """A control message; `text` is cut to MAX_TEXT_BYTES."""
    body = text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore").encode()
    return _HEAD.pack(_MAGIC, _VERSION, kind, 0, step, value) + body


def batch(messages: Sequence[bytes]) -> bytes:
    """One message that carries these."""
    parts: list[bytes] = [control(BATCH, value=len(messages))]
    for message in messages:
        parts += [_SLOT.pack(len(message)), message, bytes(-len(message) % _SLOT.size)]
    return b"".join(parts)


def unbatch(message: bytes | memoryview) -> Iterator[memoryview]:
    """The messages in a batch, as views of it; raises ValueError when it is none, as far as it was sound."""
    view, begin = memoryview(message), HEAD_BYTES
    while begin < len(view):
        (length,) = _SLOT.unpack_from(view, begin) if begin + _SLOT.size <= len(view) else (len(view),)
        begin += _SLOT.size
        stop = begin + length
        # What is in a batch can be no batch: nobody makes a receiver go deeper and deeper.
        if not HEAD_BYTES <= length <= len(view) - begin or view[begin + 3] == BATCH:
            raise ValueError(f"a batch with {length} bytes where {len(view) - begin} are left")
        yield view[begin:stop]
        begin = stop + -length % _SLOT.size


def parse(message: bytes | memoryview) -> Head:
    """The head of any message; raises ValueError when it is none."""
    if len(message) < HEAD_BYTES or message[: len(PREFIX)] != PREFIX:
        raise ValueError(f"{len(message)} bytes that are no message of this protocol: {message[:8].hex()}")
    _, _, kind, label_bytes, step, value = _HEAD.unpack_from(message)
    body = message[HEAD_BYTES : HEAD_BYTES + MAX_TEXT_BYTES] if kind not in (FRAME, MORE) else b""
    label = message[HEAD_BYTES : HEAD_BYTES + label_bytes] if kind == FRAME else b""
    if not HELLO <= kind <= BATCH or len(label) > MAX_LABEL_BYTES or len(message) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of unknown kind {kind}, {len(message)} bytes long")
    return Head(kind, step, value, _readable(bytes(label)), _readable(bytes(body)))


def _readable(text: bytes) -> str:
    """A peer's text as it may stand in an error message: no control characters, no line ends."""
    return "".join(c if c.isprintable() else "?" for c in text.decode(errors="replace"))

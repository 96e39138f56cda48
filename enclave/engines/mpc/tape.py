"""Correlated randomness, described by shapes: the entries of a session's tape.

Every kind of correlated randomness has one form. Some tensors are *free*: each party expands its share from the
key it has in common with the dealer, and the clear value is their combination. The others are *dealt*: a function
of the free ones, of which every party but the leader expands its share too, and the leader gets a correction

    correction = value - (sum of the other parties' shares)        (exclusive or for packed bits)

which is uniform to it, since the others' shares are. The dealer needs nothing but the entries, in order, and the
keys; it sees no share of data and no opened value.

An entry sits beside the protocol that consumes it (`protocols`), so that the box of a protocol and the dealer's
half of it are read together.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BitRef",
    "Blank",
    "Draw",
    "Entry",
    "MaskRef",
    "Segment",
    "Spec",
    "additive",
    "clear",
    "layout",
    "packed_bits",
]

Array = NDArray[Any]


class Blank:
    """Stands for a tensor where only its shape is known: in a plan, and at the dealer."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.uint64) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a contiguous tensor of this shape."""
        return self.size * int(self.dtype.itemsize)

    def __repr__(self) -> str:
        return f"Blank({self.shape}, {self.dtype})"


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape, element type and sharing of one tensor of an entry.

    Sharing is "add" modulo 2^width, "xor", or, for a dealt tensor, "clear": the leader receives the value itself, the
    other parties nothing. That is for what the leader may know, and passes on.
    """

    shape: tuple[int, ...]
    dtype: str = "u8"
    sharing: str = "add"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.size * int(self.dtype[-1])

    @property
    def words(self) -> int:
        """64-bit words of key stream that a share takes."""
        return 0 if self.sharing == "clear" else -(-self.nbytes // 8)


def additive(*shape: int, dtype: str = "u8") -> Spec:
    """A tensor shared additively modulo 2^64 (or the width of `dtype`)."""
    return Spec(shape, dtype, "add")


def packed_bits(*shape: int) -> Spec:
    """64-bit words of packed bits, shared by exclusive or."""
    return Spec(shape, "u8", "xor")


def clear(*shape: int) -> Spec:
    """Words that the leader receives as they are."""
    return Spec(shape, "u8", "clear")


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows [start, stop) of the mask that entry `stream` drew; `holder` alone knows it, or None: it is shared."""

    stream: int
    shape: tuple[int, ...]
    start: int
    stop: int
    holder: int | None

    @property
    def row_words(self) -> int:
        """Words of one row."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class MaskRef:
    """A mask for a tensor: segments stacked along the first axis."""

    segments: tuple[Segment, ...]
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> MaskRef:
        """The mask of rows [start, stop)."""
        kept, position = [], 0
        for segment in self.segments:
            length = segment.stop - segment.start
            low, high = max(start - position, 0), min(stop - position, length)
            if low < high:
                kept.append(replace(segment, start=segment.start + low, stop=segment.start + high))
            position += length
        return MaskRef(tuple(kept), (stop - start, *self.shape[1:]))

    def known_to(self, rank: int | None) -> bool:
        """Whether this rank has a share of it that is not zero."""
        return any(segment.holder in (None, rank) for segment in self.segments)


@dataclass(frozen=True, slots=True)
class BitRef:
    """Packed bits that entry `stream` drew: (rows, n) bits, from word `offset` of its key stream on."""

    stream: int
    offset: int
    rows: int
    n: int


class Draw(Protocol):
    """What an entry may ask of the dealer while it computes its values."""

    def mask(self, ref: MaskRef) -> Array:
        """The clear value of a mask that was drawn earlier."""
        ...

    def bits(self, ref: BitRef) -> Array:
        """The clear values, 0 or 1 in words of shape (rows, n), of bits that were drawn earlier."""
        ...


class Entry(Hashable, Protocol):
    """One piece of correlated randomness."""

    @property
    def kind(self) -> str: ...

    @property
    def free(self) -> tuple[Spec, ...]: ...

    @property
    def dealt(self) -> tuple[Spec, ...]: ...

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """The clear values of the dealt tensors, from those of the free ones. The dealer may overwrite them."""
        ...


@lru_cache(maxsize=256)
def layout(entry: Entry) -> tuple[tuple[Spec, ...], tuple[Spec, ...]]:
    """The entry's free and dealt tensors. Small sessions spend their time on such things, and entries repeat."""
    return entry.free, entry.dealt

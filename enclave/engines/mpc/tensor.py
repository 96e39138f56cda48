"""A secret-shared tensor over Z_2^64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Blank, MaskRef
from enclave.errors import BadData

__all__ = ["Opened", "Part", "RingTensor", "decode", "encode", "open_masked"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """x - a in the clear, for a mask a that is used for this x and nothing else."""

    difference: Tensor
    ref: MaskRef


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows that one rank knows in the clear; `plain` is None at all others."""

    holder: int
    shape: Shape
    plain: Tensor | None
    stream: int  # of the zero sharing that hides it when shares are needed


class RingTensor:
    """Additive shares of an integer tensor that stands for value * 2^frac_bits.

    A tensor that came in through `private` remembers who knows it, and is shared only if something needs shares:
    a product needs just the masked value. What was opened for it is kept, so that it is opened once.

    A pending tensor is a product that was not truncated yet: its fractional bits are those of both operands.

    Safety: a RingTensor is immutable, which ties every mask to one value.
    """

    __slots__ = ("_share", "frac_bits", "opened", "parts", "pending", "session", "settled", "shape")

    def __init__(
        self,
        session: Session,
        shape: Sequence[int],
        frac_bits: int,
        share: Tensor | None = None,
        parts: tuple[Part, ...] = (),
        opened: Opened | None = None,
        *,
        pending: bool = False,
    ) -> None:
        self.session = session
        self.shape: Shape = tuple(int(n) for n in shape)
        self.frac_bits = frac_bits
        self.parts = parts
        self.opened = opened
        self.pending = pending
        self.settled: RingTensor | None = None  # once it was truncated
        self._share = share

    def __repr__(self) -> str:
        return f"RingTensor(shape={self.shape}, frac_bits={self.frac_bits}, share=<redacted>)"

    @property
    def is_integer(self) -> bool:
        """Whether the values are exact integers."""
        return self.frac_bits == 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def share(self) -> Tensor:
        """This rank's share, uint64."""
        if self._share is None:
            shares = [_share_part(self.session, part) for part in self.parts]
            self._share = _stack(shares, self.shape)
        return self._share

    def rows(self, start: int, stop: int) -> RingTensor:
        """Rows [start, stop), with their part of what was opened."""
        shape = (stop - start, *self.shape[1:])
        opened = None
        if self.opened is not None:
            difference = self.opened.difference
            piece = Blank(shape) if isinstance(difference, Blank) else difference[start:stop]
            opened = Opened(piece, self.opened.ref.rows(start, stop))
        share = self.share
        piece = Blank(shape) if isinstance(share, Blank) else share[start:stop]
        return RingTensor(self.session, shape, self.frac_bits, piece, (), opened, pending=self.pending)

    def reshaped(self, shape: Sequence[int]) -> RingTensor:
        """The same values in another shape. Private rows stay private while no new row has two holders; what was opened
        is opened anew."""
        target = tuple(shape)
        if self.parts and self._share is None and target:
            row = math.prod(target[1:])
            sizes = [math.prod(part.shape) for part in self.parts]
            if row and all(size % row == 0 for size in sizes):
                dims = [(size // row, *target[1:]) for size in sizes]
                parts = tuple(
                    Part(p.holder, d, _reshape(p.plain, d), p.stream) for p, d in zip(self.parts, dims, strict=True)
                )
                return RingTensor(self.session, target, self.frac_bits, None, parts)
        return RingTensor(self.session, target, self.frac_bits, _reshape(self.share, target), pending=self.pending)


def _reshape(value: Tensor | None, shape: Shape) -> Tensor | None:
    if value is None:
        return None
    return Blank(shape) if isinstance(value, Blank) else value.reshape(shape)


def _share_part(session: Session, part: Part) -> Tensor:
    zero = session.zero_share(part.stream, part.shape)
    if part.holder == session.rank:
        return part.plain + zero
    return zero


def _stack(pieces: list[Any], shape: Shape) -> Tensor:
    if isinstance(pieces[0], Blank):
        return Blank(shape)
    return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(shape)


def open_masked(session: Session, *tensors: RingTensor) -> Protocol[list[Opened]]:
    """Opens x - a for each tensor that has not been opened before, all in one round.

    Cost: at most one round; 8 B an element from every party, or from its holder alone.
    Reveals: nothing: a is uniform, unknown to the others, and belongs to this x.
    """
    items: list[Item] = []
    plans: list[tuple[RingTensor, tuple[MaskRef, ...]]] = []
    for tensor in dict.fromkeys(t for t in tensors if t.opened is None):
        if tensor.parts and tensor._share is None:
            refs = tuple(session.new_mask(part.shape, part.holder) for part in tensor.parts)
            for part, ref in zip(tensor.parts, refs, strict=True):
                value: Tensor = Blank(part.shape)
                if part.holder == session.rank:
                    value = part.plain - session.mask_share(ref)
                items.append(Item("mask", value, sender=part.holder))
        else:
            refs = (session.new_mask(tensor.shape, None),)
            items.append(
                Item("mask", session.local(np.subtract, tensor.shape, tensor.share, session.mask_share(refs[0])))
            )
        plans.append((tensor, refs))
    if items:
        opened = yield items
        start = 0
        for tensor, refs in plans:
            difference = _stack(opened[start : start + len(refs)], tensor.shape)
            segments = tuple(segment for ref in refs for segment in ref.segments)
            tensor.opened = Opened(difference, MaskRef(segments, tensor.shape))
            start += len(refs)
    found = []
    for tensor in tensors:
        assert tensor.opened is not None
        found.append(tensor.opened)
    return found


def encode(value: Array | float, frac_bits: int) -> Array:
    """round(value * 2^frac_bits) modulo 2^64, as uint64."""
    scaled = np.rint(np.asarray(value, np.float64) * float(1 << frac_bits))
    if not np.all(np.abs(scaled) < 2.0**62):  # not a number fails too
        raise BadData(f"values must lie below 2^{62 - frac_bits} in magnitude for {frac_bits} fractional bits")
    return scaled.astype(np.int64).view(np.uint64)


def decode(words: Array, frac_bits: int) -> Array:
    """The numbers (float64) or, without fraction, the integers (int64) that ring elements stand for."""
    signed = words.view(np.int64)
    return signed.copy() if frac_bits == 0 else signed.astype(np.float64) / float(1 << frac_bits)

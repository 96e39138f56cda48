"""Tape entries on the wire: what a free-running program asks of the dealer, as validated messages.

Numbers and shapes only; `records` has the form. Here is the list of what may be asked for, and what must hold for it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from enclave.engines.mpc.fence.binary_masks import AndTriple
from enclave.engines.mpc.fence.operations import BatchMatMul, Convolution
from enclave.engines.mpc.fence.records import MAX_NUMBER, Catalogue
from enclave.engines.mpc.fence.series import FUNCTIONS
from enclave.engines.mpc.protocols.arithmetic import Conv2d, MatMul, Mul, ProductOfMasks, Truncation
from enclave.engines.mpc.protocols.brackets import Bracketed
from enclave.engines.mpc.protocols.comparison import Comparison, Gate, Gating, Relu
from enclave.engines.mpc.protocols.exponential import Exponential
from enclave.engines.mpc.protocols.pairs import MOST_COLUMNS, Pairs
from enclave.engines.mpc.protocols.saturating import Saturating
from enclave.engines.mpc.protocols.selection import BitMask, OneHotOfMask
from enclave.engines.mpc.protocols.smooth import Gated, SeriesTable
from enclave.engines.mpc.protocols.softmax import Softmax
from enclave.engines.mpc.protocols.trees import Tree
from enclave.engines.mpc.tape import BitRef, Entry, MaskRef, Segment
from enclave.errors import BadSpec
from enclave.messages import Value, check
from enclave.wire import tape_pb2 as wire

__all__ = ["MAX_MESSAGE_BYTES", "TapeEntry", "catalogue"]

MAX_MESSAGE_BYTES = 1 << 20
MAX_AXES = 16
_ENTRIES: dict[int, type] = {
    wire.TAPE_KIND_PRODUCT: ProductOfMasks,
    wire.TAPE_KIND_TRUNCATION: Truncation,
    wire.TAPE_KIND_COMPARISON: Comparison,
    wire.TAPE_KIND_RELU: Relu,
    wire.TAPE_KIND_GATE: Gate,
    wire.TAPE_KIND_SERIES: SeriesTable,
    wire.TAPE_KIND_GATED: Gated,
    wire.TAPE_KIND_ONE_HOT: OneHotOfMask,
    wire.TAPE_KIND_BITS: BitMask,
    wire.TAPE_KIND_AND: AndTriple,
    wire.TAPE_KIND_SATURATING: Saturating,
    wire.TAPE_KIND_PAIRS: Pairs,
    wire.TAPE_KIND_SOFTMAX: Softmax,
    wire.TAPE_KIND_EXPONENTIAL: Exponential,
    wire.TAPE_KIND_BRACKETED: Bracketed,
}
_PARTS: dict[int, type] = {
    wire.TAPE_KIND_MASK: MaskRef,
    wire.TAPE_KIND_SEGMENT: Segment,
    wire.TAPE_KIND_FLIPS: BitRef,
    wire.TAPE_KIND_TREE: Tree,
    wire.TAPE_KIND_GATING: Gating,
}
_OPERATIONS: dict[int, type] = {
    wire.TAPE_KIND_MUL: Mul,
    wire.TAPE_KIND_MATMUL: MatMul,
    wire.TAPE_KIND_CONV2D: Conv2d,
    wire.TAPE_KIND_BATCH_MATMUL: BatchMatMul,
    wire.TAPE_KIND_CONVOLUTION: Convolution,
}


@functools.cache
def catalogue() -> Catalogue:
    """All that may travel."""
    return Catalogue({**_ENTRIES, **_PARTS, **_OPERATIONS}, FUNCTIONS, tuple(_OPERATIONS.values()))


# ---- what must hold, besides the types of fields


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    check(len(shape) <= MAX_AXES and math.prod(shape) <= MAX_NUMBER, "a tape entry has an impossible shape")
    return shape


def _mask(mask: MaskRef) -> None:
    for segment in mask.segments:
        check(0 < len(_shape(segment.shape)), "a mask segment without axes")
        check(segment.start <= segment.stop <= segment.shape[0], "a mask segment beyond its mask")
    size = sum((s.stop - s.start) * math.prod(s.shape[1:]) for s in mask.segments)
    check(0 < len(mask.segments) <= 1024 and size == math.prod(_shape(mask.shape)), "a mask that does not add up")
    rests = {s.shape[1:] for s in mask.segments}
    check(len(mask.segments) == 1 or rests == {mask.shape[1:]}, "a mask of unequal segments")


def _product(entry: ProductOfMasks) -> None:
    _mask(entry.x)
    _mask(entry.y)
    op: Any = entry.op
    x, y = entry.x.shape, entry.y.shape
    if isinstance(op, MatMul):
        check(len(x) == len(y) == 2, "a matrix product of tensors that are not matrices")
        check((x[0] if op.transpose_x else x[1]) == (y[1] if op.transpose_y else y[0]), "matrices that do not fit")
    if isinstance(op, Conv2d):
        check(min(*op.stride, *op.dilation, op.groups) > 0, "a convolution without steps")
        check(len(x) == len(y) == 4 and x[1] == y[1] * op.groups and y[0] % op.groups == 0, "channels that do not fit")
    if isinstance(op, Convolution):
        lengths = {len(op.stride), len(op.padding), len(op.dilation), len(op.output_padding)}
        check(lengths in ({1}, {2}), "a convolution is incomplete")
    shape = op.shape(x, y)
    check(min(shape, default=0) >= 0, "a product without a result")
    _shape(shape)


def _truncation(entry: Truncation) -> None:
    check(0 < entry.bits < 63, f"a truncation by {entry.bits} bits")
    _shape(entry.shape)


def _tree(tree: Tree) -> None:
    check(tree.low < tree.high < 64, f"a comparison of bits {tree.low} to {tree.high}")
    check(sum(tree.leaves) == tree.high - tree.low, "leaves that do not make up the bits")
    check(0 < min(tree.leaves) and max(tree.leaves) <= 8, "leaves of more than 8 bits")
    count = len(tree.leaves)
    for level in tree.levels:
        check(0 < len(level) < count and sum(level) == count, "gates that do not join what is below")
        check(0 < min(level) and max(level) <= 16, "gates of more than 16 inputs")
        count = len(level)
    check(count == 1, "a comparison that does not end in one bit")


def _comparison(entry: Comparison) -> None:
    check(0 < entry.thresholds <= 64, f"a comparison with {entry.thresholds} thresholds")
    _tree(entry.tree)


def _gating(gating: Gating) -> None:
    check(gating.shift < 63, f"a truncation by {gating.shift} bits")


def _relu(entry: Relu) -> None:
    _comparison(entry.comparison)
    _gating(entry.gating)
    check(entry.comparison.n == entry.gating.n and entry.comparison.flips == "u8", "a ReLU of two lengths")


def _gate(entry: Gate) -> None:
    _gating(entry.gating)
    check(0 < entry.flips.rows <= 64 and entry.flips.n == entry.gating.n, "bits that do not fit what they choose")


def _series(entry: SeriesTable) -> None:
    check(0 < entry.bits <= 60, f"a series of {entry.bits} bits")


def _gated(entry: Gated) -> None:
    _comparison(entry.comparison)
    check(entry.frac_bits <= 40, f"{entry.frac_bits} fractional bits")


def _saturating(entry: Saturating) -> None:
    _comparison(entry.comparison)
    check(entry.comparison.thresholds == 2 and entry.comparison.flips == "u8", "a curve without two ends")
    check(8 <= entry.bits <= 44 and entry.lift <= 30, f"a curve of {entry.bits} fractional bits")
    check(entry.shift < 63, f"a truncation by {entry.shift} bits")


def _pairs(entry: Pairs | Softmax) -> None:
    _comparison(entry.comparison)
    check(1 < entry.columns <= MOST_COLUMNS, f"pairs of {entry.columns} columns")
    check(entry.comparison.n == entry.rows * (entry.columns * (entry.columns - 1) // 2), "pairs of other rows")
    check(entry.comparison.flips == "u1", "pairs whose bits are no counts")


def _softmax(entry: Softmax) -> None:
    _pairs(entry)
    check(entry.comparison.thresholds == 3 and 0 < entry.bits <= 56, f"a softmax of {entry.bits} fractional bits")


def _exponential(entry: Exponential) -> None:
    _comparison(entry.comparison)
    check(entry.comparison.thresholds == 2 and entry.comparison.flips == "u8", "an exponential without two ends")
    check(entry.bits <= 56 and entry.low <= 1 << 17, f"an exponential of {entry.bits} fractional bits")
    check(entry.digits in (2, 4, 8, 16) and entry.scale < 62, f"an exponential of {entry.digits} digits")
    check(0 < entry.shift < 62, f"a truncation by {entry.shift} bits")


def _bracketed(entry: Bracketed) -> None:
    _comparison(entry.comparison)
    check(entry.comparison.thresholds > 1 and entry.comparison.flips == "u8", "brackets without two ends")
    check(entry.first + 2 * entry.brackets < 62 and entry.lift <= 30, "brackets of too many bits")


def _one_hot(entry: OneHotOfMask) -> None:
    check(0 < entry.bits <= 16, f"one-hot rows of {entry.bits} bits")


def _and(entry: AndTriple) -> None:
    _shape(entry.x)
    _shape(entry.y)


_CHECKS: dict[type, Any] = {
    ProductOfMasks: _product,
    Truncation: _truncation,
    Comparison: _comparison,
    Relu: _relu,
    Gate: _gate,
    SeriesTable: _series,
    Gated: _gated,
    Saturating: _saturating,
    Pairs: _pairs,
    Softmax: _softmax,
    Exponential: _exponential,
    Bracketed: _bracketed,
    OneHotOfMask: _one_hot,
    AndTriple: _and,
}


@dataclass(frozen=True, slots=True)
class _Envelope(Value):
    """The message before its record is read."""

    wire = wire.TapeEntry
    stream: int
    entry: Any


@dataclass(frozen=True, slots=True)
class TapeEntry:
    """One entry and the number of its key stream."""

    stream: int
    entry: Entry

    def encode(self) -> bytes:
        """The message; BadSpec when the entry is of a kind that has none."""
        record = catalogue().to_wire(self.entry)
        return wire.TapeEntry(stream=self.stream, entry=record).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> TapeEntry:
        """Parses and validates a message; BadSpec when it is malformed."""
        message = _Envelope.decode(data, limit_bytes=MAX_MESSAGE_BYTES)
        check(message.stream <= MAX_NUMBER, f"stream {message.stream}")
        entry = catalogue().from_wire(message.entry, tuple(_ENTRIES.values()))
        try:
            _CHECKS.get(type(entry), lambda entry: None)(entry)
            for spec in (*entry.free, *entry.dealt):
                _shape(spec.shape)
        except (ArithmeticError, IndexError, LookupError, TypeError, ValueError) as error:
            raise BadSpec(f"a tape entry whose parts do not fit: {error}") from error
        return cls(message.stream, entry)

    def masks(self) -> tuple[MaskRef, ...]:
        """The masks that the entry draws again."""
        return (self.entry.x, self.entry.y) if isinstance(self.entry, ProductOfMasks) else ()

    def bits(self) -> tuple[BitRef, ...]:
        """The bits that the entry draws again."""
        return (self.entry.flips,) if isinstance(self.entry, Gate) else ()

    def scratch_words(self) -> int:
        """Words that a convolution needs besides its operands: padding and unfolded windows may dwarf them."""
        if not isinstance(self.entry, ProductOfMasks):
            return 0
        op: Any = self.entry.op
        x, y = self.entry.x.shape, self.entry.y.shape
        if isinstance(op, Conv2d):
            top, left, bottom, right = op.padding
            sides: tuple[int, ...] = (x[2] + top + bottom, x[3] + left + right)
        elif isinstance(op, Convolution):
            spread = y[2:] if op.transposed else (1,) * len(op.padding)
            sides = tuple(n * k + 2 * p for n, k, p in zip(x[2:], spread, op.padding, strict=True))
        else:
            return 0
        windows = math.prod(y[1:]) * op.groups * math.prod(op.shape(x, y)[2:])
        return int(x[0] * x[1] * math.prod(sides) + windows)

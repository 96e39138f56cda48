"""Tape entries on the wire: what a free-running program asks of the dealer, as validated messages.

Numbers and shapes only. A kind of entry is a field of the message, a function is one of a closed list: no name
that a party sends is ever looked up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from enclave.engines.mpc.fence.operations import BatchMatMul, Convolution
from enclave.engines.mpc.fence.series import FUNCTIONS
from enclave.engines.mpc.protocols.arithmetic import Bilinear, Conv2d, MatMul, Mul, ProductOfMasks, Truncation
from enclave.engines.mpc.protocols.comparison import Comparison
from enclave.engines.mpc.protocols.selection import BitMask, OneHotOfMask
from enclave.engines.mpc.protocols.smooth import Gated, Series, SeriesTable
from enclave.engines.mpc.tape import Entry, MaskRef, Segment
from enclave.errors import BadSpec
from enclave.messages import Value, check
from enclave.wire import tape_pb2 as wire

__all__ = ["MAX_MESSAGE_BYTES", "TapeEntry"]

MAX_MESSAGE_BYTES = 1 << 20
MAX_ELEMENTS = 1 << 40  # of one tensor; real limits are the dealer's
MAX_AXES = 16
_SERIES_BITS = 60
_NUMBERS = {function: number for number, function in FUNCTIONS.items()}


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    check(len(shape) <= MAX_AXES and math.prod(shape) <= MAX_ELEMENTS, "a tape entry has an impossible shape")
    return shape


def _count(n: int) -> int:
    check(n <= MAX_ELEMENTS, f"a tape entry for {n} elements")
    return n


def _function(number: int) -> Series | None:
    check(number in FUNCTIONS, f"tape function {number} is unknown")
    return FUNCTIONS[number]


def _number(function: Series | None) -> int:
    check(function in _NUMBERS, "a function that has no number on the wire")
    return _NUMBERS[function]


@dataclass(frozen=True, slots=True)
class TapeSegment(Value):
    """See `tape.Segment`."""

    wire = wire.TapeSegment
    stream: int
    shape: tuple[int, ...]
    start: int
    stop: int
    holder: int | None

    def __post_init__(self) -> None:
        check(0 < len(_shape(self.shape)), "a mask segment without axes")
        check(self.start <= self.stop <= self.shape[0], "a mask segment beyond its mask")


@dataclass(frozen=True, slots=True)
class TapeMask(Value):
    """See `tape.MaskRef`."""

    wire = wire.TapeMask
    segments: tuple[TapeSegment, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        size = sum((s.stop - s.start) * math.prod(s.shape[1:]) for s in self.segments)
        check(0 < len(self.segments) <= 1024 and size == math.prod(_shape(self.shape)), "a mask that does not add up")
        rests = {s.shape[1:] for s in self.segments}
        check(len(self.segments) == 1 or rests == {self.shape[1:]}, "a mask of unequal segments")

    @classmethod
    def of(cls, ref: MaskRef) -> TapeMask:
        """The message of a mask."""
        return cls(tuple(TapeSegment(s.stream, s.shape, s.start, s.stop, s.holder) for s in ref.segments), ref.shape)

    def ref(self) -> MaskRef:
        """The mask of this message."""
        return MaskRef(tuple(Segment(s.stream, s.shape, s.start, s.stop, s.holder) for s in self.segments), self.shape)


@dataclass(frozen=True, slots=True)
class TapeMul(Value):
    """See `arithmetic.Mul`."""

    wire = wire.TapeMul


@dataclass(frozen=True, slots=True)
class TapeMatMul(Value):
    """See `arithmetic.MatMul`."""

    wire = wire.TapeMatMul
    transpose_x: bool
    transpose_y: bool


@dataclass(frozen=True, slots=True)
class TapeBatchMatMul(Value):
    """See `operations.BatchMatMul`."""

    wire = wire.TapeBatchMatMul


@dataclass(frozen=True, slots=True)
class TapeConv2d(Value):
    """See `arithmetic.Conv2d`."""

    wire = wire.TapeConv2d
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __post_init__(self) -> None:
        check((len(self.stride), len(self.padding), len(self.dilation)) == (2, 4, 2), "a convolution is incomplete")
        check(min(*self.stride, *self.dilation, self.groups) > 0, "a convolution without steps")


@dataclass(frozen=True, slots=True)
class TapeConvolution(Value):
    """See `operations.Convolution`."""

    wire = wire.TapeConvolution
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    transposed: bool

    def __post_init__(self) -> None:
        lengths = {len(self.stride), len(self.padding), len(self.dilation), len(self.output_padding)}
        check(lengths in ({1}, {2}), "a convolution is incomplete")


@dataclass(frozen=True, slots=True)
class TapeProduct(Value):
    """See `arithmetic.ProductOfMasks`."""

    wire = wire.TapeProduct
    x: TapeMask
    y: TapeMask
    mul: TapeMul | None = None
    matmul: TapeMatMul | None = None
    conv2d: TapeConv2d | None = None
    batch_matmul: TapeBatchMatMul | None = None
    convolution: TapeConvolution | None = None

    @classmethod
    def of(cls, entry: ProductOfMasks) -> TapeProduct:
        """The message of a product."""
        x, y, op = TapeMask.of(entry.x), TapeMask.of(entry.y), cast(Any, entry.op)
        if isinstance(op, Mul):
            return cls(x, y, mul=TapeMul())
        if isinstance(op, MatMul):
            return cls(x, y, matmul=TapeMatMul(op.transpose_x, op.transpose_y))
        if isinstance(op, Conv2d):
            return cls(x, y, conv2d=TapeConv2d(op.stride, op.padding, op.dilation, op.groups))
        if isinstance(op, BatchMatMul):
            return cls(x, y, batch_matmul=TapeBatchMatMul())
        if isinstance(op, Convolution):
            settings = (op.stride, op.padding, op.dilation, op.output_padding, op.groups, op.transposed)
            return cls(x, y, convolution=TapeConvolution(*settings))
        raise BadSpec(f"a product of kind {op.name} has no form on the wire")

    def entry(self) -> ProductOfMasks:
        """The product of this message; its shapes fit."""
        op: Any
        if self.mul is not None:
            op = Mul()
        elif self.matmul is not None:
            op = MatMul(self.matmul.transpose_x, self.matmul.transpose_y)
        elif self.conv2d is not None:
            c = self.conv2d
            op = Conv2d(*cast(Any, (c.stride, c.padding, c.dilation, c.groups)))
        elif self.batch_matmul is not None:
            op = BatchMatMul()
        elif self.convolution is not None:
            v = self.convolution
            op = Convolution(v.stride, v.padding, v.dilation, v.output_padding, v.groups, v.transposed)
        else:
            raise BadSpec("a product without an operation")
        x, y = self.x.ref(), self.y.ref()
        _fits(op, x.shape, y.shape)
        return ProductOfMasks(cast(Bilinear, op), x, y)


def _fits(op: Any, x: tuple[int, ...], y: tuple[int, ...]) -> None:
    """Raises BadSpec when the operation has no result of a positive shape for operands of these shapes."""
    if isinstance(op, MatMul):
        check(len(x) == len(y) == 2, "a matrix product of tensors that are not matrices")
        check((x[0] if op.transpose_x else x[1]) == (y[1] if op.transpose_y else y[0]), "matrices that do not fit")
    if isinstance(op, Conv2d):
        check(len(x) == len(y) == 4 and x[1] == y[1] * op.groups and y[0] % op.groups == 0, "channels that do not fit")
    try:
        shape = op.shape(x, y)
    except ValueError as error:
        raise BadSpec(f"a product of operands that do not fit: {error}") from error
    check(min(shape, default=0) >= 0, "a product without a result")
    _shape(shape)


@dataclass(frozen=True, slots=True)
class TapeTruncation(Value):
    """See `arithmetic.Truncation`."""

    wire = wire.TapeTruncation
    shape: tuple[int, ...]
    bits: int

    def __post_init__(self) -> None:
        check(0 < self.bits < 63, f"a truncation by {self.bits} bits")
        _shape(self.shape)


@dataclass(frozen=True, slots=True)
class TapeComparison(Value):
    """See `comparison.Comparison`."""

    wire = wire.TapeComparison
    n: int
    thresholds: int
    relu: bool

    def __post_init__(self) -> None:
        check(0 < self.thresholds <= 64, f"a comparison with {self.thresholds} thresholds")
        _count(self.n)

    def entry(self) -> Comparison:
        """The comparison of this message."""
        return Comparison(self.n, self.thresholds, self.relu)


@dataclass(frozen=True, slots=True)
class TapeSeries(Value):
    """See `smooth.SeriesTable`."""

    wire = wire.TapeSeries
    n: int
    function: int
    bits: int

    def __post_init__(self) -> None:
        check(_function(self.function) is not None and 0 < self.bits <= _SERIES_BITS, "a series of no function")
        _count(self.n)


@dataclass(frozen=True, slots=True)
class TapeGated(Value):
    """See `smooth.Gated`."""

    wire = wire.TapeGated
    comparison: TapeComparison
    function: int
    frac_bits: int

    def __post_init__(self) -> None:
        _function(self.function)
        check(self.frac_bits <= 40, f"{self.frac_bits} fractional bits")


@dataclass(frozen=True, slots=True)
class TapeOneHot(Value):
    """See `selection.OneHotOfMask`."""

    wire = wire.TapeOneHot
    n: int
    bits: int

    def __post_init__(self) -> None:
        check(0 < self.bits <= 16, f"one-hot rows of {self.bits} bits")
        _count(self.n)


@dataclass(frozen=True, slots=True)
class TapeBits(Value):
    """See `selection.BitMask`."""

    wire = wire.TapeBits
    n: int

    def __post_init__(self) -> None:
        _count(self.n)


@dataclass(frozen=True, slots=True)
class TapeEntry(Value):
    """One entry and the number of its key stream."""

    wire = wire.TapeEntry
    stream: int
    product: TapeProduct | None = None
    truncation: TapeTruncation | None = None
    comparison: TapeComparison | None = None
    series: TapeSeries | None = None
    gated: TapeGated | None = None
    one_hot: TapeOneHot | None = None
    bits: TapeBits | None = None

    @classmethod
    def of(cls, stream: int, entry: Entry) -> TapeEntry:
        """The message of an entry."""
        found: Any = entry
        if isinstance(found, ProductOfMasks):
            return cls(stream, product=TapeProduct.of(found))
        if isinstance(found, Truncation):
            return cls(stream, truncation=TapeTruncation(found.shape, found.bits))
        if isinstance(found, Comparison):
            return cls(stream, comparison=TapeComparison(found.n, found.thresholds, found.relu))
        if isinstance(found, SeriesTable):
            return cls(stream, series=TapeSeries(found.n, _number(found.function), found.bits))
        if isinstance(found, Gated):
            c = found.comparison
            inner = TapeComparison(c.n, c.thresholds, c.relu)
            return cls(stream, gated=TapeGated(inner, _number(found.function), found.frac_bits))
        if isinstance(found, OneHotOfMask):
            return cls(stream, one_hot=TapeOneHot(found.n, found.bits))
        if isinstance(found, BitMask):
            return cls(stream, bits=TapeBits(found.n))
        raise BadSpec(f"an entry of kind {found.kind} has no form on the wire")

    def entry(self) -> Entry:
        """The entry of this message."""
        if self.product is not None:
            return self.product.entry()
        if self.truncation is not None:
            return Truncation(self.truncation.shape, self.truncation.bits)
        if self.comparison is not None:
            return self.comparison.entry()
        if self.series is not None:
            function = _function(self.series.function)
            assert function is not None
            return SeriesTable(self.series.n, function, self.series.bits)
        if self.gated is not None:
            return Gated(self.gated.comparison.entry(), _function(self.gated.function), self.gated.frac_bits)
        if self.one_hot is not None:
            return OneHotOfMask(self.one_hot.n, self.one_hot.bits)
        if self.bits is not None:
            return BitMask(self.bits.n)
        raise BadSpec("a tape entry of no kind")

    def masks(self) -> tuple[TapeMask, ...]:
        """The masks that the entry draws again."""
        return () if self.product is None else (self.product.x, self.product.y)

    def scratch_words(self) -> int:
        """Words that a convolution needs besides its operands: padding and unfolded windows may dwarf them."""
        if self.product is None:
            return 0
        found: Any = self.product.entry()
        x, y, op = found.x.shape, found.y.shape, found.op
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

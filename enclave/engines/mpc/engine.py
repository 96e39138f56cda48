"""`MpcEngine`: the engine interface over a session's shares.

The methods mirror `enclave.engines.interface.Engine`; costs stand at the protocols they call. The engine works on
`RingTensor` directly; CrypTen programs reach the same protocols through `fence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Engine, Permit
from enclave.engines.mpc import pooling
from enclave.engines.mpc.protocols import division, selection, smooth
from enclave.engines.mpc.protocols.arithmetic import Bilinear, Conv2d, MatMul, Mul, product, scaled, truncate
from enclave.engines.mpc.protocols.comparison import bit_share, compare, relu
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Blank
from enclave.engines.mpc.tensor import Opened, Part, RingTensor, decode, encode
from enclave.errors import BadSpec, PolicyRefused

__all__ = ["MpcEngine", "engine_on"]

T = TypeVar("T")
U = np.uint64
CHUNK = 1 << 19  # elements of one comparison; larger tensors go in pieces, which bounds memory at parties and dealer


class MpcEngine:
    """Arithmetic on shares at one rank of a session."""

    def __init__(self, session: Session, frac_bits: int) -> None:
        self.session = session
        self._frac_bits = frac_bits

    @property
    def rank(self) -> int | None:
        """This rank; None where only shapes are known."""
        return self.session.rank

    @property
    def parties(self) -> int:
        """Ranks that hold shares."""
        return self.session.parties

    @property
    def frac_bits(self) -> int:
        """Fractional bits of numbers."""
        return self._frac_bits

    # ---- in and out
    def private(self, value: Array | None, shape: Sequence[int], holder: int, *, integer: bool = False) -> RingTensor:
        """See `Engine.private`."""
        bits = 0 if integer else self._frac_bits
        dims = tuple(int(n) for n in shape)
        plain: Tensor | None = None
        if holder == self.rank:
            if value is None or value.shape != dims:
                raise BadSpec(
                    f"rank {holder} must bring an array of shape {dims}, found {getattr(value, 'shape', None)}"
                )
            plain = value.astype(np.int64).view(U) if integer else encode(value, bits)
        return RingTensor(self.session, dims, bits, None, (Part(holder, dims, plain, self.session.new_stream()),))

    def public(self, value: Array | float, *, integer: bool = False) -> RingTensor:
        """See `Engine.public`."""
        return self._public(value, 0 if integer else self._frac_bits)

    def zeros(self, shape: Sequence[int], *, integer: bool = False) -> RingTensor:
        """See `Engine.zeros`."""
        dims = tuple(shape)
        share = Blank(dims) if self.session.blank else np.zeros(dims, U)
        return RingTensor(self.session, dims, 0 if integer else self._frac_bits, share)

    def open(self, name: str, value: RingTensor, to: int, permit: Permit) -> Array | None:
        """See `Engine.open`. Each share is hidden by a fresh sharing of zero, so that `to` learns the sum alone."""
        if name not in permit.outputs:
            raise PolicyRefused(f"the permit does not cover {name}", rules=("release.permit",))
        session = self.session
        zero = session.zero_share(session.new_stream(), value.shape)
        share = session.local(np.add, value.shape, value.share, zero)
        (opened,) = session.open([Item(f"release:{name}"[:64], share, to=to, masked=False)])
        if opened is None or isinstance(opened, Blank):
            return None
        return decode(opened, value.frac_bits)

    def own_share(self, value: RingTensor) -> Array:
        """This rank's share as uint64, to be kept. Re-shared first, so that any n - 1 of the shares are uniform."""
        zero = self.session.zero_share(self.session.new_stream(), value.shape)
        return np.asarray(value.share + zero)

    # ---- local
    def add(self, x: RingTensor, y: RingTensor | Array | float) -> RingTensor:
        """See `Engine.add`."""
        return self._sum(x, y, np.add)

    def sub(self, x: RingTensor, y: RingTensor | Array | float) -> RingTensor:
        """See `Engine.sub`."""
        return self._sum(x, y, np.subtract)

    def _sum(self, x: RingTensor, y: RingTensor | Array | float, function: Callable[..., Array]) -> RingTensor:
        if not isinstance(y, RingTensor):
            y = self._public(y, x.frac_bits)
        bits = max(x.frac_bits, y.frac_bits)
        left, right = self._at(x, bits), self._at(y, bits)
        shape = np.broadcast_shapes(x.shape, y.shape)
        return self._new(self.session.local(function, shape, left, right), shape, bits)

    def neg(self, x: RingTensor) -> RingTensor:
        """See `Engine.neg`."""
        return self._map(x, lambda a: U(0) - a, x.shape)

    def times_integer(self, x: RingTensor, factor: int | NDArray[np.int64]) -> RingTensor:
        """See `Engine.times_integer`."""
        factors = np.asarray(factor, np.int64).view(U)
        return self._map(x, lambda a: a * factors, np.broadcast_shapes(x.shape, factors.shape))

    def as_integer(self, x: RingTensor) -> RingTensor:
        """See `Engine.as_integer`."""
        return self._new(x.share, x.shape, 0)

    def sum(self, x: RingTensor, axis: int | None = None, *, keepdims: bool = False) -> RingTensor:
        """See `Engine.sum`."""
        axes = range(len(x.shape)) if axis is None else [axis % len(x.shape)]
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
        return self._map(x, lambda a: np.asarray(a.sum(axis=axis, keepdims=keepdims, dtype=U)), shape)

    def reshape(self, x: RingTensor, shape: Sequence[int]) -> RingTensor:
        """See `Engine.reshape`."""
        known = int(np.prod([n for n in shape if n != -1], dtype=np.int64))
        return x.reshaped(tuple(x.size // known if n == -1 else n for n in shape))

    def transpose(self, x: RingTensor, axes: Sequence[int]) -> RingTensor:
        """See `Engine.transpose`."""
        return self._map(x, lambda a: a.transpose(axes), tuple(x.shape[i] for i in axes))

    def concat(self, xs: Sequence[RingTensor], axis: int) -> RingTensor:
        """See `Engine.concat`. Private rows that are stacked stay private to their holders."""
        first = xs[0]
        axis %= len(first.shape)
        shape = (*first.shape[:axis], sum(x.shape[axis] for x in xs), *first.shape[axis + 1 :])
        if axis == 0 and all(x.parts and x.opened is None for x in xs) and len({x.frac_bits for x in xs}) == 1:
            return RingTensor(self.session, shape, first.frac_bits, None, tuple(p for x in xs for p in x.parts))
        bits = max(x.frac_bits for x in xs)
        shares = [self._at(x, bits) for x in xs]
        return self._new(self.session.local(lambda *s: np.concatenate(s, axis=axis), shape, *shares), shape, bits)

    def broadcast(self, x: RingTensor, shape: Sequence[int]) -> RingTensor:
        """See `Engine.broadcast`."""
        dims = tuple(shape)
        return self._map(x, lambda a: np.broadcast_to(a, dims), dims)

    def rows(self, x: RingTensor, start: int, stop: int) -> RingTensor:
        """See `Engine.rows`."""
        return x.rows(start, stop)

    def take(self, x: RingTensor, indices: NDArray[np.int64], axis: int) -> RingTensor:
        """See `Engine.take`."""
        axis %= len(x.shape)
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        return self._map(x, lambda a: np.take(a, indices, axis=axis), shape)

    # ---- products
    def scale(self, x: RingTensor, factor: float | NDArray[np.float64]) -> RingTensor:
        """See `Engine.scale`. The largest factor has 18 significant bits, the others its unit."""
        words, bits = scaled(factor)
        shape = np.broadcast_shapes(x.shape, words.shape)
        z = self.session.local(lambda a: a * words, shape, x.share)
        if x.is_integer and bits:  # an integer times a fraction is a number
            shift = self._frac_bits - bits
            if shift >= 0:
                return self._new(self.session.local(lambda a: a << U(shift), shape, z), shape, self._frac_bits)
            return self._new(self._run(truncate(self.session, z, -shift)), shape, self._frac_bits)
        return self._new(self._run(truncate(self.session, z, bits)), shape, x.frac_bits)

    def mul(self, x: RingTensor, y: RingTensor) -> RingTensor:
        """See `Engine.mul`."""
        return self._product(Mul(), x, y)

    def matmul(
        self, x: RingTensor, y: RingTensor, *, transpose_x: bool = False, transpose_y: bool = False
    ) -> RingTensor:
        """See `Engine.matmul`."""
        return self._product(MatMul(transpose_x, transpose_y), x, y)

    def conv2d(
        self,
        x: RingTensor,
        weight: RingTensor,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> RingTensor:
        """See `Engine.conv2d`."""
        return self._product(Conv2d(stride, padding, dilation, groups), x, weight)

    def _product(self, op: Bilinear, x: RingTensor, y: RingTensor) -> RingTensor:
        shape = op.shape(x.shape, y.shape)
        z = self._run(product(self.session, op, x, y))
        if x.is_integer or y.is_integer:
            return self._new(z, shape, max(x.frac_bits, y.frac_bits))
        excess = x.frac_bits + y.frac_bits - self._frac_bits
        return self._new(self._run(truncate(self.session, z, excess)), shape, self._frac_bits)

    # ---- comparisons
    def ge_zero(self, x: RingTensor) -> RingTensor:
        """See `Engine.ge_zero`."""

        def bits(x: Tensor) -> Protocol[Tensor]:
            found = yield from compare(self.session, x, np.zeros(1, U))
            share = bit_share(self.session, found)
            return self.session.local(lambda b: b[0], x.shape, share)

        return self._flat(x, bits, 0)

    def relu(self, x: RingTensor) -> RingTensor:
        """See `Engine.relu`."""

        def positive(x: Tensor) -> Protocol[Tensor]:
            return (yield from relu(self.session, x))[0]

        return self._flat(x, positive, x.frac_bits)

    def relu_with_bit(self, x: RingTensor) -> tuple[RingTensor, RingTensor]:
        """See `Engine.relu_with_bit`."""
        found: list[Tensor] = []

        def positive(x: Tensor) -> Protocol[Tensor]:
            y, bits = yield from relu(self.session, x)
            found.append(self.session.local(lambda b: b[0], x.shape, bit_share(self.session, bits)))
            return y

        y = self._flat(x, positive, x.frac_bits)
        bit = found[0] if len(found) == 1 else self.session.local(lambda *f: np.concatenate(f), (x.size,), *found)
        return y, self._new(bit, (x.size,), 0).reshaped(x.shape)

    def _windows(
        self,
        x: RingTensor,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        fill: int,
    ) -> tuple[Tensor, tuple[int, int, int, int]]:
        """(N C OH OW, KH KW) shares of every window, padded by the public integer `fill`."""
        n, c, height, width = x.shape
        top, left, bottom, right = padding
        out = (
            n,
            c,
            (height + top + bottom - kernel[0]) // stride[0] + 1,
            (width + left + right - kernel[1]) // stride[1] + 1,
        )
        edge = U(fill & (1 << 64) - 1) if self.session.leader else U(0)

        def gather(a: Array) -> Array:
            padded = np.pad(a, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=edge)
            view = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
            return np.ascontiguousarray(view[:, :, :: stride[0], :: stride[1]]).reshape(-1, kernel[0] * kernel[1])

        size = out[0] * out[1] * out[2] * out[3]
        return self.session.local(gather, (size, kernel[0] * kernel[1]), x.share), out

    def max_pool2d(
        self, x: RingTensor, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
    ) -> RingTensor:
        """See `Engine.max_pool2d`. Padding stands for minus infinity."""
        windows, shape = self._windows(x, kernel, stride, padding, -(1 << 61))
        best = self._run(selection.maximum(self.session, windows))
        return self._new(best, (best.shape[0],), x.frac_bits).reshaped(shape)

    def avg_pool2d(
        self,
        x: RingTensor,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        count_include_pad: bool,
    ) -> RingTensor:
        """See `Engine.avg_pool2d`."""
        counts = pooling.window_counts(x.shape[2:], kernel, stride, padding, count_include_pad)
        shape = (*x.shape[:2], *counts.shape)
        total = self.session.local(lambda a: pooling.window_totals(a, kernel, stride, padding), shape, x.share)
        return self.scale(self._new(total, shape, x.frac_bits), 1.0 / counts)

    def argmax_onehot(self, x: RingTensor) -> RingTensor:
        """See `Engine.argmax_onehot`."""
        columns = x.shape[-1]
        rows = x.size // columns
        step = max(1, CHUNK // selection.comparisons(columns))
        pieces = []
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            part = self.session.local(
                lambda a, i=start, j=stop: a.reshape(rows, columns)[i:j], (stop - start, columns), x.share
            )
            pieces.append(self._run(selection.argmax_onehot(self.session, part)))
        hot = (
            pieces[0]
            if len(pieces) == 1
            else self.session.local(lambda *p: np.concatenate(p), (rows, columns), *pieces)
        )
        return self._new(hot, (rows, columns), 0).reshaped(x.shape)

    def sort_with_bit(self, keys: RingTensor, bits: RingTensor) -> tuple[RingTensor, RingTensor]:
        """See `Engine.sort_with_bit`. A key and its bit travel as the integer 2 key + bit."""
        session, n = self.session, keys.shape[0]
        packed = session.local(lambda k, b: (k << U(1)) + b, (n,), keys.share, bits.share)
        ordered = self._run(selection.sorted_keys(session, packed))
        bit = self._run(selection.lowest_bit(session, ordered))
        doubled = session.local(np.subtract, (n,), ordered, bit)
        # 2 key at one more fractional bit is the key; an integer key must stay an integer, so it is returned doubled.
        return self._new(doubled, (n,), keys.frac_bits + 1 if keys.frac_bits else 0), self._new(bit, (n,), 0)

    # ---- non-linear functions
    def sigmoid(self, x: RingTensor) -> RingTensor:
        """See `Engine.sigmoid`."""
        return self._flat(self._number(x), lambda a: smooth.sigmoid(self.session, a, self._frac_bits), self._frac_bits)

    def tanh(self, x: RingTensor) -> RingTensor:
        """See `Engine.tanh`: 2 sigmoid(2 x) - 1."""
        return self.sub(self.times_integer(self.sigmoid(self.times_integer(x, 2)), 2), 1.0)

    def softmax(self, x: RingTensor) -> RingTensor:
        """See `Engine.softmax`: e^(x - max) over its sum, which lies in [1, columns]."""
        columns = x.shape[-1]
        rows = x.size // columns
        flat = self._number(x).reshaped((rows, columns))
        top = self.sum(self.mul(self.argmax_onehot(flat), flat), axis=1, keepdims=True)
        gaps = self.sub(flat, top)
        weights = self._flat(gaps, lambda a: smooth.exp_of_negative(self.session, a, self._frac_bits), self._frac_bits)
        total = self.sum(weights, axis=1, keepdims=True)
        if columns <= 10:
            share = self._run(division.divide_rows(self.session, weights.share, total.share, self._frac_bits))
            return self._new(share, (rows, columns), self._frac_bits).reshaped(x.shape)
        return self.mul(weights, self.reciprocal(total, 0.99, columns + 0.01)).reshaped(x.shape)

    def exp_of_negative(self, x: RingTensor) -> RingTensor:
        """e^x for x <= 0; 0 below -15."""
        return self._flat(
            self._number(x), lambda a: smooth.exp_of_negative(self.session, a, self._frac_bits), self._frac_bits
        )

    def reciprocal(self, x: RingTensor, low: float, high: float) -> RingTensor:
        """See `Engine.reciprocal`."""
        f = self._frac_bits
        return self._flat(self._number(x), lambda a: division.reciprocal(self.session, a, f, low, high), f)

    def inverse_sqrt(self, x: RingTensor, low: float, high: float) -> RingTensor:
        """See `Engine.inverse_sqrt`."""
        f = self._frac_bits
        return self._flat(self._number(x), lambda a: division.inverse_sqrt(self.session, a, f, low, high), f)

    def logarithm(self, x: RingTensor, low: float, high: float) -> RingTensor:
        """Natural logarithm for 0 < low <= x <= high."""
        f = self._frac_bits
        return self._flat(self._number(x), lambda a: division.logarithm(self.session, a, f, low, high), f)

    def divide_integers(self, numerator: RingTensor, denominator: RingTensor, bits: int) -> RingTensor:
        """See `Engine.divide_integers`."""
        n, d = (self.reshape(t, (t.size,)).share for t in (numerator, denominator))
        share = self._run(division.quotient(self.session, n, d, bits, self._frac_bits))
        return self._new(share, (numerator.size,), self._frac_bits).reshaped(numerator.shape)

    # ---- control
    def repeat(self, count: int) -> Iterator[int]:
        """See `Engine.repeat`."""
        return self.session.repeat(count)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """See `Engine.stage`."""
        return self.session.named(name)

    # ---- inside
    def _run(self, protocol: Protocol[T]) -> T:
        return self.session.run(protocol)

    def _new(self, share: Tensor, shape: Sequence[int], bits: int, opened: Opened | None = None) -> RingTensor:
        return RingTensor(self.session, shape, bits, share, (), opened)

    def _map(self, x: RingTensor, function: Callable[[Any], Array], shape: Sequence[int]) -> RingTensor:
        return self._new(self.session.local(function, tuple(shape), x.share), shape, x.frac_bits)

    def _public(self, value: Array | float, bits: int) -> RingTensor:
        numbers = np.asarray(value)
        if bits == 0 and numbers.dtype.kind == "f" and not np.all(np.rint(numbers) == numbers):
            bits = self._frac_bits  # an integer plus a fraction is a number
        words = encode(numbers, bits) if bits else numbers.astype(np.int64).view(U)
        return self._new(self.session.constant(words), words.shape, bits)

    def _at(self, x: RingTensor, bits: int) -> Tensor:
        if x.frac_bits == bits:
            return x.share
        return self.session.local(lambda a: a << U(bits - x.frac_bits), x.shape, x.share)

    def _number(self, x: RingTensor) -> RingTensor:
        return (
            x if x.frac_bits == self._frac_bits else self._new(self._at(x, self._frac_bits), x.shape, self._frac_bits)
        )

    def _flat(self, x: RingTensor, protocol: Callable[[Tensor], Protocol[Tensor]], bits: int) -> RingTensor:
        """Runs an element-wise protocol on the flattened shares, in chunks."""
        pieces = []
        for start in range(0, max(x.size, 1), CHUNK):
            stop = min(start + CHUNK, x.size)
            part = self.session.local(lambda a, i=start, j=stop: a.reshape(-1)[i:j], (stop - start,), x.share)
            pieces.append(self._run(protocol(part)))
        whole = pieces[0] if len(pieces) == 1 else self.session.local(lambda *p: np.concatenate(p), (x.size,), *pieces)
        return self._new(whole, (x.size,), bits).reshaped(x.shape)


def engine_on(session: Session, frac_bits: int) -> Engine:
    """The engine of a session, as workloads see it."""
    return cast(Engine, MpcEngine(session, frac_bits))

"""`MpcEngine`: the engine interface over a session's shares.

The methods mirror `enclave.engines.interface.Engine`; costs stand at the protocols they call. The engine works on
`RingTensor` directly; CrypTen programs reach the same protocols through `fence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from enclave.engines.interface import Engine
from enclave.engines.mpc import pooling
from enclave.engines.mpc.linear import CHUNK, LinearEngine
from enclave.engines.mpc.protocols import brackets, division, saturating, selection, signs, smooth
from enclave.engines.mpc.protocols.arithmetic import truncate
from enclave.engines.mpc.protocols.comparison import Bits, bit_share, gated, relu
from enclave.engines.mpc.protocols.exponential import EXP_HIGH, EXP_LOW, exponential
from enclave.engines.mpc.protocols.pairs import MOST_COLUMNS
from enclave.engines.mpc.protocols.pooling import Tournament, maximum_gradient, maximum_with_bits
from enclave.engines.mpc.protocols.softmax import RATIO_BITS, softmax
from enclave.engines.mpc.session import Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import RingTensor
from enclave.engines.mpc.windows import Geometry

__all__ = ["Gate", "MpcEngine", "PoolGate", "engine_on"]

U = np.uint64


@dataclass(frozen=True, slots=True)
class Gate:
    """The bits [x >= 0] of a ReLU, piece by piece, by which its gradient is gated."""

    bits: tuple[Bits, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PoolGate:
    """Where the maxima of pooling windows were, for images of `shape`."""

    won: Tournament
    windows: Geometry
    shape: tuple[int, ...]


class MpcEngine(LinearEngine):
    """Arithmetic, comparisons and functions on shares at one rank of a session."""

    # ---- comparisons
    def ge_zero(self, x: RingTensor) -> RingTensor:
        """See `Engine.ge_zero`."""
        return self._flat(x, lambda a: signs.is_positive(self.session, a), 0)

    def relu(self, x: RingTensor) -> RingTensor:
        """See `Engine.relu`."""
        shift, bits = self._excess(x), self._frac_bits if x.pending else x.frac_bits
        return self._flat(x, lambda a: signs.relu(self.session, a, shift), bits)

    def relu_with_gate(self, x: RingTensor) -> tuple[RingTensor, Gate]:
        """See `Engine.relu_with_gate`."""
        found: list[Bits] = []
        shift, bits = self._excess(x), self._frac_bits if x.pending else x.frac_bits

        def positive(a: Tensor) -> Protocol[Tensor]:
            y, compared = yield from relu(self.session, a, shift)
            found.append(compared)
            return y

        y = self._flat(x, positive, bits)
        return y, Gate(tuple(found), x.shape)

    def gated(self, gate: Gate, x: RingTensor) -> RingTensor:
        """See `Engine.gated`."""
        pieces = iter(gate.bits)
        shift, bits = self._excess(x), self._frac_bits if x.pending else x.frac_bits
        return self._flat(x, lambda a: gated(self.session, next(pieces), a, shift), bits)

    def gate_bit(self, gate: Gate) -> RingTensor:
        """The bits themselves, integers."""
        pieces = [self.session.local(lambda b: b[0], b.flips.shape[1:], bit_share(self.session, b)) for b in gate.bits]
        size = sum(piece.shape[0] for piece in pieces)
        whole = pieces[0] if len(pieces) == 1 else self.session.local(lambda *p: np.concatenate(p), (size,), *pieces)
        return self._new(whole, (size,), 0).reshaped(gate.shape)

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
        return self._new(best, (best.shape[0],), x.frac_bits, pending=x.pending).reshaped(shape)

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
        x = self._operand(x)
        total = self.session.local(lambda a: pooling.window_totals(a, kernel, stride, padding), shape, x.share)
        return self.scale(self._new(total, shape, x.frac_bits), 1.0 / counts)

    def max_pool2d_with_gate(
        self, x: RingTensor, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
    ) -> tuple[RingTensor, PoolGate]:
        """See `Engine.max_pool2d_with_gate`."""
        windows, shape = self._windows(x, kernel, stride, padding, -(1 << 61))
        best, won = self._run(maximum_with_bits(self.session, windows))
        y = self._new(best, (best.shape[0],), x.frac_bits, pending=x.pending).reshaped(shape)
        return y, PoolGate(won, Geometry(kernel, stride, padding), x.shape)

    def max_pool2d_gradient(self, gate: PoolGate, delta: RingTensor) -> RingTensor:
        """See `Engine.max_pool2d_gradient`."""
        delta = self._operand(delta)
        spread = self._run(maximum_gradient(self.session, gate.won, delta.reshaped((delta.size,)).share))
        return self._folded(spread, gate.windows, gate.shape, delta.frac_bits)

    def avg_pool2d_gradient(
        self,
        delta: RingTensor,
        *,
        image: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        count_include_pad: bool,
    ) -> RingTensor:
        """See `Engine.avg_pool2d_gradient`."""
        counts = pooling.window_counts(image, kernel, stride, padding, count_include_pad)
        part = self.scale(delta, 1.0 / counts)
        cells = kernel[0] * kernel[1]
        spread = self.session.local(
            lambda d: np.broadcast_to(d.reshape(-1, 1), (d.size, cells)), (part.size, cells), part.share
        )
        shape = (*delta.shape[:2], *image)
        return self._folded(spread, Geometry(kernel, stride, padding), shape, part.frac_bits)

    def _folded(self, spread: Tensor, windows: Geometry, shape: tuple[int, ...], bits: int) -> RingTensor:
        """Adds (N C OH OW, KH KW) words where their windows took them from, to images of `shape`."""
        n, c, height, width = shape
        share = self.session.local(lambda s: windows.fold(s, (n * c, height, width)).reshape(shape), shape, spread)
        return self._new(share, shape, bits)

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
        keys = self._operand(keys)
        packed = session.local(lambda k, b: (k << U(1)) + b, (n,), keys.share, bits.share)
        ordered = self._run(selection.sorted_keys(session, packed))
        bit = self._run(selection.lowest_bit(session, ordered))
        doubled = session.local(np.subtract, (n,), ordered, bit)
        # 2 key at one more fractional bit is the key; an integer key must stay an integer, so it is returned doubled.
        return self._new(doubled, (n,), keys.frac_bits + 1 if keys.frac_bits else 0), self._new(bit, (n,), 0)

    # ---- non-linear functions
    def sigmoid(self, x: RingTensor, *, frac_bits: int | None = None) -> RingTensor:
        """See `Engine.sigmoid`."""
        return self._curve(x, saturating.SIGMOID, frac_bits)

    def tanh(self, x: RingTensor) -> RingTensor:
        """See `Engine.tanh`."""
        return self._curve(x, saturating.TANH)

    def gelu(self, x: RingTensor) -> RingTensor:
        """x times the normal distribution function of x."""
        return self._curve(x, saturating.GELU)

    def erf(self, x: RingTensor) -> RingTensor:
        """The error function."""
        return self._curve(x, saturating.ERF)

    def _curve(self, x: RingTensor, function: saturating.Curve, frac_bits: int | None = None) -> RingTensor:
        """A function of numbers, which may be pending."""
        x = x if x.pending else self._number(x)
        f = self._frac_bits if frac_bits is None else frac_bits
        return self._flat(x, lambda a: saturating.curve(self.session, a, function, x.frac_bits, f), f)

    def softmax(self, x: RingTensor, *, frac_bits: int | None = None, lazy: bool = False) -> RingTensor:
        """See `Engine.softmax`."""
        found = self._softmax(x)
        if lazy:
            return found
        bits = self._frac_bits if frac_bits is None else frac_bits
        share = found.share
        if found.frac_bits > bits:
            share = self._run(truncate(self.session, share, found.frac_bits - bits))
        return self._new(share, x.shape, bits)

    def _softmax(self, x: RingTensor) -> RingTensor:
        """Pending, when the rows are narrow."""
        columns = x.shape[-1]
        rows = x.size // columns
        if columns == 1:
            return self._public(np.ones(x.shape), self._frac_bits)
        x = x if x.pending else self._number(x)
        if columns > MOST_COLUMNS:
            return self._wide_softmax(self._number(x).reshaped((rows, columns))).reshaped(x.shape)
        whole = self._by_rows(x, columns, lambda a: softmax(self.session, a, x.frac_bits), columns)
        return self._new(whole, (rows, columns), RATIO_BITS, pending=True).reshaped(x.shape)

    def _wide_softmax(self, x: RingTensor) -> RingTensor:
        """e^(x - max), the maximum found by a tournament, over its sum, which lies in [1, columns]."""
        rows, columns = x.shape
        best = self._by_rows(x, columns, lambda a: selection.maximum(self.session, a), None)
        gaps = self.sub(x, self._new(best, (rows,), x.frac_bits).reshaped((rows, 1)))
        weights = self.exp(gaps, -15.0, 0.0)
        total = self.sum(weights, axis=1, keepdims=True)
        return self.mul(weights, self.reciprocal(total, 0.99, columns + 0.01))

    def _by_rows(
        self, x: RingTensor, columns: int, protocol: Callable[[Tensor], Protocol[Tensor]], out: int | None
    ) -> Tensor:
        """Runs a protocol on rows, some at a time, which bounds memory. `out` columns come back; None: one number."""
        rows = x.size // columns
        step = max(1, CHUNK // 4 // selection.comparisons(columns))
        pieces = []
        for start in range(0, rows, step):
            count = min(step, rows - start)
            part = self.session.local(
                lambda a, i=start, n=count: a.reshape(rows, columns)[i : i + n], (count, columns), x.share
            )
            pieces.append(self._run(protocol(part)))
        if len(pieces) == 1:
            return pieces[0]
        return self.session.local(lambda *p: np.concatenate(p), (rows,) if out is None else (rows, out), *pieces)

    def exp_of_negative(self, x: RingTensor) -> RingTensor:
        """e^x for x <= 0; 0 below -15."""
        return self._flat(
            self._number(x), lambda a: smooth.exp_of_negative(self.session, a, self._frac_bits), self._frac_bits
        )

    def exp(self, x: RingTensor, low: float = EXP_LOW, high: float = EXP_HIGH) -> RingTensor:
        """e^x; x counts as `low` below it, and as `high` above."""
        return self._function(x, lambda a, bits: exponential(self.session, a, bits, self._frac_bits, low, high))

    def reciprocal(self, x: RingTensor, low: float, high: float) -> RingTensor:
        """See `Engine.reciprocal`."""
        f = self._frac_bits
        return self._function(x, lambda a, bits: brackets.reciprocal(self.session, a, bits, f, low, high))

    def inverse_sqrt(self, x: RingTensor, low: float, high: float) -> RingTensor:
        """See `Engine.inverse_sqrt`."""
        f = self._frac_bits
        return self._function(x, lambda a, bits: brackets.inverse_sqrt(self.session, a, bits, f, low, high))

    def logarithm(self, x: RingTensor, low: float, high: float) -> RingTensor:
        """Natural logarithm for 0 < low <= x <= high; x counts as `low` below it, and as `high` above."""
        f = self._frac_bits
        return self._function(x, lambda a, bits: brackets.logarithm(self.session, a, bits, f, low, high))

    def _function(self, x: RingTensor, protocol: Callable[[Tensor, int], Protocol[Tensor]]) -> RingTensor:
        """A function of numbers, which may be pending, given their words and fractional bits."""
        x = x if x.pending else self._number(x)
        # Brackets take up to 1 kB an element: chunks are smaller than those of a comparison.
        return self._flat(x, lambda a: protocol(a, x.frac_bits), self._frac_bits, CHUNK // 4)

    def divide_integers(self, numerator: RingTensor, denominator: RingTensor, bits: int) -> RingTensor:
        """See `Engine.divide_integers`."""
        n, d = (self.reshape(t, (t.size,)).share for t in (numerator, denominator))
        share = self._run(division.quotient(self.session, n, d, bits, self._frac_bits))
        return self._new(share, (numerator.size,), self._frac_bits).reshaped(numerator.shape)


def engine_on(session: Session, frac_bits: int, network: str = "lan") -> Engine:
    """The engine of a session, as workloads see it."""
    return cast(Engine, MpcEngine(session, frac_bits, network))

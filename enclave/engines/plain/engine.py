"""The engine on plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import AnyArray, FloatArray, Permit, Secret
from enclave.engines.plain import images
from enclave.errors import BadSpec, PolicyRefused, RangeExceeded

__all__ = ["InsecurePlainEngine"]

_RING_BITS = 62  # signed 64-bit words, one bit kept for the sum of two products


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Plain:
    """A value in the clear: float64 (a number) or int64 (an integer)."""

    value: AnyArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def is_integer(self) -> bool:
        return self.value.dtype == np.int64

    def __repr__(self) -> str:
        return f"<secret {'integer' if self.is_integer else 'number'} {self.shape}>"


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise BadSpec(text)


def _value(x: Secret) -> AnyArray:
    if not isinstance(x, _Plain):
        raise BadSpec(f"expected a secret of the plain engine, found {type(x).__name__}")
    return x.value


def _operand(y: Secret | AnyArray | float) -> AnyArray:
    if isinstance(y, _Plain):
        return y.value
    if isinstance(y, (int, float, np.ndarray, np.number)):
        array = np.asarray(y)
        return array.astype(np.int64 if array.dtype.kind in "iub" else np.float64)
    raise BadSpec(f"expected a secret, an array or a number, found {type(y).__name__}")


def _broadcast(name: str, *shapes: tuple[int, ...]) -> None:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise BadSpec(f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast") from error


class InsecurePlainEngine:
    """Every party's values in one process.

    Args:
        frac_bits: fractional bits that the job declares; only `as_integer` and the range check use them.
        parties: number of compute parties that the engine says there are.
        round_to: fractional bits that every number is rounded to; None keeps float64.
    """

    def __init__(self, frac_bits: int = 20, *, parties: int = 2, round_to: int | None = None) -> None:
        self._frac_bits = frac_bits
        self._parties = parties
        self._round_to = round_to

    @property
    def rank(self) -> int | None:
        return 0

    @property
    def parties(self) -> int:
        return self._parties

    @property
    def frac_bits(self) -> int:
        return self._frac_bits

    def _keep(self, value: AnyArray) -> _Plain:
        array = np.asarray(value)
        if array.dtype.kind in "iub":
            return _Plain(array.astype(np.int64, copy=False))
        array = array.astype(np.float64, copy=False)
        if self._round_to is not None:
            array = np.ldexp(np.rint(np.ldexp(array, self._round_to)), -self._round_to)
        return _Plain(array)

    def _product(self, name: str, value: AnyArray, truncated: bool) -> _Plain:
        if truncated and self._round_to is not None and value.size:
            limit, found = 2.0 ** (_RING_BITS - 2 * self._round_to), float(np.abs(value).max())
            if found >= limit:
                raise RangeExceeded(name, found, limit)
        return self._keep(value)

    # ---- in and out
    def private(self, value: AnyArray | None, shape: Sequence[int], holder: int, *, integer: bool = False) -> Secret:
        _require(0 <= holder < self._parties, f"holder must lie in 0..{self._parties - 1}, found {holder}")
        _require(value is not None, "the plain engine needs the value of every party")
        array = np.asarray(value)
        _require(array.shape == tuple(shape), f"expected a value of shape {tuple(shape)}, found {array.shape}")
        return self._keep(self._typed(array, integer))

    def _typed(self, array: AnyArray, integer: bool) -> AnyArray:
        if integer:
            _require(array.dtype.kind in "iub", f"expected integers, found {array.dtype}")
            return array.astype(np.int64)
        _require(array.dtype.kind in "fiub", f"expected numbers, found {array.dtype}")
        result = array.astype(np.float64)
        _require(bool(np.isfinite(result).all()), "expected finite numbers, found NaN or infinity")
        return result

    def public(self, value: AnyArray | float, *, integer: bool = False) -> Secret:
        return self._keep(self._typed(np.asarray(value), integer))

    def zeros(self, shape: Sequence[int], *, integer: bool = False) -> Secret:
        return _Plain(np.zeros(tuple(shape), dtype=np.int64 if integer else np.float64))

    def open(self, name: str, value: Secret, to: int, permit: Permit) -> AnyArray | None:
        if name not in permit.outputs:
            raise PolicyRefused(f"no permit to open {name!r}", rules=("permit.output",))
        _require(0 <= to < self._parties, f"receiver must lie in 0..{self._parties - 1}, found {to}")
        return _value(value).copy()

    # ---- local
    def add(self, x: Secret, y: Secret | AnyArray | float) -> Secret:
        a, b = _value(x), _operand(y)
        _broadcast("add", a.shape, b.shape)
        return self._keep(a + b)

    def sub(self, x: Secret, y: Secret | AnyArray | float) -> Secret:
        a, b = _value(x), _operand(y)
        _broadcast("sub", a.shape, b.shape)
        return self._keep(a - b)

    def neg(self, x: Secret) -> Secret:
        return self._keep(-_value(x))

    def times_integer(self, x: Secret, factor: int | NDArray[np.int64]) -> Secret:
        a, f = _value(x), np.asarray(factor)
        _require(f.dtype.kind in "iub", f"times_integer: expected integers, found {f.dtype}")
        _broadcast("times_integer", a.shape, f.shape)
        return self._keep(a * f)

    def scale_wide(self, x: Secret, factor: float | FloatArray, bits: int) -> Secret:
        a, f = _value(x), np.asarray(factor, dtype=np.float64)
        _broadcast("scale_wide", a.shape, f.shape)
        return self._keep(a * f)

    def combinations(self, x: Secret, signs: NDArray[np.int64]) -> Secret:
        a = _value(x)
        _require(signs.shape[1:] == (a.size,), f"combinations: signs {signs.shape} do not fit {a.size} elements")
        return self._keep(signs @ a.reshape(-1))

    def settled(self, *xs: Secret) -> tuple[Secret, ...]:
        return xs

    def as_integer(self, x: Secret) -> Secret:
        a = _value(x)
        _require(a.dtype == np.float64, "as_integer: expected a number, found an integer")
        return self._keep(np.rint(np.ldexp(a, self._frac_bits)).astype(np.int64))

    def sum(self, x: Secret, axis: int | None = None, *, keepdims: bool = False) -> Secret:
        a = _value(x)
        _require(axis is None or -a.ndim <= axis < a.ndim, f"sum: no axis {axis} in shape {a.shape}")
        return self._keep(np.asarray(a.sum(axis=axis, keepdims=keepdims)))

    def reshape(self, x: Secret, shape: Sequence[int]) -> Secret:
        a = _value(x)
        _require(a.size == int(np.prod(shape, dtype=np.int64)), f"reshape: {a.shape} does not fit {tuple(shape)}")
        return _Plain(a.reshape(tuple(shape)))

    def transpose(self, x: Secret, axes: Sequence[int]) -> Secret:
        a = _value(x)
        _require(sorted(axes) == list(range(a.ndim)), f"transpose: axes {tuple(axes)} for shape {a.shape}")
        return _Plain(a.transpose(tuple(axes)))

    def concat(self, xs: Sequence[Secret], axis: int) -> Secret:
        arrays = [_value(x) for x in xs]
        _require(len(arrays) > 0, "concat: nothing to join")
        first = arrays[0]
        _require(0 <= axis < first.ndim, f"concat: no axis {axis} in shape {first.shape}")
        for other in arrays[1:]:
            same = other.ndim == first.ndim and all(
                i == axis or m == n for i, (m, n) in enumerate(zip(other.shape, first.shape, strict=True))
            )
            _require(same, f"concat: shapes {first.shape} and {other.shape} along axis {axis}")
        kinds = {a.dtype for a in arrays}
        _require(len(kinds) == 1, "concat: integers and numbers cannot be joined")
        return _Plain(np.concatenate(arrays, axis=axis))

    def broadcast(self, x: Secret, shape: Sequence[int]) -> Secret:
        a = _value(x)
        _broadcast("broadcast", a.shape, tuple(shape))
        _require(np.broadcast_shapes(a.shape, tuple(shape)) == tuple(shape), f"broadcast: {a.shape} to {tuple(shape)}")
        return _Plain(np.broadcast_to(a, tuple(shape)))

    def rows(self, x: Secret, start: int, stop: int) -> Secret:
        a = _value(x)
        _require(a.ndim > 0 and 0 <= start <= stop <= a.shape[0], f"rows: {start}..{stop} of shape {a.shape}")
        return _Plain(a[start:stop])

    def take(self, x: Secret, indices: NDArray[np.int64], axis: int) -> Secret:
        a = _value(x)
        _require(0 <= axis < a.ndim, f"take: no axis {axis} in shape {a.shape}")
        inside = indices.size == 0 or (0 <= int(indices.min()) and int(indices.max()) < a.shape[axis])
        _require(indices.ndim == 1 and inside, f"take: indices out of range for axis {axis} of shape {a.shape}")
        return _Plain(a.take(indices, axis=axis))

    # ---- products
    def scale(self, x: Secret, factor: float | FloatArray) -> Secret:
        a, f = _value(x), np.asarray(factor, dtype=np.float64)
        _broadcast("scale", a.shape, f.shape)
        return self._product("scale", a * f, False)

    def mul(self, x: Secret, y: Secret) -> Secret:
        a, b = _value(x), _value(y)
        _broadcast("mul", a.shape, b.shape)
        return self._product("mul", a * b, a.dtype == b.dtype == np.float64)

    def matmul(
        self, x: Secret, y: Secret, *, transpose_x: bool = False, transpose_y: bool = False, lazy: bool = False
    ) -> Secret:
        a, b = _value(x), _value(y)
        _require(a.ndim == 2 and b.ndim == 2, f"matmul: expected two matrices, found {a.shape} and {b.shape}")
        a, b = a.T if transpose_x else a, b.T if transpose_y else b
        _require(a.shape[1] == b.shape[0], f"matmul: inner dimensions of {a.shape} and {b.shape} differ")
        return self._product("matmul", a @ b, a.dtype == b.dtype == np.float64)

    def conv2d(
        self,
        x: Secret,
        weight: Secret,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> Secret:
        a, w = _value(x), _value(weight)
        found = images.conv2d(a, w, stride, padding, dilation, groups)
        return self._product("conv2d", found, a.dtype == w.dtype == np.float64)

    def conv2d_weight_gradient(
        self,
        x: Secret,
        delta: Secret,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> Secret:
        found = images.conv2d_weight_gradient(_value(x), _value(delta), kernel, stride, padding, dilation, groups)
        return self._product("conv2d_weight_gradient", found, True)

    def conv2d_input_gradient(
        self,
        delta: Secret,
        weight: Secret,
        *,
        image: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> Secret:
        found = images.conv2d_input_gradient(_value(delta), _value(weight), image, stride, padding, dilation, groups)
        return self._product("conv2d_input_gradient", found, True)

    # ---- comparisons
    def ge_zero(self, x: Secret) -> Secret:
        return self._keep(_value(x) >= 0)

    def relu(self, x: Secret) -> Secret:
        return self._keep(np.maximum(_value(x), 0))

    def relu_with_gate(self, x: Secret) -> tuple[Secret, Secret]:
        return self.relu(x), self.ge_zero(x)

    def gated(self, gate: Secret, x: Secret) -> Secret:
        return self.mul(x, gate)

    def max_pool2d(
        self, x: Secret, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
    ) -> Secret:
        patches, _ = images.pool_windows(_value(x), kernel, stride, padding, -np.inf)
        return self._keep(patches.max(axis=(-2, -1)))

    def max_pool2d_with_gate(
        self, x: Secret, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
    ) -> tuple[Secret, images.Maxima]:
        return self.max_pool2d(x, kernel=kernel, stride=stride, padding=padding), images.Maxima.of(
            _value(x), kernel, stride, padding
        )

    def max_pool2d_gradient(self, gate: images.Maxima, delta: Secret) -> Secret:
        return self._keep(gate.gradient(_value(delta)))

    def avg_pool2d(
        self,
        x: Secret,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        count_include_pad: bool,
    ) -> Secret:
        patches, valid = images.pool_windows(_value(x), kernel, stride, padding, 0.0)
        return self._keep(patches.sum(axis=(-2, -1)) / (kernel[0] * kernel[1] if count_include_pad else valid))

    def avg_pool2d_gradient(
        self,
        delta: Secret,
        *,
        image: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        count_include_pad: bool,
    ) -> Secret:
        return self._keep(images.mean_gradient(_value(delta), image, kernel, stride, padding, count_include_pad))

    def argmax_onehot(self, x: Secret) -> Secret:
        a = _value(x)
        _require(a.ndim > 0 and a.shape[-1] > 0, f"argmax_onehot: no last axis in shape {a.shape}")
        return self._keep(np.eye(a.shape[-1], dtype=np.int64)[a.argmax(axis=-1)])

    def sort_with_bit(self, keys: Secret, bits: Secret) -> tuple[Secret, Secret]:
        k, b = _value(keys), _value(bits)
        _require(k.ndim == 1 and k.shape == b.shape, f"sort_with_bit: shapes {k.shape} and {b.shape}")
        _require(b.dtype == np.int64, "sort_with_bit: the bits must be integers")
        order = np.lexsort((b, k))
        return _Plain(k[order]), _Plain(b[order])

    # ---- non-linear functions
    def _function(self, name: str, x: Secret, function: Callable[[FloatArray], FloatArray]) -> Secret:
        a = _value(x)
        _require(a.dtype == np.float64, f"{name}: expected numbers, found integers")
        return self._keep(function(a))

    def sigmoid(self, x: Secret, *, frac_bits: int | None = None) -> Secret:
        return self._function("sigmoid", x, lambda a: 0.5 * (1.0 + np.tanh(0.5 * a)))

    def tanh(self, x: Secret) -> Secret:
        return self._function("tanh", x, np.tanh)

    def softmax(self, x: Secret, *, frac_bits: int | None = None, lazy: bool = False) -> Secret:
        def stable(a: FloatArray) -> FloatArray:
            e: FloatArray = np.exp(a - a.max(axis=-1, keepdims=True))
            e /= e.sum(axis=-1, keepdims=True)
            return e

        return self._function("softmax", x, stable)

    def reciprocal(self, x: Secret, low: float, high: float) -> Secret:
        return self._function("reciprocal", x, lambda a: 1.0 / _within("reciprocal", a, low, high))

    def inverse_sqrt(self, x: Secret, low: float, high: float) -> Secret:
        return self._function("inverse_sqrt", x, lambda a: 1.0 / np.sqrt(_within("inverse_sqrt", a, low, high)))

    def divide_integers(self, numerator: Secret, denominator: Secret, bits: int) -> Secret:
        n, d = _value(numerator), _value(denominator)
        _require(n.dtype == d.dtype == np.int64, "divide_integers: expected integers, found numbers")
        _require(n.shape == d.shape, f"divide_integers: shapes {n.shape} and {d.shape}")
        for name, part in (("numerator", n), ("denominator", d)):
            if part.size and (part.min() < 0 or part.max() >= 1 << bits):
                raise RangeExceeded(f"divide_integers: {name}", float(np.abs(part).max()), float(1 << bits))
        return self._keep(np.where(d == 0, 0.0, n / np.maximum(d, 1)))

    # ---- control
    def repeat(self, count: int) -> Iterator[int]:
        return iter(range(count))

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()


def _within(name: str, a: FloatArray, low: float, high: float) -> FloatArray:
    _require(0 < low <= high, f"{name}: expected 0 < low <= high, found {low} and {high}")
    for value, limit, outside in ((a.min(initial=high), low, a < low), (a.max(initial=low), high, a > high)):
        if outside.any():
            raise RangeExceeded(name, float(value), limit)
    return a

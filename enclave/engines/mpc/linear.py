"""The linear half of the MPC engine: values in and out, arithmetic without interaction, and products.

A product of two numbers has the fractional bits of both. Asked to be lazy, it is left at that: the tensor is *pending*,
and what comes next truncates it on the way. A ReLU or a gate does so in its own opening and a comparison needs no
truncation at all, so that a layer costs one round less. Anything else settles it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Permit
from enclave.engines.mpc import kernels
from enclave.engines.mpc.protocols.arithmetic import (
    Bilinear,
    Conv2d,
    ConvInputGradient,
    ConvWeightGradient,
    MatMul,
    Mul,
    product,
    scaled,
    truncate,
)
from enclave.engines.mpc.session import Item, Network, Protocol, Session, Tensor, together
from enclave.engines.mpc.tape import Array, Blank
from enclave.engines.mpc.tensor import Part, RingTensor, decode, encode
from enclave.errors import BadSpec, PolicyRefused

__all__ = ["CHUNK", "LinearEngine"]

T = TypeVar("T")
U = np.uint64
CHUNK = 1 << 19  # elements of one comparison; larger tensors go in pieces, which bounds memory at parties and dealer


class LinearEngine:
    """Arithmetic on shares at one rank of a session."""

    def __init__(self, session: Session, frac_bits: int, network: str = "lan") -> None:
        self.session = session
        session.network = Network.named(network)
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
        session, value = self.session, self._operand(value)
        zero = session.zero_share(session.new_stream(), value.shape)
        share = session.local(np.add, value.shape, value.share, zero)
        (opened,) = session.open([Item(f"release:{name}"[:64], share, to=to, masked=False)])
        if opened is None or isinstance(opened, Blank):
            return None
        return decode(opened, value.frac_bits)

    def own_share(self, value: RingTensor) -> Array:
        """This rank's share as uint64, to be kept. Re-shared first, so that any n - 1 of the shares are uniform."""
        zero = self.session.zero_share(self.session.new_stream(), value.shape)
        return np.asarray(self._operand(value).share + zero)

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
        found = self.session.local(function, shape, left, right)
        return self._new(found, shape, bits, pending=x.pending or y.pending)

    def neg(self, x: RingTensor) -> RingTensor:
        """See `Engine.neg`."""
        return self._map(x, lambda a: U(0) - a, x.shape)

    def times_integer(self, x: RingTensor, factor: int | NDArray[np.int64]) -> RingTensor:
        """See `Engine.times_integer`."""
        factors = np.asarray(factor, np.int64).view(U)
        return self._map(self._operand(x), lambda a: a * factors, np.broadcast_shapes(x.shape, factors.shape))

    def scale_wide(self, x: RingTensor, factor: float | NDArray[np.float64], bits: int) -> RingTensor:
        """See `Engine.scale_wide`."""
        factors = encode(factor, bits)
        shape = np.broadcast_shapes(x.shape, factors.shape)
        return self._new(self.session.local(lambda a: a * factors, shape, x.share), shape, x.frac_bits + bits)

    def combinations(self, x: RingTensor, signs: NDArray[np.int64]) -> RingTensor:
        """See `Engine.combinations`."""
        factors = signs.view(U)
        found = self.session.local(
            lambda a: kernels.matmul(factors, np.ascontiguousarray(a).reshape(-1, 1))[:, 0], (len(signs),), x.share
        )
        return self._new(found, (len(signs),), x.frac_bits)

    def as_integer(self, x: RingTensor) -> RingTensor:
        """See `Engine.as_integer`."""
        return self._new(self._operand(x).share, x.shape, 0)

    def sum(self, x: RingTensor, axis: int | None = None, *, keepdims: bool = False) -> RingTensor:
        """See `Engine.sum`."""
        axes = range(len(x.shape)) if axis is None else [axis % len(x.shape)]
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
        return self._map(self._operand(x), lambda a: np.asarray(a.sum(axis=axis, keepdims=keepdims, dtype=U)), shape)

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
        whole = self.session.local(lambda *s: np.concatenate(s, axis=axis), shape, *shares)
        return self._new(whole, shape, bits, pending=any(x.pending for x in xs))

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
        x = self._operand(x)
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
        self,
        x: RingTensor,
        y: RingTensor,
        *,
        transpose_x: bool = False,
        transpose_y: bool = False,
        lazy: bool = False,
    ) -> RingTensor:
        """See `Engine.matmul`."""
        return self._product(MatMul(transpose_x, transpose_y), x, y, lazy)

    def conv2d(
        self,
        x: RingTensor,
        weight: RingTensor,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> RingTensor:
        """See `Engine.conv2d`."""
        return self._product(Conv2d(stride, padding, dilation, groups), x, weight, lazy)

    def conv2d_weight_gradient(
        self,
        x: RingTensor,
        delta: RingTensor,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> RingTensor:
        """See `Engine.conv2d_weight_gradient`."""
        conv = Conv2d(stride, padding, dilation, groups)
        return self._product(ConvWeightGradient(conv, kernel), x, delta, lazy)

    def conv2d_input_gradient(
        self,
        delta: RingTensor,
        weight: RingTensor,
        *,
        image: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> RingTensor:
        """See `Engine.conv2d_input_gradient`."""
        conv = Conv2d(stride, padding, dilation, groups)
        return self._product(ConvInputGradient(conv, image), delta, weight, lazy)

    def _product(self, op: Bilinear, x: RingTensor, y: RingTensor, lazy: bool = False) -> RingTensor:
        shape = op.shape(x.shape, y.shape)
        x, y = self._operand(x), self._operand(y)
        found = self._new(self._run(product(self.session, op, x, y)), shape, x.frac_bits + y.frac_bits)
        found.pending = found.frac_bits > self._frac_bits
        return found if lazy else self._operand(found)

    def settled(self, *xs: RingTensor) -> tuple[RingTensor, ...]:
        """See `Engine.settled`."""
        wanted = list(dict.fromkeys(x for x in xs if x.frac_bits > self._frac_bits and x.settled is None))
        steps = [truncate(self.session, x.share, x.frac_bits - self._frac_bits) for x in wanted]
        if steps:
            for x, share in zip(wanted, self._run(together(*steps)), strict=True):
                x.settled = self._new(share, x.shape, self._frac_bits)
        return tuple(x if x.settled is None else x.settled for x in xs)

    def _operand(self, x: RingTensor) -> RingTensor:
        """x as a factor, or to be summed up: truncated if that was left to be done. Cost: one round, once."""
        return self.settled(x)[0] if x.pending else x

    def _excess(self, x: RingTensor) -> int:
        """Bits by which a protocol that truncates has to shift x."""
        return x.frac_bits - self._frac_bits if x.pending else 0

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

    def _new(self, share: Tensor, shape: Sequence[int], bits: int, *, pending: bool = False) -> RingTensor:
        return RingTensor(self.session, shape, bits, share, pending=pending)

    def _map(self, x: RingTensor, function: Callable[[Any], Array], shape: Sequence[int]) -> RingTensor:
        return self._new(self.session.local(function, tuple(shape), x.share), shape, x.frac_bits, pending=x.pending)

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
        x = self._operand(x)
        if x.frac_bits == self._frac_bits:
            return x
        return self._new(self._at(x, self._frac_bits), x.shape, self._frac_bits)

    def _flat(
        self, x: RingTensor, protocol: Callable[[Tensor], Protocol[Tensor]], bits: int, chunk: int = CHUNK
    ) -> RingTensor:
        """Runs an element-wise protocol on the flattened shares, in chunks."""
        pieces = []
        for start in range(0, max(x.size, 1), chunk):
            stop = min(start + chunk, x.size)
            part = self.session.local(lambda a, i=start, j=stop: a.reshape(-1)[i:j], (stop - start,), x.share)
            pieces.append(self._run(protocol(part)))
        whole = pieces[0] if len(pieces) == 1 else self.session.local(lambda *p: np.concatenate(p), (x.size,), *pieces)
        return self._new(whole, (x.size,), bits).reshaped(x.shape)

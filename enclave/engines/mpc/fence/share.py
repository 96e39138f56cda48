"""A rank's share of an encrypted tensor: stands for CrypTen's `ArithmeticSharedTensor`.

The words live in a `RingTensor`, so that products, truncation and whatever else costs rounds are the engine's.
What is local (views, sums, indexing) is torch's own, applied to the words.

Safety: a RingTensor is immutable, which ties a mask to one value; hence everything "in place" here makes a new one.
A program that asks for the raw share gets a tensor that it may change, and from then on that tensor is the truth
and nothing that was opened before is used again.

Unlike stock, operands of different precision are aligned in every operation: stock reads the number 0.5 as 0 beside
a comparison's result, and concatenates shares of different scales as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch

from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.encoder import check_finite, encode_array, plain_array
from enclave.engines.mpc.fence.mistakes import BadArgument, BadShape
from enclave.engines.mpc.fence.operations import BatchMatMul, Convolution
from enclave.engines.mpc.fence.share_functions import ShareFunctions, taken
from enclave.engines.mpc.fence.words import SENTINEL, Words, ring_shape, words_of
from enclave.engines.mpc.protocols.arithmetic import Bilinear, product, scaled
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import RingTensor
from enclave.errors import BadSpec, Unsupported

__all__ = ["SENTINEL", "Share", "indexed", "taken"]

Shape = tuple[int, ...]


def indexed(t: torch.Tensor, index: Any) -> torch.Tensor:
    """t[index]; a list of slices, which CrypTen makes, is one index for each axis."""
    return t[tuple(index) if isinstance(index, list) and any(isinstance(i, slice) for i in index) else index]


def _local(function: Callable[..., torch.Tensor]) -> Callable[..., Share]:
    """A method that applies a linear torch function to the words."""

    def method(self: Share, *args: Any, **kwargs: Any) -> Share:
        return self.map(lambda t: function(t, *args, **kwargs))

    return method


def _local_pieces(function: Callable[..., Sequence[torch.Tensor]]) -> Callable[..., tuple[Share, ...]]:
    def method(self: Share, *args: Any, **kwargs: Any) -> tuple[Share, ...]:
        pieces = function(self.view64(), *args, **kwargs)
        return tuple(Share.of(words_of(piece), tuple(piece.shape), self.bits) for piece in pieces)

    return method


class Share(ShareFunctions, Words):
    """Additive shares of a tensor: `Words` to compute with."""

    __slots__ = ()

    # ---- leaving
    def reveal(self, dst: int | None = None) -> torch.Tensor | None:
        """The ring words at `dst`, or at all ranks; see `Fence.reveal`."""
        return cast("torch.Tensor | None", Share.reveal_batch([self], dst)[0])

    @staticmethod
    def reveal_batch(tensor_or_list: Any, dst: int | None = None) -> Any:
        """Several in one round."""
        if isinstance(tensor_or_list, Share):
            return tensor_or_list.reveal(dst)
        found = current().reveal([t.ring for t in tensor_or_list], dst)
        return [
            None if words is None else torch.from_numpy(words.view(np.int64).copy()).reshape(t.dims)
            for t, words in zip(tensor_or_list, found, strict=True)
        ]

    def get_plain_text(self, dst: int | None = None) -> torch.Tensor | None:
        """The numbers at `dst`, or at all ranks; None elsewhere."""
        if not self.nelement():
            return torch.empty(self.dims) if dst in (None, self.rank) else None
        return self.encoder.decode(self.reveal(dst))

    # ---- sums
    def add(self, y: Any) -> Share:
        """Sum with a share or a public value."""
        return self._sum(y, subtract=False)

    def sub(self, y: Any) -> Share:
        """Difference to a share or a public value."""
        return self._sum(y, subtract=True)

    def _sum(self, y: Any, *, subtract: bool) -> Share:
        other: Any = y.ring if isinstance(y, Share) else representable(y)
        dims = np.broadcast_shapes(self.dims, y.dims if isinstance(y, Share) else other.shape)
        engine = current().engine
        found = engine.sub(self.ring, other) if subtract else engine.add(self.ring, other)
        return Share.wrap(found.reshaped(ring_shape(dims)), dims)

    def neg(self) -> Share:
        """Negation."""
        return self.map(torch.neg)

    def __rsub__(self, y: Any) -> Share:
        return self.neg().add(y)

    # ---- products
    def mul(self, y: Any) -> Share:
        """Product with a share or a public value."""
        if isinstance(y, Share):
            dims = np.broadcast_shapes(self.dims, y.dims)
            left, right = self._balanced(y)
            return Share.wrap(current().engine.mul(left, right).reshaped(ring_shape(dims)), dims)
        factors = representable(y)
        dims = np.broadcast_shapes(self.dims, factors.shape)
        return Share.wrap(current().engine.scale(self.ring, factors).reshaped(ring_shape(dims)), dims)

    def square(self) -> Share:
        """x * x; x is opened once."""
        left, right = self._balanced(self)
        return Share.wrap(current().engine.mul(left, right), self.dims)

    def div(self, y: Any) -> Share:
        """Quotient by a public value; encrypted divisors are the business of `MPCTensor.div`."""
        if isinstance(y, Share):
            raise Unsupported("division of raw shares", "divide the MPCTensors")
        factors = check_finite(plain_array(y)).astype(np.float64)
        if np.any(factors == 0):
            raise BadSpec("division by a public zero")
        return self.mul(1.0 / factors)

    def _balanced(self, y: Share) -> tuple[RingTensor, RingTensor]:
        """Both operands, with at least the session's precision between them unless one is an integer."""
        missing = current().frac_bits - self.bits - y.bits
        if missing <= 0 or not self.bits or not y.bits:
            return self.ring, y.ring
        return self.raised(self.bits + missing).ring, y.ring

    def matmul(self, y: Any) -> Share:
        """Matrix product as `torch.matmul` defines it."""
        x_dims, y_dims = self.dims, y.dims if isinstance(y, Share) else tuple(np.shape(y))
        if not x_dims or not y_dims:
            raise BadSpec("a matrix product needs operands with axes")
        left = (1, *x_dims) if len(x_dims) == 1 else x_dims
        right = (*y_dims, 1) if len(y_dims) == 1 else y_dims
        op = BatchMatMul()
        dims = _shape_of(op, left, right)
        if len(x_dims) == 1:
            dims = (*dims[:-2], dims[-1])
        if len(y_dims) == 1:
            dims = dims[:-1]
        if isinstance(y, Share) and len(left) == len(right) == 2 and self.bits + y.bits >= current().frac_bits:
            a, turn_a = self._matrix(left)
            b, turn_b = y._matrix(right)
            found = current().engine.matmul(a, b, transpose_x=turn_a, transpose_y=turn_b)
            return Share.wrap(found.reshaped(ring_shape(dims)), dims)
        other = y.reshape(right) if isinstance(y, Share) else plain_array(y).reshape(right)
        return self.reshape(left)._bilinear(op, other, dims)

    def _matrix(self, shape: Shape) -> tuple[RingTensor, bool]:
        """A matrix for the engine, and whether it is to be transposed: what was opened for it serves both."""
        if self._turned is not None and self._exposed is None and self._turned.frac_bits == self.bits:
            return self._turned, True
        ring = self.ring
        return (ring if ring.shape == shape else ring.reshaped(shape)), False

    def convolve(self, kernel: Any, op: Convolution) -> Share:
        """Convolution with a share or a public kernel."""
        dims = _shape_of(op, self.dims, kernel.dims if isinstance(kernel, Share) else tuple(np.shape(kernel)))
        return self._bilinear(op, kernel, dims)

    def _bilinear(self, op: BatchMatMul | Convolution, y: Any, dims: Shape) -> Share:
        fence = current()
        if isinstance(y, Share):
            left, right = self._balanced(y)
            z = fence.run(product(fence.session, cast(Bilinear, op), left, right))
            found = Share.of(z, dims, left.frac_bits + right.frac_bits)
            return found if not self.bits or not y.bits else found.lowered(fence.frac_bits)
        factors, shift = scaled(representable(y))
        words = op.apply(self.ring.share.reshape(self.dims), factors)
        target = self.bits or (fence.frac_bits if shift else 0)
        return Share.of(words, dims, self.bits + shift).raised(target).lowered(target)

    # ---- linear and local
    __getitem__ = _local(indexed)
    cumsum = _local(torch.Tensor.cumsum)
    expand = _local(torch.Tensor.expand)
    flatten = _local(torch.Tensor.flatten)
    flip = _local(torch.Tensor.flip)
    gather = _local(torch.Tensor.gather)
    index_select = _local(torch.Tensor.index_select)
    narrow = _local(torch.Tensor.narrow)
    permute = _local(torch.Tensor.permute)
    repeat = _local(torch.Tensor.repeat)
    reshape = _local(torch.Tensor.reshape)
    roll = _local(torch.Tensor.roll)
    squeeze = _local(torch.Tensor.squeeze)
    sum = _local(torch.Tensor.sum)
    take = _local(taken)
    trace = _local(torch.Tensor.trace)
    unfold = _local(torch.Tensor.unfold)
    unsqueeze = _local(torch.Tensor.unsqueeze)
    view = _local(torch.Tensor.reshape)
    split = _local_pieces(torch.Tensor.split)
    unbind = _local_pieces(torch.Tensor.unbind)

    def transpose(self, dim0: int, dim1: int) -> Share:
        """The tensor with two axes swapped."""
        found = self.map(lambda t: t.transpose(dim0, dim1))
        if self.dim() == 2 and (dim0 - dim1) % 2 and self._exposed is None:
            found._turned = self.ring
        return found

    def t(self) -> Share:
        """The transposed matrix."""
        return self.transpose(0, 1) if self.dim() == 2 else self.map(torch.Tensor.t)

    def pad(self, pad: Sequence[int], mode: str = "constant", value: Any = 0) -> Share:
        """Pads with a public value, as `torch.nn.functional.pad`."""
        if mode != "constant":
            raise Unsupported(f"padding of mode {mode}", "padding is by a constant")
        if isinstance(value, Share):
            if value.nelement() != 1:
                raise BadArgument(f"padding by {value.nelement()} values")
            edge = torch.nn.functional.pad(torch.zeros(self.dims), tuple(pad), value=1.0)
            return self.pad(pad).add(value.reshape(()).mul(edge))
        shifted = self.sub(value) if value else self
        padded = shifted.map(lambda t: torch.nn.functional.pad(t, tuple(pad)))
        return padded.add(value) if value else padded

    @staticmethod
    def cat(tensors: Sequence[Share], *args: Any, **kwargs: Any) -> Share:
        """Concatenation, at the highest precision among the tensors."""
        return _joined(torch.cat, tensors, *args, **kwargs)

    @staticmethod
    def stack(tensors: Sequence[Share], *args: Any, **kwargs: Any) -> Share:
        """Stacking, at the highest precision among the tensors."""
        return _joined(torch.stack, tensors, *args, **kwargs)

    __add__ = __radd__ = add
    __sub__ = sub
    __mul__ = __rmul__ = mul
    __truediv__ = div
    __matmul__ = matmul
    __neg__ = neg

    # ---- writing at public places
    def __setitem__(self, index: Any, value: Any) -> None:
        def write(x: torch.Tensor, y: torch.Tensor) -> None:
            x[index] = y

        self._written(write, value)

    def index_add_(self, dim: int, index: torch.Tensor, tensor: Any) -> Share:
        """Adds slices of `tensor` at `index`."""
        return self._written(lambda x, y: x.index_add_(dim, index, y), tensor)

    def scatter_add_(self, dim: int, index: torch.Tensor, other: Any) -> Share:
        """Adds elements of `other` at `index`."""
        return self._written(lambda x, y: x.scatter_add_(dim, index, y), other)

    def scatter_(self, dim: int, index: torch.Tensor, src: Any) -> Share:
        """Writes elements of `src` at `index`."""
        return self._written(lambda x, y: x.scatter_(dim, index, y), src)

    def _written(self, write: Callable[[torch.Tensor, torch.Tensor], Any], value: Any) -> Share:
        other = value if isinstance(value, Share) else Share.public(value, self.bits or None)
        bits = max(self.bits, other.bits)
        words = self.raised(bits).view64().clone()
        write(words, other.raised(bits).view64())
        return cast(Share, self.become(Share.of(words_of(words), tuple(words.shape), bits)))


def _joined(function: Callable[..., torch.Tensor], tensors: Sequence[Share], *args: Any, **kwargs: Any) -> Share:
    shares = [t if isinstance(t, Share) else Share.public(t) for t in tensors]
    bits = max(t.bits for t in shares)
    found = function([t.raised(bits).view64() for t in shares], *args, **kwargs)
    return Share.of(words_of(found), tuple(found.shape), bits)


def _shape_of(op: BatchMatMul | Convolution, x: Shape, y: Shape) -> Shape:
    try:
        return op.shape(x, y)
    except ValueError as error:
        raise BadShape(str(error)) from error


def representable(value: Any) -> Array:
    """A public operand as an array; raises when it is not a finite number within range."""
    numbers = plain_array(value)
    encode_array(numbers, current().frac_bits)
    return numbers

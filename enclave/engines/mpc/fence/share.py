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
from enclave.engines.mpc.fence.encoder import FixedPointEncoder, check_finite, encode_array, plain_array
from enclave.engines.mpc.fence.operations import BatchMatMul, Convolution
from enclave.engines.mpc.protocols.arithmetic import Bilinear, product, scaled, truncate
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import Part, RingTensor
from enclave.errors import BadSpec, Unsupported

__all__ = ["SENTINEL", "Share"]

SENTINEL = -1
Shape = tuple[int, ...]
U = np.uint64


def _words(tensor: torch.Tensor) -> Array:
    return cast(Array, tensor.contiguous().numpy().view(np.uint64))


def _ring_shape(shape: Sequence[int]) -> Shape:
    """numpy's scalars are not arrays: a tensor without axes is kept as one of a single element."""
    return tuple(int(n) for n in shape) or (1,)


def _local(function: Callable[..., torch.Tensor]) -> Callable[..., Share]:
    """A method that applies a linear torch function to the words."""

    def method(self: Share, *args: Any, **kwargs: Any) -> Share:
        return self.map(lambda t: function(t, *args, **kwargs))

    return method


def _local_pieces(function: Callable[..., Sequence[torch.Tensor]]) -> Callable[..., tuple[Share, ...]]:
    def method(self: Share, *args: Any, **kwargs: Any) -> tuple[Share, ...]:
        pieces = function(self.view64(), *args, **kwargs)
        return tuple(Share.of(_words(piece), tuple(piece.shape), self.bits) for piece in pieces)

    return method


class Share:
    """Additive shares of a tensor.

    Args:
        tensor: the plaintext, which counts at rank `src` alone; the other ranks may give one of the same shape.
        size: its shape, at ranks that have no tensor.
        broadcast_size: whether `src` tells the others the shape (one round).
        precision: fractional bits; None: those of the session.
        src: the rank that brings the plaintext.
    """

    __slots__ = ("_encoder", "_exposed", "_ring", "_shape", "_turned")

    def __init__(
        self,
        tensor: Any = None,
        size: Sequence[int] | None = None,
        broadcast_size: bool = False,
        precision: int | None = None,
        src: int = 0,
        device: object = None,
    ) -> None:
        self._exposed: torch.Tensor | None = None
        self._turned: RingTensor | None = None  # the matrix that this one is the transpose of
        if src == SENTINEL:
            return
        fence = current()
        fence.check_rank(src, "src")
        if str(device or "cpu") != "cpu":
            raise Unsupported(f"device {device}", "shares live on the CPU")
        mine = fence.rank == src
        if mine and tensor is None:
            raise BadSpec("the source of an encrypted tensor must bring its plaintext")
        if tensor is None and size is None and not broadcast_size:
            raise BadSpec("an encrypted tensor needs a plaintext or a size at every rank")
        if getattr(tensor, "src", src) != src:
            raise BadSpec(f"the plaintext belongs to rank {tensor.src}, found src={src}")
        self._encoder = FixedPointEncoder(precision)
        bits = self._encoder._precision_bits
        plain: Array | None = None
        if mine:
            plain = encode_array(plain_array(tensor), bits)
            shape: Shape = plain.shape
        elif not broadcast_size:
            shape = tuple(np.shape(tensor) if size is None else size)
        if broadcast_size:
            shape = fence.publish_shape(shape if mine else None, src)
        dims = _ring_shape(shape)
        part = Part(src, dims, None if plain is None else plain.reshape(dims), fence.session.new_stream())
        self._shape: Shape = tuple(int(n) for n in shape)
        self._ring = RingTensor(fence.session, dims, bits, None, (part,))

    # ---- making
    @classmethod
    def of(cls, words: Array, shape: Sequence[int], bits: int) -> Share:
        """A share that this rank already has."""
        dims = tuple(int(n) for n in shape)
        ring = RingTensor(current().session, _ring_shape(dims), bits, words.reshape(_ring_shape(dims)))
        return cls.wrap(ring, dims)

    @classmethod
    def wrap(cls, ring: RingTensor, shape: Sequence[int] | None = None) -> Share:
        """A share over an engine's tensor."""
        share = cls(src=SENTINEL)
        share._ring = ring
        share._shape = ring.shape if shape is None else tuple(shape)
        share._encoder = FixedPointEncoder(ring.frac_bits)
        return share

    @classmethod
    def public(cls, value: Any, bits: int | None = None) -> Share:
        """A constant that all ranks know."""
        bits = current().frac_bits if bits is None else bits
        words = encode_array(plain_array(value), bits)
        return cls.of(words if current().rank == 0 else np.zeros_like(words), words.shape, bits)

    @staticmethod
    def new(*args: Any, **kwargs: Any) -> Share:
        """Share(...)."""
        return Share(*args, **kwargs)

    @staticmethod
    def from_shares(share: torch.Tensor, precision: int | None = None, device: object = None) -> Share:
        """From the words that each rank holds."""
        bits = FixedPointEncoder(precision)._precision_bits
        return Share.of(_words(share.clone().long()), tuple(share.shape), bits)

    @staticmethod
    def PRZS(*size: Any, device: object = None) -> Share:
        """A fresh sharing of zeros, from key streams that pairs of ranks have in common."""
        fence = current()
        dims = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        zero = fence.session.zero_share(fence.session.new_stream(), _ring_shape(dims))
        return Share.of(zero, dims, fence.frac_bits)

    @staticmethod
    def PRSS(*size: Any, device: object = None) -> Share:
        """A fresh sharing of uniform words that no rank knows."""
        fence = current()
        dims = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        mask = fence.session.mask_share(fence.session.new_mask(_ring_shape(dims), None))
        return Share.of(mask, dims, fence.frac_bits)

    def become(self, other: Share) -> Share:
        """Takes over another's value, in place."""
        ring, shape, bits = other.ring, other.dims, other.bits
        self._exposed = self._turned = None
        self._ring, self._shape, self._encoder = ring, shape, FixedPointEncoder(bits)
        return self

    def shallow_copy(self) -> Share:
        """The same value."""
        return Share.wrap(self.ring, self._shape)

    clone = shallow_copy

    def copy_(self, other: Share) -> Share:
        """Takes over the value of `other`."""
        return self.become(other)

    # ---- looking
    @property
    def bits(self) -> int:
        """Fractional bits."""
        return self._encoder._precision_bits

    @property
    def ring(self) -> RingTensor:
        """The engine's tensor; a tensor without axes has one here."""
        if self._exposed is not None:
            dims = _ring_shape(self._exposed.shape)
            return RingTensor(current().session, dims, self.bits, _words(self._exposed.clone()).reshape(dims))
        if self._ring.frac_bits != self.bits:  # the program changed the encoder
            self._ring = RingTensor(current().session, self._ring.shape, self.bits, self._ring.share)
        return self._ring

    @property
    def dims(self) -> Shape:
        """The shape."""
        return self._shape if self._exposed is None else tuple(self._exposed.shape)

    def view64(self) -> torch.Tensor:
        """The words as an int64 tensor, to be read only."""
        words = np.require(self.ring.share, U, ["W"])
        return torch.from_numpy(words.view(np.int64)).reshape(self.dims)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Share:
        """Applies a linear, local function to the words."""
        found = function(self.view64())
        return Share.of(_words(found), tuple(found.shape), self.bits)

    @property
    def share(self) -> torch.Tensor:
        """The words, as a tensor that the program may change."""
        if self._exposed is None:
            self._exposed = self.view64().clone()
        return self._exposed

    @share.setter
    def share(self, value: torch.Tensor) -> None:
        self._exposed = value.long()

    _tensor = data = share

    @property
    def encoder(self) -> FixedPointEncoder:
        """The encoder of these words."""
        return self._encoder

    @encoder.setter
    def encoder(self, value: FixedPointEncoder) -> None:
        self._encoder = FixedPointEncoder(value._precision_bits)

    @property
    def shape(self) -> torch.Size:
        """The shape, as torch gives it."""
        return torch.Size(self.dims)

    @property
    def rank(self) -> int:
        """This party's rank."""
        return current().rank

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    is_cuda = False

    def size(self, *args: Any) -> Any:
        """The shape, or the length of one axis."""
        return self.shape if not args else self.shape[args[0]]

    def dim(self) -> int:
        """Number of axes."""
        return len(self.dims)

    def nelement(self) -> int:
        """Number of elements."""
        return self.shape.numel()

    numel = nelement

    def __len__(self) -> int:
        return self.dims[0]

    def __repr__(self) -> str:
        return f"Share(shape={self.dims}, bits={self.bits}, words=<redacted>)"

    def __bool__(self) -> bool:
        raise Unsupported("bool() of an encrypted tensor", "control flow must not depend on a secret")

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
            return torch.empty(self.dims)
        return self.encoder.decode(self.reveal(dst))

    # ---- precision
    def raised(self, bits: int) -> Share:
        """The same value at no less than `bits` fractional bits. Local."""
        extra = bits - self.bits
        return self if extra <= 0 else Share.of(self.ring.share << U(extra), self.dims, bits)

    def lowered(self, bits: int) -> Share:
        """The same value at no more than `bits` fractional bits. Cost: one round when there are more."""
        fence, excess = current(), self.bits - bits
        if excess <= 0:
            return self
        flat = self.ring.share.reshape(-1)
        return Share.of(fence.run(truncate(fence.session, flat, excess)), self.dims, bits)

    def encode(self, new_encoder: FixedPointEncoder) -> Share:
        """The same value in another precision."""
        return self.raised(new_encoder._precision_bits).lowered(new_encoder._precision_bits)

    def encode_(self, new_encoder: FixedPointEncoder) -> Share:
        """The same, in place."""
        return self.become(self.encode(new_encoder))

    def encode_as(self, other: Share) -> Share:
        """The same value in the precision of `other`."""
        return self.encode(other.encoder)

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
        return Share.wrap(found.reshaped(_ring_shape(dims)), dims)

    def neg(self) -> Share:
        """Negation."""
        return self.map(torch.neg)

    # ---- products
    def mul(self, y: Any) -> Share:
        """Product with a share or a public value."""
        if isinstance(y, Share):
            dims = np.broadcast_shapes(self.dims, y.dims)
            left, right = self._balanced(y)
            return Share.wrap(current().engine.mul(left, right).reshaped(_ring_shape(dims)), dims)
        factors = representable(y)
        dims = np.broadcast_shapes(self.dims, factors.shape)
        return Share.wrap(current().engine.scale(self.ring, factors).reshaped(_ring_shape(dims)), dims)

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
            return Share.wrap(found.reshaped(_ring_shape(dims)), dims)
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
    __getitem__ = _local(torch.Tensor.__getitem__)
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
    take = _local(torch.Tensor.take)
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
        if mode != "constant" or not isinstance(value, int | float):
            raise Unsupported(f"padding of mode {mode}", "padding is by a public constant")
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
        return self.become(Share.of(_words(words), tuple(words.shape), bits))


def _joined(function: Callable[..., torch.Tensor], tensors: Sequence[Share], *args: Any, **kwargs: Any) -> Share:
    shares = [t if isinstance(t, Share) else Share.public(t) for t in tensors]
    bits = max(t.bits for t in shares)
    found = function([t.raised(bits).view64() for t in shares], *args, **kwargs)
    return Share.of(_words(found), tuple(found.shape), bits)


def _shape_of(op: BatchMatMul | Convolution, x: Shape, y: Shape) -> Shape:
    try:
        return op.shape(x, y)
    except ValueError as error:
        raise BadSpec(str(error)) from error


def representable(value: Any) -> Array:
    """A public operand as an array; raises when it is not a finite number within range."""
    numbers = plain_array(value)
    encode_array(numbers, current().frac_bits)
    return numbers

"""The words of a share: where they come from, what may be seen of them, and their precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import numpy as np
import torch

from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.encoder import FixedPointEncoder, encode_array, plain_array
from enclave.engines.mpc.fence.mistakes import NoTruthValue
from enclave.engines.mpc.protocols.arithmetic import truncate
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import Part, RingTensor

__all__ = ["SENTINEL", "Words", "ring_shape", "words_of"]

SENTINEL = -1
Shape = tuple[int, ...]
U = np.uint64


def words_of(tensor: torch.Tensor) -> Array:
    """The ring words of an int64 tensor."""
    return cast(Array, tensor.contiguous().numpy().view(np.uint64))


def ring_shape(shape: Sequence[int]) -> Shape:
    """numpy's scalars are not arrays: a tensor without axes is kept as one of a single element."""
    return tuple(int(n) for n in shape) or (1,)


class Words:
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
        mine = fence.is_source(src, tensor, device, sized=size is not None or broadcast_size)
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
        dims = ring_shape(shape)
        part = Part(src, dims, None if plain is None else plain.reshape(dims), fence.session.new_stream())
        self._shape: Shape = tuple(int(n) for n in shape)
        self._ring = RingTensor(fence.session, dims, bits, None, (part,))

    # ---- making
    @classmethod
    def of(cls, words: Array, shape: Sequence[int], bits: int) -> Self:
        """A share that this rank already has."""
        dims = tuple(int(n) for n in shape)
        ring = RingTensor(current().session, ring_shape(dims), bits, words.reshape(ring_shape(dims)))
        return cls.wrap(ring, dims)

    @classmethod
    def wrap(cls, ring: RingTensor, shape: Sequence[int] | None = None) -> Self:
        """A share over an engine's tensor."""
        share = cls(src=SENTINEL)
        share._ring = ring
        share._shape = ring.shape if shape is None else tuple(shape)
        share._encoder = FixedPointEncoder(ring.frac_bits)
        return share

    @classmethod
    def public(cls, value: Any, bits: int | None = None) -> Self:
        """A constant that all ranks know."""
        bits = current().frac_bits if bits is None else bits
        words = encode_array(plain_array(value), bits)
        return cls.of(words if current().rank == 0 else np.zeros_like(words), words.shape, bits)

    @classmethod
    def new(cls, *args: Any, **kwargs: Any) -> Self:
        """The constructor."""
        return cls(*args, **kwargs)

    @classmethod
    def from_shares(cls, share: torch.Tensor, precision: int | None = None, device: object = None) -> Self:
        """From the words that each rank holds."""
        bits = FixedPointEncoder(precision)._precision_bits
        return cls.of(words_of(share.clone().long()), tuple(share.shape), bits)

    @classmethod
    def PRZS(cls, *size: Any, device: object = None) -> Self:
        """A fresh sharing of zeros, from key streams that pairs of ranks have in common."""
        fence = current()
        dims = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        zero = fence.session.zero_share(fence.session.new_stream(), ring_shape(dims))
        return cls.of(zero, dims, fence.frac_bits)

    @classmethod
    def PRSS(cls, *size: Any, device: object = None) -> Self:
        """A fresh sharing of uniform words that no rank knows."""
        fence = current()
        dims = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
        mask = fence.session.mask_share(fence.session.new_mask(ring_shape(dims), None))
        return cls.of(mask, dims, fence.frac_bits)

    def become(self, other: Words) -> Self:
        """Takes over another's value, in place."""
        ring, shape, bits = other.ring, other.dims, other.bits
        self._turned = None
        self._ring, self._shape, self._encoder = ring, shape, FixedPointEncoder(bits)
        if self._exposed is not None:  # the program holds the raw share: it sees the change
            self._exposed.data = torch.from_numpy(ring.share.copy().view(np.int64)).reshape(shape)
        return self

    def shallow_copy(self) -> Self:
        """The same value."""
        return type(self).wrap(self.ring, self._shape)

    clone = shallow_copy

    def copy_(self, other: Words) -> Self:
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
            dims = ring_shape(self._exposed.shape)
            return RingTensor(current().session, dims, self.bits, words_of(self._exposed.clone()).reshape(dims))
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

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """Applies a linear, local function to the words."""
        found = function(self.view64())
        return type(self).of(words_of(found), tuple(found.shape), self.bits)

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
        raise NoTruthValue("bool() of an encrypted tensor", "control flow must not depend on a secret")

    # ---- precision
    def raised(self, bits: int) -> Self:
        """The same value at no less than `bits` fractional bits. Local."""
        extra = bits - self.bits
        return self if extra <= 0 else type(self).of(self.ring.share << U(extra), self.dims, bits)

    def lowered(self, bits: int) -> Self:
        """The same value at no more than `bits` fractional bits. Cost: one round when there are more."""
        fence, excess = current(), self.bits - bits
        if excess <= 0:
            return self
        flat = self.ring.share.reshape(-1)
        return type(self).of(fence.run(truncate(fence.session, flat, excess)), self.dims, bits)

    def encode(self, new_encoder: FixedPointEncoder) -> Self:
        """The same value in another precision."""
        return self.raised(new_encoder._precision_bits).lowered(new_encoder._precision_bits)

    def encode_(self, new_encoder: FixedPointEncoder) -> Self:
        """The same, in place."""
        return self.become(self.encode(new_encoder))

    def encode_as(self, other: Words) -> Self:
        """The same value in the precision of `other`."""
        return self.encode(other.encoder)

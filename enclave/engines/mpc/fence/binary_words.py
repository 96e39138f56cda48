"""The words of a share whose bits are shared by exclusive or: where they come from, and what may be seen of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import numpy as np
import torch

from enclave.engines.mpc.fence import circuits
from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.encoder import FixedPointEncoder, encode_array, plain_array
from enclave.engines.mpc.fence.mistakes import NoTruthValue
from enclave.engines.mpc.fence.words import SENTINEL, words_of
from enclave.engines.mpc.tape import Array

__all__ = ["BinaryWords", "integer_words", "torch_of"]

Shape = tuple[int, ...]
U = np.uint64


def integer_words(value: Any) -> Array:
    """A public operand as words: integers as they are, all 64 bits of them."""
    numbers = plain_array(value)
    return numbers.view(U) if numbers.dtype.kind == "i" else encode_array(numbers, 0)


def torch_of(words: Array) -> torch.Tensor:
    """The int64 tensor of words."""
    return torch.from_numpy(np.require(words, U, ["C", "W"]).view(np.int64))


def _sizes(size: tuple[Any, ...]) -> Shape:
    first = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
    return tuple(int(n) for n in first)


class BinaryWords:
    """Shares of a tensor of 64-bit words.

    Args:
        tensor: the plaintext, which counts at rank `src` alone; the other ranks may give one of the same shape.
        size: its shape, at ranks that have no tensor.
        broadcast_size: whether `src` tells the others the shape (one round).
    """

    __slots__ = ("_tensor", "encoder")

    def __init__(
        self,
        tensor: Any = None,
        size: Sequence[int] | None = None,
        broadcast_size: bool = False,
        src: int = 0,
        device: object = None,
    ) -> None:
        if src == SENTINEL:
            return
        fence = current()
        mine = fence.is_source(src, tensor, device, sized=size is not None or broadcast_size)
        plain = integer_words(tensor) if mine else None
        shape = plain.shape if plain is not None else tuple(np.shape(tensor) if size is None else size)
        if broadcast_size:
            shape = fence.publish_shape(shape if mine else None, src)
        self._tensor = torch_of(circuits.shared_by(fence.session, plain, tuple(shape), src))
        self.encoder = FixedPointEncoder(0)

    # ---- making
    @classmethod
    def of(cls, share: torch.Tensor, bits: int = 0) -> Self:
        """A share that this rank already has."""
        found = cls(src=SENTINEL)
        found._tensor, found.encoder = share, FixedPointEncoder(bits)
        return found

    def like(self, words: Array) -> Self:
        """Words at the precision of these."""
        return type(self).of(torch_of(words), self.bits)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """Applies a function that moves words, or combines them bit by bit."""
        return type(self).of(function(self._tensor).clone(), self.bits)

    @classmethod
    def new(cls, *args: Any, **kwargs: Any) -> Self:
        """The constructor."""
        return cls(*args, **kwargs)

    @classmethod
    def from_shares(cls, share: torch.Tensor, precision: int | None = None, src: int = 0, device: Any = None) -> Self:
        """From the words that each rank holds."""
        return cls.of(share.clone().long(), FixedPointEncoder(precision)._precision_bits)

    @classmethod
    def PRZS(cls, *size: Any, device: object = None) -> Self:
        """A fresh sharing of zeros."""
        return cls.of(torch_of(circuits.zero_sharing(current().session, _sizes(size))))

    @classmethod
    def rand(cls, *size: Any, bits: int = 64, device: object = None) -> Self:
        """Uniform integers of so many bits that no rank knows. Local."""
        session, shape = current().session, _sizes(size)
        mask = session.mask_share(session.new_mask(shape or (1,), None)).reshape(shape)
        return cls.of(torch_of(mask & U((1 << bits) - 1)))

    def shallow_copy(self) -> Self:
        """The same value."""
        return type(self).of(self._tensor, self.bits)

    def clone(self) -> Self:
        """A copy."""
        return self.map(lambda t: t)

    def copy_(self, other: BinaryWords) -> Self:
        """Takes over the value of `other`."""
        self._tensor.data, self.encoder = other._tensor.clone(), FixedPointEncoder(other.bits)
        return self

    # ---- looking
    @property
    def bits(self) -> int:
        """Fractional bits of the numbers that the words stand for."""
        return self.encoder._precision_bits

    @property
    def words(self) -> Array:
        """The words of this rank."""
        return words_of(self._tensor)

    @property
    def share(self) -> torch.Tensor:
        """The words, as a tensor that the program may change."""
        return self._tensor

    @share.setter
    def share(self, value: torch.Tensor) -> None:
        self._tensor = value.long()

    data = share

    @property
    def dims(self) -> Shape:
        """The shape."""
        return tuple(self._tensor.shape)

    @property
    def shape(self) -> torch.Size:
        """The shape, as torch gives it."""
        return self._tensor.shape

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
        return self._tensor.size(*args)

    def dim(self) -> int:
        """Number of axes."""
        return self._tensor.dim()

    def nelement(self) -> int:
        """Number of elements."""
        return self._tensor.nelement()

    numel = nelement

    def __len__(self) -> int:
        return len(self._tensor)

    def __repr__(self) -> str:
        return f"BinaryShare(shape={self.dims}, words=<redacted>)"

    def __bool__(self) -> bool:
        raise NoTruthValue("bool() of an encrypted tensor", "control flow must not depend on a secret")

    __hash__ = object.__hash__

    # ---- leaving
    def reveal(self, dst: int | None = None) -> torch.Tensor | None:
        """The words at `dst`, or at all ranks; see `Fence.reveal_bits`."""
        return cast("torch.Tensor | None", BinaryWords.reveal_batch([self], dst)[0])

    @staticmethod
    def reveal_batch(tensor_or_list: Any, dst: int | None = None) -> Any:
        """Several in one round."""
        if isinstance(tensor_or_list, BinaryWords):
            return tensor_or_list.reveal(dst)
        found = current().reveal_bits([t.words for t in tensor_or_list], dst)
        return [
            None if words is None else torch_of(words.copy()).reshape(t.dims)
            for t, words in zip(tensor_or_list, found, strict=True)
        ]

    def get_plain_text(self, dst: int | None = None) -> torch.Tensor | None:
        """The numbers at `dst`, or at all ranks; None elsewhere."""
        if not self.nelement():
            return torch.empty(self.dims) if dst in (None, self.rank) else None
        return self.encoder.decode(self.reveal(dst))

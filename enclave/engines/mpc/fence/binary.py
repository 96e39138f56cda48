"""A rank's share of a tensor whose bits are shared by exclusive or: stands for CrypTen's `BinarySharedTensor`.

The share is a torch tensor that the program may change; nothing that was opened for a value is ever used again. What
is linear over bits is torch's own, applied to the share; the circuits are in `circuits`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import numpy as np
import torch

from enclave.engines.mpc.fence import circuits
from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.binary_words import BinaryWords, integer_words, torch_of
from enclave.engines.mpc.fence.mistakes import BadArgument, BadType, BadValue
from enclave.engines.mpc.fence.share import indexed, taken
from enclave.engines.mpc.session import Protocol
from enclave.engines.mpc.tape import Array

__all__ = ["BinaryShare"]

Shape = tuple[int, ...]
U = np.uint64


def _local(function: Callable[..., torch.Tensor]) -> Callable[..., BinaryShare]:
    def method(self: BinaryShare, *args: Any, **kwargs: Any) -> BinaryShare:
        return self.map(lambda t: function(t, *args, **kwargs))

    return method


class BinaryShare(BinaryWords):
    """Shares of a tensor of 64-bit words, to compute with."""

    __slots__ = ()

    # ---- bit by bit
    def _other(self, y: Any, name: str) -> Array:
        """The words of an operand: a public one as the leader's."""
        if isinstance(y, BinaryShare):
            return y.words
        if not isinstance(y, int | torch.Tensor):
            raise BadType(f"cannot {name} an encrypted tensor with a {type(y).__name__}")
        words = integer_words(y)
        return words if current().rank == 0 else np.zeros_like(words)

    def __xor__(self, y: Any) -> Self:
        return self.like(self.words ^ self._other(y, "XOR"))

    def __and__(self, y: Any) -> Self:
        if isinstance(y, BinaryShare):
            return self._circuit(circuits.both(current().session, self.words, y.words))
        if not isinstance(y, int | torch.Tensor):
            raise BadType(f"cannot AND an encrypted tensor with a {type(y).__name__}")
        return self.like(self.words & integer_words(y))

    def __or__(self, y: Any) -> Self:
        return cast(Self, (self & y) ^ self ^ y)

    def __invert__(self) -> Self:
        return self ^ -1

    def __ixor__(self, y: Any) -> Self:
        return self._become(self ^ y)

    def __iand__(self, y: Any) -> Self:
        return self._become(self & y)

    def __ior__(self, y: Any) -> Self:
        return self._become(self | y)

    def _become(self, other: Self) -> Self:
        self._tensor.data = other._tensor
        return self

    def lshift(self, value: int) -> Self:
        """Words shifted left by a public number of bits."""
        return self.map(lambda t: t << _whole(value))

    def rshift(self, value: int) -> Self:
        """Words shifted right, the sign kept."""
        return self.map(lambda t: t >> _whole(value))

    def lshift_(self, value: int) -> Self:
        """The same, in place."""
        return self._become(self.lshift(value))

    def rshift_(self, value: int) -> Self:
        """The same, in place."""
        return self._become(self.rshift(value))

    # ---- circuits
    def _circuit(self, protocol: Protocol[Array]) -> Self:
        return self.like(current().run(protocol))

    def add(self, y: Any) -> Self:
        """The sum modulo 2^64. Cost: 7 rounds."""
        return self._circuit(circuits.total(current().session, self.words, self._other(y, "add")))

    def sub(self, y: Any) -> Self:
        """The difference modulo 2^64. Cost: 7 rounds."""
        return self._circuit(circuits.difference(current().session, self.words, self._other(y, "subtract")))

    def eq(self, y: Any) -> Self:
        """[x = y] as 0 or 1. Cost: 6 rounds."""
        return self._bit(circuits.equal(current().session, self.words, self._other(y, "compare")))

    def lt(self, y: Any) -> Self:
        """[x < y] as 0 or 1. Cost: 7 rounds."""
        return self._bit(circuits.less(current().session, self.words, self._other(y, "compare")))

    def gt(self, y: Any) -> Self:
        """[x > y] as 0 or 1. Cost: 7 rounds."""
        return self._bit(circuits.less(current().session, self._other(y, "compare"), self.words))

    def _bit(self, protocol: Protocol[Array]) -> Self:
        return type(self).of(torch_of(current().run(protocol)))

    def ne(self, y: Any) -> Self:
        """[x != y] as 0 or 1. Cost: 6 rounds."""
        return self.eq(y) ^ 1

    def ge(self, y: Any) -> Self:
        """[x >= y] as 0 or 1. Cost: 7 rounds."""
        return self.lt(y) ^ 1

    def le(self, y: Any) -> Self:
        """[x <= y] as 0 or 1. Cost: 7 rounds."""
        return self.gt(y) ^ 1

    def sum(self, dim: int | None = None) -> Self:
        """The sum over all elements, or along an axis. Cost: 7 rounds for each halving."""
        words = self.words.reshape(-1) if dim is None else np.moveaxis(self.words, dim, 0)
        session = current().session
        while len(words) > 1:
            half = len(words) // 2
            found = current().run(circuits.total(session, words[:half], words[half : 2 * half]))
            words = np.concatenate([found, words[2 * half :]])
        return self.like(words[0] if len(words) else np.zeros(words.shape[1:], U))

    def where(self, condition: Any, y: Any) -> Self:
        """x where the condition is 1, y where it is 0. Cost: 1 round for an encrypted condition."""
        if isinstance(condition, torch.Tensor):
            if not bool(((condition == 0) | (condition == 1)).all()):
                raise BadArgument("a condition is 0 or 1")
            chosen = -condition.long()
            rest = y & ~chosen if isinstance(y, BinaryShare) else type(self).public(y) & ~chosen
            return (self & chosen) ^ rest
        if not isinstance(condition, BinaryShare):
            raise BadValue(f"a condition is a tensor, found a {type(condition).__name__}")
        other = y if isinstance(y, BinaryShare) else type(self).public(y)
        mask = condition.map(lambda t: -(t & 1))  # bit by bit: the lowest one everywhere
        return ((self ^ other) & mask) ^ other

    @classmethod
    def public(cls, value: Any) -> Self:
        """A constant that all ranks know."""
        words = integer_words(value)
        return cls.of(torch_of(words if current().rank == 0 else np.zeros_like(words)))

    # ---- writing at public places
    def __setitem__(self, index: Any, value: Any) -> None:
        self._tensor[index] = self._share_of(value)

    def _share_of(self, value: Any) -> torch.Tensor:
        if isinstance(value, BinaryShare):
            return value._tensor
        if not isinstance(value, torch.Tensor | list | int):
            raise BadArgument(f"cannot write a {type(value).__name__} into an encrypted tensor")
        return type(self).public(torch.as_tensor(value))._tensor

    def scatter_(self, dim: int, index: torch.Tensor, src: Any) -> Self:
        """Writes elements of `src` at `index`."""
        self._tensor.scatter_(dim, index, self._share_of(src))
        return self

    def scatter(self, dim: int, index: torch.Tensor, src: Any) -> Self:
        """The same, in a copy."""
        return self.clone().scatter_(dim, index, src)

    @staticmethod
    def cat(tensors: Sequence[BinaryShare], *args: Any, **kwargs: Any) -> BinaryShare:
        """Concatenation."""
        return BinaryShare.of(torch.cat([t._tensor for t in tensors], *args, **kwargs), tensors[0].bits)

    @staticmethod
    def stack(tensors: Sequence[BinaryShare], *args: Any, **kwargs: Any) -> BinaryShare:
        """Stacking."""
        return BinaryShare.of(torch.stack([t._tensor for t in tensors], *args, **kwargs), tensors[0].bits)

    def split(self, split_size: Any, dim: int = 0) -> tuple[Self, ...]:
        """Pieces along an axis."""
        return tuple(type(self).of(piece.clone(), self.bits) for piece in torch.split(self._tensor, split_size, dim))

    def unbind(self, dim: int = 0) -> tuple[Self, ...]:
        """Slices along an axis."""
        return tuple(type(self).of(piece.clone(), self.bits) for piece in self._tensor.unbind(dim))

    # ---- what moves words
    __getitem__ = _local(indexed)
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
    t = _local(torch.Tensor.t)
    take = _local(taken)
    transpose = _local(torch.Tensor.transpose)
    unfold = _local(torch.Tensor.unfold)
    unsqueeze = _local(torch.Tensor.unsqueeze)
    view = _local(torch.Tensor.reshape)

    __add__ = __radd__ = add
    __sub__ = sub
    __eq__ = eq  # type: ignore[assignment]
    __ne__ = ne  # type: ignore[assignment]
    __lt__, __le__, __gt__, __ge__ = lt, le, gt, ge
    __lshift__, __rshift__ = lshift, rshift
    __ilshift__, __irshift__ = lshift_, rshift_
    __rxor__, __rand__, __ror__ = __xor__, __and__, __or__


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 64:
        raise BadArgument(f"shifts are by 0 to 63 bits, found {value!r}")
    return value

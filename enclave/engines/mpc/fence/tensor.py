"""`MPCTensor` on the fence: every method that costs a round, draws randomness or decrypts is ours.

`TensorMethods` is mixed into CrypTen's `CrypTensor` when the fence is installed (`tensor_class`); autograd and the
arrangement of operators stay CrypTen's. What stock gets wrong and this does not is listed in `docs/crypten.md`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from enum import Enum
from typing import Any, cast

import torch

from enclave.engines.mpc.fence import functions, ordering
from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.binary import BinaryShare
from enclave.engines.mpc.fence.conversion import as_bits, as_sums
from enclave.engines.mpc.fence.mistakes import BadType, BadValue, NoTruthValue
from enclave.engines.mpc.fence.share import Share
from enclave.engines.mpc.fence.share_functions import convolution_of
from enclave.engines.mpc.fence.tensor_functions import TensorFunctions, raw, unary
from enclave.errors import BadSpec, Unsupported

__all__ = ["TensorMethods", "ptype", "tensor_class"]


class ptype(Enum):
    """Kinds of sharing: by sums, or bit by bit."""

    arithmetic = 0
    binary = 1

    def to_tensor(self) -> Any:
        """The class of shares."""
        return BinaryShare if self is ptype.binary else Share


def _binary(by_sums: Callable[[Share, Any], Share], by_bits: Callable[..., BinaryShare] | None = None) -> Any:
    def method(self: TensorMethods, y: Any) -> Any:
        if by_bits is not None and isinstance(self._tensor, BinaryShare):
            return self.wrap(by_bits(self._tensor, as_binary(y)))
        return self.wrap(by_sums(self.numbers, raw(y)))

    method.__doc__ = by_sums.__doc__
    return method


def as_binary(y: Any) -> Any:
    """The share, bit by bit, of an encrypted operand; a public operand as it is."""
    return y.to(ptype.binary)._tensor if isinstance(y, TensorMethods) else y


def _bitwise(function: Callable[..., BinaryShare]) -> Any:
    def method(self: TensorMethods, *args: Any) -> Any:
        if not isinstance(self._tensor, BinaryShare):
            raise BadType("bits of a tensor that is not shared bit by bit: convert it with to(crypten.mpc.binary)")
        return self.wrap(function(self._tensor, *map(as_binary, args)))

    return method


def _convolution(axes: int, transposed: bool) -> Any:
    def method(
        self: TensorMethods,
        kernel: Any,
        bias: None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        """Convolution with an encrypted or a public kernel; arguments after the kernel by name."""
        if bias is not None:
            raise Unsupported("a bias inside a convolution", "add it to the result")
        op = convolution_of(axes, transposed, stride, padding, output_padding, groups, dilation)
        return self.wrap(self._tensor.convolve(raw(kernel), op))

    return method


def _no_gradient(name: str) -> Any:
    """Refuses where CrypTen would lose the gradient without a word."""

    def method(self: TensorMethods, *args: Any, **kwargs: Any) -> Any:
        if current().grad_enabled and any(getattr(t, "requires_grad", False) for t in (self, *args)):
            raise Unsupported(f"{name} of a tensor that requires a gradient", "it has none", hint="detach() it first")
        return LINEAR[name](self, *args, **kwargs)

    return method


def _index_add(self: TensorMethods, dim: int, index: torch.Tensor, tensor: Any) -> Any:
    return self.wrap(self._tensor.clone().index_add_(dim, index, raw(tensor)))


def _scatter_add(self: TensorMethods, dim: int, index: torch.Tensor, other: Any) -> Any:
    return self.wrap(self._tensor.clone().scatter_add_(dim, index, raw(other)))


LINEAR: dict[str, Callable[..., Any]] = {"index_add": _index_add, "scatter_add": _scatter_add}


class TensorMethods(TensorFunctions):
    """What an encrypted tensor can do. `_tensor` is the `Share`."""

    _tensor: Any
    requires_grad: bool

    def __init__(self, tensor: Any, ptype: ptype = ptype.arithmetic, device: Any = None, *args: Any, **kwargs: Any):
        if tensor is None and not kwargs.get("broadcast_size"):
            raise BadValue("cannot encrypt None")
        requires_grad = kwargs.pop("requires_grad", tensor.requires_grad if torch.is_tensor(tensor) else False)
        super().__init__(requires_grad=requires_grad)  # type: ignore[call-arg]
        self.ptype = ptype
        kind = ptype.to_tensor()
        self._tensor = (
            kind.public(torch.empty(0))
            if isinstance(tensor, list) and not tensor and not kwargs.get("broadcast_size")
            else kind(tensor, *args, **{"device": device, **kwargs})
        )

    @classmethod
    def wrap(cls, share: Any) -> Any:
        """An encrypted tensor over a share."""
        found = cls.__new__(cls)
        super(TensorMethods, found).__init__(requires_grad=False)  # type: ignore[call-arg]
        found.ptype = ptype.binary if isinstance(share, BinaryShare) else ptype.arithmetic
        found._tensor = share
        return found

    @classmethod
    def new(cls, *args: Any, **kwargs: Any) -> Any:
        """MPCTensor(...)."""
        return cls(*args, **kwargs)

    @classmethod
    def from_shares(cls, share: torch.Tensor, precision: int | None = None, ptype: ptype = ptype.arithmetic) -> Any:
        """From the words that each rank holds."""
        return cls.wrap(ptype.to_tensor().from_shares(share, precision=precision))

    def clone(self) -> Any:
        """A copy."""
        return self.wrap(self._tensor.clone())

    def shallow_copy(self) -> Any:
        """The same share: what changes one in place changes the other."""
        return self.wrap(self._tensor)

    def copy_(self, other: Any) -> None:
        """Takes over the value of `other`."""
        self._tensor.copy_(other._tensor)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Itself, or the same value in the other kind of sharing. Cost: 7 rounds for each party but one, 1 back."""
        wanted = kwargs.pop("ptype", args[0] if args and isinstance(args[0], ptype) else None)
        if wanted is not None:
            return self._to_ptype(wanted, **kwargs)
        if any(value not in ("cpu", torch.device("cpu")) for value in [*args, *kwargs.values()]):
            raise Unsupported(f"to({', '.join(map(str, [*args, *kwargs.values()]))})", "shares live on the CPU")
        return self

    def _to_ptype(self, wanted: ptype, precision: int | None = None, bits: int | None = None) -> Any:
        if self.ptype is wanted:
            return self.clone()
        if wanted is ptype.binary:
            return self.wrap(as_bits(self._tensor))
        return self.wrap(as_sums(self._tensor, precision, bits))

    def arithmetic(self) -> Any:
        """The same value, shared by sums."""
        return self.to(ptype.arithmetic)

    def binary(self) -> Any:
        """The same value, shared bit by bit."""
        return self.to(ptype.binary)

    def cuda(self, *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        raise Unsupported("cuda()", "shares live on the CPU")

    def cpu(self) -> Any:
        """Itself."""
        return self

    is_cuda = False

    def get_plain_text(self, dst: int | None = None) -> torch.Tensor | None:
        """The numbers at `dst`, or at all ranks; None elsewhere. Refused inside a job."""
        return cast("torch.Tensor | None", self._tensor.get_plain_text(dst=dst))

    def reveal(self, dst: int | None = None) -> torch.Tensor | None:
        """The ring words at `dst`, or at all ranks; None elsewhere. Refused inside a job."""
        return cast("torch.Tensor | None", self._tensor.reveal(dst=dst))

    def __repr__(self) -> str:
        return f"MPCTensor(shape={self._tensor.dims}, {self.ptype.name}, share=<redacted>)"

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> bool:
        raise NoTruthValue("bool() of an encrypted tensor", "control flow must not depend on a secret")

    @property
    def share(self) -> torch.Tensor:
        """The words, as a tensor that the program may change."""
        return cast(torch.Tensor, self._tensor.share)

    @share.setter
    def share(self, value: torch.Tensor) -> None:
        self._tensor.share = value

    data = share

    @property
    def encoder(self) -> Any:
        """The encoder of the words."""
        return self._tensor.encoder

    @encoder.setter
    def encoder(self, value: Any) -> None:
        self._tensor.encoder = value

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    # ---- operators that Python looks up on the class, past CrypTen's autograd: sent back through it
    def __getitem__(self, index: Any) -> Any:
        if self.requires_grad and current().grad_enabled:
            return self.__getattribute__("__getitem__")(index)
        return self.wrap(self._tensor[index])

    def __pow__(self, exponent: Any) -> Any:
        return self.__getattribute__("pow")(exponent)

    def __rtruediv__(self, y: Any) -> Any:
        return self.__getattribute__("reciprocal")().mul(y)

    def __rmatmul__(self, y: Any) -> Any:
        return self.new(y).matmul(self)

    # ---- arithmetic
    add = _binary(Share.add, BinaryShare.add)
    sub = _binary(Share.sub, BinaryShare.sub)
    mul = _binary(Share.mul)
    matmul = _binary(Share.matmul)
    neg = unary(Share.neg)
    square = unary(Share.square)
    conv1d = _convolution(1, False)
    conv2d = _convolution(2, False)
    conv_transpose1d = _convolution(1, True)
    conv_transpose2d = _convolution(2, True)

    def __rsub__(self, y: Any) -> Any:
        return self.neg().add(y)

    def div(self, y: Any) -> Any:
        """Quotient by a public or an encrypted divisor."""
        if isinstance(y, TensorMethods):
            return self.wrap(self.numbers.mul(functions.wide_reciprocal(y.numbers)))
        return self.wrap(self.numbers.div(y))

    index_add = _no_gradient("index_add")
    scatter_add = _no_gradient("scatter_add")

    def split(self, split_size: Any, dim: int = 0) -> tuple[Any, ...]:
        """Pieces along an axis."""
        length = self.numbers.dims[dim]
        if isinstance(split_size, int):
            sizes = [min(split_size, length - start) for start in range(0, length, split_size)]
        else:
            sizes = list(split_size)
        if sum(sizes) != length:
            raise BadSpec(f"pieces of {sizes} do not make up {length}")
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        narrow = self.__getattribute__("narrow")
        return tuple(narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True))

    def unbind(self, dim: int = 0) -> tuple[Any, ...]:
        """Slices along an axis."""
        return tuple(piece.squeeze(dim) for piece in self.split(1, dim))

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """The mean over all elements or some axes."""
        total = self.numbers.sum(*args, **kwargs)
        return self.wrap(total.div(max(1, self.numbers.nelement() // max(1, total.nelement()))))

    def var(self, dim: Any = None, unbiased: bool = True, keepdim: bool = False) -> Any:
        """The variance; with `unbiased` (torch's default) over n - 1."""
        x = self.numbers
        n = x.nelement() if dim is None else torch.empty(x.dims, device="meta").sum(dim).numel()
        count = x.nelement() if dim is None else x.nelement() // max(1, n)
        if count - bool(unbiased) < 1:
            raise BadSpec(f"a variance of {count} elements")
        center = x.sum().div(count) if dim is None else x.sum(dim, keepdim=True).div(count)
        squares = x.sub(center).square()
        total = squares.sum() if dim is None else squares.sum(dim, keepdim=keepdim)
        return self.wrap(total.div(count - bool(unbiased)))

    # ---- comparisons; bits are integers
    def _ltz(self) -> Any:
        """[x < 0]."""
        return self.wrap(ordering.not_negative(self.numbers).neg().add(1))

    def ge(self, y: Any) -> Any:
        """[x >= y]."""
        return self.wrap(ordering.not_negative(self.numbers.sub(raw(y))))

    def lt(self, y: Any) -> Any:
        """[x < y]."""
        return self.wrap(ordering.not_negative(self.numbers.sub(raw(y))).neg().add(1))

    def le(self, y: Any) -> Any:
        """[x <= y]."""
        return self.wrap(ordering.not_negative(self.numbers.neg().add(raw(y))))

    def gt(self, y: Any) -> Any:
        """[x > y]."""
        return self.wrap(ordering.not_negative(self.numbers.neg().add(raw(y))).neg().add(1))

    def eq(self, y: Any) -> Any:
        """[x = y], of the ring's numbers."""
        return self.wrap(ordering.equal_zero(self.numbers.sub(raw(y))))

    def ne(self, y: Any) -> Any:
        """[x != y]."""
        return self.wrap(ordering.equal_zero(self.numbers.sub(raw(y))).neg().add(1))

    # ---- bit by bit
    __and__ = __rand__ = _bitwise(BinaryShare.__and__)
    __or__ = __ror__ = _bitwise(BinaryShare.__or__)
    __xor__ = __rxor__ = _bitwise(BinaryShare.__xor__)
    __invert__ = _bitwise(BinaryShare.__invert__)
    __lshift__, __rshift__ = _bitwise(BinaryShare.lshift), _bitwise(BinaryShare.rshift)

    __ge__, __lt__, __le__, __gt__ = ge, lt, le, gt
    __eq__ = eq
    __ne__ = ne


def tensor_class() -> type:
    """CrypTen's `MPCTensor` of these methods. Only the fence's loader calls it, once."""
    base = importlib.import_module("crypten.cryptensor").CrypTensor
    made = type(base)("MPCTensor", (TensorMethods, base), {"__module__": __name__, "__hash__": TensorMethods.__hash__})
    base.register_cryptensor("mpc")(made)
    return made  # type: ignore[no-any-return]

"""Products and truncation of shared integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Draw, MaskRef, Spec, additive
from enclave.engines.mpc.tensor import Opened, RingTensor, open_masked

__all__ = ["Bilinear", "Conv2d", "MatMul", "Mul", "ProductOfMasks", "product", "scaled", "truncate"]

Shape = tuple[int, ...]
U = np.uint64
OFFSET = U(1 << 62)
_TORCH_FROM = 1 << 18  # multiplications from which importing torch for its integer GEMM pays


@dataclass(frozen=True, slots=True)
class Mul:
    """Element by element, with broadcasting."""

    name = "mul"

    def shape(self, x: Shape, y: Shape) -> Shape:
        """Shape of the result."""
        return np.broadcast_shapes(x, y)

    def uses_torch(self, x: Shape, y: Shape) -> bool:
        """Whether `apply` imports torch, which takes seconds: a session does so before it begins."""
        return False

    def apply(self, x: Array, y: Array) -> Array:
        """x * y modulo 2^64."""
        return x * y


@dataclass(frozen=True, slots=True)
class MatMul:
    """2-d product, of the transposes where asked."""

    transpose_x: bool = False
    transpose_y: bool = False
    name = "matmul"

    def shape(self, x: Shape, y: Shape) -> Shape:
        """Shape of the result."""
        return (x[1] if self.transpose_x else x[0], y[0] if self.transpose_y else y[1])

    def uses_torch(self, x: Shape, y: Shape) -> bool:
        """See `Mul.uses_torch`."""
        columns = y[0] if self.transpose_y else y[1]
        size = x[0] * x[1]
        return size >= 1 << 22 if columns == 1 else size * columns >= _TORCH_FROM

    def apply(self, x: Array, y: Array) -> Array:
        """x @ y modulo 2^64."""
        x, y = (x.T if self.transpose_x else x), (y.T if self.transpose_y else y)
        if not MatMul().uses_torch(x.shape, y.shape):
            return np.asarray((x * y[:, 0]).sum(axis=1, keepdims=True, dtype=U)) if y.shape[1] == 1 else x @ y
        import torch  # numpy has no fast integer product: torch's is 18 times faster

        return cast(Array, torch.mm(_to_torch(x), _to_torch(y)).numpy().view(U))


def _to_torch(x: Array) -> Any:
    import torch

    signed = np.ascontiguousarray(x).view(np.int64)
    return torch.from_numpy(signed if signed.flags.writeable else signed.copy())


@dataclass(frozen=True, slots=True)
class Conv2d:
    """Cross-correlation of (N, C, H, W) with (O, C/groups, KH, KW); padding is (top, left, bottom, right)."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    name = "conv2d"

    def shape(self, x: Shape, y: Shape) -> Shape:
        """Shape of the result."""
        top, left, bottom, right = self.padding
        height = (x[2] + top + bottom - self.dilation[0] * (y[2] - 1) - 1) // self.stride[0] + 1
        width = (x[3] + left + right - self.dilation[1] * (y[3] - 1) - 1) // self.stride[1] + 1
        return (x[0], y[0], height, width)

    def uses_torch(self, x: Shape, y: Shape) -> bool:
        """See `Mul.uses_torch`."""
        return True

    def apply(self, x: Array, y: Array) -> Array:
        """The convolution modulo 2^64."""
        import torch

        top, left, bottom, right = self.padding
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        result = torch.nn.functional.conv2d(
            _to_torch(padded),
            _to_torch(y),
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
        )
        return cast(Array, result.numpy().view(U))


Bilinear = Mul | MatMul | Conv2d


@dataclass(frozen=True, slots=True)
class ProductOfMasks:
    """Shares of op(a, b) for two masks."""

    op: Bilinear
    x: MaskRef
    y: MaskRef

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return self.op.name

    @property
    def free(self) -> tuple[Spec, ...]:
        """Nothing: the masks were drawn when they were opened."""
        return ()

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The product."""
        return (additive(*self.op.shape(self.x.shape, self.y.shape)),)

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """op(a, b)."""
        return (self.op.apply(draw.mask(self.x), draw.mask(self.y)),)


def product(session: Session, op: Bilinear, x: RingTensor, y: RingTensor) -> Protocol[Tensor]:
    """Shares of op(x, y), at the sum of the two scales (not truncated).

    With e = x - a, d = y - b open and c = op(a, b) dealt: op(x, y) = op(e, d) + op(e, b) + op(a, d) + c.
    One party folds the first two into one local product.

    Cost: one round for operands that were not opened before, 8 B an element of each; 8 B dealt an output element.
    Reveals: nothing: what is opened is masked by fresh a and b.
    Reference: Beaver, CRYPTO '91; reuse of an opened operand as in SecureML (Mohassel, Zhang 2017, section 4.1).
    """
    opened_x, opened_y = yield from open_masked(session, x, y)
    shape = op.shape(x.shape, y.shape)
    (dealt,) = session.deal(ProductOfMasks(op, opened_x.ref, opened_y.ref))
    return session.local(lambda c: _combine(session, op, opened_x, opened_y, c), shape, dealt)


def _combine(session: Session, op: Bilinear, x: Opened, y: Opened, c: Array) -> Array:
    right = session.mask_share(y.ref) if y.ref.known_to(session.rank) else None
    if session.leader:
        right = y.difference if right is None else right + y.difference
    total = c if right is None else c + op.apply(x.difference, right)
    if x.ref.known_to(session.rank):
        total = total + op.apply(session.mask_share(x.ref), y.difference)
    return total


@dataclass(frozen=True, slots=True)
class Truncation:
    """A uniform r, with r >> bits and the top bit of r."""

    shape: Shape
    bits: int

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "truncation"

    @property
    def free(self) -> tuple[Spec, ...]:
        """r."""
        return (additive(*self.shape),)

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """r >> bits, and the top bit modulo 2^bits, since it is multiplied by 2^(64 - bits)."""
        return (additive(*self.shape), additive(*self.shape, dtype="u4" if self.bits <= 32 else "u8"))

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r."""
        (r,) = free
        return r >> U(self.bits), (r >> U(63)).astype(self.dealt[1].dtype)


def truncate(session: Session, z: Tensor, bits: int) -> Protocol[Tensor]:
    """Shares of z / 2^bits, stochastically rounded: floor plus 0 or 1, unbiased.

    Open c = z + 2^62 + r. Since z + 2^62 < 2^63, the sum wraps exactly when the top bit of r is 1 and that of c
    is 0, so the wrap is linear in a dealt bit once c is public, and no error of 2^(64 - bits) can happen.

    Safety: z must lie in [-2^62, 2^62); the numeric planner refuses what could leave it.
    The rounding depends on c mod 2^bits, which all parties see: the ideal functionality is rounding with a public
    dither, and several releases of one value narrow it down below the unit.
    Cost: one round; 8 B an element from every party; 12 B dealt (16 for more than 32 bits).
    Reveals: nothing: r is uniform.
    Reference: Dalskov, Escudero, Keller, "Secure evaluation of quantized neural networks" (2020), section 5.
    """
    if bits == 0:
        return z
    shape = z.shape
    r, high, top = session.deal(Truncation(shape, bits))
    c = (yield [Item("truncate", session.local(lambda z, r: _masked(session, z, r), shape, z, r))])[0]
    return session.local(lambda c, high, top: _shifted(session, c, high, top, bits), shape, c, high, top)


def _masked(session: Session, z: Array, r: Array) -> Array:
    masked = z + r
    if session.leader:
        masked += OFFSET
    return masked


def _shifted(session: Session, c: Array, high: Array, top: Array, bits: int) -> Array:
    wrap = (~c >> U(63)) * top.astype(U)
    share = (wrap << U(64 - bits)) - high
    if session.leader:
        share += (c >> U(bits)) - (OFFSET >> U(bits))
    return cast(Array, share)


def scaled(value: Any) -> tuple[Array, int]:
    """Public numbers as integers with 18 significant bits, and the bits to truncate after multiplying by them."""
    numbers = np.asarray(value, np.float64)
    largest = float(np.abs(numbers).max(initial=0.0))
    if largest == 0.0:
        return np.zeros(numbers.shape, U), 0
    bits = min(max(18 - math.frexp(largest)[1], 0), 40)  # frexp is exact: all parties find the same
    while bits and np.all(np.rint(numbers * 2.0**bits) % 2 == 0):
        bits -= 1
    return np.rint(numbers * 2.0**bits).astype(np.int64).view(U), bits

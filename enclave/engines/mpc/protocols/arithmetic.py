"""Products and truncation of shared integers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from enclave.engines.mpc import kernels
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Draw, MaskRef, Spec, additive
from enclave.engines.mpc.tensor import Opened, RingTensor, open_masked
from enclave.engines.mpc.windows import Geometry

__all__ = [
    "Bilinear",
    "Conv2d",
    "ConvInputGradient",
    "ConvWeightGradient",
    "MatMul",
    "Mul",
    "ProductOfMasks",
    "product",
    "scaled",
    "truncate",
]

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
        if kernels.LEVEL != "numpy":
            return False
        columns = y[0] if self.transpose_y else y[1]
        size = x[0] * x[1]
        return size >= 1 << 22 if columns == 1 else size * columns >= _TORCH_FROM

    def apply(self, x: Array, y: Array) -> Array:
        """x @ y modulo 2^64."""
        x, y = (x.T if self.transpose_x else x), (y.T if self.transpose_y else y)
        if not MatMul().uses_torch(x.shape, y.shape):
            return kernels.matmul(x, y)
        import torch  # numpy has no fast integer product, torch's is at least faster

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

    def geometry(self, weight: Shape) -> Geometry:
        """The windows under a weight of this shape."""
        return Geometry((weight[2], weight[3]), self.stride, self.padding, self.dilation)

    def shape(self, x: Shape, y: Shape) -> Shape:
        """Shape of the result."""
        return (x[0], y[0], *self.geometry(y).out(x[2], x[3]))

    def uses_torch(self, x: Shape, y: Shape) -> bool:
        """See `Mul.uses_torch`."""
        return _windowed_uses_torch(self.geometry(y), x, y, self.groups)

    def apply(self, x: Array, y: Array) -> Array:
        """The convolution modulo 2^64, by a matrix product with the windows."""
        windows, found = self.geometry(y.shape), np.empty(self.shape(x.shape, y.shape), U)
        for rows, ins, outs in _pieces(windows, x.shape, y.shape, self.groups):
            weight = y[outs].transpose(2, 3, 1, 0).reshape(-1, y[outs].shape[0])
            product = MatMul().apply(windows.unfold(x[rows, ins]), weight)
            part = found[rows, outs]
            part[...] = product.reshape(part.shape[0], *part.shape[2:], part.shape[1]).transpose(0, 3, 1, 2)
        return found


@dataclass(frozen=True, slots=True)
class ConvWeightGradient:
    """The gradient of the weight: images (N, C, H, W) with output gradients (N, O, OH, OW) -> (O, C/groups, KH, KW)."""

    conv: Conv2d
    kernel: tuple[int, int]
    name = "conv2d_weight"

    def shape(self, x: Shape, y: Shape) -> Shape:
        """Shape of the result."""
        return (y[1], x[1] // self.conv.groups, *self.kernel)

    def uses_torch(self, x: Shape, y: Shape) -> bool:
        """See `Mul.uses_torch`."""
        weight = self.shape(x, y)
        return _windowed_uses_torch(self.conv.geometry(weight), x, weight, self.conv.groups)

    def apply(self, x: Array, y: Array) -> Array:
        """The sum over all images and windows, modulo 2^64."""
        found = np.zeros(self.shape(x.shape, y.shape), U)
        windows = self.conv.geometry(found.shape)
        for rows, ins, outs in _pieces(windows, x.shape, found.shape, self.conv.groups):
            part = found[outs]
            delta = y[rows, outs].swapaxes(0, 1).reshape(part.shape[0], -1)
            product = MatMul().apply(delta, windows.unfold(x[rows, ins]))
            part += product.reshape(part.shape[0], *self.kernel, part.shape[1]).transpose(0, 3, 1, 2)
        return found


@dataclass(frozen=True, slots=True)
class ConvInputGradient:
    """The gradient of images (H, W) = `image`: output gradients (N, O, OH, OW) with the weight -> (N, C, H, W)."""

    conv: Conv2d
    image: tuple[int, int]
    name = "conv2d_input"

    def shape(self, x: Shape, y: Shape) -> Shape:
        """Shape of the result."""
        return (x[0], y[1] * self.conv.groups, *self.image)

    def uses_torch(self, x: Shape, y: Shape) -> bool:
        """See `Mul.uses_torch`."""
        whole, mirrored = self._as_correlation(x, y)
        return self._correlation().uses_torch(whole, mirrored)

    def apply(self, x: Array, y: Array) -> Array:
        """The transposed convolution modulo 2^64: a correlation with the mirrored kernel."""
        groups = self.conv.groups
        mirrored = y.reshape(groups, -1, *y.shape[1:]).swapaxes(1, 2)[..., ::-1, ::-1]
        stretched = self.conv.geometry(y.shape).stretched(x, self.image)
        return self._correlation().apply(stretched, mirrored.reshape(self._as_correlation(x.shape, y.shape)[1]))

    def _correlation(self) -> Conv2d:
        return Conv2d((1, 1), (0, 0, 0, 0), self.conv.dilation, self.conv.groups)

    def _as_correlation(self, x: Shape, y: Shape) -> tuple[Shape, Shape]:
        """Shapes of the images and the weight of the correlation."""
        groups, dilation = self.conv.groups, self.conv.dilation
        sides = tuple(side + dilation[k] * (y[2 + k] - 1) for k, side in enumerate(self.image))
        return (*x[:2], *sides), (y[1] * groups, y[0] // groups, *y[2:])


def _pieces(windows: Geometry, images: Shape, weight: Shape, groups: int) -> Iterator[tuple[slice, slice, slice]]:
    """Batch, input channels and output channels of the matrix products that make up a convolution."""
    step = windows.rows_at_once(weight[1], images[2], images[3])
    outs = weight[0] // groups
    for start in range(0, images[0], step):
        for g in range(groups):
            ins = slice(g * weight[1], (g + 1) * weight[1])
            yield slice(start, start + step), ins, slice(g * outs, (g + 1) * outs)


def _windowed_uses_torch(windows: Geometry, images: Shape, weight: Shape, groups: int) -> bool:
    height, width = windows.out(images[2], images[3])
    rows = min(images[0], windows.rows_at_once(weight[1], images[2], images[3]))
    taps = weight[1] * weight[2] * weight[3]
    return MatMul().uses_torch((weight[0] // groups, taps), (taps, rows * height * width))


Bilinear = Mul | MatMul | Conv2d | ConvWeightGradient | ConvInputGradient


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

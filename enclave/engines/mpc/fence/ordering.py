"""Comparisons of shares and what follows from them: extrema, clamps, pooling windows.

Bits are integers (no fractional bits). All of it is exact for differences below 2^(63 - frac_bits).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.share import Share
from enclave.engines.mpc.protocols import selection
from enclave.engines.mpc.protocols.comparison import bit_share, compare
from enclave.engines.mpc.session import Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array
from enclave.errors import BadSpec

__all__ = [
    "Windows",
    "equal_zero",
    "highest",
    "index_of",
    "not_negative",
    "onehot_highest",
    "pooled",
    "positive",
    "positive_with_bit",
    "shifted",
]

U = np.uint64


def shifted(x: Share, units: int) -> Share:
    """x plus a public number of units of its last place. Local."""
    if current().rank:
        return x
    return Share.of(x.ring.share + U(units & (1 << 64) - 1), x.dims, x.bits)


def not_negative(x: Share) -> Share:
    """[x >= 0]. Cost: 4 rounds."""
    return Share.wrap(current().engine.ge_zero(x.ring), x.dims)


def equal_zero(x: Share) -> Share:
    """[x = 0]: two thresholds on one mask. Cost: 4 rounds."""
    fence = current()

    def bits(words: Tensor) -> Protocol[Tensor]:
        session: Session = fence.session
        found = yield from compare(session, words, np.array([0, 1], U))
        share = bit_share(session, found)
        return session.local(lambda b: b[0] - b[1], words.shape, share)

    return Share.wrap(fence.engine._flat(x.ring, bits, 0), x.dims)


def positive(x: Share) -> Share:
    """max(x, 0). Cost: 4 rounds."""
    return Share.wrap(current().engine.relu(x.ring), x.dims)


def positive_with_bit(x: Share) -> tuple[Share, Share]:
    """max(x, 0) and [x > 0], of which the gradient of ReLU is made: it is 0 at 0, as torch's. Cost: 4 rounds."""
    engine = current().engine
    above, gate = engine.relu_with_gate(shifted(x, -1).ring)  # max(x - unit, 0) and [x - unit >= 0]
    bit = engine.gate_bit(gate)
    return Share.of(above.share + bit.share, x.dims, x.bits), Share.wrap(bit, x.dims)


def onehot_highest(x: Share, dim: int | None) -> Share:
    """Integer one-hot of the first maximum along an axis (None: of all elements)."""
    if x.dim() == 0 or not x.nelement():
        return Share.public(np.ones(x.dims, np.int64), 0)
    if dim is None:
        flat = x.reshape(-1)
        return onehot_highest(flat, 0).reshape(x.dims)
    axis = dim % x.dim()
    turned = x.transpose(axis, -1) if axis != x.dim() - 1 else x
    hot = Share.wrap(current().engine.argmax_onehot(turned.ring), turned.dims)
    return hot.transpose(axis, -1) if axis != x.dim() - 1 else hot


def highest(x: Share, dim: int | None, keepdim: bool = False) -> Share:
    """The maximum along an axis (None: of all elements). Cost: 4 rounds for each halving."""
    if x.dim() == 0:
        return x
    if dim is None:
        return highest(x.reshape(-1), 0)
    axis = dim % x.dim()
    turned = x.transpose(axis, -1)
    fence, columns = current(), turned.dims[-1]
    rows = turned.ring.share.reshape(-1, columns)
    best = fence.run(selection.maximum(fence.session, rows))
    found = Share.of(best, turned.dims[:-1], x.bits)
    kept = found.unsqueeze(-1).transpose(axis, -1)
    return kept if keepdim else kept.squeeze(axis)


def index_of(hot: Share, dim: int | None, keepdim: bool) -> Share:
    """The index of the one in a one-hot tensor."""
    if dim is None:
        return hot.reshape(-1).mul(torch.arange(hot.nelement())).sum()
    shape = [1] * hot.dim()
    shape[dim] = hot.dims[dim]
    return hot.mul(torch.arange(hot.dims[dim]).reshape(shape)).sum(dim, keepdim=keepdim)


def _pair(value: Any, name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(n, int) for n in pair):
        raise BadSpec(f"{name} must be a number or a pair of numbers, found {value!r}")
    return pair


def _regular_axis(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Array:
    """(positions, cells): the place of every cell of every window along one axis, -1 in the padding."""
    reach = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (reach + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    if count < 1 or reach < 0 or 2 * padding > kernel:
        raise BadSpec(f"a pooling window of {kernel} does not fit into {size} cells")
    cells = np.arange(count)[:, None] * stride - padding + np.arange(kernel) * dilation
    return np.where((cells >= 0) & (cells < size), cells, -1)


def _adaptive_axis(size: int, count: int) -> Array:
    """The same for windows that cover an axis evenly, as torch lays them."""
    starts = [j * size // count for j in range(count)]
    stops = [-(-(j + 1) * size // count) for j in range(count)]
    width = max(stop - start for start, stop in zip(starts, stops, strict=True))
    cells = np.asarray(starts)[:, None] + np.arange(width)
    return np.where(cells < np.asarray(stops)[:, None], cells, -1)


class Windows:
    """The windows of a pooling layer over (N, C, H, W), as places in the flattened image.

    `places` is (positions, cells): the cell's place, or -1 where it lies in the padding.
    """

    def __init__(self, shape: tuple[int, ...], rows: Array, columns: Array) -> None:
        if len(shape) not in (3, 4):
            raise BadSpec(f"pooling needs images of 3 or 4 axes, found shape {shape}")
        self.shape = shape
        self.kernel = (rows.shape[1], columns.shape[1])
        inside = (rows[:, None, :, None] >= 0) & (columns[None, :, None, :] >= 0)
        places = rows[:, None, :, None] * shape[-1] + columns[None, :, None, :]
        self.out = (*shape[:-2], len(rows), len(columns))
        self.places = np.where(inside, places, -1).reshape(len(rows) * len(columns), -1)

    @classmethod
    def regular(
        cls,
        shape: tuple[int, ...],
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Windows:
        """Windows of one size at constant distances."""
        settings = zip(
            shape[-2:],
            _pair(kernel, "kernel_size"),
            _pair(kernel if stride is None else stride, "stride"),
            _pair(padding or 0, "padding"),
            _pair(dilation, "dilation"),
            strict=True,
        )
        return cls(shape, *(_regular_axis(*setting, ceil_mode) for setting in settings))

    @classmethod
    def adaptive(cls, shape: tuple[int, ...], output_size: Any) -> Windows:
        """Windows that give an output of a wanted size; None keeps an axis."""
        wanted = (output_size, output_size) if isinstance(output_size, int | None) else tuple(output_size)
        sizes = [size if count is None else count for size, count in zip(shape[-2:], wanted, strict=True)]
        rows, columns = (_adaptive_axis(size, count) for size, count in zip(shape[-2:], sizes, strict=True))
        return cls(shape, rows, columns)

    def gather(self, x: Share, fill: int = 0) -> Share:
        """(N, C, OH, OW, cells); cells of the padding are the public word `fill`."""
        flat = x.reshape(*self.shape[:-2], -1).view64()
        found = flat[..., torch.from_numpy(np.maximum(self.places, 0))]
        edge = fill if current().rank == 0 else 0
        found = torch.where(torch.from_numpy(self.places < 0), torch.full_like(found, edge), found)
        words: Array = found.contiguous().numpy().view(U)
        return Share.of(words, (*self.out, self.places.shape[1]), x.bits)

    def scatter(self, cells: Share) -> Share:
        """Sums (N, C, OH, OW, cells) back into (N, C, H, W): the transpose of `gather`."""
        values = cells.view64().reshape(*self.shape[:-2], -1)
        places = torch.from_numpy(self.places.reshape(-1))
        kept = places >= 0
        out = torch.zeros((*self.shape[:-2], self.shape[-2] * self.shape[-1]), dtype=torch.int64)
        out.index_add_(len(self.shape) - 2, places[kept], values[..., kept])
        words: Array = out.numpy().view(U)
        return Share.of(words, self.shape, cells.bits)

    @property
    def lowest(self) -> int:
        """A word below every value, whose differences and products with a column count still fit the ring."""
        cells = self.places.shape[1]
        return -(1 << (59 - cells.bit_length()))

    def largest(self, x: Share) -> Share:
        """The maximum of every window."""
        return highest(self.gather(x, self.lowest), -1)

    def largest_with_onehot(self, x: Share) -> tuple[Share, Share]:
        """The maximum of every window, and the one-hot (N, C, OH, OW, cells) of its place."""
        cells = self.gather(x, self.lowest)
        hot = onehot_highest(cells, -1)
        return cells.mul(hot).sum(-1), hot

    def mean(self, x: Share, *, count_padding: bool = True) -> Share:
        """The sum of every window over the number of its cells."""
        return self.gather(x).sum(-1).mul(self.shares(count_padding))

    def shares(self, count_padding: bool) -> Array:
        """One over the number of cells of each window, (OH, OW)."""
        cells = np.full(len(self.places), self.places.shape[1]) if count_padding else (self.places >= 0).sum(axis=1)
        return 1.0 / cells.reshape(self.out[-2:])

    def spread(self, grad: Share, count_padding: bool) -> Share:
        """The transpose of `mean`."""
        return self.scatter(grad.mul(self.shares(count_padding)).unsqueeze(-1).expand(*self.out, self.places.shape[1]))


def pooled(x: Share, windows: Windows) -> tuple[Share, Share]:
    """Max pooling, with the one-hot in CrypTen's form (N, C, OH, OW, KH, KW)."""
    best, hot = windows.largest_with_onehot(x)
    return best, hot.reshape(*windows.out, *windows.kernel)

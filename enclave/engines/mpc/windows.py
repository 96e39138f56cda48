"""Sliding windows of images as the rows of a matrix, and back: what makes a convolution a matrix product.

Words are uint64, arithmetic is modulo 2^64. Padding is (top, left, bottom, right), of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Geometry"]

Array = NDArray[Any]
Pair = tuple[int, int]
_MATRIX_WORDS = 1 << 22  # of one matrix of windows: larger batches go in pieces


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the windows of an image lie."""

    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair = (1, 1)

    def out(self, height: int, width: int) -> Pair:
        """Positions of the window along both axes."""
        top, left, bottom, right = self.padding
        rows = (height + top + bottom - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1
        columns = (width + left + right - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1
        return rows, columns

    def rows_at_once(self, channels: int, height: int, width: int) -> int:
        """Images whose windows together take at most 32 MiB, and at least one."""
        rows, columns = self.out(height, width)
        return max(1, _MATRIX_WORDS // max(1, channels * self.kernel[0] * self.kernel[1] * rows * columns))

    def unfold(self, x: Array) -> Array:
        """(N, C, H, W) -> (N OH OW, KH KW C): every window as a row, channels innermost."""
        top, left, bottom, right = self.padding
        (kh, kw), (dh, dw), (sh, sw) = self.kernel, self.dilation, self.stride
        padded = np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (top, bottom), (left, right), (0, 0)))
        span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
        view = np.lib.stride_tricks.sliding_window_view(np.ascontiguousarray(padded), span, axis=(1, 2))
        taken = view[:, ::sh, ::sw, :, ::dh, ::dw].transpose(0, 1, 2, 4, 5, 3)
        return np.ascontiguousarray(taken).reshape(-1, kh * kw * x.shape[1])

    def fold(self, cells: Array, shape: tuple[int, int, int]) -> Array:
        """(N OH OW, KH KW) -> images of `shape` (N, H, W): each word added where its window lies over it."""
        n, height, width = shape
        top, left, bottom, right = self.padding
        (kh, kw), (dh, dw), (sh, sw) = self.kernel, self.dilation, self.stride
        rows, columns = self.out(height, width)
        parts = cells.reshape(n, rows, columns, kh, kw)
        padded = np.zeros((n, height + top + bottom, width + left + right), cells.dtype)
        for i in range(kh):
            for j in range(kw):
                y, x = i * dh, j * dw
                padded[:, y : y + sh * (rows - 1) + 1 : sh, x : x + sw * (columns - 1) + 1 : sw] += parts[..., i, j]
        return padded[:, top : top + height, left : left + width]

    def stretched(self, delta: Array, image: Pair) -> Array:
        """(N, O, OH, OW) -> (N, O, H + reach, W + reach): what, correlated with the mirrored kernel (dilated, stride
        1), is the gradient of images (H, W). Between the elements lie the stride's zeros."""
        places, sides = [], []
        for axis in (0, 1):
            reach = self.dilation[axis] * (self.kernel[axis] - 1)
            at = np.arange(delta.shape[axis + 2]) * self.stride[axis] + reach - self.padding[axis]
            sides.append(image[axis] + reach)
            places.append((at, (at >= 0) & (at < sides[axis])))  # what lies outside touched padding alone
        out = np.zeros((*delta.shape[:2], *sides), delta.dtype)
        (rows, kept_rows), (columns, kept_columns) = places
        kept = delta[:, :, kept_rows][:, :, :, kept_columns]
        out[:, :, rows[kept_rows][:, None], columns[kept_columns][None, :]] = kept
        return out

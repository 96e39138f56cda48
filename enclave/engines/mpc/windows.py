"""Sliding windows of images as the columns of a matrix, and back: what makes a convolution a matrix product.

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
_COLUMN_WORDS = 1 << 22  # of one matrix of windows: larger batches go in pieces


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
        return max(1, _COLUMN_WORDS // max(1, channels * self.kernel[0] * self.kernel[1] * rows * columns))

    def unfold(self, x: Array) -> Array:
        """(N, C, H, W) -> (C KH KW, N OH OW): every window as a column."""
        top, left, bottom, right = self.padding
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        (kh, kw), (dh, dw), (sh, sw) = self.kernel, self.dilation, self.stride
        span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
        view = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
        return np.ascontiguousarray(view.transpose(1, 4, 5, 0, 2, 3)).reshape(x.shape[1] * kh * kw, -1)

    def fold(self, columns: Array, shape: tuple[int, int, int, int]) -> Array:
        """(C KH KW, N OH OW) -> images of `shape` (N, C, H, W): each word added where its window took it from."""
        n, channels, height, width = shape
        top, left, bottom, right = self.padding
        (kh, kw), (dh, dw), (sh, sw) = self.kernel, self.dilation, self.stride
        rows, places = self.out(height, width)
        parts = columns.reshape(channels, kh, kw, n, rows, places)
        padded = np.zeros((channels, n, height + top + bottom, width + left + right), columns.dtype)
        for i in range(kh):
            for j in range(kw):
                y, x = i * dh, j * dw
                padded[:, :, y : y + sh * (rows - 1) + 1 : sh, x : x + sw * (places - 1) + 1 : sw] += parts[:, i, j]
        inside = padded[:, :, top : top + height, left : left + width]
        return np.ascontiguousarray(inside.transpose(1, 0, 2, 3))

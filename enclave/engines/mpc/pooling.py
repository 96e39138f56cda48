"""Sums over the windows of an image, one axis after the other.

The windows themselves, kernel^2 times the image, are never made: time and memory are bounded by the padded image
and one side of the kernel, also where only shapes are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["window_counts", "window_totals"]

Array = NDArray[Any]


def window_totals(
    a: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
) -> Array:
    """Sums (N, C, OH, OW) of all windows of words (N, C, H, W), padded by 0 (top, left, bottom, right)."""
    top, left, bottom, right = padding
    total = np.pad(a, ((0, 0), (0, 0), (top, bottom), (left, right)))
    for axis, size, step in zip((2, 3), kernel, stride, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(total, size, axis=axis)  # a view
        total = windows[(slice(None),) * axis + (slice(None, None, step),)].sum(axis=-1, dtype=a.dtype)
    return total


def window_counts(
    image: Sequence[int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    include_padding: bool,
) -> NDArray[np.float64]:
    """How many cells each window's mean is over, (OH, OW)."""
    sides = []
    for axis, size in enumerate(image):
        before, after, extent = padding[axis], padding[axis + 2], kernel[axis]
        starts = np.arange(0, size + before + after - extent + 1, stride[axis])
        inside = np.minimum(starts + extent, before + size) - np.maximum(starts, before)
        sides.append(np.full(len(starts), extent) if include_padding else inside)
    found: NDArray[np.float64] = np.multiply.outer(*sides).astype(np.float64)
    return found

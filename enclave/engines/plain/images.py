"""Images in the clear: windows, and the gradients of convolution and pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from enclave.engines.interface import AnyArray, FloatArray
from enclave.errors import BadSpec

__all__ = [
    "Maxima",
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "cut_windows",
    "mean_gradient",
    "pool_windows",
    "spread",
]

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Maxima:
    """Where the maxima of pooling windows are: one-hot (N, C, OH, OW, KH KW), for images of `shape`."""

    hot: AnyArray
    shape: tuple[int, ...]
    kernel: Pair
    stride: Pair
    padding: Padding

    @classmethod
    def of(cls, a: AnyArray, kernel: Pair, stride: Pair, padding: Padding) -> Maxima:
        """By a tournament of halves in which the left one wins ties, as the engine on shares has it."""
        windows = cut_windows(a.astype(np.float64), kernel, stride, padding, -np.inf)
        flat = windows.reshape(*windows.shape[:4], -1)
        places = np.broadcast_to(np.arange(flat.shape[-1]), flat.shape)
        while flat.shape[-1] > 1:
            half = flat.shape[-1] // 2
            left = flat[..., :half] >= flat[..., half : 2 * half]
            flat, places = (
                np.concatenate([np.where(left, b[..., :half], b[..., half : 2 * half]), b[..., 2 * half :]], axis=-1)
                for b in (flat, places)
            )
        hot = (places == np.arange(kernel[0] * kernel[1])).astype(np.int64)
        return cls(hot, a.shape, kernel, stride, padding)

    def gradient(self, delta: AnyArray) -> FloatArray:
        """delta (N, C, OH, OW) where the maxima are, in images."""
        return spread(self.hot * delta[..., None], self.shape, self.kernel, self.stride, self.padding)


def cut_windows(a: FloatArray, kernel: Pair, stride: Pair, padding: Padding, fill: float) -> FloatArray:
    """All pooling windows of the last two axes, (..., OH, OW, KH, KW)."""
    top, left, bottom, right = padding
    padded = np.pad(a, [(0, 0)] * (a.ndim - 2) + [(top, bottom), (left, right)], constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(-2, -1))
    return views[..., :: stride[0], :: stride[1], :, :]


def pool_windows(
    a: AnyArray, kernel: Pair, stride: Pair, padding: Padding, fill: float
) -> tuple[FloatArray, FloatArray]:
    """All pooling windows (N, C, OH, OW, KH, KW), and how many cells of each window are not padding (OH, OW).

    Raises: BadSpec when a window does not fit, or would be padding alone.
    """
    top, left, bottom, right = padding
    if a.ndim != 4:
        raise BadSpec(f"pool2d: expected a 4-d input, found {a.shape}")
    if a.shape[2] + top + bottom < kernel[0] or a.shape[3] + left + right < kernel[1]:
        raise BadSpec(f"pool2d: kernel {kernel} is larger than the padded input {a.shape[2:]}")
    if max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1]:
        raise BadSpec(f"pool2d: padding {padding} fills a window")
    whole = cut_windows(a.astype(np.float64), kernel, stride, padding, fill)
    return whole, cut_windows(np.ones(a.shape[2:]), kernel, stride, padding, 0.0).sum(axis=(-2, -1))


def spread(parts: AnyArray, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Padding) -> FloatArray:
    """Adds (N, C, OH, OW, KH KW) to images of `shape` where the windows lie."""
    import torch

    top, left, bottom, right = padding
    n, c, height, width = shape
    columns = parts.astype(np.float64).reshape(n * c, -1, parts.shape[-1]).swapaxes(1, 2)
    padded = (height + top + bottom, width + left + right)
    found = torch.nn.functional.fold(torch.from_numpy(np.ascontiguousarray(columns)), padded, kernel, stride=stride)
    images: FloatArray = found.numpy().reshape(n, c, *padded)[:, :, top : top + height, left : left + width]
    return images


def mean_gradient(
    delta: AnyArray, image: Pair, kernel: Pair, stride: Pair, padding: Padding, counted: bool
) -> FloatArray:
    """The gradient of images (N, C, *image) whose windows' means have the gradient delta."""
    cells = kernel[0] * kernel[1]
    inside = cut_windows(np.ones(image), kernel, stride, padding, 0.0).sum(axis=(-2, -1))
    part = delta / (cells if counted else inside)
    shape = (*delta.shape[:2], *image)
    return spread(np.broadcast_to(part[..., None], (*part.shape, cells)), shape, kernel, stride, padding)


def conv2d(a: AnyArray, w: AnyArray, stride: Pair, padding: Padding, dilation: Pair, groups: int) -> AnyArray:
    """Cross-correlation of (N, C, H, W) with (O, C/groups, KH, KW). Raises BadSpec where they do not fit."""
    import torch

    if a.ndim != 4 or w.ndim != 4:
        raise BadSpec(f"conv2d: expected 4-d operands, found {a.shape} and {w.shape}")
    if groups < 1 or w.shape[0] % groups or a.shape[1] != w.shape[1] * groups:
        raise BadSpec(f"conv2d: {a.shape[1]} channels and weight {w.shape} do not fit {groups} groups")
    top, left, bottom, right = padding
    window = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    if a.shape[2] + top + bottom < window[0] or a.shape[3] + left + right < window[1]:
        raise BadSpec(f"conv2d: kernel {w.shape[2:]} is larger than the padded input {a.shape[2:]}")
    padded = torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(a)), (left, right, top, bottom))
    kernel = torch.from_numpy(np.ascontiguousarray(w))
    found: AnyArray = torch.nn.functional.conv2d(
        padded, kernel, stride=stride, dilation=dilation, groups=groups
    ).numpy()
    return found


def conv2d_weight_gradient(
    x: AnyArray, delta: AnyArray, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> FloatArray:
    """(O, C/groups, *kernel)."""
    import torch
    from torch.nn import grad

    top, left, bottom, right = padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    gradient: Any = grad.conv2d_weight  # torch gives it no types
    found: FloatArray = gradient(
        torch.from_numpy(padded),
        (delta.shape[1], x.shape[1] // groups, *kernel),
        torch.from_numpy(np.ascontiguousarray(delta)),
        stride=stride,
        dilation=dilation,
        groups=groups,
    ).numpy()
    return found


def conv2d_input_gradient(
    delta: AnyArray, weight: AnyArray, image: Pair, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> FloatArray:
    """(N, C, *image)."""
    import torch
    from torch.nn import grad

    top, left, bottom, right = padding
    (height, width), channels = image, weight.shape[1] * groups
    gradient: Any = grad.conv2d_input  # torch gives it no types
    found = gradient(
        (len(delta), channels, height + top + bottom, width + left + right),
        torch.from_numpy(np.ascontiguousarray(weight)),
        torch.from_numpy(np.ascontiguousarray(delta)),
        stride=stride,
        dilation=dilation,
        groups=groups,
    )
    images: FloatArray = found.numpy()[:, :, top : top + height, left : left + width]
    return images

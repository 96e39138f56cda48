"""Bilinear operations that CrypTen programs use beside those of `protocols.arithmetic`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from enclave.engines.mpc.tape import Array

__all__ = ["BatchMatMul", "Convolution"]

Shape = tuple[int, ...]


def signed(x: Array) -> Any:
    """The torch tensor over a contiguous, writable view or copy of `x`."""
    import torch

    words = np.require(x, np.uint64, ["C", "W"])
    return torch.from_numpy(words.view(np.int64))


@dataclass(frozen=True, slots=True)
class BatchMatMul:
    """Products of stacks of matrices; the leading axes broadcast."""

    name = "batch_matmul"

    def shape(self, x: Shape, y: Shape) -> Shape:
        """Shape of the result; ValueError where there is none."""
        if len(x) < 2 or len(y) < 2 or x[-1] != y[-2]:
            raise ValueError(f"cannot multiply matrices {x} and {y}")
        return (*np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1])

    def uses_torch(self, x: Shape, y: Shape) -> bool:
        """See `arithmetic.Mul.uses_torch`."""
        return True

    def apply(self, x: Array, y: Array) -> Array:
        """x @ y modulo 2^64."""
        import torch

        return cast(Array, torch.matmul(signed(x), signed(y)).numpy().view(np.uint64))


@dataclass(frozen=True, slots=True)
class Convolution:
    """Cross-correlation over one or two axes of (N, C, ...) with (O, C/groups, ...), or its transpose.

    Attributes:
        padding: the same at both ends of each axis.
        output_padding: transposed convolutions only; zeros otherwise.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    transposed: bool
    name = "convolution"

    def shape(self, x: Shape, y: Shape) -> Shape:
        """Shape of the result; ValueError where there is none."""
        axes = len(self.stride)
        if len(x) != axes + 2 or len(y) != axes + 2 or min(*self.stride, *self.dilation, self.groups) < 1:
            raise ValueError(f"cannot convolve {x} with {y} over {axes} axes")
        channels = y[0] if self.transposed else y[1] * self.groups
        if x[1] != channels or y[0] % self.groups:
            raise ValueError(f"cannot convolve {x} with {y} in {self.groups} groups")
        sides = []
        for n, k, stride, pad, dil, extra in zip(
            x[2:], y[2:], self.stride, self.padding, self.dilation, self.output_padding, strict=True
        ):
            if self.transposed:
                sides.append((n - 1) * stride - 2 * pad + dil * (k - 1) + extra + 1)
            else:
                sides.append((n + 2 * pad - dil * (k - 1) - 1) // stride + 1)
        if min(sides) < 1 or min(y[2:]) < 1:
            raise ValueError(f"the convolution of {x} with {y} is empty")
        return (x[0], y[1] * self.groups if self.transposed else y[0], *sides)

    def uses_torch(self, x: Shape, y: Shape) -> bool:
        """See `arithmetic.Mul.uses_torch`."""
        return True

    def apply(self, x: Array, y: Array) -> Array:
        """The convolution modulo 2^64."""
        import torch

        functions: dict[tuple[int, bool], Any] = {
            (1, False): torch.nn.functional.conv1d,
            (2, False): torch.nn.functional.conv2d,
            (1, True): torch.nn.functional.conv_transpose1d,
            (2, True): torch.nn.functional.conv_transpose2d,
        }
        settings: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        if self.transposed:
            settings["output_padding"] = self.output_padding
        found = functions[len(self.stride), self.transposed](signed(x), signed(y), **settings)
        return cast(Array, found.contiguous().numpy().view(np.uint64))

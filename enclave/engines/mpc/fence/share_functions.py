"""What CrypTen's shares can do beside the methods of `Share`: in place, products of vectors, windows, choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self, cast

import torch

from enclave.engines.mpc.fence.mistakes import BadArgument, BadShape, BadValue
from enclave.engines.mpc.fence.operations import Convolution

__all__ = ["ShareFunctions", "convolution_of", "taken"]


def taken(t: torch.Tensor, index: torch.Tensor, dimension: int | None = None) -> torch.Tensor:
    """Elements at flat places, or slices of an axis at places of any shape."""
    if dimension is None:
        return t.take(index)
    axis = dimension % t.dim()
    found = t.index_select(axis, index.reshape(-1))
    return found.reshape(*t.shape[:axis], *index.shape, *t.shape[axis + 1 :])


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    found = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(found) == 1:
        found *= axes
    if len(found) != axes or not all(isinstance(n, int) for n in found):
        raise BadShape(f"windows over {axes} axes need {axes} whole numbers, found {value!r}")
    return found


def convolution_of(
    axes: int,
    transposed: bool,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Convolution:
    """The operation that torch's settings stand for."""
    steps, pads, dilations, extra = (_tuple(value, axes) for value in (stride, padding, dilation, output_padding))
    return Convolution(steps, pads, dilations, extra, groups, transposed)


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: ShareFunctions, *args: Any) -> Any:
        return self.become(function(self, *args))

    return method


def _convolve(axes: int, transposed: bool) -> Callable[..., Any]:
    def method(self: ShareFunctions, kernel: Any, **settings: Any) -> Any:
        return self.convolve(kernel, convolution_of(axes, transposed, **settings))

    return method


class ShareFunctions:
    """Mixed into `Share`."""

    __slots__ = ()

    # What the functions below need of the class they are mixed into.
    add: Callable[..., Any]
    become: Callable[..., Any]
    clone: Callable[..., Any]
    convolve: Callable[..., Any]
    dim: Callable[..., int]
    dims: tuple[int, ...]
    div: Callable[..., Any]
    index_add_: Callable[..., Any]
    mul: Callable[..., Any]
    nelement: Callable[..., int]
    narrow: Callable[..., Any]
    reshape: Callable[..., Any]
    scatter_: Callable[..., Any]
    scatter_add_: Callable[..., Any]
    sub: Callable[..., Any]
    sum: Callable[..., Any]

    add_, sub_ = _in_place(lambda x, y: x.add(y)), _in_place(lambda x, y: x.sub(y))
    mul_, div_ = _in_place(lambda x, y: x.mul(y)), _in_place(lambda x, y: x.div(y))
    neg_, square_ = _in_place(lambda x: x.neg()), _in_place(lambda x: x.square())
    conv1d, conv2d = _convolve(1, False), _convolve(2, False)
    conv_transpose1d, conv_transpose2d = _convolve(1, True), _convolve(2, True)

    def index_add(self, dim: int, index: torch.Tensor, tensor: Any) -> Any:
        """`index_add_` in a copy."""
        return self.clone().index_add_(dim, index, tensor)

    def scatter_add(self, dim: int, index: torch.Tensor, other: Any) -> Any:
        """`scatter_add_` in a copy."""
        return self.clone().scatter_add_(dim, index, other)

    def scatter(self, dim: int, index: torch.Tensor, src: Any) -> Any:
        """`scatter_` in a copy."""
        return self.clone().scatter_(dim, index, src)

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """The mean over all elements or some axes."""
        total = self.sum(*args, **kwargs)
        return total.div(max(1, self.nelement() // max(1, total.nelement())))

    def prod(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """The product of all elements, or along an axis. Cost: 2 rounds for each halving."""
        if dim is None:
            return self.reshape(-1).prod(0)
        rest: Any = self
        while rest.dims[dim] > 1:
            half = rest.dims[dim] // 2
            found = rest.narrow(dim, 0, half).mul(rest.narrow(dim, half, half))
            odd = rest.dims[dim] - 2 * half
            rest = type(self).cat([found, rest.narrow(dim, 2 * half, odd)], dim=dim) if odd else found  # type: ignore[attr-defined]
        return rest if keepdim else rest.squeeze(dim)

    def dot(self, y: Any, weights: Any = None) -> Any:
        """The inner product of two vectors."""
        if self.dim() != 1 or len(y.shape) != 1 or self.dims != tuple(y.shape):
            raise BadArgument(f"a dot product of shapes {self.dims} and {tuple(y.shape)}")
        weighted = self.mul(y)
        return (weighted if weights is None else weighted.mul(weights)).sum()

    def ger(self, y: Any) -> Any:
        """The outer product of two vectors."""
        if self.dim() != 1 or len(y.shape) != 1:
            raise BadArgument(f"an outer product of shapes {self.dims} and {tuple(y.shape)}")
        return self.reshape(-1, 1).mul(y.reshape(1, -1))

    def where(self, condition: Any, y: Any) -> Any:
        """x where the condition is 1, y where it is 0."""
        if isinstance(condition, torch.Tensor):
            mask = condition.float()
            other = y.mul(1 - mask) if isinstance(y, ShareFunctions) else torch.as_tensor(y) * (1 - mask)
            return self.mul(mask).add(other)
        if not isinstance(condition, ShareFunctions):
            raise BadValue(f"a condition is a tensor, found a {type(condition).__name__}")
        return cast(Any, self.sub(y)).mul(condition).add(y)

    def avg_pool2d(self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False) -> Any:
        """Means of windows, the padding counted in."""
        kernel = _tuple(kernel_size, 2)
        return self.sum_pool2d(kernel, stride, padding, ceil_mode).div(math.prod(kernel))

    def sum_pool2d(self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False) -> Self:
        """Sums of windows."""
        if ceil_mode:
            raise BadArgument("sums of windows with ceil_mode")
        kernel, channels = _tuple(kernel_size, 2), self.dims[-3]
        images = self if self.dim() == 4 else self.reshape(1, *self.dims)
        op = convolution_of(2, False, kernel if stride is None else stride, padding, groups=channels)
        found = images.convolve(torch.ones(channels, 1, *kernel), op)
        return cast(Self, found if self.dim() == 4 else found.reshape(*found.dims[1:]))

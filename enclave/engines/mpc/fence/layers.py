"""Layers and their derivatives, which replace CrypTen's; see `gradients`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from enclave.engines.mpc.fence import ordering, sampling
from enclave.engines.mpc.fence.ordering import Windows
from enclave.engines.mpc.fence.share import Share
from enclave.engines.mpc.fence.tensor import TensorMethods
from enclave.errors import BadSpec, Unsupported

__all__ = [
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BatchNorm",
    "Dropout",
    "FeatureDropout",
    "MaxPool2d",
    "convolution",
    "picking",
]


class Dropout:
    """Zeroes elements by a mask that no party knows. Stock's is drawn from torch's generator, equal at all parties."""

    @staticmethod
    def forward(ctx: Any, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if inplace:
            sampling.warn_in_place("dropout")
        return _dropped(ctx, x, x._tensor.dims, p, training)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        if not ctx.saved_tensors:
            return gradient
        keep, p = ctx.saved_tensors
        return gradient.mul(keep).div(1.0 - p) if p < 1 else gradient.mul(0)


class FeatureDropout:
    """Zeroes whole channels."""

    @staticmethod
    def forward(ctx: Any, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if inplace:
            sampling.warn_in_place("_feature_dropout")
        dims = x._tensor.dims
        return _dropped(ctx, x, (*dims[:2], *(1 for _ in dims[2:])), p, training)

    backward = staticmethod(Dropout.backward)


def _dropped(ctx: Any, x: Any, mask_shape: tuple[int, ...], p: float, training: bool) -> Any:
    if not training or p == 0:
        return x.clone()
    keep = x.wrap(sampling.bernoulli_mask(mask_shape, 1.0 - p))
    ctx.save_multiple_for_backward([keep, p])
    return x.mul(keep).div(1.0 - p) if p < 1 else x.mul(0)


class _Picked:
    """Functions whose results are elements of their operand: the gradient goes back to where they came from."""

    @staticmethod
    def run(ctx: Any, x: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        places = function(torch.arange(x.nelement()).reshape(x._tensor.dims)).reshape(-1)
        ctx.save_multiple_for_backward([x._tensor.dims, places])
        return x.wrap(x._tensor.map(function))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        dims, places = ctx.saved_tensors
        zeros = Share.public(torch.zeros(math.prod(dims)), gradient._tensor.bits)
        return gradient.wrap(zeros.index_add_(0, places, gradient._tensor.reshape(-1)).reshape(dims))


def picking(function: Callable[..., torch.Tensor]) -> type:
    class Picked(_Picked):
        @staticmethod
        def forward(ctx: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            return _Picked.run(ctx, x, lambda t: function(t, *args, **kwargs))

    return Picked


class MaxPool2d:
    """Maxima of windows; the gradient goes to the first maximum of each."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Any,
        kernel_size: Any,
        padding: Any = 0,
        stride: Any = None,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        windows = Windows.regular(x._tensor.dims, kernel_size, stride, padding, dilation, ceil_mode)
        best, hot = (x.wrap(share) for share in ordering.pooled(x._tensor, windows))
        ctx.save_multiple_for_backward([windows, hot])
        if not return_indices:
            return best
        ctx.mark_non_differentiable(hot)
        return best, hot

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        windows, hot = ctx.saved_tensors
        cells = hot._tensor.reshape(*windows.out, -1)
        return gradient.wrap(windows.scatter(gradient._tensor.unsqueeze(-1).mul(cells)))


class AdaptiveMaxPool2d:
    """Maxima of windows that give an output of a wanted size."""

    @staticmethod
    def forward(ctx: Any, x: Any, output_size: Any, return_indices: bool = False) -> Any:
        windows = Windows.adaptive(x._tensor.dims, output_size)
        best, hot = (x.wrap(share) for share in ordering.pooled(x._tensor, windows))
        ctx.save_multiple_for_backward([windows, hot])
        if not return_indices:
            return best
        ctx.mark_non_differentiable(hot)
        return best, hot

    backward = staticmethod(MaxPool2d.backward)


class AvgPool2d:
    """Means of windows, the padding counted in."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False
    ) -> Any:
        if ceil_mode:
            raise Unsupported("avg_pool2d(ceil_mode=True)", "CrypTen has no such pooling")
        windows = Windows.regular(x._tensor.dims, kernel_size, stride, padding)
        ctx.save_multiple_for_backward([windows, True])
        return x.wrap(windows.mean(x._tensor))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        windows, count_padding = ctx.saved_tensors
        return gradient.wrap(windows.spread(gradient._tensor, count_padding))


class AdaptiveAvgPool2d:
    """Means of windows that give an output of a wanted size."""

    @staticmethod
    def forward(ctx: Any, x: Any, output_size: Any) -> Any:
        windows = Windows.adaptive(x._tensor.dims, output_size)
        ctx.save_multiple_for_backward([windows, False])
        return x.wrap(windows.mean(x._tensor, count_padding=False))

    backward = staticmethod(AvgPool2d.backward)


def convolution(axes: int) -> type:
    def tuple_of(value: Any) -> tuple[int, ...]:
        found = (value,) * axes if isinstance(value, int) else tuple(value)
        return found * axes if len(found) == 1 else found

    class Convolve:
        """Cross-correlation. The kernel's gradient is one convolution of the operands, where stock repeats the
        gradient for each channel."""

        @staticmethod
        def forward(
            ctx: Any, x: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
        ) -> Any:
            settings = {"stride": tuple_of(stride), "padding": tuple_of(padding), "dilation": tuple_of(dilation)}
            ctx.save_multiple_for_backward([x, kernel, settings, groups])
            call = x.conv1d if axes == 1 else x.conv2d
            return call(kernel, groups=groups, **settings)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            x, kernel, settings, groups = ctx.saved_tensors
            stride, padding, dilation = settings["stride"], settings["padding"], settings["dilation"]
            sizes, cells = x.size()[2:], kernel.size()[2:]
            spare = [
                n - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
                for n, out, s, p, d, k in zip(sizes, gradient.size()[2:], stride, padding, dilation, cells, strict=True)
            ]
            turn = gradient.conv_transpose1d if axes == 1 else gradient.conv_transpose2d
            back = turn(kernel, groups=groups, output_padding=tuple(spare), **settings)
            inputs, outputs = x.size(1) // groups, gradient.size(1) // groups
            parts = []
            for g in range(groups):
                left = x.narrow(1, g * inputs, inputs).transpose(0, 1)
                right = gradient.narrow(1, g * outputs, outputs).transpose(0, 1)
                call = left.conv1d if axes == 1 else left.conv2d
                part = call(right, stride=dilation, padding=padding, dilation=stride).transpose(0, 1)
                for axis, length in enumerate(cells):
                    part = part.narrow(axis + 2, 0, length)
                parts.append(part._tensor)
            return back, gradient.wrap(Share.cat(parts, dim=0))

    return Convolve


def _encrypted(value: Any) -> bool:
    return isinstance(value, TensorMethods)


class BatchNorm:
    """Normalisation by the batch's statistics (training) or the running ones.

    As torch: the batch is normalised by its biased variance, and the running variance takes the unbiased one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Any,
        weight: Any,
        bias: Any,
        running_mean: Any = None,
        running_var: Any = None,
        training: bool = False,
        eps: float = 1e-05,
        momentum: float = 0.1,
        inv_var: Any = None,
    ) -> Any:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1] * x.dim()
        shape[1] = x.size(1)
        count = x.nelement() // x.size(1)
        if training:
            mean = x.mean(axes)
            variance = x.var(axes, unbiased=False)
            if running_mean is not None and running_var is not None:
                sample = variance.mul(momentum * count / max(1, count - 1))
                running_var.set(running_var * (1.0 - momentum) + sample)
                running_mean.set(running_mean * (1.0 - momentum) + mean * momentum)
        elif running_mean is None or running_var is None:
            raise BadSpec("batch normalisation outside of training needs running statistics")
        else:
            mean, variance = running_mean, running_var
        if training or inv_var is None:
            variance = variance + eps
            inv_var = variance.inv_sqrt() if _encrypted(variance) else 1.0 / torch.sqrt(variance)
        inv_var, weight = inv_var.reshape(shape), weight.reshape(shape)
        normal = x.sub(mean.reshape(shape)).mul(inv_var)
        ctx.save_multiple_for_backward([normal, weight, inv_var, training, axes, shape])
        return normal.mul(weight).add(bias.reshape(shape))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        normal, weight, inv_var, training, axes, shape = ctx.saved_tensors
        grad_weight, grad_bias = gradient.mul(normal).sum(axes), gradient.sum(axes)
        scaled = gradient.mul(weight)
        if training:
            count = normal.nelement() // normal.size(1)
            mean = scaled.sum(axes).reshape(shape).div(count)
            slope = scaled.mul(normal).sum(axes).reshape(shape).div(count)
            scaled = scaled.sub(mean).sub(normal.mul(slope))
        return scaled.mul(inv_var), grad_weight, grad_bias

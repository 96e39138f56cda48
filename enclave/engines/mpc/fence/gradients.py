"""Derivatives that replace CrypTen's: entries of `crypten.gradients.FUNCTION_REGISTRY`.

Each is a pair of static functions, forward(ctx, input, ...) and backward(ctx, gradient), called without recording.
Stock's are replaced where they return wrong numbers, draw from torch's generators, or cost much more than needed;
`docs/crypten.md` says which and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from enclave.engines.mpc.fence import functions, ordering, sampling
from enclave.engines.mpc.fence.ordering import Windows
from enclave.engines.mpc.fence.share import Share
from enclave.engines.mpc.fence.tensor import TensorMethods
from enclave.errors import BadSpec, Unsupported

__all__ = ["replacements"]


def _encrypted(value: Any) -> bool:
    return isinstance(value, TensorMethods)


def fitted(gradient: Any, shape: Any) -> Any:
    """Sums a gradient over the axes that were broadcast."""
    while gradient.dim() > len(shape):
        gradient = gradient.sum(0)
    for axis, length in enumerate(shape):
        if length == 1 and gradient.size(axis) > 1:
            gradient = gradient.sum(axis, keepdim=True)
    return gradient


def _axes(dim: Any, count: int) -> tuple[int, ...]:
    wanted = range(count) if dim is None else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(axis % count for axis in wanted)) if count else ()


def _spread(gradient: Any, shape: Any, dim: Any, keepdim: bool) -> Any:
    """The gradient of a reduction, at the shape of what was reduced. Exact."""
    if not keepdim:
        for axis in _axes(dim, len(shape)):
            gradient = gradient.unsqueeze(axis)
    return gradient.expand(*shape) if len(shape) else gradient


class Relu:
    """max(x, 0); the derivative at 0 is 0."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        share, bit = ordering.positive_with_bit(x._tensor)
        ctx.save_for_backward(x.wrap(bit))
        return x.wrap(share)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.mul(ctx.saved_tensors[0])


class Hardtanh:
    """x between two public bounds; the derivative is 0 at and beyond them."""

    @staticmethod
    def forward(ctx: Any, x: Any, min_val: float = -1, max_val: float = 1) -> Any:
        if not min_val < max_val:
            raise BadSpec(f"hardtanh needs min < max, found {min_val} and {max_val}")
        number = functions.number(x._tensor)
        over, above = ordering.positive_with_bit(number.sub(min_val))
        beyond, below = ordering.positive_with_bit(number.sub(max_val))
        ctx.save_for_backward(x.wrap(above.sub(below)))
        return x.wrap(over.sub(beyond).add(min_val))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.mul(ctx.saved_tensors[0])


class Relu6:
    """x between 0 and 6."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return Hardtanh.forward(ctx, x, 0, 6)

    backward = staticmethod(Hardtanh.backward)


class Dropout:
    """Zeroes elements by a mask that no party knows. Stock's is drawn from torch's generator, equal at all parties."""

    @staticmethod
    def forward(ctx: Any, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return _dropped(ctx, x, x._tensor.dims, p, training, inplace)

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
        dims = x._tensor.dims
        return _dropped(ctx, x, (*dims[:2], *(1 for _ in dims[2:])), p, training, inplace)

    backward = staticmethod(Dropout.backward)


def _dropped(ctx: Any, x: Any, mask_shape: tuple[int, ...], p: float, training: bool, inplace: bool) -> Any:
    if inplace:
        raise Unsupported("dropout(inplace=True)", "tensors are not changed in place")
    if not training or p == 0:
        return x.clone()
    keep = x.wrap(sampling.bernoulli_mask(mask_shape, 1.0 - p))
    ctx.save_multiple_for_backward([keep, p])
    return x.mul(keep).div(1.0 - p) if p < 1 else x.mul(0)


class Sum:
    """Sum over all elements or some axes; the gradient is spread without rounding."""

    @staticmethod
    def forward(ctx: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        ctx.save_multiple_for_backward([x.size(), dim, keepdim])
        return x.sum() if dim is None else x.sum(dim, keepdim=keepdim)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return _spread(gradient, *ctx.saved_tensors)


class Mean:
    """Mean over all elements or some axes."""

    @staticmethod
    def forward(ctx: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        ctx.save_multiple_for_backward([x.size(), dim, keepdim])
        return x.mean() if dim is None else x.mean(dim, keepdim=keepdim)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        shape, dim, keepdim = ctx.saved_tensors
        count = math.prod(shape[axis] for axis in _axes(dim, len(shape)))
        return _spread(gradient.div(count), shape, dim, keepdim)


class Variance:
    """Variance, with torch's meaning and default of `unbiased`."""

    @staticmethod
    def forward(ctx: Any, x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False) -> Any:
        mean = x.mean() if dim is None else x.mean(dim, keepdim=True)
        ctx.save_multiple_for_backward([x.sub(mean), dim, bool(unbiased), keepdim])
        return x.var(dim, unbiased=unbiased, keepdim=keepdim)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        centered, dim, unbiased, keepdim = ctx.saved_tensors
        shape = centered.size()
        count = math.prod(shape[axis] for axis in _axes(dim, len(shape))) - unbiased
        return centered.mul(_spread(gradient, shape, dim, keepdim)).mul(2.0 / count)


class Divide:
    """Quotient; an encrypted divisor's reciprocal is multiplied with all its bits."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: Any) -> Any:
        if not _encrypted(y):
            ctx.save_multiple_for_backward([x.size(), None, y])
            return x.div(y)
        inverse = x.wrap(functions.wide_reciprocal(y._tensor))
        found = x.mul(inverse)
        ctx.save_multiple_for_backward([x.size(), found, inverse])
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        shape, found, divisor = ctx.saved_tensors
        if found is None:
            return fitted(gradient.div(divisor), shape)
        scaled = gradient.mul(divisor)
        return fitted(scaled, shape), fitted(scaled.mul(found).neg(), divisor.size())


class Reciprocal:
    """1/x."""

    @staticmethod
    def forward(ctx: Any, x: Any, input_in_01: bool = False) -> Any:
        inverse = x.wrap(functions.wide_reciprocal(x._tensor, positive=input_in_01))
        ctx.save_for_backward(inverse)
        return x.wrap(functions.number(inverse._tensor))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (inverse,) = ctx.saved_tensors
        return gradient.mul(inverse).mul(inverse).neg()


class Log:
    """Natural logarithm."""

    @staticmethod
    def forward(ctx: Any, x: Any, input_in_01: bool = False) -> Any:
        ctx.save_for_backward(x)
        return x.log(input_in_01=input_in_01)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.div(ctx.saved_tensors[0])


class Sqrt:
    """Square root."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        within, inverse = functions._roots(x._tensor)
        ctx.save_for_backward(x.wrap(inverse))
        return x.wrap(within.mul(inverse))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.mul(ctx.saved_tensors[0]).mul(0.5)


class InverseSqrt:
    """x^-1/2, which stock cannot differentiate."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        _, inverse = functions._roots(x._tensor)
        ctx.save_for_backward(x.wrap(inverse))
        return x.wrap(functions.number(inverse))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (inverse,) = ctx.saved_tensors
        return gradient.mul(inverse).mul(inverse).mul(inverse).mul(-0.5)


class Power:
    """x^p for an integer p."""

    @staticmethod
    def forward(ctx: Any, x: Any, power: Any) -> Any:
        ctx.save_multiple_for_backward([x, power])
        return x.pow(power)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, power = ctx.saved_tensors
        return gradient.mul(0) if power == 0 else gradient.mul(x.pow(power - 1)).mul(power)


class PositivePower:
    """x^p for x > 0."""

    @staticmethod
    def forward(ctx: Any, x: Any, power: Any) -> Any:
        if _encrypted(power):
            raise Unsupported("the gradient of pos_pow with an encrypted exponent", "it has none")
        ctx.save_multiple_for_backward([x, power])
        return x.pos_pow(power)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, power = ctx.saved_tensors
        return gradient.mul(x.pos_pow(power - 1)).mul(power)


class Polynomial:
    """The sum of coeffs[k] x^(k + 1). Stock multiplies the program's coefficients in place."""

    @staticmethod
    def forward(ctx: Any, x: Any, coeffs: Any, func: str = "mul") -> Any:
        if _encrypted(coeffs):
            raise Unsupported("the gradient of polynomial with encrypted coefficients", "it has none")
        public = torch.as_tensor(coeffs, dtype=torch.float64)
        ctx.save_multiple_for_backward([x, public])
        return x.polynomial(public, func)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, coeffs = ctx.saved_tensors
        slopes = coeffs * torch.arange(1, len(coeffs) + 1)
        if len(coeffs) == 1:
            return gradient.mul(slopes)
        return gradient.mul(x.polynomial(slopes[1:]).add(slopes[0]))


class Norm:
    """The 1-, 2- and maximum norm over all elements or along one axis."""

    @staticmethod
    def forward(ctx: Any, x: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Any:
        if p in ("fro", 2):
            total = x.square().sum() if dim is None else x.square().sum(dim, keepdim=keepdim)
            within, inverse = functions._roots(total._tensor)
            ctx.save_multiple_for_backward([x, total.wrap(inverse), dim, keepdim])
            return total.wrap(within.mul(inverse))
        if p == 1:
            sign = x.sign()
            ctx.save_multiple_for_backward([sign, None, dim, keepdim])
            size = x.mul(sign)
            return size.sum() if dim is None else size.sum(dim, keepdim=keepdim)
        if p == float("inf"):
            sign = x.sign()
            size = x.mul(sign)
            hot = size.argmax(dim)
            ctx.save_multiple_for_backward([sign.mul(hot), None, dim, keepdim])
            chosen = size.mul(hot)
            return chosen.sum() if dim is None else chosen.sum(dim, keepdim=keepdim)
        raise Unsupported(f"norm(p={p!r})", "norms are 1, 2 and inf")

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, inverse, dim, keepdim = ctx.saved_tensors
        if inverse is not None:
            gradient = gradient.mul(inverse)
        return x.mul(_spread(gradient, x.size(), dim, keepdim))


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


def _picking(function: Callable[..., torch.Tensor]) -> type:
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
    def forward(ctx: Any, x: Any, output_size: Any) -> Any:
        windows = Windows.adaptive(x._tensor.dims, output_size)
        best, hot = (x.wrap(share) for share in windows.largest_with_onehot(x._tensor))
        ctx.save_multiple_for_backward([windows, hot])
        return best

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


def _convolution(axes: int) -> type:
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
            inv_var = (variance + eps).inv_sqrt() if _encrypted(variance) else 1.0 / torch.sqrt(variance + eps)
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


def _entropy(probability: Any, target: Any) -> Any:
    """- mean(t log p + (1 - t) log(1 - p)) for p in [0, 1]."""
    both = Share.stack([probability._tensor, probability._tensor.neg().add(1.0)])
    positive, negative = (probability.wrap(share) for share in functions.log(both, input_in_01=True).unbind(0))
    return positive.sub(negative).mul(target).add(negative).mean().neg()


class BinaryCrossEntropy:
    """The loss of probabilities. Its gradient divides by p and 1 - p, which count as no less than 2^-12."""

    @staticmethod
    def forward(ctx: Any, probability: Any, target: Any, skip_forward: bool = False) -> Any:
        ctx.mark_non_differentiable(target)
        ctx.save_multiple_for_backward([probability, target])
        return probability.new(0) if skip_forward else _entropy(probability, target)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        p, target = ctx.saved_tensors
        both = Share.stack([p._tensor, p._tensor.neg().add(1.0)])
        inverse = functions.wide_reciprocal(both, positive=True)
        positive, negative = (p.wrap(share) for share in inverse.unbind(0))
        slope = negative.mul(target.neg().add(1.0)).sub(positive.mul(target))
        return slope.mul(gradient).div(target.nelement())


class BinaryCrossEntropyWithLogits:
    """The loss of logits."""

    @staticmethod
    def forward(ctx: Any, logit: Any, target: Any, skip_forward: bool = False) -> Any:
        if logit.size() != target.size():
            raise BadSpec(f"logits of shape {tuple(logit.size())} and targets of shape {tuple(target.size())}")
        probability = logit.sigmoid()
        ctx.mark_non_differentiable(target)
        ctx.save_multiple_for_backward([target, probability])
        return logit.new(0) if skip_forward else _entropy(probability, target)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        target, probability = ctx.saved_tensors
        return probability.sub(target).mul(gradient).div(target.nelement())


class CrossEntropy:
    """The loss of logits against one-hot rows: no logarithm of a rounded probability is taken."""

    @staticmethod
    def forward(ctx: Any, logits: Any, target: Any, skip_forward: bool = False) -> Any:
        if logits.size() != target.size():
            raise BadSpec(f"logits of shape {tuple(logits.size())} and targets of shape {tuple(target.size())}")
        dim = 1 if logits.dim() > 1 else 0
        ctx.mark_non_differentiable(target)
        ctx.save_multiple_for_backward([logits.softmax(dim), target])
        if skip_forward:
            return logits.new(0)
        return logits.log_softmax(dim).mul(target).sum().div(target.size(0)).neg()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        softmax, target = ctx.saved_tensors
        return softmax.sub(target).mul(gradient).div(target.size(0))


def replacements() -> dict[str, type]:
    """Name in CrypTen's registry -> our pair of functions."""
    return {
        "_feature_dropout": FeatureDropout,
        "adaptive_avg_pool2d": AdaptiveAvgPool2d,
        "adaptive_max_pool2d": AdaptiveMaxPool2d,
        "avg_pool2d": AvgPool2d,
        "batchnorm": BatchNorm,
        "binary_cross_entropy": BinaryCrossEntropy,
        "binary_cross_entropy_with_logits": BinaryCrossEntropyWithLogits,
        "conv1d": _convolution(1),
        "conv2d": _convolution(2),
        "cross_entropy": CrossEntropy,
        "div": Divide,
        "dropout": Dropout,
        "expand": _picking(torch.Tensor.expand),
        "hardtanh": Hardtanh,
        "inv_sqrt": InverseSqrt,
        "log": Log,
        "max_pool2d": MaxPool2d,
        "mean": Mean,
        "norm": Norm,
        "polynomial": Polynomial,
        "pos_pow": PositivePower,
        "pow": Power,
        "reciprocal": Reciprocal,
        "relu": Relu,
        "relu6": Relu6,
        "repeat": _picking(torch.Tensor.repeat),
        "sqrt": Sqrt,
        "sum": Sum,
        "unfold": _picking(torch.Tensor.unfold),
        "var": Variance,
    }

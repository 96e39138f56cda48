"""Derivatives that replace CrypTen's: entries of `crypten.gradients.FUNCTION_REGISTRY`.

Each is a pair of static functions, forward(ctx, input, ...) and backward(ctx, gradient), called without recording.
Stock's are replaced where they return wrong numbers, draw from torch's generators, or cost much more than needed;
`docs/crypten.md` says which and why.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from enclave.engines.mpc.fence import functions, layers, losses, ordering
from enclave.engines.mpc.fence.share import indexed
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
        if min_val > max_val:
            raise BadSpec(f"hardtanh needs min <= max, found {min_val} and {max_val}")
        number = functions.number(x._tensor)
        over, above = ordering.positive_with_bit(number.sub(min_val))
        room = number.neg().add(max_val)
        under, below = ordering.positive_with_bit(room)
        inside = above.add(below).sub(1) if min_val < max_val else above.sub(above)
        ctx.save_for_backward(x.wrap(inside))
        return x.wrap(over.sub(under.sub(room)).add(min_val))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient.mul(ctx.saved_tensors[0])


class Relu6:
    """x between 0 and 6."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return Hardtanh.forward(ctx, x, 0, 6)

    backward = staticmethod(Hardtanh.backward)


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
    """The sum of coeffs[k] x^(k + 1); coefficients have no gradient. Stock multiplies the program's in place."""

    @staticmethod
    def forward(ctx: Any, x: Any, coeffs: Any, func: str = "mul") -> Any:
        factors = coeffs if _encrypted(coeffs) else torch.as_tensor(coeffs, dtype=torch.float64)
        if _encrypted(coeffs):
            ctx.mark_non_differentiable(coeffs)
        ctx.save_multiple_for_backward([x, factors])
        return x.polynomial(factors, func)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, coeffs = ctx.saved_tensors
        slopes = coeffs * torch.arange(1, coeffs.size(0) + 1)
        if coeffs.size(0) == 1:
            return gradient.mul(slopes)
        return gradient.mul(x.polynomial(slopes[1:]).add(slopes[0]))


class Norm:
    """The p-norm over all elements or along one axis."""

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
        sign = x.sign()
        size = x.mul(sign)
        found = size.norm(p, dim, keepdim)
        # sign |x|^(p - 1) / norm^(p - 1)
        over = found.pos_pow(p - 1)
        inverse = over.wrap(functions.wide_reciprocal(over._tensor, positive=True))
        ctx.save_multiple_for_backward([sign.mul(size.pos_pow(p - 1)), inverse, dim, keepdim])
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, inverse, dim, keepdim = ctx.saved_tensors
        if inverse is not None:
            gradient = gradient.mul(inverse)
        return x.mul(_spread(gradient, x.size(), dim, keepdim))


def replacements() -> dict[str, type]:
    """Name in CrypTen's registry -> our pair of functions."""
    return {
        "__getitem__": layers.picking(indexed),
        "_feature_dropout": layers.FeatureDropout,
        "adaptive_avg_pool2d": layers.AdaptiveAvgPool2d,
        "adaptive_max_pool2d": layers.AdaptiveMaxPool2d,
        "avg_pool2d": layers.AvgPool2d,
        "batchnorm": layers.BatchNorm,
        "binary_cross_entropy": losses.BinaryCrossEntropy,
        "binary_cross_entropy_with_logits": losses.BinaryCrossEntropyWithLogits,
        "conv1d": layers.convolution(1),
        "conv2d": layers.convolution(2),
        "cross_entropy": losses.CrossEntropy,
        "div": Divide,
        "dropout": layers.Dropout,
        "expand": layers.picking(torch.Tensor.expand),
        "hardtanh": Hardtanh,
        "inv_sqrt": InverseSqrt,
        "log": Log,
        "max_pool2d": layers.MaxPool2d,
        "mean": Mean,
        "norm": Norm,
        "polynomial": Polynomial,
        "pos_pow": PositivePower,
        "pow": Power,
        "reciprocal": Reciprocal,
        "relu": Relu,
        "relu6": Relu6,
        "repeat": layers.picking(torch.Tensor.repeat),
        "sqrt": Sqrt,
        "sum": Sum,
        "unfold": layers.picking(torch.Tensor.unfold),
        "var": Variance,
    }

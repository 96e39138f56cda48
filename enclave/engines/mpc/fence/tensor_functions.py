"""Methods of `MPCTensor` that are functions of one tensor: extrema, pooling, smooth functions, randomness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from enclave.engines.mpc.fence import functions, ordering, sampling
from enclave.engines.mpc.fence.conversion import as_sums
from enclave.engines.mpc.fence.mistakes import BadValue
from enclave.engines.mpc.fence.ordering import Windows
from enclave.engines.mpc.fence.share import Share
from enclave.errors import Unsupported

__all__ = ["TensorFunctions", "raw", "unary"]


def raw(value: Any) -> Any:
    """The additive share of an encrypted operand; a public operand as it is."""
    return value.numbers if isinstance(value, TensorFunctions) else value


def unary(function: Callable[..., Share]) -> Any:
    """A method that applies a function of shares."""

    def method(self: TensorFunctions, *args: Any, **kwargs: Any) -> Any:
        return self.wrap(function(self.numbers, *args, **kwargs))

    method.__doc__ = function.__doc__
    return method


class TensorFunctions:
    """Functions of an encrypted tensor. `_tensor` is the `Share`; the arithmetic is `TensorMethods`'."""

    _tensor: Any

    @property
    def numbers(self) -> Share:
        """The additive share; of a tensor that is shared bit by bit, one made for this (one round)."""
        return self._tensor if isinstance(self._tensor, Share) else as_sums(self._tensor)

    # What the functions below need of the tensor they are mixed into.
    wrap: Callable[..., Any]
    clone: Callable[..., Any]
    add: Callable[..., Any]
    mul: Callable[..., Any]
    gt: Callable[..., Any]
    square: Callable[..., Any]

    def sign(self) -> Any:
        """1 where x >= 0, else -1: as CrypTen, 0 counts as positive."""
        return self.wrap(ordering.not_negative(self.numbers).mul(2).sub(1))

    def abs(self) -> Any:
        """|x|."""
        return self.wrap(ordering.positive(self.numbers).mul(2).sub(self.numbers))

    relu = unary(ordering.positive)

    def hardtanh(self, min_value: float = -1, max_value: float = 1) -> Any:
        """x between two public bounds."""
        return self.wrap(functions.clamped(functions.number(self.numbers), min_value, max_value))

    def relu6(self) -> Any:
        """x between 0 and 6."""
        return self.hardtanh(0, 6)

    def where(self, condition: Any, y: Any) -> Any:
        """x where the condition is 1, y where it is 0."""
        if isinstance(condition, TensorFunctions):
            bits, other = condition.numbers, raw(y)
            return self.wrap(self.numbers.sub(other).mul(bits).add(other))
        mask = condition.float()
        other = y.mul(1 - mask) if isinstance(y, TensorFunctions) else torch.as_tensor(y) * (1 - mask)
        return self.mul(mask).add(other)

    def argmax(self, dim: int | None = None, keepdim: bool = False, one_hot: bool = True) -> Any:
        """The first maximum along an axis (None: of all), as a one-hot tensor or an index."""
        hot = ordering.onehot_highest(self.numbers, dim)
        return self.wrap(hot if one_hot else ordering.index_of(hot, dim, keepdim))

    def argmin(self, dim: int | None = None, keepdim: bool = False, one_hot: bool = True) -> Any:
        """The first minimum along an axis (None: of all), as a one-hot tensor or an index."""
        return self.wrap(self.numbers.neg()).argmax(dim, keepdim, one_hot)

    def max(self, dim: int | None = None, keepdim: bool = False, one_hot: bool = True) -> Any:
        """The maximum; along an axis with its place."""
        if dim is None:
            return self.wrap(ordering.highest(self.numbers, None))
        if self.numbers.dim() == 0:
            return self.clone(), self.argmax(one_hot=one_hot)
        hot = ordering.onehot_highest(self.numbers, dim)
        best = self.numbers.mul(hot).sum(dim, keepdim=keepdim)
        return self.wrap(best), self.wrap(hot if one_hot else ordering.index_of(hot, dim, keepdim))

    def min(self, dim: int | None = None, keepdim: bool = False, one_hot: bool = True) -> Any:
        """The minimum; along an axis with its place."""
        found = self.wrap(self.numbers.neg()).max(dim, keepdim, one_hot)
        return found.neg() if dim is None else (found[0].neg(), found[1])

    def max_pool2d(
        self,
        kernel_size: Any,
        padding: Any = 0,
        stride: Any = None,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        """Maxima of windows; with indices, also one-hot windows (N, C, OH, OW, KH, KW)."""
        windows = Windows.regular(self.numbers.dims, kernel_size, stride, padding, dilation, ceil_mode)
        if not return_indices:
            return self.wrap(windows.largest(self.numbers))
        return tuple(self.wrap(share) for share in ordering.pooled(self.numbers, windows))

    def avg_pool2d(self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False) -> Any:
        """Means of windows, the padding counted in."""
        if ceil_mode:
            raise Unsupported("avg_pool2d(ceil_mode=True)", "CrypTen has no such pooling")
        return self.wrap(Windows.regular(self.numbers.dims, kernel_size, stride, padding).mean(self.numbers))

    def adaptive_avg_pool2d(self, output_size: Any) -> Any:
        """Means of windows that give an output of this size."""
        return self.wrap(Windows.adaptive(self.numbers.dims, output_size).mean(self.numbers, count_padding=False))

    def adaptive_max_pool2d(self, output_size: Any, return_indices: bool = False) -> Any:
        """Maxima of windows that give an output of this size; with indices, also one-hot windows."""
        windows = Windows.adaptive(self.numbers.dims, output_size)
        if not return_indices:
            return self.wrap(windows.largest(self.numbers))
        return tuple(self.wrap(share) for share in ordering.pooled(self.numbers, windows))

    # ---- smooth functions: domains in `functions`
    exp = unary(functions.exp)
    log = unary(functions.log)
    reciprocal = unary(functions.reciprocal)
    sqrt = unary(functions.sqrt)
    inv_sqrt = unary(functions.inv_sqrt)
    sigmoid = unary(functions.sigmoid)
    tanh = unary(functions.tanh)
    erf = unary(functions.erf)
    softmax = unary(functions.softmax)
    log_softmax = unary(functions.log_softmax)

    def pow(self, p: Any, **_: Any) -> Any:
        """x^p for an integer p."""
        return self.wrap(functions.power(self.numbers, p))

    def pos_pow(self, p: Any) -> Any:
        """x^p for x > 0 and any public or encrypted p, within the domains of `log` and `exp`."""
        if isinstance(p, int) or (isinstance(p, float) and int(p) == p):
            return self.pow(p)
        return self.log().mul(p).exp()

    def polynomial(self, coeffs: Any, func: str = "mul") -> Any:
        """The sum of coeffs[k] x^(k + 1), for public or encrypted coefficients."""
        if func != "mul":
            raise Unsupported(f"polynomial(func={func!r})", "powers are products")
        factors = raw(torch.tensor(coeffs) if isinstance(coeffs, list | tuple) else coeffs)
        count = factors.size(0)
        powers = self.numbers.unsqueeze(0)
        while powers.dims[0] < count:
            powers = Share.cat([powers, powers.mul(powers[-1:])])
        column = factors.reshape(count, *(1 for _ in self.numbers.dims))
        return self.wrap(powers[:count].mul(column).sum(0))

    def norm(self, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Any:
        """The p-norm over all elements or along one axis; orders besides 1, 2 and inf over `pos_pow`'s domain."""
        if p in ("fro", 2):
            squares = self.square()
            return (squares.sum() if dim is None else squares.sum(dim, keepdim=keepdim)).sqrt()
        if p == 1:
            return self.abs().sum() if dim is None else self.abs().sum(dim, keepdim=keepdim)
        if p == float("inf"):
            return self.wrap(ordering.highest(self.abs().numbers, dim, keepdim))
        if not isinstance(p, int | float) or isinstance(p, bool) or p <= 0:
            raise BadValue(f"norms are of a positive order, found {p!r}")
        powers = self.abs().pos_pow(p)
        return (powers.sum() if dim is None else powers.sum(dim, keepdim=keepdim)).pos_pow(1.0 / p)

    def cossin(self) -> tuple[Any, Any]:
        """(cos x, sin x)."""
        cos, sin = functions.cossin(self.numbers)
        return self.wrap(cos), self.wrap(sin)

    _eix = cossin

    def cos(self) -> Any:
        """The cosine."""
        return self.cossin()[0]

    def sin(self) -> Any:
        """The sine."""
        return self.cossin()[1]

    # ---- randomness that no party knows
    @classmethod
    def rand(cls, *sizes: Any, device: Any = None) -> Any:
        """Uniform in [0, 1)."""
        return cls.wrap(sampling.uniform(sampling.dimensions(sizes)))

    @classmethod
    def randn(cls, *sizes: Any, device: Any = None) -> Any:
        """Standard normal."""
        return cls.wrap(sampling.normal(sampling.dimensions(sizes)))

    def bernoulli(self) -> Any:
        """1 with the probability that the element says."""
        return self.gt(self.rand(self.numbers.dims))

    def dropout(self, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        """Zeroes elements with probability p by a mask that no party knows, and scales the others up."""
        return self._dropped("dropout", self.numbers.dims, p, training, inplace)

    def _feature_dropout(self, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        """Zeroes whole channels with probability p, and scales the others up."""
        dims = self.numbers.dims
        return self._dropped("_feature_dropout", (*dims[:2], *(1 for _ in dims[2:])), p, training, inplace)

    def _dropped(self, name: str, mask: tuple[int, ...], p: float, training: bool, inplace: bool) -> Any:
        found = self.numbers
        if inplace:
            sampling.warn_in_place(name)
        if training and p == 1:
            found = found.mul(0)
        elif training and p > 0:
            found = found.mul(sampling.bernoulli_mask(mask, 1 - p)).div(1 - p)
        if not inplace:
            return self.wrap(found).clone()
        self._tensor = found
        return self

    def weighted_index(self, dim: int | None = None) -> Any:
        """A one-hot tensor along an axis, its place drawn with the given weights."""
        if dim is None:
            return self.wrap(self.numbers.reshape(-1)).weighted_index(0).reshape(self.numbers.dims)
        sums = self.wrap(self.numbers.cumsum(dim))
        total = sums.numbers.narrow(dim, self.numbers.dims[dim] - 1, 1)
        reached = sums.gt(self.rand(total.dims).mul(self.wrap(total)))._tensor
        before = Share.cat([reached.narrow(dim, 0, 1).mul(0), reached.narrow(dim, 0, reached.dims[dim] - 1)], dim=dim)
        return self.wrap(reached.sub(before))

    def weighted_sample(self, dim: int | None = None) -> tuple[Any, Any]:
        """An element drawn with the given weights, and its one-hot place."""
        hot = self.weighted_index(dim)
        chosen = self.mul(hot)
        return (chosen.sum() if dim is None else chosen.sum(dim)), hot

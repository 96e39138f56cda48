"""Can a value of this model leave the fixed-point range? Answered before a job, by interval arithmetic.

A number v is held as round(v 2^f) modulo 2^64. A product of two numbers carries 2f fractional bits until it is
truncated, so a sum of products s wraps when |s| 2^2f >= 2^63, and truncation needs one bit of room. Hence, with
f = frac_bits, for every element of every layer:

    |sum of products|  < 2^(62 - 2f)        linear, conv2d, affine, mul, avg_pool2d (with and without its bias)
    |value|            < 2^(62 - f)         every layer, the input and the weights

At f = 20 that is 4.19 million and 4.4e12. The room of a factor 2 below 2^63 is far larger than what rounding of
inputs and weights adds. Intervals come from the ranges that the encoding declares, which every owner enforces on
its rows: a numeric feature spans (low - shift)/scale .. (high - shift)/scale, of the indicators of a one-hot
feature at most one is 1. For a linear layer right at the input that is used exactly, per group; everywhere else
elements count as independent, so a bound can be larger than any real value, never smaller.

The check runs at the buyer, who alone has the weights.
"""

from __future__ import annotations

import math

import numpy as np

from enclave.errors import BadModel, RangeExceeded
from enclave.messages import Encoding, Layer
from enclave.models.graph import INPUT
from enclave.models.model import FloatArray, Model
from enclave.models.reference import apply_layer

__all__ = ["check_ranges", "ranges"]

_PRODUCTS = ("linear", "conv2d", "affine", "mul", "avg_pool2d")
Interval = tuple[FloatArray, FloatArray]


def check_ranges(model: Model, encoding: Encoding, frac_bits: int, *, rows: int | None = None) -> dict[str, float]:
    """The largest |value| that each layer can reach, its products before truncation included; also of "input".

    Args: rows: of all parties, needed when the encoding asks for standardisation.
    Raises: RangeExceeded naming the first layer that breaks one of the module's two inequalities; BadModel when the
    encoding is not as wide as the model's input.
    """
    product_limit, value_limit = 2.0 ** (62 - 2 * frac_bits), 2.0 ** (62 - frac_bits)
    bounds: dict[str, float] = {}
    known: dict[str, Interval] = {INPUT: _input(model, encoding, rows)}
    _require(INPUT, known[INPUT], value_limit, bounds)
    for name, weight in model.weights.items():
        _require(name, (weight, weight), value_limit, {})
    for layer in model.architecture.layers:
        value, products = _step(model, layer, known, encoding)
        known[layer.name] = value
        if products is not None:
            _require(layer.name, products, product_limit, bounds)
            _require(layer.name, value, product_limit, bounds)
        else:
            _require(layer.name, value, value_limit, bounds)
    return bounds


def ranges(model: Model, encoding: Encoding, *, rows: int | None = None) -> dict[str, tuple[float, float]]:
    """Lowest and highest value that each layer, and "input", can put out."""
    known: dict[str, Interval] = {INPUT: _input(model, encoding, rows)}
    for layer in model.architecture.layers:
        known[layer.name] = _step(model, layer, known, encoding)[0]
    return {name: (float(low.min()), float(high.max())) for name, (low, high) in known.items()}


def _require(name: str, interval: Interval, limit: float, bounds: dict[str, float]) -> None:
    bound = float(max(np.abs(interval[0]).max(), np.abs(interval[1]).max()))
    if not bound < limit:
        raise RangeExceeded(name, bound, limit)
    bounds[name] = max(bound, bounds.get(name, 0.0))


def _input(model: Model, encoding: Encoding, rows: int | None) -> Interval:
    shape = tuple(model.architecture.input_shape)
    if math.prod(shape) != encoding.width:
        raise BadModel(f"the encoding yields {encoding.width} numbers a row, the model takes {shape}")
    if encoding.standardise:
        if rows is None:
            raise ValueError("rows are needed to bound standardised features")
        # Of n numbers with mean 0 and variance 1 none is further from 0 than sqrt(n - 1).
        edge = np.full((1, *shape), math.sqrt(max(1, rows - 1)))
        return -edge, edge
    low, high = np.zeros(encoding.width), np.ones(encoding.width)
    at = 0
    for feature in encoding.features:
        if feature.numeric is not None:
            rule, span = feature.numeric, slice(at, at + feature.width)
            low[span], high[span] = (rule.low - rule.shift) / rule.scale, (rule.high - rule.shift) / rule.scale
        at += feature.width
    return low.reshape(1, *shape), high.reshape(1, *shape)


def _step(
    model: Model, layer: Layer, known: dict[str, Interval], encoding: Encoding
) -> tuple[Interval, Interval | None]:
    """The interval of a layer's output, and of its sums of products before anything is added to them."""
    inputs = [known[name] for name in layer.inputs]
    weights = [model.weights[name] for name in layer.parameters]
    low, high = inputs[0]
    if layer.op in ("linear", "conv2d"):
        if layer.op == "linear" and layer.inputs[0] == INPUT and low.ndim == 2 and not encoding.standardise:
            products = _grouped(weights[0], low, high, encoding)
        else:
            positive, negative = np.maximum(weights[0], 0.0), np.minimum(weights[0], 0.0)
            products = (
                apply_layer(layer, [low], [positive]) + apply_layer(layer, [high], [negative]),
                apply_layer(layer, [high], [positive]) + apply_layer(layer, [low], [negative]),
            )
        if len(weights) == 1:
            return products, products
        bias = weights[1] if layer.op == "linear" else weights[1][:, None, None]
        return (products[0] + bias, products[1] + bias), products
    if layer.op == "affine":
        column = (-1,) + (1,) * (low.ndim - 2)
        scale, shift = (w.reshape(column) for w in weights)
        products = _corners((low, high), (scale, scale))
        return (products[0] + shift, products[1] + shift), products
    if layer.op == "mul":
        products = _corners((low, high), inputs[1] if len(inputs) == 2 else (weights[0], weights[0]))
        return products, products
    if layer.op == "add":
        other = inputs[1] if len(inputs) == 2 else (weights[0], weights[0])
        return (low + other[0], high + other[1]), None
    if layer.op == "softmax":
        return (np.zeros_like(low), np.ones_like(low)), None
    # The rest is monotone in every input, or only moves elements.
    value = (
        apply_layer(layer, [v[0] for v in inputs], weights),
        apply_layer(layer, [v[1] for v in inputs], weights),
    )
    return value, value if layer.op in _PRODUCTS else None


def _corners(left: Interval, right: Interval) -> Interval:
    products = np.stack(np.broadcast_arrays(*(a * b for a in left for b in right)))
    low: FloatArray = products.min(axis=0)
    high: FloatArray = products.max(axis=0)
    return low, high


def _grouped(weight: FloatArray, low: FloatArray, high: FloatArray, encoding: Encoding) -> Interval:
    """x @ W over the encoded input: of each one-hot group at most one row of W counts, and maybe none."""
    total_low, total_high = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    at = 0
    for feature in encoding.features:
        span = slice(at, at + feature.width)
        part = weight[span]
        if feature.one_hot is not None:
            total_low += np.minimum(part.min(axis=0), 0.0)
            total_high += np.maximum(part.max(axis=0), 0.0)
        else:
            ends = part * low[0, span, None], part * high[0, span, None]
            total_low += np.minimum(*ends).sum(axis=0)
            total_high += np.maximum(*ends).sum(axis=0)
        at += feature.width
    return total_low[None], total_high[None]

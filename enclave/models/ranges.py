"""Can a value of this model leave the fixed-point range? Answered before a job, by interval arithmetic.

A number v is held as round(v 2^f) modulo 2^64. A product of two numbers carries 2f fractional bits until it is
truncated, which needs one bit of room below 2^63; another is kept for what rounding adds. Hence, with f = frac_bits
and weights rounded as they will be, for every element of every layer:

    |sum of products|  < 2^(61 - 2f)        linear, conv2d, affine, mul (with and without the bias)
    |sum of a window|  < 2^(43 - f)         avg_pool2d: the sum meets a factor of 18 bits
    |value|            < 2^(61 - f)         every layer, the input and the weights

and what goes into a function has the room that the function's own steps take:

    sigmoid 2^(60 - g)   tanh 2^(59 - g)   max_pool2d with padding 2^(60 - g)
    softmax 2^(60 - g - b) for columns of b bits, if a tournament finds their maximum (more than 16)

A product is truncated as late as possible: what only adds, moves or compares it still holds 2f fractional bits. So g
is 2f from a product on, through add, concat, max_pool2d, flatten and reshape, and f after any other function; the
limit of such a value is that of a product. At f = 20 that is 2.1 million, and 2.2e12 for a value with f.

Intervals come from the ranges that the encoding declares, which every owner enforces on its rows: a numeric feature
spans (low - shift)/scale .. (high - shift)/scale, of the indicators of a one-hot feature at most one is 1. For a
linear layer right at the input that is used exactly, per group; everywhere else elements count as independent, so a
bound can be larger than any real value, never smaller.

The check runs at the buyer, who alone has the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from enclave.errors import BadModel, RangeExceeded
from enclave.messages import Encoding, Layer
from enclave.models.graph import INPUT
from enclave.models.model import FloatArray, Model
from enclave.models.reference import apply_layer

__all__ = ["Interval", "Reach", "check_ranges", "intervals", "ranges", "reaches", "rounded_model"]

_PRODUCTS = ("linear", "conv2d", "affine", "mul")
_NARROW = {"sigmoid": 60, "tanh": 59, "softmax": 60, "max_pool2d": 60}
_BITS = 61
_FACTOR_BITS = 18
_NARROWED = ("relu", "sigmoid", "tanh", "softmax", "avg_pool2d")  # put out frac_bits whatever they took
Interval = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the values of a layer can go.

    Attributes:
        bound: the largest |value|, products before anything is added to them included.
        limit: what is allowed, by the inequality that is closest to being broken.
        used: that inequality's left side over its right side, below 1.
        wide: whether values still have the 2 frac_bits fractional bits of a product.
    """

    name: str
    op: str
    bound: float
    limit: float
    used: float
    wide: bool


def check_ranges(
    model: Model,
    encoding: Encoding,
    frac_bits: int,
    *,
    rows: int | None = None,
    holders: int = 1,
    outputs: Sequence[str] = (),
    error_limit: float | None = None,
) -> dict[str, float]:
    """The `bound` of each layer and of "input" by name; arguments and errors as for `reaches`."""
    found = reaches(model, encoding, frac_bits, rows=rows, holders=holders, outputs=outputs, error_limit=error_limit)
    return {reach.name: reach.bound for reach in found}


def reaches(
    model: Model,
    encoding: Encoding,
    frac_bits: int,
    *,
    rows: int | None = None,
    holders: int = 1,
    outputs: Sequence[str] = (),
    error_limit: float | None = None,
) -> tuple[Reach, ...]:
    """How far "input" and each layer can go, in the order of execution.

    Args:
        rows: of all parties, needed when the encoding asks for standardisation.
        holders: how many parties have rows; with several, standardisation is part of the first product.
        outputs: of the job. Where an error is squared, output - target has to be within `error_limit`; the output of
            a class metric has to fit what compares it.
        error_limit: what an error may be, needed for rmse and r2.

    Raises: RangeExceeded naming the first layer that breaks one of the module's inequalities; BadModel when the
        encoding is not as wide as the model's input.
    """
    product_limit, value_limit = 2.0 ** (_BITS - 2 * frac_bits), 2.0 ** (_BITS - frac_bits)
    known: dict[str, Interval] = {INPUT: _input(model, encoding, rows)}
    wide = {INPUT: False}
    found = [_reach(INPUT, "encoding", [(known[INPUT], value_limit)], False)]
    for name, weight in model.weights.items():
        _used(name, (weight, weight), value_limit)
    rounded = rounded_model(model, frac_bits)
    for layer in rounded.architecture.layers:
        taken = known[layer.inputs[0]]
        value, products = _step(rounded, layer, known, encoding)
        known[layer.name], wide[layer.name] = value, _is_wide(layer, wide)
        checks = [(value, product_limit if wide[layer.name] else value_limit)]
        if products is not None:
            checks.insert(0, (products, product_limit))
        digits = frac_bits * (2 if wide[layer.inputs[0]] else 1)
        if layer.op in _NARROW:
            _used(layer.name, taken, 2.0 ** (_input_bits(layer, taken[0].shape[-1]) - digits))
        if layer.op == "avg_pool2d":
            window = layer.ints[0] * layer.ints[1]
            checks.append((value, min(2.0 ** (_BITS - _FACTOR_BITS - frac_bits), 2.0 ** (_BITS - digits)) / window))
        found.append(_reach(layer.name, layer.op, checks, wide[layer.name]))
    if encoding.standardise and holders > 1:
        _check_folded(rounded, encoding, frac_bits)
    last = rounded.architecture.layers[-1]
    digits = frac_bits * (2 if wide[last.name] else 1)
    _check_output(last.name, known[last.name], encoding, digits, outputs, error_limit)
    if "mean_score" in outputs and rows is not None:
        scores = known[last.inputs[0] if last.op in ("sigmoid", "softmax") else last.name]
        _used("the sum of mean_score", (rows * scores[0], rows * scores[1]), value_limit)
    return tuple(found)


def _is_wide(layer: Layer, wide: dict[str, bool]) -> bool:
    if layer.op in _NARROWED:
        return False
    return layer.op in _PRODUCTS or any(wide[name] for name in layer.inputs)


def _reach(name: str, op: str, checks: Iterable[tuple[Interval, float]], wide: bool) -> Reach:
    """Of several inequalities the bound is the largest, and what stands beside it the one closest to being broken."""
    bound = used = limit = 0.0
    for interval, allowed in checks:
        part = _used(name, interval, allowed)
        bound = max(bound, part * allowed)
        if part >= used:
            used, limit = part, allowed
    return Reach(name, op, bound, limit, used, wide)


def _used(name: str, interval: Interval, limit: float) -> float:
    """|interval| over the limit. Raises RangeExceeded unless that is below 1."""
    bound = float(max(np.abs(interval[0]).max(), np.abs(interval[1]).max()))
    if not bound < limit:
        raise RangeExceeded(name, bound, limit)
    return bound / limit


def rounded_model(model: Model, frac_bits: int) -> Model:
    """The model with its weights as the engine encodes them."""
    weights = {n: np.ldexp(np.rint(np.ldexp(w, frac_bits)), -frac_bits) for n, w in model.weights.items()}
    return Model(model.architecture, weights)


def _input_bits(layer: Layer, width: int) -> int:
    """log2 of what may go into a function, without the fractional bits."""
    if layer.op == "softmax":
        return _largest_bits(width)
    if layer.op == "max_pool2d":
        return 60 if any(layer.ints[4:8]) else _BITS
    return _NARROW[layer.op]


def _largest_bits(columns: int) -> int:
    """The same for what the first maximum is found of; beyond 16 columns a key carries its column in low bits."""
    return 60 - (columns.bit_length() if columns > 16 else 0)


def _check_output(
    name: str, value: Interval, encoding: Encoding, digits: int, outputs: Sequence[str], error_limit: float | None
) -> None:
    """`digits`: fractional bits that the value has."""
    width = value[0].shape[-1]
    if {"accuracy", "confusion"} & set(outputs):
        _used(name, value, 2.0 ** (_largest_bits(width) - digits))
    if "auc" in outputs:
        _used(name, value, 2.0 ** (60 - digits))
    target = encoding.target.numeric if encoding.target is not None else None
    if error_limit is None or target is None or not {"rmse", "r2"} & set(outputs):
        return
    low, high = (target.low - target.shift) / target.scale, (target.high - target.shift) / target.scale
    if encoding.standardise:
        # The bounds of standardised rows are those of one row among equals: much larger than real ones. Refused is
        # what is outside for every row; a row that is outside after all makes the job say so at its end.
        apart = np.maximum(np.maximum(value[0] - high, low - value[1]), 0.0)
        _used(f"{name} - target", (apart, apart), error_limit)
    else:
        _used(f"{name} - target", (value[0] - high, value[1] - low), error_limit)


def _check_folded(model: Model, encoding: Encoding, frac_bits: int) -> None:
    """Rows of several holders stay in column units, |u| <= 16, and meet weights divided by the deviation.

    A deviation counts as at least 2^((6 - f) / 2). The shift by the mean comes after the product, so that no bound
    of standardised rows holds for it.
    """
    for layer in model.architecture.layers:
        if layer.op == "linear" and layer.inputs[0] == INPUT and len(model.architecture.input_shape) == 1:
            folded = np.abs(model.weights[layer.parameters[0]]).sum(axis=0) * 16.0 * 2.0 ** ((frac_bits - 6) / 2)
            _used(layer.name, (folded, folded), 2.0 ** (_BITS - 2 * frac_bits))


def ranges(model: Model, encoding: Encoding, *, rows: int | None = None) -> dict[str, tuple[float, float]]:
    """Lowest and highest value that each layer, and "input", can put out."""
    found = intervals(model, encoding, rows=rows)
    return {name: (float(low.min()), float(high.max())) for name, (low, high) in found.items()}


def intervals(model: Model, encoding: Encoding, *, rows: int | None = None) -> dict[str, Interval]:
    """The same for every element: arrays of shape (1, *row) by layer."""
    known: dict[str, Interval] = {INPUT: _input(model, encoding, rows)}
    for layer in model.architecture.layers:
        known[layer.name] = _step(model, layer, known, encoding)[0]
    return known


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

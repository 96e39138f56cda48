"""What a model computes, in float64: the meaning of every operator, for tests and for checks at the buyer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from enclave.errors import BadModel
from enclave.messages import Layer
from enclave.models.graph import INPUT
from enclave.models.model import FloatArray, Model

__all__ = ["apply_layer", "forward_all", "forward_float"]


def forward_float(model: Model, x: FloatArray) -> FloatArray:
    """The model's output for rows `x`.

    Args: x (rows, *input_shape), or (rows, prod(input_shape)), which is reshaped row-major.
    Returns: (rows, *output shape), float64. Raises: BadModel when `x` does not fit.
    """
    return forward_all(model, x)[model.architecture.layers[-1].name]


def forward_all(model: Model, x: FloatArray) -> dict[str, FloatArray]:
    """The output of every layer by name, and the reshaped rows as "input"."""
    expected = tuple(model.architecture.input_shape)
    array = np.asarray(x, dtype=np.float64)
    if array.ndim < 1 or array[:1].size not in (0, int(np.prod(expected))):
        raise BadModel(f"rows must have shape {expected}, found {array.shape[1:]}")
    values: dict[str, FloatArray] = {INPUT: array.reshape(len(array), *expected)}
    for layer in model.architecture.layers:
        inputs = [values[name] for name in layer.inputs]
        values[layer.name] = apply_layer(layer, inputs, [model.weights[name] for name in layer.parameters])
    return values


Arrays = Sequence[FloatArray]


def apply_layer(layer: Layer, inputs: Arrays, weights: Arrays) -> FloatArray:
    """One checked layer on arrays with a batch axis."""
    return _FORWARD[layer.op](layer, inputs, weights)


def _linear(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    y: FloatArray = xs[0] @ ws[0]
    return y + ws[1] if len(ws) == 2 else y


def _windows(x: FloatArray, kernel: tuple[int, int], ints: Sequence[int], fill: float) -> FloatArray:
    """(N, C, OH, OW, KH, KW); ints = sh sw pt pl pb pr[, dh, dw]."""
    sh, sw, top, left, bottom, right = ints[:6]
    dh, dw = ints[6:8] if len(ints) >= 8 else (1, 1)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    span = (dh * (kernel[0] - 1) + 1, dw * (kernel[1] - 1) + 1)
    view: FloatArray = sliding_window_view(padded, span, axis=(2, 3))
    return view[:, :, ::sh, ::sw, ::dh, ::dw]


def _conv2d(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    weight, groups = ws[0], layer.ints[8]
    windows = _windows(xs[0], (weight.shape[2], weight.shape[3]), layer.ints, 0.0)
    pieces = [
        np.einsum("nchwij,ocij->nohw", part, kernel, optimize=True)
        for part, kernel in zip(np.split(windows, groups, axis=1), np.split(weight, groups, axis=0), strict=True)
    ]
    y: FloatArray = np.concatenate(pieces, axis=1)
    return y + ws[1][:, None, None] if len(ws) == 2 else y


def _max_pool2d(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    y: FloatArray = _windows(xs[0], (layer.ints[0], layer.ints[1]), layer.ints[2:8], -np.inf).max(axis=(-1, -2))
    return y


def _avg_pool2d(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    kernel = (layer.ints[0], layer.ints[1])
    total = _windows(xs[0], kernel, layer.ints[2:8], 0.0).sum(axis=(-1, -2))
    if layer.ints[8]:
        y: FloatArray = total / (kernel[0] * kernel[1])
        return y
    inside = _windows(np.ones((1, 1, *xs[0].shape[2:])), kernel, layer.ints[2:8], 0.0).sum(axis=(-1, -2))
    y = total / inside
    return y


def _relu(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    return np.maximum(xs[0], 0.0)


def _sigmoid(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    # tanh saturates without overflow where exp would not.
    y: FloatArray = 0.5 + 0.5 * np.tanh(0.5 * xs[0])
    return y


def _tanh(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    y: FloatArray = np.tanh(xs[0])
    return y


def _softmax(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    e: FloatArray = np.exp(xs[0] - xs[0].max(axis=-1, keepdims=True))
    y: FloatArray = e / e.sum(axis=-1, keepdims=True)
    return y


def _flatten(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    return xs[0].reshape(len(xs[0]), int(np.prod(xs[0].shape[1:])))


def _reshape(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    return xs[0].reshape(len(xs[0]), *layer.ints)


def _affine(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    tail = (1,) * (xs[0].ndim - 2)
    return xs[0] * ws[0].reshape(-1, *tail) + ws[1].reshape(-1, *tail)


def _add(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    return xs[0] + (xs[1] if len(xs) == 2 else ws[0])


def _mul(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    return xs[0] * (xs[1] if len(xs) == 2 else ws[0])


def _concat(layer: Layer, xs: Arrays, ws: Arrays) -> FloatArray:
    y: FloatArray = np.concatenate(xs, axis=layer.ints[0] + 1)
    return y


_FORWARD: Mapping[str, Callable[[Layer, Arrays, Arrays], FloatArray]] = MappingProxyType(
    {
        "linear": _linear,
        "conv2d": _conv2d,
        "relu": _relu,
        "sigmoid": _sigmoid,
        "tanh": _tanh,
        "softmax": _softmax,
        "max_pool2d": _max_pool2d,
        "avg_pool2d": _avg_pool2d,
        "flatten": _flatten,
        "reshape": _reshape,
        "affine": _affine,
        "add": _add,
        "mul": _mul,
        "concat": _concat,
    }
)

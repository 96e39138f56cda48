"""Exact simplification: scales and shifts beside a linear layer or a convolution become part of its weights.

Batch normalisation, the bias of a MatMul, a StandardScaler or a division by 255 would each cost a secret product
and a truncation per element. Folded they cost nothing. What is folded is a layer that maps x to x * scale + shift
(affine, or add and mul with a parameter) and keeps the shape, next to a layer that is its only neighbour there;
between the two may stand a flatten or reshape to one axis. Weights shared by two layers are left alone.
"""

from __future__ import annotations

import numpy as np

from enclave.messages import Architecture, Layer, TensorType
from enclave.models.graph import Shape, shapes
from enclave.models.model import FloatArray, Model

__all__ = ["fold"]

_WEIGHTED = ("linear", "conv2d")


def fold(model: Model) -> Model:
    """The same function with fewer layers; the output layer's name may change."""
    while True:
        smaller = _fold_one(model)
        if smaller is None:
            return model
        model = smaller


def _fold_one(model: Model) -> Model | None:
    known = shapes(model.architecture)
    layers = {layer.name: layer for layer in model.architecture.layers}
    users: dict[str, list[Layer]] = {}
    for layer in model.architecture.layers:
        for name in layer.inputs:
            users.setdefault(name, []).append(layer)
    for layer in model.architecture.layers:
        if not _keeps_shape(layer, known):
            continue
        before = layers.get(layer.inputs[0])
        if before is not None and before.op in _WEIGHTED and len(users[before.name]) == 1 and _owns(before, model):
            weights = _after(before, layer, model, known)
            if weights is not None:
                return _without(model, layer, before, weights)
        after, flat = _only_user(layer, users, known)
        if after is not None and after.op in _WEIGHTED and _owns(after, model):
            weights = _ahead(after, layer, model, known, flat)
            if weights is not None:
                return _without(model, layer, after, weights)
    return None


def _keeps_shape(layer: Layer, known: dict[str, Shape]) -> bool:
    elementwise = layer.op == "affine" or (layer.op in ("add", "mul") and len(layer.parameters) == 1)
    return elementwise and known[layer.name] == known[layer.inputs[0]]


def _owns(layer: Layer, model: Model) -> bool:
    others = [p for other in model.architecture.layers if other.name != layer.name for p in other.parameters]
    return not set(layer.parameters) & set(others)


def _only_user(layer: Layer, users: dict[str, list[Layer]], known: dict[str, Shape]) -> tuple[Layer | None, bool]:
    """The one layer that takes the output of `layer`, and whether it is flattened on the way."""
    after = users.get(layer.name, [])
    if len(after) == 1 and after[0].op in ("flatten", "reshape") and len(known[after[0].name]) == 1:
        further = users.get(after[0].name, [])
        return (further[0], True) if len(further) == 1 else (None, True)
    return (after[0], False) if len(after) == 1 else (None, False)


def _scale_shift(layer: Layer, model: Model, row: Shape) -> tuple[FloatArray, FloatArray]:
    """What the layer multiplies by and adds, each with as many axes as a row."""
    values = [model.weights[p] for p in layer.parameters]
    if layer.op == "affine":
        column = (-1,) + (1,) * (len(row) - 1)
        return values[0].reshape(column), values[1].reshape(column)
    value = values[0].reshape((1,) * (len(row) - values[0].ndim) + values[0].shape)
    neutral = np.ones_like(value) if layer.op == "add" else np.zeros_like(value)
    return (neutral, value) if layer.op == "add" else (value, neutral)


def _along(value: FloatArray, axis: int, size: int) -> FloatArray | None:
    """`value` as a vector along one axis of a row, or None when it varies along another."""
    if any(n != 1 for i, n in enumerate(value.shape) if i != axis):
        return None
    return np.broadcast_to(value.reshape(-1), (size,))


def _after(before: Layer, layer: Layer, model: Model, known: dict[str, Shape]) -> list[FloatArray] | None:
    """Weights of `before` followed by `layer`: (x W + b) s + t = x (W s) + (b s + t)."""
    row = known[before.name]
    axis = len(row) - 1 if before.op == "linear" else 0
    scale, shift = (_along(v, axis, row[axis]) for v in _scale_shift(layer, model, row))
    if scale is None or shift is None:
        return None
    weight = model.weights[before.parameters[0]]
    bias = model.weights[before.parameters[1]] if len(before.parameters) == 2 else np.zeros(row[axis])
    factor = scale if before.op == "linear" else scale[:, None, None, None]
    return [weight * factor, bias * scale + shift]


def _ahead(after: Layer, layer: Layer, model: Model, known: dict[str, Shape], flat: bool) -> list[FloatArray] | None:
    """Weights of `layer` followed by `after`: (x s + t) W + b = x (s W) + (t W + b)."""
    row = known[layer.name]
    scale, shift = _scale_shift(layer, model, row)
    weight = model.weights[after.parameters[0]]
    if flat and after.op == "linear":
        vectors: list[FloatArray | None] = [np.broadcast_to(v, row).reshape(-1) for v in (scale, shift)]
    elif flat:
        return None
    else:
        axis = len(row) - 1 if after.op == "linear" else 0
        vectors = [_along(v, axis, row[axis]) for v in (scale, shift)]
    if vectors[0] is None or vectors[1] is None:
        return None
    s, t = vectors[0], vectors[1]
    if after.op == "linear":
        bias = model.weights[after.parameters[1]] if len(after.parameters) == 2 else np.zeros(weight.shape[1])
        return [s[:, None] * weight, t @ weight + bias]
    if any(after.ints[2:6]) and np.any(t):
        return None  # padding is added behind the shift: the border would get what it must not
    groups, out = after.ints[8], weight.shape[0]
    per_output = [np.split(v, groups)[o * groups // out] for o in range(out) for v in (s, t)]
    s_out, t_out = np.stack(per_output[0::2]), np.stack(per_output[1::2])
    bias = model.weights[after.parameters[1]] if len(after.parameters) == 2 else np.zeros(out)
    return [weight * s_out[:, :, None, None], bias + np.einsum("ocij,oc->o", weight, t_out)]


def _without(model: Model, gone: Layer, changed: Layer, values: list[FloatArray]) -> Model:
    """The model without layer `gone`, with new weights for `changed`."""
    names = (changed.parameters[0], changed.parameters[1] if len(changed.parameters) == 2 else f"{changed.name}.bias")
    taken = {p.name for p in model.architecture.parameters} - set(changed.parameters)
    if names[1] in taken:
        names = (names[0], f"{names[1]}.folded")
    kept: list[Layer] = []
    for layer in model.architecture.layers:
        if layer.name == gone.name:
            continue
        inputs = tuple(gone.inputs[0] if name == gone.name else name for name in layer.inputs)
        parameters = names if layer.name == changed.name else layer.parameters
        kept.append(Layer(layer.op, layer.name, inputs, parameters, layer.ints))
    weights = {**model.weights, names[0]: values[0], names[1]: values[1]}
    order = list(dict.fromkeys(p for layer in kept for p in layer.parameters))
    tensors = tuple(TensorType(name, weights[name].shape) for name in order)
    architecture = Architecture(model.architecture.input_shape, tuple(kept), tensors)
    return Model(architecture, {name: weights[name] for name in order})

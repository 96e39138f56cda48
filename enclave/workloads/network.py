"""An architecture applied to secrets: one engine call, or a few local ones, per operator of the graph.

Weights keep their `Secret` from block to block, so that an engine opens each weight's mask once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from enclave.engines.interface import Engine, Secret
from enclave.errors import BadModel
from enclave.messages import Architecture, Layer
from enclave.models.commute import pooled_first

__all__ = ["forward", "without_final"]

_Apply = Callable[[Engine, Layer, Sequence[Secret], Sequence[Secret]], Secret]


def forward(engine: Engine, architecture: Architecture, weights: Mapping[str, Secret], x: Secret) -> Secret:
    """The outputs of a block of rows.

    Args:
        architecture: accepted by `enclave.models.graph.shapes`.
        weights: one secret per declared parameter.
        x: numbers (rows, *input_shape).

    A ReLU before a max_pool2d is computed after it, which is the same function.

    Returns: numbers (rows, *output shape).
    """
    architecture = pooled_first(architecture)
    last_use = {name: i for i, layer in enumerate(architecture.layers) for name in layer.inputs}
    values: dict[str, Secret] = {"input": x}
    found = x
    for i, layer in enumerate(architecture.layers):
        operator = _OPERATORS.get(layer.op)
        if operator is None:
            raise BadModel(f"layer {layer.name}: operator {layer.op!r} is not supported")
        inputs = [values[name] for name in layer.inputs]
        with engine.stage(layer.name):
            found = operator(engine, layer, inputs, [weights[name] for name in layer.parameters])
        values[layer.name] = found
        for name in {n for n in layer.inputs if last_use[n] == i}:
            del values[name]
    return found


def without_final(architecture: Architecture, ops: Sequence[str]) -> Architecture:
    """The architecture without its last layer, if that is one of `ops` and not the only one.

    Safety: what precedes the last layer must become the last; a layer that reads only its predecessor ensures it.
    """
    if len(architecture.layers) < 2:
        return architecture
    last, before = architecture.layers[-1], architecture.layers[-2]
    if last.op not in ops or last.inputs != (before.name,) or last.parameters:
        return architecture
    return Architecture(architecture.input_shape, architecture.layers[:-1], architecture.parameters)


def _linear(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    (x,), weight = inputs, params[0]
    lead = x.shape[:-1]
    flat = x if len(lead) == 1 else engine.reshape(x, (math.prod(lead), x.shape[-1]))
    y = engine.matmul(flat, weight, lazy=True)
    if len(params) == 2:
        y = engine.add(y, params[1])
    return y if len(lead) == 1 else engine.reshape(y, (*lead, weight.shape[1]))


def _conv2d(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    sh, sw, top, left, bottom, right, dh, dw, groups = layer.ints
    y = engine.conv2d(
        inputs[0],
        params[0],
        stride=(sh, sw),
        padding=(top, left, bottom, right),
        dilation=(dh, dw),
        groups=groups,
        lazy=True,
    )
    if len(params) == 2:
        y = engine.add(y, engine.reshape(params[1], (1, params[1].shape[0], 1, 1)))
    return y


def _max_pool2d(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    kh, kw, sh, sw, top, left, bottom, right = layer.ints
    return engine.max_pool2d(inputs[0], kernel=(kh, kw), stride=(sh, sw), padding=(top, left, bottom, right))


def _avg_pool2d(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    kh, kw, sh, sw, top, left, bottom, right, counted = layer.ints
    return engine.avg_pool2d(
        inputs[0],
        kernel=(kh, kw),
        stride=(sh, sw),
        padding=(top, left, bottom, right),
        count_include_pad=bool(counted),
    )


def _flatten(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    shape = inputs[0].shape
    return engine.reshape(inputs[0], (shape[0], math.prod(shape[1:])))


def _reshape(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    return engine.reshape(inputs[0], (inputs[0].shape[0], *layer.ints))


def _affine(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    x = inputs[0]
    shape = (1, x.shape[1], *(1 for _ in x.shape[2:]))
    scaled = engine.mul(x, engine.reshape(params[0], shape))
    return engine.add(scaled, engine.reshape(params[1], shape))


def _add(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    left, right = (*inputs, *params)
    return engine.add(left, right)


def _mul(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    left, right = (*inputs, *params)
    return engine.mul(left, right)


def _concat(engine: Engine, layer: Layer, inputs: Sequence[Secret], params: Sequence[Secret]) -> Secret:
    return engine.concat(list(inputs), axis=layer.ints[0] + 1)


_OPERATORS: Mapping[str, _Apply] = MappingProxyType(
    {
        "linear": _linear,
        "conv2d": _conv2d,
        "relu": lambda engine, layer, inputs, params: engine.relu(inputs[0]),
        "sigmoid": lambda engine, layer, inputs, params: engine.sigmoid(inputs[0]),
        "tanh": lambda engine, layer, inputs, params: engine.tanh(inputs[0]),
        "softmax": lambda engine, layer, inputs, params: engine.softmax(inputs[0]),
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

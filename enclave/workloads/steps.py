"""The layers that a training can pass through, each with its gradient written out.

A step's forward gives its output and a mark, whatever its backward needs besides the input and the weights. What is
opened under a mask is opened once a value: a layer's input and weight in the forward pass, the gradient of its
output in the backward pass, which both of its products use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from enclave.engines.interface import Engine, Secret

__all__ = ["STEPS", "Passed", "Rule", "Step"]

Shape = tuple[int, ...]
Named = Mapping[str, Secret]
Forward = Callable[[Engine, "Step", Named, Secret], tuple[Secret, Any]]
Backward = Callable[[Engine, "Step", Named, "Passed", Secret], tuple[Secret, dict[str, Secret]]]


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of a chain; shapes are those of one row."""

    op: str
    name: str
    inputs: Shape
    outputs: Shape
    weight: str | None = None
    bias: str | None = None
    ints: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Passed:
    """What a forward pass left at one step; `last` where no earlier step has weights, so that no delta is needed."""

    x: Secret
    mark: Any
    last: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """forward(engine, step, weights, x) gives y and a mark; backward(engine, step, weights, passed, delta) gives the
    gradient of x (anything where `last`), and those of the step's parameters, summed over the rows."""

    forward: Forward
    backward: Backward


# ---- with weights


def _linear(engine: Engine, step: Step, weights: Named, x: Secret) -> tuple[Secret, None]:
    assert step.weight is not None
    y = engine.matmul(x, weights[step.weight], lazy=True)
    return (y if step.bias is None else engine.add(y, weights[step.bias])), None


def _linear_back(
    engine: Engine, step: Step, weights: Named, passed: Passed, delta: Secret
) -> tuple[Secret, dict[str, Secret]]:
    assert step.weight is not None
    found = {step.weight: engine.matmul(passed.x, delta, transpose_x=True, lazy=True)}
    if step.bias is not None:
        found[step.bias] = engine.sum(delta, axis=0)
    if not passed.last:
        delta = engine.matmul(delta, weights[step.weight], transpose_y=True, lazy=True)
    return delta, found


def _conv_settings(step: Step) -> dict[str, Any]:
    sh, sw, top, left, bottom, right, dh, dw, groups = step.ints
    return {"stride": (sh, sw), "padding": (top, left, bottom, right), "dilation": (dh, dw), "groups": groups}


def _conv2d(engine: Engine, step: Step, weights: Named, x: Secret) -> tuple[Secret, None]:
    assert step.weight is not None
    y = engine.conv2d(x, weights[step.weight], **_conv_settings(step), lazy=True)
    if step.bias is not None:
        y = engine.add(y, engine.reshape(weights[step.bias], (1, step.outputs[0], 1, 1)))
    return y, None


def _conv2d_back(
    engine: Engine, step: Step, weights: Named, passed: Passed, delta: Secret
) -> tuple[Secret, dict[str, Secret]]:
    assert step.weight is not None
    settings, weight = _conv_settings(step), weights[step.weight]
    kernel = (weight.shape[2], weight.shape[3])
    found = {step.weight: engine.conv2d_weight_gradient(passed.x, delta, kernel=kernel, **settings, lazy=True)}
    if step.bias is not None:
        places = engine.reshape(engine.sum(delta, axis=0), (step.outputs[0], step.outputs[1] * step.outputs[2]))
        found[step.bias] = engine.sum(places, axis=1)
    if not passed.last:
        image = (step.inputs[1], step.inputs[2])
        delta = engine.conv2d_input_gradient(delta, weight, image=image, **settings, lazy=True)
    return delta, found


# ---- activations


def _relu(engine: Engine, step: Step, weights: Named, x: Secret) -> tuple[Secret, Any]:
    return engine.relu_with_gate(x)


def _relu_back(
    engine: Engine, step: Step, weights: Named, passed: Passed, delta: Secret
) -> tuple[Secret, dict[str, Secret]]:
    return engine.gated(passed.mark, delta), {}


def _sigmoid(engine: Engine, step: Step, weights: Named, x: Secret) -> tuple[Secret, Any]:
    y = engine.sigmoid(x)
    return y, y


def _sigmoid_back(
    engine: Engine, step: Step, weights: Named, passed: Passed, delta: Secret
) -> tuple[Secret, dict[str, Secret]]:
    slope = engine.sub(passed.mark, engine.mul(passed.mark, passed.mark))  # s (1 - s)
    return engine.mul(delta, slope), {}


def _tanh(engine: Engine, step: Step, weights: Named, x: Secret) -> tuple[Secret, Any]:
    y = engine.tanh(x)
    return y, y


def _tanh_back(
    engine: Engine, step: Step, weights: Named, passed: Passed, delta: Secret
) -> tuple[Secret, dict[str, Secret]]:
    slope = engine.add(engine.neg(engine.mul(passed.mark, passed.mark)), 1.0)  # 1 - t^2
    return engine.mul(delta, slope), {}


# ---- windows and shapes


def _pool_settings(step: Step) -> dict[str, Any]:
    kh, kw, sh, sw, top, left, bottom, right = step.ints[:8]
    return {"kernel": (kh, kw), "stride": (sh, sw), "padding": (top, left, bottom, right)}


def _max_pool2d(engine: Engine, step: Step, weights: Named, x: Secret) -> tuple[Secret, Any]:
    return engine.max_pool2d_with_gate(x, **_pool_settings(step))


def _max_pool2d_back(
    engine: Engine, step: Step, weights: Named, passed: Passed, delta: Secret
) -> tuple[Secret, dict[str, Secret]]:
    return engine.max_pool2d_gradient(passed.mark, delta), {}


def _avg_pool2d(engine: Engine, step: Step, weights: Named, x: Secret) -> tuple[Secret, Any]:
    return engine.avg_pool2d(x, **_pool_settings(step), count_include_pad=bool(step.ints[8])), None


def _avg_pool2d_back(
    engine: Engine, step: Step, weights: Named, passed: Passed, delta: Secret
) -> tuple[Secret, dict[str, Secret]]:
    image, counted = (step.inputs[1], step.inputs[2]), bool(step.ints[8])
    found = engine.avg_pool2d_gradient(delta, image=image, **_pool_settings(step), count_include_pad=counted)
    return found, {}


def _reshaped(engine: Engine, step: Step, weights: Named, x: Secret) -> tuple[Secret, Any]:
    return engine.reshape(x, (x.shape[0], *step.outputs)), None


def _reshaped_back(
    engine: Engine, step: Step, weights: Named, passed: Passed, delta: Secret
) -> tuple[Secret, dict[str, Secret]]:
    assert math.prod(delta.shape[1:]) == math.prod(step.inputs)
    return engine.reshape(delta, (delta.shape[0], *step.inputs)), {}


STEPS: Mapping[str, Rule] = MappingProxyType(
    {
        "linear": Rule(_linear, _linear_back),
        "conv2d": Rule(_conv2d, _conv2d_back),
        "relu": Rule(_relu, _relu_back),
        "sigmoid": Rule(_sigmoid, _sigmoid_back),
        "tanh": Rule(_tanh, _tanh_back),
        "max_pool2d": Rule(_max_pool2d, _max_pool2d_back),
        "avg_pool2d": Rule(_avg_pool2d, _avg_pool2d_back),
        "flatten": Rule(_reshaped, _reshaped_back),
        "reshape": Rule(_reshaped, _reshaped_back),
    }
)

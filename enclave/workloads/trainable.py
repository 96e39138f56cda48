"""A chain of layers and its gradient, written out: no autograd, hence a known number of rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Engine, Secret
from enclave.errors import BadModel
from enclave.messages import Architecture, Layer
from enclave.models.commute import pooled_first
from enclave.models.graph import INPUT, parameter_shapes, shapes
from enclave.workloads.public_random import public_uniform
from enclave.workloads.steps import STEPS, Passed, Step

__all__ = ["Cache", "TrainableNetwork"]

_WEIGHTED = ("linear", "conv2d")
_ACTIVATIONS = ("relu", "sigmoid", "tanh")


@dataclass(frozen=True, slots=True)
class Cache:
    """What a backward pass needs of a forward pass: each step's input, and its mark."""

    inputs: tuple[Secret, ...]
    marks: tuple[Any, ...]


class TrainableNetwork:
    """The trainable part of an architecture: a chain of the operators in `steps.STEPS` that ends in a linear one.

    A sigmoid or softmax at the very end belongs to the loss: `final` names it, `forward` leaves it out. A ReLU before
    a max_pool2d is computed after it, which is the same function for fewer comparisons.
    Raises BadModel for anything else.

    Attributes:
        steps: in the order of execution.
        weighted: those of them that have weights.
        parameters: name and shape of every parameter, in the architecture's order.
    """

    def __init__(self, architecture: Architecture) -> None:
        known = shapes(architecture)
        declared = parameter_shapes(architecture)
        self.architecture = architecture
        layers = list(architecture.layers)
        self.final: str | None = None
        if len(layers) > 1 and layers[-1].op in ("sigmoid", "softmax") and layers[-2].op == "linear":
            self.final = layers.pop().op
        _check_chain(architecture.layers, layers)
        used = [name for layer in layers for name in layer.parameters]
        if len(used) != len(set(used)):
            raise BadModel("training takes each parameter in one layer only")
        chain = Architecture(architecture.input_shape, tuple(layers), architecture.parameters)
        ordered = pooled_first(chain)
        known = shapes(ordered)
        self.steps = tuple(_step(layer, known) for layer in ordered.layers)
        self.weighted = tuple(step for step in self.steps if step.weight is not None)
        self.parameters = tuple((t.name, declared[t.name]) for t in architecture.parameters)

    @property
    def outputs(self) -> int:
        """Width of the last linear layer."""
        return self.steps[-1].outputs[0]

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for _, shape in self.parameters)

    @property
    def first_linear(self) -> Step | None:
        """The layer at the input when that is a linear one: it can take up a standardisation of its columns."""
        return self.steps[0] if self.steps[0].op == "linear" else None

    def initial(self, seed: int) -> NDArray[np.float64]:
        """Public start weights, flat, in the order of the architecture's parameters.

        Zeros for a single layer, whose losses are convex; otherwise uniform as He (before relu) or Glorot
        (elsewhere) have it, and biases 0.
        """
        found = {name: np.zeros(shape) for name, shape in self.parameters}
        if len(self.weighted) > 1:
            for step in self.weighted:
                assert step.weight is not None
                shape = found[step.weight].shape
                taken = shape[0] if step.op == "linear" else math.prod(shape[1:])
                given = shape[1] if step.op == "linear" else shape[0] * math.prod(shape[2:]) // step.ints[8]
                fan = taken if self._activation(step) == "relu" else taken + given
                found[step.weight] = public_uniform(seed, f"weights {step.weight}", shape, math.sqrt(6.0 / fan))
        return np.concatenate([found[name].reshape(-1) for name, _ in self.parameters])

    def _activation(self, step: Step) -> str | None:
        """What comes between this step and the next one with weights."""
        for later in self.steps[self.steps.index(step) + 1 :]:
            if later.op in _ACTIVATIONS:
                return later.op
            if later.op in _WEIGHTED:
                return None
        return None

    def decayed(self) -> NDArray[np.float64]:
        """1 where the l2 penalty applies (weights), 0 where not (biases), flat."""
        weights = {step.weight for step in self.weighted}
        parts = [np.full(math.prod(shape), float(name in weights)) for name, shape in self.parameters]
        return np.concatenate(parts)

    def unflatten(self, engine: Engine, flat: Secret) -> dict[str, Secret]:
        """The parameters by name out of one flat secret. Local."""
        found, start = {}, 0
        for name, shape in self.parameters:
            size = math.prod(shape)
            found[name] = engine.reshape(engine.rows(flat, start, start + size), shape)
            start += size
        return found

    def flatten(self, engine: Engine, named: Mapping[str, Secret]) -> Secret:
        """One flat secret out of the parameters (or gradients) by name. Local."""
        parts = [engine.reshape(named[name], (math.prod(shape),)) for name, shape in self.parameters]
        return engine.concat(parts, axis=0)

    def forward(self, engine: Engine, weights: Mapping[str, Secret], x: Secret) -> tuple[Secret, Cache]:
        """Outputs of the last linear layer, (rows, outputs), and what `backward` needs.

        Args: x (rows, *input shape).
        """
        inputs: list[Secret] = []
        marks: list[Any] = []
        for step in self.steps:
            inputs.append(x)
            x, mark = STEPS[step.op].forward(engine, step, weights, x)
            marks.append(mark)
        return x, Cache(tuple(inputs), tuple(marks))

    def backward(self, engine: Engine, weights: Mapping[str, Secret], cache: Cache, delta: Secret) -> dict[str, Secret]:
        """Gradients by parameter, summed over the rows.

        Args:
            delta: derivative of each row's loss by the outputs of `forward`, (rows, outputs).
        """
        found: dict[str, Secret] = {}
        first = self.steps.index(self.weighted[0])
        for i in reversed(range(first, len(self.steps))):
            step, passed = self.steps[i], Passed(cache.inputs[i], cache.marks[i], i == first)
            delta, gradients = STEPS[step.op].backward(engine, step, weights, passed, delta)
            found.update(gradients)
        return found


def _check_chain(all_layers: Sequence[Layer], layers: Sequence[Layer]) -> None:
    previous, pending = INPUT, False
    for layer in all_layers:
        if layer.inputs != (previous,):
            raise BadModel(f"layer {layer.name}: training takes a chain, expected input {previous!r}")
        previous = layer.name
    for layer in layers:
        fits = layer.op in STEPS and (layer.op not in _ACTIVATIONS or pending)
        if not fits:
            raise BadModel(f"layer {layer.name}: {layer.op} cannot be trained here")
        pending = layer.op in _WEIGHTED or (pending and layer.op not in _ACTIVATIONS)
    if not layers or layers[-1].op != "linear":
        raise BadModel("a trainable model ends in a linear layer, before the sigmoid or softmax of its loss")


def _step(layer: Layer, known: Mapping[str, tuple[int, ...]]) -> Step:
    taken = known[layer.inputs[0]]
    if layer.op == "linear" and len(taken) != 1:
        raise BadModel(f"layer {layer.name}: training takes a linear layer on rows with one axis, found {taken}")
    weight, bias = (*layer.parameters, None, None)[:2]
    return Step(layer.op, layer.name, taken, known[layer.name], weight, bias, layer.ints)

"""A network of linear layers and its gradient, written out: no autograd, hence a known number of rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Engine, Secret
from enclave.errors import BadModel
from enclave.messages import Architecture
from enclave.models.graph import INPUT, parameter_shapes, shapes
from enclave.workloads.public_random import public_uniform

__all__ = ["Cache", "DenseLayer", "DenseNetwork"]

ACTIVATIONS = ("relu", "sigmoid", "tanh")


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """x @ weight + bias, then an activation (None at the end)."""

    weight: str
    bias: str | None
    inputs: int
    outputs: int
    activation: str | None


@dataclass(frozen=True, slots=True)
class Cache:
    """What a backward pass needs of a forward pass: each layer's input, and each activation's bit or value."""

    inputs: tuple[Secret, ...]
    marks: tuple[Any, ...]


class DenseNetwork:
    """The trainable part of an architecture: linear layers with activations between them.

    A sigmoid or softmax at the very end belongs to the loss: `final` names it, `forward` leaves it out.
    Raises BadModel for anything else.
    """

    def __init__(self, architecture: Architecture) -> None:
        shapes(architecture)
        if len(architecture.input_shape) != 1:
            raise BadModel(f"training takes rows with one axis, found {tuple(architecture.input_shape)}")
        declared = parameter_shapes(architecture)
        self.architecture = architecture
        self.final: str | None = None
        layers: list[DenseLayer] = []
        previous, last = INPUT, len(architecture.layers) - 1
        for i, layer in enumerate(architecture.layers):
            if layer.inputs != (previous,):
                raise BadModel(f"layer {layer.name}: training takes a chain, expected input {previous!r}")
            previous = layer.name
            if layer.op == "linear":
                inputs, outputs = declared[layer.parameters[0]]
                bias = layer.parameters[1] if len(layer.parameters) == 2 else None
                layers.append(DenseLayer(layer.parameters[0], bias, inputs, outputs, None))
            elif i == last and layers and layers[-1].activation is None and layer.op in ("sigmoid", "softmax"):
                self.final = layer.op
            elif i < last and layers and layers[-1].activation is None and layer.op in ACTIVATIONS:
                before = layers.pop()
                layers.append(DenseLayer(before.weight, before.bias, before.inputs, before.outputs, layer.op))
            else:
                raise BadModel(f"layer {layer.name}: {layer.op} cannot be trained here")
        if not layers or layers[-1].activation is not None:
            raise BadModel("a trainable model ends in a linear layer, before the sigmoid or softmax of its loss")
        used = [name for layer in layers for name in (layer.weight, layer.bias) if name is not None]
        if len(used) != len(set(used)):
            raise BadModel("training takes each parameter in one layer only")
        self.layers = tuple(layers)
        self.parameters = tuple((t.name, declared[t.name]) for t in architecture.parameters)

    @property
    def outputs(self) -> int:
        """Width of the last linear layer."""
        return self.layers[-1].outputs

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for _, shape in self.parameters)

    def initial(self, seed: int) -> NDArray[np.float64]:
        """Public start weights, flat, in the order of the architecture's parameters.

        Zeros for a single layer, whose losses are convex; otherwise uniform as He (before relu) or Glorot
        (elsewhere) have it, and biases 0.
        """
        found = {name: np.zeros(shape) for name, shape in self.parameters}
        if len(self.layers) > 1:
            for layer in self.layers:
                fan = layer.inputs if layer.activation == "relu" else layer.inputs + layer.outputs
                shape = (layer.inputs, layer.outputs)
                found[layer.weight] = public_uniform(seed, f"weights {layer.weight}", shape, math.sqrt(6.0 / fan))
        return np.concatenate([found[name].reshape(-1) for name, _ in self.parameters])

    def decayed(self) -> NDArray[np.float64]:
        """1 where the l2 penalty applies (weights), 0 where not (biases), flat."""
        weights = {layer.weight for layer in self.layers}
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
        """Outputs of the last linear layer, (rows, outputs), and what `backward` needs."""
        inputs: list[Secret] = []
        marks: list[Any] = []
        for layer in self.layers:
            inputs.append(x)
            x = engine.matmul(x, weights[layer.weight], lazy=True)
            if layer.bias is not None:
                x = engine.add(x, weights[layer.bias])
            mark: Any = None
            if layer.activation == "relu":
                x, mark = engine.relu_with_gate(x)
            elif layer.activation is not None:
                x = mark = engine.sigmoid(x) if layer.activation == "sigmoid" else engine.tanh(x)
            marks.append(mark)
        return x, Cache(tuple(inputs), tuple(marks))

    def backward(self, engine: Engine, weights: Mapping[str, Secret], cache: Cache, delta: Secret) -> dict[str, Secret]:
        """Gradients by parameter, summed over the rows.

        Args:
            delta: derivative of each row's loss by the outputs of `forward`, (rows, outputs).
        """
        found: dict[str, Secret] = {}
        for i in reversed(range(len(self.layers))):
            layer = self.layers[i]
            mark = cache.marks[i]
            if mark is not None:
                delta = self._through(engine, layer, mark, delta)
            found[layer.weight] = engine.matmul(cache.inputs[i], delta, transpose_x=True)
            if layer.bias is not None:
                found[layer.bias] = engine.sum(delta, axis=0)
            if i:
                delta = engine.matmul(delta, weights[layer.weight], transpose_y=True, lazy=True)
        return found

    @staticmethod
    def _through(engine: Engine, layer: DenseLayer, mark: Any, delta: Secret) -> Secret:
        """The derivative before the activation: a bit for relu, s (1 - s) for sigmoid, 1 - t^2 for tanh."""
        if layer.activation == "relu":
            return engine.gated(mark, delta)
        square = engine.mul(mark, mark)
        slope = engine.sub(mark, square) if layer.activation == "sigmoid" else engine.add(engine.neg(square), 1.0)
        return engine.mul(delta, slope)

"""Collects layers while a foreign model is read, and checks each one as it comes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from enclave.errors import BadModel
from enclave.messages import Architecture, Layer, TensorType
from enclave.models.fold import fold
from enclave.models.graph import INPUT, MAX_PARAMETERS, Shape, clean_name, layer_shape
from enclave.models.model import FloatArray, Model

__all__ = ["GraphBuilder"]

_LARGEST_EXPONENT = 16


class GraphBuilder:
    """Layers in the order of execution, with the shape of every value known as soon as it is made."""

    def __init__(self, input_shape: Sequence[int]) -> None:
        self.input_shape = tuple(int(n) for n in input_shape)
        self._layers: list[Layer] = []
        self._weights: dict[str, FloatArray] = {}
        self._shapes: dict[str, Shape] = {INPUT: self.input_shape}
        self._taken: set[str] = {INPUT}
        self._taken_weights: set[str] = set()

    def shape(self, value: str) -> Shape:
        """The shape of one row of a value made so far."""
        return self._shapes[value]

    def weight(self, name: str, value: ArrayLike) -> str:
        """Adds a weight tensor; returns its name, made of `name`."""
        array: FloatArray = np.asarray(value, dtype=np.float64)
        if not np.isfinite(array).all():
            raise BadModel(f"weight {name!r} holds NaN or infinite values")
        total = array.size + sum(w.size for w in self._weights.values())
        if total > MAX_PARAMETERS:
            raise BadModel(f"at most {MAX_PARAMETERS} weights, found {total} up to {name!r}")
        unique = clean_name(name, self._taken_weights, "weight")
        self._weights[unique] = array
        return unique

    def layer(
        self,
        op: str,
        name: str,
        inputs: Sequence[str],
        parameters: Sequence[str] = (),
        ints: Sequence[int] = (),
    ) -> str:
        """Adds a layer; returns its name, made of `name`. Raises BadModel when it does not fit its inputs."""
        unique = clean_name(name, self._taken, op)
        layer = Layer(op, unique, tuple(inputs), tuple(parameters), tuple(int(i) for i in ints))
        declared = {p: self._weights[p].shape for p in parameters}
        self._shapes[unique] = layer_shape(layer, self._shapes, declared)
        self._layers.append(layer)
        return unique

    def linear(self, name: str, value: str, weight: ArrayLike, bias: ArrayLike | None) -> str:
        """x @ weight + bias, weight (in, out)."""
        parameters = [self.weight(f"{name}.weight", weight)]
        if bias is not None:
            parameters.append(self.weight(f"{name}.bias", bias))
        return self.layer("linear", name, [value], parameters)

    def power(self, name: str, value: str, exponent: float) -> str:
        """value^exponent by products of two, for exponents 1 to 16. Raises BadModel for any other."""
        if exponent not in range(1, _LARGEST_EXPONENT + 1):
            raise BadModel(f"powers from 1 to {_LARGEST_EXPONENT} are supported, found {exponent:g}")
        found, square = "", value
        for bit in range(int(exponent).bit_length()):
            square = square if bit == 0 else self.layer("mul", name, [square, square])
            if int(exponent) >> bit & 1:
                found = square if not found else self.layer("mul", name, [found, square])
        return found

    def constant(self, op: str, name: str, value: str, constant: ArrayLike) -> str:
        """`add` or `mul` with a constant that broadcasts over rows; a scalar gets one axis."""
        array = np.atleast_1d(np.asarray(constant, dtype=np.float64))
        return self.layer(op, name, [value], [self.weight(f"{name}.{op}", array)])

    def build(self, output: str) -> Model:
        """The model whose output is `output`, without what does not lead there, and folded."""
        if output == INPUT:
            raise BadModel("the model has no layer: its output is its input")
        needed, kept = {output}, []
        for layer in reversed(self._layers):
            if layer.name in needed:
                needed.update(layer.inputs)
                kept.append(layer)
        kept.reverse()
        used = {p for layer in kept for p in layer.parameters}
        weights = {name: value for name, value in self._weights.items() if name in used}
        parameters = tuple(TensorType(name, value.shape) for name, value in weights.items())
        return fold(Model(Architecture(self.input_shape, tuple(kept), parameters), weights))

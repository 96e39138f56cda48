"""A model: a public architecture, and weights that only the buyer has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.errors import BadModel
from enclave.messages import Architecture, Layer, TensorType, sha256
from enclave.models.graph import parameter_shapes, shapes

__all__ = ["FloatArray", "Model", "dense_architecture"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Model:
    """An architecture with its weights: float64, C-contiguous, read-only, of the declared shapes, finite.

    Raises BadModel when the architecture is not allowed or the weights do not fit it. The repr shows no weight.
    """

    architecture: Architecture
    weights: Mapping[str, FloatArray]

    def __post_init__(self) -> None:
        shapes(self.architecture)
        declared = parameter_shapes(self.architecture)
        if set(self.weights) != set(declared):
            missing, extra = sorted(set(declared) - set(self.weights)), sorted(set(self.weights) - set(declared))
            raise BadModel(f"weights do not fit the architecture: missing {missing[:8]}, not declared {extra[:8]}")
        kept = {name: _weight(name, self.weights[name], shape) for name, shape in declared.items()}
        object.__setattr__(self, "weights", MappingProxyType(kept))

    def commitment(self, salt: bytes) -> bytes:
        """SHA-256 over the salt and, per parameter in declared order, its name, shape and little-endian float64.

        It binds the buyer to the weights without showing them, as long as the salt (32 random bytes) stays secret.
        """
        parts: list[bytes] = [salt]
        for tensor in self.architecture.parameters:
            weight = self.weights[tensor.name].astype("<f8", copy=False)
            parts += [tensor.name.encode(), repr(tuple(tensor.shape)).encode(), weight.tobytes()]
        return sha256(*parts)

    def __repr__(self) -> str:
        count = sum(w.size for w in self.weights.values())
        return f"Model({len(self.architecture.layers)} layers, {count} weights)"


def _weight(name: str, value: Any, shape: tuple[int, ...]) -> FloatArray:
    # A copy, so that nobody who holds the caller's array can change a model after its commitment.
    array: FloatArray = np.array(value, dtype=np.float64, order="C")
    if array.shape != shape:
        raise BadModel(f"weight {name!r}: expected shape {shape}, found {array.shape}")
    if not np.isfinite(array).all():
        raise BadModel(f"weight {name!r} holds NaN or infinite values")
    array.flags.writeable = False
    return array


def dense_architecture(inputs: int, hidden: Sequence[int], outputs: int, activation: str = "relu") -> Architecture:
    """A network of linear layers for training: linear, activation, ..., linear.

    The output is linear: the loss of a training job brings its own sigmoid or softmax. Without hidden layers this
    is linear, logistic (outputs 1) or softmax (outputs > 1) regression. Layers are called dense0, act0, dense1, ...
    and parameters dense0.weight (in, out), dense0.bias (out,).
    """
    if activation not in ("relu", "sigmoid", "tanh"):
        raise BadModel(f"activation must be relu, sigmoid or tanh, found {activation!r}")
    layers: list[Layer] = []
    parameters: list[TensorType] = []
    previous, width = "input", inputs
    for i, units in enumerate((*hidden, outputs)):
        name = f"dense{i}"
        tensors = (TensorType(f"{name}.weight", (width, units)), TensorType(f"{name}.bias", (units,)))
        layers.append(Layer("linear", name, (previous,), tuple(t.name for t in tensors)))
        parameters += tensors
        previous, width = name, units
        if i < len(hidden):
            layers.append(Layer(activation, f"act{i}", (previous,)))
            previous = f"act{i}"
    architecture = Architecture((inputs,), tuple(layers), tuple(parameters))
    shapes(architecture)
    return architecture

"""Networks that are one affine map with at most a final activation: what a single encrypted product evaluates.

Convolutions, average pools, affine layers and whatever else is linear in a row fold into one matrix and one bias. The
buyer does that in the clear with its own weights, and applies the final activation itself: it is invertible, so that
the scores say as much about a row as the outputs do. Of a softmax the scores are the logits less the last one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Engine
from enclave.engines.plain import InsecurePlainEngine
from enclave.errors import BadModel
from enclave.messages import Architecture, Layer
from enclave.models.graph import output_shape, parameter_shapes
from enclave.workloads.network import forward, without_final

__all__ = ["AffineForm", "affine_form", "first_non_affine"]

Floats = NDArray[np.float64]
_AFFINE = ("linear", "conv2d", "avg_pool2d", "flatten", "reshape", "affine", "add", "concat")
_FINAL = ("sigmoid", "softmax", "tanh")
_ROWS = 256  # unit vectors folded at once


@dataclass(frozen=True, slots=True)
class AffineForm:
    """A network as y = final(x A + b). Public: shapes alone.

    Attributes:
        affine: the architecture without its final activation.
        final: "sigmoid", "softmax", "tanh", or None.
        shape: of one output row.
    """

    affine: Architecture
    final: str | None
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Columns of a row."""
        return math.prod(self.affine.input_shape)

    @property
    def scores(self) -> int:
        """Columns of A."""
        size = math.prod(self.shape)
        return size - size // self.shape[-1] if self.final == "softmax" else size

    def fold(self, weights: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        """A [width, scores] and b [scores], in float64.

        Raises: BadModel: a weight that is not finite.
        """
        outputs = self._outputs(weights, np.zeros((1, self.width)))[0]
        columns = np.empty((self.width, *self.shape))
        for start in range(0, self.width, _ROWS):
            stop = min(self.width, start + _ROWS)
            columns[start:stop] = self._outputs(weights, np.eye(stop - start, self.width, start)) - outputs
        if self.final == "softmax":
            columns, outputs = (part[..., :-1] - part[..., -1:] for part in (columns, outputs))
        matrix, bias = columns.reshape(self.width, -1), outputs.reshape(-1)
        if not (np.isfinite(matrix).all() and np.isfinite(bias).all()):
            raise BadModel("the model's weights are not finite numbers, or overflow")
        return matrix, bias

    def _outputs(self, weights: Mapping[str, Floats], x: Floats) -> Floats:
        engine = InsecurePlainEngine()  # for the buyer's own weights, at the buyer
        shapes = parameter_shapes(self.affine)
        secrets = {name: engine.private(weights[name], shape, 0) for name, shape in shapes.items()}
        rows = engine.private(x.reshape(len(x), *self.affine.input_shape), (len(x), *self.affine.input_shape), 0)
        found = forward(cast(Engine, engine), self.affine, secrets, rows)
        return np.asarray(cast(Any, found).value, dtype=np.float64)

    def finish(self, scores: Floats) -> Floats:
        """The network's outputs of scores [n, scores]: [n] of a single output, else [n, *shape]."""
        if self.final == "softmax":
            lead = scores.reshape(len(scores), *self.shape[:-1], self.shape[-1] - 1)
            outputs = _softmax(np.concatenate([lead, np.zeros((*lead.shape[:-1], 1))], axis=-1))
        else:
            outputs = scores.reshape(len(scores), *self.shape)
            if self.final == "sigmoid":
                outputs = 0.5 + 0.5 * np.tanh(0.5 * outputs)
            elif self.final == "tanh":
                outputs = np.tanh(outputs)
        return outputs.reshape(len(scores)) if self.shape == (1,) else outputs


def affine_form(architecture: Architecture) -> AffineForm:
    """The form of an architecture. Raises BadModel naming the layer that stands in the way."""
    shape = output_shape(architecture)
    affine = without_final(architecture, _FINAL)
    final = None if affine is architecture else architecture.layers[-1].op
    wrong = first_non_affine(affine)
    if wrong is not None:
        raise BadModel(
            f"layer {wrong.name}: without a dealer, engine he evaluates models that are linear up to a final "
            f"sigmoid, softmax or tanh, or of linear layers and products, found {wrong.op}",
            hint="hybrid or mpc would do: --engine hybrid, or --engine mpc",
        )
    if final == "softmax" and shape[-1] == 1:
        raise BadModel(f"layer {architecture.layers[-1].name}: a softmax of one output is always 1")
    return AffineForm(affine, final, shape)


def first_non_affine(architecture: Architecture) -> Layer | None:
    """The first layer that is not affine in the input, None if there is none."""
    for layer in architecture.layers:
        product_of_two = layer.op == "mul" and len(layer.inputs) == 2
        if (layer.op not in _AFFINE and layer.op != "mul") or product_of_two:
            return layer
    return None


def _softmax(x: Floats) -> Floats:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

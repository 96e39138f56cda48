"""The values of a traced module: rows, weights, and the size of the batch, which is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from enclave.errors import BadModel
from enclave.models.builder import GraphBuilder
from enclave.models.graph import Shape
from enclave.models.model import FloatArray

__all__ = ["BATCH", "Batch", "Row", "TorchGraph", "Weight", "array"]


@dataclass(frozen=True, slots=True)
class Row:
    """A tensor that depends on the input: the layer that makes it. `flat`: without any axis besides the batch."""

    layer: str
    flat: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A parameter or buffer used directly."""

    name: str
    value: FloatArray


class Batch:
    """The size of the batch axis: it may be handed to view and reshape, and nothing else."""

    def __repr__(self) -> str:
        return "the batch size"


BATCH = Batch()


class TorchGraph:
    """The builder, and the traced module's parts by path."""

    def __init__(self, builder: GraphBuilder, modules: Mapping[str, Any]) -> None:
        self.builder = builder
        self.modules = modules

    def attribute(self, path: str) -> FloatArray:
        """A parameter or buffer of the traced module as float64."""
        owner, _, name = path.rpartition(".")
        module = self.modules.get(owner)
        tensors = (
            {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
            if (module is not None)
            else {}
        )
        if name not in tensors:
            raise BadModel(f"{path!r} is neither a parameter nor a buffer")
        return array(tensors[name])

    def row(self, value: Any, what: str = "the input", *, flat: bool = False) -> str:
        """The layer of a value that depends on the input."""
        if not isinstance(value, Row):
            raise BadModel(f"{what} must depend on the model's input, found {_kind(value)}")
        if value.flat and not flat:
            raise BadModel(f"{what} has no axis besides the batch")
        return value.layer

    def shape(self, value: Any) -> Shape:
        """One row's shape."""
        return self.builder.shape(self.row(value))


def array(tensor: Any) -> FloatArray:
    """A torch tensor as float64."""
    value: FloatArray = np.asarray(tensor.detach().cpu().double().numpy(), dtype=np.float64)
    return value


def _kind(value: Any) -> str:
    return f"the weight {value.name!r}" if isinstance(value, Weight) else f"a constant {type(value).__name__}"

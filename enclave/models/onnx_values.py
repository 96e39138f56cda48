"""The values of an ONNX graph while it is read: rows (with a batch axis in front) and constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from enclave.errors import BadModel
from enclave.models.builder import GraphBuilder
from enclave.models.graph import INPUT, MAX_PARAMETERS, Shape

__all__ = ["AnyArray", "OnnxGraph", "OnnxNode"]

AnyArray = NDArray[Any]


class OnnxNode:
    """One NodeProto: its label for messages, its attributes by name."""

    def __init__(self, proto: Any, index: int) -> None:
        self.op = str(proto.op_type)
        self.inputs = [str(name) for name in proto.input]
        self.outputs = [str(name) for name in proto.output]
        self.label = str(proto.name) or (self.outputs[0] if self.outputs else f"{self.op}_{index}")
        self._attributes = {a.name: a for a in proto.attribute}

    def has(self, name: str) -> bool:
        return name in self._attributes

    def integer(self, name: str, default: int) -> int:
        return int(self._attributes[name].i) if name in self._attributes else default

    def number(self, name: str, default: float) -> float:
        return float(self._attributes[name].f) if name in self._attributes else default

    def text(self, name: str, default: str) -> str:
        if name not in self._attributes:
            return default
        return bytes(self._attributes[name].s).decode("utf-8", "replace")

    def integers(self, name: str) -> list[int] | None:
        return [int(i) for i in self._attributes[name].ints] if name in self._attributes else None

    def numbers(self, name: str) -> list[float]:
        return [float(x) for x in self._attributes[name].floats]

    def tensor(self, name: str) -> Any:
        return self._attributes[name].t

    def optional(self, index: int) -> str | None:
        """The input at `index`, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) and self.inputs[index] else None


class OnnxGraph:
    """Names of the file to layers of the builder, or to constants.

    `flat` holds layers whose ONNX value has lost its last axis: (N,) there, rows of shape (1,) here. Only the
    output and elementwise functions may use them, since broadcasting would mean something else.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        opset: int,
        batch: int | None,
        input_name: str,
        constants: dict[str, AnyArray],
        decode: Callable[[Any], AnyArray],
    ) -> None:
        self.builder, self.opset, self.batch, self.decode = builder, opset, batch, decode
        self._constants = dict(constants)
        self._rows = {input_name: INPUT}
        self.flat: set[str] = set()
        self._reserved = 0

    def reserve(self, shape: Sequence[int]) -> None:
        """Called before a constant is made: a small file must not make large ones by joining them over and over."""
        self._reserved += math.prod(shape)
        if self._reserved > MAX_PARAMETERS:
            raise BadModel(f"the constants of the model have more than {MAX_PARAMETERS} elements")

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def constant(self, name: str | None, what: str) -> AnyArray:
        """A constant; raises BadModel when `name` is computed from the rows, or nothing at all."""
        if name is None:
            raise BadModel(f"{what} is missing")
        if name in self._constants:
            return self._constants[name]
        self._known(name)
        raise BadModel(f"{what} must be a constant, found {name!r}, which depends on the input")

    def row(self, name: str | None, *, flat: bool = False) -> str:
        """The layer behind a value that depends on the input."""
        if name is None:
            raise BadModel("an input is missing")
        if name in self._constants:
            raise BadModel(f"expected a value that depends on the input, found the constant {name!r}")
        self._known(name)
        layer = self._rows[name]
        if layer in self.flat and not flat:
            raise BadModel(f"{name!r} has no axis besides the batch")
        return layer

    def shape(self, name: str) -> Shape:
        """The shape of one row of a value that depends on the input."""
        return self.builder.shape(self.row(name, flat=True))

    def output(self, name: str) -> str:
        """The layer of the graph's output."""
        return self.row(name, flat=True)

    def set_row(self, node: OnnxNode, layer: str) -> None:
        """Names the node's first output; other outputs must not be asked for."""
        self._rows[self._single(node)] = layer

    def set_constant(self, node: OnnxNode, value: AnyArray) -> None:
        self._constants[self._single(node)] = value

    def _single(self, node: OnnxNode) -> str:
        if not node.outputs or not node.outputs[0]:
            raise BadModel("the node has no output")
        if any(node.outputs[1:]) and node.op != "Dropout":
            raise BadModel(f"only the first output is supported, found {node.outputs}")
        name = node.outputs[0]
        if name in self._rows or name in self._constants:
            raise BadModel(f"{name!r} is computed twice")
        return name

    def _known(self, name: str) -> None:
        if name not in self._rows:
            raise BadModel(f"input {name!r} is not computed by an earlier node: it is undefined, or in a cycle")

"""ONNX operators that only move axes, and the little arithmetic on shapes that exporters write around them.

The size of the batch is not known. In a shape read from a value it stands as 0, which is what Reshape takes for
"as in the input"; so `x.view(x.size(0), -1)` is read without knowing it. Arithmetic on such shapes is refused.
"""

from __future__ import annotations

import math

import numpy as np

from enclave.errors import BadModel
from enclave.models.graph import Shape
from enclave.models.onnx_values import AnyArray, OnnxGraph, OnnxNode

__all__ = ["axes_of", "concat", "flatten", "gather", "reshape", "shape_of", "squeeze", "transpose", "unsqueeze"]


def flatten(graph: OnnxGraph, node: OnnxNode) -> None:
    """Flatten with axis 1."""
    value = graph.row(node.optional(0))
    rank = len(graph.builder.shape(value)) + 1
    axis = node.integer("axis", 1)
    if axis + (rank if axis < 0 else 0) != 1:
        raise BadModel(f"only axis 1, which keeps rows apart, is supported, found {axis}")
    graph.set_row(node, _to(graph, node, value, (math.prod(graph.builder.shape(value)),)))


def reshape(graph: OnnxGraph, node: OnnxNode) -> None:
    """Reshape with constant sizes that leaves the batch axis alone."""
    name = node.optional(0)
    sizes = [int(n) for n in _integers(graph.constant(node.optional(1), "the shape")).ravel()]
    if name is not None and graph.is_constant(name):
        try:
            graph.set_constant(node, graph.constant(name, "the input").reshape(sizes))
        except ValueError as error:
            raise BadModel(f"cannot reshape a constant to {sizes}") from error
        return
    if node.integer("allowzero", 0) and 0 in sizes:
        raise BadModel("allowzero is not supported")
    value = graph.row(name)
    graph.set_row(node, _reshaped(graph, node, value, sizes))


def _reshaped(graph: OnnxGraph, node: OnnxNode, value: str, sizes: list[int]) -> str:
    row = graph.builder.shape(value)
    elements = math.prod(row)
    if not sizes or any(n < -1 for n in sizes) or sizes.count(-1) > 1:
        raise BadModel(f"the shape {sizes} is not valid")
    new = [row[i - 1] if n == 0 and 0 < i <= len(row) else n for i, n in enumerate(sizes)][1:]
    if 0 in new:
        raise BadModel(f"the shape {sizes} copies an axis that rows of shape {row} do not have")
    known = math.prod(n for n in new if n != -1)
    if -1 in new:
        if elements % known:
            raise BadModel(f"cannot reshape rows of shape {row} to {sizes}")
        new[new.index(-1)] = elements // known
    keeps_batch = sizes[0] in (0, -1) or (graph.batch is not None and sizes[0] == graph.batch)
    if not keeps_batch or math.prod(new) != elements:
        raise BadModel(f"reshaping rows of shape {row} to {sizes} would mix rows")
    if new:
        return _to(graph, node, value, tuple(new))
    flat = graph.builder.layer("reshape", node.label, [value], ints=[1])
    graph.flat.add(flat)
    return flat


def squeeze(graph: OnnxGraph, node: OnnxNode) -> None:
    """Drops axes of size 1, never the batch."""
    axes = axes_of(graph, node)
    name = node.optional(0)
    if name is not None and graph.is_constant(name):
        value = graph.constant(name, "the input")
        try:
            graph.set_constant(node, np.squeeze(value, None if axes is None else tuple(axes)))
        except ValueError as error:
            raise BadModel(f"cannot squeeze axes {axes} of a constant of shape {value.shape}") from error
        return
    layer = graph.row(name)
    row = graph.builder.shape(layer)
    if axes is None:
        raise BadModel("axes must be given: without them the batch could be dropped")
    drop = _normal(axes, len(row) + 1)
    if 0 in drop or any(row[a - 1] != 1 for a in drop):
        raise BadModel(f"cannot squeeze axes {axes} of rows of shape {row}")
    kept = tuple(n for i, n in enumerate(row, 1) if i not in drop)
    if kept:
        graph.set_row(node, _to(graph, node, layer, kept))
        return
    flat = graph.builder.layer("reshape", node.label, [layer], ints=[1])
    graph.flat.add(flat)
    graph.set_row(node, flat)


def unsqueeze(graph: OnnxGraph, node: OnnxNode) -> None:
    """Adds axes of size 1 behind the batch."""
    axes = axes_of(graph, node)
    if axes is None:
        raise BadModel("axes must be given")
    name = node.optional(0)
    if name is not None and graph.is_constant(name):
        value = graph.constant(name, "the input")
        if value.ndim + len(axes) > 8:
            raise BadModel("too many axes")
        new = _normal(axes, value.ndim + len(axes))
        graph.set_constant(node, np.expand_dims(value, tuple(new)))
        return
    layer = graph.row(name, flat=True)
    row: Shape = () if layer in graph.flat else graph.builder.shape(layer)
    new = _normal(axes, len(row) + 1 + len(axes))
    if 0 in new:
        raise BadModel("the batch must stay the first axis")
    rest = iter(row)
    shape = tuple(1 if i in new else next(rest) for i in range(1, len(row) + 1 + len(axes)))
    graph.set_row(node, graph.builder.layer("reshape", node.label, [layer], ints=shape))


def transpose(graph: OnnxGraph, node: OnnxNode) -> None:
    """Of a constant, any; of rows, only where axes of size 1 move, which is a reshape."""
    name, order = node.optional(0), node.integers("perm")
    if name is not None and graph.is_constant(name):
        value = graph.constant(name, "the input")
        if order is not None and sorted(order) != list(range(value.ndim)):
            raise BadModel(f"perm {order} is no order of {value.ndim} axes")
        graph.set_constant(node, np.transpose(value, order))
        return
    layer = graph.row(name)
    row = graph.builder.shape(layer)
    if order is None:
        order = list(range(len(row), -1, -1))
    if sorted(order) != list(range(len(row) + 1)) or order[0] != 0:
        raise BadModel(f"perm {order} does not keep the batch first")
    moved = [a for a in order[1:] if row[a - 1] != 1]
    if moved != sorted(moved):
        raise BadModel(f"perm {order} of rows of shape {row} is more than a reshape, which is not supported")
    graph.set_row(node, _to(graph, node, layer, tuple(row[a - 1] for a in order[1:])))


def concat(graph: OnnxGraph, node: OnnxNode) -> None:
    """Of rows along an axis that is not the batch, or of constants."""
    axis = node.integer("axis", 0)
    if node.inputs and all(graph.is_constant(name) for name in node.inputs):
        parts = [graph.constant(name, "an input") for name in node.inputs]
        graph.reserve((sum(part.size for part in parts),))
        try:
            graph.set_constant(node, np.concatenate(parts, axis=axis))
        except ValueError as error:
            raise BadModel("constants of these shapes do not join") from error
        return
    if not node.inputs:
        raise BadModel("there is nothing to join")
    layers = [graph.row(name) for name in node.inputs]
    rank = len(graph.builder.shape(layers[0])) + 1
    axis += rank if axis < 0 else 0
    if axis < 1:
        raise BadModel("joining along the batch would mix rows")
    if len(layers) == 1:
        graph.set_row(node, layers[0])
    else:
        graph.set_row(node, graph.builder.layer("concat", node.label, layers, ints=[axis - 1]))


def shape_of(graph: OnnxGraph, node: OnnxNode) -> None:
    """The shape as a constant, with 0 for the batch."""
    if node.has("start") or node.has("end"):
        raise BadModel("start and end are not supported")
    name = node.optional(0)
    if name is not None and graph.is_constant(name):
        shape: tuple[int, ...] = graph.constant(name, "the input").shape
    else:
        shape = (0, *graph.builder.shape(graph.row(name)))
    graph.set_constant(node, np.array(shape, dtype=np.int64))


def gather(graph: OnnxGraph, node: OnnxNode) -> None:
    """Elements of a constant list of integers."""
    values = _integers(graph.constant(node.optional(0), "the data"))
    indices = _integers(graph.constant(node.optional(1), "the indices"))
    if values.ndim != 1 or node.integer("axis", 0) != 0 or indices.ndim > 1:
        raise BadModel("only elements of a shape can be gathered")
    if indices.size and (indices.min() < -len(values) or indices.max() >= len(values)):
        raise BadModel(f"index out of range: {indices.tolist()} of {len(values)}")
    graph.reserve(indices.shape)
    graph.set_constant(node, values[indices])


def _to(graph: OnnxGraph, node: OnnxNode, value: str, shape: Shape) -> str:
    row = graph.builder.shape(value)
    if row == shape:
        return value
    if len(shape) == 1:
        return graph.builder.layer("flatten", node.label, [value])
    return graph.builder.layer("reshape", node.label, [value], ints=shape)


def axes_of(graph: OnnxGraph, node: OnnxNode) -> list[int] | None:
    """From the attribute (before opset 13) or the second input."""
    axes = node.integers("axes")
    if axes is None and node.optional(1) is not None:
        axes = [int(a) for a in _integers(graph.constant(node.optional(1), "axes")).ravel()]
    return axes


def _normal(axes: list[int], rank: int) -> list[int]:
    normal = sorted(a + rank if a < 0 else a for a in axes)
    if len(set(normal)) != len(normal) or any(not 0 <= a < rank for a in normal):
        raise BadModel(f"axes {axes} do not exist among {rank}")
    return normal


def _integers(value: AnyArray) -> AnyArray:
    if value.dtype.kind not in "iu":
        raise BadModel("expected whole numbers for a shape, axes or indices")
    return value

"""What each torch function and tensor method becomes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from enclave.errors import BadModel
from enclave.models.torch_modules import elementwise, flatten, pool, softmax, whole_image
from enclave.models.torch_values import BATCH, Batch, Row, TorchGraph, Weight

__all__ = ["FUNCTIONS", "METHODS"]


def _operand(value: Any) -> Any:
    """A constant operand as an array, or None where it depends on the input."""
    if isinstance(value, Row):
        return None
    if isinstance(value, Weight):
        return value.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadModel(f"expected a number or a tensor, found {value!r}")
    return np.asarray(float(value))


def _binary(op: str) -> Callable[..., Any]:
    def handle(graph: TorchGraph, name: str, x: Any, y: Any, *, alpha: Any = 1) -> Any:
        if alpha != 1:
            raise BadModel("alpha is not supported")
        left, right = _operand(x), _operand(y)
        if left is not None and right is not None:
            raise BadModel("arithmetic on weights alone is not supported")
        if op == "div":
            if right is None or np.any(right == 0):
                raise BadModel("division is supported by constants other than 0")
            return _constant(graph, name, "mul", x, 1.0 / right)
        kind = "mul" if op == "mul" else "add"
        if right is not None:
            return _constant(graph, name, kind, x, -right if op == "sub" else right)
        if op == "sub":
            y = _constant(graph, name, "mul", y, np.asarray(-1.0))
        if left is not None:
            return _constant(graph, name, kind, y, left)
        return Row(graph.builder.layer(kind, name, [graph.row(x), graph.row(y)]))

    return handle


def _power(graph: TorchGraph, name: str, x: Any, exponent: Any) -> Row:
    if isinstance(exponent, bool) or not isinstance(exponent, int | float):
        raise BadModel(f"expected a number as exponent, found {exponent!r}")
    return Row(graph.builder.power(name, graph.row(x), exponent))


def _square(graph: TorchGraph, name: str, x: Any) -> Row:
    return _power(graph, name, x, 2)


def _constant(graph: TorchGraph, name: str, kind: str, x: Any, constant: Any) -> Row:
    rank = len(graph.shape(x))
    while constant.ndim > rank:
        if constant.shape[0] != 1:
            raise BadModel(f"a constant of shape {constant.shape} differs from row to row")
        constant = constant[0]
    return Row(graph.builder.constant(kind, name, graph.row(x), constant))


def _linear(graph: TorchGraph, name: str, x: Any, weight: Any, bias: Any = None) -> Row:
    if not isinstance(weight, Weight) or not isinstance(bias, Weight | None):
        raise BadModel("weight and bias must be parameters or buffers")
    return Row(graph.builder.linear(name, graph.row(x), weight.value.T, None if bias is None else bias.value))


def _matmul(graph: TorchGraph, name: str, x: Any, weight: Any) -> Row:
    if not isinstance(weight, Weight) or weight.value.ndim != 2:
        raise BadModel("a product is supported with a parameter of two axes on the right")
    return Row(graph.builder.linear(name, graph.row(x), weight.value, None))


def _transposed(graph: TorchGraph, name: str, x: Any, *dims: int) -> Weight:
    if not isinstance(x, Weight) or x.value.ndim != 2 or (dims and sorted(d % 2 for d in dims) != [0, 1]):
        raise BadModel("only parameters of two axes can be transposed")
    return Weight(x.name, x.value.T)


def _reshape(graph: TorchGraph, name: str, x: Any, *sizes: Any) -> Row:
    shape = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else list(sizes)
    row = graph.shape(x)
    if not shape or not (shape[0] is BATCH or shape[0] == -1):
        raise BadModel(f"the first size must be the batch, found {shape}")
    if any(isinstance(n, Batch) or not isinstance(n, int) for n in shape[1:]) or shape.count(-1) > 1:
        raise BadModel(f"the sizes {shape} are not valid")
    elements, new = math.prod(row), shape[1:]
    known = math.prod(n for n in new if n != -1)
    if -1 in new and known and elements % known == 0:
        new[new.index(-1)] = elements // known
    if math.prod(new) != elements or any(n < 1 for n in new):
        raise BadModel(f"reshaping rows of shape {row} to {shape} would mix rows")
    if not new:
        return Row(graph.builder.layer("reshape", name, [graph.row(x)], ints=[1]), True)
    if tuple(new) == row:
        return Row(graph.row(x))
    return Row(graph.builder.layer("reshape", name, [graph.row(x)], ints=new))


def _squeeze(graph: TorchGraph, name: str, x: Any, dim: Any = None) -> Row:
    row = graph.shape(x)
    at = dim + len(row) + 1 if isinstance(dim, int) and dim < 0 else dim
    if not isinstance(at, int) or not 1 <= at <= len(row) or row[at - 1] != 1:
        raise BadModel(f"squeeze needs an axis of size 1 that is not the batch, found {dim} of rows {row}")
    new = row[: at - 1] + row[at:]
    return Row(graph.builder.layer("reshape", name, [graph.row(x)], ints=new or [1]), not new)


def _unsqueeze(graph: TorchGraph, name: str, x: Any, dim: int) -> Row:
    layer = graph.row(x, flat=True)
    row = () if x.flat else graph.builder.shape(layer)
    at = dim + len(row) + 2 if dim < 0 else dim
    if not 1 <= at <= len(row) + 1:
        raise BadModel(f"the batch must stay the first axis, found {dim}")
    return Row(graph.builder.layer("reshape", name, [layer], ints=(*row[: at - 1], 1, *row[at - 1 :])))


def _concat(graph: TorchGraph, name: str, tensors: Any, dim: int = 0) -> Row:
    layers = [graph.row(t) for t in tensors]
    axis = dim + len(graph.builder.shape(layers[0])) + 1 if dim < 0 else dim
    if axis < 1:
        raise BadModel("joining along the batch would mix rows")
    return Row(graph.builder.layer("concat", name, layers, ints=[axis - 1]))


def _size(graph: TorchGraph, name: str, x: Any, dim: int | None = None) -> Any:
    sizes = (BATCH, *graph.shape(x))
    return sizes if dim is None else sizes[dim]


def _getattr(graph: TorchGraph, name: str, x: Any, attribute: str) -> Any:
    if attribute == "shape":
        return _size(graph, name, x)
    if attribute == "T":
        return _transposed(graph, name, x)
    raise BadModel(f"the attribute {attribute!r} is not supported")


def _getitem(graph: TorchGraph, name: str, x: Any, index: Any) -> Any:
    if isinstance(x, tuple) and isinstance(index, int | slice):
        return x[index]
    raise BadModel("indexing is supported for sizes only")


def _max_pool(
    graph: TorchGraph,
    name: str,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Row:
    if dilation not in (1, (1, 1), [1, 1]) or return_indices:
        raise BadModel("dilation and indices are not supported")
    return pool(graph, name, "max_pool2d", x, kernel_size, stride, padding, ceil_mode)


def _avg_pool(
    graph: TorchGraph,
    name: str,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Row:
    if divisor_override is not None:
        raise BadModel("divisor_override is not supported")
    return pool(graph, name, "avg_pool2d", x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def _softmax(
    graph: TorchGraph, name: str, x: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Row:
    return softmax(graph, name, x, dim)


def _dropout(graph: TorchGraph, name: str, x: Any, p: float = 0.5, training: Any = True, inplace: bool = False) -> Any:
    if training is not False:
        raise BadModel("dropout must follow the module's mode: pass training=self.training")
    return x


def _same(graph: TorchGraph, name: str, x: Any, *rest: Any) -> Any:
    return x


# A Proxy's `training` attribute is evaluated while tracing; the module was put in evaluation mode before.
FUNCTIONS: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        functional.adaptive_avg_pool2d: whole_image,
        functional.avg_pool2d: _avg_pool,
        functional.dropout: _dropout,
        functional.linear: _linear,
        functional.max_pool2d: _max_pool,
        functional.relu: elementwise("relu"),
        functional.sigmoid: elementwise("sigmoid"),
        functional.softmax: _softmax,
        functional.tanh: elementwise("tanh"),
        getattr: _getattr,
        operator.add: _binary("add"),
        operator.getitem: _getitem,
        operator.matmul: _matmul,
        operator.mul: _binary("mul"),
        operator.pow: _power,
        operator.sub: _binary("sub"),
        operator.truediv: _binary("div"),
        torch.add: _binary("add"),
        torch.cat: _concat,
        torch.concat: _concat,
        torch.div: _binary("div"),
        torch.flatten: flatten,
        torch.matmul: _matmul,
        torch.max_pool2d: _max_pool,
        torch.mul: _binary("mul"),
        torch.pow: _power,
        torch.relu: elementwise("relu"),
        torch.reshape: _reshape,
        torch.sigmoid: elementwise("sigmoid"),
        torch.softmax: _softmax,
        torch.square: _square,
        torch.squeeze: _squeeze,
        torch.sub: _binary("sub"),
        torch.tanh: elementwise("tanh"),
        torch.unsqueeze: _unsqueeze,
    }
)

METHODS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": _binary("add"),
        "contiguous": _same,
        "div": _binary("div"),
        "double": _same,
        "flatten": flatten,
        "float": _same,
        "mul": _binary("mul"),
        "pow": _power,
        "relu": elementwise("relu"),
        "reshape": _reshape,
        "sigmoid": elementwise("sigmoid"),
        "size": _size,
        "softmax": _softmax,
        "square": _square,
        "squeeze": _squeeze,
        "sub": _binary("sub"),
        "t": _transposed,
        "tanh": elementwise("tanh"),
        "unsqueeze": _unsqueeze,
        "view": _reshape,
    }
)

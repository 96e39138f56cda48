"""What each torch.nn module becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import nn

from enclave.errors import BadModel
from enclave.models.torch_values import Row, TorchGraph, array

__all__ = ["MODULES", "elementwise", "flatten", "pool", "softmax", "whole_image"]


def _linear(graph: TorchGraph, name: str, module: nn.Linear, x: Any) -> Row:
    bias = None if module.bias is None else array(module.bias)
    return Row(graph.builder.linear(name, graph.row(x), array(module.weight).T, bias))


def _conv2d(graph: TorchGraph, name: str, module: nn.Conv2d, x: Any) -> Row:
    if module.padding_mode != "zeros":
        raise BadModel(f"padding mode {module.padding_mode!r} is not supported")
    kernel, dilation = module.kernel_size, module.dilation
    if module.padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        top, left = (t // 2 for t in total)
        pads = [top, left, total[0] - top, total[1] - left]
    elif module.padding == "valid":
        pads = [0, 0, 0, 0]
    else:
        pads = [*_pair(module.padding), *_pair(module.padding)]
    ints = [*_pair(module.stride), *pads, *_pair(dilation), module.groups]
    parameters = [graph.builder.weight(f"{name}.weight", array(module.weight))]
    if module.bias is not None:
        parameters.append(graph.builder.weight(f"{name}.bias", array(module.bias)))
    return Row(graph.builder.layer("conv2d", name, [graph.row(x)], parameters, ints))


def _batch_norm(graph: TorchGraph, name: str, module: Any, x: Any) -> Row:
    if module.running_mean is None or module.running_var is None:
        raise BadModel("batch normalisation without running statistics depends on the other rows of a batch")
    deviation = np.sqrt(array(module.running_var) + module.eps)
    gamma = np.ones_like(deviation) if module.weight is None else array(module.weight)
    beta = np.zeros_like(deviation) if module.bias is None else array(module.bias)
    scale = gamma / deviation
    shift = beta - array(module.running_mean) * scale
    parameters = [graph.builder.weight(f"{name}.{n}", v) for n, v in (("scale", scale), ("shift", shift))]
    return Row(graph.builder.layer("affine", name, [graph.row(x)], parameters))


def elementwise(op: str) -> Callable[..., Row]:
    """relu, sigmoid or tanh as a function; `inplace` changes nothing here."""

    def handle(graph: TorchGraph, name: str, x: Any, inplace: bool = False) -> Row:
        flat = isinstance(x, Row) and x.flat
        return Row(graph.builder.layer(op, name, [graph.row(x, flat=True)]), flat)

    return handle


def softmax(graph: TorchGraph, name: str, x: Any, dim: int | None) -> Row:
    """Along the last axis only."""
    rank = len(graph.shape(x)) + 1
    if dim not in (-1, rank - 1):
        raise BadModel(f"softmax is supported along the last axis, found dim {dim} of {rank}")
    return Row(graph.builder.layer("softmax", name, [graph.row(x)]))


def pool(
    graph: TorchGraph,
    name: str,
    op: str,
    x: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool = True,
) -> Row:
    """max_pool2d or avg_pool2d; stride None means the kernel."""
    row = graph.shape(x)
    if len(row) != 3:
        raise BadModel(f"a row must be (channels, height, width), found {row}")
    size, step, pad = _pair(kernel), _pair(kernel if stride in (None, [], ()) else stride), _pair(padding)
    if ceil_mode and any((n + 2 * p - k) % s for n, p, k, s in zip(row[1:], pad, size, step, strict=True)):
        raise BadModel("ceil_mode with a window that does not divide the image is not supported")
    ints = [*size, *step, *pad, *pad, *([int(count_include_pad)] if op == "avg_pool2d" else [])]
    return Row(graph.builder.layer(op, name, [graph.row(x)], ints=ints))


def whole_image(graph: TorchGraph, name: str, x: Any, output_size: Any) -> Row:
    """Adaptive average pooling to one value per channel."""
    row = graph.shape(x)
    if len(row) != 3 or output_size not in (1, (1, 1), [1, 1]):
        raise BadModel(f"adaptive pooling is supported to size 1 of an image, found {output_size} of rows {row}")
    return pool(graph, name, "avg_pool2d", x, row[1:], 1, 0, False)


def flatten(graph: TorchGraph, name: str, x: Any, start_dim: int = 0, end_dim: int = -1) -> Row:
    """Everything but the batch to one axis."""
    rank = len(graph.shape(x)) + 1
    if start_dim not in (1, 1 - rank) or end_dim not in (-1, rank - 1):
        raise BadModel(f"flatten must keep the batch and no other axis, found {start_dim} to {end_dim}")
    return x if rank == 2 else Row(graph.builder.layer("flatten", name, [graph.row(x)]))


def _unflatten(graph: TorchGraph, name: str, module: nn.Unflatten, x: Any) -> Row:
    row = graph.shape(x)
    if module.dim != 1 or len(row) != 1:
        raise BadModel("unflatten is supported from (batch, features)")
    sizes = [int(n) for n in module.unflattened_size]
    return Row(graph.builder.layer("reshape", name, [graph.row(x)], ints=sizes))


def _same(graph: TorchGraph, name: str, module: Any, x: Any) -> Any:
    return x


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(value), int(value))
    if len(pair) == 1:
        pair *= 2
    if len(pair) != 2:
        raise BadModel(f"only two-dimensional windows are supported, found {value}")
    return pair[0], pair[1]


def _activation(op: str) -> Callable[..., Row]:
    return lambda graph, name, module, x: elementwise(op)(graph, name, x)


def _max_pool(graph: TorchGraph, name: str, m: nn.MaxPool2d, x: Any) -> Row:
    if _pair(m.dilation) != (1, 1) or m.return_indices:
        raise BadModel("dilation and indices are not supported")
    return pool(graph, name, "max_pool2d", x, m.kernel_size, m.stride, m.padding, m.ceil_mode)


def _avg_pool(graph: TorchGraph, name: str, m: nn.AvgPool2d, x: Any) -> Row:
    if m.divisor_override is not None:
        raise BadModel("divisor_override is not supported")
    return pool(graph, name, "avg_pool2d", x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad)


MODULES: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        nn.AdaptiveAvgPool2d: lambda graph, name, module, x: whole_image(graph, name, x, module.output_size),
        nn.AvgPool2d: _avg_pool,
        nn.BatchNorm1d: _batch_norm,
        nn.BatchNorm2d: _batch_norm,
        nn.Conv2d: _conv2d,
        nn.Dropout: _same,
        nn.Dropout1d: _same,
        nn.Dropout2d: _same,
        nn.Flatten: lambda graph, name, module, x: flatten(graph, name, x, module.start_dim, module.end_dim),
        nn.Identity: _same,
        nn.Linear: _linear,
        nn.MaxPool2d: _max_pool,
        nn.ReLU: _activation("relu"),
        nn.Sigmoid: _activation("sigmoid"),
        nn.Softmax: lambda graph, name, module, x: softmax(graph, name, x, module.dim),
        nn.Tanh: _activation("tanh"),
        nn.Unflatten: _unflatten,
    }
)

"""What each ONNX operator becomes. One function per operator; they raise BadModel without the node's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from enclave.errors import BadModel
from enclave.models.onnx_shapes import (
    axes_of,
    concat,
    flatten,
    gather,
    reshape,
    shape_of,
    squeeze,
    transpose,
    unsqueeze,
)
from enclave.models.onnx_values import AnyArray, OnnxGraph, OnnxNode

__all__ = ["HANDLERS"]


def _gemm(graph: OnnxGraph, node: OnnxNode) -> None:
    if node.integer("transA", 0):
        raise BadModel("transA would mix rows")
    value = graph.row(node.optional(0))
    if len(graph.builder.shape(value)) != 1:
        raise BadModel(f"A must have two axes, found rows of shape {graph.builder.shape(value)}")
    weight = graph.constant(node.optional(1), "B")
    if weight.ndim != 2:
        raise BadModel(f"B must have two axes, found shape {weight.shape}")
    weight = weight.T if node.integer("transB", 0) else weight
    if node.number("alpha", 1.0) != 1.0:
        weight = weight * node.number("alpha", 1.0)
    bias, beta = node.optional(2), node.number("beta", 1.0)
    if bias is None or graph.is_constant(bias):
        vector = None if bias is None else _vector(graph.constant(bias, "C"), weight.shape[1]) * beta
        graph.set_row(node, graph.builder.linear(node.label, value, weight, vector))
        return
    if beta != 1.0:
        raise BadModel(f"beta must be 1 where C depends on the input, found {beta}")
    product = graph.builder.linear(node.label, value, weight, None)
    graph.set_row(node, graph.builder.layer("add", node.label, [product, graph.row(bias)]))


def _vector(bias: AnyArray, size: int) -> AnyArray:
    if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1) or bias.shape[-1:] not in ((), (1,), (size,)):
        raise BadModel(f"C must be ({size},), found shape {bias.shape}")
    return np.broadcast_to(bias.reshape(-1), (size,))


def _matmul(graph: OnnxGraph, node: OnnxNode) -> None:
    value, weight = graph.row(node.optional(0)), graph.constant(node.optional(1), "the right operand")
    if weight.ndim != 2:
        raise BadModel(f"the right operand must have two axes, found shape {weight.shape}")
    graph.set_row(node, graph.builder.linear(node.label, value, weight, None))


def _pads(graph: OnnxGraph, node: OnnxNode, value: str, kernel: list[int], dilation: list[int]) -> list[int]:
    """Stride and padding in the order of the graph: sh sw pt pl pb pr."""
    stride = node.integers("strides") or [1, 1]
    pads = node.integers("pads") or [0, 0, 0, 0]
    if len(stride) != 2 or len(pads) != 4 or len(dilation) != 2 or min(*stride, *dilation, *kernel) < 1:
        raise BadModel(f"only two-dimensional windows are supported, found strides {stride} and pads {pads}")
    mode = node.text("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = [0, 0, 0, 0]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, k, s, d in zip(_image(graph, value)[1:], kernel, stride, dilation, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            small, large = total // 2, total - total // 2
            before.append(small if mode == "SAME_UPPER" else large)
            after.append(large if mode == "SAME_UPPER" else small)
        pads = before + after
    elif mode != "NOTSET":
        raise BadModel(f"auto_pad {mode!r} is not supported")
    return [*stride, *pads]


def _image(graph: OnnxGraph, value: str) -> tuple[int, int, int]:
    row = graph.builder.shape(value)
    if len(row) != 3:
        raise BadModel(f"only images (channels, height, width) are supported, found rows of shape {row}")
    return row[0], row[1], row[2]


def _conv(graph: OnnxGraph, node: OnnxNode) -> None:
    value, weight = graph.row(node.optional(0)), graph.constant(node.optional(1), "W")
    _image(graph, value)
    if weight.ndim != 4:
        raise BadModel(f"only two-dimensional convolutions are supported, found weights of shape {weight.shape}")
    kernel = list(weight.shape[2:])
    if (node.integers("kernel_shape") or kernel) != kernel:
        raise BadModel(f"kernel_shape {node.integers('kernel_shape')} is not that of the weights, {kernel}")
    dilation = node.integers("dilations") or [1, 1]
    ints = [*_pads(graph, node, value, kernel, dilation), *dilation, node.integer("group", 1)]
    parameters = [graph.builder.weight(f"{node.label}.weight", weight)]
    if node.optional(2) is not None:
        parameters.append(graph.builder.weight(f"{node.label}.bias", graph.constant(node.optional(2), "B")))
    graph.set_row(node, graph.builder.layer("conv2d", node.label, [value], parameters, ints))


def _pool(op: str) -> Callable[[OnnxGraph, OnnxNode], None]:
    def handle(graph: OnnxGraph, node: OnnxNode) -> None:
        value = graph.row(node.optional(0))
        _, height, width = _image(graph, value)
        kernel = node.integers("kernel_shape") or []
        if len(kernel) != 2:
            raise BadModel(f"only two-dimensional windows are supported, found kernel_shape {kernel}")
        if any(d != 1 for d in node.integers("dilations") or []):
            raise BadModel("dilations are not supported")
        window = _pads(graph, node, value, kernel, [1, 1])
        if node.integer("ceil_mode", 0):
            sh, sw, top, left, bottom, right = window
            rest = ((height + top + bottom - kernel[0]) % sh, (width + left + right - kernel[1]) % sw)
            if any(rest):
                raise BadModel("ceil_mode with a window that does not divide the image is not supported")
        ints = [*kernel, *window]
        if op == "avg_pool2d":
            ints.append(node.integer("count_include_pad", 0))
        graph.set_row(node, graph.builder.layer(op, node.label, [value], ints=ints))

    return handle


def _global_pool(op: str) -> Callable[[OnnxGraph, OnnxNode], None]:
    def handle(graph: OnnxGraph, node: OnnxNode) -> None:
        value = graph.row(node.optional(0))
        graph.set_row(node, _whole_image(graph, node, value, op))

    return handle


def _whole_image(graph: OnnxGraph, node: OnnxNode, value: str, op: str) -> str:
    _, height, width = _image(graph, value)
    ints = [height, width, 1, 1, 0, 0, 0, 0, *([0] if op == "avg_pool2d" else [])]
    return graph.builder.layer(op, node.label, [value], ints=ints)


def _reduce_mean(graph: OnnxGraph, node: OnnxNode) -> None:
    value = graph.row(node.optional(0))
    rank = len(graph.builder.shape(value)) + 1
    axes = axes_of(graph, node) or []
    if sorted(a + rank if a < 0 else a for a in axes) != [2, 3] or rank != 4:
        raise BadModel(f"only the mean over a whole image is supported, found axes {axes}")
    layer = _whole_image(graph, node, value, "avg_pool2d")
    if not node.integer("keepdims", 1):
        layer = graph.builder.layer("flatten", node.label, [layer])
    graph.set_row(node, layer)


def _batch_norm(graph: OnnxGraph, node: OnnxNode) -> None:
    if node.integer("training_mode", 0):
        raise BadModel("training_mode is not supported")
    value = graph.row(node.optional(0))
    names = ("scale", "B", "input_mean", "input_var")
    gamma, beta, mean, variance = (graph.constant(node.optional(i + 1), name) for i, name in enumerate(names))
    if np.any(variance < 0):
        raise BadModel("input_var holds negative values")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = gamma / np.sqrt(variance + node.number("epsilon", 1e-5))
        shift = beta - mean * scale
    parameters = [graph.builder.weight(f"{node.label}.{n}", v) for n, v in (("scale", scale), ("shift", shift))]
    graph.set_row(node, graph.builder.layer("affine", node.label, [value], parameters))


def _elementwise(op: str) -> Callable[[OnnxGraph, OnnxNode], None]:
    def handle(graph: OnnxGraph, node: OnnxNode) -> None:
        value = graph.row(node.optional(0), flat=True)
        layer = graph.builder.layer(op, node.label, [value])
        if value in graph.flat:
            graph.flat.add(layer)
        graph.set_row(node, layer)

    return handle


def _softmax(graph: OnnxGraph, node: OnnxNode) -> None:
    value = graph.row(node.optional(0))
    rank = len(graph.builder.shape(value)) + 1
    axis = node.integer("axis", -1 if graph.opset >= 13 else 1)
    if axis not in (-1, rank - 1):
        raise BadModel(f"only the last axis is supported, found axis {axis} of {rank}")
    graph.set_row(node, graph.builder.layer("softmax", node.label, [value]))


def _binary(graph: OnnxGraph, node: OnnxNode) -> None:
    left, right = node.optional(0), node.optional(1)
    if left is None or right is None:
        raise BadModel("expected two inputs")
    constants = [name for name in (left, right) if graph.is_constant(name)]
    if len(constants) == 2:
        graph.set_constant(node, _fold(graph, node.op, graph.constant(left, "A"), graph.constant(right, "B")))
    elif not constants:
        graph.set_row(node, _two_rows(graph, node, graph.row(left), graph.row(right)))
    elif graph.is_constant(right):
        value = graph.row(left)
        constant = _row_constant(graph, graph.constant(right, "B"), value)
        if node.op == "Div" and np.any(constant == 0):
            raise BadModel("division by zero")
        op, used = {
            "Add": ("add", constant),
            "Sub": ("add", -constant),
            "Mul": ("mul", constant),
            "Div": ("mul", 1.0 / np.where(constant == 0, 1.0, constant)),
        }[node.op]
        graph.set_row(node, graph.builder.constant(op, node.label, value, used))
    else:
        value = graph.row(right)
        constant = _row_constant(graph, graph.constant(left, "A"), value)
        if node.op == "Div":
            raise BadModel("division by a value that depends on the input is not supported")
        if node.op == "Sub":
            value = graph.builder.constant("mul", node.label, value, -1.0)
        graph.set_row(node, graph.builder.constant("mul" if node.op == "Mul" else "add", node.label, value, constant))


def _power(graph: OnnxGraph, node: OnnxNode) -> None:
    exponent = graph.constant(node.optional(1), "the exponent")
    if exponent.size != 1:
        raise BadModel(f"one exponent for all elements is supported, found shape {exponent.shape}")
    graph.set_row(node, graph.builder.power(node.label, graph.row(node.optional(0)), float(exponent.reshape(()))))


def _two_rows(graph: OnnxGraph, node: OnnxNode, left: str, right: str) -> str:
    if node.op == "Div":
        raise BadModel("division by a value that depends on the input is not supported")
    if node.op == "Sub":
        right = graph.builder.constant("mul", node.label, right, -1.0)
    return graph.builder.layer("mul" if node.op == "Mul" else "add", node.label, [left, right])


def _row_constant(graph: OnnxGraph, constant: AnyArray, value: str) -> AnyArray:
    """The constant without the batch axis, which it may have with size 1 only."""
    rank = len(graph.builder.shape(value))
    while constant.ndim > rank:
        if constant.shape[0] != 1:
            raise BadModel(f"a constant of shape {constant.shape} differs from row to row")
        constant = constant[0]
    return constant


def _fold(graph: OnnxGraph, op: str, left: AnyArray, right: AnyArray) -> AnyArray:
    if left.dtype.kind != "f" or right.dtype.kind != "f":
        raise BadModel("arithmetic on shapes is not supported")
    try:
        graph.reserve(np.broadcast_shapes(left.shape, right.shape))
    except ValueError as error:
        raise BadModel(f"shapes {left.shape} and {right.shape} do not broadcast") from error
    functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    with np.errstate(all="ignore"):
        result: AnyArray = functions[op](left, right)
    return result


def _negate(graph: OnnxGraph, node: OnnxNode) -> None:
    graph.set_row(node, graph.builder.constant("mul", node.label, graph.row(node.optional(0)), -1.0))


def _same(graph: OnnxGraph, node: OnnxNode) -> None:
    name = node.optional(0)
    if node.op == "Dropout" and node.optional(2) is not None and graph.constant(node.optional(2), "mode").any():
        raise BadModel("training_mode is not supported")
    if name is not None and graph.is_constant(name):
        graph.set_constant(node, graph.constant(name, "the input"))
    else:
        graph.set_row(node, graph.row(name, flat=True))


def _cast(graph: OnnxGraph, node: OnnxNode) -> None:
    import onnx

    to, name = node.integer("to", 0), node.optional(0)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if name is not None and graph.is_constant(name):
        value = graph.constant(name, "the input")
        kind = np.float64 if to in floats else np.int64
        graph.set_constant(node, (np.trunc(value) if kind is np.int64 else value).astype(kind))
    elif to in floats:
        graph.set_row(node, graph.row(name, flat=True))
    else:
        raise BadModel("values that depend on the input stay floating-point numbers")


def _constant(graph: OnnxGraph, node: OnnxNode) -> None:
    if node.has("value"):
        value: AnyArray = graph.decode(node.tensor("value"))
    elif node.has("value_float"):
        value = np.array(node.number("value_float", 0.0))
    elif node.has("value_floats"):
        value = np.array(node.numbers("value_floats"))
    elif node.has("value_int"):
        value = np.array(node.integer("value_int", 0), dtype=np.int64)
    elif node.has("value_ints"):
        value = np.array(node.integers("value_ints"), dtype=np.int64)
    else:
        raise BadModel("the constant is neither a tensor nor numbers")
    graph.reserve(value.shape)
    if not np.isfinite(value).all():
        raise BadModel("the constant holds NaN or infinite values")
    graph.set_constant(node, value)


HANDLERS: Mapping[str, Callable[[OnnxGraph, OnnxNode], None]] = MappingProxyType(
    {
        "Add": _binary,
        "AveragePool": _pool("avg_pool2d"),
        "BatchNormalization": _batch_norm,
        "Cast": _cast,
        "Concat": concat,
        "Constant": _constant,
        "Conv": _conv,
        "Div": _binary,
        "Dropout": _same,
        "Flatten": flatten,
        "Gather": gather,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_pool("avg_pool2d"),
        "GlobalMaxPool": _global_pool("max_pool2d"),
        "Identity": _same,
        "MatMul": _matmul,
        "MaxPool": _pool("max_pool2d"),
        "Mul": _binary,
        "Neg": _negate,
        "Pow": _power,
        "ReduceMean": _reduce_mean,
        "Relu": _elementwise("relu"),
        "Reshape": reshape,
        "Shape": shape_of,
        "Sigmoid": _elementwise("sigmoid"),
        "Softmax": _softmax,
        "Squeeze": squeeze,
        "Sub": _binary,
        "Tanh": _elementwise("tanh"),
        "Transpose": transpose,
        "Unsqueeze": unsqueeze,
    }
)

"""The project's graph to ONNX: what a trained model leaves as."""

from __future__ import annotations

from typing import Any

import numpy as np

from enclave.messages import Layer
from enclave.models.graph import INPUT, Shape, shapes
from enclave.models.model import FloatArray, Model

__all__ = ["write_onnx"]

_OPSET = 17
_IR_VERSION = 8
_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}


def write_onnx(model: Model) -> bytes:
    """A valid ONNX file (opset 17, IR 8) with float32 weights; input "input" and output "output", batch axis "N".

    float32 keeps 24 significant bits, more than a fixed-point weight of 20 fractional bits below 16 has.
    """
    import onnx
    from onnx import helper, numpy_helper

    known = shapes(model.architecture)
    initializers: dict[str, Any] = {}
    nodes: list[Any] = []

    def tensor(name: str, value: Any, kind: Any = np.float32) -> str:
        name = f"{name}:weight" if name == "output" else name
        initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype=kind), name)
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs, [output], name=f"{output}:{op}", **attributes))

    last = model.architecture.layers[-1].name
    # Layers and parameters are two name spaces here and one in ONNX; no name of ours holds a colon.
    values = {INPUT: INPUT, last: "output"}
    for layer in model.architecture.layers:
        values.setdefault(layer.name, f"{layer.name}:value")
        weights = [model.weights[p] for p in layer.parameters]
        _layer(layer, values, known[layer.inputs[0]], weights, tensor, node)
    graph = helper.make_graph(
        nodes,
        "enclave",
        [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["N", *model.architecture.input_shape])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["N", *known[last]])],
        list(initializers.values()),
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="enclave")
    proto.ir_version = _IR_VERSION
    return bytes(proto.SerializeToString(deterministic=True))


def _layer(layer: Layer, values: dict[str, str], row: Shape, weights: list[FloatArray], tensor: Any, node: Any) -> None:
    name, inputs = values[layer.name], [values[i] for i in layer.inputs]
    ints = list(layer.ints)
    if layer.op == "linear" and len(row) == 1:
        names = [tensor(p, w) for p, w in zip(layer.parameters, weights, strict=True)]
        node("Gemm", [*inputs, *names], name)
    elif layer.op == "linear":
        product = f"{name}:product" if len(weights) == 2 else name
        node("MatMul", [*inputs, tensor(layer.parameters[0], weights[0])], product)
        if len(weights) == 2:
            node("Add", [product, tensor(layer.parameters[1], weights[1])], name)
    elif layer.op == "conv2d":
        names = [tensor(p, w) for p, w in zip(layer.parameters, weights, strict=True)]
        kernel = list(weights[0].shape[2:])
        window = {"kernel_shape": kernel, "strides": ints[:2], "pads": ints[2:6], "dilations": ints[6:8]}
        node("Conv", [*inputs, *names], name, group=ints[8], **window)
    elif layer.op in _PLAIN:
        node(_PLAIN[layer.op], inputs, name)
    elif layer.op == "softmax":
        node("Softmax", inputs, name, axis=-1)
    elif layer.op in ("max_pool2d", "avg_pool2d"):
        window = {"kernel_shape": ints[:2], "strides": ints[2:4], "pads": ints[4:8]}
        if layer.op == "max_pool2d":
            node("MaxPool", inputs, name, **window)
        else:
            node("AveragePool", inputs, name, count_include_pad=ints[8], **window)
    elif layer.op == "flatten":
        node("Flatten", inputs, name, axis=1)
    elif layer.op == "reshape":
        node("Reshape", [*inputs, tensor(f"{name}:shape", np.array([0, *ints]), np.int64)], name)
    elif layer.op == "affine":
        column = (-1,) + (1,) * (len(row) - 1)
        node("Mul", [*inputs, tensor(f"{name}:scale", weights[0].reshape(column))], f"{name}:scaled")
        node("Add", [f"{name}:scaled", tensor(f"{name}:shift", weights[1].reshape(column))], name)
    elif layer.op in ("add", "mul"):
        names = [tensor(p, w) for p, w in zip(layer.parameters, weights, strict=True)]
        node("Add" if layer.op == "add" else "Mul", [*inputs, *names], name)
    else:
        node("Concat", inputs, name, axis=ints[0] + 1)

"""ONNX files to the project's graph.

The file comes from the buyer and stays there, but it was often made by somebody else: sizes are checked against
limits before anything is allocated, no other file is opened (external data is refused), and nothing runs. The
first axis of the graph's input is the batch; every other size must be a number. What the graph cannot express is
refused with the name of the node and its operator; nothing is approximated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from enclave.errors import BadModel
from enclave.models.builder import GraphBuilder
from enclave.models.graph import MAX_PARAMETERS
from enclave.models.model import Model
from enclave.models.onnx_nodes import HANDLERS
from enclave.models.onnx_values import OnnxGraph, OnnxNode

__all__ = ["MAX_FILE_BYTES", "read_onnx"]

MAX_FILE_BYTES = 512 << 20
_MAX_NODES = 10_000


def read_onnx(source: Path | bytes) -> Model:
    """The model in an ONNX file, or in its bytes.

    Raises: BadModel naming the node and operator that cannot be run, or what is wrong with the file.
    """
    import onnx

    data = source if isinstance(source, bytes) else _read(Path(source))
    if len(data) > MAX_FILE_BYTES:
        raise BadModel(f"an ONNX model may have {MAX_FILE_BYTES} bytes, found {len(data)}")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise BadModel("not an ONNX model: the file cannot be parsed") from error
    if not proto.graph.node:
        raise BadModel("not an ONNX model: the graph has no nodes")
    return _read_graph(proto)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BadModel(f"{path.name}: an ONNX model may have {MAX_FILE_BYTES} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise BadModel(f"cannot read the model {path.name}: {error.strerror}") from error


def _read_graph(proto: Any) -> Model:
    graph = proto.graph
    if len(graph.node) > _MAX_NODES:
        raise BadModel(f"at most {_MAX_NODES} nodes, found {len(graph.node)}")
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if graph.sparse_initializer:
        raise BadModel("sparse initializers are not supported")
    constants = _initializers(graph.initializer)
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise BadModel(
            f"a model must have one input and one output, "
            f"found inputs {[v.name for v in inputs][:8]} and outputs {[v.name for v in graph.output][:8]}"
        )
    batch, row = _input_shape(inputs[0])
    values = OnnxGraph(GraphBuilder(row), opset, batch, inputs[0].name, constants, decode_tensor)
    for i, node in enumerate(graph.node):
        handler = HANDLERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        wrapped = OnnxNode(node, i)
        if handler is None:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise BadModel(
                f"node {wrapped.label!r}: operator {name!r} is not supported",
                hint=f"supported: {', '.join(sorted(HANDLERS))}",
            )
        try:
            handler(values, wrapped)
        except BadModel as error:
            if repr(wrapped.label) in error.public:
                raise
            raise BadModel(f"node {wrapped.label!r} ({node.op_type}): {error.public}", hint=error.hint) from error
    output = values.output(graph.output[0].name)
    return values.builder.build(output)


def _initializers(tensors: Any) -> dict[str, np.ndarray[Any, Any]]:
    total = sum(_declared_elements(tensor) for tensor in tensors)
    if total > MAX_PARAMETERS:
        raise BadModel(f"a model may have {MAX_PARAMETERS} weights, the file declares {total}")
    constants: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in tensors:
        if tensor.name in constants:
            raise BadModel(f"two initializers are called {tensor.name!r}")
        constants[tensor.name] = decode_tensor(tensor)
    return constants


def _declared_elements(tensor: Any) -> int:
    if any(n < 0 for n in tensor.dims):
        raise BadModel(f"tensor {tensor.name!r} has a negative size")
    return math.prod(tensor.dims)


def decode_tensor(tensor: Any) -> np.ndarray[Any, Any]:
    """A TensorProto as float64 or int64; every size is checked before anything is allocated."""
    import onnx

    kinds: Mapping[int, str] = {
        onnx.TensorProto.FLOAT: "float",
        onnx.TensorProto.DOUBLE: "float",
        onnx.TensorProto.FLOAT16: "float",
        onnx.TensorProto.BFLOAT16: "float",
        onnx.TensorProto.INT64: "int",
        onnx.TensorProto.INT32: "int",
        onnx.TensorProto.BOOL: "int",
    }
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise BadModel(
            f"tensor {tensor.name!r} has external data, which is not read", hint="save the model as one file"
        )
    elements = _declared_elements(tensor)
    if elements > MAX_PARAMETERS:
        raise BadModel(f"tensor {tensor.name!r} is too large: at most {MAX_PARAMETERS} elements, found {elements}")
    if tensor.data_type not in kinds:
        raise BadModel(f"tensor {tensor.name!r} has a type that is not supported: {tensor.data_type}")
    kind = kinds[tensor.data_type]
    try:
        raw = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, IndexError) as error:
        raise BadModel(f"tensor {tensor.name!r} holds fewer or more data than its shape declares") from error
    with np.errstate(invalid="ignore"):  # a signalling NaN is refused below, without a warning
        array: np.ndarray[Any, Any] = raw.astype(np.float64 if kind == "float" else np.int64)
    if not np.isfinite(array).all():
        raise BadModel(f"weight {tensor.name!r} holds NaN or infinite values")
    return array


def _input_shape(value: Any) -> tuple[int | None, tuple[int, ...]]:
    """Batch size (None when free) and the shape of a row."""
    import onnx

    kind = value.type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
        raise BadModel(f"input {value.name!r} must be a tensor of floating-point numbers")
    if not kind.HasField("shape") or len(kind.shape.dim) < 2:
        raise BadModel(f"input {value.name!r} must have a batch axis and at least one more, with declared sizes")
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]
    row = sizes[1:]
    if any(n is None for n in row):
        names = [d.dim_param or d.dim_value or "?" for d in kind.shape.dim]
        raise BadModel(
            f"input {value.name!r} has a dynamic shape {names}: only the first axis, the batch, may vary",
            hint="export the model with fixed sizes",
        )
    return sizes[0], tuple(n for n in row if n is not None)

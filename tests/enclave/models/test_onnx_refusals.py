"""ONNX files that are refused: by the name of the node, before memory is taken, and without opening another file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from enclave.errors import BadModel
from enclave.models import read_model
from enclave.models.onnx_reader import MAX_FILE_BYTES, read_onnx

RNG = np.random.default_rng(7)


def f(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def proto(
    row: Sequence[Any],
    nodes: Sequence[Any],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    batch: Any = "N",
    rank: int = 2,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *row])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(op: str, *inputs: str, out: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), [out], name=f"the_{op}", **attributes)


def refuse(model: onnx.ModelProto | bytes, problem: str) -> None:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(BadModel, match=problem):
        read_onnx(data)


W = {"w": f(4, 3)}


@pytest.mark.parametrize(
    ("row", "nodes", "constants", "problem"),
    [
        ((4,), [node("Gelu", "x")], {}, "node 'the_Gelu': operator 'Gelu' is not supported"),
        ((4,), [node("LeakyRelu", "x")], {}, "operator 'LeakyRelu' is not supported"),
        ((4,), [helper.make_node("Relu", ["x"], ["y"], name="n", domain="evil")], {}, "operator 'evil.Relu'"),
        ((4,), [node("Relu", "z")], {}, r"node 'the_Relu' \(Relu\): input 'z' is not computed .* cycle"),
        ((4,), [node("Add", "b", "x", out="a"), node("Relu", "a", out="b")], {}, "'b' is not computed by an earlier"),
        ((4,), [node("Relu", "x", out="a"), node("Tanh", "x", out="a")], {}, "'a' is computed twice"),
        ((4,), [node("Relu", "x", out="x"), node("Tanh", "x")], {}, "'x' is computed twice"),
        ((4,), [node("Relu", "w")], W, "found the constant 'w'"),
        ((4,), [node("Gemm", "x", "w", transA=1)], W, "transA would mix rows"),
        ((4,), [node("Gemm", "x", "x")], {}, "B must be a constant, found 'x', which depends on the input"),
        ((4,), [node("Gemm", "x", "w", "b")], {**W, "b": f(5, 3)}, "C must be"),
        ((4,), [node("MatMul", "w", "x")], W, "expected a value that depends on the input"),
        ((5,), [node("MatMul", "x", "w")], W, r"weight must be \(5, out\)"),
        ((4,), [node("MatMul", "x", "w")], {"w": f(4)}, "must have two axes"),
        ((2, 6), [node("Conv", "x", "w")], {"w": f(3, 2, 3)}, "rows of shape"),
        ((2, 6, 6), [node("Conv", "x", "w", auto_pad="ODD")], {"w": f(3, 2, 3, 3)}, "auto_pad 'ODD'"),
        ((2, 6, 6), [node("Conv", "x", "w", strides=[0, 1])], {"w": f(3, 2, 3, 3)}, "strides"),
        ((2, 6, 6), [node("Conv", "x", "w", kernel_shape=[2, 2])], {"w": f(3, 2, 3, 3)}, "kernel_shape"),
        ((2, 6, 6), [node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])], {}, "dilations"),
        ((2, 5, 5), [node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, "ceil_mode"),
        (
            (2, 4, 4),
            [helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])],
            {},
            "only the first output",
        ),
        ((2, 4, 4), [node("ReduceMean", "x", axes=[1])], {}, "only the mean over a whole image"),
        ((4, 3), [node("Softmax", "x", axis=1)], {}, "only the last axis is supported, found axis 1 of 3"),
        ((4, 3), [node("Flatten", "x", axis=2)], {}, "only axis 1"),
        ((4, 3), [node("Reshape", "x", "s")], {"s": i(-1, 3)}, "would mix rows"),
        ((4, 3), [node("Reshape", "x", "s")], {"s": i(-1, -1)}, "is not valid"),
        ((4, 3), [node("Reshape", "x", "s")], {"s": i(0, 5, -1)}, "cannot reshape"),
        ((4, 3), [node("Reshape", "x", "s")], {"s": i(0, 0, 0, 0)}, "copies an axis"),
        ((4, 3), [node("Reshape", "x", "s")], {"s": f(2)}, "expected whole numbers"),
        ((1, 3), [node("Squeeze", "x")], {}, "axes must be given"),
        ((4, 3), [node("Squeeze", "x", "a")], {"a": i(0)}, "cannot squeeze"),
        ((4, 3), [node("Unsqueeze", "x", "a")], {"a": i(0)}, "batch must stay the first"),
        ((4, 3), [node("Unsqueeze", "x", "a")], {"a": i(9)}, "do not exist"),
        ((4, 3), [node("Transpose", "x", perm=[0, 2, 1])], {}, "more than a reshape"),
        ((4, 3), [node("Transpose", "x")], {}, "does not keep the batch first"),
        ((4,), [node("Concat", "x", "x", axis=0)], {}, "would mix rows"),
        ((4,), [node("Div", "x", "z")], {"z": np.zeros(4, dtype=np.float32)}, "division by zero"),
        ((4,), [node("Div", "x", "x")], {}, "division by a value that depends"),
        ((4,), [node("Add", "x", "b")], {"b": f(5, 4)}, "differs from row to row"),
        ((4,), [node("Cast", "x", to=7)], {}, "stay floating-point"),
        ((4,), [node("Pow", "x", "n")], {"n": np.array(0.5, np.float32)}, "powers from 1 to 16 .* found 0.5"),
        ((4,), [node("Pow", "x", "n")], {"n": f(4)}, "one exponent for all elements"),
        ((4,), [node("Identity", "x")], {}, "its output is its input"),
        ((1,), [node("Squeeze", "x", "a", out="s"), node("Add", "s", "s")], {"a": i(1)}, "no axis besides the batch"),
        (
            (4,),
            [node("Shape", "x", out="s"), node("Mul", "s", "s", out="t"), node("Reshape", "x", "t")],
            {},
            "on shapes",
        ),
        (
            (4,),
            [node("BatchNormalization", "x", "s", "s", "s", "v")],
            {"s": f(4), "v": -np.abs(f(4))},
            "negative values",
        ),
        (
            (4,),
            [node("BatchNormalization", "x", "s", "s", "s", "v", epsilon=0.0)],
            {"s": f(4), "v": np.zeros(4, dtype=np.float32)},
            "NaN or infinite",
        ),
        ((4,), [node("MatMul", "x", "w")], {"w": np.full((4, 3), np.nan, dtype=np.float32)}, "weight 'w' holds NaN"),
        ((4,), [node("MatMul", "x", "w")], {"w": np.full((4, 3), np.inf, dtype=np.float32)}, "weight 'w' holds NaN"),
        ((4,), [node("Constant", out="c", value_float=float("nan")), node("Add", "x", "c")], {}, "holds NaN"),
        ((4,), [node("Constant", out="c", value_string="text"), node("Add", "x", "c")], {}, "neither a tensor nor"),
    ],
)
def test_nodes_that_cannot_be_run_are_named(
    row: tuple[int, ...], nodes: list[Any], constants: dict[str, np.ndarray], problem: str
) -> None:
    refuse(proto(row, nodes, constants), problem)


def test_files_that_are_no_models() -> None:
    refuse(b"\xff\xff\xff not protobuf", "cannot be parsed")
    refuse(b"", "has no nodes")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (["H", 4], r"dynamic shape \['N', 'H', 4\]: only the first axis"),
        ([None, 4], "dynamic shape"),
        ([0], "dynamic shape"),
        ([], "must have a batch axis and at least one more"),
    ],
)
def test_dynamic_shapes_are_refused(row: list[Any], problem: str) -> None:
    refuse(proto(row, [node("Relu", "x")]), problem)


def test_inputs_and_outputs_must_be_one_each_and_numbers() -> None:
    two = proto((4,), [node("Add", "x", "z")])
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4]))
    refuse(two, r"one input and one output, found inputs \['x', 'z'\]")
    both = proto((4,), [node("Relu", "x"), node("Tanh", "x", out="t")])
    both.graph.output.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 4]))
    refuse(both, "one input and one output")
    words = proto((4,), [node("Relu", "x")])
    words.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    refuse(words, "must be a tensor of floating-point")
    unknown = proto((4,), [node("Relu", "x")])
    unknown.graph.input[0].type.tensor_type.ClearField("shape")
    refuse(unknown, "with declared sizes")
    absent = proto((4,), [node("Relu", "x", out="other")])
    refuse(absent, "'y' is not computed")


def test_external_data_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        proto((4,), [node("MatMul", "x", "w")], W), path, save_as_external_data=True, size_threshold=0, location="w.bin"
    )
    with pytest.raises(BadModel, match="'w' has external data, which is not read"):
        read_model(path)
    # A file that points at any other path is refused alike, and nothing is read from there.
    stealing = proto((4,), [node("MatMul", "x", "w")], W)
    tensor = stealing.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    refuse(stealing, "external data")


def test_declared_sizes_are_checked_before_memory_is_taken() -> None:
    import tracemalloc

    huge = proto((4,), [node("MatMul", "x", "w")], W)
    tensor = huge.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend([1 << 20, 1 << 20])
    tensor.raw_data = b"\0" * 48
    tracemalloc.start()
    refuse(huge, "may have 67108864 weights, the file declares 1099511627776")
    inner = proto((4,), [node("Constant", out="c", value=tensor), node("Add", "x", "c")])
    refuse(inner, "is too large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    del tensor.dims[:]
    tensor.dims.extend([4, 3, 2])
    refuse(huge, "fewer or more data than its shape declares")
    tensor.dims[0] = -4
    refuse(huge, "negative size")


def test_a_small_file_cannot_make_large_constants() -> None:
    nodes = [node("Concat", f"c{n}", f"c{n}", axis=0, out=f"c{n + 1}") for n in range(40)]
    refuse(proto((4,), [*nodes, node("Add", "x", "c40")], {"c0": f(1024)}), "more than 67108864 elements")
    wide = [node("Add", "a", "b", out="c"), node("Add", "x", "c")]
    refuse(proto((4,), wide, {"a": f(1 << 14, 1), "b": f(1, 1 << 14)}), "more than 67108864 elements")
    many = [node("Gemm", f"h{n}" if n else "x", "w", out=f"h{n + 1}") for n in range(70)]
    refuse(proto((1024,), [*many, node("Relu", "h70")], {"w": np.zeros((1024, 1024), dtype=np.float32)}), "weights")


def test_files_over_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)  # a hole: it takes no disk
    with pytest.raises(BadModel, match=f"may have {MAX_FILE_BYTES} bytes, found {MAX_FILE_BYTES + 1}"):
        read_model(path)


def test_weights_of_types_that_are_no_numbers() -> None:
    refuse(proto((4,), [node("MatMul", "x", "w")], {"w": np.ones((4, 3), dtype=np.complex64)}), "type that is not")
    sparse = proto((4,), [node("MatMul", "x", "w")], W)
    sparse.graph.sparse_initializer.add()
    refuse(sparse, "sparse")

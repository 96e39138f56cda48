"""ONNX: every operator against the standard's own evaluator, and files that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from enclave.errors import BadModel
from enclave.models import forward_float, read_model, shapes, write_onnx
from enclave.models.onnx_reader import read_onnx

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


def same(model: onnx.ModelProto, row: Sequence[int], rows: int = 3) -> None:
    """The file, its reading, and its reading written and read again, agree."""
    x = f(rows, *row)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    read = read_onnx(model.SerializeToString())
    found = forward_float(read, x)
    assert np.allclose(found.reshape(expected.shape), expected, atol=1e-5)
    written = write_onnx(read)
    onnx.checker.check_model(onnx.load_from_string(written), full_check=True)
    (again,) = ReferenceEvaluator(onnx.load_from_string(written)).run(None, {"input": x})
    assert again.shape == found.shape
    assert np.allclose(again, found, atol=1e-5)
    assert np.allclose(forward_float(read_onnx(written), x), found, atol=1e-6)


IMAGE = (2, 6, 5)
CASES: dict[str, tuple[tuple[int, ...], list[Any], dict[str, np.ndarray]]] = {
    "gemm": ((4,), [node("Gemm", "x", "w", "b")], {"w": f(4, 3), "b": f(3)}),
    "gemm-all": (
        (4,),
        [node("Gemm", "x", "w", "b", alpha=0.5, beta=2.0, transB=1)],
        {"w": f(3, 4), "b": f(1, 3)},
    ),
    "gemm-scalar-c": ((4,), [node("Gemm", "x", "w", "b")], {"w": f(4, 3), "b": f(1)}),
    "gemm-plain": ((4,), [node("Gemm", "x", "w")], {"w": f(4, 3)}),
    "gemm-row-c": (
        (3,),
        [node("Gemm", "x", "w", "x")],
        {"w": f(3, 3)},
    ),
    "matmul-bias": ((4,), [node("MatMul", "x", "w", out="a"), node("Add", "a", "b")], {"w": f(4, 3), "b": f(3)}),
    "matmul-wide": ((2, 4), [node("MatMul", "x", "w", out="a"), node("Add", "b", "a")], {"w": f(4, 3), "b": f(3)}),
    "matmul-transposed": (
        (4,),
        [node("Transpose", "w", out="t"), node("MatMul", "x", "t")],
        {"w": f(3, 4)},
    ),
    "conv": (IMAGE, [node("Conv", "x", "w", "b")], {"w": f(3, 2, 3, 3), "b": f(3)}),
    "conv-all": (
        IMAGE,
        [node("Conv", "x", "w", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2], group=2, kernel_shape=[2, 2])],
        {"w": f(4, 1, 2, 2)},
    ),
    "conv-same-upper": (IMAGE, [node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[2, 2])], {"w": f(3, 2, 2, 3)}),
    "conv-same-lower": (IMAGE, [node("Conv", "x", "w", auto_pad="SAME_LOWER")], {"w": f(3, 2, 2, 2)}),
    "conv-valid": (IMAGE, [node("Conv", "x", "w", auto_pad="VALID")], {"w": f(3, 2, 2, 2)}),
    "relu": ((4,), [node("Relu", "x")], {}),
    "sigmoid": ((4,), [node("Sigmoid", "x")], {}),
    "tanh": ((4,), [node("Tanh", "x")], {}),
    "softmax": ((4,), [node("Softmax", "x")], {}),
    "softmax-wide": ((2, 4), [node("Softmax", "x", axis=2)], {}),
    "max-pool": (IMAGE, [node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 1], pads=[1, 0, 0, 1])], {}),
    "max-pool-same": (IMAGE, [node("MaxPool", "x", kernel_shape=[3, 3], auto_pad="SAME_UPPER")], {}),
    "max-pool-ceil": ((1, 6, 6), [node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}),
    "average-pool": (IMAGE, [node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])], {}),
    "average-pool-pad": (IMAGE, [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 1, 0])], {}),
    "average-pool-count": (
        IMAGE,
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1)],
        {},
    ),
    "global-average": (IMAGE, [node("GlobalAveragePool", "x")], {}),
    "global-max": (IMAGE, [node("GlobalMaxPool", "x")], {}),
    "reduce-mean": (IMAGE, [node("ReduceMean", "x", axes=[-1, -2], keepdims=0)], {}),
    "batch-norm": (
        IMAGE,
        [node("BatchNormalization", "x", "s", "b", "m", "v", epsilon=0.01)],
        {"s": f(2), "b": f(2), "m": f(2), "v": np.abs(f(2))},
    ),
    "flatten": (IMAGE, [node("Flatten", "x")], {}),
    "flatten-of-flat": ((4,), [node("Flatten", "x", axis=-1, out="a"), node("Relu", "a")], {}),
    "reshape": (IMAGE, [node("Reshape", "x", "s")], {"s": i(-1, 60)}),
    "reshape-copy": (IMAGE, [node("Reshape", "x", "s")], {"s": i(0, 0, -1)}),
    "squeeze": ((1, 4), [node("Squeeze", "x", "a")], {"a": i(1)}),
    "squeeze-to-nothing": ((1,), [node("Relu", "x", out="r"), node("Squeeze", "r", "a")], {"a": i(-1)}),
    "unsqueeze": ((4,), [node("Unsqueeze", "x", "a")], {"a": i(1, 3)}),
    "transpose": ((1, 4), [node("Transpose", "x", perm=[0, 2, 1])], {}),
    "add": ((4,), [node("Add", "x", "b")], {"b": f(4)}),
    "add-self": ((4,), [node("Add", "x", "x")], {}),
    "sub": ((4,), [node("Sub", "x", "b")], {"b": f(1, 4)}),
    "sub-from": ((4,), [node("Sub", "b", "x")], {"b": f(4)}),
    "sub-rows": ((4,), [node("Relu", "x", out="r"), node("Sub", "r", "x")], {}),
    "mul": (IMAGE, [node("Mul", "x", "b")], {"b": f(2, 1, 1)}),
    "square": ((4,), [node("Pow", "x", "n")], {"n": np.array(2.0, np.float32)}),
    "power": (IMAGE, [node("Pow", "x", "n")], {"n": np.array([7], np.int64)}),
    "mul-rows": ((4,), [node("Relu", "x", out="r"), node("Mul", "r", "x")], {}),
    "div": ((4,), [node("Div", "x", "b")], {"b": np.array(255.0, dtype=np.float32)}),
    "neg": ((4,), [node("Neg", "x")], {}),
    "constants": (
        (4,),
        [node("Mul", "a", "b", out="c"), node("Add", "x", "c")],
        {"a": f(4), "b": f(1)},
    ),
    "concat": ((2, 3), [node("Relu", "x", out="r"), node("Concat", "x", "r", axis=-1)], {}),
    "identity": (
        (4,),
        [
            node("Identity", "x", out="a"),
            node("Dropout", "a", out="b"),
            node("Cast", "b", out="c", to=1),
            node("Relu", "c"),
        ],
        {},
    ),
    "constant-node": (
        (4,),
        [node("Constant", out="b", value_floats=[1.0, 2.0, 3.0, 4.0]), node("Add", "x", "b")],
        {},
    ),
    "view-of-size": (
        IMAGE,
        [
            node("Shape", "x", out="s"),
            node("Gather", "s", "zero", out="n"),
            node("Unsqueeze", "n", "axis", out="n1"),
            node("Concat", "n1", "rest", axis=0, out="to"),
            node("Reshape", "x", "to"),
        ],
        {"zero": np.array(0), "axis": i(0), "rest": i(-1)},
    ),
    "network": (
        (1, 8, 8),
        [
            node("Conv", "x", "w", "b", out="c", pads=[1, 1, 1, 1]),
            node("BatchNormalization", "c", "s", "t", "m", "v", out="n"),
            node("Relu", "n", out="r"),
            node("MaxPool", "r", out="p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", "p", out="h"),
            node("Gemm", "h", "w2", "b2", out="g"),
            node("Softmax", "g", axis=1),
        ],
        {
            "w": f(4, 1, 3, 3),
            "b": f(4),
            "s": f(4),
            "t": f(4),
            "m": f(4),
            "v": np.abs(f(4)),
            "w2": f(64, 3) / 8,
            "b2": f(3),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_operator_agrees_with_the_standard(name: str) -> None:
    row, nodes, constants = CASES[name]
    if name == "reduce-mean":
        same(proto(row, nodes, constants, opset=13), row)
    else:
        same(proto(row, nodes, constants), row)


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 17, 20])
def test_opsets_old_and_new(opset: int) -> None:
    axes = {"axes": [1]} if opset < 13 else {}
    inputs = ["x"] if opset < 13 else ["x", "a"]
    nodes = [
        node("Squeeze", *inputs, out="s", **axes),
        node("Gemm", "s", "w", out="g", transB=1),
        node("Softmax", "g", **({"axis": 1} if opset < 13 else {})),
    ]
    constants = {"w": f(3, 4)} if opset < 13 else {"a": i(1), "w": f(3, 4)}
    same(proto((1, 4), nodes, constants, opset=opset), (1, 4))


def test_softmax_before_opset_13_flattens_and_is_refused_for_more_axes() -> None:
    with pytest.raises(BadModel, match="only the last axis"):
        read_onnx(proto((2, 4), [node("Softmax", "x")], opset=11).SerializeToString())


def test_half_and_double_weights_are_converted() -> None:
    for kind in (np.float16, np.float64):
        model = proto((4,), [node("Cast", "w", out="v", to=1), node("MatMul", "x", "v")], {"w": f(4, 2).astype(kind)})
        same(model, (4,))


def test_a_fixed_batch_is_the_batch() -> None:
    nodes = [node("Reshape", "x", "s", out="r"), node("Relu", "r")]
    same(proto((2, 3), nodes, {"s": i(1, 6)}, batch=1), (2, 3), rows=1)
    with pytest.raises(BadModel, match="would mix rows"):
        read_onnx(proto((2, 3), nodes, {"s": i(1, 6)}).SerializeToString())


def test_what_can_be_folded_costs_nothing() -> None:
    def ops(model: onnx.ModelProto) -> list[str]:
        return [layer.op for layer in read_onnx(model.SerializeToString()).architecture.layers]

    assert ops(proto(*CASES["matmul-bias"])) == ["linear"]
    assert ops(proto(*CASES["network"])) == ["conv2d", "relu", "max_pool2d", "flatten", "linear", "softmax"]
    scaled = [
        node("Div", "x", "d", out="a"),
        node("Flatten", "a", out="b"),
        node("Sub", "b", "m", out="c"),
        node("MatMul", "c", "w", out="e"),
        node("Mul", "e", "s", out="g"),
        node("Add", "g", "t"),
    ]
    values = {"d": np.float32(255.0), "m": f(8), "w": f(8, 3), "s": f(3), "t": f(3)}
    model = proto((2, 2, 2), scaled, {n: np.asarray(v) for n, v in values.items()})
    assert ops(model) == ["flatten", "linear"]
    same(model, (2, 2, 2))


def test_what_cannot_be_folded_exactly_is_left() -> None:
    # The shift would have to reach the padding, the scale both users, and the shared weights both layers.
    padded = proto(
        (1, 3, 3),
        [node("Add", "x", "t", out="a"), node("Conv", "a", "w", pads=[1, 1, 1, 1])],
        {"t": f(1), "w": f(1, 1, 3, 3)},
    )
    same(padded, (1, 3, 3))
    assert len(read_onnx(padded.SerializeToString()).architecture.layers) == 2
    twice = proto(
        (3,),
        [node("Mul", "x", "s", out="a"), node("MatMul", "a", "w", out="b"), node("Add", "a", "b")],
        {"s": f(3), "w": f(3, 3)},
    )
    same(twice, (3,))
    wide = proto((4, 3), [node("MatMul", "x", "w", out="a"), node("Mul", "a", "s")], {"w": f(3, 2), "s": f(4, 1)})
    same(wide, (4, 3))
    broader = proto((1,), [node("MatMul", "x", "w", out="a"), node("Add", "a", "s")], {"w": f(1, 1), "s": f(3)})
    same(broader, (1,))
    unpadded = proto(
        (1, 3, 3), [node("Add", "x", "t", out="a"), node("Conv", "a", "w")], {"t": f(1), "w": f(2, 1, 3, 3)}
    )
    same(unpadded, (1, 3, 3))
    assert len(read_onnx(unpadded.SerializeToString()).architecture.layers) == 1
    grouped = proto(
        (4, 3, 3),
        [node("Mul", "x", "s", out="m"), node("Add", "m", "t", out="a"), node("Conv", "a", "w", group=2)],
        {"s": f(4, 1, 1), "t": f(4, 1, 1), "w": f(6, 2, 2, 2)},
    )
    same(grouped, (4, 3, 3))
    assert len(read_onnx(grouped.SerializeToString()).architecture.layers) == 1


def test_layers_that_lead_nowhere_are_dropped() -> None:
    model = proto((4,), [node("Tanh", "x", out="unused"), node("Relu", "x")])
    assert [layer.op for layer in read_onnx(model.SerializeToString()).architecture.layers] == ["relu"]


def test_a_model_is_read_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(proto(*CASES["gemm"]), path)
    assert shapes(read_model(path).architecture) == {"input": (4,), "the_Gemm": (3,)}
    assert shapes(read_model(str(path)).architecture)["input"] == (4,)
    with pytest.raises(BadModel, match="cannot read the model"):
        read_model(tmp_path / "nowhere.onnx")
    with pytest.raises(BadModel, match=r"expected .onnx or .safetensors") as caught:
        read_model(tmp_path / "model.pt")
    assert "never opened" in caught.value.hint


def test_initializers_that_are_also_inputs_are_weights() -> None:
    old = proto((4,), [node("MatMul", "x", "w")], {"w": f(4, 3)})
    old.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))
    same(old, (4,))


def test_damaged_files_are_read_or_refused_and_nothing_else() -> None:
    """Seeded mutations of valid files; longer runs of the same kind found three crashes, which are fixed."""
    rng = np.random.default_rng(5)
    files = [proto(*case).SerializeToString() for name, case in CASES.items() if name != "reduce-mean"]
    outcomes = {"read": 0, "refused": 0}
    for n in range(3000):
        data = bytearray(files[n % len(files)])
        for at in rng.integers(len(data), size=rng.integers(1, 6)):
            data[at] = (data[at] + rng.integers(1, 256)) % 256
        try:
            read_onnx(bytes(data))
            outcomes["read"] += 1
        except BadModel:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 1000


def test_shapes_and_axes_of_odd_rank() -> None:
    same(proto((4,), [node("Reshape", "x", "s", out="r"), node("Relu", "r")], {"s": i(-1, 2, 2)}), (4,))
    read_onnx(proto((1, 4), [node("Squeeze", "x", "a")], {"a": np.array([[1]])}).SerializeToString())
    with pytest.raises(BadModel, match="nothing to join"):
        read_onnx(proto((4,), [node("Concat", axis=1), node("Relu", "y", out="z")]).SerializeToString())

"""The graph refuses what a hostile or careless buyer could write, by the name of the layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from enclave.errors import BadModel
from enclave.messages import Architecture, Layer, TensorType
from enclave.models import Model, dense_architecture, forward_float, output_shape, shapes
from enclave.models.graph import MAX_PARAMETERS, OPERATORS, clean_name


def graph(row: Sequence[int], *layers: Layer, **parameters: tuple[int, ...]) -> Architecture:
    return Architecture(tuple(row), layers, tuple(TensorType(n, s) for n, s in parameters.items()))


def layer(op: str, *inputs: str, p: Sequence[str] = (), ints: Sequence[int] = (), name: str = "x") -> Layer:
    return Layer(op, name, inputs or ("input",), tuple(p), tuple(ints))


CONV = (1, 1, 0, 0, 0, 0, 1, 1, 1)
K = 1 << 16


@pytest.mark.parametrize(
    ("row", "tested", "parameters", "expected"),
    [
        ((3,), layer("linear", p=["w"]), {"w": (3, 2)}, (2,)),
        ((4, 3), layer("linear", p=["w", "b"]), {"w": (3, 2), "b": (2,)}, (4, 2)),
        ((2, 8, 6), layer("conv2d", p=["w"], ints=CONV), {"w": (4, 2, 3, 3)}, (4, 6, 4)),
        ((2, 8, 6), layer("conv2d", p=["w"], ints=(2, 1, 1, 0, 1, 2, 1, 2, 2)), {"w": (4, 1, 3, 3)}, (4, 4, 4)),
        ((3,), layer("relu"), {}, (3,)),
        ((2, 3), layer("softmax"), {}, (2, 3)),
        ((1, 5, 5), layer("max_pool2d", ints=(3, 3, 2, 2, 1, 1, 1, 1)), {}, (1, 3, 3)),
        ((1, 5, 5), layer("avg_pool2d", ints=(5, 5, 1, 1, 0, 0, 0, 0, 1)), {}, (1, 1, 1)),
        ((1, 9, 9), layer("conv2d", p=["w"], ints=(1, 1, 4, 4, 4, 4, 2, 2, 1)), {"w": (1, 1, 3, 3)}, (1, 13, 13)),
        ((64, 224, 224), layer("conv2d", p=["w"], ints=CONV), {"w": (64, 64, 3, 3)}, (64, 222, 222)),  # VGG-16
        ((2, 3, 4), layer("flatten"), {}, (24,)),
        ((2, 3, 4), layer("reshape", ints=(4, 6)), {}, (4, 6)),
        ((2, 3), layer("affine", p=["s", "t"]), {"s": (2,), "t": (2,)}, (2, 3)),
        ((2, 3), layer("add", p=["b"]), {"b": (3,)}, (2, 3)),
        ((1,), layer("mul", p=["b"]), {"b": (3,)}, (3,)),
        ((2, 1), layer("add", "input", "input"), {}, (2, 1)),
        ((2, 3), layer("concat", "input", "input", ints=(1,)), {}, (2, 6)),
    ],
)
def test_shapes(
    row: tuple[int, ...], tested: Layer, parameters: dict[str, tuple[int, ...]], expected: tuple[int, ...]
) -> None:
    architecture = graph(row, tested, **parameters)
    assert shapes(architecture) == {"input": row, "x": expected}
    assert output_shape(architecture) == expected
    # The inferred shape is the one that comes out.
    model = Model(architecture, {n: np.ones(s) for n, s in parameters.items()})
    assert forward_float(model, np.ones((2, *row))).shape == (2, *expected)


@pytest.mark.parametrize(
    ("row", "tested", "parameters", "problem"),
    [
        ((3,), layer("gelu"), {}, "operator 'gelu' is not supported"),
        ((3,), layer("linear"), {}, r"expected \(1, 2\) parameters, found 0"),
        ((3,), layer("linear", p=["w"]), {"w": (2, 3)}, r"weight must be \(3, out\), found \(2, 3\)"),
        ((3,), layer("linear", p=["w", "b"]), {"w": (3, 2), "b": (3,)}, r"bias must be \(2,\)"),
        ((3,), layer("linear", "input", "input", p=["w"]), {"w": (3, 2)}, "expected 1 inputs, found 2"),
        ((3,), layer("relu", ints=[1]), {}, "expected 0 ints, found 1"),
        ((3,), layer("relu", "y"), {}, "input 'y' is not the output of an earlier layer"),
        ((3,), layer("relu", "x"), {}, "input 'x' is not the output of an earlier layer"),
        ((3,), layer("add", p=["w"]), {}, "parameter 'w' is not declared"),
        ((3,), layer("relu"), {"w": (3,)}, "no layer uses the parameter 'w'"),
        ((3,), layer("conv2d", p=["w"], ints=CONV), {"w": (1, 1, 1, 1)}, "must be .channels, height, width."),
        ((2, 4, 4), layer("conv2d", p=["w"], ints=CONV), {"w": (4, 1, 3, 3)}, "weight must be .out, 2, kh, kw."),
        ((2, 4, 4), layer("conv2d", p=["w"], ints=(*CONV[:8], 3)), {"w": (3, 1, 3, 3)}, "do not divide into 3"),
        ((2, 4, 4), layer("conv2d", p=["w"], ints=(*CONV[:8], 0)), {"w": (3, 1, 3, 3)}, "do not divide into 0"),
        ((2, 4, 4), layer("conv2d", p=["w"], ints=CONV), {"w": (4, 2, 5, 5)}, "does not fit"),
        ((2, 4, 4), layer("conv2d", p=["w"], ints=(0, *CONV[1:])), {"w": (4, 2, 3, 3)}, "must be positive"),
        ((2, 4, 4), layer("conv2d", p=["w"], ints=(1, 1, -1, *CONV[3:])), {"w": (4, 2, 3, 3)}, "must not be negative"),
        ((1, 4, 4), layer("max_pool2d", ints=(2, 2, 1, 1, 2, 0, 0, 0)), {}, "padding must be smaller than the kernel"),
        (
            (1, 1, 1),
            layer("conv2d", p=["w"], ints=(K, K, K, K, K, K, 1, 1, 1)),
            {"w": (1, 1, 1, 1)},
            "padding must not",
        ),
        (
            (1, 9, 9),
            layer("conv2d", p=["w"], ints=(1, 1, 6, 0, 0, 0, 2, 2, 1)),
            {"w": (1, 1, 3, 3)},
            "kernel, .5, 5. with",
        ),
        ((1, 1, 1), layer("avg_pool2d", ints=(K, K, K, K, *(K - 1,) * 4, 1)), {}, "elements of a padded row"),
        (
            (1, 1, 1),
            layer("conv2d", p=["w"], ints=(1, 1, *(4000,) * 4, 4000, 4000, 1)),
            {"w": (1, 1, 2, 2)},
            "padded row",
        ),
        ((1, 256, 256), layer("max_pool2d", ints=(128, 128, 1, 1, 0, 0, 0, 0)), {}, "elements in all windows"),
        ((1, 512, 512), layer("avg_pool2d", ints=(256, 256, 1, 1, 0, 0, 0, 0, 1)), {}, "elements in all windows"),
        ((64, 224, 224), layer("conv2d", p=["w"], ints=CONV), {"w": (512, 64, 3, 3)}, "multiplications a row"),
        ((4096, 4, 64), layer("linear", p=["w"]), {"w": (64, 8192)}, "multiplications a row"),
        ((1, 4, 4), layer("avg_pool2d", ints=(2, 2, 1, 1, 0, 0, 0, 0, 2)), {}, "count_include_pad must be 0 or 1"),
        ((4,), layer("reshape", ints=(2, 3)), {}, "cannot reshape"),
        ((4,), layer("reshape", ints=(-2, -2)), {}, "cannot reshape"),
        ((2, 3), layer("affine", p=["s", "t"]), {"s": (3,), "t": (3,)}, r"must be \(2,\)"),
        ((3,), layer("add", p=["b"]), {"b": (2, 3)}, "do not broadcast row by row"),
        ((3,), layer("add", p=["b"]), {"b": (2,)}, "do not broadcast"),
        ((3,), layer("add"), {}, "two inputs, or one input and one parameter"),
        ((2, 3), layer("concat", "input", "input", ints=(2,)), {}, "axis 2 does not exist"),
        ((2, 3), layer("concat", "input", "input", ints=(-1,)), {}, "axis -1 does not exist"),
        ((1 << 13, 1), layer("add", p=["b"]), {"b": (1, 1 << 13)}, "is too large"),
        ((3,), layer("add", p=["b"]), {"b": (MAX_PARAMETERS, 2)}, "is too large"),
        ((0,), layer("relu"), {}, "the input has an empty axis"),
        ((), layer("relu"), {}, "the input must have 1 to 6 axes"),
        ((1 << 30,), layer("relu"), {}, "the input is too large"),
    ],
)
def test_what_does_not_fit_is_refused(
    row: tuple[int, ...], tested: Layer, parameters: dict[str, tuple[int, ...]], problem: str
) -> None:
    with pytest.raises(BadModel, match=problem):
        shapes(graph(row, tested, **parameters))


def test_graphs_as_a_whole() -> None:
    relu = layer("relu")
    with pytest.raises(BadModel, match="at least one layer"):
        shapes(graph((3,)))
    with pytest.raises(BadModel, match="two layers are called 'x'"):
        shapes(graph((3,), relu, layer("tanh", "x")))
    with pytest.raises(BadModel, match="nothing uses the output of 'x'"):
        shapes(graph((3,), relu, layer("tanh", name="y")))
    with pytest.raises(BadModel, match="name 'input' is not allowed"):
        shapes(graph((3,), layer("relu", name="input")))
    with pytest.raises(BadModel, match="is not allowed"):
        shapes(graph((3,), layer("relu", name="a b\n")))
    with pytest.raises(BadModel, match="two parameters are called 'w'"):
        shapes(Architecture((3,), (layer("add", p=["w"]),), (TensorType("w", (3,)), TensorType("w", (3,)))))
    with pytest.raises(BadModel, match="at most 1024 layers"):
        chain = [layer("relu", f"l{i}" if i else "input", name=f"l{i + 1}") for i in range(1025)]
        shapes(graph((3,), *chain))
    half = MAX_PARAMETERS // 2
    with pytest.raises(BadModel, match=f"at most {MAX_PARAMETERS} weights"):
        big = layer("add", p=["a"]), layer("add", "x", p=["b"], name="y"), layer("add", "y", p=["c"], name="z")
        shapes(graph((3,), *big, a=(half, 1), b=(half, 1), c=(1,)))


def test_an_architecture_survives_the_wire() -> None:
    architecture = dense_architecture(4, [3, 2], 1, activation="tanh")
    assert Architecture.decode(architecture.encode()) == architecture
    assert shapes(architecture) == {
        "input": (4,),
        "dense0": (3,),
        "act0": (3,),
        "dense1": (2,),
        "act1": (2,),
        "dense2": (1,),
    }
    assert [layer.op for layer in architecture.layers] == ["linear", "tanh", "linear", "tanh", "linear"]
    with pytest.raises(BadModel, match="found 'gelu'"):
        dense_architecture(4, [3], 1, activation="gelu")


def test_names_are_cleaned_and_kept_apart() -> None:
    taken: set[str] = set()
    names = [clean_name(raw, taken, "relu") for raw in ("/net/0/Relu", "a b:c", "a b:c", "", "input", "é")]
    assert names == ["net/0/Relu", "a_b_c", "a_b_c_2", "relu", "input_2", "_"]


def test_every_operator_has_a_meaning() -> None:
    from enclave.models.reference import _FORWARD

    assert set(_FORWARD) == set(OPERATORS)


# ---- models


def tiny(weight: object = ((1.0,), (2.0,))) -> Model:
    return Model(graph((2,), layer("linear", p=["w"]), w=(2, 1)), {"w": np.array(weight)})


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({}, r"missing \['w'\]"),
        ({"w": np.ones((2, 1)), "v": np.ones(1)}, r"not declared \['v'\]"),
        ({"w": np.ones((1, 2))}, r"expected shape \(2, 1\), found \(1, 2\)"),
        ({"w": np.array([[1.0], [np.nan]])}, "'w' holds NaN or infinite"),
        ({"w": np.array([[1.0], [np.inf]])}, "'w' holds NaN or infinite"),
    ],
)
def test_weights_must_fit(weights: dict[str, np.ndarray], problem: str) -> None:
    with pytest.raises(BadModel, match=problem):
        Model(graph((2,), layer("linear", p=["w"]), w=(2, 1)), weights)


def test_a_model_cannot_change_after_its_commitment() -> None:
    original = np.ones((2, 1))
    model = Model(graph((2,), layer("linear", p=["w"]), w=(2, 1)), {"w": original})
    commitment = model.commitment(b"salt")
    original[0, 0] = 5
    assert model.commitment(b"salt") == commitment
    with pytest.raises(ValueError, match="read-only"):
        model.weights["w"][0, 0] = 5
    with pytest.raises(TypeError):
        model.weights["w"] = original  # type: ignore[index]


def test_a_commitment_binds_salt_and_weights() -> None:
    commitments = {
        tiny().commitment(b"a"),
        tiny().commitment(b"b"),
        tiny([[1.0], [2.0000000001]]).commitment(b"a"),
    }
    assert len(commitments) == 3
    assert all(len(c) == 32 for c in commitments)
    assert tiny().commitment(b"a") == tiny().commitment(b"a")


def test_the_commitment_of_known_weights() -> None:
    # A golden value: jobs in flight and stored receipts depend on it.
    import hashlib

    parts = [b"salt", b"w", b"(2, 1)", np.array([1.0, 2.0], dtype="<f8").tobytes()]
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    assert tiny().commitment(b"salt") == state.digest()


def test_the_repr_shows_no_weight() -> None:
    assert repr(tiny([[1234.5], [2.0]])) == "Model(1 layers, 2 weights)"


def test_rows_must_fit_the_input() -> None:
    assert forward_float(tiny(), np.array([[1.0, 1.0]])).tolist() == [[3.0]]
    with pytest.raises(BadModel, match=r"must have shape \(2,\), found \(3,\)"):
        forward_float(tiny(), np.ones((4, 3)))

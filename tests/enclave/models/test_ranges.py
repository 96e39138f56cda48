"""Bounds that hold for every row, and that name the layer where the fixed-point range ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.errors import BadModel, RangeExceeded
from enclave.messages import (
    Architecture,
    Category,
    Encoding,
    Feature,
    Layer,
    NumericFeature,
    OneHotFeature,
    Target,
    TensorType,
)
from enclave.models import Model, check_ranges, dense_architecture, forward_all, ranges


def numeric(name: str, **rule: Any) -> Feature:
    return Feature(name, numeric=NumericFeature(**rule))


def one_hot(name: str, count: int) -> Feature:
    return Feature(name, one_hot=OneHotFeature(tuple(Category((f"v{i}",)) for i in range(count))))


def linear(weight: Any, bias: Any = None) -> Model:
    w = np.array(weight, dtype=np.float64)
    tensors = [TensorType("w", w.shape)] + ([TensorType("b", (w.shape[1],))] if bias is not None else [])
    layer = Layer("linear", "score", ("input",), tuple(t.name for t in tensors))
    weights = {"w": w} | ({"b": np.array(bias, dtype=np.float64)} if bias is not None else {})
    return Model(Architecture((w.shape[0],), (layer,), tuple(tensors)), weights)


def test_the_input_has_the_encoded_range() -> None:
    encoding = Encoding((numeric("age", shift=50, scale=10, low=0, high=90), one_hot("ward", 2)))
    found = ranges(linear([[1.0], [0.0], [0.0]]), encoding)
    assert found == {"input": (-5.0, 4.0), "score": (-5.0, 4.0)}


def test_of_a_group_at_most_one_indicator_counts() -> None:
    encoding = Encoding((one_hot("ward", 3), numeric("age", low=-1, high=2), one_hot("sex", 2)))
    model = linear([[5.0], [-2.0], [7.0], [10.0], [1.0], [3.0]], bias=[0.5])
    # ward: 0 or one of 5, -2, 7; age: -10..20; sex: 0 or one of 1, 3.
    assert ranges(model, encoding)["score"] == (-2 - 10 + 0 + 0.5, 7 + 20 + 3 + 0.5)


def test_the_largest_sum_before_truncation_decides() -> None:
    limit = 2.0**21  # 61 - 2 * 20 bits
    encoding = Encoding((numeric("x", low=0, high=limit / 4),))
    assert check_ranges(linear([[3.9375]]), encoding, 20)["score"] == limit * 3.9375 / 4
    with pytest.raises(RangeExceeded, match="values at score can reach") as caught:
        check_ranges(linear([[4.0]]), encoding, 20)
    assert (caught.value.layer, caught.value.bound, caught.value.limit) == ("score", limit, limit)
    # A bias cannot hide it, and with fewer bits it fits.
    with pytest.raises(RangeExceeded):
        check_ranges(linear([[4.0]], bias=[-limit / 2]), encoding, 20)
    check_ranges(linear([[4.0]]), encoding, 19)


def test_values_that_are_no_products_have_more_room() -> None:
    encoding = Encoding((numeric("x", low=0, high=2.0**30),))
    relu = Model(Architecture((1,), (Layer("relu", "r", ("input",)),), ()), {})
    assert check_ranges(relu, encoding, 20)["r"] == 2.0**30
    with pytest.raises(RangeExceeded) as caught:
        check_ranges(relu, Encoding((numeric("x", low=-(2.0**42), high=0),)), 20)
    assert caught.value.layer == "input"
    with pytest.raises(RangeExceeded) as caught:
        check_ranges(linear([[2.0**42]]), Encoding((numeric("x", low=0, high=1e-9),)), 20)
    assert caught.value.layer == "w"


def test_the_first_layer_that_breaks_is_named() -> None:
    architecture = dense_architecture(1, [1, 1], 1)
    weights = {t.name: np.full(t.shape, 200.0) for t in architecture.parameters}
    with pytest.raises(RangeExceeded) as caught:
        check_ranges(Model(architecture, weights), Encoding((numeric("x", low=0, high=1),)), 20)
    assert caught.value.layer == "dense2"


def test_saturating_layers_bring_values_back() -> None:
    for op, low in (("sigmoid", 0.0), ("tanh", -1.0), ("softmax", 0.0)):
        layers = (Layer("linear", "a", ("input",), ("w",)), Layer(op, "s", ("a",)))
        model = Model(Architecture((1,), layers, (TensorType("w", (1, 2)),)), {"w": np.array([[1e5, -1e5]])})
        found = ranges(model, Encoding((numeric("x", low=-1, high=1),)))
        assert found["s"] == (pytest.approx(low), 1.0)


def test_standardised_features_are_bounded_by_the_number_of_rows() -> None:
    encoding = Encoding((numeric("x", low=0, high=1e9),), standardise=True)
    assert ranges(linear([[2.0]]), encoding, rows=101)["score"] == (-20.0, 20.0)
    with pytest.raises(ValueError, match="rows are needed"):
        ranges(linear([[2.0]]), encoding)


def test_the_encoding_must_be_as_wide_as_the_input() -> None:
    with pytest.raises(BadModel, match=r"yields 1 numbers a row, the model takes \(2,\)"):
        check_ranges(linear([[1.0], [1.0]]), Encoding((numeric("x"),)), 20)


def everything(rng: np.random.Generator) -> Model:
    """A network with every operator."""
    weights = {
        "c": rng.normal(size=(4, 1, 2, 2)),
        "cb": rng.normal(size=4),
        "s": rng.normal(size=4),
        "t": rng.normal(size=4),
        "m": rng.normal(size=(4, 1, 1)),
        "w": rng.normal(size=(32, 3)),
        "b": rng.normal(size=3),
        "p": rng.normal(size=3),
    }
    layers = (
        Layer("conv2d", "conv", ("input",), ("c", "cb"), (1, 1, 1, 1, 0, 0, 1, 1, 2)),
        Layer("affine", "bn", ("conv",), ("s", "t")),
        Layer("mul", "scaled", ("bn",), ("m",)),
        Layer("mul", "square", ("scaled", "bn")),
        Layer("max_pool2d", "max", ("square",), (), (2, 2, 2, 2, 0, 0, 0, 0)),
        Layer("avg_pool2d", "mean", ("scaled",), (), (3, 3, 2, 2, 1, 1, 1, 1, 1)),
        Layer("concat", "both", ("max", "mean"), (), (0,)),
        Layer("relu", "relu", ("both",)),
        Layer("reshape", "wide", ("relu",), (), (2, 16)),
        Layer("flatten", "flat", ("wide",)),
        Layer("linear", "score", ("flat",), ("w", "b")),
        Layer("add", "shifted", ("score",), ("p",)),
        Layer("tanh", "tanh", ("shifted",)),
        Layer("sigmoid", "sigmoid", ("shifted",)),
        Layer("add", "sum", ("tanh", "sigmoid")),
        Layer("softmax", "out", ("sum",)),
    )
    return Model(Architecture((2, 4, 4), layers, tuple(TensorType(n, w.shape) for n, w in weights.items())), weights)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_no_row_leaves_the_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = everything(rng)
    model = Model(model.architecture, {n: np.rint(w * 2**16) / 2**16 for n, w in model.weights.items()})
    low, high = sorted(rng.normal(size=2) * 3)
    encoding = Encoding((numeric("x", low=low, high=high, width=32),))
    found = ranges(model, encoding)
    bounds = check_ranges(model, encoding, 16)
    corners = rng.choice([low, high], size=(40, 32))
    rows = np.concatenate([corners, rng.uniform(low, high, size=(40, 32))])
    for name, values in forward_all(model, rows).items():
        assert found[name][0] <= values.min() + 1e-9
        assert values.max() <= found[name][1] + 1e-9
        assert np.abs(values).max() <= bounds[name] + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_bound_of_a_linear_model_is_reached(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = linear(rng.normal(size=(5, 1)))
    encoding = Encoding((one_hot("a", 3), numeric("b", low=-2, high=1), numeric("c", low=0, high=3)))
    choices = [np.zeros(3), *np.eye(3)]
    rows = np.array([[*a, b, c] for a in choices for b in (-2, 1) for c in (0, 3)])
    values = forward_all(model, rows)["score"]
    assert ranges(model, encoding)["score"] == pytest.approx((values.min(), values.max()))


def only(op: str, shape: tuple[int, ...], ints: tuple[int, ...] = ()) -> Model:
    return Model(Architecture(shape, (Layer(op, "f", ("input",), (), ints),), ()), {})


def test_weights_count_as_they_are_rounded() -> None:
    """Half a unit of the fixed point doubles when it is rounded up."""
    encoding = Encoding((numeric("x", low=0, high=2.0**40),))
    assert check_ranges(linear([[0.51 * 2.0**-20]]), encoding, 20)["score"] == 2.0**20
    with pytest.raises(RangeExceeded, match="values at score"):
        check_ranges(linear([[1.51 * 2.0**-20]]), encoding, 20)


def test_the_window_of_a_mean_counts_as_its_sum() -> None:
    def encoding(mean: float) -> Encoding:
        return Encoding((numeric("x", low=0, high=mean, width=49),))

    pool = only("avg_pool2d", (1, 7, 7), (7, 7, 1, 1, 0, 0, 0, 0, 1))
    check_ranges(pool, encoding(1.7e5), 20)
    for mean in (1.8e5, 4.0e6):
        with pytest.raises(RangeExceeded, match="values at f"):
            check_ranges(pool, encoding(mean), 20)


@pytest.mark.parametrize(
    ("op", "shape", "ints", "bits"),
    [
        ("sigmoid", (4,), (), 60),
        ("tanh", (4,), (), 59),
        ("softmax", (16,), (), 60),
        ("softmax", (20,), (), 55),
        ("max_pool2d", (1, 2, 2), (2, 2, 1, 1, 1, 0, 0, 0), 60),
        ("max_pool2d", (1, 2, 2), (2, 2, 1, 1, 0, 0, 0, 0), 61),
    ],
)
def test_what_goes_into_a_function_has_its_room(
    op: str, shape: tuple[int, ...], ints: tuple[int, ...], bits: int
) -> None:
    def encoding(edge: float) -> Encoding:
        return Encoding((numeric("x", low=-edge, high=1, width=int(np.prod(shape))),))

    check_ranges(only(op, shape, ints), encoding(0.99 * 2.0 ** (bits - 20)), 20)
    with pytest.raises(RangeExceeded):
        check_ranges(only(op, shape, ints), encoding(2.0 ** (bits - 20)), 20)


def test_scores_fit_what_compares_them() -> None:
    encoding = Encoding((numeric("x", low=-(2.0**40), high=1, width=600),))
    scores = only("relu", (600,))
    wide = Model(
        Architecture((600,), (Layer("add", "f", ("input",), ("b",)),), (TensorType("b", (600,)),)), {"b": np.zeros(600)}
    )
    check_ranges(scores, encoding, 20, outputs=("accuracy",))
    check_ranges(wide, encoding, 20)
    with pytest.raises(RangeExceeded, match="values at f"):
        check_ranges(wide, encoding, 20, outputs=("accuracy",))
    with pytest.raises(RangeExceeded, match="values at f"):
        check_ranges(wide, encoding, 20, outputs=("auc",))


@pytest.mark.parametrize("output", ["rmse", "r2"])
def test_an_output_far_from_the_target_is_named(output: str) -> None:
    target = Target("y", numeric=NumericFeature(shift=5.0, scale=10.0, low=-95.0, high=105.0))  # +-10

    def check(bias: float, standardise: bool = False, outputs: tuple[str, ...] = (output,), edge: float = 1.0) -> None:
        encoding = Encoding((numeric("x", low=-edge, high=edge),), target, standardise)
        check_ranges(linear([[1.0]], [bias]), encoding, 20, rows=10, outputs=outputs, error_limit=2046.0)

    check(2034.0)
    check(-2500.0, outputs=("predictions",))
    for bias in (2036.0, -2500.0):
        with pytest.raises(RangeExceeded, match="values at score - target can reach") as caught:
            check(bias)
        assert caught.value.bound == abs(bias) + 11
    # Of standardised rows only what is outside whatever the rows are.
    check(2036.0, standardise=True)
    with pytest.raises(RangeExceeded, match="score - target"):
        check(-2500.0, standardise=True)


def test_weights_that_a_joint_deviation_divides() -> None:
    encoding = Encoding((numeric("year", low=1990, high=2010), numeric("x", low=-3, high=3)), None, True)
    check_ranges(linear([[1.0], [1.0]]), encoding, 20, rows=100, holders=2)
    check_ranges(linear([[5000.0], [1.0]]), encoding, 20, rows=100, holders=1)
    with pytest.raises(RangeExceeded, match="values at score"):
        check_ranges(linear([[5000.0], [1.0]]), encoding, 20, rows=100, holders=2)

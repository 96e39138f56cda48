"""What the numeric plan states is never exceeded, what could wrap is refused, and the refusal says what would help."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.protocols.arithmetic import truncate
from enclave.engines.mpc.session import Session
from enclave.errors import RangeExceeded
from enclave.messages import Architecture, Encoding, Feature, Layer, NumericFeature, TensorType, Training
from enclave.models import Model, dense_architecture, forward_float
from enclave.workloads.numeric import NumericPlan, evaluation_numbers, fitting, output_errors, training_numbers
from enclave.workloads.specification import first_gradient
from enclave.workloads.watch import watch_limit, weight_limit
from tests.enclave.workloads.made_jobs import classes, holders, job, number
from tests.enclave.workloads.ranks import at_every_rank
from tests.enclave.workloads.test_on_shares import on_shares

Weights = dict[str, NDArray[np.float64]]


def network(shape: tuple[int, ...], layers: list[Layer], weights: Weights) -> Model:
    tensors = tuple(TensorType(name, weight.shape) for name, weight in weights.items())
    return Model(Architecture(shape, tuple(layers), tensors), weights)


def image_network(rng: np.random.Generator, head: str, pool: str, edge: float) -> Model:
    """Convolution, an affine layer, a branch that is squared, pooling, a head."""
    weights = {
        "c": rng.uniform(-edge, edge, (3, 1, 3, 3)),
        "cb": rng.uniform(-1, 1, 3),
        "s": rng.uniform(-1, 1, 3),
        "t": rng.uniform(-1, 1, 3),
        "w": rng.uniform(-edge, edge, (12, 4)),
        "b": rng.uniform(-1, 1, 4),
    }
    ints = (2, 2, 2, 2, 0, 0, 0, 0) if pool == "max_pool2d" else (3, 3, 2, 2, 1, 1, 0, 0, int(edge > 1))
    layers = [
        Layer("conv2d", "conv", ("input",), ("c", "cb"), (1, 1, 1, 1, 1, 1, 1, 1, 1)),
        Layer("affine", "norm", ("conv",), ("s", "t")),
        Layer("relu", "relu", ("norm",)),
        Layer("mul", "square", ("relu", "norm")),
        Layer("add", "both", ("square", "conv")),
        Layer(pool, "pool", ("both",), (), ints),
        Layer("flatten", "flat", ("pool",)),
        Layer("linear", "score", ("flat",), ("w", "b")),
        *([Layer(head, "head", ("score",))] if head else []),
    ]
    return network((1, 4, 4), layers, weights)


def dense_network(rng: np.random.Generator, inner: str, head: str, edge: float) -> Model:
    weights = {
        "w0": rng.uniform(-edge, edge, (16, 5)),
        "b0": rng.uniform(-edge, edge, 5),
        "w1": rng.uniform(-edge, edge, (5, 4)),
        "m": rng.uniform(-edge, edge, 4),
    }
    layers = [
        Layer("linear", "first", ("input",), ("w0", "b0")),
        Layer(inner, "inner", ("first",)),
        Layer("linear", "second", ("inner",), ("w1",)),
        Layer("mul", "scaled", ("second",), ("m",)),
        *([Layer(head, "head", ("scaled",))] if head else []),
    ]
    return network((16,), layers, weights)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["max_pool2d", "avg_pool2d", "relu", "sigmoid", "tanh"]),
    head=st.sampled_from(["", "softmax", "sigmoid", "tanh"]),
    frac_bits=st.sampled_from([12, 16, 20]),
    edge=st.sampled_from([0.2, 1.0, 4.0]),
)
def test_no_row_is_further_off_than_stated(seed: int, kind: str, head: str, frac_bits: int, edge: float) -> None:
    rng = np.random.default_rng(seed)
    made = image_network if kind.endswith("2d") else dense_network
    model = made(rng, head, kind, edge) if kind.endswith("2d") else made(rng, kind, head, edge)
    x = np.concatenate([rng.uniform(-2, 2, (5, 16)), rng.choice([-2.0, 2.0], (5, 16))])
    spec = job(x, None, model.architecture, ("predictions",), frac_bits=frac_bits)
    numbers = evaluation_numbers(model, spec)
    errors = output_errors(model, spec.encoding, frac_bits)
    found = on_shares(spec, holders(spec, x, np.zeros(10)), model.weights).predictions
    assert found is not None
    off = np.abs(np.asarray(found) - forward_float(model, x))
    assert (off <= errors[model.architecture.layers[-1].name]).all()
    assert numbers.output_error == errors[model.architecture.layers[-1].name].max()
    assert off.max() <= numbers.output_error and numbers.failure == 0.0


def test_a_stated_error_is_not_far_above_the_worst_row() -> None:
    """A bound that nothing comes near would be true and useless."""
    rng = np.random.default_rng(0)
    model = network((30,), [Layer("linear", "y", ("input",), ("w",))], {"w": rng.normal(size=(30, 1))})
    x = rng.uniform(-1, 1, (4000, 30))
    spec = job(x, None, model.architecture, ("predictions",), frac_bits=12, block_rows=4000)
    stated = evaluation_numbers(model, spec).output_error
    found = on_shares(spec, holders(spec, x, np.zeros(4000)), model.weights).predictions
    off = np.abs(np.asarray(found).reshape(-1) - forward_float(model, x).reshape(-1)).max()
    assert stated is not None and stated / 8 < off <= stated


def linear(weight: float) -> Model:
    return network((1,), [Layer("linear", "score", ("input",), ("w",))], {"w": np.array([[weight]])})


def numbers_of(model: Model, encoding: Encoding, frac_bits: int, owners: tuple[int, ...] = (1,)) -> NumericPlan:
    blank = np.zeros((sum(owners), encoding.width))
    spec = job(blank, None, model.architecture, ("predictions",), owners=owners, frac_bits=frac_bits)
    return evaluation_numbers(model, replace(spec, encoding=encoding))


def chosen(model: Model, encoding: Encoding, wanted: int | None) -> int:
    return fitting(lambda bits: numbers_of(model, encoding, bits), wanted)


ONE = Encoding((Feature("x", numeric=NumericFeature(low=-1.0, high=1.0)),))


def test_the_default_is_taken_where_it_fits_and_fewer_bits_where_not() -> None:
    assert chosen(linear(3.0), ONE, None) == 20
    assert chosen(linear(2.0**21), ONE, None) == 17
    assert chosen(linear(2.0**34), ONE, None) == 11
    assert chosen(linear(3.0), ONE, 9) == 9


def test_a_refusal_names_the_layer_the_bound_and_what_would_help() -> None:
    with pytest.raises(RangeExceeded, match="values at score can reach 4") as caught:
        chosen(linear(2.0**22), ONE, 20)
    assert (caught.value.layer, caught.value.limit) == ("score", 2.0**21)
    assert "--frac-bits 17" in caught.value.hint
    with pytest.raises(RangeExceeded) as caught:
        encoding = Encoding((Feature("x", numeric=NumericFeature(low=-(2.0**12), high=1.0)),))
        chosen(linear(2.0**35), encoding, None)
    assert caught.value.layer == "score" and "no number of fractional bits makes room" in caught.value.hint


def test_what_is_refused_does_wrap() -> None:
    """The refusal is not caution: a limit further up, the same job is wrong by a factor."""
    model = linear(2.0**25)
    x = np.array([[0.99], [-0.99]])
    spec = job(x, None, model.architecture, ("predictions",), frac_bits=20)
    with pytest.raises(RangeExceeded):
        evaluation_numbers(model, spec)
    found = on_shares(spec, holders(spec, x, np.zeros(2)), model.weights).predictions
    assert np.abs(np.asarray(found).reshape(-1) - forward_float(model, x).reshape(-1)).min() > 2.0**20


def test_digits_of_a_product_stay_until_something_takes_them_off() -> None:
    rng = np.random.default_rng(1)
    numbers = numbers_of(image_network(rng, "softmax", "avg_pool2d", 0.5), _wide(16), 20)
    assert {step.name: step.digits for step in numbers.steps} == {
        "input": 20,
        "conv": 40,
        "norm": 40,
        "relu": 20,
        "square": 40,
        "both": 40,
        "pool": 20,
        "flat": 20,
        "score": 40,
        "head": 20,
    }
    # The sum of two branches of a product has a product's room, not a value's.
    big = network(
        (1,),
        [
            Layer("linear", "a", ("input",), ("w",)),
            Layer("add", "b", ("a", "a")),
        ],
        {"w": np.array([[2.0**20]])},
    )
    with pytest.raises(RangeExceeded, match="values at b"):
        numbers_of(big, ONE, 20)


def _wide(width: int) -> Encoding:
    return Encoding((Feature("x", numeric=NumericFeature(low=-1.0, high=1.0, width=width)),))


def test_joint_standardisation_states_no_error() -> None:
    encoding = Encoding((Feature("x", numeric=NumericFeature(low=-1.0, high=1.0)),), None, True)
    assert numbers_of(linear(1.0), encoding, 20, (100,)).output_error is not None
    shared = numbers_of(linear(1.0), encoding, 20, (60, 40))
    assert shared.output_error is None and shared.to_json()["steps"][0]["error"] is None


def test_a_training_says_what_is_bounded_and_what_is_watched() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (40, 3))
    schedule = Training("squared", epochs=1, batch_rows=16, learning_rate=0.5)
    spec = job(x, number(-3.0, 3.0), dense_architecture(3, [4], 1), ("model",), training=schedule)
    numbers = training_numbers(spec)
    steps = {step.name: step for step in numbers.steps}
    assert steps["target"].bound == 3.0 and steps["features"].error == 2.0**-21
    largest = first_gradient(spec)
    assert steps["first gradient"].bound == largest == pytest.approx(16 * steps["features"].bound * 6)
    assert steps["weights"].bound is None and steps["weights"].limit == weight_limit(20)
    assert numbers.failure == steps["weights"].failure == watch_limit(20, largest) / 2.0**23
    bits = job(x, classes(2), dense_architecture(3, [], 1), ("model",), training=Training("logistic", 1, 16, 0.5))
    steps = {step.name: step for step in training_numbers(bits).steps}
    assert steps["target"].bound == 1.0
    # Gradients that are not truncated have their own digits: 20, and 21 of the loss's derivative.
    assert steps["outputs, gradients"].digits == 41 and steps["weights"].limit == 2.0 ** (62 - 41 - 4)
    assert steps["weights"].failure == steps["outputs, gradients"].failure < 1.0


def test_fitting_walks_down_the_ladder_once() -> None:
    tried: list[int] = []

    def attempt(bits: int) -> None:
        tried.append(bits)
        if bits > 12:
            raise RangeExceeded("x", 2.0, 1.0)

    assert fitting(attempt, None) == 11 and tried == [20, 17, 14, 11]
    tried.clear()
    with pytest.raises(RangeExceeded) as caught:
        fitting(attempt, 15)
    assert tried == [15, 14, 11] and "11 fractional bits" in caught.value.hint


@pytest.mark.parametrize("frac_bits", [16, 18])
def test_products_of_magnitude_2_to_24_are_off_by_one_unit_at_most(frac_bits: int) -> None:
    """ENCLAVE_PRODUCTS=100000000 runs as many as the project promises; a million by default."""
    rng = np.random.default_rng(5)
    left = int(os.environ.get("ENCLAVE_PRODUCTS", "1000000")) // 2
    unit = 1 << frac_bits
    while left > 0:
        size = min(left, 500_000)
        left -= size
        a = rng.integers(-(1 << 12) * unit, (1 << 12) * unit, size, endpoint=True)
        b = rng.choice([-1, 1], size) * ((1 << 12) * unit - rng.integers(0, 3, size))
        found = _products(a, b, frac_bits)
        exact = a * b  # below 2^(24 + 36): int64 holds it
        low = exact >> frac_bits
        assert ((found == low) | (found == low + 1)).all()


def _products(a: NDArray[np.int64], b: NDArray[np.int64], frac_bits: int) -> Any:
    """a * b at frac_bits by the protocol of two parties."""

    def program(session: Session) -> Any:
        engine = MpcEngine(session, frac_bits)
        x, y = (engine.private(v if engine.rank == k else None, a.shape, k, integer=True) for k, v in enumerate((a, b)))
        return session.run(truncate(session, engine.mul(x, y).share, frac_bits))

    shares = at_every_rank(2, program)
    return (shares[0] + shares[1]).view(np.int64)

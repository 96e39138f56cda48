"""Jobs with polynomial networks under homomorphic encryption without a dealer, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.errors import BadModel, BadSpec, RangeExceeded
from enclave.messages import Architecture, Layer
from enclave.models.model import Model
from enclave.models.reference import forward_float
from enclave.workloads import check_spec
from enclave.workloads.encrypted import check_encrypted
from enclave.workloads.encrypted.networks import check_polynomial, check_weights
from tests.enclave.engines.he.network_models import convolutional, dense, quadratic
from tests.enclave.workloads.encrypted_jobs import encrypted_job, run_job
from tests.enclave.workloads.made_jobs import classes, number

RNG = np.random.default_rng(5)


def with_final(architecture: Architecture, op: str) -> Architecture:
    last = Layer(op, "final", (architecture.layers[-1].name,))
    return Architecture(architecture.input_shape, (*architecture.layers, last), architecture.parameters)


@pytest.mark.parametrize(
    ("model", "final", "owners"),
    [
        (dense([5, 4, 1]), None, (60,)),
        (dense([5, 4, 3]), "softmax", (20, 40)),
        (quadratic(5, 4, 1), "sigmoid", (60,)),
        (dense([5, 4, 3, 2]), "tanh", (60,)),
    ],
    ids=["square", "softmax", "quadratic", "two squares"],
)
def test_predictions_are_those_of_float64(model: Model, final: str | None, owners: tuple[int, ...]) -> None:
    x = RNG.normal(size=(60, 5)).clip(-3, 3)
    architecture = model.architecture if final is None else with_final(model.architecture, final)
    spec = encrypted_job(x, None, architecture, ["predictions"], owners=owners)
    ran = run_job(spec, x, np.zeros(60), model.weights)
    expected = forward_float(Model(architecture, model.weights), x)
    expected = expected[:, 0] if expected.shape[1] == 1 else expected
    assert ran.result.predictions is not None
    assert np.abs(ran.result.predictions - expected).max() < 5e-3
    labels = {statement.label for statement in ran.engines[0].statements}
    assert "he:input" in labels and "he:products" in labels
    assert all(statement.bits >= 40 for engine in ran.engines for statement in engine.statements)


def test_columns_of_any_scale() -> None:
    model = dense([5, 4, 1])
    scales = np.array([1.0, 30.0, 0.01, 1000.0, 2.0])
    x = RNG.normal(size=(50, 5)).clip(-3, 3) * scales
    weights = dict(model.weights)
    name = model.architecture.layers[0].parameters[0]
    weights[name] = weights[name] / scales[:, None]
    spec = encrypted_job(x, None, model.architecture, ["predictions"])
    found = run_job(spec, x, np.zeros(50), weights).result.predictions
    assert found is not None
    assert np.abs(found - forward_float(Model(model.architecture, weights), x)[:, 0]).max() < 5e-3


def test_standardised_rows() -> None:
    model = dense([5, 4, 1])
    x = RNG.normal(size=(200, 5)) * [1.0, 10.0, 0.1, 300.0, 2.0] + [0.0, 3.0, 0.0, -50.0, 1.0]
    spec = encrypted_job(x, None, model.architecture, ["predictions"], standardise=True)
    found = run_job(spec, x, np.zeros(200), model.weights).result.predictions
    assert found is not None
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    assert np.abs(found - forward_float(model, scaled)[:, 0]).max() < 5e-3


@pytest.mark.parametrize(("outputs", "final"), [(1, "sigmoid"), (2, None), (2, "softmax")])
def test_counts_of_two_classes(outputs: int, final: str | None) -> None:
    model = dense([5, 4, outputs])
    architecture = model.architecture if final is None else with_final(model.architecture, final)
    x = RNG.normal(size=(80, 5)).clip(-3, 3)
    score = forward_float(model, x)
    score = score[:, 0] if outputs == 1 else score[:, 1] - score[:, 0]
    truth = ((score > 0) ^ (RNG.uniform(size=80) < 0.2)).astype(np.int64)
    spec = encrypted_job(x, classes(2), architecture, ["accuracy", "confusion", "predictions"], owners=(50, 30))
    result = run_job(spec, x, truth, model.weights).result
    assert result.accuracy == np.mean((score > 0) == truth)
    assert result.confusion is not None and result.predictions is not None
    assert result.confusion.tolist() == [
        [int(((truth == t) & ((score > 0) == p)).sum()) for p in (0, 1)] for t in (0, 1)
    ]


@pytest.mark.parametrize("owners", [(60,), (20, 30, 10)])
def test_the_mean_score(owners: tuple[int, ...]) -> None:
    model = dense([5, 4, 1])
    x = RNG.normal(size=(60, 5)).clip(-3, 3)
    spec = encrypted_job(x, number(-1.0, 1.0), model.architecture, ["mean_score"], owners=owners)
    ran = run_job(spec, x, np.zeros(60), model.weights)
    expected = forward_float(model, x)[:, 0].mean()
    assert ran.result.mean_score == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("final", [None, "softmax"])
def test_counts_of_several_classes(final: str | None) -> None:
    model = dense([5, 4, 3])
    architecture = model.architecture if final is None else with_final(model.architecture, final)
    x = RNG.normal(size=(70, 5)).clip(-3, 3)
    chosen = forward_float(model, x).argmax(axis=1)
    truth = np.where(RNG.uniform(size=70) < 0.3, RNG.integers(0, 3, 70), chosen)
    spec = encrypted_job(x, classes(3), architecture, ["accuracy", "confusion"], owners=(50, 20))
    result = run_job(spec, x, truth, model.weights).result
    assert result.accuracy == np.mean(chosen == truth)
    assert result.confusion is not None
    assert result.confusion.tolist() == [
        [int(((truth == t) & (chosen == p)).sum()) for p in range(3)] for t in range(3)
    ]


def test_counts_of_what_the_outputs_are_not_are_refused() -> None:
    spec = encrypted_job(RNG.normal(size=(9, 5)), classes(3), dense([5, 4, 2]).architecture, ["accuracy"])
    with pytest.raises(BadSpec, match=r"one output for each, found outputs \(2,\)"):
        check_polynomial(spec)


def test_other_outputs_are_refused() -> None:
    x = RNG.normal(size=(20, 5))
    spec = encrypted_job(x, number(-1.0, 1.0), dense([5, 4, 1]).architecture, ["predictions", "rmse"])
    with pytest.raises(BadSpec, match="confusion, mean_score, found rmse") as caught:
        check_polynomial(spec)
    assert "hybrid" in caught.value.hint


def test_a_layer_that_is_no_polynomial_is_named() -> None:
    architecture = dense([5, 4, 3]).architecture
    last = architecture.layers[-1]
    layers = (
        *architecture.layers[:-1],
        Layer("relu", "clip", last.inputs),
        Layer("linear", "z", ("clip",), last.parameters),
    )
    spec = encrypted_job(
        RNG.normal(size=(9, 5)), None, Architecture((5,), layers, architecture.parameters), ["predictions"]
    )
    with pytest.raises(BadModel, match=r"layer 'clip' \(relu\)") as caught:
        check_encrypted(spec)
    assert "hybrid or mpc" in caught.value.hint


def test_a_network_that_is_too_deep_is_refused() -> None:
    spec = encrypted_job(RNG.normal(size=(9, 5)), None, dense([5, 4, 4, 4, 4, 4, 4]).architecture, ["predictions"])
    with pytest.raises(BadModel, match=r"layer 'dense\d' is too deep") as caught:
        check_encrypted(spec)
    assert "hybrid or mpc" in caught.value.hint


def test_values_out_of_range_are_refused_at_the_buyer() -> None:
    model = dense([5, 4, 1])
    weights = {name: weight * 1e6 for name, weight in model.weights.items()}
    x = RNG.normal(size=(9, 5))
    spec = encrypted_job(x, None, model.architecture, ["predictions"])
    check_spec(spec)
    with pytest.raises(RangeExceeded, match=r"dense1 can reach [\d.e+]+"):
        check_weights(spec, weights)
    with pytest.raises(BadModel, match="values at dense1 can leave the range") as caught:
        run_job(spec, x, np.zeros(9), weights)
    assert not any(letter.isdigit() for letter in str(caught.value).replace("dense1", "")), "a bound tells of weights"
    stated = check_weights(spec, model.weights)
    assert stated.error < 1.0


def test_images() -> None:
    model = convolutional(6, 2)
    x = RNG.uniform(size=(12, 36))
    spec = encrypted_job(x, None, model.architecture, ["predictions"])
    found = run_job(spec, x, np.zeros(12), model.weights).result.predictions
    assert found is not None
    assert np.abs(found - forward_float(model, x)).max() < 5e-3

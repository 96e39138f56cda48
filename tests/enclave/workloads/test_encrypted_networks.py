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
from enclave.workloads.encrypted.networks import check_polynomial
from tests.enclave.engines.he.network_models import convolutional, dense, quadratic
from tests.enclave.workloads.encrypted_jobs import encrypted_job, run_job
from tests.enclave.workloads.made_jobs import number

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


def test_other_outputs_are_refused() -> None:
    x = RNG.normal(size=(20, 5))
    spec = encrypted_job(x, number(-1.0, 1.0), dense([5, 4, 1]).architecture, ["predictions", "rmse"])
    with pytest.raises(BadSpec, match="predictions alone, found rmse") as caught:
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
    with pytest.raises(RangeExceeded, match="dense"):
        run_job(spec, x, np.zeros(9), weights)


def test_images() -> None:
    model = convolutional(6, 2)
    x = RNG.uniform(size=(12, 36))
    spec = encrypted_job(x, None, model.architecture, ["predictions"])
    found = run_job(spec, x, np.zeros(12), model.weights).result.predictions
    assert found is not None
    assert np.abs(found - forward_float(model, x)).max() < 5e-3

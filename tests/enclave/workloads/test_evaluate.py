"""Evaluation on the plain engine against scikit-learn on the same rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, r2_score, roc_auc_score, root_mean_squared_error

from enclave.engines.interface import Permit
from enclave.engines.plain import InsecurePlainEngine
from enclave.errors import PolicyRefused
from enclave.messages import Architecture, Encoding, Layer, NumericFeature, Target, TensorType
from enclave.models import dense_architecture
from enclave.workloads import finish, release
from enclave.workloads.standardise import column_units
from tests.enclave.workloads.made_jobs import classes, features, holders, job, number, result, sealed

CLASS_OUTPUTS = ("accuracy", "confusion", "auc")
Arrays = tuple[NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture(scope="module")
def cancer() -> Arrays:
    x, y = load_breast_cancer(return_X_y=True)
    return x, y.astype(np.int64)


def dense(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {"dense0.weight": weight, "dense0.bias": bias}


def then(architecture: Architecture, op: str) -> Architecture:
    last = Layer(op, "last", (architecture.layers[-1].name,))
    return Architecture(architecture.input_shape, (*architecture.layers, last), architecture.parameters)


@pytest.mark.parametrize("owners", [(569,), (100, 369, 100), (1, 68, 500)])
@pytest.mark.parametrize("final", [None, "sigmoid"])
def test_logistic_regression_over_owners(cancer: Arrays, owners: tuple[int, ...], final: str | None) -> None:
    x, y = cancer
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    model = LogisticRegression(max_iter=1000).fit(z, y)
    architecture = dense_architecture(30, [], 1) if final is None else then(dense_architecture(30, [], 1), final)
    outputs = (*CLASS_OUTPUTS, "predictions")
    spec = job(x, classes(2), architecture, outputs, owners=owners, standardise=True)
    found = result(spec, holders(spec, x, y), dense(model.coef_.T, model.intercept_))
    scores = model.decision_function(z)
    assert found.accuracy == accuracy_score(y, scores > 0)
    assert found.auc == pytest.approx(roc_auc_score(y, scores), abs=1e-12)
    assert found.confusion is not None and found.predictions is not None
    assert found.confusion.tolist() == confusion_matrix(y, scores > 0).tolist()
    expected = scores if final is None else model.predict_proba(z)[:, 1]
    np.testing.assert_allclose(found.predictions, expected, atol=1e-9)


@pytest.mark.parametrize("final", [None, "softmax", "sigmoid"])
def test_two_outputs_are_one_decision(cancer: Arrays, final: str | None) -> None:
    x, y = cancer
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    rng = np.random.default_rng(0)
    weights = dense(rng.normal(size=(30, 2)), rng.normal(size=2))
    architecture = dense_architecture(30, [], 2) if final is None else then(dense_architecture(30, [], 2), final)
    spec = job(x, classes(2), architecture, CLASS_OUTPUTS)
    found = result(spec, holders(spec, x, y), weights)
    scores = x @ weights["dense0.weight"] + weights["dense0.bias"]
    assert found.accuracy == accuracy_score(y, scores.argmax(axis=1))
    assert found.auc == pytest.approx(roc_auc_score(y, scores[:, 1] - scores[:, 0]), abs=1e-12)


@pytest.mark.parametrize("final", [None, "softmax"])
def test_many_classes(final: str | None) -> None:
    x, y = load_digits(return_X_y=True)
    x = x / 16
    model = LogisticRegression(max_iter=200).fit(x, y)
    architecture = dense_architecture(64, [], 10) if final is None else then(dense_architecture(64, [], 10), final)
    spec = job(x, classes(10), architecture, ("confusion", "accuracy", "predictions"), owners=(1000, 797))
    found = result(spec, holders(spec, x, y), dense(model.coef_.T, model.intercept_))
    assert found.accuracy == accuracy_score(y, model.predict(x))
    assert found.confusion is not None and found.predictions is not None
    assert found.confusion.tolist() == confusion_matrix(y, model.predict(x)).tolist()
    expected = model.decision_function(x) if final is None else model.predict_proba(x)
    np.testing.assert_allclose(found.predictions, expected, atol=1e-9)


@pytest.mark.parametrize("owners", [(442,), (200, 142, 100)])
@pytest.mark.parametrize("sign", [1.0, -1.0])  # R2 above and below 0
def test_regression_in_raw_units(owners: tuple[int, ...], sign: float) -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    encoded = (y - 150) / 75
    model = LinearRegression().fit(z, encoded)
    target = number(20, 350, shift=150, scale=75)
    outputs = ("r2", "rmse", "predictions")
    spec = job(x, target, dense_architecture(10, [], 1), outputs, owners=owners, standardise=True)
    found = result(spec, holders(spec, x, encoded), dense(sign * model.coef_[:, None], np.array([model.intercept_])))
    raw = 75 * (sign * (z @ model.coef_) + model.intercept_) + 150
    assert found.predictions is not None
    np.testing.assert_allclose(found.predictions, raw, atol=1e-8)
    assert found.rmse == pytest.approx(root_mean_squared_error(y, raw), rel=1e-9)
    assert found.r2 == pytest.approx(r2_score(y, raw), abs=1e-5)


def test_hopeless_predictions_and_constant_targets_have_the_lowest_r2() -> None:
    x, y = np.linspace(0, 1, 9)[:, None], np.full(9, 2.0)
    spec = job(x, number(), dense_architecture(1, [], 1), ("r2",))
    found = result(spec, holders(spec, x, y), dense(np.ones((1, 1)), np.zeros(1)))
    assert found.r2 == -(2.0**20)
    perfect = result(spec, holders(spec, x, y), dense(np.zeros((1, 1)), np.full(1, 2.0)))
    assert perfect.r2 == 1.0


def test_one_class_alone_has_no_auc(cancer: Arrays) -> None:
    x, y = cancer[0][cancer[1] == 1][:50], cancer[1][cancer[1] == 1][:50]
    spec = job(x, classes(2), dense_architecture(30, [], 1), CLASS_OUTPUTS)
    found = result(spec, holders(spec, x, y), dense(np.zeros((30, 1)), np.zeros(1)))
    assert found.auc is not None and math.isnan(found.auc)
    assert found.accuracy == 0.0


def test_equal_scores_have_an_auc_of_one_half(cancer: Arrays) -> None:
    x, y = cancer
    spec = job(x, classes(2), dense_architecture(30, [], 1), ("auc",))
    assert result(spec, holders(spec, x, y), dense(np.zeros((30, 1)), np.ones(1))).auc == 0.5


def test_fixed_point_changes_little(cancer: Arrays) -> None:
    x, y = cancer
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    model = LogisticRegression(max_iter=1000).fit(z, y)
    spec = job(x, classes(2), dense_architecture(30, [], 1), CLASS_OUTPUTS, owners=(300, 269), standardise=True)
    engine = InsecurePlainEngine(20, parties=3, round_to=20)
    found = result(spec, holders(spec, x, y), dense(model.coef_.T, model.intercept_), engine)
    scores = model.decision_function(z)
    assert found.accuracy == pytest.approx(accuracy_score(y, scores > 0), abs=0.002)
    assert found.auc == pytest.approx(roc_auc_score(y, scores), abs=1e-4)


@pytest.mark.parametrize("first", ["linear", "affine"])
@pytest.mark.parametrize("owners", [(150,), (60, 90)])
def test_standardisation_with_columns_of_any_kind(first: str, owners: tuple[int, ...]) -> None:
    """A constant column, a rare indicator, and columns of very different units; folded into a first linear layer or
    applied to the rows."""
    iris, y = load_iris(return_X_y=True)
    rare = (np.arange(150) == 77).astype(float)
    x = np.column_stack([iris * [1.0, 1e-2, 10.0, 1.0], np.full(150, 3.0), rare])
    deviation = np.where(x.std(axis=0) == 0, 1.0, x.std(axis=0))
    z = (x - x.mean(axis=0)) / deviation
    rng = np.random.default_rng(5)
    architecture, weights = dense_architecture(6, [], 3), dense(rng.normal(size=(6, 3)), rng.normal(size=3))
    expected = z @ weights["dense0.weight"] + weights["dense0.bias"]
    if first == "affine":
        layers = (
            Layer("affine", "twice", ("input",), ("a", "b")),
            Layer("linear", "dense0", ("twice",), tuple(weights)),
        )
        tensors = (TensorType("a", (6,)), TensorType("b", (6,)), *architecture.parameters)
        architecture = Architecture((6,), layers, tensors)
        weights |= {"a": np.full(6, 2.0), "b": np.full(6, -0.5)}
        expected = (2 * z - 0.5) @ weights["dense0.weight"] + weights["dense0.bias"]
    spec = job(x, classes(3), architecture, ("predictions", "accuracy"), owners=owners, standardise=True)
    found = result(spec, holders(spec, x, y), weights)
    assert found.predictions is not None
    np.testing.assert_allclose(found.predictions, expected, atol=1e-8)


def test_column_units_fill_the_declared_range() -> None:
    x = np.array([[0.0, -900.0, 0.001], [1.0, 900.0, 0.002]])
    spec = job(x, classes(2), dense_architecture(3, [], 1), ("accuracy",))
    units = column_units(spec)
    reach = np.array([1.01, 900.01, 0.012]) * units
    assert ((reach <= 16) & (reach > 8)).all()
    assert (np.log2(units) % 1 == 0).all()


def test_predictions_need_no_target(cancer: Arrays) -> None:
    x, y = cancer
    spec = job(x, None, dense_architecture(30, [], 1), ("predictions",))
    found = result(spec, holders(spec, x, y), dense(np.ones((30, 1)), np.zeros(1)))
    assert found.predictions is not None
    np.testing.assert_allclose(found.predictions, x.sum(axis=1))


def test_shifted_numbers_need_their_target_only_to_be_read_back() -> None:
    numeric = NumericFeature(shift=5.0, scale=2.0, low=0, high=10)
    x = np.eye(3)
    spec = job(x, Target("y", numeric=numeric), dense_architecture(3, [], 1), ("predictions",))
    found = result(spec, holders(spec, x, np.zeros(3)), dense(np.array([[0.0], [1.0], [2.0]]), np.zeros(1)))
    assert found.predictions is not None and found.predictions.tolist() == [5.0, 7.0, 9.0]


def test_release_needs_a_permit_for_every_output_of_this_job(cancer: Arrays) -> None:
    x, y = cancer
    spec = job(x, classes(2), dense_architecture(30, [], 1), ("accuracy", "auc"))
    engine, done = sealed(spec, holders(spec, x, y), dense(np.zeros((30, 1)), np.zeros(1)))
    for permit in (Permit(spec.job_id, ["accuracy"]), Permit("f" * 32, ["accuracy", "auc"]), Permit(spec.job_id, [])):
        with pytest.raises(PolicyRefused):
            release(engine, spec, done, permit)
    assert set(done.outputs) == {"accuracy", "auc"}
    opened = release(engine, spec, done, Permit(spec.job_id, spec.outputs))
    assert opened is not None
    assert finish(spec, opened).rows == 569


def test_the_sealed_values_stay_hidden(cancer: Arrays) -> None:
    x, y = cancer
    spec = job(x, classes(2), dense_architecture(30, [], 1), ("accuracy",))
    _, done = sealed(spec, holders(spec, x, y), dense(np.zeros((30, 1)), np.zeros(1)))
    assert "212" not in repr(done) and "secret" in repr(done)


def test_rows_with_axes() -> None:
    """An image model reads the same flat columns."""
    x, y = load_digits(return_X_y=True)
    x = x[:120] / 16
    rng = np.random.default_rng(6)
    weights = {"k": rng.normal(size=(2, 1, 3, 3)), "w": rng.normal(size=(2 * 8 * 8, 10))}
    layers = (
        Layer("conv2d", "conv", ("input",), ("k",), (1, 1, 1, 1, 1, 1, 1, 1, 1)),
        Layer("flatten", "flat", ("conv",)),
        Layer("linear", "out", ("flat",), ("w",)),
    )
    architecture = Architecture((1, 8, 8), layers, (TensorType("k", (2, 1, 3, 3)), TensorType("w", (128, 10))))
    for standardise in (False, True):
        spec = job(x, classes(10), architecture, ("accuracy",), owners=(70, 50), standardise=standardise)
        assert isinstance(spec.encoding, Encoding) and spec.encoding.features == features(x)
        assert result(spec, holders(spec, x, y[:120]), weights).accuracy is not None

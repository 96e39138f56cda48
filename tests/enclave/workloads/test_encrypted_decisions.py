"""Accuracy and confusion under homomorphic encryption without a dealer, against numpy and the rules of `metrics`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression

from enclave.engines.interface import Permit
from enclave.errors import BadSpec, PolicyRefused
from enclave.messages import Architecture, Layer
from enclave.models import dense_architecture
from enclave.workloads import check_spec
from tests.enclave.workloads.encrypted_jobs import encrypted_job, run_job
from tests.enclave.workloads.made_jobs import classes

RNG = np.random.default_rng(8)
X = RNG.normal(size=(500, 5)) * [1.0, 10.0, 0.1, 300.0, 2.0] + [0.0, 3.0, 0.0, -50.0, 1.0]
W = RNG.normal(size=(5, 2)) / X.std(axis=0)[:, None]
B = RNG.normal(size=2)
Y = (RNG.random(500) < 0.4).astype(np.int64)


def _named(architecture: Architecture, *values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {tensor.name: value for tensor, value in zip(architecture.parameters, values, strict=True)}


def _with_final(architecture: Architecture, op: str | None) -> Architecture:
    if op is None:
        return architecture
    last = Layer(op, "final", (architecture.layers[-1].name,))
    return Architecture(architecture.input_shape, (*architecture.layers, last), architecture.parameters)


def _matrix(decision: NDArray[np.float64], truth: NDArray[np.int64]) -> list[list[int]]:
    found = (decision > 0).astype(int)
    return [[int(((truth == t) & (found == c)).sum()) for c in (0, 1)] for t in (0, 1)]


@pytest.mark.parametrize("owners", [(500,), (100, 399, 1)])
@pytest.mark.parametrize("final", [None, "sigmoid", "tanh"])
def test_a_model_of_one_output(owners: tuple[int, ...], final: str | None) -> None:
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, classes(2), _with_final(linear, final), ["accuracy", "confusion"], owners=owners)
    found = run_job(spec, X, Y, _named(linear, W[:, :1], B[:1])).result
    matrix = _matrix(X @ W[:, 0] + B[0], Y)
    assert found.confusion is not None and found.confusion.tolist() == matrix
    assert found.accuracy == (matrix[0][0] + matrix[1][1]) / 500


@pytest.mark.parametrize("final", [None, "softmax", "sigmoid"])
def test_a_model_of_two_outputs(final: str | None) -> None:
    linear = dense_architecture(5, [], 2)
    spec = encrypted_job(X, classes(2), _with_final(linear, final), ["confusion"])
    found = run_job(spec, X, Y, _named(linear, W, B)).result.confusion
    assert found is not None and found.tolist() == _matrix(X @ (W[:, 1] - W[:, 0]) + B[1] - B[0], Y)


def test_a_score_of_zero_is_class_0() -> None:
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, classes(2), linear, ["confusion"])
    found = run_job(spec, X, Y, _named(linear, np.zeros((5, 1)), np.zeros(1))).result.confusion
    assert found is not None and found.tolist() == [[int((Y == 0).sum()), 0], [int(Y.sum()), 0]]


@pytest.mark.parametrize("standardise", [False, True])
def test_breast_cancer(standardise: bool) -> None:
    data = load_breast_cancer()
    z = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    x = data.data if standardise else z
    model = LogisticRegression(max_iter=500).fit(z, data.target)
    linear = dense_architecture(30, [], 1)
    spec = encrypted_job(x, classes(2), linear, ["accuracy"], standardise=standardise)
    ran = run_job(spec, x, data.target, _named(linear, model.coef_.T, model.intercept_))
    assert ran.result.accuracy == model.score(z, data.target)
    labels = [item[0] for _, record in ran.records if record[0] == "open" for item in record[1:]]
    assert labels.count("comparison:forms") == 1 and labels[-1] == "release:accuracy"
    assert {h.label for h in ran.engines[0].statements} >= {"comparison", "counting"}


def test_decisions_and_predictions_of_one_job() -> None:
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, classes(2), linear, ["predictions", "accuracy"])
    found = run_job(spec, X, Y, _named(linear, W[:, :1], B[:1])).result
    assert found.predictions is not None
    assert found.accuracy == np.mean((found.predictions > 0) == Y)


def test_without_a_permit_nothing_is_counted_out() -> None:
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, classes(2), linear, ["accuracy"])
    with pytest.raises(PolicyRefused):
        run_job(spec, X, Y, _named(linear, W[:, :1], B[:1]), Permit(spec.job_id, ["rmse"]))


def test_digits() -> None:
    data = load_digits()
    x, truth = data.data[:400] / 16, data.target[:400]
    model = LogisticRegression(max_iter=200).fit(x[:100], truth[:100])
    linear = dense_architecture(64, [], 10)
    spec = encrypted_job(x, classes(10), _with_final(linear, "softmax"), ["accuracy"], owners=(250, 150))
    found = run_job(spec, x, truth, _named(linear, model.coef_.T, model.intercept_)).result
    assert found.accuracy == model.score(x, truth) < 1


@pytest.mark.parametrize("final", [None, "softmax"])
def test_among_equal_scores_the_first_class_counts(final: str | None) -> None:
    linear = dense_architecture(5, [], 3)
    truth = np.arange(60) % 3
    spec = encrypted_job(X[:60], classes(3), _with_final(linear, final), ["accuracy"])
    for winners, expected in (((0, 0, 0), 1 / 3), ((0, 1, 1), 1 / 3), ((-1, 0, 0), 1 / 3)):
        weights = _named(linear, np.zeros((5, 3)), np.array(winners, float))
        assert run_job(spec, X[:60], truth, weights).result.accuracy == pytest.approx(expected)
    for index in range(3):
        mine = np.full(60, index)
        found = run_job(spec, X[:60], mine, _named(linear, np.zeros((5, 3)), np.zeros(3))).result
        assert found.accuracy == float(index == 0)


@pytest.mark.parametrize("owners", [(500,), (100, 399, 1)])
def test_the_matrix_of_several_classes(owners: tuple[int, ...]) -> None:
    linear = dense_architecture(5, [], 4)
    w, b = RNG.normal(size=(5, 4)) / X.std(axis=0)[:, None], RNG.normal(size=4)
    scores = X @ w + b
    truth = np.where(RNG.random(500) < 0.6, scores.argmax(axis=1), RNG.integers(0, 4, 500))
    spec = encrypted_job(X, classes(4), linear, ["accuracy", "confusion"], owners=owners)
    found = run_job(spec, X, truth, _named(linear, w, b)).result
    expected = np.zeros((4, 4), np.int64)
    np.add.at(expected, (truth, scores.argmax(axis=1)), 1)
    assert found.confusion is not None and found.confusion.tolist() == expected.tolist()
    assert found.accuracy == np.trace(expected) / 500


def test_the_matrix_of_a_model_of_zeros() -> None:
    linear = dense_architecture(5, [], 3)
    truth = np.arange(60) % 3
    spec = encrypted_job(X[:60], classes(3), linear, ["confusion"])
    found = run_job(spec, X[:60], truth, _named(linear, np.zeros((5, 3)), np.zeros(3))).result.confusion
    assert found is not None and found.tolist() == [[20, 0, 0]] * 3


@pytest.mark.parametrize(("count", "outputs", "name"), [(65, 65, "accuracy"), (2, 1, "auc")])
def test_what_needs_a_dealer(count: int, outputs: int, name: str) -> None:
    spec: Any = encrypted_job(X, classes(count), dense_architecture(5, [], outputs), [name])
    with pytest.raises(BadSpec) as caught:
        check_spec(spec)
    assert "dealer" in caught.value.hint

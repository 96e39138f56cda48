"""The outputs `brier` and `mean_score`: their definition, on the plain engine and on shares, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import brier_score_loss

from enclave.errors import BadSpec, RangeExceeded
from enclave.messages import Architecture, Layer, Target, Training
from enclave.models import Model, dense_architecture
from enclave.workloads import check_spec, finish
from enclave.workloads.numeric import check_evaluation
from tests.enclave.workloads.made_jobs import classes, holders, job, number, result
from tests.enclave.workloads.test_on_shares import on_shares

OWNERS = (100, 369, 100)


def then(architecture: Architecture, op: str) -> Architecture:
    last = Layer(op, "last", (architecture.layers[-1].name,))
    return Architecture(architecture.input_shape, (*architecture.layers, last), architecture.parameters)


@pytest.fixture(scope="module")
def cancer() -> tuple[NDArray[np.float64], NDArray[np.int64], LogisticRegression]:
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return x, y.astype(np.int64), LogisticRegression().fit(x, y)


def test_one_output(cancer: Any) -> None:
    x, y, model = cancer
    weights = {"dense0.weight": model.coef_.T, "dense0.bias": model.intercept_}
    outputs = ("mean_score", "brier", "accuracy", "predictions")
    spec = job(x, classes(2), then(dense_architecture(30, [], 1), "sigmoid"), outputs, owners=OWNERS)
    rows = holders(spec, x, y)
    clear, shared = result(spec, rows, weights), on_shares(spec, rows, weights)
    probabilities = model.predict_proba(x)[:, 1]
    assert clear.brier == pytest.approx(brier_score_loss(y, probabilities), rel=1e-9)
    # The score is what the sigmoid is given, not the probability.
    assert clear.mean_score == pytest.approx(model.decision_function(x).mean(), rel=1e-9)
    assert shared.brier == pytest.approx(clear.brier, abs=1e-4)
    assert shared.mean_score == pytest.approx(clear.mean_score, abs=1e-4)
    assert clear.predictions is not None and shared.predictions is not None
    np.testing.assert_allclose(clear.predictions, probabilities, atol=1e-9)
    np.testing.assert_allclose(shared.predictions, probabilities, atol=1e-3)


def test_two_outputs_before_a_softmax(cancer: Any) -> None:
    x, y, model = cancer
    weights = {
        "dense0.weight": np.hstack([-model.coef_.T, model.coef_.T]) / 2,
        "dense0.bias": np.array([-model.intercept_[0], model.intercept_[0]]) / 2,
    }
    spec = job(x, classes(2), then(dense_architecture(30, [], 2), "softmax"), ("brier",), owners=OWNERS)
    found = result(spec, holders(spec, x, y), weights)
    assert found.brier == pytest.approx(brier_score_loss(y, model.predict_proba(x)[:, 1]), rel=1e-9)


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("standardise", [False, True])
def test_mean_score_in_raw_units_beside_an_rmse(standardise: bool, final: bool) -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    model = LinearRegression().fit(z, (y - 150) / 75)
    weights = {"dense0.weight": model.coef_[:, None], "dense0.bias": np.array([model.intercept_])}
    architecture = dense_architecture(10, [], 1)
    architecture = then(architecture, "sigmoid") if final else architecture
    entered = x if standardise else z
    spec = job(
        entered,
        number(20, 350, 150, 75),
        architecture,
        ("mean_score", "rmse"),
        owners=(200, 242),
        standardise=standardise,
    )
    rows = holders(spec, entered, (y - 150) / 75)
    clear, shared = result(spec, rows, weights), on_shares(spec, rows, weights)
    scores = z @ model.coef_ + model.intercept_
    outputs = 1 / (1 + np.exp(-scores)) if final else scores
    assert clear.mean_score == pytest.approx(scores.mean() * 75 + 150, rel=1e-9)
    assert clear.rmse == pytest.approx(75 * np.sqrt(((outputs - (y - 150) / 75) ** 2).mean()), rel=1e-9)
    assert shared.mean_score == pytest.approx(clear.mean_score, abs=0.05)
    assert shared.rmse == pytest.approx(clear.rmse, rel=1e-3)


def test_mean_score_needs_no_target(cancer: Any) -> None:
    x, _, model = cancer
    weights = {"dense0.weight": model.coef_.T, "dense0.bias": model.intercept_}
    spec = job(x, None, dense_architecture(30, [], 1), ("mean_score",))
    found = result(spec, holders(spec, x, np.zeros(len(x))), weights)
    assert found.mean_score == pytest.approx(model.decision_function(x).mean(), rel=1e-9)


def test_a_training_reports_its_brier(cancer: Any) -> None:
    x, y, _ = cancer
    training = Training("logistic", 5, 50, 0.5)
    spec = job(x, classes(2), dense_architecture(30, [], 1), ("model", "brier"), training=training)
    found = result(spec, holders(spec, x, y))
    assert found.weights is not None
    scores = x @ found.weights["dense0.weight"][:, 0] + found.weights["dense0.bias"][0]
    assert found.brier == pytest.approx(brier_score_loss(y, 1 / (1 + np.exp(-scores))), abs=1e-6)


@pytest.mark.parametrize(
    ("target", "architecture", "output", "text"),
    [
        (None, then(dense_architecture(3, [], 1), "sigmoid"), "brier", "brier needs a target"),
        (number(), then(dense_architecture(3, [], 1), "sigmoid"), "brier", "brier needs a target of classes"),
        (classes(3), then(dense_architecture(3, [], 3), "softmax"), "brier", "brier needs two classes, y has 3"),
        (classes(2), dense_architecture(3, [], 1), "brier", "a last layer sigmoid or softmax, found linear"),
        (classes(2), then(dense_architecture(3, [], 2), "sigmoid"), "brier", "ends in a sigmoid needs 1 output"),
        (None, dense_architecture(3, [], 2), "mean_score", "needs a model with 1 output"),
    ],
)
def test_what_makes_no_sense_is_refused(
    target: Target | None, architecture: Architecture, output: str, text: str
) -> None:
    x = np.linspace(-1, 1, 30).reshape(10, 3)
    with pytest.raises(BadSpec, match=text):
        check_spec(job(x, target, architecture, (output,)))


def test_a_training_releases_no_mean_score() -> None:
    x = np.linspace(-1, 1, 30).reshape(10, 3)
    training = Training("squared", 1, 5, 0.1)
    with pytest.raises(BadSpec, match="no mean_score"):
        check_spec(job(x, number(), dense_architecture(3, [], 1), ("mean_score",), training=training))


def test_a_sum_of_scores_that_could_wrap_is_refused() -> None:
    x = np.full((40, 1), 1.0)
    spec = job(x, None, dense_architecture(1, [], 1), ("mean_score",))
    spec = replace(spec, datasets=(replace(spec.datasets[0], rows=1 << 35),))
    model = Model(spec.architecture, {"dense0.weight": np.full((1, 1), 1000.0), "dense0.bias": np.zeros(1)})
    with pytest.raises(RangeExceeded, match="sum of mean_score"):
        check_evaluation(model, spec)


@pytest.mark.parametrize(("output", "value"), [("brier", -1.0), ("brier", 11.0), ("brier", -2.0)])
def test_impossible_figures_are_refused(output: str, value: float) -> None:
    x = np.linspace(-1, 1, 30).reshape(10, 3)
    spec = job(x, classes(2), then(dense_architecture(3, [], 1), "sigmoid"), (output,))
    with pytest.raises(RangeExceeded):
        finish(spec, {output: np.array([value])})

"""Trainings under homomorphic encryption without a dealer, against the same algorithm in the clear and scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge

from enclave.engines.interface import Permit
from enclave.errors import BadData, BadModel, BadSpec, PolicyRefused
from enclave.messages import JobSpec, Training
from enclave.models import dense_architecture
from enclave.workloads import check_spec
from enclave.workloads.encrypted.training import plain_weights
from enclave.workloads.standardise import column_units
from tests.enclave.workloads.encrypted_jobs import Ran, encrypted_job, run_job
from tests.enclave.workloads.made_jobs import classes, holders, number

X, Y = load_breast_cancer(return_X_y=True)
STEPS = Training("logistic", 4, len(X), 1.0, momentum=0.3, l2=0.001)


def training_job(x: NDArray[np.float64], schedule: Training, **rest: Any) -> JobSpec:
    target = classes(2) if schedule.loss == "logistic" else number(0.0, 400.0, 150.0, 80.0)
    architecture = dense_architecture(x.shape[1], [], 1)
    return encrypted_job(x, target, architecture, rest.pop("outputs", ["model"]), training=schedule, **rest)


def weights_of(ran: Ran) -> tuple[NDArray[np.float64], float]:
    assert ran.result.weights is not None
    weight, bias = ran.result.weights.values()
    return weight[:, 0], float(bias[0])


def standardised(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x - x.mean(0)) / x.std(0)


def test_logistic_regression_of_one_owner() -> None:
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:398], order[398:]
    spec = training_job(X[train], STEPS, standardise=True)
    ran = run_job(spec, X[train], Y[train], {})
    weight, bias = weights_of(ran)
    twin = plain_weights(spec, holders(spec, X[train], Y[train]))
    assert np.abs(weight / column_units(spec) - twin[:-1]).max() < 2e-5
    expected = X[test] @ (twin[:-1] * column_units(spec)) + twin[-1] > 0
    decided = X[test] @ weight + bias > 0
    assert (decided == expected).all()
    mean, scale = X[train].mean(0), X[train].std(0)
    sklearn = LogisticRegression().fit((X[train] - mean) / scale, Y[train])
    theirs = sklearn.score((X[test] - mean) / scale, Y[test])
    assert np.mean(decided == Y[test]) >= theirs - 1.01 / len(test), "at most one row of the test set"
    assert ran.sessions[0].rounds == 2 + 2 * 3 + 1 + 5
    assert any(hiding.label == "training" and hiding.bits >= 40 for hiding in ran.engines[0].statements)


def test_logistic_regression_of_three_owners() -> None:
    x = standardised(X[:, :10])
    schedule = Training("logistic", 3, len(X), 0.5, momentum=0.5)
    spec = training_job(x, schedule, owners=(200, 30, 339))
    ran = run_job(spec, x, Y, {})
    weight, bias = weights_of(ran)
    twin = plain_weights(spec, holders(spec, x, Y))
    assert np.abs(np.append(weight, bias) - twin).max() < 1e-4
    together = plain_weights(training_job(x, schedule, owners=(569 - 1, 1)), {0: holders(spec, x, Y)[0]})
    assert np.abs(twin - together).max() > 1e-3, "all owners' rows count"
    assert np.mean((x @ weight + bias > 0) == Y) > 0.9


def test_linear_regression_of_one_owner_is_exact() -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    coded = (y - 150.0) / 80.0
    spec = training_job(x, Training("squared", 1, len(x), 0.1, l2=0.01), standardise=True)
    weight, bias = weights_of(run_job(spec, x, coded, {}))
    ridge = Ridge(alpha=0.01 * len(x)).fit(standardised(x), coded)
    assert np.abs(weight * x.std(0) - ridge.coef_).max() < 1e-3
    assert np.abs(x @ weight + bias - ridge.predict(standardised(x))).max() < 1e-3


def test_linear_regression_of_several_owners() -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x, coded = standardised(x), (y - 150.0) / 80.0
    spec = training_job(x, Training("squared", 8, len(x), 0.3, momentum=0.5, l2=0.01), owners=(200, 42, 200))
    ran = run_job(spec, x, coded, {})
    weight, bias = weights_of(ran)
    assert np.abs(np.append(weight, bias) - plain_weights(spec, holders(spec, x, coded))).max() < 1e-4
    assert ran.sessions[0].rounds == 2 + 1 + 2 * 7 + 1 + 6


def test_nothing_leaves_without_a_permit() -> None:
    x, y = load_diabetes(return_X_y=True)
    spec = training_job(x, Training("squared", 1, len(x), 0.1))
    with pytest.raises(PolicyRefused):
        run_job(spec, x, (y - 150.0) / 80.0, {}, permit=Permit(spec.job_id, ["rmse"]))


def test_a_rate_that_could_diverge_is_refused_by_the_owner() -> None:
    x = standardised(X[:, :10])
    spec = training_job(x, Training("logistic", 2, len(X), 50.0), owners=(500, 69))
    with pytest.raises(BadData, match="could diverge") as caught:
        plain_weights(spec, holders(spec, x, Y))
    assert "largest rate" in caught.value.detail


def test_what_it_cannot_do_is_refused_with_the_layer_and_an_engine_that_can() -> None:
    def refusal(kind: type[Exception], text: str, **changes: Any) -> None:
        schedule = changes.pop("schedule", STEPS)
        with pytest.raises(kind, match=text) as caught:
            check_spec(training_job(X, schedule, **changes))
        assert caught.value.hint, "what to do next"  # type: ignore[attr-defined]

    check_spec(training_job(X, STEPS, standardise=True))
    refusal(BadSpec, "found accuracy", outputs=["model", "accuracy"])
    refusal(BadSpec, "rows of the buyer", buyer_rows=100)
    refusal(BadSpec, "standardised together", owners=(500, 69), standardise=True)
    refusal(BadSpec, "found shared", schedule=replace(STEPS, deliver="shared"))
    refusal(BadSpec, "averages no weights", schedule=replace(STEPS, average_epochs=1))
    refusal(BadSpec, "at most 1, found 2", schedule=replace(STEPS, learning_rate=2.0))
    refusal(BadSpec, "wrap once", schedule=replace(STEPS, epochs=100_000))
    deep = replace(training_job(X, STEPS), architecture=dense_architecture(30, [4], 1, "relu"))
    with pytest.raises(BadModel, match=r"layer \S+: engine he trains one linear layer, found relu") as caught:
        check_spec(deep)
    assert "hybrid or mpc would do" in str(caught.value.hint)


def test_too_many_rows_and_columns_are_refused() -> None:
    spec = training_job(X, STEPS)
    big = replace(spec.datasets[0], rows=1 << 22)
    with pytest.raises(BadSpec, match="MiB"):
        check_spec(replace(spec, datasets=(big,)))

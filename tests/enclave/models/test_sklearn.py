"""scikit-learn estimators compute the same once they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import linear_model, svm
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

from enclave.errors import BadModel
from enclave.models import forward_float, read_model

RNG = np.random.default_rng(3)
X = RNG.normal(size=(120, 5)) * [1, 10, 100, 0.1, 1] + [0, 5, 50, 1, 0]
NUMBER = X @ RNG.normal(size=5)
TWO = (X[:, 0] + RNG.normal(size=120) > 0).astype(int)
THREE = np.digitize(X[:, 4], [-0.4, 0.4])
MLP = {"hidden_layer_sizes": (6, 4), "tol": 1e9, "n_iter_no_change": 2}  # stops at once: only the mapping matters


def scaled(estimator: Any) -> Any:
    return make_pipeline(StandardScaler(), estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        linear_model.LinearRegression(),
        linear_model.Ridge(alpha=2.0, fit_intercept=False),
        linear_model.Lasso(),
        linear_model.ElasticNet(),
        scaled(linear_model.RidgeCV()),
        scaled(linear_model.SGDRegressor()),
        scaled(svm.LinearSVR()),
        make_pipeline(StandardScaler(with_mean=False), MinMaxScaler(), linear_model.Ridge()),
        make_pipeline("passthrough", StandardScaler(with_std=False), MaxAbsScaler(), linear_model.LinearRegression()),
        scaled(MLPRegressor(activation="tanh", **MLP)),
    ],
)
def test_regressors(estimator: Any) -> None:
    estimator.fit(X, NUMBER)
    model = read_model(estimator)
    assert np.allclose(forward_float(model, X)[:, 0], estimator.predict(X).ravel())
    assert model.architecture.layers[0].op == "linear", "scalers are folded"


@pytest.mark.parametrize("labels", [TWO, THREE])
@pytest.mark.parametrize(
    "estimator", [scaled(linear_model.LogisticRegression()), scaled(MLPClassifier(activation="logistic", **MLP))]
)
def test_probabilities(estimator: Any, labels: np.ndarray) -> None:
    estimator.fit(X, labels)
    found = forward_float(read_model(estimator), X)
    expected = estimator.predict_proba(X)
    assert np.allclose(found, expected[:, 1:] if expected.shape[1] == 2 else expected)


@pytest.mark.parametrize("labels", [TWO, THREE])
@pytest.mark.parametrize(
    "estimator",
    [
        scaled(svm.LinearSVC()),
        scaled(linear_model.SGDClassifier()),
        scaled(linear_model.RidgeClassifier()),
        scaled(linear_model.Perceptron()),
    ],
)
def test_margins(estimator: Any, labels: np.ndarray) -> None:
    estimator.fit(X, labels)
    model = read_model(estimator)
    assert [layer.op for layer in model.architecture.layers] == ["linear"]
    margins = estimator.decision_function(X)
    assert np.allclose(forward_float(model, X), margins.reshape(len(X), -1))


def test_sgd_with_log_loss() -> None:
    two = scaled(linear_model.SGDClassifier(loss="log_loss")).fit(X, TWO)
    assert np.allclose(forward_float(read_model(two), X)[:, 0], two.predict_proba(X)[:, 1])
    three = scaled(linear_model.SGDClassifier(loss="log_loss")).fit(X, THREE)
    scores = forward_float(read_model(three), X)
    assert (three.classes_[scores.argmax(axis=1)] == three.predict(X)).all()


@pytest.mark.parametrize(
    "estimator",
    [
        scaled(linear_model.LogisticRegression()),
        scaled(MLPClassifier(activation="tanh", **MLP)),
        scaled(linear_model.SGDClassifier()),
        scaled(linear_model.RidgeClassifier()),
    ],
)
def test_outputs_in_another_order_of_classes(estimator: Any) -> None:
    seen: list[list[Any]] = []

    def order(labels: Any) -> tuple[int, ...]:
        seen.append(list(labels))
        return (2, 0, 1) if len(labels) == 3 else (1, 0)

    estimator.fit(X, np.array(["a", "b", "c"])[THREE])
    plain, ordered = read_model(estimator), read_model(estimator, class_order=order)
    assert np.allclose(forward_float(ordered, X), forward_float(plain, X)[:, [2, 0, 1]])
    assert ordered.architecture == plain.architecture
    estimator.fit(X, np.array(["a", "b"])[TWO])
    plain, ordered = read_model(estimator), read_model(estimator, class_order=order)
    whole = 1.0 if plain.architecture.layers[-1].op == "sigmoid" else 0.0
    assert np.allclose(forward_float(ordered, X), whole - forward_float(plain, X))
    assert seen == [["a", "b", "c"], ["a", "b"]]


def test_a_regressor_has_no_classes() -> None:
    fitted = linear_model.Ridge().fit(X, NUMBER)
    assert np.allclose(forward_float(read_model(fitted, class_order=lambda _: (1, 0)), X)[:, 0], fitted.predict(X))


def test_what_cannot_be_run_is_named() -> None:
    with pytest.raises(BadModel, match="RandomForestClassifier is not supported"):
        read_model(RandomForestClassifier(2).fit(X, TWO))
    with pytest.raises(BadModel, match="pipeline step PCA is not supported"):
        read_model(make_pipeline(PCA(2), linear_model.LinearRegression()).fit(X, NUMBER))
    with pytest.raises(BadModel, match="pipeline step MinMaxScaler"):
        read_model(make_pipeline(MinMaxScaler(clip=True), linear_model.LinearRegression()).fit(X, NUMBER))
    with pytest.raises(BadModel, match="LinearRegression is not a fitted"):
        read_model(linear_model.LinearRegression())
    with pytest.raises(BadModel, match="StandardScaler is not supported"):
        read_model(StandardScaler().fit(X))

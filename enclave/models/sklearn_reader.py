"""scikit-learn estimators to the project's graph: linear models, small networks, and scalers in front of them.

Outputs keep the estimator's order of classes (`classes_`), unless another one is asked for. A probability ends in
sigmoid (two classes, the second one's) or softmax; a margin or a prediction ends in the linear layer. scikit-learn
must be installed for this, and is, since the estimator comes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from enclave.errors import BadModel
from enclave.models.builder import GraphBuilder
from enclave.models.graph import INPUT
from enclave.models.model import FloatArray, Model

__all__ = ["read_sklearn"]

_Order = tuple[int, ...] | None
_ACTIVATIONS = {"relu": "relu", "logistic": "sigmoid", "tanh": "tanh", "softmax": "softmax"}


def read_sklearn(estimator: Any, class_order: Callable[[Sequence[Any]], Sequence[int]] | None = None) -> Model:
    """The model of a fitted estimator or pipeline. Raises BadModel naming the step that cannot be run.

    Args:
        class_order: given `classes_`, the indices into it in the order that the outputs shall have. With one output for
            two classes, the second one in that order is the one whose probability or margin comes out.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise BadModel(f"{type(estimator).__name__} is not a fitted scikit-learn estimator") from error
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    steps = [step for step in steps if step is not None and step != "passthrough"]
    builder = GraphBuilder((int(steps[0].n_features_in_),))
    value = INPUT
    for step in steps[:-1]:
        value = _scaler(builder, value, step)
    order = None
    if class_order is not None and hasattr(steps[-1], "classes_"):
        order = tuple(class_order(list(steps[-1].classes_)))
    return builder.build(_predictor(builder, value, steps[-1], order))


def _scaler(builder: GraphBuilder, value: str, step: Any) -> str:
    """x * scale + shift, which is folded into the first linear layer."""
    from sklearn import preprocessing

    width = builder.shape(value)[0]
    scale, shift = np.ones(width), np.zeros(width)
    kind = type(step)
    if kind is preprocessing.StandardScaler:
        scale = scale if step.scale_ is None else 1.0 / step.scale_
        shift = shift if step.mean_ is None or not step.with_mean else -step.mean_ * scale
    elif kind is preprocessing.MinMaxScaler and not step.clip:
        scale, shift = step.scale_, step.min_
    elif kind is preprocessing.MaxAbsScaler:
        scale = 1.0 / step.scale_
    else:
        raise BadModel(
            f"pipeline step {kind.__name__} is not supported",
            hint="supported before the model: StandardScaler, MinMaxScaler, MaxAbsScaler; encode columns in the job",
        )
    name = kind.__name__.lower()
    parameters = [builder.weight(f"{name}.{n}", v) for n, v in (("scale", scale), ("shift", shift))]
    return builder.layer("affine", name, [value], parameters)


def _predictor(builder: GraphBuilder, value: str, step: Any, order: _Order) -> str:
    from sklearn import linear_model, neural_network, svm

    kind = type(step)
    regressors = (
        linear_model.LinearRegression,
        linear_model.Ridge,
        linear_model.RidgeCV,
        linear_model.Lasso,
        linear_model.LassoCV,
        linear_model.ElasticNet,
        linear_model.ElasticNetCV,
        linear_model.SGDRegressor,
        svm.LinearSVR,
    )
    margins = (
        linear_model.RidgeClassifier,
        linear_model.Perceptron,
        svm.LinearSVC,
    )
    if kind in (linear_model.LogisticRegression, linear_model.LogisticRegressionCV):
        layer, classes = _linear(builder, value, step, order), len(step.classes_)
        # liblinear trains one against the rest: no softmax behind it. The scores rank alike.
        return layer if classes > 2 and step.solver == "liblinear" else _probability(builder, layer, classes)
    if kind is linear_model.SGDClassifier:
        layer = _linear(builder, value, step, order)
        # With more classes it too is one against the rest.
        return _probability(builder, layer, 2) if step.loss == "log_loss" and len(step.classes_) == 2 else layer
    if kind in regressors or kind in margins:
        return _linear(builder, value, step, order)
    if kind in (neural_network.MLPClassifier, neural_network.MLPRegressor):
        return _network(builder, value, step, order)
    raise BadModel(
        f"estimator {kind.__name__} is not supported",
        hint="supported: linear and logistic regression, ridge, lasso, linear SVM, SGD, MLP; or export it as ONNX",
    )


def _linear(builder: GraphBuilder, value: str, step: Any, order: _Order) -> str:
    weight: FloatArray = np.atleast_2d(np.asarray(step.coef_, dtype=np.float64))
    if weight.shape[1] != builder.shape(value)[0]:
        raise BadModel(f"coef_ must be (outputs, {builder.shape(value)[0]}), found {weight.shape}")
    bias = np.broadcast_to(np.atleast_1d(np.asarray(step.intercept_, dtype=np.float64)), (weight.shape[0],))
    return builder.linear("linear", value, *_ordered(weight.T, bias, order))


def _ordered(weight: FloatArray, bias: FloatArray, order: _Order) -> tuple[FloatArray, FloatArray]:
    """The last layer, (inputs, outputs) and (outputs,), with its outputs in `order`."""
    if order is None or order == tuple(range(len(order))):
        return weight, bias
    if weight.shape[1] == 1:
        # Two classes share one output; sigmoid(-x) is 1 - sigmoid(x).
        return -weight, -bias
    return weight[:, list(order)], bias[list(order)]


def _probability(builder: GraphBuilder, layer: str, classes: int) -> str:
    if classes == 2:
        return builder.layer("sigmoid", "probability", [layer])
    return builder.layer("softmax", "probability", [layer])


def _network(builder: GraphBuilder, value: str, step: Any, order: _Order) -> str:
    last = len(step.coefs_) - 1
    for i, (weight, bias) in enumerate(zip(step.coefs_, step.intercepts_, strict=True)):
        value = builder.linear(f"dense{i}", value, *_ordered(weight, bias, order if i == last else None))
        activation = step.activation if i < last else step.out_activation_
        if activation == "identity":
            continue
        if activation not in _ACTIVATIONS:
            raise BadModel(f"activation {activation!r} is not supported")
        value = builder.layer(_ACTIVATIONS[activation], f"act{i}", [value])
    return value

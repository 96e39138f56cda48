"""What a specification may ask for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enclave.errors import BadModel, BadSpec, EnclaveError, RangeExceeded
from enclave.messages import Architecture, JobSpec, Layer, Target, TensorType, Training
from enclave.models import dense_architecture
from enclave.workloads import check_spec, row_holders
from tests.enclave.workloads.made_jobs import classes, job, number

X = np.linspace(-1, 1, 30).reshape(10, 3)


def one(outputs: int = 1, *hidden: int) -> Architecture:
    return dense_architecture(3, hidden, outputs)


def image() -> Architecture:
    return Architecture((3, 1), (Layer("relu", "r", ("input",)),), ())


@pytest.mark.parametrize(
    ("target", "architecture", "outputs"),
    [
        (classes(2), one(), ("accuracy", "confusion", "auc", "predictions")),
        (classes(2), one(2), ("accuracy", "confusion", "auc")),
        (classes(4), one(4), ("accuracy", "confusion")),
        (number(), one(), ("rmse", "r2", "predictions")),
        (None, one(7), ("predictions",)),
        (None, image(), ("predictions",)),
    ],
)
def test_evaluations_that_make_sense(
    target: Target | None, architecture: Architecture, outputs: tuple[str, ...]
) -> None:
    check_spec(job(X, target, architecture, outputs))


@pytest.mark.parametrize(
    ("target", "architecture", "output", "text"),
    [
        (None, one(), "accuracy", "accuracy needs a target"),
        (number(), one(), "accuracy", "accuracy needs a target of classes, y is a number"),
        (number(), one(), "auc", "auc needs a target of classes"),
        (classes(2), one(), "rmse", "rmse needs a numeric target, y has classes"),
        (classes(2), one(), "r2", "r2 needs a numeric target"),
        (classes(3), one(3), "auc", "auc needs two classes, y has 3"),
        (classes(3), one(1), "accuracy", "needs a model with 3 outputs, found 1"),
        (classes(3), one(4), "confusion", "needs a model with 3 outputs, found 4"),
        (classes(2), one(3), "auc", "needs a model with 1 or 2 outputs, found 3"),
        (number(), one(2), "rmse", "needs a model with 1 output, found 2"),
        (classes(2), image(), "accuracy", "one axis of outputs"),
        (classes(2), dense_architecture(4, [], 1), "accuracy", "yields 3 columns, the model takes rows of shape .4,."),
    ],
)
def test_evaluations_that_make_none(target: Target | None, architecture: Architecture, output: str, text: str) -> None:
    with pytest.raises(BadSpec, match=text):
        check_spec(job(X, target, architecture, (output,)))


def test_a_broken_architecture_is_refused() -> None:
    broken = Architecture((3,), (Layer("linear", "l", ("nowhere",), ("w",)),), (TensorType("w", (3, 1)),))
    with pytest.raises(BadModel):
        check_spec(job(X, classes(2), broken, ("accuracy",)))


def test_an_evaluation_takes_no_rows_of_the_buyer() -> None:
    with pytest.raises(BadSpec, match="only a training job"):
        check_spec(job(X, classes(2), one(), ("accuracy",), owners=(7,), buyer_rows=3))


def training(loss: str, **rest: Any) -> Training:
    return Training(loss, 1, 5, 0.1, **rest)


@pytest.mark.parametrize(
    ("loss", "target", "architecture"),
    [
        ("squared", number(), one()),
        ("squared", number(), one(1, 4, 4)),
        ("logistic", classes(2), one()),
        ("cross_entropy", classes(2), one(2)),
        ("cross_entropy", classes(3), one(3, 4)),
    ],
)
def test_trainings_that_make_sense(loss: str, target: Target, architecture: Architecture) -> None:
    check_spec(job(X, target, architecture, ("model",), training=training(loss)))


@pytest.mark.parametrize(
    ("loss", "target", "architecture", "outputs", "error"),
    [
        ("squared", classes(2), one(), ("model",), BadSpec),
        ("squared", number(), one(2), ("model",), BadSpec),
        ("logistic", number(), one(), ("model",), BadSpec),
        ("logistic", classes(2), one(2), ("model",), BadSpec),
        ("logistic", classes(3), one(3), ("model",), BadSpec),
        ("cross_entropy", classes(3), one(2), ("model",), BadSpec),
        ("cross_entropy", number(), one(), ("model",), BadSpec),
        ("logistic", None, one(), ("model",), BadSpec),
        ("logistic", classes(2), one(), ("model", "predictions"), BadSpec),
        ("logistic", classes(2), one(), ("rmse",), BadSpec),
        ("logistic", classes(2), image(), ("model",), BadModel),
    ],
)
def test_trainings_that_make_none(
    loss: str, target: Target | None, architecture: Architecture, outputs: tuple[str, ...], error: type[EnclaveError]
) -> None:
    with pytest.raises(error):
        check_spec(job(X, target, architecture, outputs, training=training(loss)))


def chain(*layers: Layer, parameters: dict[str, tuple[int, ...]]) -> Architecture:
    return Architecture((3,), layers, tuple(TensorType(n, s) for n, s in parameters.items()))


@pytest.mark.parametrize(
    "architecture",
    [
        chain(Layer("linear", "a", ("input",), ("w",)), Layer("relu", "b", ("a",)), parameters={"w": (3, 1)}),
        chain(Layer("relu", "b", ("input",)), Layer("linear", "a", ("b",), ("w",)), parameters={"w": (3, 1)}),
        chain(Layer("linear", "a", ("input",), ("w",)), Layer("softmax", "b", ("a",)), parameters={"w": (3, 1)}),
        chain(
            Layer("linear", "a", ("input",), ("w",)),
            Layer("relu", "b", ("a",)),
            Layer("tanh", "c", ("b",)),
            Layer("linear", "d", ("c",), ("v",)),
            parameters={"w": (3, 4), "v": (4, 1)},
        ),
        chain(
            Layer("linear", "a", ("input",), ("w",)),
            Layer("linear", "b", ("input",), ("w",)),
            Layer("add", "c", ("a", "b")),
            parameters={"w": (3, 1)},
        ),
        chain(Layer("linear", "a", ("input",), ("w",)), Layer("linear", "b", ("a",), ("w",)), parameters={"w": (3, 3)}),
    ],
)
def test_networks_that_cannot_be_trained(architecture: Architecture) -> None:
    with pytest.raises((BadModel, BadSpec)):
        check_spec(job(X, classes(2), architecture, ("model",), training=training("logistic")))


def test_a_standardised_model_needs_a_bias_to_fold_the_mean_into() -> None:
    bare = chain(Layer("linear", "a", ("input",), ("w",)), parameters={"w": (3, 1)})
    check_spec(job(X, classes(2), bare, ("model",), training=training("logistic")))
    with pytest.raises(BadSpec, match="bias"):
        check_spec(job(X, classes(2), bare, ("model",), standardise=True, training=training("logistic")))


def test_a_target_beyond_the_fixed_point_range_is_named() -> None:
    check_spec(job(X, number(-500, 500), one(), ("rmse",)))
    with pytest.raises(RangeExceeded, match="target") as caught:
        check_spec(job(X, number(-5000, 5000), one(), ("rmse",)))
    assert caught.value.bound == 10_000 and caught.value.limit == pytest.approx(2048, rel=1e-2)
    check_spec(job(X, number(-5000, 5000), one(), ("rmse",), frac_bits=16))
    with pytest.raises(RangeExceeded):
        check_spec(job(X, number(-900, 900), one(), ("r2",), owners=(1 << 20,)))


def test_rows_are_held_by_the_owners_and_then_the_buyer() -> None:
    spec = job(X, classes(2), one(), ("model",), owners=(4, 3), buyer_rows=3, training=training("logistic"))
    assert row_holders(spec) == ((0, 4), (1, 3), (2, 3))
    assert spec.rows == 10 and math.isfinite(spec.rows)


def many(rows: int, target: Target, schedule: Training, low: float = 0.0, high: float = 1.0, **rest: Any) -> JobSpec:
    wide = np.array([[low] * 3, [high] * 3])
    return job(wide, target, one(), ("model",), owners=(rows,), training=schedule, **rest)


def test_a_first_gradient_beyond_the_range_is_refused() -> None:
    schedule = Training("logistic", 1, 1024, 0.1)
    check_spec(many(5000, classes(2), schedule, 10, 4000))
    with pytest.raises(RangeExceeded, match="the first gradient") as caught:
        check_spec(many(5000, classes(2), schedule, 10_000, 90_000))
    assert caught.value.bound == pytest.approx(1024 * 90_000, rel=1e-5) and caught.value.limit == 2.0**22
    check_spec(many(40, classes(2), schedule, 10_000, 90_000))  # a batch has no more rows than there are
    check_spec(many(5000, classes(2), schedule, 10_000, 90_000, standardise=True))
    check_spec(many(5000, classes(2), schedule, 10_000, 90_000, frac_bits=16))


def test_a_raw_target_of_a_training_is_refused() -> None:
    schedule = Training("squared", 1, 128, 0.1)
    check_spec(many(5000, number(0, 1000), schedule))
    with pytest.raises(RangeExceeded, match="the first gradient"):
        check_spec(many(5000, number(0, 1e6), schedule))
    check_spec(many(5000, number(0, 1e6, 5e5, 1e5), schedule))


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Training("logistic", 1, 64, 0.5, l2=2.0), "learning_rate . l2 must be at most 0.1, found 1"),
        (Training("logistic", 1, 64, 100.0, l2=1e3), "must be at most 0.1"),
        (Training("logistic", 1, 64, 1e-9), "learning_rate / batch_rows must be at least 2.-30"),
    ],
)
def test_schedules_that_cannot_work_are_refused(schedule: Training, text: str) -> None:
    with pytest.raises(BadSpec, match=text):
        check_spec(many(5000, classes(2), schedule))
    check_spec(many(5000, classes(2), Training("logistic", 1, 64, 0.5, l2=0.2)))


def test_a_training_of_too_many_weights_is_refused() -> None:
    spec = many(5000, classes(2), Training("logistic", 1, 64, 0.1))
    wide = dense_architecture(spec.encoding.width, (1 << 21, 4), 1)
    with pytest.raises(BadSpec, match="at most 4194304 weights"):
        check_spec(replace(spec, architecture=wide))

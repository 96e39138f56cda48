"""What left the fixed-point range is said, never turned into a plausible result; on shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from enclave.errors import RangeExceeded
from enclave.messages import Training
from enclave.models import dense_architecture
from enclave.workloads import finish
from tests.enclave.workloads.made_jobs import classes, holders, job, number, result
from tests.enclave.workloads.test_on_shares import on_shares

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (60, 2))
Y = RNG.uniform(-3, 3, 60)


def biased(bias: float) -> dict[str, Any]:
    return {"dense0.weight": np.ones((2, 1)), "dense0.bias": np.array([bias])}


@pytest.mark.parametrize("bias", [-2040.0, 1500.0])
def test_large_errors_within_the_range_are_exact(bias: float) -> None:
    spec = job(X, number(), dense_architecture(2, [], 1), ("rmse", "r2"), owners=(40, 20))
    found = on_shares(spec, holders(spec, X, Y), biased(bias))
    expected = result(spec, holders(spec, X, Y), biased(bias))
    assert found.rmse == pytest.approx(expected.rmse, rel=1e-6)
    assert found.r2 is not None and expected.r2 is not None
    assert 1 / (1 - found.r2) == pytest.approx(1 / (1 - expected.r2), abs=2e-6)


@pytest.mark.parametrize("output", ["rmse", "r2"])
@pytest.mark.parametrize("bias", [2500.0, -3000.0, 3500.0, 200_000.0])
def test_errors_beyond_the_range_are_named(bias: float, output: str) -> None:
    spec = job(X, number(), dense_architecture(2, [], 1), (output,), owners=(40, 20))
    with pytest.raises(RangeExceeded, match="output - target"):
        on_shares(spec, holders(spec, X, Y), biased(bias))
    with pytest.raises(RangeExceeded, match="output - target"):
        result(spec, holders(spec, X, Y), biased(bias))


def test_one_row_beyond_the_range_is_enough() -> None:
    x = X.copy()
    x[17, 0] = 3000.0
    spec = job(x, number(), dense_architecture(2, [], 1), ("rmse",), owners=(40, 20))
    with pytest.raises(RangeExceeded, match="output - target"):
        on_shares(spec, holders(spec, x, Y), biased(0.0))


@pytest.mark.parametrize("outputs", [("rmse", "r2"), ("model",)])
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_a_training_that_diverges_is_named(outputs: tuple[str, ...], hidden: tuple[int, ...]) -> None:
    training = Training("squared", 15, 30, 2.5, 0.9)
    x = 3.0 * X
    spec = job(x, number(), dense_architecture(2, hidden, 1), outputs, owners=(40, 20), training=training)
    with pytest.raises(RangeExceeded):
        on_shares(spec, holders(spec, x, Y))


def test_class_metrics_of_a_training_that_diverges_are_withheld() -> None:
    training = Training("logistic", 15, 30, 100.0, 0.9)
    x, y = 3.0 * X, (Y > 0).astype(np.int64)
    spec = job(x, classes(2), dense_architecture(2, (8,), 1), ("accuracy", "auc"), owners=(40, 20), training=training)
    with pytest.raises(RangeExceeded, match="the training"):
        on_shares(spec, holders(spec, x, y))


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("accuracy", [61]),
        ("accuracy", [-1]),
        ("confusion", [[30, 10], [10, 9]]),
        ("confusion", [[70, -10], [0, 0]]),
        ("auc", [1.01]),
        ("auc", [-0.3]),
        ("auc", [float("nan")]),
    ],
)
def test_impossible_class_metrics_are_refused(output: str, value: Any) -> None:
    spec = job(X, classes(2), dense_architecture(2, [], 1), (output,))
    with pytest.raises(RangeExceeded, match=f"the released {output}"):
        finish(spec, {output: np.array(value)})


@pytest.mark.parametrize(
    ("output", "value"), [("rmse", [-1.0]), ("rmse", [1e12]), ("r2", [98.0, 1.0]), ("r2", [-3.0, 0.0])]
)
def test_impossible_errors_are_refused(output: str, value: Any) -> None:
    spec = job(X, number(), dense_architecture(2, [], 1), (output,))
    with pytest.raises(RangeExceeded, match=f"the released {output}"):
        finish(spec, {output: np.array(value)})

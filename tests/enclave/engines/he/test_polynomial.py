"""Polynomial networks under encryption: against float64, exact rounds and bytes, what each party sees."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.he.forms import read_network
from enclave.engines.he.networks import accuracy, plan_network
from enclave.models.model import Model
from enclave.models.reference import forward_float
from tests.enclave.engines.he.network_models import convolutional, dense, predicted, quadratic


def rows(count: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).clip(-4, 4)


@pytest.mark.parametrize(
    ("model", "width"),
    [(dense([6, 5, 3]), 6), (dense([30, 8, 4, 2]), 30), (quadratic(5, 4, 1), 5), (convolutional(), 64)],
    ids=["square", "two squares", "quadratic", "convolutional"],
)
def test_predictions_are_the_networks_within_the_stated_error(run_he, model: Model, width: int) -> None:
    x = rows(40, width)
    ran = predicted(run_he, model, [x])
    expected = forward_float(model, x)
    plan = plan_network(read_network(model.architecture, model.weights))
    stated = accuracy(plan, np.full(width, 8.0))
    error = np.abs(ran.results[1] - expected).max()
    assert ran.results[0] is None
    assert error < stated.error
    print(error, stated.error, plan.row_bits)

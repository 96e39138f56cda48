"""Training under encryption: against the same algorithm in numpy and scikit-learn, and what the buyer sees of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes

from enclave.engines.he.descent import OwnRows, Problem, own_rows, plain_training
from enclave.engines.he.training import train, wrap_bits
from enclave.engines.interface import Permit

Rows = list[OwnRows]


def cancer(columns: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Standardised columns and a bias; classes."""
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :columns]
    return np.c_[(x - x.mean(0)) / x.std(0), np.ones(len(x))], y.astype(float)


def program(problem: Problem, rows: Rows) -> Any:
    def main(engine: Any) -> Any:
        own = None if engine.rank is None or engine.is_buyer else rows[engine.rank]
        sealed = engine.run(train(engine, problem, own))
        return engine.open("model", sealed, engine.buyer, Permit("job", ["model"]))

    return main


def trained(run_he: Any, problem: Problem, rows: Rows) -> tuple[np.ndarray, Any]:
    ran = run_he(len(rows) + 1, program(problem, rows))
    assert ran.results[:-1] == [None] * len(rows)
    return ran.results[-1], ran


def test_one_owner_is_its_twin(run_he: Any) -> None:
    x, y = cancer()
    problem = Problem("logistic", (len(x),), 31, True, 3, momentum=0.3, l2=0.01)
    rows = [own_rows(problem, 0, x, y)]
    found, ran = trained(run_he, problem, rows)
    expected = plain_training(problem, rows)
    assert np.abs(found - expected).max() < 2e-5
    assert ((x @ found > 0) == (x @ expected > 0)).all()

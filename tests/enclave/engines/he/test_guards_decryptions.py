"""Every decryption is in the plan: a key decrypts as much as its protocols said they would, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from enclave.engines.he import engine as he_engine
from enclave.engines.he.lattice.keys import SecretKey
from enclave.engines.he.linear import shared_products
from enclave.engines.he.regression.descent import Problem, own_rows
from enclave.errors import Refused
from tests.enclave.engines.he.decisions import test_counting, test_truncation
from tests.enclave.engines.he.linear.test_gram import summed
from tests.enclave.engines.he.linear.test_scoring import made, scored
from tests.enclave.engines.he.network_models import dense, predicted
from tests.enclave.engines.he.regression import test_training

RNG = np.random.default_rng(8)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[SecretKey]:
    """All secret keys that sessions make."""
    found: list[SecretKey] = []

    def recorded(*args: Any) -> SecretKey:
        found.append(SecretKey(*args))
        return found[-1]

    for module in (he_engine, shared_products):
        monkeypatch.setattr(module, "SecretKey", recorded)
    return found


def scores(run_he: Any) -> Any:
    x, w = made(9000, 2, 2)
    return scored(run_he, [x[:8500], x[8500:]], w)


def sums(run_he: Any) -> Any:
    return summed(run_he, RNG.normal(size=20), [RNG.normal(size=20)] * 2, 100.0, 1000.0)


def counts(run_he: Any) -> Any:
    values = [RNG.integers(-50, 50, 60) for _ in range(2)]
    return run_he(3, test_counting._program(values, [(part > 5).astype(np.int64) for part in values]))


def training(run_he: Any) -> Any:
    x = np.c_[RNG.normal(size=(60, 2)), np.ones(60)]
    problem = Problem("squared", (40, 20), 3, True, 3, rate=0.1)
    parts = [slice(0, 40), slice(40, 60)]
    rows = [own_rows(problem, i, x[part], x[part, 0]) for i, part in enumerate(parts)]
    return run_he(3, test_training.program(problem, rows))


def network(run_he: Any) -> Any:
    return predicted(run_he, dense([6, 5, 3]), [RNG.normal(size=(40, 6)).clip(-4, 4)])


def truncation(run_he: Any) -> Any:
    return run_he(2, test_truncation._program(test_truncation._shares([5, -7, 11], 40, 2), 40, 8))


@pytest.mark.parametrize("job", [scores, sums, counts, training, network, truncation])
def test_the_cap_is_what_the_plan_decrypts(run_he: Any, keys: list[SecretKey], job: Callable[[Any], Any]) -> None:
    job(run_he)
    assert keys and all(key.decryptions == key.cap for key in keys)
    assert sum(key.cap for key in keys) > 0
    for key in keys:
        with pytest.raises(Refused, match="decryptions under one key"):
            key.count(1)


def test_every_session_has_keys_of_its_own(run_he: Any, keys: list[SecretKey]) -> None:
    sums(run_he)
    sums(run_he)
    first, second = keys
    assert not np.array_equal(first.reveal(first.ring), second.reveal(second.ring))

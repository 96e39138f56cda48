"""Sums over rows under encrypted weights: one number, of all owners together, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine
from enclave.engines.he.linear.gram import Functional, evaluate_functional, plan_functional, triangle
from enclave.engines.interface import Permit
from enclave.errors import BadData, PolicyRefused, RangeExceeded

RNG = np.random.default_rng(5)
Floats = NDArray[np.float64]


def summed(
    run_he: Callable[..., Any],
    values: Floats,
    parts: list[Floats],
    norm: float,
    limit: float,
    permit: Permit | None = None,
) -> Any:
    plan = plan_functional(len(values), norm)

    def program(engine: HeEngine) -> Any:
        buyer = engine.is_buyer
        own = None if buyer or engine.rank is None else parts[engine.rank]
        owners = list(range(len(parts)))
        sealed = engine.run(
            evaluate_functional(
                engine, plan, owners, values if buyer else None, own, limit if buyer else None, "he:sum"
            )
        )
        return engine.open("sum", sealed, engine.buyer, permit or Permit("job", ["sum"]))

    return run_he(len(parts) + 1, program)


@pytest.mark.parametrize("size", [1, 2, 8192, 8193, 20_000])
@pytest.mark.parametrize("owners", [1, 3])
def test_the_sum_is_that_of_float64(run_he: Callable[..., Any], size: int, owners: int) -> None:
    values = RNG.normal(size=size)
    parts = [RNG.normal(size=size) for _ in range(owners)]
    expected = float(values @ np.sum(parts, axis=0))
    ran = summed(run_he, values, parts, 10.0 * size**0.5, 100.0 * size**0.5)
    assert ran.results[-1] == pytest.approx([expected], abs=1e-8 * size**0.5)
    assert all(result is None for result in ran.results[:-1])


def test_squared_errors_are_a_functional_of_the_gram_matrix() -> None:
    t = RNG.normal(size=(100, 4))
    u = RNG.normal(size=4)
    values = np.outer(u, u)[np.triu_indices(4)]
    assert values @ triangle(t.T @ t) == pytest.approx(np.sum((t @ u) ** 2))


def test_a_thousand_columns(run_he: Callable[..., Any]) -> None:
    """1,002 numbers a row: 502,503 entries of the Gram matrix, in 62 ciphertexts."""
    size, rows = 1002, 300
    t = RNG.normal(size=(rows, size)).clip(-8, 8)
    u = RNG.normal(size=size) / size**0.5
    entries = triangle(t.T @ t / rows)
    limit = float(np.abs(u).sum() * 8) ** 2
    ran = summed(run_he, np.outer(u, u)[np.triu_indices(size)], [entries], 64.0 * size, limit)
    assert ran.results[-1][0] == pytest.approx(np.mean((t @ u) ** 2), rel=1e-6)


@pytest.mark.parametrize("owners", [2, 3])
def test_what_a_single_owner_sends_is_uniform_to_the_buyer(run_he: Callable[..., Any], owners: int) -> None:
    """Only the sum of several owners' answers exists: each one's is hidden by a sharing of zero among them."""
    size = 64
    seen: list[Any] = []
    original = Functional.release

    def watched(self: Functional, session: Any, name: str, to: int) -> Any:
        steps = original(self, session, name, to)
        items = next(steps)
        if session.rank == 0:
            seen.append((np.asarray(items[0].value), self.share))
        opened = yield items
        try:
            steps.send(opened)
        except StopIteration as stop:
            return stop.value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Functional, "release", watched)
        summed(run_he, np.ones(size), [np.ones(size)] * owners, 8.0, 1000.0)
    (sent, share) = seen[-1]
    assert not np.any(sent == share)
    bits = np.unpackbits(sent.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.01


def test_nothing_of_c0_but_one_number_leaves() -> None:
    plan = plan_functional(500, 100.0)
    assert plan.answer_words == 1 + plan.parameters.degree
    assert plan.hiding.bits >= 40


def test_sums_larger_than_declared_never_reach_a_product(run_he: Callable[..., Any]) -> None:
    with pytest.raises(BadData, match="larger sums"):
        summed(run_he, np.ones(4), [np.full(4, 100.0)], 10.0, 1000.0)
    with pytest.raises(BadData, match="not a number"):
        summed(run_he, np.ones(4), [np.array([1.0, np.nan, 1.0, 1.0])], 10.0, 1000.0)


def test_a_result_out_of_range_is_noticed(run_he: Callable[..., Any]) -> None:
    with pytest.raises(RangeExceeded, match="released sum"):
        summed(run_he, np.ones(4), [np.full(4, 1.0)], 10.0, 3.0)


def test_without_a_permit_nothing_is_sent(run_he: Callable[..., Any]) -> None:
    with pytest.raises(PolicyRefused):
        summed(run_he, np.ones(4), [np.ones(4)], 10.0, 100.0, Permit("job", ["other"]))


def test_the_cost_is_that_of_one_ciphertext(run_he: Callable[..., Any]) -> None:
    began_s = time.process_time()
    ran = summed(run_he, np.ones(528), [np.ones(528)], 100.0, 10_000.0)
    assert time.process_time() - began_s < 2.0
    items = [item for _, record in ran.records for item in record[1:]]
    assert [(label, size) for label, _, size, _, _ in items] == [
        ("he:sum", 157696),
        ("he:public key", 157696),
        ("release:sum", 65544),
    ]

"""Comparison by keys: exact for every value, one round, with the bytes it says, and nothing learned from its keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.engines.mpc.protocols.fss import compare_by_key, relu_by_key
from enclave.errors import BadSpec
from enclave.plan import make_plan

U = np.uint64
EDGES = np.array(
    [s * (1 << k) + d for k in range(63) for s in (1, -1) for d in (-1, 0, 1)] + [-(2**63), 2**63 - 1, 0, 1, -1],
    np.int64,
)


def integers(e, values):
    """One party's integers as a share."""
    return e.private(values if e.rank == 1 else None, values.shape, 1, integer=True).share


def compared(run, x, thresholds, **options):
    """Clear bits and products, (thresholds, n)."""

    def program(e):
        before = e.session.rounds
        bits, products = e.session.run(compare_by_key(e.session, integers(e, x), thresholds.view(U), **options))
        assert e.session.rounds - before == 1
        return bits, products

    first, second = run(2, program).results[:2]
    total = [None if a is None else (a + b).view(np.int64) for a, b in zip(first, second, strict=True)]
    return total


def test_bits_and_products_are_exact_over_the_whole_range(run):
    bits, products = compared(run, EDGES, np.zeros(1, np.int64), product=True)
    assert np.array_equal(bits[0], (EDGES >= 0).astype(np.int64))
    assert np.array_equal(products[0], np.maximum(EDGES, 0))


def test_bits_alone(run):
    bits, products = compared(run, EDGES, np.zeros(1, np.int64))
    assert np.array_equal(bits[0], (EDGES >= 0).astype(np.int64)) and products is None


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(-(2**62), 2**62 - 1), min_size=1, max_size=40),
    st.lists(st.integers(-(2**62), 2**62 - 1), min_size=1, max_size=3),
)
def test_any_integers_and_thresholds(run, values, thresholds):
    x, t = np.array(values, np.int64), np.array(thresholds, np.int64)
    t = np.concatenate([t, x[:2]])  # ties
    bits, products = compared(run, x, t, product=True)
    assert bits.tolist() == [[int(value >= limit) for value in values] for limit in t.tolist()]
    assert products.tolist() == [[value if value >= limit else 0 for value in values] for limit in t.tolist()]


@pytest.mark.parametrize(("low", "high"), [(0, 63), (20, 63), (0, 40), (12, 31)])
def test_a_window(run, low, high):
    rng = np.random.default_rng(2)
    x = np.concatenate([EDGES, rng.integers(-(2**62), 2**62, 100)])
    x = x[(x > -(1 << (high - 1))) & (x < 1 << (high - 1))]
    thresholds = np.array([0, 1 << max(low, 1), -(1 << (high - 2))], np.int64)
    bits, _ = compared(run, x, thresholds, low=low, high=high)
    gap = x - thresholds[:, None]
    sure = (gap >= 0) | (gap <= -(1 << low))
    assert np.array_equal(bits[sure], (gap >= 0)[sure].astype(np.int64))
    assert set(bits.ravel()) <= {0, 1}


@pytest.mark.parametrize("shift", [0, 1, 20, 32, 33, 40])
def test_relu_and_its_truncation(run, shift):
    rng = np.random.default_rng(3)
    x = np.concatenate([EDGES, rng.integers(-(2**62), 2**62, 200)])
    if shift:
        x = x[(x >= -(2**62)) & (x < 2**62)]

    def program(e):
        return e.session.run(relu_by_key(e.session, integers(e, x), shift))

    (y0, b0), (y1, b1) = run(2, program).results[:2]
    y, b = (y0 + y1).view(np.int64), (b0 + b1).view(np.int64)
    floor = np.maximum(x, 0) >> shift
    if not shift:
        assert np.array_equal(y, floor) and np.array_equal(b, (x >= 0).astype(np.int64))
        return
    assert set((y - floor)[x >= 1 << shift].tolist()) <= {0, 1}
    assert np.array_equal(b[(x < 0) | (x >= 1 << shift)], (x >= 0)[(x < 0) | (x >= 1 << shift)].astype(np.int64))
    assert set(y[x < 1 << shift].tolist()) <= {0, 1, 2}
    assert np.all(y[x < 0] == 0)


@pytest.mark.parametrize(
    ("options", "dealt", "passed_on", "hashes"),
    [
        ({}, 63 * 24 + 8, 63 * 24, 2),
        ({"product": True}, 63 * 32 + 16, 63 * 32, 2),
        ({"product": True, "shift": 20, "low": 20}, 43 * 40 + 24 + 12, 43 * 40, 3),
        ({"low": 12, "high": 40}, 28 * 24 + 8, 28 * 24, 2),
    ],
)
def test_costs(run, options, dealt, passed_on, hashes):
    n = 30
    thresholds = np.array([1 << 20], U)

    def program(e):
        return e.session.run(compare_by_key(e.session, e.zeros((n,)).share, thresholds, **options))[0]

    plan = make_plan(2, 20, program)
    assert plan.rounds == 1
    assert plan.link_bytes == {
        (0, 1): n * (8 + passed_on) + 16 * hashes,
        (1, 0): 8 * n,
        (2, 0): n * dealt + 16 * hashes,
    }
    ran = run(2, program)
    assert ran.sessions[2].dealt_bytes == plan.dealer_bytes == n * dealt + 16 * hashes


def test_more_parties_are_refused():
    def program(e):
        return e.session.run(compare_by_key(e.session, e.zeros((3,)).share, np.zeros(1, U)))[0]

    with pytest.raises(BadSpec, match="2 parties, found 3"):
        make_plan(3, 20, program)


def test_what_a_party_sees_is_uniform_and_never_the_same(run):
    """Of 200 equal values: ones in the opened words and in the keys are near half, and no word comes twice."""

    def program(e):
        x = integers(e, np.full(200, 12345, np.int64))
        for _ in range(2):
            e.session.run(compare_by_key(e.session, x, np.zeros(1, U), product=True))

    opened = run(2, program).opened
    assert [label for label, _ in opened] == ["compare", "key"] * 2
    for _, words in opened:
        bits = np.unpackbits(words.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 5 * 0.5 / bits.size**0.5
    every = np.concatenate([words for _, words in opened])
    assert len(np.unique(every)) == every.size

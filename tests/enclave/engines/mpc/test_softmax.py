"""Softmax of rows, for any gap between columns, against float64; its rounds and bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.engines.interface import Permit
from enclave.engines.mpc.protocols import softmax
from enclave.engines.mpc.tensor import RingTensor
from enclave.plan import make_plan

BOUND = 3e-4
FEW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _expected(words, bits):
    x = words / 2.0**bits
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _evaluate(run, parties, words, bits):
    def program(e):
        x = e.private(words if e.rank == 1 else None, words.shape, 1, integer=True)
        share = e._run(softmax.softmax(e.session, x.share, bits))
        return e.open("y", RingTensor(e.session, words.shape, softmax.RATIO_BITS, share), 0, Permit("test", ["y"]))

    return run(parties, program).results[0]


def _rows(columns, bits):
    rng = np.random.default_rng(columns)
    scales = np.repeat([0.0, 1e-3, 1.0, 5.0, 30.0, 1e3, 2.0**18], 12)[:, None]
    x = rng.normal(size=(len(scales), columns)) * scales
    unit = 2.0**-bits
    for row, gap in enumerate([0, unit, 2.0**20, 14.5, 15 - unit, 15.0, 15 + unit, 15.5, 16.0, 17.0, 31.0, 32.0, 47.5]):
        x[row] = 0
        x[row, row % columns] = gap
        x[row + 20] = 0
        x[row + 20, row % columns] = -gap
    return np.rint(x / unit).clip(-(2**61) + 1, 2**61 - 1).astype(np.int64)


@pytest.mark.parametrize("columns", [2, 3, 10, 16])
def test_any_gap(run, parties, columns):
    words = _rows(columns, 20)
    got = _evaluate(run, parties, words, 20)
    assert np.abs(got - _expected(words, 20)).max() < BOUND


@pytest.mark.parametrize("columns", [4, 5, 11, 15])
def test_every_width(run, columns):
    words = _rows(columns, 20)
    assert np.abs(_evaluate(run, 2, words, 20) - _expected(words, 20)).max() < BOUND


@pytest.mark.parametrize("bits", [12, 16, 24, 25, 32, 40])
def test_untruncated_products_are_read_as_they_are(run, bits):
    words = _rows(5, bits)
    assert np.abs(_evaluate(run, 2, words, bits) - _expected(words, bits)).max() < BOUND


@FEW
@given(st.integers(2, 16), st.integers(0, 2**32 - 1))
def test_any_rows(run, columns, seed):
    words = np.random.default_rng(seed).integers(-(2**61), 2**61, (40, columns)) >> np.arange(40)[:, None]
    assert np.abs(_evaluate(run, 2, words, 20) - _expected(words, 20)).max() < BOUND


def test_columns_far_below_count_as_nothing_exactly(run):
    words = np.array([[0, -16, -(2**20), 3], [2**40, 0, 0, 0]], np.int64) << 20
    got = _evaluate(run, 2, words, 20)
    assert got[0, 1] == got[0, 2] == 0.0
    assert got[1, 1:].tolist() == [0.0, 0.0, 0.0]


def test_a_wrong_wrap_would_be_seen(run, monkeypatch):
    """E + m wraps in one of 2^11 cases; without its correction the result is off by whole numbers."""
    ratio = softmax._ratio

    def wrong(function, leader, e, total, factors, low, top):
        return ratio(function, leader, e | np.uint64(1 << 63), total, factors, low, top)

    words = np.random.default_rng(0).normal(size=(3000, 10))
    words = (words * 2**20).astype(np.int64)
    assert np.abs(_evaluate(run, 2, words, 20) - _expected(words, 20)).max() < BOUND
    monkeypatch.setattr(softmax, "_ratio", wrong)
    assert np.abs(_evaluate(run, 2, words, 20) - _expected(words, 20)).max() > 0.5


# rows, columns: rounds, bytes from one party to another, bytes dealt
COSTS = {(1000, 10): (7, 711088, 6195256), (1000, 16): (7, 1636000, 13314000), (64, 3): (6, 5864, 105464)}


@pytest.mark.parametrize("shape", COSTS)
def test_cost(shape):
    rounds, sent, dealt = COSTS[shape]

    def program(e):
        e._run(softmax.softmax(e.session, e.zeros(shape).share, 20))

    plan = make_plan(2, 20, program)
    found = plan.rounds, plan.link_bytes[(0, 1)], plan.dealer_bytes
    assert found == (rounds, sent, dealt)
    assert plan.link_bytes[(1, 0)] == sent

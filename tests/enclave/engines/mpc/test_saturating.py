"""Sigmoid, tanh, GELU and erf for every input, at any number of fractional bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.engines.interface import Permit
from enclave.engines.mpc.protocols import saturating
from enclave.engines.mpc.tensor import RingTensor
from enclave.plan import make_plan

_PHI = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))
FUNCTIONS = {
    "sigmoid": (saturating.SIGMOID, lambda x: 0.5 * (1 + np.tanh(0.5 * x)), 6e-4),
    "tanh": (saturating.TANH, np.tanh, 8e-4),
    "gelu": (saturating.GELU, lambda x: x * _PHI(x), 6e-4),
    "erf": (saturating.ERF, np.vectorize(math.erf), 5e-4),
}
ENDS = np.array([curve.end for curve, _, _ in FUNCTIONS.values()])
FEW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _inputs(bits):
    powers = np.array([2.0**k for k in range(-bits, 62 - bits)])
    near = np.concatenate([ENDS, -ENDS])
    steps = np.array([-(2.0**-6), -(2.0**-bits), 0.0, 2.0**-bits, 2.0**-6])
    x = np.concatenate(
        [np.linspace(-10, 10, 1201), powers, -powers, (near[:, None] + steps).reshape(-1), [0.0, -(2.0 ** (62 - bits))]]
    )
    return np.rint(x * 2.0**bits).clip(-(2**62), 2**62 - 1).astype(np.int64)


def _evaluate(run, parties, name, words, bits, frac_bits):
    curve = FUNCTIONS[name][0]

    def program(e):
        x = e.private(words if e.rank == 1 else None, words.shape, 1, integer=True)
        share = e._run(saturating.curve(e.session, x.share, curve, bits, frac_bits))
        return e.open("y", RingTensor(e.session, words.shape, frac_bits, share), 0, Permit("test", ["y"]))

    return run(parties, program, frac_bits).results[0]


def _check(run, parties, name, words, bits, frac_bits):
    _, function, bound = FUNCTIONS[name]
    words = words[np.abs(words / 2.0**bits) < 2.0 ** (62 - frac_bits)]  # the result must be a number too
    with np.errstate(over="ignore"):
        expected = function(words / 2.0**bits)
    got = _evaluate(run, parties, name, words, bits, frac_bits)
    assert np.all(np.abs(got - expected) < bound + np.abs(expected) * 2.0**-40)
    return got


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_input(run, parties, name):
    _check(run, parties, name, _inputs(20), 20, 20)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("bits", "frac_bits"), [(16, 16), (24, 24), (27, 20), (32, 16), (40, 20), (16, 20)])
def test_untruncated_products_are_read_as_they_are(run, name, bits, frac_bits):
    _check(run, 2, name, _inputs(bits), bits, frac_bits)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bits", [6, 8, 9])
def test_a_period_of_few_units(run, name, bits):
    words = np.arange(-10 << bits, 10 << bits, dtype=np.int64)
    got = _evaluate(run, 2, name, words, bits, bits)
    expected = FUNCTIONS[name][1](words / 2.0**bits)
    assert np.abs(got - expected).max() < FUNCTIONS[name][2] + 2.0**-bits


def test_beyond_the_ends_values_are_exact(run):
    words = np.array([8, -8, 1000, -1000, 2**41, -(2**41)], np.int64) << 20
    assert _evaluate(run, 2, "sigmoid", words, 20, 20).tolist() == [1.0, 0.0] * 3
    assert _evaluate(run, 2, "tanh", words, 20, 20).tolist() == [1.0, -1.0] * 3
    assert _evaluate(run, 2, "gelu", words, 20, 20).tolist() == [8.0, 0.0, 1000.0, 0.0, 2.0**41, 0.0]


@FEW
@given(st.lists(st.integers(-(2**62), 2**62 - 1), min_size=1, max_size=130), st.integers(12, 44))
def test_any_words_at_any_precision(run, values, bits):
    _check(run, 2, "sigmoid", np.array(values, np.int64), bits, 20)


def test_a_sum_that_is_not_lifted_would_be_seen(run, monkeypatch):
    """The lift corrects a wrap in half of all cases: without it, these tests fail."""
    within = saturating._within

    def wrong(leader, d, e, rho, lifts, lift):
        return within(leader, d, e, rho, lifts * np.array([[1], [0], [1], [0]], np.uint64), lift)

    monkeypatch.setattr(saturating, "_within", wrong)
    with pytest.raises(AssertionError):
        _check(run, 2, "sigmoid", _inputs(20), 20, 20)


N = 6400
# rounds, bytes from one party to another, bytes dealt, an element
COSTS = {"sigmoid": (4, 19.0, 131.0), "tanh": (4, 19.0, 131.0), "gelu": (4, 19.0, 131.0), "erf": (4, 19.0, 123.0)}


@pytest.mark.parametrize("name", COSTS)
def test_cost(name):
    rounds, sent, dealt = COSTS[name]
    plan = make_plan(2, 20, lambda e: getattr(e, name)(e.zeros((N,))))
    assert plan.rounds == rounds
    assert plan.link_bytes[(0, 1)] == plan.link_bytes[(1, 0)] == sent * N
    assert plan.dealer_bytes == dealt * N

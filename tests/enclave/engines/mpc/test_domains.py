"""exp, reciprocal, inverse square root and logarithm on declared intervals, and their values beyond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.engines.interface import Permit
from enclave.engines.mpc.protocols import brackets
from enclave.engines.mpc.protocols.exponential import exponential
from enclave.engines.mpc.tensor import RingTensor
from enclave.errors import BadSpec
from enclave.plan import make_plan

POSITIVE = {
    "reciprocal": (brackets.reciprocal, lambda x: 1 / x, 2.0**-10),
    "inverse_sqrt": (brackets.inverse_sqrt, lambda x: x**-0.5, 2.0**-11),
    "logarithm": (brackets.logarithm, np.log, 2.0**-12),
}
INTERVALS = [(1 / 16, 64.0), (0.01, 1000.0), (0.9, 3.0), (1.0, 1.25), (2.0**-10, 2.0**17), (3.99, 16.01)]
FEW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _evaluate(run, parties, protocol, words, bits, frac_bits, low, high):
    def program(e):
        x = e.private(words if e.rank == 1 else None, words.shape, 1, integer=True)
        share = e._run(protocol(e.session, x.share, bits, frac_bits, low, high))
        return e.open("y", RingTensor(e.session, words.shape, frac_bits, share), 0, Permit("test", ["y"]))

    return run(parties, program, frac_bits).results[0]


def _check(run, parties, name, words, bits, frac_bits, low, high):
    """Every result is that of the input, of the input moved to the interval, or between, as far as `bound` goes."""
    protocol, function, bound = POSITIVE[name]
    got = _evaluate(run, parties, protocol, words, bits, frac_bits, low, high)
    x = words / 2.0**bits
    wide = np.clip(x, low * (1 - 1 / 16), high + low / 16)
    exact = [function(np.clip(x, low, high)), function(wide)]
    units = 2.0**-frac_bits * (1 if name != "logarithm" else 2)
    slack = units + bound * (1 if name == "logarithm" else np.maximum(*exact))
    assert np.all(got >= np.minimum(*exact) - slack)
    assert np.all(got <= np.maximum(*exact) + slack)


def _inputs(low, high, bits):
    rng = np.random.default_rng(5)
    inside = np.exp(rng.uniform(np.log(low), np.log(high), 600))
    ends = np.array([low, high, low * 0.99, high * 1.01, low * 1.01, high * 0.99, 0.0])
    powers = np.array([2.0**k for k in range(-bits, 61 - bits)])
    x = np.concatenate([inside, ends, powers, -powers])
    return np.rint(x * 2.0**bits).astype(np.int64)


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_intervals(run, name, low, high):
    _check(run, 2, name, _inputs(low, high, 20), 20, 20, low, high)


@pytest.mark.parametrize("name", POSITIVE)
def test_parties(run, parties, name):
    _check(run, parties, name, _inputs(0.01, 1000, 20), 20, 20, 0.01, 1000)


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize(("bits", "frac_bits"), [(16, 16), (24, 24), (32, 16), (40, 20), (27, 20)])
def test_untruncated_products_are_read_as_they_are(run, name, bits, frac_bits):
    _check(run, 2, name, _inputs(1 / 16, 64.0, bits), bits, frac_bits, 1 / 16, 64.0)


@FEW
@given(st.lists(st.integers(-(2**61), 2**61), min_size=1, max_size=70), st.sampled_from(INTERVALS))
def test_any_words(run, values, interval):
    _check(run, 2, "reciprocal", np.array(values, np.int64), 20, 20, *interval)


@pytest.mark.parametrize("name", POSITIVE)
def test_far_beyond_the_ends_values_are_those_of_the_ends(run, name):
    words = np.array([0, -1, -(2**61), 2**61, 2**40], np.int64)
    protocol, function, _ = POSITIVE[name]
    got = _evaluate(run, 3, protocol, words, 20, 20, 0.25, 50.0)
    assert np.allclose(got, function(np.array([0.25, 0.25, 0.25, 50.0, 50.0])), rtol=0, atol=2.0**-19)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (2.0**-21, 1.0), (1.0, 2.0**35)])
def test_an_interval_that_cannot_be_is_refused(low, high):
    with pytest.raises(BadSpec, match="interval"):
        make_plan(2, 20, lambda e: e.reciprocal(e.zeros((3,)), low, high))


@pytest.mark.parametrize("ends", [(-13.5, 10.0), (-8.0, 0.0), (-16.0, 3.0), (2.0, 9.0)])
@pytest.mark.parametrize(("bits", "frac_bits"), [(20, 20), (40, 20), (16, 16)])
def test_exp(run, ends, bits, frac_bits):
    low, high = ends
    powers = np.array([2.0**k for k in range(-bits, 60 - bits)])
    x = np.concatenate([np.linspace(low - 1, high + 1, 1500), powers, -powers, [0.0, low, high]])
    words = np.rint(x * 2.0**bits).astype(np.int64)
    got = _evaluate(run, 2 + bits % 3, exponential, words, bits, frac_bits, low, high)
    x = words / 2.0**bits
    exact = [np.exp(np.clip(x, low - slack, high + slack)) for slack in (0.0, 2.0**-4)]
    slack = 2.0**-13 * np.maximum(*exact) + 2 * 2.0**-frac_bits
    assert np.all(got >= np.minimum(*exact) - slack)
    assert np.all(got <= np.maximum(*exact) + slack)


def test_exp_of_the_engine(evaluate, parties):
    x = np.array([-1e9, -20.0, -13.5, -1.0, 0.0, 1.0, 10.0, 11.0, 1e9])
    expected = np.exp(np.clip(x, -13.5, 10.0))
    assert np.allclose(evaluate(parties, lambda e, a: e.exp(a), x), expected, rtol=2.0**-13, atol=2e-6)


@pytest.mark.parametrize("ends", [(1.0, 0.0), (-50.0, 0.0), (0.0, 40.0), (1 / 3, 1.0)])
def test_ends_that_cannot_be_are_refused(ends):
    with pytest.raises(BadSpec, match="ends"):
        make_plan(2, 20, lambda e: e.exp(e.zeros((3,)), *ends))


N = 6400
COSTS = {
    "exp": (lambda e, x: e.exp(x), (4, 22.5, 113.625)),
    "reciprocal": (lambda e, x: e.reciprocal(x, 1 / 16, 64.0), (6, 35.5, 281.625)),
    "logarithm": (lambda e, x: e.logarithm(x, 1 / 16, 64.0), (6, 35.5, 225.625)),
    "inverse_sqrt": (lambda e, x: e.inverse_sqrt(x, 0.01, 1000.0), (6, 48.5, 431.625)),
}


@pytest.mark.parametrize("name", COSTS)
def test_cost(name):
    """Rounds, bytes from one party to another, bytes dealt."""
    function, expected = COSTS[name]
    plan = make_plan(2, 20, lambda e: function(e, e.zeros((N,))))
    assert (plan.rounds, plan.link_bytes[(0, 1)] / N, plan.dealer_bytes / N) == expected

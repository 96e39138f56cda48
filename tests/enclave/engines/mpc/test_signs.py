"""Which protocol compares: keys for few elements and slow networks between two parties, trees otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.mpc.protocols.signs import keys_pay
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Network
from enclave.plan import make_plan

SLOW = Network(round_s=0.04, byte_s=8e-8)


def recorder(parties, network=None):
    session = Recorder(parties)
    if network is not None:
        session.network = network
    return session


def test_keys_pay_for_few_elements_of_two_parties():
    assert keys_pay(recorder(2), 1, product=True)
    assert not keys_pay(recorder(2), 100_000, product=True)
    assert not keys_pay(recorder(3), 1, product=True)


def test_keys_pay_longer_where_rounds_are_dear():
    assert keys_pay(recorder(2, SLOW), 128, product=True, shift=20)
    assert not keys_pay(recorder(2, SLOW), 100_000, product=True, shift=20)


@pytest.mark.parametrize("n", [1, 5, 700])
def test_both_find_the_same(evaluate, parties, n):
    x = np.random.default_rng(n).integers(-(2**62), 2**62, n)
    assert np.array_equal(evaluate(parties, lambda e, x: e.ge_zero(x), x), (x >= 0).astype(np.int64))
    assert np.array_equal(evaluate(parties, lambda e, x: e.relu(x), x), np.maximum(x, 0))


def test_one_element_takes_one_round_and_many_take_few_bytes():
    one, many = (make_plan(2, 20, lambda e, n=n: e.relu(e.zeros((n,)))) for n in (1, 100_000))
    assert one.rounds == 1
    assert one.link_bytes == {(0, 1): 2056, (1, 0): 8, (2, 0): 2064}
    assert many.rounds == 4
    assert many.link_bytes[(0, 1)] <= 14 * 100_000
    assert many.dealer_bytes <= 60 * 100_000


def test_a_layer_of_few_neurons_takes_one_round_on_a_slow_network(evaluate):
    def layer(e, x):
        e.session.network = SLOW
        before = e.session.rounds
        y = e.relu(e.matmul(x, x, transpose_y=True, lazy=True))
        assert e.session.rounds - before == 2  # the product's opening, and the ReLU with its truncation
        return y

    x = np.random.default_rng(3).normal(size=(8, 4))
    assert np.allclose(evaluate(2, layer, x), np.maximum(x @ x.T, 0), atol=2e-5)


def test_a_plan_for_a_slow_network_has_fewer_rounds():
    program = lambda e: e.relu(e.matmul(e.zeros((1, 30)), e.zeros((30, 256)), lazy=True))  # noqa: E731
    lan, wan = (make_plan(2, 20, program, network) for network in ("lan", "wan"))
    assert wan.rounds < lan.rounds
    assert wan.digest != lan.digest
    assert wan.dealer_bytes > lan.dealer_bytes

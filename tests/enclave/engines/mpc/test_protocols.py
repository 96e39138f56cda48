"""Every protocol against Python integers or float64, for 2, 3 and 4 parties, on random and edge inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.engines.mpc.protocols import comparison

EDGES = np.array(
    [s * 2**k + t for k in range(62) for s in (1, -1) for t in (-1, 0, 1)] + [2**62 - 1, -(2**62), 0, 1, -1], np.int64
)
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_comparison_is_exact_over_the_whole_range(evaluate, parties):
    assert np.array_equal(evaluate(parties, lambda e, x: e.ge_zero(x), EDGES), (EDGES >= 0).astype(np.int64))


def test_relu_is_exact_over_the_whole_range(evaluate, parties):
    assert np.array_equal(evaluate(parties, lambda e, x: e.relu(x), EDGES), np.maximum(EDGES, 0))


@FEW
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=130))
def test_relu_of_any_integers(evaluate, values):
    x = np.array(values, np.int64)
    assert np.array_equal(evaluate(2, lambda e, x: e.relu(x), x), np.maximum(x, 0))


def test_relu_with_gate(run, reveal, parties):
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(7, 13)), rng.normal(size=(7, 13))

    def program(e):
        y, gate = e.relu_with_gate(e.private(x if e.rank == 1 else None, x.shape, 1))
        passed = e.gated(gate, e.private(z if e.rank == 0 else None, z.shape, 0))
        return reveal(e, y), reveal(e, e.gate_bit(gate)), reveal(e, passed)

    y, bit, passed = run(parties, program).results[0]
    assert np.allclose(y, np.maximum(x, 0), atol=1e-6)
    assert np.array_equal(bit, (x >= 0).astype(np.int64))
    assert np.allclose(passed, np.where(x >= 0, z, 0), atol=1e-6)


def test_what_a_relu_and_a_gate_truncate_is_off_by_one_unit_at_most(run, reveal, parties):
    rng = np.random.default_rng(11)
    unit = 2.0**-20
    x = np.rint(rng.uniform(-1, 1, (40, 3)) * 2.0 ** rng.integers(-19, 9, (40, 3)) / unit) * unit
    w = np.rint(rng.uniform(-20, 20, (3, 5)) / unit) * unit

    def program(e):
        a = e.private(x if e.rank == 0 else None, x.shape, 0)
        b = e.private(w if e.rank == 1 else None, w.shape, 1)
        z = e.matmul(a, b, lazy=True)
        assert z.pending
        before = e.session.rounds
        y, gate = e.relu_with_gate(z)
        passed = e.gated(gate, z)
        assert e.session.rounds - before <= 5  # no round for the truncation
        return reveal(e, y), reveal(e, passed), reveal(e, e.gate_bit(gate))

    y, passed, bit = run(parties, program).results[0]
    z = x @ w
    assert np.all(np.abs(y - np.maximum(z, 0)) < unit * (1 + 1e-6))
    assert np.all(np.abs(passed - z * bit) < unit * (1 + 1e-6))
    assert np.array_equal(bit == 1, z > 0) or np.all(np.abs(z[(bit == 1) != (z > 0)]) < unit)


@pytest.mark.parametrize("shift", [1, 20, 40])
def test_a_relu_that_truncates_covers_its_whole_range(run, shift):
    signs = np.array([[1], [-1]])
    x = np.unique(np.concatenate([(signs * (1 << np.arange(61))).ravel() + d for d in (-1, 0, 1)] + [[2**62 - 1]]))

    def program(e):
        secret = e.private(x if e.rank == 0 else None, x.shape, 0, integer=True)
        y, bits = e.session.run(comparison.relu(e.session, secret.share, shift))
        return y, comparison.bit_share(e.session, bits)

    ran = run(2, program)
    y = sum(r[0] for r in ran.results[:2]).view(np.int64)
    bit = sum(r[1][0] for r in ran.results[:2]).view(np.int64)
    exact = np.maximum(x, 0) >> shift
    assert set((y - exact)[x >= 1 << shift]) <= {0, 1}
    assert np.all(y[x <= 0] == 0) and np.all(bit[x <= 0] == 0)
    assert set(y[(x > 0) & (x < 1 << shift)]) <= {0, 1}


@pytest.mark.parametrize("frac_bits", [16, 20, 24])
def test_products_are_off_by_one_unit_at_most(evaluate, parties, frac_bits):
    rng = np.random.default_rng(2)
    unit = 2.0**-frac_bits
    x, y = (np.rint(rng.uniform(-50, 50, (40, 30)) / unit) * unit for _ in range(2))
    error = (evaluate(parties, lambda e, a, b: e.mul(a, b), x, y, frac_bits=frac_bits) - x * y) / unit
    assert np.all(np.abs(error) < 1.0 + 1e-6)
    assert abs(error.mean()) < 0.1  # stochastic rounding is unbiased


@pytest.mark.parametrize(("tx", "ty"), [(False, False), (True, False), (False, True), (True, True)])
def test_matmul(evaluate, parties, tx, ty):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(9, 5) if not tx else (5, 9)), rng.normal(size=(5, 4) if not ty else (4, 5))
    expected = (x.T if tx else x) @ (y.T if ty else y)
    got = evaluate(parties, lambda e, a, b: e.matmul(a, b, transpose_x=tx, transpose_y=ty), x, y)
    assert np.allclose(got, expected, atol=5e-5)


def test_large_matmul_uses_the_ring_exactly(evaluate):
    rng = np.random.default_rng(4)
    x, y = rng.integers(-(2**40), 2**40, (70, 90)), rng.integers(-(2**40), 2**40, (90, 80))
    with np.errstate(over="ignore"):
        assert np.array_equal(evaluate(2, lambda e, a, b: e.matmul(a, b), x, y), x @ y)


def test_an_operand_is_opened_once(run, parties):
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=(6, 5)), rng.normal(size=(5, 3))

    def program(e):
        a = e.private(x if e.rank == 0 else None, x.shape, 0)
        b = e.private(w if e.rank == 1 else None, w.shape, 1)
        e.matmul(a, b)
        before = e.session.rounds
        e.matmul(e.rows(a, 2, 4), b)
        return e.session.rounds - before

    assert run(parties, program).results[:parties] == [1] * parties  # only the truncation


def test_rows_of_an_opened_operand(evaluate, parties):
    rng = np.random.default_rng(6)
    x, w = rng.normal(size=(6, 5)), rng.normal(size=(5, 3))

    def function(e, a, b):
        whole = e.matmul(a, b)
        return e.concat([whole, e.matmul(e.rows(a, 1, 4), b)], 0)

    assert np.allclose(evaluate(parties, function, x, w), np.concatenate([x @ w, x[1:4] @ w]), atol=5e-5)


def test_rows_of_several_holders(evaluate, parties):
    rng = np.random.default_rng(7)
    x, y, w = rng.normal(size=(3, 5)), rng.normal(size=(4, 5)), rng.normal(size=(7, 2))
    got = evaluate(parties, lambda e, a, b, c: e.matmul(e.concat([a, b], 0), c, transpose_x=True), x, y, w)
    assert np.allclose(got, np.concatenate([x, y]).T @ w, atol=5e-5)


def test_conv2d_and_pools(evaluate, parties):
    import torch

    rng = np.random.default_rng(8)
    x, w = rng.normal(size=(2, 4, 9, 8)), rng.normal(size=(6, 2, 3, 3))
    expected = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), stride=(2, 1), padding=1, groups=2).numpy()
    got = evaluate(
        parties,
        lambda e, a, b: e.conv2d(a, b, stride=(2, 1), padding=(1, 1, 1, 1), dilation=(1, 1), groups=2),
        x,
        w,
    )
    assert np.allclose(got, expected, atol=1e-4)
    expected = torch.nn.functional.max_pool2d(torch.tensor(x), 3, 2, padding=1).numpy()
    got = evaluate(parties, lambda e, a: e.max_pool2d(a, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)), x)
    assert np.allclose(got, expected, atol=1e-5)
    for include in (True, False):
        expected = torch.nn.functional.avg_pool2d(torch.tensor(x), 3, 2, 1, count_include_pad=include).numpy()
        got = evaluate(
            parties,
            lambda e, a, i=include: e.avg_pool2d(
                a, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), count_include_pad=i
            ),
            x,
        )
        assert np.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("columns", [1, 2, 3, 10, 16, 17, 40, 300])
def test_argmax_marks_the_first_maximum(evaluate, columns):
    x = np.random.default_rng(9).integers(-3, 4, (15, columns))
    expected = np.eye(columns, dtype=np.int64)[x.argmax(axis=1)]
    assert np.array_equal(evaluate(2, lambda e, a: e.argmax_onehot(a), x), expected)


def test_argmax_for_more_parties(evaluate, parties):
    x = np.random.default_rng(10).normal(size=(11, 7)) * 1000
    assert np.array_equal(evaluate(parties, lambda e, a: e.argmax_onehot(a), x), np.eye(7)[x.argmax(axis=1)])


@pytest.mark.parametrize("n", [1, 2, 3, 8, 37, 100])
def test_sort_with_ties(run, reveal, n):
    rng = np.random.default_rng(n)
    keys, bits = np.rint(rng.normal(size=n) * 3) / 4, rng.integers(0, 2, n)

    def program(e):
        k = e.private(keys if e.rank == 0 else None, (n,), 0)
        b = e.private(bits if e.rank == 1 else None, (n,), 1, integer=True)
        k, b = e.sort_with_bit(k, b)
        return reveal(e, k), reveal(e, b)

    order = np.lexsort((bits, keys))
    k, b = run(2, program).results[0]
    assert np.array_equal(k, keys[order])
    assert np.array_equal(b, bits[order])


EVERYWHERE = np.concatenate(
    [np.linspace(-13, 13, 1500), [s * 2.0**k for k in range(-20, 40) for s in (1, -1)], [8.4, -8.4, 0.0]]
)


def test_sigmoid_for_every_input(evaluate, parties):
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-EVERYWHERE))
    assert np.abs(evaluate(parties, lambda e, x: e.sigmoid(x), EVERYWHERE) - expected).max() < 6e-4


def test_tanh_for_every_input(evaluate):
    assert np.abs(evaluate(2, lambda e, x: e.tanh(x), EVERYWHERE) - np.tanh(EVERYWHERE)).max() < 2**-10


@pytest.mark.parametrize("columns", [2, 10, 11, 20])
@pytest.mark.parametrize("gap", [0.0, 1.0, 16.0, 1e3, 1e6])
def test_softmax_for_any_gap(evaluate, gap, columns):
    parties = 2 + columns % 3
    x = np.random.default_rng(11).normal(size=(20, columns)) * (0 if gap == 0.0 else 1)
    x[:, 1] += gap
    e = np.exp(x - x.max(axis=1, keepdims=True))
    expected = e / e.sum(axis=1, keepdims=True)
    assert np.abs(evaluate(parties, lambda e, a: e.softmax(a), x) - expected).max() < (
        3e-4 if columns <= 16 else 2.0**-10
    )


def test_exp_of_negative(evaluate):
    x = -np.concatenate([np.linspace(0, 16, 2000), [14.9999, 15.0, 15.0001, 100, 1e6]])
    got = evaluate(2, lambda e, a: e.exp_of_negative(a), x)
    assert np.abs(got - np.exp(x)).max() < 3e-6


def test_reciprocal_inverse_sqrt_and_log(evaluate, parties):
    x = np.exp(np.random.default_rng(12).uniform(np.log(0.01), np.log(1000), 200))
    x[:3] = 0.01, 1000, 1.0
    unit = 2.0**-20
    got = evaluate(parties, lambda e, a: e.reciprocal(a, 0.01, 1000), x)
    assert np.all(np.abs(got - 1 / x) < (1 / x) ** 2 * unit + 2.0**-10 / x + 2 * unit)
    got = evaluate(parties, lambda e, a: e.inverse_sqrt(a, 0.01, 1000), x)
    assert np.all(np.abs(got * np.sqrt(x) - 1) < 1e-3)
    got = evaluate(parties, lambda e, a: e.logarithm(a, 0.01, 1000), x)
    assert np.abs(got - np.log(x)).max() < 2e-4


def test_quotient_of_integers(evaluate, parties):
    rng = np.random.default_rng(13)
    for bits in (1, 7, 41, 60):
        d = rng.integers(0, 2**bits, 60)
        n = (d * rng.uniform(0, 1, 60)).astype(np.int64).clip(0, d)
        d[0] = n[0] = 0
        got = evaluate(parties, lambda e, a, b, k=bits: e.divide_integers(a, b, k), n, d)
        assert np.abs(got - np.where(d == 0, 0, n / np.maximum(d, 1))).max() < 5e-6


def test_scaling_by_public_numbers(evaluate):
    x = np.random.default_rng(14).normal(size=(5, 4)) * 100
    for factor in (0.5, -3.25, 1e-4, 1 / 3, np.array([1e-3, 2.0, -0.125, 0.0])):
        got = evaluate(2, lambda e, a, f=factor: e.scale(a, f), x)
        assert np.allclose(got, x * factor, rtol=1e-5, atol=3e-3 if np.ndim(factor) else 5e-6)


def test_local_operations(evaluate, parties):
    rng = np.random.default_rng(15)
    x, y = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))

    def function(e, a, b):
        c = e.add(e.sub(a, 1.5), e.times_integer(b, 3))
        c = e.concat([c, e.neg(a)], 1)
        c = e.transpose(c, (1, 0))
        c = e.take(c, np.array([0, 3, 3, 11]), 0)
        return e.sum(e.broadcast(e.reshape(c, (1, 4, 4)), (2, 4, 4)), 1, keepdims=True)

    whole = np.concatenate([x - 1.5 + 3 * y, -x], 1).T[[0, 3, 3, 11]]
    expected = np.broadcast_to(whole.reshape(1, 4, 4), (2, 4, 4)).sum(1, keepdims=True)
    assert np.allclose(evaluate(parties, function, x, y), expected, atol=1e-4)

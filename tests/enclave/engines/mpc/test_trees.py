"""Layouts of comparisons: every tree computes the same, and costs what it says."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.mpc.protocols.bitslice import ONE, ONES, ZERO, Builder, execute
from enclave.engines.mpc.protocols.comparison import Comparison, bit_share, tail
from enclave.engines.mpc.protocols.trees import Tree, best_tree, programs
from enclave.engines.mpc.session import Item, Network

U = np.uint64
TREES = [
    Tree(0, 63, (4,) * 15 + (3,), ((4, 4, 4, 4), (4,))),
    Tree(0, 63, (7,) * 9, ((9,),)),
    Tree(0, 63, (5,) * 12 + (3,), ((3, 3, 3, 3, 1), (5,))),
    Tree(20, 63, (6, 6, 6, 6, 6, 6, 7), ((7,),)),
    Tree(20, 54, (5, 5, 5, 5, 5, 5, 4), ((7,),)),
    Tree(3, 11, (8,), ()),
    Tree(0, 3, (2, 1), ((2,),)),
]


def compared(session, tree, x, thresholds):
    n = x.shape[0]
    entry = Comparison(n, tree, len(thresholds))
    shares = session.deal(entry)
    (c,) = yield [Item("compare", session.local(lambda x, r: x + r[:n], (n,), x, shares[0]))]
    return (yield from tail(session, entry, shares, c, thresholds))


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_every_tree_compares(run, parties, tree):
    rng = np.random.default_rng(5)
    top = tree.high - 1
    edges = np.array([s * (1 << k) + d for k in range(top) for s in (1, -1) for d in (-1, 0, 1)], np.int64)
    low, high = -(1 << top), (1 << top) - 1
    x = np.clip(np.concatenate([edges, rng.integers(low, high, 100), [low, high, 0]]), low, high)
    thresholds = np.array([0, 1 << max(tree.low, 1), -(1 << (top - 1))], np.int64)

    def program(e):
        secret = e.private(x if e.rank == 1 else None, x.shape, 1, integer=True)
        before = e.session.rounds
        bits = e.session.run(compared(e.session, tree, secret.share, thresholds.view(U)))
        assert e.session.rounds - before == tree.rounds
        return bit_share(e.session, bits)

    found = sum(run(parties, program).results[:parties]).view(np.int64)
    gap = x - thresholds[:, None]
    sure = (gap >= 0) | (gap <= -(1 << tree.low))
    assert np.array_equal(found[sure], (gap >= 0)[sure].astype(np.int64))
    assert set(found.ravel()) <= {0, 1}


def test_the_best_tree_trades_rounds_for_bytes():
    few, many = (best_tree(n, 1, 0, 63, Network()) for n in (10, 10**6))
    assert few.rounds < many.rounds == 4
    assert many.dealt_bits() == 3 * 15 + 17 * 7 + 1 + 15 + 4 * 22 + 37  # leaves and sign; lowest gate, the others, top
    assert Tree(0, 63, (4,) * 15 + (3,), ((4, 4, 4, 4), (4,))).dealt_bits() == 15 * 15 + 7 + 1 + 15 + 3 * 22 + 15
    assert best_tree(10**6, 1, 0, 63, Network(round_s=1000.0)).rounds == 3
    assert best_tree(10**6, 1, 20, 63, Network()).dealt_bits() < many.dealt_bits()
    assert best_tree(10, 1, 0, 8, Network()).rounds == 2


def test_a_program_is_what_it_was_built_as():
    build = Builder(2, 1)
    (a, b), (c,) = build.inputs
    both = build.both(a, b)
    outputs = [build.xor(both, c), build.xor(c, ONE), build.and_xor(a, ONES, b), both, ZERO, c]
    build.both(outputs[0], c)  # nobody needs it
    program = build.program(outputs[:3], outputs[3:])
    assert len(program.code) == 4
    rng = np.random.default_rng(6)
    planes, last = rng.integers(0, 2**64, (2, 3, 5), np.uint64)[:, 1], rng.integers(0, 2**64, (1, 5), np.uint64)
    x, y, z = planes[0], planes[1], last[0]
    for one in (False, True):
        first, second = execute(program, one, planes, last)
        assert np.array_equal(first, [(x & y) ^ z, z ^ (~U(0) if one else U(0)), x ^ y])
        assert np.array_equal(second, [x & y, x * U(0), z])
    with pytest.raises(ValueError, match="expected inputs"):
        execute(program, True, planes)


def test_registers_are_used_again():
    step = programs(TREES[0]).steps[0]
    assert step.registers < 3 + sum(step.inputs) + len(step.code) // 2

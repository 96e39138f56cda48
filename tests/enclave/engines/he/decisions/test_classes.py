"""Conjunctions of shared bits, and the accuracy of several classes, without a third party."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from enclave.engines.he.decisions.classes import unbeaten
from enclave.engines.he.decisions.conjunction import all_of
from enclave.engines.he.decisions.counting import tallied
from enclave.engines.interface import Permit
from enclave.errors import BadData

PERMIT = Permit("job", ["accuracy"])
TORUS_BITS = 40
UNIT = 1 << 64 - TORUS_BITS


@pytest.mark.parametrize(("count", "rows"), [(1, 5), (2, 300), (3, 4100), (9, 700), (63, 4)], ids=str)
def test_conjunction(run_he: Any, count: int, rows: int) -> None:
    g = np.random.default_rng(count)
    bits = (g.random((count, rows)) < 0.5 ** (1 / count)).astype(np.uint64)
    own = g.integers(0, 2, (count, rows), dtype=np.uint64)
    shares = {0: own, 1: own ^ bits, None: own}
    owner, buyer = run_he(2, lambda e: e.run(all_of(e, 0, rows, list(shares[e.rank])))).results
    assert np.array_equal(owner ^ buyer, bits.all(axis=0).astype(np.uint64))
    if rows > 100:
        assert abs(float(buyer.mean()) - 0.5) < 5 * 0.5 / np.sqrt(rows), "the buyer's bit is a coin"


def test_all_numbers_of_zeros_have_one_place_at_most(run_he: Any) -> None:
    """Each count of zeros, from none to all: what would betray it is a second zero, or one at a fixed place."""
    bits = np.triu(np.ones((6, 7), np.uint64), 1).repeat(500, axis=1)
    ran = run_he(2, lambda e: e.run(all_of(e, 0, 3500, list(bits if e.rank == 0 else 0 * bits))))
    owner, buyer = ran.results
    assert np.array_equal(owner ^ buyer, bits.all(axis=0).astype(np.uint64))
    assert np.abs(buyer.reshape(7, 500).mean(axis=1) - 0.5).max() < 5 * 0.5 / np.sqrt(500)


def _shares(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    own = g.integers(0, 1 << 63, values.shape, dtype=np.uint64) * np.uint64(2)
    return own, (values.astype(np.uint64) << np.uint64(64 - TORUS_BITS)) - own


def _margins(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[C - 1, rows]: the margins of the true class."""
    classes = scores.shape[1]
    own = scores[np.arange(len(truth)), truth]
    return np.stack([own - scores[np.arange(len(truth)), (truth + d) % classes] for d in range(1, classes)])


@pytest.mark.parametrize("sizes", [[200], [90, 7]], ids=str)
@pytest.mark.parametrize("classes", [3, 10])
def test_against_argmax(run_he: Any, sizes: list[int], classes: int) -> None:
    g = np.random.default_rng(classes)
    holders = tuple(enumerate(sizes))
    scores = [g.integers(-4, 5, (rows, classes)) << 20 for rows in sizes]  # many ties
    truths = [g.integers(0, classes, rows) for rows in sizes]
    truths[0][:50] = scores[0][:50].argmax(axis=1)
    words = [_shares(_margins(s, t), seed) for seed, (s, t) in enumerate(zip(scores, truths, strict=True))]

    def program(engine: Any) -> Any:
        side = 1 if engine.rank == engine.buyer else 0
        mine = {rank: words[rank][side] for rank, _ in holders}
        truth = truths[engine.rank] if engine.rank is not None and engine.rank < engine.buyer else None
        tally = engine.run(tallied(engine, engine.run(unbeaten(engine, holders, mine, truth, 26, UNIT))))
        return engine.open("accuracy", tally.ones(), engine.buyer, PERMIT)

    *others, found = run_he(len(sizes) + 1, program).results
    expected = sum(int((s.argmax(axis=1) == t).sum()) for s, t in zip(scores, truths, strict=True))
    assert found.tolist() == [expected]
    assert others == [None] * len(sizes)


def test_truths_that_do_not_fit(run_he: Any) -> None:
    words = np.zeros((2, 9), np.uint64)
    with pytest.raises(BadData, match="true classes from 0 to 2"):
        run_he(2, lambda e: e.run(unbeaten(e, ((0, 9),), {0: words}, np.full(9, 3), 26, UNIT)))

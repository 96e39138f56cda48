"""Counts of hidden decisions: against numpy, one owner and several, rounds and bytes, nothing but the sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from enclave.engines.he.decisions import sums
from enclave.engines.he.decisions.counting import decided, score_words, tallied
from enclave.engines.he.decisions.slots import DEGREE, slot_parameters
from enclave.engines.he.linear.packing import EncodedRows, Packing
from enclave.engines.he.linear.weights import Query, query_phases, send_weights
from enclave.engines.interface import Permit
from enclave.errors import BadData, BadSpec, PolicyRefused

PERMIT = Permit("job", ["accuracy", "confusion"])
TORUS_BITS = 40  # of the tests' scores: integers
UNIT = 1 << 64 - TORUS_BITS


def _shares(scores: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Words of an owner and of the buyer that add up to integers on a torus of 2^40."""
    g = np.random.default_rng(seed)
    own = g.integers(0, 1 << 63, len(scores), dtype=np.uint64) * np.uint64(2)
    return own, (scores.astype(np.uint64) << np.uint64(64 - TORUS_BITS)) - own


class _Rows:
    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def columns(self) -> int:
        return int(self.values.shape[1])

    def block(self, start: int, stop: int) -> np.ndarray:
        return self.values[start:stop]


def _program(scores: list[np.ndarray], truths: list[np.ndarray], bits: int = 26, margin: int = UNIT // 2) -> Any:
    holders = tuple((rank, len(values)) for rank, values in enumerate(scores))
    words = [_shares(values, seed=rank) for rank, values in enumerate(scores)]

    def program(engine: Any) -> Any:
        side = 1 if engine.rank == engine.buyer else 0
        mine = {rank: words[rank][side] for rank, _ in holders}
        truth = truths[engine.rank] if engine.rank is not None and engine.rank < engine.buyer else None
        decisions = engine.run(decided(engine, holders, mine, bits, margin))
        tally = engine.run(tallied(engine, decisions))
        sealed = {"accuracy": tally.accuracy(truth), "confusion": tally.confusion(truth)}
        found = {name: engine.open(name, value, engine.buyer, PERMIT) for name, value in sealed.items()}
        return decisions, found

    return program


def _expected(scores: np.ndarray, truth: np.ndarray) -> tuple[int, list[list[int]]]:
    classes = (scores > 0).astype(int)
    matrix = [[int(((truth == t) & (classes == c)).sum()) for c in (0, 1)] for t in (0, 1)]
    return int((classes == truth).sum()), matrix


def _case(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    scores = g.integers(-(1 << 30), 1 << 30, rows) // (1 << 14) * (1 << 14)
    scores[::5] = 0
    return scores, g.integers(0, 2, rows)


@pytest.mark.parametrize("sizes", [[1], [300], [4100], [40, 3], [7, 1, 300]], ids=str)
def test_against_numpy(run_he: Any, sizes: list[int]) -> None:
    cases = [_case(rows, seed) for seed, rows in enumerate(sizes)]
    scores, truths = [c[0] for c in cases], [c[1] for c in cases]
    *owners, (_, found) = run_he(len(sizes) + 1, _program(scores, truths)).results
    correct, matrix = _expected(np.concatenate(scores), np.concatenate(truths))
    assert found["accuracy"].tolist() == [correct]
    assert found["confusion"].tolist() == matrix
    assert all(set(values.values()) == {None} for _, values in owners)


def test_exact_signs_of_integers(run_he: Any) -> None:
    """One bit more than the integers have is compared: scores of -1, 0 and 1 are told apart, at any share."""
    scores = np.tile(np.array([-2, -1, 0, 1, 2, (1 << 38) - 1, -(1 << 38)]), 60)
    (owner, _), (buyer, _) = run_he(2, _program([scores], [np.zeros(420, int)], TORUS_BITS + 1, UNIT // 4)).results
    assert np.array_equal(owner.bits[0] ^ buyer.bits[0], (scores > 0).astype(np.uint64))


def test_a_score_of_zero_is_class_0_in_spite_of_noise(run_he: Any) -> None:
    """As in `metrics.ClassTally`; without the margin, noise would decide."""
    counts = []
    for margin in (UNIT // 2, 0):
        own, theirs = _shares(np.zeros(2000, np.int64))
        theirs = theirs + np.random.default_rng(1).integers(-UNIT // 4, UNIT // 4, 2000).view(np.uint64)

        def program(engine: Any, margin: int = margin, own: Any = own, theirs: Any = theirs) -> Any:
            words = {0: theirs if engine.rank == 1 else own}
            return engine.run(decided(engine, ((0, 2000),), words, 44, margin)).bits[0]

        owner, buyer = run_he(2, program).results
        counts.append(int((owner ^ buyer).sum()))
    assert counts[0] == 0 and 800 < counts[1] < 1200


@pytest.mark.parametrize("owners", [1, 2])
def test_rounds_and_bytes(run_he: Any, owners: int) -> None:
    cases = [_case(4096, seed) for seed in range(owners)]
    ran = run_he(owners + 1, _program([c[0] for c in cases], [c[1] for c in cases], bits=25))
    assert ran.sessions[0].rounds == 1 + 2 + 1 + 2
    steps: dict[str, int] = {}
    for _, record in ran.records:
        for item in record[1:] if record[0] == "open" else ():
            steps[item[0]] = steps.get(item[0], 0) + item[2]
    c1_bits = (4096 * owners).bit_length() + 2 + 11
    assert steps == {
        "he:public key": 51_200,
        "comparison:bits": owners * 24 * 51_200,
        "comparison:forms": owners * 25 * 21_504,
        "counting:bits": owners * 51_200,
        "release:accuracy": owners * 8 * (1 + 64 * c1_bits),
        "release:confusion": owners * 3 * 8 * (1 + 64 * c1_bits),
    }


def test_decisions_of_the_buyer_are_coins(run_he: Any) -> None:
    for value in (-5, 5):
        scores = np.full(4096, value * (1 << 20))
        _, (decisions, _) = run_he(2, _program([scores], [np.zeros(4096, int)])).results
        assert abs(float(decisions.bits[0].mean()) - 0.5) < 5 / 128


def test_only_the_sum_of_two_owners_is_sent(run_he: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buyer that reads one owner's words alone finds a number that has nothing to do with its count."""
    singles: list[int] = []
    read = sums.SumWords.words_of

    def spy(self: Any, keys: Any, words: Any) -> Any:
        found = read(self, keys, words)
        singles.append(int(found[0]) + (1 << 63 - self.torus_bits) >> 64 - self.torus_bits)
        return found

    monkeypatch.setattr(sums.SumWords, "words_of", spy)
    scores, truths = [np.full(50, 1 << 20)] * 2, [np.ones(50, int)] * 2
    seen = set()
    for _ in range(4):
        *_, (_, found) = run_he(3, _program(scores, truths)).results
        assert found["accuracy"].tolist() == [100]
        seen |= set(singles)
        singles.clear()
    assert len(seen) > 8, "each single word is uniform"
    run_he(2, _program(scores[:1], truths[:1]))
    assert singles[0] == 50, "with one owner it is the count"


def test_the_flood_is_40_bits_above_the_noise() -> None:
    """Errors of an honest key holder, all of the largest magnitude and sign, stay 40 bits below."""
    for rows in (1, 1000, 1 << 20):
        worst = 21 * rows + 21 * DEGREE + 21 + 21 * DEGREE
        assert sums._flood_bits(rows) >= 40 + np.log2(worst)


def test_a_permit_is_needed(run_he: Any) -> None:
    scores, truth = _case(20, 3)
    own, theirs = _shares(scores)

    def program(engine: Any) -> Any:
        words = {0: theirs if engine.rank == 1 else own}
        tally = engine.run(tallied(engine, engine.run(decided(engine, ((0, 20),), words, 26, UNIT))))
        sealed = tally.accuracy(truth if engine.rank == 0 else None)
        with pytest.raises(PolicyRefused):
            engine.open("accuracy", sealed, engine.buyer, Permit("job", ["rmse"]))
        return repr((tally, sealed))

    ran = run_he(2, program)
    assert ran.sessions[0].rounds == 4
    assert "array" not in ran.results[0]


@pytest.mark.parametrize("truth", [None, np.zeros(19, int), np.full(20, 2)], ids=["none", "short", "three classes"])
def test_truths_that_do_not_fit(run_he: Any, truth: Any) -> None:
    scores, _ = _case(20, 3)
    with pytest.raises(BadData, match="expected 20 true classes"):
        run_he(2, _program([scores], [truth]))


# ---- from rows to counts
def _scored(weights: np.ndarray, rows: np.ndarray, truths: list[np.ndarray], torus_bits: int, frac_bits: int) -> Any:
    sizes = [len(truth) for truth in truths]
    starts = np.cumsum([0, *sizes])
    holders = tuple(enumerate(sizes))

    def program(engine: Any) -> Any:
        packing = Packing(DEGREE, rows.shape[1], 1)
        query = Query(slot_parameters(), packing, 1)
        ring = slot_parameters().ring()
        sent = engine.run(send_weights(engine, query, lambda r: query_phases(r, query, weights[:, None], torus_bits)))
        own = truth = None
        if engine.rank is not None and engine.rank < engine.buyer:
            mine = rows[starts[engine.rank] : starts[engine.rank + 1]]
            own, truth = EncodedRows(ring, packing, _Rows(mine), frac_bits, 1 << 20), truths[engine.rank]
        words = engine.run(score_words(engine, sent, holders, own, 44))
        tally = engine.run(tallied(engine, engine.run(decided(engine, holders, words, 34, 1 << 30))))
        return engine.open("confusion", tally.confusion(truth), engine.buyer, PERMIT)

    return program


@pytest.mark.parametrize("cut", [569, 300])
def test_breast_cancer(run_he: Any, cut: int) -> None:
    data = load_breast_cancer()
    rows = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    rows = np.column_stack([rows, np.ones(len(rows))])
    weights = np.linalg.lstsq(rows, 2.0 * data.target - 1, rcond=None)[0]
    truths = [data.target[:cut], data.target[cut:]] if cut < 569 else [data.target]
    *others, found = run_he(len(truths) + 1, _scored(weights, rows, truths, 24, 16)).results
    _, matrix = _expected(np.rint(rows * 2**16) @ weights, data.target)
    assert others == [None] * len(truths)
    assert found.tolist() == matrix


def test_one_output_alone(run_he: Any) -> None:
    def program(engine: Any) -> Any:
        query = Query(slot_parameters(), Packing(DEGREE, 2, 1), 2)
        sent = engine.run(send_weights(engine, query, lambda r: query_phases(r, query, np.ones((2, 2)), 20)))
        return engine.run(score_words(engine, sent, ((0, 5),), None, 44))

    with pytest.raises(BadSpec, match="one output"):
        run_he(2, program)

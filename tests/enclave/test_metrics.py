"""Metrics over secrets against scikit-learn, with the cases that a sort or a division gets wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, r2_score, roc_auc_score

from enclave.engines.interface import Permit, Secret
from enclave.engines.plain import InsecurePlainEngine
from enclave.errors import BadSpec
from enclave.metrics import ClassTally, auc, decision, r2_parts, squared_error, total_squares, truth

ENGINE = InsecurePlainEngine(parties=2)


def enter(value: object, *, integer: bool = False) -> Secret:
    array = np.asarray(value)
    return ENGINE.private(array, array.shape, 0, integer=integer)


def clear(x: Secret) -> NDArray[np.float64]:
    opened = ENGINE.open("x", x, 0, Permit("job", ["x"]))
    assert opened is not None
    return opened


def area(scores: object, bits: object) -> float:
    found = clear(auc(ENGINE, enter(np.asarray(scores, np.float64)), enter(np.asarray(bits, np.int64), integer=True)))
    assert found.shape == (1,)
    return float(found[0])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=1, max_size=70))
def test_auc_with_many_ties_equals_scikit_learn(rows: list[tuple[int, int]]) -> None:
    scores, bits = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    expected = -1.0 if bits.min() == bits.max() else roc_auc_score(bits, scores)
    assert area(scores, bits) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 7, 10_000])
@pytest.mark.parametrize("rows", [2, 3, 64, 65, 1000])
def test_auc_at_many_sizes(rows: int, levels: int) -> None:
    rng = np.random.default_rng(rows + levels)
    scores = rng.integers(0, levels, rows) / 7
    bits = np.arange(rows) % 2
    assert area(scores, bits) == pytest.approx(roc_auc_score(bits, scores), abs=1e-12)


def test_constant_scores_say_nothing() -> None:
    assert area(np.full(9, 0.25), [0, 1, 0, 1, 1, 1, 0, 0, 0]) == 0.5


def test_a_perfect_and_a_reversed_order() -> None:
    assert area([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0
    assert area([4, 3, 2, 1], [0, 0, 1, 1]) == 0.0


@pytest.mark.parametrize("bits", [[0, 0, 0], [1, 1, 1], [1]])
def test_one_class_has_no_auc(bits: list[int]) -> None:
    assert area(np.arange(len(bits)), bits) == -1.0


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("confusion", [True, False])
def test_two_classes_over_blocks(width: int, confusion: bool) -> None:
    rng = np.random.default_rng(1)
    outputs, y = rng.integers(-2, 3, (57, width)) / 4, rng.integers(0, 2, 57)
    z = outputs[:, 0] if width == 1 else outputs[:, 1] - outputs[:, 0]
    predicted = (z > 0).astype(int)
    assert (z == 0).any()  # a decision of exactly 0 is class 0
    tally = ClassTally(ENGINE, 2, confusion=confusion)
    for start in range(0, 57, 20):
        block = slice(start, min(57, start + 20))
        tally.add(enter(outputs[block]), enter(truth(y[block], 2), integer=True))
    assert clear(tally.correct(57))[0] == accuracy_score(y, predicted, normalize=False)
    if confusion:
        assert clear(tally.confusion(57)).tolist() == confusion_matrix(y, predicted).tolist()


@pytest.mark.parametrize("confusion", [True, False])
def test_many_classes_over_blocks(confusion: bool) -> None:
    rng = np.random.default_rng(2)
    outputs, y = rng.integers(0, 4, (83, 5)).astype(float), rng.integers(0, 5, 83)
    predicted = outputs.argmax(axis=1)
    tally = ClassTally(ENGINE, 5, confusion=confusion)
    for block in (slice(0, 40), slice(40, 80), slice(80, 83)):
        tally.add(enter(outputs[block]), enter(truth(y[block], 5), integer=True))
    assert clear(tally.correct(83))[0] == accuracy_score(y, predicted, normalize=False)
    if confusion:
        assert clear(tally.confusion(83)).tolist() == confusion_matrix(y, predicted).tolist()


def test_counts_stay_integers() -> None:
    tally = ClassTally(ENGINE, 2, confusion=True)
    tally.add(enter(np.ones((3, 1))), enter(np.array([0, 1, 1]), integer=True))
    assert tally.correct(3).is_integer
    assert tally.confusion(3).is_integer


def test_a_decision_needs_one_or_two_outputs() -> None:
    with pytest.raises(BadSpec, match="found 3"):
        decision(ENGINE, enter(np.zeros((2, 3))))


def moments(y: NDArray[np.float64], counts: list[int]) -> tuple[Secret, Secret, Secret]:
    parts = np.split(y, np.cumsum(counts)[:-1])
    means = np.array([p.mean() for p in parts])
    shares = np.array([p.mean() * len(p) / len(y) for p in parts])
    return enter(means), enter(shares), enter(np.array([((p - p.mean()) ** 2).sum() for p in parts]))


@pytest.mark.parametrize("counts", [[50], [20, 30], [1, 48, 1]])
def test_total_squares_joins_the_moments_of_holders(counts: list[int]) -> None:
    y = np.random.default_rng(3).normal(100, 3, 50)
    found = clear(total_squares(ENGINE, counts, *moments(y, counts)))
    assert found[0] == pytest.approx(((y - y.mean()) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, 1.4, 30.0])
def test_r2_on_both_sides_of_zero(noise: float) -> None:
    rng = np.random.default_rng(4)
    y = rng.normal(size=40)
    predicted = y + noise * rng.normal(size=40)
    error, _ = squared_error(ENGINE, enter(predicted[:, None]), enter(y), 2048.0)
    total = total_squares(ENGINE, [40], *moments(y, [40]))
    quotient, fits = clear(r2_parts(ENGINE, error, total, 45))
    found = 1 - quotient if fits == 1 else 1 - 1 / quotient
    assert found == pytest.approx(r2_score(y, predicted), rel=1e-5)


def test_r2_of_a_constant_target() -> None:
    zero, one = enter(np.zeros(1)), enter(np.ones(1))
    assert clear(r2_parts(ENGINE, zero, zero, 30)).tolist() == [0.0, 1.0]  # perfect: R2 is 1
    assert clear(r2_parts(ENGINE, one, zero, 30)).tolist() == [0.0, 0.0]  # unbounded below

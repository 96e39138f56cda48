"""Metrics over secrets: only the metric ever leaves a computation, never what it is made of.

Counts are exact integers. What can be divided by a public number is released undivided (a count of correct rows,
a sum of squared errors) and divided by whoever receives it: the same information, and no rounding.

Conventions. With two classes a network has one output, the decision (class 1 where it is > 0), or two, whose
difference is the decision; the true class is a bit. With more classes the truth is one-hot and the prediction is
the first maximum. A sigmoid or softmax at the end changes none of this and is left out by the caller.

The AUC is exact also when scores are equal (they count one half). A stock way, the mean rank of positives
after a sort, counts ties by the luck of the order; here the sort breaks ties by the label, which makes the count
the largest possible one, and a segmented scan over groups of equal scores yields the smallest; the AUC is the
mean of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Engine, Secret
from enclave.errors import BadSpec

__all__ = [
    "OUT_OF_RANGE",
    "ClassTally",
    "auc",
    "brier",
    "decision",
    "error_limit",
    "flagged",
    "r2_parts",
    "squared_error",
    "total_squares",
    "truth",
]

IntArray: TypeAlias = NDArray[np.int64]
OUT_OF_RANGE = -2.0  # no metric is ever this: what `flagged` puts in the place of one that means nothing


def flagged(engine: Engine, value: Secret, fine: Secret, mark: float = OUT_OF_RANGE) -> Secret:
    """`value` where the bit `fine` (1,) is 1, the whole number `mark` in every element where it is 0.

    Cost: one product of an integer. Reveals: nothing; whoever gets the result learns the bit, and where it is 0
    nothing of the value.
    """
    bad = engine.add(engine.neg(fine), 1)
    return engine.add(engine.mul(value, fine), engine.times_integer(bad, int(mark)))


def truth(classes: IntArray, count: int) -> IntArray:
    """Class indices (n,) as the metrics take them: bits (n,) for two classes, one-hot (n, count) for more."""
    if count == 2:
        return classes.astype(np.int64)
    hot: IntArray = (classes[:, None] == np.arange(count)[None, :]).astype(np.int64)
    return hot


def decision(engine: Engine, outputs: Secret) -> Secret:
    """The decision (n,) of a network with one output or with two, (n, 1) or (n, 2). Local."""
    rows, width = outputs.shape
    if width not in (1, 2):
        raise BadSpec(f"a decision needs one output or two, found {width}")
    last = engine.reshape(_column(engine, outputs, width - 1), (rows,))
    if width == 1:
        return last
    return engine.sub(last, engine.reshape(_column(engine, outputs, 0), (rows,)))


def _column(engine: Engine, x: Secret, index: int) -> Secret:
    return engine.take(x, np.array([index], dtype=np.int64), axis=1)


def _inner(engine: Engine, x: Secret, y: Secret) -> Secret:
    """The sum over all elements of x * y as one inner product, (1,)."""
    size = int(np.prod(x.shape, dtype=np.int64))
    found = engine.matmul(engine.reshape(x, (size, 1)), engine.reshape(y, (size, 1)), transpose_x=True)
    return engine.reshape(found, (1,))


def _total(engine: Engine, x: Secret) -> Secret:
    """The sum of x (n,), (1,). Local."""
    return engine.sum(x, axis=0, keepdims=True)


class ClassTally:
    """Counts of predicted against true classes, block by block.

    Args:
        classes: number of classes of the target.
        confusion: whether the whole matrix is counted, or only the correct rows.
    """

    def __init__(self, engine: Engine, classes: int, *, confusion: bool) -> None:
        self._engine = engine
        self._classes = classes
        self._matrix = confusion
        shape = (classes, classes) if confusion and classes > 2 else (1,)
        self._hits = engine.zeros(shape, integer=True)  # two classes: rows predicted and truly 1
        self._predicted = engine.zeros((1,), integer=True)
        self._true = engine.zeros((1,), integer=True)

    def add(self, outputs: Secret, true: Secret) -> None:
        """Counts one block.

        Args:
            outputs: numbers (n, 1), (n, 2) or (n, classes).
            true: what `truth` makes of the classes, as an integer secret.

        Cost: one comparison a row for two classes, one argmax a row for more; one integer product.
        Reveals: nothing.
        """
        engine = self._engine
        if self._classes == 2:
            # A decision of exactly 0 is class 0, as in scikit-learn: 1 - [-d >= 0].
            bits = engine.add(engine.neg(engine.ge_zero(engine.neg(decision(engine, outputs)))), 1)
            self._hits = engine.add(self._hits, _inner(engine, bits, true))
            self._predicted = engine.add(self._predicted, _total(engine, bits))
            self._true = engine.add(self._true, _total(engine, true))
        else:
            hot = engine.argmax_onehot(outputs)
            found = engine.matmul(true, hot, transpose_x=True) if self._matrix else _inner(engine, true, hot)
            self._hits = engine.add(self._hits, found)

    def correct(self, rows: int) -> Secret:
        """The number of correct rows among `rows` counted ones, an integer (1,). Local."""
        engine = self._engine
        if self._classes == 2:
            wrong = engine.sub(engine.add(self._predicted, self._true), engine.times_integer(self._hits, 2))
            return engine.add(engine.neg(wrong), rows)
        if not self._matrix:
            return self._hits
        diagonal = np.arange(self._classes, dtype=np.int64) * (self._classes + 1)
        return _total(engine, engine.take(engine.reshape(self._hits, (self._classes**2,)), diagonal, axis=0))

    def confusion(self, rows: int) -> Secret:
        """The matrix of counts, integers (true class, predicted class), of `rows` counted rows. Local."""
        engine = self._engine
        if self._classes > 2:
            return self._hits
        false_1 = engine.sub(self._predicted, self._hits)
        false_0 = engine.sub(self._true, self._hits)
        true_0 = engine.add(engine.neg(engine.add(self._predicted, false_0)), rows)
        return engine.reshape(engine.concat([true_0, false_1, false_0, self._hits], axis=0), (2, 2))


def auc(engine: Engine, scores: Secret, bits: Secret) -> Secret:
    """The area under the ROC curve, ties counted half, a number (1,); -1 where only one class is present.

    Args:
        scores: numbers (n,), larger for class 1.
        bits: true classes (n,), integers.

    Cost: one sort, n comparisons, about 5 n integer products in 2 log2(n) rounds, one division.
    Reveals: nothing.
    Reference: the Mann-Whitney statistic, (U_largest + U_smallest) / 2 / (positives * negatives).
    """
    rows = scores.shape[0]
    ordered, labels = engine.sort_with_bit(scores, bits)
    below = _exclusive_sums(engine, engine.add(engine.neg(labels), 1))  # negatives earlier in the order
    starts = engine.public(np.ones(1, dtype=np.int64), integer=True)
    if rows > 1:
        same = engine.ge_zero(engine.sub(engine.rows(ordered, 0, rows - 1), engine.rows(ordered, 1, rows)))
        starts = engine.concat([starts, engine.add(engine.neg(same), 1)], axis=0)
    # Negatives of equal score stand before the positives: `below` counts them all as lower, `strictly` none.
    strictly = _latest(engine, starts, engine.mul(starts, below))
    twice_wins = _inner(engine, labels, engine.add(below, strictly))
    positives = _total(engine, labels)
    pairs = engine.mul(positives, engine.add(engine.neg(positives), rows))
    limit_bits = max(1, (rows * rows // 2).bit_length())  # 2 * positives * negatives <= rows^2 / 2
    area = engine.divide_integers(twice_wins, engine.times_integer(pairs, 2), limit_bits)
    undefined = engine.add(engine.neg(engine.ge_zero(engine.sub(pairs, 1))), 1)
    return engine.sub(area, undefined)


def _exclusive_sums(engine: Engine, x: Secret) -> Secret:
    """Sums of all earlier elements of x (n,). Local: log2(n) additions."""
    size = x.shape[0]
    total, step = x, 1
    while step < size:
        moved = engine.concat([engine.zeros((step,), integer=True), engine.rows(total, 0, size - step)], axis=0)
        total, step = engine.add(total, moved), 2 * step
    return engine.sub(total, x)


def _latest(engine: Engine, flags: Secret, values: Secret) -> Secret:
    """At each position the value at the latest flagged position up to it.

    `values` are 0 where the flag is 0, and the first flag is 1. Work-efficient scan: neighbours are joined, the
    half-length problem is solved, and every second position is filled in: 3 n products in 2 log2(n) rounds.
    """
    size = flags.shape[0]
    if size == 1:
        return values
    half = (size + 1) // 2
    f_left, f_right = _halves(engine, flags, half)
    v_left, v_right = _halves(engine, values, half)
    kept = engine.add(engine.neg(f_right), 1)
    joined = engine.mul(engine.concat([kept, kept], axis=0), engine.concat([f_left, v_left], axis=0))
    ends = _latest(
        engine,
        engine.add(f_right, engine.rows(joined, 0, half)),
        engine.add(v_right, engine.rows(joined, half, 2 * half)),
    )
    middles = v_left
    if half > 1:
        free = engine.add(engine.neg(engine.rows(f_left, 1, half)), 1)
        carried = engine.mul(free, engine.rows(ends, 0, half - 1))
        later = engine.add(engine.rows(v_left, 1, half), carried)
        middles = engine.concat([engine.rows(v_left, 0, 1), later], axis=0)
    pairs = engine.concat([engine.reshape(middles, (half, 1)), engine.reshape(ends, (half, 1))], axis=1)
    return engine.rows(engine.reshape(pairs, (2 * half,)), 0, size)


def _halves(engine: Engine, x: Secret, half: int) -> tuple[Secret, Secret]:
    """Even and odd positions; a missing last one is 0."""
    if x.shape[0] < 2 * half:
        x = engine.concat([x, engine.zeros((1,), integer=True)], axis=0)
    pairs = engine.reshape(x, (half, 2))
    left, right = _column(engine, pairs, 0), _column(engine, pairs, 1)
    return engine.reshape(left, (half,)), engine.reshape(right, (half,))


def brier(engine: Engine, scores: Secret, bits: Secret) -> Secret:
    """The sum of (p - y)^2, a number (1,), where p is the sigmoid of the decision and y the true class.

    Args:
        scores: decisions (n,), numbers. bits: true classes (n,), integers.

    Cost: one sigmoid and one product a row. Reveals: nothing.
    Reference: Brier, "Verification of forecasts expressed in terms of probability" (1950), halved, as is usual for
        two classes.
    """
    error = engine.sub(engine.sigmoid(scores), bits)
    return _total(engine, engine.mul(error, error))


def error_limit(frac_bits: int, rows: int) -> float:
    """The largest |output - target| that a squared error counts.

    Its square must fit a product, below 2^(62 - 2 frac_bits), and the sum of `rows` squares the division of R2,
    below 2^(60 - frac_bits). The factor leaves room for what truncation rounds up.
    """
    return 0.999 * min(2.0 ** (31 - frac_bits), math.sqrt(2.0 ** (60 - frac_bits) / rows))


def squared_error(engine: Engine, outputs: Secret, targets: Secret, limit: float) -> tuple[Secret, Secret]:
    """The sum of (output - target)^2, a number (1,), and how much of it is wrong, an integer (1,).

    Each square is truncated by itself, so that the sum may exceed what a single product may. A square of an error
    of `limit` or more may wrap: the integer is 0 where no error is beyond it, positive otherwise, and the sum
    means nothing then.

    Args:
        outputs: numbers (n, 1). targets: numbers (n,).
        limit: at most what `error_limit` gives.

    Cost: two comparisons and one product a row. Reveals: nothing.
    """
    rows = outputs.shape[0]
    error = engine.sub(engine.reshape(outputs, (rows,)), targets)
    sides = engine.ge_zero(engine.add(engine.concat([error, engine.neg(error)], axis=0), limit))
    outside = engine.add(engine.neg(_total(engine, sides)), 2 * rows)
    return _total(engine, engine.mul(error, error)), outside


def total_squares(engine: Engine, counts: Sequence[int], means: Secret, shares: Secret, own: Secret) -> Secret:
    """The sum of (y - mean)^2 over the rows of several holders, a number (1,).

    Every holder knows its own moments and enters them as secrets; only what lies between the holders is computed
    here. Sums of squares minus squared sums would cancel: this form does not.

    Args:
        counts: public rows per holder, k of them.
        means: each holder's mean, (k,).
        shares: each holder's mean times its part of all rows, (k,); their sum is the common mean.
        own: each holder's sum of squares about its own mean, (k,).
    """
    if len(counts) == 1:
        return _total(engine, own)
    apart = engine.sub(means, _total(engine, shares))
    between = engine.times_integer(engine.mul(apart, apart), np.array(counts, dtype=np.int64))
    return _total(engine, engine.add(own, between))


def r2_parts(engine: Engine, error: Secret, total: Secret, bits: int) -> Secret:
    """What R2 = 1 - error / total is read from, (2,) numbers: the smaller over the larger, and [error <= total].

    R2 is 1 - q where the bit is 1 and 1 - 1/q where it is 0: any value of R2 fits, and nothing but R2 is in it.

    Args:
        error, total: numbers (1,), not negative, below 2^(bits - frac_bits).
    """
    fits = engine.ge_zero(engine.sub(total, error))
    change = engine.mul(fits, engine.sub(error, total))
    smaller, larger = engine.add(total, change), engine.sub(error, change)
    quotient = engine.divide_integers(engine.as_integer(smaller), engine.as_integer(larger), bits)
    return engine.concat([quotient, engine.add(engine.zeros((1,)), fits)], axis=0)

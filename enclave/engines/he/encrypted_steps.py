"""One step of gradient descent on encrypted weights, at one owner: its part of what the weights move by.

Weights have scale 2^WEIGHT_BITS, at the top of the chain where a step takes them and at the bottom where it leaves its
part. All other scales follow from the primes; they are public constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from enclave.engines.he.ckks import Encrypted, Evaluator, Plain
from enclave.engines.he.descent import OwnRows, Problem, sigmoid_coefficients
from enclave.engines.he.evaluation_keys import KeyUse
from enclave.engines.he.parameters import Parameters
from enclave.engines.he.periods import Diagonals, Period

__all__ = ["BOTTOM", "WEIGHT_BITS", "GramSteps", "RowSteps", "Steps", "carried", "key_uses", "pieces", "resting"]

BOTTOM = 2  # primes that a step leaves
WEIGHT_BITS = 46
_WEIGHT_SCALE = 2.0**WEIGHT_BITS
_ROW_SCALE = 2.0**40  # of z = P w


class Steps(Protocol):
    """An owner's plaintexts, encoded once."""

    def part(self, weights: Encrypted) -> Iterator[Encrypted | None]:
        """- M^T r(P w) / n of this owner's rows, at the bottom, behind a None for each of `pieces` but the last."""
        ...


def pieces(problem: Problem, owner: int, slots: int) -> int:
    """Pieces of an owner's work in a step: seconds each, so that who waits can be told of progress in between."""
    if problem.loss == "squared":
        return 1
    return -(-(problem.rows[owner] + problem.pseudo_rows(owner)) // slots)


def key_uses(loss: str, period: Period, count: int) -> tuple[KeyUse, ...]:
    """The keys of a step on weights of `count` primes."""
    turns = [KeyUse(1, count), KeyUse(period.baby, count - 1)]
    if loss == "squared":
        return tuple(turns)
    back = [KeyUse(-period.baby, BOTTOM + 1), KeyUse(-1, BOTTOM)]
    return (*turns, KeyUse(None, count - 1), *back, *(KeyUse(steps, BOTTOM) for steps in period.folds))


def resting(evaluator: Evaluator, problem: Problem, rows: OwnRows) -> Plain:
    """This owner's part of the first step, from weights of zero: in the clear, at the bottom."""
    residual = rows.residual(np.zeros(len(rows.target)), problem.loss)
    period = Period.of(problem.columns, evaluator.context.slots)
    return evaluator.encode(period.tiled(-rows.m.T @ residual / problem.total), BOTTOM, _WEIGHT_SCALE)


def carried(evaluator: Evaluator, weights: Encrypted, before: Encrypted | None, momentum: float) -> Encrypted:
    """weights + momentum (weights - before), at the bottom; None stands for zeros."""
    if not momentum:
        return evaluator.lower(weights, BOTTOM)
    step = float(evaluator.context.primes[BOTTOM])
    total = _times(evaluator, weights, 1.0 + momentum, step)
    if before is not None:
        total = evaluator.add(total, _times(evaluator, before, -momentum, step))
    return evaluator.at_scale(evaluator.rescale(total), _WEIGHT_SCALE)


def _times(evaluator: Evaluator, x: Encrypted, factor: float, scale: float) -> Encrypted:
    return evaluator.multiply_plain(evaluator.lower(x, BOTTOM + 1), evaluator.encode(factor, BOTTOM + 1, scale))


class GramSteps:
    """Of the squared loss: the part is b - G w for G = M^T P / n, whatever the number of rows. One level."""

    def __init__(self, evaluator: Evaluator, problem: Problem, rows: OwnRows) -> None:
        self._evaluator = evaluator
        self._period = period = Period.of(problem.columns, evaluator.context.slots)
        gram = np.zeros((period.size, period.size))
        gram[: problem.columns, : problem.columns] = -rows.m.T @ rows.p / problem.total
        repeated = np.tile(gram, (period.slots // period.size, 1))
        primes = evaluator.context.primes
        self._diagonals = period.encoded(evaluator, repeated, len(primes), float(primes[-1]))
        self._constant = resting(evaluator, problem, rows)

    def part(self, weights: Encrypted) -> Iterator[Encrypted | None]:
        """See `Steps`."""
        ev, period = self._evaluator, self._period
        moved = period.product(ev, self._diagonals, period.turned(ev, weights, 1, period.baby))
        yield ev.add_plain(ev.at_scale(moved, _WEIGHT_SCALE), self._constant)


@dataclass(frozen=True, slots=True)
class _Scales:
    """Of the numbers of a step, by level: the logistic loss's chain has levels 7 to 2."""

    rows: float  # of the diagonals of P
    square: float  # of z^2
    fourth: float  # of z^4
    residual: float

    @classmethod
    def of(cls, parameters: Parameters) -> _Scales:
        _, _, _, p3, p4, p5, p6 = parameters.primes
        square = _ROW_SCALE**2 / p5
        fourth = square**2 / p4
        return cls(p6 * _ROW_SCALE / _WEIGHT_SCALE, square, fourth, fourth * _ROW_SCALE / p3)


@dataclass(frozen=True, slots=True)
class _Block:
    """The plaintexts of S rows."""

    first: Diagonals  # of kappa P
    second: Diagonals  # of - M / n, in units that make the result's scale that of weights
    cubic: Plain  # c3 / kappa^2
    linear: Plain  # c1
    target: Plain  # kappa (1/2 - y)


class RowSteps:
    """Of the logistic loss: products with P and M around a polynomial of degree 5. Five levels.

    With kappa^4 = c5, z' = kappa z and u = z'^2:  kappa (p(z) - y) = z' (c1 + c3 / kappa^2 u + u^2) + kappa (1/2 - y).
    A pseudo row has c1 = 1, c3 = 0; its u^2 is below 2^-20 for weights below 2^6.
    """

    GRADIENT_PRIMES = BOTTOM + 1  # of the residual, and so of the second diagonals

    def __init__(self, evaluator: Evaluator, problem: Problem, rows: OwnRows) -> None:
        self._evaluator, self._problem, self._rows = evaluator, problem, rows
        self._period = Period.of(problem.columns, evaluator.context.slots)
        self._top = len(evaluator.context.primes)
        self._scales = _Scales.of(evaluator.context.parameters)
        self._coefficients = sigmoid_coefficients()
        self._kappa = float(self._coefficients[2] ** 0.25)
        self._blocks: list[_Block] = []

    def _encoded(self, index: int) -> _Block:
        """Block `index`, encoded when it is first needed: in order."""
        if index == len(self._blocks):
            slots = self._period.slots
            self._blocks.append(self._block(slice(index * slots, (index + 1) * slots)))
        return self._blocks[index]

    def _block(self, part: slice) -> _Block:
        ev, period, scales, kappa, top = self._evaluator, self._period, self._scales, self._kappa, self._top
        problem, rows = self._problem, self._rows
        c1, c3, _ = self._coefficients
        inside = (np.arange(len(rows.target)) < len(rows.target) - rows.pseudo)[part]
        shrunk = -_WEIGHT_SCALE / (scales.residual * kappa * problem.total)
        prime = float(ev.context.primes[self.GRADIENT_PRIMES - 1])
        target = np.where(inside, kappa * (0.5 - rows.target[part]), 0.0)
        return _Block(
            period.encoded(ev, rows.p[part] * kappa, top, scales.rows),
            period.encoded(ev, rows.m[part] * shrunk, self.GRADIENT_PRIMES, prime),
            ev.encode(np.where(inside, c3 / kappa**2, 0.0), top - 2, scales.square),
            ev.encode(np.where(inside, c1, 1.0), top - 3, scales.fourth),
            ev.encode(target, top - 4, scales.residual),
        )

    def part(self, weights: Encrypted) -> Iterator[Encrypted | None]:
        """See `Steps`."""
        ev, period = self._evaluator, self._period
        babies = period.turned(ev, weights, 1, period.baby)
        total: Encrypted | None = None
        for index in range(-(-len(self._rows.target) // period.slots)):
            if index:
                yield None
            block = self._encoded(index)
            found = period.transposed(ev, block.second, self._residual(block, babies))
            total = found if total is None else ev.add(total, found)
        assert total is not None
        folded = period.folded(ev, total)
        yield ev.at_scale(ev.times(folded, folded.scale / _WEIGHT_SCALE), _WEIGHT_SCALE)

    def _residual(self, block: _Block, babies: list[Encrypted]) -> Encrypted:
        """kappa (p(z) - y), a number for each row."""
        ev, period, scales = self._evaluator, self._period, self._scales
        z = ev.at_scale(period.product(ev, block.first, babies), _ROW_SCALE)
        square = ev.rescale(ev.square(z))
        quartic = ev.square(square)
        if not block.cubic.zero:  # a block of pseudo rows alone
            quartic = ev.add(quartic, ev.multiply_plain(square, block.cubic))
        slope = ev.add_plain(ev.at_scale(ev.rescale(quartic), scales.fourth), block.linear)
        product = ev.rescale(ev.multiply(slope, ev.lower(z, slope.count)))
        return ev.add_plain(ev.at_scale(product, scales.residual), block.target)

"""One step of gradient descent on encrypted weights, at one owner: its part of what the weights move by.

Weights have scale 2^WEIGHT_BITS, at the top of the chain where a step takes them and at the bottom where it leaves its
part. All other scales follow from the primes; they are public constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.ckks.evaluation_keys import KeyUse
from enclave.engines.he.ckks.evaluator import Encrypted, Evaluator, Plain
from enclave.engines.he.lattice.parameters import Parameters
from enclave.engines.he.regression.descent import Floats, OwnRows, Problem, sigmoid_coefficients
from enclave.engines.he.regression.periods import Diagonals, Period

__all__ = [
    "BOTTOM",
    "WEIGHT_BITS",
    "GramSteps",
    "RowSteps",
    "Steps",
    "carried",
    "key_uses",
    "paired",
    "pieces",
    "resting",
]

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
    return -(-(problem.rows[owner] + problem.pseudo_rows(owner)) // (2 * slots))


def paired(problem: Problem, slots: int) -> bool:
    """Whether some owner has more rows than there are slots."""
    return any(rows + problem.pseudo_rows(owner) > slots for owner, rows in enumerate(problem.rows))


def key_uses(problem: Problem, period: Period, count: int) -> tuple[KeyUse, ...]:
    """The keys of a step on weights of `count` primes."""
    turns = [KeyUse(1, count), KeyUse(period.baby, count - 1)]
    if problem.loss == "squared":
        return tuple(turns)
    back = [KeyUse(-period.baby, BOTTOM + 1), KeyUse(-1, BOTTOM)]
    halves = [KeyUse(None, count - 1, conjugates=True)] if paired(problem, period.slots) else []
    return (*turns, KeyUse(None, count - 1), *halves, *back, *(KeyUse(steps, BOTTOM) for steps in period.folds))


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
class _Half:
    """The plaintexts of S rows that are no products of matrices."""

    cubic: Plain  # c3 / kappa^2
    linear: Plain  # c1
    target: Plain  # kappa (1/2 - y)


@dataclass(frozen=True, slots=True)
class _Block:
    """The plaintexts of at most 2 S rows: one half, or two."""

    first: Diagonals  # of kappa P
    second: Diagonals  # of - M / n, in units that make the result's scale that of weights
    halves: tuple[_Half, ...]


class RowSteps:
    """Of the logistic loss: products with P and M around a polynomial of degree 5. Five levels.

    With kappa^4 = c5, z' = kappa z and u = z'^2:  kappa (p(z) - y) = z' (c1 + c3 / kappa^2 u + u^2) + kappa (1/2 - y).
    A pseudo row has c1 = 1, c3 = 0; its u^2 is below 2^-20 for weights below 2^6.

    A product takes 2 S rows at once: S as real parts, S as imaginary ones, that is times J, whose slots are i and -i in
    turn. J is the monomial X^(N/2), so that a product with it is exact and costs no level. Of z = z1 + J z2, 2 z1 is
    z + its conjugate and 2 J z2 is z - its conjugate; and M1 r1 + M2 r2 is the real part of (M1 - J M2) (r1 + J r2).
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
        self._j = 1j * (1.0 - 2.0 * (np.arange(self._period.slots) % 2))

    def _encoded(self, index: int) -> _Block:
        """Block `index`, encoded when it is first needed: in order."""
        if index == len(self._blocks):
            slots, start = self._period.slots, 2 * index * self._period.slots
            halves = [slice(start, start + slots)]
            if start + slots < len(self._rows.target):
                halves.append(slice(start + slots, start + 2 * slots))
            self._blocks.append(self._block(halves))
        return self._blocks[index]

    def _block(self, halves: list[slice]) -> _Block:
        ev, period, scales, rows = self._evaluator, self._period, self._scales, self._rows
        shrunk = -_WEIGHT_SCALE / (scales.residual * self._kappa * self._problem.total)
        prime = float(ev.context.primes[self.GRADIENT_PRIMES - 1])
        return _Block(
            period.encoded(ev, self._joined([rows.p[h] * self._kappa for h in halves], 1.0), self._top, scales.rows),
            period.encoded(ev, self._joined([rows.m[h] * shrunk for h in halves], -1.0), self.GRADIENT_PRIMES, prime),
            tuple(self._half(h) for h in halves),
        )

    def _joined(self, halves: list[Floats], sign: float) -> NDArray[np.inexact]:
        """A whole of two halves, each divided by 2 since taking them apart again doubles them; or the only one."""
        if len(halves) == 1:
            return halves[0]
        found = 0.5 * halves[0].astype(np.complex128)
        found[: len(halves[1])] += (0.5 * sign) * self._j[: len(halves[1]), None] * halves[1]
        return found

    def _half(self, part: slice) -> _Half:
        ev, scales, kappa, top, rows = self._evaluator, self._scales, self._kappa, self._top, self._rows
        c1, c3, _ = self._coefficients
        inside = (np.arange(len(rows.target)) < len(rows.target) - rows.pseudo)[part]
        target = np.where(inside, kappa * (0.5 - rows.target[part]), 0.0)
        return _Half(
            ev.encode(np.where(inside, c3 / kappa**2, 0.0), top - 2, scales.square),
            ev.encode(np.where(inside, c1, 1.0), top - 3, scales.fourth),
            ev.encode(target, top - 4, scales.residual),
        )

    def part(self, weights: Encrypted) -> Iterator[Encrypted | None]:
        """See `Steps`."""
        ev, period = self._evaluator, self._period
        babies = period.turned(ev, weights, 1, period.baby)
        total: Encrypted | None = None
        count = len(self._rows.target)
        for index in range(-(-count // (2 * period.slots))):
            if index:
                yield None
            block = self._encoded(index)
            found = period.transposed(ev, block.second, self._residuals(block, babies))
            if len(block.halves) == 2:
                found = ev.add(found, ev.conjugate(found))
            total = found if total is None else ev.add(total, found)
        assert total is not None
        folded = period.folded(ev, total)
        yield ev.at_scale(ev.times(folded, folded.scale / _WEIGHT_SCALE), _WEIGHT_SCALE)

    def _residuals(self, block: _Block, babies: list[Encrypted]) -> Encrypted:
        """kappa (p(z) - y), a number for each row: r1, or r1 + J r2."""
        ev = self._evaluator
        z = ev.at_scale(self._period.product(ev, block.first, babies), _ROW_SCALE)
        if len(block.halves) == 1:
            return self._residual(block.halves[0], z)
        mirrored = ev.conjugate(z)
        first = self._residual(block.halves[0], ev.add(z, mirrored))
        second = self._residual(block.halves[1], self._times_j(ev.sub(mirrored, z)))  # - J (z - mirrored)
        return ev.add(first, self._times_j(second))

    def _times_j(self, x: Encrypted) -> Encrypted:
        ev = self._evaluator
        return ev.multiply_plain(x, ev.encode(self._j, x.count, 1.0))

    def _residual(self, block: _Half, z: Encrypted) -> Encrypted:
        ev, scales = self._evaluator, self._scales
        square = ev.rescale(ev.square(z))
        quartic = ev.square(square)
        if not block.cubic.zero:  # a block of pseudo rows alone
            quartic = ev.add(quartic, ev.multiply_plain(square, block.cubic))
        slope = ev.add_plain(ev.at_scale(ev.rescale(quartic), scales.fourth), block.linear)
        product = ev.rescale(ev.multiply(slope, ev.lower(z, slope.count)))
        return ev.add_plain(ev.at_scale(product, scales.residual), block.target)

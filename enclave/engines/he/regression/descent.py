"""Gradient descent as a training under encryption has it, in the clear: its rows, its numbers, and a twin in numpy.

With n rows of all owners, weights w from zero, and the polynomial sigmoid p:

    w' = w - rate H^-1 (X^T (p(X w) - y) / n + l2 D w) + momentum (w - w_previous)

One owner: H is the Hessian that bounds the logistic loss's, X^T X / (4 n) + l2 D and a little damping, or for the
squared loss the Hessian itself: one step of rate 1 is then the exact solution. Preconditioning costs nothing under
encryption: the second product just has other plaintext rows, M = rate X H^-1. Several owners know no common Hessian,
and H is 1: plain gradient descent, each checking by its own largest eigenvalue that the rate cannot diverge.

The penalty is rows too: pseudo rows e_j whose link is the identity, so that a step has one form,

    w' = w - M^T r(P w) / n + momentum (w - w_previous)

for owners' rows P and M, residuals r = p(z) - y at rows, r = z at pseudo rows.

The sigmoid is the least-squares polynomial 1/2 + c1 z + c3 z^3 + c5 z^5 on [-INTERVAL, INTERVAL]. Of degree 5: its
leading coefficient is positive, so that outside of the interval too the residual pushes z back; degree 3 pushes out,
and diverges.

Reference: Böhning, Lindsay, "Monotonicity of quadratic-approximation algorithms" (1988), for the fixed Hessian; Kim et
al., "Logistic regression model training based on the approximate homomorphic encryption" (2018), for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.errors import BadData, BadSpec

__all__ = ["INTERVAL", "OwnRows", "Problem", "own_rows", "plain_training", "sigmoid_coefficients"]

Floats = NDArray[np.float64]
INTERVAL = 12.0
_DAMPING = 0.03  # of the mean eigenvalue of X^T X / n
_PSEUDO = 2.0**-3  # size of a pseudo row: its fifth power is lost in the first


@dataclass(frozen=True, slots=True)
class Problem:
    """The public numbers of a training.

    Attributes:
        loss: "logistic" or "squared".
        rows: of each owner.
        columns: weights, the bias last where there is one.
        steps: of gradient descent, each over all rows.
    """

    loss: str
    rows: tuple[int, ...]
    columns: int
    bias: bool
    steps: int
    rate: float = 1.0
    momentum: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in ("logistic", "squared"):
            raise BadSpec(f"expected the loss logistic or squared, found {self.loss}")
        if not self.rows or min(self.rows) < 1 or self.columns < 1 or self.steps < 1:
            raise BadSpec(f"expected owners with rows, columns and steps, found {self}")

    @property
    def alone(self) -> bool:
        """Whether one owner has all rows, and so a Hessian to precondition with."""
        return len(self.rows) == 1

    @property
    def exact(self) -> bool:
        """Whether the first step solves the problem: the owner's own Hessian of the squared loss."""
        return self.loss == "squared" and self.alone

    @property
    def total(self) -> int:
        """n."""
        return sum(self.rows)

    def pseudo_rows(self, owner: int) -> int:
        """Rows that stand for the penalty; the first owner has them."""
        return self.columns if self.l2 and owner == 0 and not self.exact else 0


@dataclass(frozen=True, slots=True, repr=False)
class OwnRows:
    """One owner's rows as the descent takes them, pseudo rows last.

    Attributes:
        p, m: [rows, columns]. target: [rows]. pseudo: how many pseudo rows.
    """

    p: Floats
    m: Floats
    target: Floats
    pseudo: int

    def residual(self, z: Floats, loss: str) -> Floats:
        """What the update multiplies M with, [rows]."""
        found: Floats = z - self.target
        if loss == "logistic":
            real = len(z) - self.pseudo
            powers = z[:real, None] ** np.arange(1, 6, 2)
            found[:real] = powers @ sigmoid_coefficients() + 0.5 - self.target[:real]
        return found


def sigmoid_coefficients() -> Floats:
    """c1, c3, c5 of the polynomial."""
    z = np.linspace(-INTERVAL, INTERVAL, 4001)
    powers = z[:, None] ** np.arange(1, 6, 2)
    found = np.linalg.lstsq(powers, 1.0 / (1.0 + np.exp(-z)) - 0.5, rcond=None)[0]
    return np.asarray(found, np.float64)


def own_rows(problem: Problem, owner: int, x: Floats, y: Floats, back: Floats | None = None) -> OwnRows:
    """Rows of an owner, prepared in the clear.

    Args:
        x: [rows, columns], ones in the column of the bias.
        y: 0 or 1, or numbers.
        back: [columns, columns]; the descent is that of the columns x @ back, such as standardised ones, and the
            weights are those of x all the same: back times theirs. None: of x itself.

    Raises: BadData: with several owners, a rate at which these rows could make the descent diverge.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    back = np.eye(problem.columns) if back is None else back
    natural = x @ back
    penalised = np.ones(problem.columns)
    penalised[problem.columns - problem.bias :] = 0.0
    if problem.alone:
        step = back @ _inverse_hessian(problem, natural, penalised)
    else:
        _check_rate(problem, natural)
        step = back * problem.rate
    p, m, count = x, natural @ step.T, problem.pseudo_rows(owner)
    if count:  # their z is _PSEUDO times a weight of the natural columns, their M undoes that
        p = np.concatenate((p, _PSEUDO * np.linalg.inv(back)))
        m = np.concatenate((m, (step * penalised).T * (problem.l2 * problem.total / _PSEUDO)))
        y = np.concatenate((y, np.zeros(count)))
    return OwnRows(p, m, y, count)


def _inverse_hessian(problem: Problem, x: Floats, penalised: Floats) -> Floats:
    """What one owner's gradient is multiplied by."""
    gram = x.T @ x / problem.total
    if problem.loss == "squared":
        return np.asarray(np.linalg.pinv(gram + problem.l2 * np.diag(penalised), hermitian=True))
    damping = _DAMPING * np.trace(gram) / problem.columns
    hessian = gram / 4 + problem.l2 * np.diag(penalised) + damping * np.eye(problem.columns)
    return np.asarray(problem.rate * np.linalg.inv(hessian))


def _check_rate(problem: Problem, x: Floats) -> None:
    """Several owners cannot see their common Hessian; each answers for its part of it.

    Safety: momentum is stable while rate times the largest eigenvalue stays below 2 (1 + momentum). That of all rows is
    at most the mean of the owners' own, weighted by rows; an owner may use its part of the rows, or one of k equal
    parts if that is more, and these add up to less than 2.
    """
    curvature = 1.0 if problem.loss == "squared" else 0.25
    own = curvature * float(np.linalg.eigvalsh(x.T @ x / len(x))[-1]) + problem.l2
    most = (1.0 + problem.momentum) * max(1.0, problem.total / (len(problem.rows) * len(x))) / own
    if problem.rate > most:
        raise BadData(
            "the learning rate is too large for the rows of an owner: the descent could diverge; "
            "lower the rate, or scale the columns down",
            hint="several owners descend by the plain gradient",
            detail=f"the largest rate for these rows is {most:.4g}",
        )


def plain_training(problem: Problem, owners: Sequence[OwnRows]) -> Floats:
    """The same training in the clear: weights [columns]."""
    weights = before = np.zeros(problem.columns)
    for _ in range(1 if problem.exact else problem.steps):
        moved = sum(rows.m.T @ rows.residual(rows.p @ weights, problem.loss) for rows in owners) / problem.total
        weights, before = weights - moved + problem.momentum * (weights - before), weights
    return weights

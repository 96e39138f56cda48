"""How far the phase of a ciphertext can be from its message: standard deviations, and the bound that is promised.

Errors are sub-Gaussian with their own variance as parameter (see `sampling`), so a linear form of independent errors
with coefficients c leaves z |c| sigma with probability at most 2 exp(-z^2 / 2): a proof, not a fit. `deviations`
takes z such that no coefficient of a ciphertext does so but with probability 2^-40, about 8.7.

Two steps are heuristic, as everywhere in the literature: the digits of a key switch are taken as uniform, and the
noise of different switches as independent. Norms of ternary polynomials are bounded by the worst case, N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from enclave.engines.he.lattice.expansion import Expansion
from enclave.engines.he.lattice.sampling import ERROR_VARIANCE

__all__ = [
    "FRESH_VARIANCE",
    "deviations",
    "dropping_variance",
    "expanded_energy",
    "switching_variance",
    "zero_variance",
]

_ROUNDING = 1 / 12  # variance of rounding to an integer
FRESH_VARIANCE = ERROR_VARIANCE + _ROUNDING  # of an encrypted phase, which was rounded


def deviations(bits: float, count: int) -> float:
    """z with count 2 exp(-z^2 / 2) = 2^-bits: how many standard deviations hold for `count` coefficients at once."""
    return math.sqrt(2 * math.log(2) * (bits + 1 + math.log2(count)))


def zero_variance(degree: int) -> float:
    """Of an encryption of zero under the public key: e u + e0 + e1 s."""
    return ERROR_VARIANCE * (1 + 2 * degree)


def dropping_variance(degree: int) -> float:
    """Of rounding both halves of a ciphertext to a lower modulus, in its units."""
    return _ROUNDING * (1 + degree)


def switching_variance(degree: int, primes: Sequence[int], special: int) -> float:
    """Of one key switch: the digits times their errors, divided by the special prime, and rounding."""
    digits = sum((prime / special) ** 2 for prime in primes) / 12
    return digits * degree * ERROR_VARIANCE + dropping_variance(degree)


def expanded_energy(expansion: Expansion, degree: int, switching: float) -> float:
    """Sum of the variances of a polynomial's coefficients, in the mean over the constants of an expansion.

    A split doubles the sum, be it of the fresh errors (2^l times as large, in one of 2^l coefficients) or of those
    of earlier switches, and adds those of its own switch.
    """
    total = 0.0
    for size in set(expansion.sizes):
        grown = 2.0 ** expansion.splits(size)
        energy = float((grown * FRESH_VARIANCE + (grown - 1) * switching).sum())
        total += expansion.sizes.count(size) * energy
    return degree * total / expansion.count

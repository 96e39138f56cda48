"""Trigonometric sums of c - x's mask in 32-bit words: public factors from tables, dealt ones from floats.

f(c - r) = constant + slope (c - r) + sum of a_k sin k w (c - r) + b_k cos k w (c - r) is linear in cos kwr and
sin kwr, which the dealer gives, and the slope makes few harmonics suffice: what is left over is periodic. The period
in units divides 2^64, so the ring's wrap-around is harmless. Sums are taken modulo 2^32, at `Series.scale`
fractional bits, of which `DEALT_BITS` are those of the dealt factors.

The public factors come from integer tables, so that they agree at all parties.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from enclave.engines.mpc.protocols import tables
from enclave.engines.mpc.protocols.blocks import blocked
from enclave.engines.mpc.tape import Array

__all__ = ["SLOPE_BITS", "Series", "dealt_factors", "evaluate", "moved_mask", "publics", "ramp_shift"]

U, U4 = np.uint64, np.uint32
SLOPE_BITS = 8  # fractional bits of slopes
_DEALT_BITS = 14
_INDEX_BITS = 16  # a period is looked up in 2^16 steps


@dataclass(frozen=True, slots=True)
class Series:
    """constant + slope x + sum of sines[k-1] sin(k w t) + cosines[k-1] cos(k w t), t = factor x, w = 2 pi / period.

    Coefficients and the constant are integers at 2^30, the slope is one at 2^8; `scale` are the fractional bits of
    32-bit sums, such that the value stays below 2^30. Minimax fits by linear programming; the tests check the errors.
    """

    name: str
    period: int
    constant: int
    sines: tuple[int, ...]
    cosines: tuple[int, ...] = ()
    factor: int = 1
    slope: int = 0
    scale: int = 30

    @property
    def harmonics(self) -> int:
        """Number of frequencies."""
        return max(len(self.sines), len(self.cosines))

    def period_bits(self, frac_bits: int) -> int:
        """Bits of a period of t for x with this many fractional bits."""
        return frac_bits + (self.period - 1).bit_length()


def publics(function: Series, cosines: Array, sines: Array, shift: int) -> tuple[Array, Array]:
    """Factors of the dealt cosines and sines, from those of k w c at 2^30, (harmonics, n); rounded off."""
    a, b = (
        np.array(given or (0,) * function.harmonics, np.int64)[:, None] for given in (function.sines, function.cosines)
    )
    # a sin(c - r) + b cos(c - r) = (a sin c + b cos c) cos r + (b sin c - a cos c) sin r
    half = 1 << (shift - 1)
    return (a * sines + b * cosines + half) >> shift, (b * sines - a * cosines + half) >> shift


@lru_cache(maxsize=16)
def _table(function: Series) -> Array:
    """(2, harmonics, 2^16) uint32: public factors in the middle of each step."""
    middles = 2 * np.arange(1 << _INDEX_BITS, dtype=U) + U(1)
    cosines, sines = tables.cos_sin(middles, _INDEX_BITS + 1, function.harmonics)
    shift = 2 * tables.ONE_BITS - (function.scale - _DEALT_BITS)
    return np.stack(publics(function, cosines, sines, shift)).astype(np.int32).view(U4)


def dealt_factors(function: Series, r: Array, frac_bits: int) -> Array:
    """(2, harmonics, n) uint32: cosines and sines of the mask's multiples. Only the dealer computes them."""
    bits, count = function.period_bits(frac_bits), function.harmonics

    def factors(r: Array) -> Array:
        angle = ((r * U(function.factor)) & U((1 << bits) - 1)).astype(np.float64)
        angle *= 2 * np.pi / (1 << bits)
        found = np.empty((2, count, len(r)), np.float32)
        # A factor of 2^14 from the start: the recurrence is linear.
        found[0, 0], found[1, 0] = np.cos(angle), np.sin(angle)
        twice = 2 * found[0, 0]
        found[:, 0] *= 1 << _DEALT_BITS
        for k in range(1, count):  # Chebyshev: f((k + 1) t) = 2 cos(t) f(k t) - f((k - 1) t)
            np.multiply(twice, found[:, k - 1], out=found[:, k])
            if k > 1:
                found[:, k] -= found[:, k - 2]
            else:
                found[0, 1] -= 1 << _DEALT_BITS
        return np.rint(found, out=found).astype(np.int32).view(U4)

    return blocked(factors, (2, count, len(r)), U4, r)


def ramp_shift(function: Series, frac_bits: int) -> int:
    """Bits by which x at `frac_bits` is moved up, so that the slope times it has the sum's scale; negative: down."""
    return function.scale - SLOPE_BITS - frac_bits


def _moved(words: Array, shift: int) -> Array:
    return (words << U(shift) if shift >= 0 else words >> U(-shift)).astype(U4)


def evaluate(function: Series, c: Array, dealt: Array, ramp: Array | None, frac_bits: int, leader: bool) -> Array:
    """Share of f(c - r) modulo 2^32 at `function.scale`.

    Args:
        dealt: share of `dealt_factors`.
        ramp: share of the mask moved by `ramp_shift`, for a function with a slope.
    """
    # Harmonic by harmonic, not in blocks: one table of 256 KB stays in cache, all of them would not.
    angle = c * U(function.factor)
    shift = function.period_bits(frac_bits) - _INDEX_BITS  # below 0 where fewer than 2^16 units make a period
    if shift >= 0:
        angle >>= U(shift)
    else:
        angle <<= U(-shift)
    angle &= U((1 << _INDEX_BITS) - 1)
    index = angle.view(np.int64)
    total, term = np.zeros(len(c), U4), np.empty(len(c), U4)
    for publics_of, shares_of in zip(_table(function), dealt, strict=True):
        for public, share in zip(publics_of, shares_of, strict=True):
            np.take(public, index, out=term, mode="clip")  # never out of range: "clip" only spares a buffer
            term *= share
            total += term
    if leader:
        total += U4((function.constant >> (tables.ONE_BITS - function.scale)) & 0xFFFFFFFF)
    if ramp is not None:
        line = _moved(c, ramp_shift(function, frac_bits)) - ramp if leader else U4(0) - ramp
        line *= U4(function.slope & 0xFFFFFFFF)
        total += line
    return total


def moved_mask(function: Series, r: Array, frac_bits: int) -> Array:
    """The mask as `evaluate` wants it: of a share when moved up, of the mask itself, by the dealer, when moved down."""
    return _moved(r, ramp_shift(function, frac_bits))

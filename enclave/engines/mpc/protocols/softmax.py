"""Softmax of rows of up to 16 columns: e^(x - max) over its sum, right for any gap between the columns.

1. Open c_i = x_i + r_i for each column: all pairs can be compared (`pairs`), with 0 and with +-15. Columns are
   compared to 2^-9, all rounded alike: what counts as the largest may be that much below it.
2. After the comparison's rounds, the number of columns that i beats, and of those that are above it by more than 15,
   are opened under masks modulo 16. A dealt table gives h_i = [i beats all others], another h_i times the mask of x_i,
   so max x = sum h_i x_i is linear; a third gives near_i = [none is above by more than 15] as a bit.
3. Open x_i - max + s_i modulo 2^32, and near_i under a flip. e^(x_i - max) is a public power times a dealt one, of two
   for the top digit of s_i, and of two for the flip: E_i.
4. Open E_i + m_i and their sum S + q. E_i / S is a trigonometric sum of S times E_i, linear in dealt products of the
   mask m_i, truncated, and the cosines and sines of q.

The maximum may have any number of fractional bits. Shares of x are used at 24 bits or fewer, which makes e^(x - max)
wrong by 2^-23 at most.
Reveals: nothing: every opened word is masked by uniform randomness used once.
Reference: masked openings and dealt tables as in Catrina, de Hoogh 2010, and Ishai et al., TCC 2013; the plan of the
rounds is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclave.engines.mpc.protocols import tables
from enclave.engines.mpc.protocols.comparison import Comparison, bit_share, comparison, tail
from enclave.engines.mpc.protocols.harmonics import Series, publics
from enclave.engines.mpc.protocols.pairs import COUNTS, Pairs, pair_differences, pair_indices, tally
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Draw, Spec, additive

__all__ = ["RATIO_BITS", "Softmax", "softmax"]

U, U2, U4, U1 = np.uint64, np.uint16, np.uint32, np.uint8
_COMPARED_BITS = 9  # fractional bits that are compared
_FLOOR = 15  # columns that are further below the maximum count as 0
_GAP_BITS = 24  # most fractional bits of gaps
_CENTRE = 15.5  # a gap in [-15, 0] is opened plus this, modulo 32
_DEALT_POWER_BITS, _POWER_BITS = 39, 52  # fractional bits of dealt powers and of E
_DROP = 32  # bits by which E is truncated
_FACTOR_BITS = 18  # of cosines and sines, dealt and public
RATIO_BITS = _POWER_BITS - _DROP + 2 * _FACTOR_BITS  # fractional bits of the result

# 1/S on [1, columns], absolute error 6e-5, 1.3e-4 and 1.6e-4
_QUOTIENTS = {
    4: Series(
        "quotient",
        64,
        1737712452,
        (-1052439917, -1116313744, -427768042, -39261603, 8337337),
        (1930840215, 398295731, -201172296, -119140656, -14770982),
        9,
    ),
    10: Series(
        "quotient",
        128,
        1664226247,
        (-1176763877, -1764684179, -1442240808, -715034015, -149555142, 65843479, 65315237, 22388065, 2937038),
        (2418398970, 1095230195, -46920627, -528795645, -454113323, -208281569, -48069839, -29784, 2139838),
        9,
    ),
    16: Series(
        "quotient",
        64,
        2137441733,
        (
            -1714738761,
            -2730971417,
            -2615935549,
            -1710023293,
            -661241939,
            39833192,
            282177086,
            234429088,
            112496098,
            31629949,
            3158758,
            -692850,
        ),
        (
            3397232626,
            1789359434,
            112275372,
            -942566734,
            -1173690406,
            -852843494,
            -402936359,
            -96972805,
            20196105,
            29362817,
            12189571,
            2184819,
        ),
        3,
    ),
}


def _coarse(bits: int) -> int:
    """Low bits that comparisons leave out: the largest column need be so but to 2^-9."""
    return max(bits - _COMPARED_BITS, 0)


def _quotient(columns: int) -> Series:
    return next(series for most, series in _QUOTIENTS.items() if columns <= most)


@dataclass(frozen=True, slots=True)
class Softmax:
    """All that a softmax of (rows, columns) needs, for numbers of `bits` fractional bits."""

    comparison: Comparison
    rows: int
    columns: int
    bits: int

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "softmax"

    @property
    def pairs(self) -> Pairs:
        """The comparison of all pairs."""
        return Pairs(self.comparison, self.rows, self.columns, _coarse(self.bits))

    @property
    def down(self) -> int:
        """Bits by which x is truncated for gaps."""
        return max(self.bits - _GAP_BITS, 0)

    @property
    def harmonics(self) -> int:
        """Frequencies of 1/S."""
        return _quotient(self.columns).harmonics

    @property
    def free(self) -> tuple[Spec, ...]:
        """The pairs'; masks of the two counts; of gaps; flips of near; masks of E and of S."""
        n, k = self.rows, self.columns
        return (
            *self.pairs.free,
            additive(2, n, k, dtype="u1"),
            additive(n, k, dtype="u4"),
            Spec((n, k), "u1", "xor"),
            additive(n, k),
            additive(n),
        )

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The pairs'; the mask of x moved down; h and h times it, near, by count; powers by flip and digit; cosines
        and sines of the mask of S; these and 1 times the mask of E moved down, and times its top bit."""
        n, k = self.rows, self.columns
        factors = 2 * self.harmonics
        return (
            *self.pairs.dealt,
            *((additive(n, k, dtype="u4"),) if self.down else ()),
            additive(2, COUNTS, n, k, dtype="u4"),
            Spec((n, k), "u2", "xor"),
            additive(2, 2, n, k),
            additive(factors, n),
            additive(1 + factors, n, k),
            additive(1 + factors, n, k, dtype="u4"),
        )

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From all masks."""
        *paired, counts, s, flips, m, q = free
        moved = (paired[0] >> U(self.down)).astype(U4)
        place = counts & U1(COUNTS - 1)
        won = np.zeros((2, COUNTS, self.rows, self.columns), U4)
        hit = ((place[0] + U1(self.columns - 1)) & U1(COUNTS - 1)).astype(np.intp)
        np.put_along_axis(won[0], hit[None], 1, axis=0)
        np.put_along_axis(won[1], hit[None], moved[None], axis=0)
        near = U2(1) << place[1].astype(U2)
        powers = np.zeros((2, 2, self.rows, self.columns), U)
        flip = (flips & U1(1)).astype(np.intp)[None]
        for digit in range(2):  # near = 1 where the opened bit is the complement of the flip
            np.put_along_axis(powers[:, digit], 1 - flip, _power(s, digit, self.bits - self.down)[None], axis=0)
        factors = _factors(_quotient(self.columns), q)
        whole = np.concatenate([np.full((1, self.rows), 1 << _FACTOR_BITS, U), factors])[:, :, None]
        top = (m >> U(63)).astype(U4)
        masks = () if not self.down else (moved,)
        return (
            *self.pairs.values(tuple(paired), draw),
            *masks,
            won,
            near,
            powers,
            factors,
            whole * (m >> U(_DROP)),
            whole.astype(U4) * top,
        )


def _power(s: Array, digit: int, frac_bits: int) -> Array:
    """e^(g - 15.5) / (public power) for gaps g + 15.5 opened with this top digit, under the mask s."""
    low = (s & U4((1 << (frac_bits + 4)) - 1)).astype(np.float64) / (1 << frac_bits)
    turn = (U4(digit) - (s >> U4(frac_bits + 4))) & U4(1)
    value = np.exp(16.0 * turn - low - _CENTRE)
    return np.asarray(np.rint(value * 2.0**_DEALT_POWER_BITS).astype(np.int64).view(U))


def _factors(function: Series, q: Array) -> Array:
    """(2 harmonics, n): cosines, then sines, of multiples of the mask of S."""
    bits = function.period_bits(_POWER_BITS)
    angle = ((q * U(function.factor)) & U((1 << bits) - 1)).astype(np.float64) * (2 * np.pi / (1 << bits))
    multiples = np.arange(1, function.harmonics + 1)[:, None] * angle
    both = np.concatenate([np.cos(multiples), np.sin(multiples)])
    return np.asarray(np.rint(both * (1 << _FACTOR_BITS)).astype(np.int64).view(U))


def softmax(session: Session, x: Tensor, bits: int) -> Protocol[Tensor]:
    """Shares of softmax at `RATIO_BITS` fractional bits, not truncated, for x (rows, columns), 2 to 16 columns.

    Error below 3e-4 (columns below e^-15 of the largest count as 0) for any x with |x| < 2^(61 - bits).
    Cost: 3 rounds and those of a comparison, 7 for many rows; a row of 10 columns: 0.7 kB from every party and 6.2 kB
    dealt. Reveals: nothing.
    """
    rows, columns = x.shape
    leader = session.leader
    pairs = len(pair_indices(columns)[0])
    coarse = _coarse(bits)
    entry = Softmax(comparison(session, rows * pairs, 3, high=63 - coarse, flips="u1"), rows, columns, bits)
    shares = session.deal(entry)
    paired = len(entry.pairs.free)
    masks, counts, s, flips, m, q = shares[0], *shares[paired : paired + 5]
    start = paired + 5
    stop = start + len(entry.pairs.dealt)
    compared = (*shares[:paired], *shares[start:stop])
    moved = shares[stop] if entry.down else session.local(lambda r: r.astype(U4), Spec((rows, columns), "u4"), masks)
    won, near, powers, factors, low, top = shares[stop + (1 if entry.down else 0) :]

    (c,) = yield [Item("softmax", session.local(np.add, (rows, columns), x, masks))]
    floor = _FLOOR << (bits - coarse)
    thresholds = np.array([0, -floor, floor], np.int64).view(U)
    gaps = session.local(lambda c: pair_differences(c >> U(coarse)), (rows * pairs,), c)
    found = bit_share(session, (yield from tail(session, entry.comparison, compared, gaps, thresholds)))
    wins = tally(session, found, 0, (1, -1), rows, columns)
    above = [tally(session, found, k, signs, rows, columns) for k, signs in ((1, (-1, 0)), (2, (0, 1)))]

    def masked_counts(wins: Array, below: Array, over: Array, t: Array) -> Array:
        return (np.stack([wins, below + over]) + t) & U1(COUNTS - 1)

    o = session.local(masked_counts, Spec((2, rows, columns), "u1"), wins, *above, counts)
    (opened,) = yield [Item("count", o)]

    def gap_and_near(
        c: Array, o: Array, moved: Array, won: Array, near: Array, s: Array, f: Array
    ) -> tuple[Array, ...]:
        place = (o & U1(COUNTS - 1)).astype(np.intp)
        g = (c >> U(entry.down)).astype(U4)
        h, h_mask = (np.take_along_axis(table, place[:1], axis=0)[0] for table in won)
        largest = (g * h - h_mask).sum(axis=1, keepdims=True, dtype=U4)
        gap = s - moved - largest
        if leader:
            gap += g + U4(round(_CENTRE * 2.0 ** (bits - entry.down)))
        bit = ((near >> place[1].astype(U2)) & U2(1)).astype(U1)
        return gap, (bit ^ f) & U1(1)

    kinds = (Spec((rows, columns), "u4"), Spec((rows, columns), "u1"))
    gap, bit = session.local(gap_and_near, kinds, c, opened, moved, won, near, s, flips)
    gap, bit = yield [Item("gap", gap), Item("near", bit, "xor")]

    def power(gap: Array, bit: Array, powers: Array) -> Array:
        frac_bits = bits - entry.down
        digit = (gap >> U4(frac_bits + 4)) & U4(1)
        both = np.where((bit & U1(1)).astype(bool), powers[1], powers[0])
        chosen = np.where(digit.astype(bool), both[1], both[0])
        public = tables.exponential_to_16(gap.reshape(-1).astype(U), frac_bits)
        return np.asarray(chosen * public.view(U).reshape(chosen.shape))

    e = session.local(power, (rows, columns), gap, bit, powers)
    total = session.local(lambda e, q: e.sum(axis=1, dtype=U) + q, (rows,), e, q)
    e, total = yield [Item("power", session.local(np.add, (rows, columns), e, m)), Item("total", total)]
    return session.local(
        lambda *a: _ratio(_quotient(columns), leader, *a), (rows, columns), e, total, factors, low, top
    )


def _ratio(function: Series, leader: bool, e: Array, total: Array, factors: Array, low: Array, top: Array) -> Array:
    """Shares of E / S from E + m and S + q in the clear."""
    angle = total * U(function.factor)
    cosines, sines = tables.cos_sin(angle, function.period_bits(_POWER_BITS), function.harmonics)
    weights = np.concatenate(publics(function, cosines, sines, 2 * tables.ONE_BITS - _FACTOR_BITS))
    constant = np.full((1, len(total)), function.constant >> (tables.ONE_BITS - _FACTOR_BITS), np.int64)
    weights = np.concatenate([constant, weights]).view(U)[:, :, None]
    # e >> 32 is (m >> 32) + (E >> 32), less 2^32 when E + m wrapped: when m has the top bit and e has not.
    found = (e >> U(_DROP)) * (weights[1:, :, 0] * factors).sum(axis=0, dtype=U)[:, None]
    if leader:
        found += (e >> U(_DROP)) * (weights[0] << U(_FACTOR_BITS))
    found -= (weights * low).sum(axis=0, dtype=U)
    wrapped = (weights.astype(U4) * top).sum(axis=0, dtype=U4).astype(U) << U(64 - _DROP)
    return np.asarray(found + (~e >> U(63)) * wrapped)

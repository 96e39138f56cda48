"""Reciprocal, inverse square root and logarithm on a declared interval, in six rounds.

1. Open c = x + r. x is compared with 4^k 2^p, k = 1, 2, ... (brackets), and with both ends.
2. When the bits are open under flips, the bracket's indicator times x / (4^k 2^p) is linear in dealt multiples of the
   flips, as in ReLU, with a public shift for each bracket: their sum is the normalised x' in [1, 4), modulo 2^32.
3. Open x' + r'. The function of x' is a trigonometric sum (`harmonics`).
4. Open it under a mask, which lifts it to 64 bits; times the brackets' indicators and powers of two it is linear.

Beyond the ends the result is that of the end: no input gives garbage.
Reveals: nothing: every opened word is masked by uniform randomness used once.
Reference: normalisation by powers of two as in Catrina, Saxena, "Secure computation with fixed-point numbers" (2010);
masked openings as in Catrina, de Hoogh (2010).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from enclave.engines.mpc.protocols.arithmetic import truncate
from enclave.engines.mpc.protocols.blocks import blocked, conditional
from enclave.engines.mpc.protocols.comparison import Comparison, comparison, tail
from enclave.engines.mpc.protocols.harmonics import Series, dealt_factors, evaluate, moved_mask
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Draw, Spec, additive
from enclave.errors import BadSpec

__all__ = ["INVERSE_ROOT", "LOGARITHM", "RECIPROCAL", "Bracketed", "inverse_sqrt", "logarithm", "reciprocal"]

U, U4, U1 = np.uint64, np.uint32, np.uint8
_NORMAL_BITS = 22  # fractional bits of x'
# Series hold from 1 - 2^-5 to 4 (1 + 2^-5). Comparisons leave out bits below 2^-6 of the first bracket, and the ends
# are compared with that much further out, so that all of the interval is within.
_MARGIN_BITS = 6
_GUARD_BITS = 15  # significant bits of the smallest result
_LOG_SHIFT = 0.25  # the logarithm's series is raised by it, so that it is positive

# 1/x on [1, 4]: relative error 1.5e-4; x^-1/2: 3.3e-5; log x + 1/4: absolute error 4.4e-5
RECIPROCAL = Series(
    "bracketed reciprocal",
    64,
    2206967728,
    (-1077941915, -846721086, -348041568, -52075811, 2526608),
    (1303873927, 313766247, -110448876, -84638434, -13711638),
    9,
    -64,
)
INVERSE_ROOT = Series(
    "bracketed inverse root",
    64,
    1647165555,
    (-473416025, -314946974, -121932930, -16414636, 1278923),
    (483432295, 103175654, -44259920, -30576440, -4654818),
    9,
    -48,
)
LOGARITHM = Series(
    "bracketed logarithm",
    32,
    -572762763,
    (390491740, 181242384, 88581676, 26287467, 3247214),
    (-514765719, -179079266, -36191332, 2594948, 2374335),
    5,
    128,
)


@dataclass(frozen=True, slots=True)
class Bracketed:
    """Comparisons with brackets and ends; what gates x, evaluates the series, lifts it and gates it.

    Attributes:
        first: p; bracket k is [4^k 2^p, 4^(k + 1) 2^p).
        lift: bits by which the series' sum is truncated.
        weighted: whether the sum is gated bracket by bracket, or once for all.
    """

    comparison: Comparison
    function: Series
    first: int
    lift: int
    weighted: bool

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "bracketed"

    @property
    def brackets(self) -> int:
        """How many there are."""
        return self.comparison.thresholds - 1

    @property
    def shifts(self) -> tuple[int, ...]:
        """Bits by which x is moved up in each bracket; negative: down."""
        return tuple(_NORMAL_BITS - self.first - 2 * k for k in range(self.brackets))

    @property
    def free(self) -> tuple[Spec, ...]:
        """The comparison's; the masks of x' and of the sum."""
        n = self.comparison.n
        return (*self.comparison.free, additive(2, n, dtype="u4"))

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The comparison's; flips of the brackets' indicators, of x below and above the ends, of x within; the mask
        moved down; flips times the moved masks; factors; what lifts the sum, and times the gates' flips."""
        n, count = self.comparison.n, self.brackets
        down = sum(shift < 0 for shift in self.shifts)
        return (
            *self.comparison.dealt[:-1],
            additive(count + (2 if self.weighted else 3), n),
            additive(down, n, dtype="u4"),
            additive(count, n, dtype="u4"),
            additive(2, self.function.harmonics, n, dtype="u4"),
            additive(2, 1 + (count if self.weighted else 1), n),
        )

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From the comparison's free tensors and the masks."""
        *compared, rho = self.comparison.values(free[:-1], draw)
        r, (r_normal, m) = free[0][: self.comparison.n], free[-1]
        count = self.brackets
        inside = rho[:-1] ^ rho[1:]
        rows = [*inside, rho[0], rho[-1]]
        if not self.weighted:
            rows.append(rho[0] ^ rho[-1])
        flips = np.stack(rows)
        moved = [_moved(r, shift) for shift in self.shifts]
        lifts = np.empty((2, 1 + (count if self.weighted else 1), len(m)), U)
        lifts[0, 0] = m >> U4(self.lift)
        lifts[1, 0] = (m >> U4(31)).astype(U) << U(32 - self.lift)  # what is too much when y + m wrapped
        np.multiply(lifts[:, :1], (inside if self.weighted else flips[-1:])[None], out=lifts[:, 1:])
        down = [mask for mask, shift in zip(moved, self.shifts, strict=True) if shift < 0]
        return (
            *compared,
            flips,
            np.stack(down) if down else np.zeros((0, len(m)), U4),
            np.stack([mask * flip.astype(U4) for mask, flip in zip(moved, inside, strict=True)]),
            dealt_factors(self.function, r_normal.astype(U), _NORMAL_BITS),
            lifts,
        )


def _moved(words: Array, shift: int) -> Array:
    """Low 32 bits of the words moved up, or down."""
    if shift >= 32:
        return np.zeros(words.shape, U4)
    return np.asarray((words << U(shift) if shift >= 0 else words >> U(-shift)).astype(U4))


@dataclass(frozen=True, slots=True)
class _Plan:
    """How an interval is cut: thresholds as integers, p, and the exponent of two of each bracket."""

    thresholds: Array
    first: int
    exponents: tuple[int, ...]
    low: float
    high: float


def _plan(bits: int, low: float, high: float, even: bool) -> _Plan:
    """Brackets for numbers with `bits` fractional bits; `even`: their exponents must be even."""
    if not 0 < low < high or low * 2.0**bits < 1 or high * 2.0**bits > 2.0**54:
        text = f"expected 2^-{bits} <= low < high <= 2^{54 - bits}, found {low} and {high}"
        raise BadSpec(f"a function needs the interval of its inputs: {text}")
    first = math.floor(math.log2(low)) + bits
    if even and (first - bits) % 2:
        first -= 1
    count = 1
    while 4.0**count * 2.0 ** (first - bits) < high:
        count += 1
    inner = [2.0 ** (first + 2 * k) for k in range(1, count)]
    margin = 2.0 ** (first - _MARGIN_BITS)
    least, most = low * 2.0**bits - margin, high * 2.0**bits + margin
    if inner:  # comparisons that leave out bits must not swap neighbours
        least, most = min(least, inner[0] - 4 * margin), max(most, inner[-1] + 4 * margin)
    thresholds = np.array([round(t) for t in (least, *inner, most)], np.int64).view(U)
    return _Plan(thresholds, first, tuple(first - bits + 2 * k for k in range(count)), low, high)


def _bracketed(
    session: Session,
    x: Tensor,
    plan: _Plan,
    function: Series,
    lift: int,
    weights: list[int] | None,
    ends: list[int],
    steps: list[int],
) -> Protocol[Tensor]:
    """Sum of indicators times (weight times the series + step), and the ends' values beyond them. Six rounds.

    Args:
        weights: of the lifted series, one a bracket; None: all 1.
        ends: results below and above the interval.
        steps: what is added in each bracket.
    """
    n, leader, count = x.shape[0], session.leader, len(plan.exponents)
    compared = comparison(session, n, count + 1, low=max(plan.first - _MARGIN_BITS, 0))
    entry = Bracketed(compared, function, plan.first, lift, weights is not None)
    shares = session.deal(entry)
    free, inside = len(compared.free), len(compared.free) + len(compared.dealt)
    masks, (flips, down, products, factors, lifts) = shares[free], shares[inside:]
    (c,) = yield [Item("bracketed", session.local(lambda x, r: x + r[:n], (n,), x, shares[0]))]
    # The shares of flips returned with the bits are not used: gates have flips of their own.
    used = (*shares[:free], *shares[free + 1 : inside], flips)
    found = yield from tail(session, compared, used, c, plan.thresholds)

    def normal(c: Array, r: Array, d: Array, flips: Array, down: Array, products: Array, masks: Array) -> Array:
        total, lower = masks[0].copy(), iter(down)
        for k, shift in enumerate(entry.shifts):
            g, mask = _moved(c, shift), next(lower) if shift < 0 else _moved(r, shift)
            gated = g * flips[k].astype(U4) - products[k]
            whole = g - mask if leader else U4(0) - mask
            total += conditional(d[k] ^ d[k + 1], gated, whole)
        return np.asarray(total)

    share = session.local(
        lambda c, r, *a: blocked(normal, (n,), U4, c, r[:n], *a),
        Spec((n,), "u4"),
        c,
        shares[0],
        found.masked,
        flips,
        down,
        products,
        masks,
    )
    (opened,) = yield [Item("normal", share)]

    def series(opened: Array, factors: Array, masks: Array) -> Array:
        wide = opened.astype(U)
        ramp = moved_mask(function, masks[0].astype(U), _NORMAL_BITS)
        return np.asarray(evaluate(function, wide, factors, ramp, _NORMAL_BITS, leader) + masks[1])

    (e,) = yield [Item("lift", session.local(series, Spec((n,), "u4"), opened, factors, masks))]

    def result(e: Array, d: Array, flips: Array, lifts: Array) -> Array:
        unwrapped = (e >> U4(31)).astype(U) - U(1)  # all ones where the top bit is 0
        hidden = lifts[0] - (lifts[1] & unwrapped)
        value = (e >> U4(lift)).astype(U)
        whole = value - hidden[0] if leader else U(0) - hidden[0]
        total = np.zeros(len(e), U)
        gates = [d[k] ^ d[k + 1] for k in range(count)]
        within = (
            list(zip(gates, flips, hidden[1:], strict=False)) if weights else [(d[0] ^ d[-1], flips[-1], hidden[1])]
        )
        for weight, (gate, flip, masked) in zip(weights or [1], within, strict=True):
            total += conditional(gate, value * flip - masked, whole) * U(weight)
        constants = [*zip(gates, flips, steps, strict=False), (U1(1) ^ d[0], flips[count], ends[0])]
        constants.append((d[-1], flips[count + 1], ends[1]))
        for gate, flip, constant in constants:
            if constant:
                total += conditional(gate, flip, U(leader)) * U(constant & (1 << 64) - 1)
        return total

    return session.local(lambda *a: blocked(result, (n,), U, *a), (n,), e, found.masked, flips, lifts)


def _power(
    session: Session, x: Tensor, bits: int, frac_bits: int, low: float, high: float, function: Series, halves: int
) -> Protocol[Tensor]:
    """x^(-halves / 2)."""
    plan = _plan(bits, low, high, halves == 1)
    exponents = [-exponent * halves // 2 for exponent in plan.exponents]  # of two, of the results; falling
    out = max(frac_bits, _GUARD_BITS - exponents[-1])
    lift = min(max(function.scale - out - exponents[-1], 0), 30)
    weights = [1 << (out + exponent - function.scale + lift) for exponent in exponents]
    ends = [round(end ** (-halves / 2) * 2.0**out) for end in (plan.low, plan.high)]
    z = yield from _bracketed(session, x, plan, function, lift, weights, ends, [0] * len(weights))
    return (yield from truncate(session, z, out - frac_bits))


def reciprocal(session: Session, x: Tensor, bits: int, frac_bits: int, low: float, high: float) -> Protocol[Tensor]:
    """Shares of 1/x at `frac_bits`, for flat x with `bits` fractional bits, any |x| < 2^(62 - bits).

    x counts as `low` below it, and as `high` above; within low / 32 beyond an end, 1/x may still go on.
    Error: 2^-9 of the value at worst, 7e-4 of it as measured, and one unit.
    Cost: 6 rounds for many elements, 7 where 1/high has fewer than 15 bits; 16 B and the wires of b + 1 comparisons
    from every party, for b = log4(high / low) brackets, rounded up; dealt 80 B, 28 to 32 b B, and b + 1 comparisons on
    one mask: 280 B for [1/16, 64]. Reveals: nothing.

    Raises: BadSpec for an interval that is not positive, or too wide.
    """
    return (yield from _power(session, x, bits, frac_bits, low, high, RECIPROCAL, 2))


def inverse_sqrt(session: Session, x: Tensor, bits: int, frac_bits: int, low: float, high: float) -> Protocol[Tensor]:
    """Shares of x^-1/2. Error 2^-11 of the value, and one unit. Otherwise as `reciprocal`."""
    return (yield from _power(session, x, bits, frac_bits, low, high, INVERSE_ROOT, 1))


def logarithm(session: Session, x: Tensor, bits: int, frac_bits: int, low: float, high: float) -> Protocol[Tensor]:
    """Shares of the natural logarithm at `frac_bits`. Absolute error 2^-12, and one unit; domain as of `reciprocal`.

    Cost: 6 rounds for many elements; as `reciprocal`, but 16 b B dealt. Reveals: nothing.
    """
    plan = _plan(bits, low, high, False)
    lift = max(LOGARITHM.scale - frac_bits, 0)
    out = LOGARITHM.scale - lift
    steps = [round((exponent * math.log(2) - _LOG_SHIFT) * 2.0**out) for exponent in plan.exponents]
    ends = [round(math.log(end) * 2.0**out) for end in (plan.low, plan.high)]
    z = yield from _bracketed(session, x, plan, LOGARITHM, lift, None, ends, steps)
    up = frac_bits - out
    return z if not up else session.local(lambda z: z << U(up), z.shape, z)

"""Functions that are smooth inside an interval and constant, or the identity, beyond it: sigmoid, tanh, GELU, erf.

1. Open c = x + r. Of c alone follow: shares y of a trigonometric sum, right inside [-end, end] (`harmonics`), modulo
   2^32; and the leaves of two comparisons, b1 = [x >= -end] and b2 = [x >= end].
2. With the comparisons' next opening, open e = y + m modulo 2^32, which lifts y to 64 bits and truncates it.
3. The comparisons' bits are opened as d1 = b1 ^ rho1, d2 = b2 ^ rho2. Inside the interval b1 ^ b2 = 1, and with
   rho = rho1 ^ rho2 and d = d1 ^ d2 in the clear, (b1 ^ b2) y is linear in dealt multiples of rho. Beyond, b2 times
   a constant or b2 x is linear too, as in ReLU.

x may have any number of fractional bits up to 44: nothing is truncated first. Comparisons leave out the bits below
1/64, since the sum is right that far beyond the ends.

Rounds: those of the comparison, 4 for many elements.
Reveals: nothing: every opened word is masked by uniform randomness used once.
Reference: masked opening as in Catrina, de Hoogh 2010; the lift is that of Dalskov, Escudero, Keller (2020), section 5.
A sine of a masked sum is linear in sines and cosines of the mask by the addition theorem; the layout is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclave.engines.mpc.protocols.blocks import blocked, conditional
from enclave.engines.mpc.protocols.comparison import Comparison, Gating, comparison, tail
from enclave.engines.mpc.protocols.harmonics import (
    Series,
    dealt_factors,
    evaluate,
    moved_mask,
    ramp_shift,
)
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor, together
from enclave.engines.mpc.tape import Array, Draw, Spec, additive

__all__ = ["ERF", "GELU", "SIGMOID", "TANH", "Curve", "Saturating", "curve", "erf", "gelu", "sigmoid", "tanh"]

U, U4 = np.uint64, np.uint32
_OFFSET = 1 << 30  # sums lie in [-2^30, 2^30)
_MARGIN_BITS = 6  # the series hold to 2^-6 beyond the ends
_ONE = 1 << 30


@dataclass(frozen=True, slots=True)
class Curve:
    """A function: `below` left of -end, below + the series inside, `above` right of end, or x there."""

    series: Series
    end: float
    below: int
    above: int | None


_HALF = 1 << 29
# sigma(x): error 2.5e-4 inside, 3.7e-4 at the ends
SIGMOID = Curve(
    Series("sigmoid", 256, _HALF, (275982293, 79025165, 24604136, 7766471, 2410628, 867307), (), 15, 15), 7.9, 0, 1
)
# tanh(x) + 1: error 4.9e-4 inside, 5.5e-4 at the ends
TANH = Curve(
    Series("tanh", 128, _ONE, (551964421, 158050331, 49208272, 15533107, 4821665, 1734759), (), 15, 60, 29), 4.1, -1, 1
)
# x Phi(x), which is x / 2 and an even function: error 1.2e-4 inside, 2.3e-4 at the ends
GELU = Curve(
    Series("gelu", 256, 1426250804, (), (-1248435008, -65626073, -98580466, -5933274, -7556601), 23, 128, 28),
    3.85,
    0,
    None,
)
# erf(x) + 1: error 5e-6 inside, 2.4e-4 at the ends
ERF = Curve(Series("erf", 64, _ONE, (510690200, 106479299, 16520689, 1611346, 91461), (), 11, 88, 29), 2.6, -1, 1)


@dataclass(frozen=True, slots=True)
class Saturating:
    """A comparison with the ends, the series' factors on the same mask, and what lifts and gates the sum.

    Attributes:
        bits: fractional bits of x.
        lift: bits by which the sum is truncated.
        identity: whether b2 x is wanted, truncated by `shift`.
    """

    comparison: Comparison
    function: Series
    bits: int
    lift: int
    identity: bool
    shift: int

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return self.function.name

    @property
    def gating(self) -> Gating:
        """Of b2 x."""
        return Gating(self.comparison.n, self.shift)

    @property
    def deals_ramp(self) -> bool:
        """Whether the slope needs the mask moved down, which cannot be done on shares."""
        return self.function.slope != 0 and ramp_shift(self.function, self.bits) < 0

    @property
    def free(self) -> tuple[Spec, ...]:
        """The comparison's; the mask of the sum."""
        return (*self.comparison.free, additive(self.comparison.n, dtype="u4"))

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The comparison's; rho and rho2; factors; what lifts the sum, and rho times it; the ramp; the identity's."""
        n = self.comparison.n
        ramp = (additive(n, dtype="u4"),) if self.deals_ramp else ()
        gating = self.gating.dealt if self.identity else ()
        factors = additive(2, self.function.harmonics, n, dtype="u4")
        return (*self.comparison.dealt[:-1], additive(2, n), factors, additive(4, n), *ramp, *gating)

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From the comparison's free tensors and the mask."""
        *compared, flips = self.comparison.values(free[:-1], draw)
        r, m = free[0][: self.comparison.n], free[-1]
        rho = flips[0] ^ flips[1]
        lifts = np.empty((4, len(m)), U)
        lifts[0] = m >> U4(self.lift)
        lifts[1] = (m >> U4(31)).astype(U) << U(32 - self.lift)  # what is too much when y + m wrapped
        np.multiply(lifts[:2], rho, out=lifts[2:])
        ramp = (moved_mask(self.function, r, self.bits),) if self.deals_ramp else ()
        gating = self.gating.values(r, flips[1]) if self.identity else ()
        factors = dealt_factors(self.function, r, self.bits)
        return (*compared, np.stack([rho, flips[1]]), factors, lifts, *ramp, *gating)


def curve(session: Session, x: Tensor, function: Curve, bits: int, frac_bits: int) -> Protocol[Tensor]:
    """Shares of the function at `frac_bits` for flat x with `bits` fractional bits; any |x| < 2^(62 - bits).

    Error: that of the curve, 2e-4 from rounded factors, and one unit.
    Cost: 4 rounds for many elements; 12 B an element from every party and the comparison's wires, 19 B in all; dealt
    48 B, 8 B a harmonic and a comparison's with two thresholds, 131 B in all for a sigmoid of 20 fractional bits, and
    8 B (or 28 when x has more bits than the result) for functions that become the identity. Reveals: nothing.
    """
    n, series = x.shape[0], function.series
    lift = max(series.scale - frac_bits, 0)
    compared = comparison(session, n, 2, low=max(bits - _MARGIN_BITS, 0))
    entry = Saturating(compared, series, bits, lift, function.above is None, max(bits - frac_bits, 0))
    shares = session.deal(entry)
    free, inside = len(compared.free), len(compared.free) + 1 + len(compared.dealt) - 1
    m, flips, factors, lifts = shares[free], *shares[inside : inside + 3]
    rest = shares[inside + 3 :]
    ramp_at, rest = (rest[0], rest[1:]) if entry.deals_ramp else (shares[0], rest)
    (c,) = yield [Item(entry.kind, session.local(lambda x, r: x + r[:n], (n,), x, shares[0]))]

    def masked_sum(c: Array, factors: Array, mask: Array, m: Array) -> Array:
        ramp = None
        if series.slope:
            ramp = mask if entry.deals_ramp else moved_mask(series, mask[:n], bits)
        y = evaluate(series, c, factors, ramp, bits, session.leader)
        y += m
        if session.leader:
            y += U4(_OFFSET)
        return y

    def open_sum() -> Protocol[Tensor]:
        e = session.local(masked_sum, Spec((n,), "u4"), c, factors, ramp_at, m)
        (opened,) = yield [Item("lift", e)]
        return opened

    ends = np.array([-round(function.end * 2.0**bits), round(function.end * 2.0**bits)], np.int64).view(U)
    used = (*shares[:free], *shares[free + 1 : inside], flips)
    bits_found, e = yield from together(tail(session, compared, used, c, ends), open_sum())
    shift_up = U(max(frac_bits - series.scale, 0))

    def within(d: Array, e: Array, flips: Array, lifts: Array) -> Array:
        return _within(session.leader, d[0] ^ d[1], e, flips[0], lifts, lift) << shift_up

    inside_value = session.local(lambda *a: blocked(within, (n,), U, *a), (n,), bits_found.masked, e, flips, lifts)
    base = U((function.below << frac_bits) & (1 << 64) - 1) if session.leader else U(0)
    if function.above is None:
        d2, rho2, r = (
            session.local(part, (n,), source)
            for part, source in (
                (lambda d: d[1], bits_found.masked),
                (lambda f: f[1], flips),
                (lambda r: r[:n], shares[0]),
            )
        )
        beyond = entry.gating.select(session, c, 0, d2, rho2, r, rest)
        up = U(max(frac_bits - bits, 0))
        return session.local(lambda y, b: y + (b << up) + base, (n,), inside_value, beyond)
    height = U((function.above - function.below) << frac_bits)

    def add_step(y: Array, d: Array, flips: Array) -> Array:
        """y + below + b2 (above - below)."""
        step = flips[1] * height
        y = y + base
        return np.asarray(y + conditional(d[1], step, height if session.leader else U(0)))

    return session.local(lambda *a: blocked(add_step, (n,), U, *a), (n,), inside_value, bits_found.masked, flips)


def _within(leader: bool, d: Array, e: Array, rho: Array, lifts: Array, lift: int) -> Array:
    """Share of (b1 ^ b2) y, y = (e - m - 2^30) >> lift."""
    unwrapped = (e >> U4(31)).astype(U) - U(1)  # all ones where the top bit is 0
    value = (e >> U4(lift)).astype(U) - U(_OFFSET >> lift)
    gated = value * rho - (lifts[2] - (lifts[3] & unwrapped))
    whole = (lifts[1] & unwrapped) - lifts[0]
    if leader:
        whole += value
    return conditional(d, gated, whole)


def sigmoid(session: Session, x: Tensor, bits: int, frac_bits: int) -> Protocol[Tensor]:
    """Shares of 1 / (1 + e^-x): error below 6e-4 for every x; 0 and 1 exactly beyond 7.9. Cost: see `curve`."""
    return (yield from curve(session, x, SIGMOID, bits, frac_bits))


def tanh(session: Session, x: Tensor, bits: int, frac_bits: int) -> Protocol[Tensor]:
    """Shares of tanh x: error below 8e-4 for every x; -1 and 1 exactly beyond 4.1. Cost: see `curve`."""
    return (yield from curve(session, x, TANH, bits, frac_bits))


def gelu(session: Session, x: Tensor, bits: int, frac_bits: int) -> Protocol[Tensor]:
    """Shares of x Phi(x): error below 6e-4 for every x; 0 and x beyond 3.85. Cost: see `curve`."""
    return (yield from curve(session, x, GELU, bits, frac_bits))


def erf(session: Session, x: Tensor, bits: int, frac_bits: int) -> Protocol[Tensor]:
    """Shares of erf x: error below 5e-4 for every x; -1 and 1 exactly beyond 2.6. Cost: see `curve`."""
    return (yield from curve(session, x, ERF, bits, frac_bits))

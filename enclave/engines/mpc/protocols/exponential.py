"""e^x on a declared interval, and the values of its ends beyond it.

1. Open c = x + r. Modulo 8 D units, e^x is e^(low part of c), public, times e^-(low part of r), times e^8 to the
   difference of their top digits, which the dealer gives for each of the D digits that c may have: a share y.
2. With the next opening of the two comparisons with the ends, open y + m, which truncates y.
3. The comparisons' bits are opened under flips, by which the value is gated (see `saturating`).

Reveals: nothing: every opened word is masked by uniform randomness used once.
Reference: masked opening as in Catrina, de Hoogh 2010; e^c e^-r is a law of powers, as Kelkar et al. use it in "Secure
Poisson regression" (USENIX Security 2022); tables by digit as in Ishai et al., TCC 2013.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from enclave.engines.mpc.protocols import tables
from enclave.engines.mpc.protocols.blocks import blocked, conditional
from enclave.engines.mpc.protocols.comparison import Comparison, comparison, tail
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor, together
from enclave.engines.mpc.tape import Array, Draw, Spec, additive
from enclave.errors import BadSpec

__all__ = ["EXP_HIGH", "EXP_LOW", "Exponential", "exponential"]

U = np.uint64
EXP_LOW, EXP_HIGH = -13.5, 10.0  # e^-13.5 is about a unit of 20 fractional bits
_WIDTH = 8  # units of a digit
_PUBLIC_BITS = 13
_ROOM = 0.25  # units between the ends and where the digits wrap
_MARGIN = 2.0**-5  # comparisons leave out what is below
_FINEST = 1 << 10  # the ends are multiples of 2^-10
_LOWEST = 64


@dataclass(frozen=True, slots=True)
class Exponential:
    """A comparison with the ends, powers on the same mask, and what truncates and gates their product.

    Attributes:
        bits: fractional bits of x.
        low: the lower end, (low + 64) * 2^10.
        digits: D, a power of two.
        scale: fractional bits of dealt powers.
        shift: bits by which the product is truncated.
    """

    comparison: Comparison
    bits: int
    low: int
    digits: int
    scale: int
    shift: int

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "exponential"

    @property
    def free(self) -> tuple[Spec, ...]:
        """The comparison's; the mask of the product."""
        return (*self.comparison.free, additive(self.comparison.n))

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The comparison's; rho and rho2; powers by digit; what truncates the product, and rho times it."""
        n = self.comparison.n
        return (*self.comparison.dealt[:-1], additive(2, n), additive(self.digits, n), additive(4, n))

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From the comparison's free tensors and the mask."""
        *compared, flips = self.comparison.values(free[:-1], draw)
        r, m = free[0][: self.comparison.n], free[-1]
        rho = flips[0] ^ flips[1]
        lifts = np.empty((4, len(m)), U)
        np.right_shift(m, U(self.shift), out=lifts[0])
        np.left_shift(m >> U(63), U(64 - self.shift), out=lifts[1])  # what is too much when y + m wrapped
        np.multiply(lifts[:2], rho, out=lifts[2:])
        return (*compared, np.stack([rho, flips[1]]), self._powers(r), lifts)

    def _powers(self, r: Array) -> Array:
        below = self.bits + 3
        steps = np.exp(float(_WIDTH) * np.arange(self.digits))
        shift = self.low / _FINEST - _LOWEST - _ROOM + self.scale * math.log(2)

        def powers(r: Array) -> Array:
            base = np.exp((r & U((1 << below) - 1)).astype(np.float64) * -(2.0**-self.bits) + shift)
            top = ((r >> U(below)) & U(self.digits - 1)).astype(np.int64)
            found = np.empty((self.digits, len(r)), np.int64)
            for digit in range(self.digits):
                # Digits that no x within the ends can have would pass 2^63; what they hold does not matter.
                found[digit] = np.minimum(np.rint(base * steps[(digit - top) & (self.digits - 1)]), 2.0**62)
            return found.view(U)

        return blocked(powers, (self.digits, len(r)), U, r)


def exponential(
    session: Session, x: Tensor, bits: int, frac_bits: int, low: float = EXP_LOW, high: float = EXP_HIGH
) -> Protocol[Tensor]:
    """Shares of e^min(max(x, low), high) at `frac_bits`, for flat x with `bits` fractional bits, |x| < 2^(61 - bits).

    Error: 2^-13 of the value, and 2 units (more where e^high * 2^frac_bits passes 2^36: an exponential has 46 bits
    below e^10). Within 2^-4 beyond an end, e^x may still go on.
    Cost: 4 rounds for many elements; 16 B an element from every party and the comparison's wires; dealt 80 B and a
    comparison's with two thresholds; 32 B more for each doubling of high - low beyond 23.5. Reveals: nothing.

    Raises: BadSpec for ends that are not within [-40, 28], in order, multiples of 2^-10.
    """
    if not (-40 <= low < high <= 28 and low * _FINEST == round(low * _FINEST)):
        raise BadSpec(f"an exponential needs ends -40 <= low < high <= 28 in steps of 2^-10, found {low} and {high}")
    n, leader = x.shape[0], session.leader
    total = min(math.floor(61 - high / math.log(2)), frac_bits + 36)
    digits = 2
    while (digits - 1) * _WIDTH < high - low + 2 * _ROOM:
        digits *= 2
    compared = comparison(session, n, 2, low=max(bits - 5, 0))
    entry = Exponential(
        compared, bits, round((low + _LOWEST) * _FINEST), digits, total - _PUBLIC_BITS, max(total - frac_bits, 1)
    )
    shares = session.deal(entry)
    free, inside = len(compared.free), len(compared.free) + len(compared.dealt)
    m, flips, powers, lifts = shares[free], *shares[inside:]
    origin = U(round((_ROOM - low) * 2.0**bits) & (1 << 64) - 1)

    def masked(x: Array, r: Array) -> Array:
        return np.asarray(x + r[:n] + origin if leader else x + r[:n])

    (c,) = yield [Item("exponential", session.local(masked, (n,), x, shares[0]))]

    def product(c: Array, powers: Array, m: Array) -> Array:
        below, size = bits + 3, len(c)
        digit = ((c >> U(below)) & U(digits - 1)).astype(np.intp)
        digit *= size
        digit += np.arange(size)
        chosen = powers.reshape(-1).take(digit)
        chosen *= tables.exponential_to_16(c & U((1 << below) - 1), bits).view(U)
        chosen += m
        return np.asarray(chosen)

    def open_product() -> Protocol[Tensor]:
        (opened,) = yield [Item("power", session.local(lambda *a: blocked(product, (n,), U, *a), (n,), c, powers, m))]
        return opened

    # Further out by what comparisons leave out, so that all of the interval is within.
    ends = np.array([round((_ROOM + end) * 2.0**bits) for end in (-_MARGIN, high - low + _MARGIN)], np.int64).view(U)
    used = (*shares[:free], *shares[free + 1 : inside], flips)
    found, e = yield from together(tail(session, compared, used, c, ends), open_product())
    least, most = (U(round(math.exp(end) * 2.0**frac_bits)) for end in (low, high))

    def gated(d: Array, e: Array, flips: Array, lifts: Array) -> Array:
        """least + [within] (y - least) + [beyond] (most - least)."""
        unwrapped = (e >> U(63)) - U(1)  # all ones where the top bit is 0
        value = (e >> U(entry.shift)) - least
        chosen = value * flips[0] - (lifts[2] - (lifts[3] & unwrapped))
        whole = (lifts[1] & unwrapped) - lifts[0]
        if leader:
            whole += value
        y = conditional(d[0] ^ d[1], chosen, whole)
        step = most - least
        y += conditional(d[1], flips[1] * step, step if leader else U(0))
        return np.asarray(y + least if leader else y)

    y = session.local(lambda *a: blocked(gated, (n,), U, *a), (n,), found.masked, e, flips, lifts)
    up = entry.shift - (total - frac_bits)
    return y if not up else session.local(lambda y: y << U(up), (n,), y)

"""Trigonometric sums in 64-bit words, for numbers that are known to lie in an interval, and e^x for x <= 0.

`harmonics` has the idea, with 32-bit words: half the bytes, and errors of 2^-12 where these have 2^-16. Public factors
come from integer tables (`tables`), so that they agree at all parties; the dealer's may be floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from enclave.engines.mpc.protocols import tables
from enclave.engines.mpc.protocols.arithmetic import truncate
from enclave.engines.mpc.protocols.comparison import Comparison, comparison, tail
from enclave.engines.mpc.protocols.harmonics import Series, publics
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor, together
from enclave.engines.mpc.tape import Array, Draw, Spec, additive

__all__ = [
    "EXP_FLOOR",
    "LOG",
    "RECIPROCAL",
    "RSQRT",
    "Series",
    "exp_of_negative",
    "series",
]

U = np.uint64
_DEALT_BITS = 24  # fractional bits of dealt cosines and sines
_PUBLIC_BITS = 20  # fractional bits of public factors
EXP_FLOOR = 15  # e^x is 0 for x < -15


def _dealt(function: Series, r: Array, bits: int) -> Array:
    """(2, harmonics, n): cosines and sines of the mask's multiples. Only the dealer computes them."""
    angle = (r & U((1 << bits) - 1)).astype(np.float64) * (2 * np.pi / (1 << bits))
    multiples = np.arange(1, function.harmonics + 1)[:, None] * angle
    both = np.stack([np.cos(multiples), np.sin(multiples)])
    return np.asarray(np.rint(both * (1 << _DEALT_BITS)).astype(np.int64).view(U))


def _evaluate(function: Series, c: Array, table: Array, bits: int, leader: bool) -> Array:
    """Share of the sum at 2^44."""
    cosines, sines = tables.cos_sin(c, bits, function.harmonics)
    p, q = publics(function, cosines, sines, 2 * tables.ONE_BITS - _PUBLIC_BITS)
    total = (p.view(U) * table[0]).sum(axis=0, dtype=U) + (q.view(U) * table[1]).sum(axis=0, dtype=U)
    if leader:
        total += U(function.constant << (_DEALT_BITS + _PUBLIC_BITS - tables.ONE_BITS) & (1 << 64) - 1)
    return cast(Array, total)


RECIPROCAL = Series("reciprocal", 4, 1450112762, (-139467658, -234643905, -53689358), (1190480413, 290630202, 13354074))
RSQRT = Series(
    "rsqrt", 8, 1384013595, (-720466132, -527433779, -65601510, 14149768), (923279784, -48673213, -143487618, -18600445)
)
LOG = Series(
    "log", 4, -13577031, (-238258468, 144097534, 73422761, 8879205), (-1042567203, -322729222, -35469470, 2529868)
)


@dataclass(frozen=True, slots=True)
class SeriesTable:
    """Cosines and sines of a mask."""

    n: int
    function: Series
    bits: int

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return self.function.name

    @property
    def free(self) -> tuple[Spec, ...]:
        """r."""
        return (additive(self.n),)

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The table."""
        return (additive(2, self.function.harmonics, self.n),)

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r."""
        return (_dealt(self.function, free[0], self.bits),)


def series(session: Session, x: Tensor, function: Series, frac_bits: int) -> Protocol[Tensor]:
    """Shares of function(x) at `frac_bits`, for flat x at `frac_bits` in the function's interval.

    Cost: 2 rounds, 16 B an element; 16 B a harmonic dealt, and 12. Reveals: nothing.
    """
    n = x.shape[0]
    bits = frac_bits + (function.period - 1).bit_length()
    r, table = session.deal(SeriesTable(n, function, bits))
    (c,) = yield [Item(function.name, session.local(np.add, (n,), x, r))]
    total = session.local(lambda c, t: _evaluate(function, c, t, bits, session.leader), (n,), c, table)
    return (yield from truncate(session, total, _DEALT_BITS + _PUBLIC_BITS - frac_bits))


@dataclass(frozen=True, slots=True)
class Gated:
    """A comparison, an exponential on the same mask, and what multiplies it by the bit."""

    comparison: Comparison
    frac_bits: int

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "exp"

    @property
    def free(self) -> tuple[Spec, ...]:
        """The comparison's, and the mask of the function value."""
        return (*self.comparison.free, additive(self.comparison.n))

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The comparison's; rho times the mask; the table."""
        n = self.comparison.n
        return (*self.comparison.dealt, additive(n), additive(16, n))

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r, the wires' masks, rho and the mask."""
        compared = self.comparison.values(free[:-1], draw)
        r = free[0][: self.comparison.n]
        return (*compared, compared[-1][0] * free[-1], _exp_table(r, self.frac_bits))


def _exp_table(r: Array, frac_bits: int) -> Array:
    """(16, n): e^((j - top digit of r) mod 16 - 15) e^-(low part of r) for every public digit j, at 2^30."""
    low = (r & U((1 << frac_bits) - 1)).astype(np.float64) / (1 << frac_bits)
    scaled, top = np.exp(-low) * (1 << tables.ONE_BITS), ((r >> U(frac_bits)) & U(15)).astype(np.intp)
    powers, digits = np.exp(np.arange(16.0) - EXP_FLOOR), np.arange(16)
    table = np.empty((16, len(r)), np.int64)
    for j in range(16):
        row = np.take(powers[(j - digits) & 15], top)
        np.multiply(row, scaled, out=row)
        table[j] = np.rint(row, out=row)
    return table.view(U)


def _exp_share(c: Array, table: Array, frac_bits: int) -> Array:
    digit = ((c >> U(frac_bits)) & U(15)).astype(np.int64)
    chosen = np.take_along_axis(table, digit[None], axis=0)[0]
    public = tables.exponential(c, frac_bits) >> (tables.ONE_BITS - _PUBLIC_BITS)
    return cast(Array, chosen * public.view(U))


def exp_of_negative(session: Session, x: Tensor, frac_bits: int) -> Protocol[Tensor]:
    """Shares of e^x for flat x <= 0 at `frac_bits`; 0 below -15. Absolute error 2^-frac_bits and 4e-7.

    Cost: 4 rounds; 24 B and 35 bits an element from every party; 198 B dealt. Reveals: nothing.
    """
    shift = EXP_FLOOR << frac_bits
    n = x.shape[0]
    raised = session.local(lambda x: x + U(shift) if session.leader else x, x.shape, x)
    entry = Gated(comparison(session, n), frac_bits)
    shares = session.deal(entry)
    free = len(entry.comparison.free)
    mask, rho_mask, table = shares[free], shares[-2], shares[-1]
    compared = (*shares[:free], *shares[free + 1 : -2])
    (c,) = yield [Item(entry.kind, session.local(lambda x, r: x + r[:n], (n,), raised, shares[0]))]

    def masked_value() -> Protocol[tuple[Tensor, Tensor]]:
        value = session.local(lambda c, t: _exp_share(c, t, frac_bits), (n,), c, table)
        y = yield from truncate(session, value, tables.ONE_BITS + _PUBLIC_BITS - frac_bits)
        (e,) = yield [Item("gated", session.local(np.subtract, (n,), y, mask))]
        return y, e

    bits, (y, e) = yield from together(tail(session, entry.comparison, compared, c, np.zeros(1, U)), masked_value())

    def select(d: Array, y: Array, e: Array, rho: Array, rho_mask: Array) -> Array:
        gated = rho[0] * e + rho_mask  # rho y
        return np.asarray(np.where(d[0].astype(bool), y - gated, gated))

    return session.local(select, (n,), bits.masked, y, e, bits.flips, rho_mask)

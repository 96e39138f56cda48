"""Comparison with public thresholds, and what follows from its bits: ReLU and bit products.

Setting: n parties hold x additively; the dealer knows neither x nor what is opened.

1. Open c = x + r, r uniform. For each threshold t, x >= t iff the top bit of (c - t) - r is 0, that is
   c'63 ^ r63 ^ [c'_low < r_low] = 0 with c' = c - t: a public number against a shared one.
   The dealer gives exclusive-or shares of all 15 products of the bits of every 4-bit block of r; for a public
   block of c' both [c'_b < r_b] and [c'_b = r_b] are linear in them, so 16 leaves cost no communication.
2. Four 4-ary gates  lt = l3 ^ e3 l2 ^ e3 e2 l1 ^ e3 e2 e1 l0,  eq = e3 e2 e1 e0.
   Seven wires a gate are opened under one-time masks; the dealer gives the products of masks that occur.
3. One more gate over the four results: shares of b = [x >= t].
4. Open d = b ^ rho, one bit. With [rho] and [rho r] dealt additively, b = d + (1 - 2d) rho, and
   b x = d (c - r) + (1 - 2d)(c rho - rho r) is linear in dealt values: ReLU needs no further opening.

Bits are packed: word w of a plane holds elements 64 w .. 64 w + 63. Exact for every x in Z_2^64 with x - t in
[-2^63, 2^63).

Cost: 4 rounds, 8 B + 35 bits an element from every party for one threshold; 50 B (bit) or 58 B (ReLU) dealt.
Reveals: nothing: every opened word is masked by uniform randomness used once.
Reference: composition of masked opening (Catrina, de Hoogh 2010) with dealt bit products and multi-fan-in gates
(Ohata, Nuida 2019; Patra et al., ABY2.0, 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Draw, Spec, additive, packed_bits

__all__ = ["Bits", "Comparison", "bit_share", "compare", "relu", "tail"]

U = np.uint64
ONES = U(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Randomness for comparing n values with some thresholds; `relu` adds rho * r."""

    n: int
    thresholds: int = 1
    relu: bool = False

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "relu" if self.relu else "compare"

    @property
    def plane_words(self) -> int:
        """Words of one packed plane of n bits."""
        return -(-self.n // 64)

    @property
    def free(self) -> tuple[Spec, ...]:
        """r; the masks of the gates' wires; rho."""
        w = self.plane_words
        wide = self.thresholds * w
        return (additive(64 * w), packed_bits(7, 4, wide), packed_bits(6, 1, wide), packed_bits(self.thresholds, w))

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """Products of the bits of r (those with bit 63 are zero: not sent); products of masks; rho; rho * r."""
        w = self.plane_words
        wide = self.thresholds * w
        products = (packed_bits(8, 16, w), packed_bits(7, 15, w), packed_bits(22, 4, wide), packed_bits(15, 1, wide))
        arithmetic = (additive(self.thresholds, self.n),)
        return products + (arithmetic * 2 if self.relu else arithmetic)

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r, the masks and rho."""
        r, wires, top_wires, flips = free
        w = self.plane_words
        planes = to_planes(r)
        sign = planes[63].copy()
        planes[63] = 0  # only 63 bits are compared; the free slot of the last block carries the sign bit of r
        products = _products(planes.reshape(16, 4, w).swapaxes(0, 1))[1:]
        products[7, 15] = sign
        rho = from_planes(flips, self.n).astype(U)
        dealt = [products[:8], products[8:, :15], _gate_products(wires, True), _gate_products(top_wires, False), rho]
        if self.relu:
            dealt.append(rho * r[: self.n])
        return tuple(np.ascontiguousarray(value) for value in dealt)


@dataclass(frozen=True, slots=True)
class Bits:
    """b = [x >= t] as d = b ^ rho in the clear (0 or 1, shape (thresholds, n)) and shares of rho."""

    masked: Tensor
    flips: Tensor


def compare(
    session: Session, x: Tensor, thresholds: Array, *, relu: bool = False
) -> Protocol[tuple[Tensor, Bits, Tensor]]:
    """c = x + r in the clear, the bits [x >= t] for each t, and all dealt shares. x: flat (n,). Cost: see above."""
    n = x.shape[0]
    entry = Comparison(n, len(thresholds), relu)
    shares = session.deal(entry)
    (c,) = yield [Item("compare", session.local(lambda x, r: x + r[:n], (n,), x, shares[0]))]
    bits = yield from tail(session, entry, shares, c, thresholds)
    return c, bits, shares


def tail(
    session: Session, entry: Comparison, shares: tuple[Tensor, ...], c: Tensor, thresholds: Array
) -> Protocol[Bits]:
    """Rounds 2 to 4, once c is open."""
    wide = entry.thresholds * entry.plane_words
    n, w, one = entry.n, entry.plane_words, ONES if session.leader else U(0)
    _, wires, top_wires, flips, low, high, mixed, top_mixed, rho = shares[:9]
    lt, eq, sign = session.local(
        lambda c, low, high: _leaves(c, thresholds, low, high, n, one),
        (packed_bits(4, 4, wide), packed_bits(4, 4, wide), packed_bits(wide)),
        c,
        low,
        high,
    )
    masked = session.local(lambda lt, eq, m: _wires(lt, eq, True) ^ m, (7, 4, wide), lt, eq, wires)
    (opened,) = yield [Item("gate", masked, "xor")]
    lt, eq = session.local(
        lambda lt, o, m, r: _gate(lt, o, m, r, True, one),
        (packed_bits(4, wide), packed_bits(4, wide)),
        lt,
        opened,
        wires,
        mixed,
    )
    masked = session.local(
        lambda lt, eq, m: _wires(lt.reshape(1, 4, wide), eq.reshape(1, 4, wide), False) ^ m,
        (6, 1, wide),
        lt,
        eq,
        top_wires,
    )
    (opened,) = yield [Item("gate", masked, "xor")]
    bit = session.local(
        lambda lt, o, m, r, s, f: (_gate(lt.reshape(1, 4, wide), o, m, r, False, one)[0][0] ^ s).reshape(-1, w) ^ f,
        (entry.thresholds, w),
        lt,
        opened,
        top_wires,
        top_mixed,
        sign,
        flips,
    )
    (opened,) = yield [Item("bit", bit, "xor")]
    return Bits(session.local(lambda o: from_planes(o, n), (entry.thresholds, n), opened), rho)


def bit_share(session: Session, bits: Bits) -> Tensor:
    """Additive shares of b, shape (thresholds, n). Local."""

    def arithmetic(d: Array, rho: Array) -> Array:
        clear = d.astype(bool)
        return np.where(clear, (U(1) if session.leader else U(0)) - rho, rho)

    return session.local(arithmetic, bits.masked.shape, bits.masked, bits.flips)


def relu(session: Session, x: Tensor) -> Protocol[tuple[Tensor, Bits]]:
    """Shares of max(x, 0), exact, and the bits [x >= 0]. x: flat (n,). Cost: 4 rounds, see above."""
    c, bits, shares = yield from compare(session, x, np.zeros(1, U), relu=True)
    n = x.shape[0]

    def select(c: Array, d: Array, r: Array, rho: Array, rho_r: Array) -> Array:
        gated = c * rho[0] - rho_r[0]  # rho x
        whole = (c if session.leader else U(0)) - r[:n]
        return np.asarray(np.where(d[0].astype(bool), whole - gated, gated))

    return session.local(select, (n,), c, bits.masked, shares[0], shares[8], shares[9]), bits


# ---- local arithmetic on packed bits


def to_planes(words: Array) -> Array:
    """(64 W,) words -> (64, W) bit planes, by 64 x 64 bit transposes."""
    a = np.array(words.reshape(-1, 64).T, order="C")  # always a copy: the swaps below work in place
    j, m = 32, U(0xFFFFFFFF)
    while j:
        a = a.reshape(32 // j, 2, j, -1)
        low, high = a[:, 0], a[:, 1]
        t = ((low >> U(j)) ^ high) & m
        high ^= t
        low ^= t << U(j)
        j >>= 1
        if j:
            m = m ^ (m << U(j))
    return cast(Array, a.reshape(64, -1))


def from_planes(planes: Array, n: int) -> Array:
    """(k, W) packed planes -> (k, n) bytes of 0 and 1."""
    rows = np.ascontiguousarray(planes).view(np.uint8)
    bits: Array = np.unpackbits(rows, axis=-1, count=n, bitorder="little")
    return bits


def _fold(f: Array, bit: Array) -> Array:
    return np.asarray((f[0] & bit) ^ f[1])


def _products(bits: Array) -> Array:
    """(k, ...) -> (2^k, ...): the products over all subsets; entry 0 is the constant 1."""
    out = np.empty((1 << len(bits), *bits.shape[1:]), U)
    out[0] = ONES
    for i in range(len(bits)):
        np.bitwise_and(out[: 1 << i], bits[i], out=out[1 << i : 2 << i])
    return out


def _multiple(eq_wires: int) -> list[int]:
    return [t for t in range(1, 1 << eq_wires) if t & (t - 1)]


def _gate_products(mask: Array, with_eq: bool) -> Array:
    """The products of wire masks that a gate needs: all of the e wires; l0 with e1 e2 e3, l1 with e2 e3, l2 with e3."""
    ne = 4 if with_eq else 3
    e = _products(mask[:ne])
    high = e[::2] if with_eq else e
    return np.concatenate(
        [e[_multiple(ne)], (high & mask[ne])[1:], (high[::2] & mask[ne + 1])[1:], (high[::4] & mask[ne + 2])[1:]]
    )


def _wires(lt: Array, eq: Array, with_eq: bool) -> Array:
    """lt, eq: (gates, 4, w), position 3 most significant -> the wires to open, (7 or 6, gates, w)."""
    return np.concatenate([eq[:, 0 if with_eq else 1 :].swapaxes(0, 1), lt[:, :3].swapaxes(0, 1)])


def _gate(lt: Array, o: Array, mask: Array, rest: Array, with_eq: bool, one: np.uint64) -> tuple[Array, Array]:
    """Shares of a gate's lt and eq, (gates, w), from the opened wires."""
    gates, _, w = lt.shape
    ne = 4 if with_eq else 3
    es = np.empty((1 << ne, gates, w), U)
    es[0] = one
    es[[1 << i for i in range(ne)]] = mask[:ne]
    multiple = _multiple(ne)
    k = len(multiple)
    es[multiple] = rest[:k]
    l0 = np.concatenate([mask[ne][None], rest[k : k + 7]])
    l1 = np.concatenate([mask[ne + 1][None], rest[k + 7 : k + 10]])
    l2 = np.concatenate([mask[ne + 2][None], rest[k + 10 :]])
    e3, e2, e1 = o[ne - 1], o[ne - 2], o[ne - 3]
    a = _fold(es.reshape(2, -1, gates, w), e3)
    b = _fold(a.reshape(2, -1, gates, w), e2)
    c = _fold(b.reshape(2, -1, gates, w), e1)
    out = lt[:, 3] ^ (o[ne + 2] & a[0]) ^ _fold(l2, e3)
    out ^= (o[ne + 1] & b[0]) ^ _fold(_fold(l1.reshape(2, 2, gates, w), e3), e2)
    out ^= (o[ne] & c[0]) ^ _fold(_fold(_fold(l0.reshape(2, 4, gates, w), e3).reshape(2, 2, gates, w), e2), e1)
    return out, _fold(c, o[0]) if with_eq else out


def _leaves(c: Array, thresholds: Array, low: Array, high: Array, n: int, one: np.uint64) -> tuple[Array, Array, Array]:
    """Shares of [c'_b < r_b] and [c'_b = r_b] for the 16 blocks, and of 1 ^ c'63 ^ r63, for every threshold."""
    count, w = len(thresholds), low.shape[-1]
    shifted = np.zeros((count, 64 * w), U)
    shifted[:, :n] = c - thresholds[:, None]
    planes = to_planes(shifted.reshape(-1))
    c_sign = planes[63].copy()
    planes[63] = 0
    m = np.zeros((16, 16, 1, w), U)
    m[1:9, :, 0], m[9:, :15, 0] = low, high
    r_sign = m[8, 15, 0].copy()
    m[0], m[8, 15] = one, 0
    c0, c1, c2, c3 = np.ascontiguousarray((~planes).reshape(16, 4, count, w).swapaxes(0, 1))
    lt = c3 & m[8]  # lt = sum over i of  ~c_i r_i  prod_{j > i} (~c_j ^ r_j)
    a = _fold(m.reshape(2, 8, 16, 1, w), c3)
    lt ^= c2 & a[4]
    b = _fold(a.reshape(2, 4, 16, count, w), c2)
    lt ^= c1 & b[2]
    d = _fold(b.reshape(2, 2, 16, count, w), c1)
    lt ^= c0 & d[1]
    eq = _fold(d, c0)
    sign = (~c_sign & one).reshape(count, w) ^ r_sign
    return lt.reshape(4, 4, count * w), eq.reshape(4, 4, count * w), sign.reshape(-1)

"""Comparison with public thresholds, and what follows from its bits: ReLU and gated numbers.

Setting: n parties hold x additively; the dealer knows neither x nor what is opened.

1. Open c = x + r, r uniform. For each threshold t, x >= t iff the sign of (c - t) - r is 0, that is
   c'63 ^ r63 ^ [c'_low < r_low] = 0 with c' = c - t: a public number against a shared one, which `trees` does.
2. Open d = b ^ rho, one bit. With [rho] and [rho r] dealt additively, b = d + (1 - 2d) rho, and
   b x = d (c - r) + (1 - 2d)(c rho - rho r) is linear in dealt values: ReLU needs no further opening. Neither does a
   truncation behind it: for x >= 0 the opened c wraps exactly when r63 = 1 and c63 = 0, so x >> k is
   (c >> k) - V with V = r >> k where c63 = 1, and r >> k less r63 2^(64 - k) where it is 0.

Bits are packed: word w of a plane holds elements 64 w .. 64 w + 63. Exact for every x in Z_2^64 with x - t in
[-2^63, 2^63), when all bits are compared. A window [low, high) serves numbers that are known to be below 2^high in
magnitude, and may be wrong where |x - t| < 2^low.

Cost, for many elements: 4 rounds, 8 B + 43 bits an element from every party for one threshold; 46 B (bit) or 54 B
(ReLU) dealt; fewer rounds for few elements, fewer bytes in a window: see `trees.Tree`.
Reveals: nothing: every opened word is masked by uniform randomness used once.
Reference: composition of masked opening (Catrina, de Hoogh 2010) with dealt bit products and multi-fan-in gates
(Ohata, Nuida 2019; Patra et al., ABY2.0, 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from enclave.engines.mpc import kernels
from enclave.engines.mpc.kernels import choose, from_planes, to_planes
from enclave.engines.mpc.protocols.bitslice import Program, execute
from enclave.engines.mpc.protocols.trees import Tree, best_tree, programs
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, BitRef, Draw, Spec, additive, packed_bits

__all__ = ["Bits", "Comparison", "bit_share", "compare", "comparison", "gated", "relu", "tail"]

U = np.uint64
SIGN = 63


@dataclass(frozen=True, slots=True)
class Comparison:
    """Randomness for comparing n values with some thresholds.

    Attributes:
        tree: the layout; see `comparison` for the usual way to choose it.
        flips: element type of the dealt shares of rho; "u1" where bits are only counted modulo 256.
    """

    n: int
    tree: Tree
    thresholds: int = 1
    flips: str = "u8"

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "compare"

    @property
    def plane_words(self) -> int:
        """Words of one packed plane of n bits."""
        return -(-self.n // 64)

    @property
    def free(self) -> tuple[Spec, ...]:
        """r; the masks of each level's wires; rho."""
        w, t = self.plane_words, self.thresholds
        levels = range(len(self.tree.levels))
        return (
            additive(64 * w),
            *(packed_bits(self.tree.wires(level), t, w) for level in levels),
            packed_bits(1, t, w),
        )

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """Products of the bits of r; products of masks, level by level; rho."""
        w, t = self.plane_words, self.thresholds
        levels = range(len(self.tree.levels))
        return (
            packed_bits(self.tree.monomials, w),
            *(packed_bits(self.tree.mixed(level), t, w) for level in levels),
            additive(t, self.n, dtype=self.flips),
        )

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r, the masks and rho."""
        r, *masks, flips = free
        tree = self.tree
        mixed: tuple[Array, ...] = ()
        (monomials,) = execute(programs(tree).monomials, True, to_planes(r)[tree.low : tree.high + 1])
        if masks:  # all thresholds at once
            mixed = execute(programs(tree).mixed, True, *(m.reshape(len(m), -1) for m in masks))
        rho = from_planes(flips[0], self.n).astype(self.flips)
        return (monomials, *(m.reshape(len(m), self.thresholds, -1) for m in mixed), rho)

    def flip_ref(self, stream: int) -> BitRef:
        """Where the dealer finds rho again; this entry's free tensors must stand first in the stream."""
        skipped = sum(spec.words for spec in self.free[:-1])
        return BitRef(stream, skipped, self.thresholds, self.n)


def comparison(
    session: Session, n: int, thresholds: int = 1, *, low: int = 0, high: int = SIGN, flips: str = "u8"
) -> Comparison:
    """The comparison of n values that is cheapest on the session's network."""
    return Comparison(n, best_tree(n, thresholds, low, high, session.network), thresholds, flips)


@dataclass(frozen=True, slots=True)
class Bits:
    """b = [x >= t] as d = b ^ rho in the clear (0 or 1, shape (thresholds, n)) and shares of rho."""

    masked: Tensor
    flips: Tensor
    ref: BitRef | None = field(default=None)


def compare(
    session: Session, x: Tensor, thresholds: Array, *, low: int = 0, high: int = SIGN, flips: str = "u8"
) -> Protocol[Bits]:
    """The bits [x >= t] of flat x (n,) for each t. Cost: see above."""
    n = x.shape[0]
    entry = comparison(session, n, len(thresholds), low=low, high=high, flips=flips)
    shares = session.deal(entry)
    ref = entry.flip_ref(session.last_stream)
    (c,) = yield [Item("compare", session.local(lambda x, r: x + r[:n], (n,), x, shares[0]))]
    bits = yield from tail(session, entry, shares, c, thresholds)
    return Bits(bits.masked, bits.flips, ref)


def tail(
    session: Session, entry: Comparison, shares: tuple[Tensor, ...], c: Tensor, thresholds: Array
) -> Protocol[Bits]:
    """The rounds after c = x + r was opened. `shares` are those of the entry's free and dealt tensors, in order."""
    tree, n, w, count, leader = entry.tree, entry.n, entry.plane_words, entry.thresholds, session.leader
    levels = len(tree.levels)
    masks, monomials, mixed, rho = shares[1 : levels + 2], shares[levels + 2], shares[levels + 3 : -1], shares[-1]
    steps = programs(tree).steps
    specs = [
        (packed_bits(wires, count, w), packed_bits(len(step.outputs[1]), count, w))
        for wires, step in zip([*map(tree.wires, range(levels)), 1], steps, strict=True)
    ]

    def leaves(c: Array, monomials: Array, mask: Array) -> tuple[Array, Array]:
        found = []
        for t in range(count):
            shifted = np.subtract(c, thresholds[t])
            planes = to_planes(np.invert(shifted, out=shifted))[tree.low : tree.high + 1]
            found.append(execute(steps[0], leader, planes, monomials, mask[:, t]))
        return _joined(found)

    wires, state = session.local(leaves, specs[0], c, monomials, masks[0])
    for level in range(levels):
        (opened,) = yield [Item("gate", wires, "xor")]

        def gates(*planes: Array, step: Program = steps[level + 1]) -> tuple[Array, Array]:
            wires, state = execute(step, leader, *(p.reshape(len(p), -1) for p in planes))
            return wires.reshape(len(wires), count, w), state.reshape(len(state), count, w)

        wires, state = session.local(
            gates, specs[level + 1], opened, masks[level], mixed[level], state, masks[level + 1]
        )
    (opened,) = yield [Item("bit", wires, "xor")]
    return Bits(session.local(lambda o: from_planes(o[0], n), (count, n), opened), rho)


def _joined(found: list[tuple[Array, ...]]) -> tuple[Array, Array]:
    """(wires, state) of each threshold -> both with an axis of thresholds behind the first."""
    wires, state = (np.stack([f[i] for f in found], axis=1) if len(found) > 1 else found[0][i][:, None] for i in (0, 1))
    return wires, state


def bit_share(session: Session, bits: Bits) -> Tensor:
    """Additive shares of b, shape (thresholds, n). Local."""

    def arithmetic(d: Array, rho: Array) -> Array:
        one = rho.dtype.type(1 if session.leader else 0)
        return choose(d, one - rho, rho)

    return session.local(arithmetic, Spec(bits.flips.shape, bits.flips.dtype.str), bits.masked, bits.flips)


# ---- numbers times bits


@dataclass(frozen=True, slots=True)
class Gating:
    """For one mask r and flips rho: r >> shift and the top bit of r, and rho times both; only rho r without a shift."""

    n: int
    shift: int

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """See above. The top bit is multiplied by 2^(64 - shift), so that its low bits are enough."""
        whole = additive(self.n)
        if not self.shift:
            return (whole,)
        top = additive(self.n, dtype="u4" if self.shift <= 32 else "u8")
        return (whole, top, whole, top)

    def values(self, r: Array, rho: Array) -> tuple[Array, ...]:
        """From r and rho, both (n,)."""
        if not self.shift:
            return (rho * r,)
        high, top = r >> U(self.shift), (r >> U(SIGN)).astype(self.dealt[1].dtype)
        return high, top, rho * high, rho.astype(top.dtype) * top

    def select(
        self, session: Session, c: Tensor, offset: int, d: Tensor, rho: Tensor, r: Tensor, dealt: Sequence[Tensor]
    ) -> Tensor:
        """Shares of b ((c - r - offset) >> shift), for d = b ^ rho in the clear. Local."""
        shift, leader = self.shift, session.leader

        def chosen(c: Array, d: Array, rho: Array, r: Array, *dealt: Array) -> Array:
            if not shift:
                return kernels.select(c, d, rho, r, dealt[0], leader=leader, offset=offset)
            high, top, flipped_high, flipped_top = dealt
            tops = (top, flipped_top)
            return kernels.select(c, d, rho, high, flipped_high, leader=leader, shift=shift, offset=offset, tops=tops)

        return session.local(chosen, (self.n,), c, d, rho, r, *dealt)


@dataclass(frozen=True, slots=True)
class Relu:
    """A comparison with one threshold, and its gating."""

    comparison: Comparison
    gating: Gating

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "relu"

    @property
    def free(self) -> tuple[Spec, ...]:
        """The comparison's."""
        return self.comparison.free

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The comparison's, then the gating's."""
        return (*self.comparison.dealt, *self.gating.dealt)

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r, the masks and rho."""
        compared = self.comparison.values(free, draw)
        n = self.comparison.n
        return (*compared, *self.gating.values(free[0][:n], compared[-1][0]))


def relu(session: Session, x: Tensor, shift: int = 0) -> Protocol[tuple[Tensor, Bits]]:
    """Shares of max(x, 0) / 2^shift, and the bits [x >= 0]. x: flat (n,).

    Without a shift exact for every x. With one, for x in [-2^62, 2^62): rounded stochastically to floor plus 0 or 1,
    and what is below one unit may become 0, with its bit.
    Cost: that of a comparison; 8 B dealt more, with a shift 24 B (32 for more than 32 bits). Reveals: nothing.
    """
    n = x.shape[0]
    entry = Relu(comparison(session, n, low=shift), Gating(n, shift))
    shares = session.deal(entry)
    ref = entry.comparison.flip_ref(session.last_stream)
    compared = len(entry.free) + len(entry.comparison.dealt)
    (c,) = yield [Item("relu", session.local(lambda x, r: x + r[:n], (n,), x, shares[0]))]
    # Safety: of x < 2^shift the low bits decide nothing, so x is compared with 2^shift: then b = 1 implies x > 0, which
    # the truncation needs, and b = 0 implies x < 2^shift.
    threshold = np.array([1 << shift if shift else 0], U)
    bits = yield from tail(session, entry.comparison, shares[:compared], c, threshold)
    flat = [session.local(lambda a: a[0], (n,), a) for a in (bits.masked, bits.flips)]
    r = session.local(lambda r: r[:n], (n,), shares[0])
    y = entry.gating.select(session, c, 0, flat[0], flat[1], r, shares[compared:])
    return y, Bits(bits.masked, bits.flips, ref)


@dataclass(frozen=True, slots=True)
class Gate:
    """A mask, and its gating by flips that were drawn before."""

    flips: BitRef
    gating: Gating

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "gated"

    @property
    def free(self) -> tuple[Spec, ...]:
        """r."""
        return (additive(self.gating.n),)

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The gating's."""
        return self.gating.dealt

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r and rho."""
        return self.gating.values(free[0], draw.bits(self.flips)[0])


def gated(session: Session, bits: Bits, z: Tensor, shift: int) -> Protocol[Tensor]:
    """Shares of b z / 2^shift for flat z (n,) in [-2^62, 2^62) and the bits of one threshold, rounded stochastically.

    Cost: 1 round; 8 B an element; 8 B dealt, with a shift 24 B (32 for more than 32 bits).
    Reveals: nothing: the mask is fresh, and rho stays as hidden as d left it.
    """
    assert bits.ref is not None
    n = z.shape[0]
    gating = Gating(n, shift)
    r, *dealt = session.deal(Gate(bits.ref, gating))
    offset = 1 << 62 if shift else 0

    def masked(z: Array, r: Array) -> Array:
        c = z + r
        if session.leader:
            c += U(offset)
        return c

    (c,) = yield [Item("gated", session.local(masked, (n,), z, r))]
    flat = [session.local(lambda a: a[0], (n,), a) for a in (bits.masked, bits.flips)]
    return gating.select(session, c, offset, flat[0], flat[1], r, dealt)

"""Circuits on words that are shared by exclusive or: AND, sums, comparisons, and conversion from and to sums.

Words are uint64 arrays, each bit of them shared by exclusive or: the parties' arrays combine to the value. What is
linear over bits (exclusive or, shifts, masks, views) is local; AND takes a round and dealt triples; sums are parallel
prefix adders. Comparisons are exact over all of [-2^63, 2^63).
"""

from __future__ import annotations

import numpy as np

from enclave.engines.mpc.fence.binary_masks import AndTriple
from enclave.engines.mpc.protocols.selection import BitMask
from enclave.engines.mpc.ranks import PartySession
from enclave.engines.mpc.session import Item, Protocol
from enclave.engines.mpc.tape import Array

__all__ = ["both", "difference", "equal", "less", "lifted", "share_of_sum", "shared_by", "total", "zero_sharing"]

U = np.uint64
ONES = U(0xFFFFFFFFFFFFFFFF)
SIGN = U(1 << 63)
_STEPS = (1, 2, 4, 8, 16, 32)


def zero_sharing(session: PartySession, shape: tuple[int, ...]) -> Array:
    """A fresh sharing of zeros: uniform to any set of parties that leaves two out. Local."""
    stream, count = session.new_stream(), int(np.prod(shape, dtype=np.int64))
    words = np.zeros(count, U)
    for peer in session._peers:
        words = words ^ session._pairs[peer].words(stream, count)
    return words.reshape(shape)


def shared_by(session: PartySession, value: Array | None, shape: tuple[int, ...], holder: int) -> Array:
    """A sharing of what `holder` knows. Local."""
    zero = zero_sharing(session, shape)
    return zero if value is None or session.rank != holder else zero ^ value


def both(session: PartySession, x: Array, y: Array) -> Protocol[Array]:
    """x & y, with broadcasting. Cost: 1 round, 8 B for each element of x and of y; 8 B dealt for each of the result.

    Reveals: nothing: x and y are opened under uniform masks that are used once.
    """
    if not x.size or not y.size:
        return np.zeros(np.broadcast_shapes(x.shape, y.shape), U)
    a, b, c = session.deal(AndTriple(x.shape, y.shape))
    e, d = yield [Item("and", x ^ a, "xor"), Item("and", y ^ b, "xor")]
    result = c ^ (e & b) ^ (a & d)
    return np.asarray(result ^ (e & d) if session.leader else result)


def _prefix(session: PartySession, generate: Array, propagate: Array) -> Protocol[Array]:
    """Carries out of every bit, of carries made and passed on. Cost: 6 rounds of `both` on two stacked words."""
    for step in _STEPS:
        below = np.stack([generate << U(step), propagate << U(step)])
        made, passed = yield from both(session, propagate[None], below)
        generate, propagate = generate ^ made, passed
    return generate


def total(session: PartySession, x: Array, y: Array, carry: bool = False) -> Protocol[Array]:
    """x + y (+ 1) modulo 2^64, with broadcasting. Cost: 7 rounds."""
    x, y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(x, y))
    propagate = x ^ y
    generate = yield from both(session, x, y)
    one = U(1) if session.leader and carry else U(0)
    if carry:  # the lowest bit makes a carry when either is set: exclusive or of the two, which never coincide
        generate = generate ^ (propagate & U(1))
    carries = yield from _prefix(session, generate, propagate)
    return np.asarray(propagate ^ (carries << U(1)) ^ one)


def difference(session: PartySession, x: Array, y: Array) -> Protocol[Array]:
    """x - y modulo 2^64. Cost: 7 rounds."""
    return (yield from total(session, x, inverted(session, y), carry=True))


def less(session: PartySession, x: Array, y: Array) -> Protocol[Array]:
    """[x < y] as 0 or 1, of signed integers: no carry leaves x + ~y + 1. Cost: 7 rounds."""
    x, y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(x, y))
    flip = SIGN if session.leader else U(0)
    x, y = x ^ flip, inverted(session, y ^ flip)
    propagate = x ^ y
    generate = yield from both(session, x, y)
    carries = yield from _prefix(session, generate ^ (propagate & U(1)), propagate)
    return np.asarray((carries >> U(63)) ^ (U(1) if session.leader else U(0)))


def equal(session: PartySession, x: Array, y: Array) -> Protocol[Array]:
    """[x = y] as 0 or 1. Cost: 6 rounds."""
    same = inverted(session, x ^ y)
    for step in reversed(_STEPS):
        same = yield from both(session, same, same >> U(step))
    return np.asarray(same & U(1))


def inverted(session: PartySession, x: Array) -> Array:
    """~x. Local."""
    return x ^ ONES if session.leader else x


def share_of_sum(session: PartySession, share: Array) -> Protocol[Array]:
    """Additive shares as shares by exclusive or. Cost: 7 rounds for each party but one."""
    words = [shared_by(session, share, share.shape, rank) for rank in range(session.parties)]
    found = words[0]
    for other in words[1:]:
        found = yield from total(session, found, other)
    return found


def lifted(session: PartySession, x: Array, bits: int = 64) -> Protocol[Array]:
    """The lowest `bits` bits as additive shares of the integer they make. Cost: 1 round; 8 B dealt for each bit.

    Opens the bits under uniform ones, of which the dealer gives additive shares too. Reveals: nothing.
    """
    n = x.size
    if not n:
        return np.zeros(x.shape, U)
    flips, rho = session.deal(BitMask(n * bits))
    planes = (x.reshape(-1, 1) >> np.arange(bits, dtype=U)) & U(1)
    padded = np.zeros(64 * flips.shape[-1], np.uint8)
    padded[: n * bits] = planes.reshape(-1).astype(np.uint8)
    packed = np.packbits(padded, bitorder="little").view(U).reshape(flips.shape)
    (opened,) = yield [Item("lift", packed ^ flips, "xor")]
    d = np.unpackbits(np.ascontiguousarray(opened).view(np.uint8), count=n * bits, bitorder="little").astype(bool)
    one = U(1) if session.leader else U(0)
    lifted_bits = np.where(d, one - rho, rho).reshape(n, bits)
    weights = U(1) << np.arange(bits, dtype=U)
    return np.asarray((lifted_bits * weights).sum(axis=1, dtype=U)).reshape(x.shape)

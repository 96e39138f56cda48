"""Ciphertexts become additive shares modulo 2^64 of their messages, without a wrap and without flooding.

A ciphertext (c0, c1) of m modulo 2^64 has c0 + c1 s = q m / 2^64 + e modulo q. One turn of the torus Z_q / q is one
turn of Z_2^64, so that with T(v) = round(2^64 v / q) modulo 2^64

    owner's share    T(c0)        - P
    buyer's share    T(c1 s)      + P        P: words that both draw from the key in common, uniform modulo 2^64

add up to m + 2^64 e / q + rounding: no carry is lost at any message or mask, and no comparison is needed. This is the
textbook conversion (add a mask R uniform modulo q to c0, return it, keep -R) with R chosen backwards: c0 + R is uniform
and independent of c0, so it may be drawn first, by both sides alike, instead of being sent. What travels is c1 alone,
after an encryption of zero was added to the ciphertext, and of that its leading bits.

**Precision** in units of 2^-64 of the torus, standard deviations: noise 2^64 e / q; rounding of c1 to `bits` bits
2^(64 - bits) sqrt((2 N / 3 + 1) / 12); one unit more from T. The sum of the shares, noise included, is never opened:
it is the operand of a protocol on shares, whose own rounding is coarser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from enclave.engines.he.lattice.keys import PublicKey, SecretKey
from enclave.engines.he.lattice.parameters import SECURITY_BITS
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.rlwe import encrypt_zero
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack_bits, unpack_bits
from enclave.engines.he.planner import Hiding
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Blank
from enclave.errors import BadSpec

__all__ = ["Pair", "hiding", "returned_bits", "returned_words", "rounding_deviation", "to_shares"]

_AT_ONCE = 64  # ciphertexts of the buyer's work in memory
DEVIATIONS = 6.0  # of what a stated bound covers: it is left once in 5e8 coefficients, and then by little


@dataclass(frozen=True, slots=True)
class Pair:
    """An owner with a ciphertext and the buyer with its key, and what each of the two ranks holds.

    Attributes:
        ring: of the ciphertexts; its degree is a multiple of 64.
        public_key, source: at the owner alone.
        secret_key: at the buyer alone.
    """

    ring: Ring
    owner: int
    buyer: int
    public_key: PublicKey | None = None
    source: Source | None = None
    secret_key: SecretKey | None = None


def hiding(label: str) -> Hiding:
    """The statement about ciphertexts that became shares."""
    method = "c0 stays with its owner as its share; c1 re-randomised (RLWE), for any key and noise of the buyer's"
    return Hiding(label, SECURITY_BITS, method)


def rounding_deviation(degree: int, bits: int) -> float:
    """Standard deviation of what rounding c1 to `bits` bits adds, in units of 2^-64 of the torus."""
    return math.ldexp(math.sqrt((2 * degree / 3 + 1) / 12), 64 - bits)


def returned_bits(degree: int, frac_bits: int) -> int:
    """The least bits of c1 at which rounding it takes three quarters of half a unit of 2^-frac_bits.

    Messages are products, with 2 frac_bits fractional bits. The last quarter is for the noise of the ciphertext.

    Raises: BadSpec: not even 64 bits are enough.
    """
    room = 0.75 * 2.0 ** (frac_bits - 1) / (DEVIATIONS * rounding_deviation(degree, 64))
    if room < 1:
        raise BadSpec(f"encrypted products need more fractional bits, found {frac_bits}")
    return 64 - math.floor(math.log2(room))


def returned_words(ring: Ring, count: int, bits: int) -> int:
    """64-bit words that the conversion of so many ciphertexts sends."""
    return count * ring.degree // 64 * bits


def _share_of_c1(secret_key: SecretKey, c1: Words, bits: int) -> Words:
    """T(c1 s) for c1 in Z_2^bits [..., N]. Counts a decryption for each.

    The product of integers is computed modulo one prime, limb by limb: no limb times a ternary secret wraps.
    """
    secret_key.count(math.prod(c1.shape[:-1]))
    ring = secret_key.ring.lower(1)
    prime = ring.primes[0]
    limb_bits = prime.bit_length() - 2 - ring.degree.bit_length()
    total = np.zeros(c1.shape, np.uint64)
    for shift in range(0, bits, limb_bits):
        limb = (c1 >> np.uint64(shift)) & np.uint64((1 << min(limb_bits, bits - shift)) - 1)
        found = ring.intt(ring.multiply(ring.encode(limb.view(np.int64)), secret_key.reveal(ring)))[..., 0, :]
        total += np.where(found > np.uint64(prime // 2), found - np.uint64(prime), found) << np.uint64(shift)
    return total << np.uint64(64 - bits)


def to_shares(
    session: Session,
    pair: Pair,
    answers: Callable[[], Iterable[Words]],
    count: int,
    bits: int,
    label: str = "he:share",
) -> Protocol[Tensor]:
    """Shares modulo 2^64, uint64 [count, N] at every rank, of the messages of an owner's ciphertexts.

    Args:
        answers: called at the owner alone: `count` ciphertexts in pieces [any, 2, k, N], coefficient form. Each piece
            is done with before the next is asked for, which bounds memory.
        bits: of c1, see `returned_bits`.

    **Cost** one round; N bits / 8 bytes a ciphertext, from the owner to the buyer.
    **Reveals** to the buyer: c1 with an encryption of zero added. Its part a u + e1, for a public uniform `a` that
    nobody chose and fresh u and e1, is pseudo-random (RLWE) whatever the ciphertext, its noise and the public key's b
    are: a buyer gains nothing by malformed keys or enlarged noise. To the owner: nothing. Shares of both are uniform;
    their sum holds the noise, as far below the result's unit as is stated above. All other ranks hold zeros.
    **Reference** conversion by a mask that is uniform modulo q: Juvekar, Vaikuntanathan, Chandrakasan, Gazelle, USENIX
    Security 2018, section 3; on the torus: Boura et al., Chimera, J. Math. Cryptol. 2020.
    """
    size, shape = (returned_words(pair.ring, count, bits),), (count, pair.ring.degree)
    if pair.secret_key is not None:
        pair.secret_key.allow(count)
    kept: list[Words] = []

    def answer() -> Tensor:
        if session.rank != pair.owner:
            return Blank(size)
        sent = []
        for piece in answers():
            c0, c1 = _parted(pair, piece, bits)
            kept.append(c0)
            sent.append(c1)
        return np.concatenate(sent)

    (received,) = yield [Item(label, session.local(answer, size), sender=pair.owner, to=pair.buyer)]
    # Safety: uniform and unknown to all others, so each share is; among the two alone, so that others hold zeros.
    mask = session.zero_share(session.new_stream(), shape, (pair.owner, pair.buyer))

    def share() -> Tensor:
        if session.rank == pair.owner:
            return np.concatenate(kept) + mask
        if session.rank == pair.buyer:
            assert pair.secret_key is not None
            return _of_c1(pair.secret_key, unpack_bits(received, bits).reshape(shape), bits) + mask
        return mask  # zeros

    return session.local(share, shape)


def _parted(pair: Pair, ciphertexts: Words, bits: int) -> tuple[Words, Words]:
    """T(c0) [n, N], which stays, and c1 as it travels, of ciphertexts [n, 2, k, N]."""
    assert pair.public_key is not None and pair.source is not None
    # Safety: without this, c1 is a known combination of the rows; see the attack in the tests.
    fresh = pair.ring.add(ciphertexts, encrypt_zero(pair.public_key, pair.source, len(ciphertexts)))
    return pair.ring.to_torus(fresh[:, 0], 64), pack_bits(pair.ring.to_torus(fresh[:, 1], bits), bits)


def _of_c1(secret_key: SecretKey, c1: Words, bits: int) -> Words:
    """`_share_of_c1` of many ciphertexts, some at a time."""
    pieces = [_share_of_c1(secret_key, c1[i : i + _AT_ONCE], bits) for i in range(0, len(c1), _AT_ONCE)]
    return np.concatenate(pieces)

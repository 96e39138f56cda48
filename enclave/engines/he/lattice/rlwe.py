"""Ring-LWE encryption of phases: a ciphertext is uint64 [..., 2, k, N], coefficient form, with c0 + c1 s = phase.

A message m modulo t has the phase round(q m / t) and any phase may be encrypted: exact integers (BFV's scaling), the
torus, CKKS. Decryption gives the phase with its noise; `decode` rounds it and measures how far the noise was from
spoiling the result.

Reference: Lyubashevsky, Peikert, Regev, "On ideal lattices and learning with errors over rings" (2010); Fan,
Vercauteren, "Somewhat practical fully homomorphic encryption" (2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.keys import Domain, PublicKey, PublicSeed, SecretKey, leading
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import Source
from enclave.errors import BadInput

__all__ = ["Decoded", "decode", "encrypt", "encrypt_zero", "expand", "phase", "signed", "zero_parts"]


def encrypt(secret_key: SecretKey, phases: Words, seed: PublicSeed, first: int) -> Words:
    """Encrypts phases under the secret key; only b travels, a is expanded by the receiver.

    Args:
        phases: [..., k, N], coefficient form, modulo the first k primes of the key's ring.
        first: number of the first uniform polynomial; one is used for each phase, in order.

    Returns:
        b = phase + e - a s, [..., k, N], coefficient form.

    Raises: Refused: a uniform polynomial was used before.
    """
    ring = secret_key.ring.lower(phases.shape[-2])
    count = leading(phases, 2)
    a = secret_key.take(seed, Domain.MESSAGES, first, count, ring).reshape(phases.shape)
    product = ring.intt(ring.multiply(ring.ntt(a), secret_key.reveal(ring)))
    error = secret_key.errors(ring, *phases.shape[:-2])
    return ring.sub(ring.add(phases, error), product)


def expand(ring: Ring, b: Words, seed: PublicSeed, first: int) -> Words:
    """The ciphertexts [..., 2, k, N] of received halves b [..., k, N] over `ring`."""
    a = seed.uniform(ring, Domain.MESSAGES, first, leading(b, 2)).reshape(b.shape)
    return np.stack((b, a), axis=-3)


def encrypt_zero(public_key: PublicKey, source: Source, *shape: int) -> Words:
    """Fresh encryptions of zero, coefficient form [*shape, 2, k, N]: added to an answer, they re-randomise it."""
    evaluation, errors = zero_parts(public_key, source, *shape)
    ring = public_key.ring
    return ring.add(ring.intt(evaluation), errors)


def zero_parts(public_key: PublicKey, source: Source, *shape: int) -> tuple[Words, Words]:
    """`encrypt_zero` in two parts: (b u, a u) in evaluation form and (e0, e1) in coefficient form.

    Who sums an answer in evaluation form adds the first before its inverse transform and the second after it.
    """
    ring = public_key.ring
    u = ring.ntt(ring.from_integers(source.ternary(*shape, ring.degree)))
    products = np.stack((ring.multiply(u, public_key.b), ring.multiply(u, public_key.a)), axis=-3)
    return products, ring.from_integers(source.error(*shape, 2, ring.degree))


def phase(secret_key: SecretKey, ciphertext: Words) -> Words:
    """c0 + c1 s, coefficient form [..., k, N]. Counts a decryption for each ciphertext.

    The result holds noise that depends on the key and on the rows: it never goes back to who made the ciphertext.

    Raises: Refused: beyond the key's cap.
    """
    secret_key.count(leading(ciphertext, 3))
    ring = secret_key.ring.lower(ciphertext.shape[-2])
    product = ring.multiply(ring.ntt(ciphertext[..., 1, :, :]), secret_key.reveal(ring))
    return ring.add(ciphertext[..., 0, :, :], ring.intt(product))


@dataclass(frozen=True, slots=True)
class Decoded:
    """Rounded messages, and how far the noise stayed from the next one.

    Attributes:
        messages: uint64 [..., N] modulo 2^bits.
        margin_bits: log2 of (half a step / largest noise): 0 or less is a wrong result, 1 leaves a factor of two.
    """

    messages: Words
    margin_bits: float

    def checked(self, least_bits: float) -> Words:
        """The messages.

        Raises: BadInput: the noise came nearer to the next message than `least_bits`.
        """
        if self.margin_bits < least_bits:
            raise BadInput(f"expected a noise margin of {least_bits:g} bits, found {self.margin_bits:.2f}")
        return self.messages


def decode(ring: Ring, phases: Words, bits: int, columns: slice | NDArray[np.intp] = slice(None)) -> Decoded:
    """Rounds phases to messages modulo 2^bits.

    Args:
        columns: the coefficients that hold messages; others (uniform masks) have no noise to measure.
    """
    guard = min(64 - bits, 24)
    if guard < 2:
        raise BadInput(f"expected at most 62 bits, with room to measure the noise, found {bits}")
    fine = ring.to_torus(phases, bits + guard)[..., columns]
    messages = (fine + np.uint64(1 << guard - 1)) >> np.uint64(guard) & np.uint64((1 << bits) - 1)
    # what is left after rounding, as a signed fraction of 2^guard
    rest = (fine << np.uint64(64 - guard)).view(np.int64) >> np.int64(64 - guard)
    largest = int(np.abs(rest).max(initial=0)) + 1
    return Decoded(messages, guard - 1 - math.log2(largest))


def signed(messages: Words, bits: int) -> NDArray[np.int64]:
    """Messages modulo 2^bits as integers in [-2^(bits-1), 2^(bits-1))."""
    shift = 64 - bits
    return (messages << np.uint64(shift)).view(np.int64) >> np.int64(shift)

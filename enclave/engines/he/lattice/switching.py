"""Key switching with one special prime: from phases under another secret (s^2, s(X^e)) back to phases under s.

A switch key holds, for each data prime p_i ("digit"), an encryption over all primes and the special prime P of

    P s' (q / p_i) ((q / p_i)^-1 mod p_i)   =   P s' modulo p_i, and 0 modulo every other prime.

The ciphertext's polynomial c' is cut into its residues modulo the p_i; their products with the digits sum to
P c' s' plus small noise, and P is divided away with rounding. This is SEAL's hybrid switching and its layout:
digits x (b, a) over all primes, evaluation form, so our keys serve SEAL's evaluator as well.

Reference: Gentry, Halevi, Smart, "Homomorphic evaluation of the AES circuit" (2012), section 3.1; Bajard, Eynard,
Hasan, Zucca, "A full RNS variant of FV like somewhat homomorphic encryption schemes" (2016).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.keys import Domain, PublicSeed, SecretKey
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.errors import BadInput

__all__ = [
    "SwitchKey",
    "apply_automorphism",
    "automorphism_key",
    "relinearisation_key",
    "switch",
    "switch_key_shape",
]


def switch_key_shape(ring: Ring) -> tuple[int, int, int]:
    """Shape of the half b of a switch key over a key ring: [digits, k + 1, N]."""
    return len(ring.primes) - 1, len(ring.primes), ring.degree


class SwitchKey:
    """A switch key as its users hold it.

    Attributes:
        ring: of all primes, the special one last.
        pairs: [digits, 2, k + 1, N], evaluation form: (b, a) of each digit, as SEAL keeps them.
    """

    __slots__ = ("pairs", "ring")

    def __init__(self, ring: Ring, b: Words, seed: PublicSeed, first: int) -> None:
        expected = switch_key_shape(ring)
        if b.dtype != np.uint64 or b.shape != expected:
            raise BadInput(f"expected a switch key uint64 {expected}, found {b.dtype} {b.shape}")
        self.ring = ring
        a = seed.uniform(ring, Domain.SWITCHING, first, expected[0])
        self.pairs: Words = np.stack((b, a), axis=1)


def automorphism_key(secret_key: SecretKey, exponent: int, seed: PublicSeed, first: int) -> Words:
    """The half b of the key from s(X^exponent) to s. Takes one uniform polynomial for each digit, from `first` on."""
    ring = secret_key.ring
    return _generate(secret_key, ring.automorphism_ntt(secret_key.reveal(ring), exponent), seed, first)


def relinearisation_key(secret_key: SecretKey, seed: PublicSeed, first: int) -> Words:
    """The half b of the key from s^2 to s. Takes one uniform polynomial for each digit, from `first` on."""
    secret = secret_key.reveal(secret_key.ring)
    return _generate(secret_key, secret_key.ring.multiply(secret, secret), seed, first)


def _generate(secret_key: SecretKey, target: Words, seed: PublicSeed, first: int) -> Words:
    """The half b for a key from `target` [k + 1, N], evaluation form, to s."""
    ring = secret_key.ring
    digits = len(ring.primes) - 1
    if digits < 1:
        raise BadInput("expected a special prime beside the data primes, found one prime in all")
    a = secret_key.take(seed, Domain.SWITCHING, first, digits, ring)
    b = ring.sub(ring.ntt(secret_key.errors(ring, digits)), ring.multiply(a, secret_key.reveal(ring)))
    special = np.array([ring.primes[-1] % prime for prime in ring.primes], np.uint64)[:, None]
    scaled = ring.multiply(target, np.ascontiguousarray(np.broadcast_to(special, target.shape)))
    message = np.zeros_like(b)
    for digit in range(digits):
        message[digit, digit] = scaled[digit]
    return ring.add(b, message)


def switch(key: SwitchKey, x: Words) -> Words:
    """Encryptions of x s' under s, coefficient form.

    Args:
        x: [..., k, N], coefficient form over the data primes.

    Returns:
        [..., 2, k, N]. Its noise is that of `noise.switching_variance`.
    """
    ring = key.ring
    digits = ring.ntt(ring.from_integers(_centred(x, ring.primes[:-1])))  # [..., digits, k + 1, N]
    return ring.drop_last(ring.intt(ring.dot(digits, key.pairs)))


def apply_automorphism(key: SwitchKey, ciphertext: Words, exponent: int) -> Words:
    """The encryption of m(X^exponent), from one of m and the key for that exponent. Coefficient form."""
    data = key.ring.lower(len(key.ring.primes) - 1)
    turned = data.automorphism(ciphertext, exponent)
    out = switch(key, turned[..., 1, :, :])
    out[..., 0, :, :] = data.add(out[..., 0, :, :], turned[..., 0, :, :])
    return out


def _centred(x: Words, primes: tuple[int, ...]) -> NDArray[np.int64]:
    """Residues [..., k, N] as integers in (-p / 2, p / 2]: half the noise of those in [0, p)."""
    column = np.array(primes, np.int64)[:, None]
    values = x.astype(np.int64)
    values -= (values > column >> 1) * column
    return values

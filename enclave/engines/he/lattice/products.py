"""What every answer of an owner goes through before it leaves: re-randomisation, and a mask or flooding.

A product of an encrypted polynomial and a plaintext one tells the key holder the plaintext, twice over: by division of
c1, and by its noise, which the key holder knows the source of. An encryption of zero under the public key hides the
first. The second is hidden by a mask uniform modulo q on every coefficient, perfectly, when the result is to be
shared; or, when it is a message that must stay exact, by integers uniform over a range 2^bits times as wide as the
noise can be, statistically.
"""

from __future__ import annotations

import math

from enclave.engines.he.lattice.keys import PublicKey
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.rlwe import zero_parts
from enclave.engines.he.lattice.sampling import ERROR_DEVIATION, Source

__all__ = ["HIDING_BITS", "flood_hiding_bits", "noise_bits", "protected"]

HIDING_BITS = 40  # least statistical hiding of a ciphertext that is returned
_TAIL = 6.0  # standard deviations: 2e-9 for each coefficient


def protected(public_key: PublicKey, source: Source, sums: Words, mask: Words) -> Words:
    """An answer that shows its message and nothing else.

    Args:
        sums: [..., 2, k, N], evaluation form. mask: [..., k, N], coefficient form, added to c0: uniform modulo q, or
            flooding by integers (`Source.integers`), with or without a multiple of the message's scale.

    Returns: [..., 2, k, N], coefficient form.
    """
    ring = public_key.ring
    zero, errors = zero_parts(public_key, source, *sums.shape[:-3])
    errors[..., 0, :, :] = ring.add(errors[..., 0, :, :], mask)
    return ring.add(ring.intt(ring.add(sums, zero)), errors)


def noise_bits(terms: int, largest: float, degree: int) -> float:
    """log2 of a bound on the noise of a protected answer.

    Args:
        terms: plaintext coefficients that each coefficient of the answer sums errors of.
        largest: magnitude of these coefficients.
    """
    product = terms * largest**2
    rerandomising = 2.0 * degree  # e u + e' + e'' s, for ternary u and s
    return math.log2(_TAIL * ERROR_DEVIATION * math.sqrt(product + rerandomising))


def flood_hiding_bits(flood_bits: int, noise: float, degree: int) -> float:
    """Statistical hiding of one ciphertext whose noise, below 2^noise, is flooded with uniform integers of
    `flood_bits` bits: a shift by d moves a uniform range of width 2^F by the distance d / 2^F, for each coefficient."""
    return flood_bits - noise - math.log2(degree)

"""Products, sums and differences modulo primes below 2^61, element by element, in numpy.

A product modulo p < 2^50 takes its quotient from float64: both factors are exact there, so q = floor(a b / p) is off by
at most one, and a b - q p needs only 64 bits. Above, an 80-bit float does the same for p < 2^61; where there is none,
Python's integers do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAST_BITS", "MAXIMUM_BITS", "add", "multiply", "shoup_quotients", "subtract"]

Words = NDArray[np.uint64]

FAST_BITS = 50  # below 2^50 four times a residue fits the 52-bit multiplier, and float64 quotients are off by at most 1
MAXIMUM_BITS = 61  # as in SEAL

_HAS_EXTENDED = np.finfo(np.longdouble).nmant >= 63


def multiply(x: Words, y: Words, primes: Words) -> Words:
    """x y modulo the primes, element-wise; `primes` broadcasts with both, whose values are reduced."""
    if int(primes.max()) >> FAST_BITS == 0:
        real: Any = np.float64
    elif _HAS_EXTENDED:
        real = np.longdouble
    else:
        exact = x.astype(object) * y.astype(object) % primes.astype(object)
        return np.asarray(exact, dtype=np.uint64)
    quotient = x.astype(real) * y.astype(real) / primes.astype(real)
    out: Words = x * y - quotient.astype(np.uint64) * primes
    out = np.where(out >> np.uint64(63) != 0, out + primes, out)  # the quotient was one too large
    return np.where(out >= primes, out - primes, out)


def add(x: Words, y: Words, primes: Words) -> Words:
    """x + y modulo the primes."""
    out = x + y
    return np.where(out >= primes, out - primes, out)


def subtract(x: Words, y: Words, primes: Words) -> Words:
    """x - y modulo the primes."""
    return np.where(x >= y, x - y, x + primes - y)


def shoup_quotients(factors: Words, prime: int) -> Words:
    """floor(2^64 factor / p) for factors below p, by long division."""
    out, rest, modulus = np.zeros_like(factors), factors, np.uint64(prime)
    missing = 64
    while missing:
        bits = min(missing, 64 - prime.bit_length())  # so that the rest still fits a word
        digit = (rest << np.uint64(bits)) // modulus
        rest = (rest << np.uint64(bits)) - digit * modulus
        out = (out << np.uint64(bits)) | digit
        missing -= bits
    return out

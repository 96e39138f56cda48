"""Primes that split X^N + 1, and the powers of its roots: what every kernel reads and none changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.kernels.modular import MAXIMUM_BITS, multiply, shoup_quotients

__all__ = [
    "Tables",
    "bit_reversed",
    "is_prime",
    "make_tables",
    "minimal_root",
    "ntt_primes",
]

Words = NDArray[np.uint64]

_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def is_prime(n: int) -> bool:
    """Miller-Rabin with the first twelve primes, which decides every n below 3.1e23.

    **Reference**: Sorenson, Webster, Strong pseudoprimes to twelve prime bases, Math. Comp. 86 (2017).
    """
    if n < 2 or any(n % p == 0 for p in _WITNESSES):
        return n in _WITNESSES
    twos = ((n - 1) & -(n - 1)).bit_length() - 1
    for base in _WITNESSES:
        x = pow(base, (n - 1) >> twos, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def ntt_primes(degree: int, bits: int, count: int) -> tuple[int, ...]:
    """The `count` largest primes p = 1 mod 2 degree below 2^bits, in descending order, all of exactly `bits` bits.

    Raises: ValueError: there are not that many.
    """
    step = 2 * degree
    candidate = ((1 << bits) - 2) // step * step + 1
    found: list[int] = []
    while len(found) < count:
        if candidate >> (bits - 1) == 0:
            raise ValueError(f"expected {count} primes of {bits} bits for degree {degree}, found {len(found)}")
        if is_prime(candidate):
            found.append(candidate)
        candidate -= step
    return tuple(found)


def minimal_root(degree: int, prime: int) -> int:
    """The smallest psi with psi^degree = -1 modulo the prime: the root that SEAL takes."""
    power = (prime - 1) // (2 * degree)
    root = next(r for g in range(2, 10_000) if pow(r := pow(g, power, prime), degree, prime) == prime - 1)
    odd = multiply(_powers(degree, root * root % prime, prime), _word(root), _word(prime))
    return int(odd.min())


@dataclass(frozen=True, slots=True)
class Tables:
    """Of one degree N and k primes; row i belongs to prime i.

    Attributes:
        primes: [k].
        roots, inverse_roots: [k, N], psi^(bit reversed i) and its inverse.
        root_quotients, inverse_quotients: floor(2^64 root / p), for products with a known factor (Shoup).
        lanes, inverse_lanes: [k, 2, N], roots and floor(2^52 root / p) in the order in which vectors of
            eight read them; of use for primes below 2^50.
        scales: [k, 2], 1 / N and its quotient.
    """

    degree: int
    primes: Words
    roots: Words
    root_quotients: Words
    lanes: Words
    inverse_roots: Words
    inverse_quotients: Words
    inverse_lanes: Words
    scales: Words

    def lower(self, count: int) -> Tables:
        """Those of the first `count` primes, without a copy."""
        return Tables(
            self.degree,
            self.primes[:count],
            self.roots[:count],
            self.root_quotients[:count],
            self.lanes[:count],
            self.inverse_roots[:count],
            self.inverse_quotients[:count],
            self.inverse_lanes[:count],
            self.scales[:count],
        )


def bit_reversed(degree: int) -> NDArray[np.int64]:
    """[degree]: i with its log2(degree) bits in reverse order."""
    order = np.zeros(1, np.int64)
    while order.size < degree:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def make_tables(degree: int, primes: tuple[int, ...]) -> Tables:
    """Builds them: some milliseconds for each prime.

    Raises: ValueError: a degree that is no power of two from 16 to 32,768, or a modulus that is not a prime of at most
        61 bits, congruent to 1 modulo 2 degree, and different from the others.
    """
    if degree not in (1 << i for i in range(4, 16)):
        raise ValueError(f"expected a degree that is a power of two from 16 to 32768, found {degree}")
    if not primes or len(set(primes)) != len(primes):
        raise ValueError(f"expected different primes, found {primes}")
    for p in primes:
        if p < 2 or p >> MAXIMUM_BITS or p % (2 * degree) != 1 or not is_prime(p):
            raise ValueError(f"expected primes of at most {MAXIMUM_BITS} bits, 1 modulo {2 * degree}, found {p}")
    psis = [minimal_root(degree, p) for p in primes]
    roots, quotients, lanes = _twiddles(degree, primes, psis)
    inverses = [pow(psi, -1, p) for psi, p in zip(psis, primes, strict=True)]
    inverse_roots, inverse_quotients, inverse_lanes = _twiddles(degree, primes, inverses)
    scales = [pow(degree, -1, p) for p in primes]
    return Tables(
        degree,
        _frozen(np.array(primes, np.uint64)),
        roots,
        quotients,
        lanes,
        inverse_roots,
        inverse_quotients,
        inverse_lanes,
        _frozen(np.array([(s, (s << 64) // p) for s, p in zip(scales, primes, strict=True)], np.uint64)),
    )


def _twiddles(degree: int, primes: tuple[int, ...], roots: list[int]) -> tuple[Words, Words, Words]:
    order = bit_reversed(degree)
    words = np.stack([_powers(degree, root, p)[order] for root, p in zip(roots, primes, strict=True)])
    ratios = np.stack([shoup_quotients(row, p) for row, p in zip(words, primes, strict=True)])
    lanes = np.stack([_for_lanes(words), _for_lanes(ratios >> np.uint64(12))], axis=1)
    return _frozen(words), _frozen(ratios), _frozen(lanes)


def _for_lanes(roots: Words) -> Words:
    """The last two layers' roots, which a vector takes two and four apart, so that it finds them side by side."""
    out = roots.copy()
    k, degree = roots.shape
    if degree < 64:  # too short for vectors
        return out
    for children, layer in ((2, slice(degree // 4, degree // 2)), (4, slice(degree // 2, degree))):
        groups = roots[:, layer].reshape(k, -1, 8, children)
        out[:, layer] = groups.swapaxes(-1, -2).reshape(k, -1)
    return out


def _powers(count: int, root: int, prime: int) -> Words:
    """root^i modulo the prime for i below `count`, a power of two."""
    powers = _word(1)
    while powers.size < count:
        step = _word(pow(root, powers.size, prime))
        powers = np.concatenate([powers, multiply(powers, step, _word(prime))])
    return powers


def _word(value: int) -> Words:
    return np.array([value], np.uint64)


def _frozen(array: Words) -> Words:
    array.flags.writeable = False
    return array

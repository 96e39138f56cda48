"""Oblivious expansion: one ciphertext with up to 2^L coefficients becomes as many encryptions of constants.

An encrypted model of d weights would travel as d ciphertexts. Packed into the coefficients of a few, it is expanded
where it is used: level j splits a polynomial into its even and odd halves with respect to 2^j,

    c + c(X^(N / 2^j + 1))    and    X^(-2^j) (c - c(X^(N / 2^j + 1))),

which doubles what it keeps, so the sender scales coefficient i down beforehand by 2 for each split on its way. A
node that has no second half is left alone: count - 1 key switches for `count` constants, whatever the count.

Reference: Angel, Chen, Laine, Setty, "PIR with compressed queries and amortized query processing" (2018), section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.keys import PublicSeed, SecretKey
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.switching import SwitchKey, apply_automorphism, automorphism_key, switch_key_shape
from enclave.errors import BadInput

__all__ = ["Expansion", "expand_constants", "expansion_keys", "read_keys"]

_BATCH = 8  # nodes at once: enough to amortise calls, few enough to share among threads


@dataclass(frozen=True, slots=True)
class Expansion:
    """How `count` constants are packed.

    Attributes:
        count: of all constants.
        levels: L; a ciphertext holds at most 2^L of them. 0: each travels alone, and there are no keys.
    """

    count: int
    levels: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.levels <= 14:
            raise BadInput(f"expected a positive count and 0 to 14 levels, found {self.count} and {self.levels}")

    @property
    def ciphertexts(self) -> int:
        """Packed ciphertexts that travel."""
        return -(-self.count >> self.levels)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Constants in each packed ciphertext: equal but for one."""
        small, more = divmod(self.count, self.ciphertexts)
        return tuple(small + (index < more) for index in range(self.ciphertexts))

    @property
    def switches(self) -> int:
        """Key switches of the whole expansion."""
        return self.count - self.ciphertexts

    def splits(self, size: int) -> NDArray[np.int64]:
        """By how many doublings each constant of a ciphertext of `size` grows: [size]."""
        doublings = np.zeros(size, np.int64)
        for level in range(self.levels):
            nodes = np.arange(size) % (1 << level)
            doublings += nodes + (1 << level) < size
        return doublings

    def exponents(self, degree: int) -> tuple[int, ...]:
        """Of the automorphism of each level."""
        return tuple((degree >> level) + 1 for level in range(self.levels))


def expansion_keys(secret_key: SecretKey, expansion: Expansion, seed: PublicSeed, first: int) -> Words:
    """The halves b of the automorphism keys: [levels, digits, k + 1, N], evaluation form."""
    ring = secret_key.ring
    digits = switch_key_shape(ring)[0]
    keys = [
        automorphism_key(secret_key, exponent, seed, first + level * digits)
        for level, exponent in enumerate(expansion.exponents(ring.degree))
    ]
    found: Words = np.array(keys, np.uint64).reshape(expansion.levels, *switch_key_shape(ring))
    return found


def read_keys(ring: Ring, b: Words, seed: PublicSeed, first: int) -> list[SwitchKey]:
    """The keys of received halves [levels, digits, k + 1, N]."""
    digits = switch_key_shape(ring)[0]
    return [SwitchKey(ring, half, seed, first + level * digits) for level, half in enumerate(b)]


def expand_constants(
    keys: Sequence[SwitchKey], packed: Words, expansion: Expansion, ring: Ring, workers: int = 1
) -> Iterator[Words]:
    """Encryptions of the constants, one packed ciphertext after the other.

    Args:
        keys: one for each level. packed: [ciphertexts, 2, k, N], coefficient form. ring: of the data primes.
        workers: threads; the kernels let each other run.

    Yields:
        [size, 2, k, N], coefficient form, for each packed ciphertext, in order.
    """
    if len(keys) != expansion.levels or len(packed) != expansion.ciphertexts:
        raise BadInput(
            f"expected {expansion.levels} keys and {expansion.ciphertexts} ciphertexts, "
            f"found {len(keys)} and {len(packed)}"
        )
    with ThreadPoolExecutor(workers) as pool:
        for ciphertext, size in zip(packed, expansion.sizes, strict=True):
            yield _expanded(keys, ciphertext, size, ring, pool)


def _expanded(keys: Sequence[SwitchKey], ciphertext: Words, size: int, ring: Ring, pool: Executor) -> Words:
    nodes = np.empty((size, *ciphertext.shape), np.uint64)
    nodes[0] = ciphertext
    for level, key in enumerate(keys):
        step = 1 << level
        splitting = max(min(step, size - step), 0)  # nodes r < step with r + step < size
        starts = range(0, splitting, _BATCH)
        stops = [min(start + _BATCH, splitting) for start in starts]
        halves = [(nodes[a:b], nodes[a + step : b + step]) for a, b in zip(starts, stops, strict=True)]
        list(pool.map(partial(_split, ring, key, level), *zip(*halves, strict=True)) if halves else ())
    return nodes


def _split(ring: Ring, key: SwitchKey, level: int, nodes: Words, odd: Words) -> None:
    """Replaces nodes by their even halves and puts the odd ones into `odd`."""
    turned = apply_automorphism(key, nodes, (ring.degree >> level) + 1)
    odd[...] = _divided_by_power(ring, ring.sub(nodes, turned), 1 << level)
    nodes[...] = ring.add(nodes, turned)


def _divided_by_power(ring: Ring, x: Words, step: int) -> Words:
    """X^(-step) x, coefficient form."""
    out = np.roll(x, -step, axis=-1)
    out[..., -step:] = ring.neg(out)[..., -step:]
    return out

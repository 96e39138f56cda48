"""The random polynomials of lattice encryption, drawn from one key stream and numbered so that none is drawn twice.

    secret   uniform over {-1, 0, 1}, as SEAL and the tables of the HomomorphicEncryption.org standard assume
    error    centred binomial with 42 coins: variance 10.5, standard deviation 3.24, as SEAL
    uniform  residues modulo each prime
    flood    uniform integers of a stated number of bits, as residues: never floating point, whose low bits stay bare

Reference: Alkim, Ducas, Pöppelmann, Schwabe, "Post-quantum key exchange: a new hope" (2016), section 4.1, for the
centred binomial distribution; it is sub-Gaussian with a parameter equal to its variance, by Hoeffding's lemma.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.mpc.random import KeyStream, fresh_key
from enclave.errors import BadInput, SessionError

__all__ = ["ERROR_DEVIATION", "ERROR_VARIANCE", "Source"]

_COINS = 21
ERROR_VARIANCE = _COINS / 2
ERROR_DEVIATION = math.sqrt(ERROR_VARIANCE)
_HIGHEST_BYTE = 255  # bytes below it are uniform modulo 3


class Source:
    """Numbers the draws of one key stream: each call takes the next number.

    Threads may share it. A copy would draw the same polynomials again, so there is none: it is not pickled, and refuses
    to draw in a process that was forked from the one that made it.

    Args:
        stream: keyed with `fresh_key()`, and used by this source alone.
    """

    __slots__ = ("_numbers", "_process", "_stream")

    def __init__(self, stream: KeyStream) -> None:
        self._stream = stream
        self._numbers = itertools.count(1)  # 0 is never used, so that a forgotten number shows
        self._process = os.getpid()

    @classmethod
    def fresh(cls) -> Source:
        """A source with 128 bits of entropy from the operating system."""
        return cls(KeyStream(fresh_key()))

    def __repr__(self) -> str:
        return "Source(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a source of randomness is neither pickled nor copied")

    def ternary(self, *shape: int) -> NDArray[np.int64]:
        """Uniform over {-1, 0, 1}."""
        count, number = math.prod(shape), self._number()
        kept = np.empty(0, np.uint8)
        offset = 0
        while kept.size < count:
            words = self._stream.words(number, (count - kept.size) // 8 + 16, offset)
            offset += words.size
            fresh = words.view(np.uint8)
            kept = np.concatenate((kept, fresh[fresh < _HIGHEST_BYTE]))
        found: NDArray[np.int64] = (kept[:count] % 3).astype(np.int64).reshape(shape) - 1
        return found

    def error(self, *shape: int) -> NDArray[np.int64]:
        """Centred binomial: heads among 21 coins minus heads among 21 others."""
        words = self._stream.words(self._number(), math.prod(shape))
        mask = np.uint64((1 << _COINS) - 1)
        heads = np.bitwise_count(words & mask).astype(np.int64)
        tails = np.bitwise_count(words >> np.uint64(_COINS) & mask).astype(np.int64)
        found: NDArray[np.int64] = (heads - tails).reshape(shape)
        return found

    def uniform(self, ring: Ring, *shape: int) -> Words:
        """Exactly uniform residues [*shape, k, N]."""
        draws = [ring.uniform(self._stream, self._number()) for _ in range(math.prod(shape))]
        return _stacked(draws, ring, shape)

    def integers(self, ring: Ring, bits: int, *shape: int) -> Words:
        """Integers exactly uniform in [-2^(bits-1), 2^(bits-1)), as residues [*shape, k, N].

        Raises: BadInput: the range is wider than the ring's modulus, so that the integers would wrap.
        """
        if bits < 1 or 1 << bits > ring.modulus:
            raise BadInput(f"expected 1 to {ring.modulus.bit_length() - 1} bits to flood with, found {bits}")
        draws = [ring.integers(self._stream, self._number(), bits) for _ in range(math.prod(shape))]
        return _stacked(draws, ring, shape)

    def words(self, count: int) -> Words:
        """Uniform 64-bit words [count], to make other distributions from."""
        return self._stream.words(self._number(), count)

    def _number(self) -> int:
        if os.getpid() != self._process:
            raise SessionError("a forked process would draw its parent's randomness again: give it a fresh source")
        return next(self._numbers)  # one step of the interpreter: threads never get the same number


def _stacked(draws: list[Words], ring: Ring, shape: tuple[int, ...]) -> Words:
    whole = draws[0] if len(draws) == 1 else np.array(draws, np.uint64)
    found: Words = whole.reshape(*shape, len(ring.primes), ring.degree)
    return found

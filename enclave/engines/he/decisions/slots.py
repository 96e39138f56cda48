"""Encrypted vectors of residues modulo a small prime, multiplied element by element by plaintext vectors.

For a prime t = 1 mod 2N a polynomial modulo t is N residues, its values at the roots of X^N + 1: slots. The buyer
encrypts slots under its own key; an owner computes sums of plaintext vectors times encrypted ones, element by element,
and answers with a ciphertext that shows the slots of the result and nothing else:

    phase    q / t * (message) + errors; a message m is encoded as round(q m / t), so nothing is lost modulo t
    answer   + Enc_pk(0), which makes both halves fresh (RLWE), + integers uniform on FLOOD_BITS bits, which hide the
             errors (they depend on the owner's vectors) by HIDING_BITS bits for a whole ciphertext,
             then both halves rounded to small powers of two as moduli: on public terms, of what was hidden before

Errors: those of d ciphertexts, each with deviation 3.24, times polynomials whose coefficients are below t. The owner's
vectors hold fresh uniform masks, so that the coefficients behave as independent ones; the sum then has a deviation
below 3.24 t sqrt(d N / 3), 2^25.2 for t = 40,961 and d = 64, and NOISE_BITS leaves a factor of 13 above that.
Reducing to powers of two is wrong with probability below 2^-70 a slot: see `_answer_bits`.

**Reference** Brakerski, Gentry, Vaikuntanathan, "(Leveled) fully homomorphic encryption without bootstrapping" (2012)
and Smart, Vercauteren, "Fully homomorphic SIMD operations" (2014) for slots; `rlwe` for the encryption.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import Parameters, checked, primes_of
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.rlwe import encrypt, expand, zero_parts
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack, pack_bits, packed_words, unpack, unpack_bits
from enclave.errors import BadInput

__all__ = [
    "DEGREE",
    "FLOOD_BITS",
    "HIDING_BITS",
    "Slots",
    "plaintext_primes",
    "slot_parameters",
    "times_secret",
    "uniform_below",
]

DEGREE = 4096
_PRIME_BITS = (50, 50)
HIDING_BITS = 40
NOISE_BITS = 29
FLOOD_BITS = HIDING_BITS + int(math.log2(DEGREE)) + NOISE_BITS
_DEVIATIONS = 10.0
_MOST_REST = 0.95  # of half a step, that noise may take: nine deviations are left for rounding


@lru_cache(maxsize=1)
def slot_parameters() -> Parameters:
    """N = 4096 and two primes of 50 bits: 100 of the 109 bits that 128 bits of security allow."""
    return checked("bfv", DEGREE, primes_of(DEGREE, _PRIME_BITS))


def plaintext_primes(count: int) -> tuple[int, ...]:
    """The smallest primes t = 1 mod 2N; 40,961 is the first."""
    return tuple(_small_primes()[:count])


@lru_cache(maxsize=1)
def _small_primes() -> tuple[int, ...]:
    found = []
    for candidate in range(2 * DEGREE + 1, 1 << 19, 2 * DEGREE):
        if all(candidate % factor for factor in range(3, math.isqrt(candidate) + 1, 2)):
            found.append(candidate)
    return tuple(found)


class Slots:
    """Slots modulo one prime: encoding, encryption at the buyer, products and answers at an owner.

    Args:
        prime: t, of `plaintext_primes`.
    """

    __slots__ = ("_phases", "bits", "parameters", "plain", "prime", "ring")

    def __init__(self, prime: int) -> None:
        self.prime = prime
        self.parameters = slot_parameters()
        self.ring = self.parameters.ring()
        self.plain = Ring(DEGREE, (prime,))
        self._phases = _phase_table(self.ring, prime)
        self.bits = _answer_bits(prime, self.ring.modulus)

    def __repr__(self) -> str:
        return f"Slots({self.prime})"

    # ---- sizes on the wire
    def query_words(self, count: int) -> int:
        """64-bit words of `count` encrypted vectors, sent by the buyer."""
        return packed_words(self.ring.primes, (count, *self._shape))

    def answer_words(self, count: int) -> int:
        """64-bit words of `count` answers."""
        return count * DEGREE // 64 * sum(self.bits)

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.ring.primes), DEGREE

    # ---- buyer
    def query(self, secret: SecretKey, values: Words, seed: PublicSeed, first: int) -> Words:
        """Encrypts vectors.

        Args:
            values: [count, N] below t. first: number of the first uniform half in `seed`.

        Returns: words on the wire; the uniform halves do not travel.
        """
        return pack(encrypt(secret, self._phase(values), seed, first), self.ring.primes)

    def opened(self, secret: SecretKey, words: Words, count: int) -> Words:
        """The slots [count, N] of received answers.

        Raises: BadInput: another length, or noise that no honest answer has: each slot of garbage passes with
            probability 0.95. Refused: the key's cap on decryptions.
        """
        if words.dtype != np.uint64 or words.shape != (self.answer_words(count),):
            raise BadInput(f"expected {self.answer_words(count)} words, found {words.dtype} {words.shape}")
        low, high = self.bits
        rows = words.reshape(count, -1)
        cut = DEGREE // 64 * low
        c0 = unpack_bits(np.ascontiguousarray(rows[:, :cut]).reshape(-1), low).reshape(count, DEGREE)
        c1 = unpack_bits(np.ascontiguousarray(rows[:, cut:]).reshape(-1), high).reshape(count, DEGREE)
        turned = (c0 << np.uint64(high - low)).view(np.int64) + times_secret(secret, c1, high)
        phase = turned.view(np.uint64) & np.uint64((1 << high) - 1)
        scaled = phase * np.uint64(self.prime) + np.uint64(1 << high - 1)
        message = scaled >> np.uint64(high)
        rest = np.abs((scaled & np.uint64((1 << high) - 1)).view(np.int64) - (1 << high - 1))
        if int(rest.max()) > _MOST_REST * (1 << high - 1):
            raise BadInput("expected an answer under this key, found noise: it was changed, or belongs to another key")
        return self.plain.ntt((message % np.uint64(self.prime))[:, None])[:, 0]

    # ---- owner
    def received(self, words: Words, seed: PublicSeed, first: int, count: int) -> Words:
        """Encrypted vectors from the wire, in evaluation form [count, 2, k, N], ready for `factors`.

        Raises: BadInput: another length, or a residue that is not reduced.
        """
        halves = unpack(words, self.ring.primes, (count, *self._shape))
        return self.ring.ntt(expand(self.ring, halves, seed, first))

    def factors(self, values: Words) -> Words:
        """Plaintext vectors [..., N] below t as polynomials in evaluation form [..., k, N]."""
        coefficients = self.plain.intt(values[..., None, :])
        # residues below t are below every prime of the ring, so they are residues there as they are
        return self.ring.ntt(np.repeat(coefficients, len(self.ring.primes), axis=-2))

    def answer(self, public: PublicKey, source: Source, products: Words, constants: Words) -> Words:
        """What the buyer may decrypt: hidden, and rounded to few bits.

        Args:
            products: [count, 2, k, N], evaluation form: sums of factors times encrypted vectors.
            constants: [count, N] below t, added to the slots.

        Reveals: the slots, to the holder of the key; the rest is hidden by HIDING_BITS bits a ciphertext.
        """
        ring, count = self.ring, len(products)
        evaluation, errors = zero_parts(public, source, count)
        fresh = ring.add(ring.intt(ring.add(products, evaluation)), errors)
        flood = source.integers(ring, FLOOD_BITS, count)
        c0 = ring.add(ring.add(fresh[:, 0], flood), self._phase(constants))
        halves = [
            pack_bits(ring.to_torus(half, width), width).reshape(count, -1)
            for half, width in zip((c0, fresh[:, 1]), self.bits, strict=True)
        ]
        return np.concatenate(halves, axis=1).reshape(-1)

    def _phase(self, values: Words) -> Words:
        """round(q m / t) of the polynomials with slots `values` [..., N]: coefficient form [..., k, N]."""
        message = self.plain.intt(values[..., None, :])[..., 0, :]
        return np.stack([row[message] for row in self._phases], axis=-2)


def times_secret(secret: SecretKey, c1: Words, bits: int) -> NDArray[np.int64]:
    """c1 s for c1 [count, N] modulo 2^bits, over the integers, for c1 in [-2^(bits-1), 2^(bits-1)): counts decryptions.

    Raises: Refused: the key's cap on decryptions.
    """
    # below 2^(bits - 1) N, so that one prime of 50 bits is enough
    if bits > 37:
        raise BadInput(f"expected at most 37 bits of an answer, found {bits}")
    secret.count(len(c1))
    ring = secret.ring.lower(1)
    centred = (c1 << np.uint64(64 - bits)).view(np.int64) >> np.int64(64 - bits)
    product = ring.intt(ring.multiply(ring.encode(centred), secret.reveal(ring)))[:, 0]
    prime = ring.primes[0]
    found: NDArray[np.int64] = product.view(np.int64) - np.int64(prime) * (product > prime // 2)
    return found


def uniform_below(source: Source, bound: int, *shape: int) -> Words:
    """Exactly uniform integers in [0, bound), bound < 2^32: 32-bit draws, those beyond a multiple of bound rejected."""
    count = math.prod(shape)
    limit = (1 << 32) // bound * bound
    kept: NDArray[np.uint32] = np.empty(0, np.uint32)
    while kept.size < count:
        fresh = source.words((count - kept.size) // 2 + 16).view(np.uint32)
        kept = np.concatenate((kept, fresh if limit == 1 << 32 else fresh[fresh < np.uint32(limit)]))
    kept = kept[:count]
    remainder: Words = (kept - kept // np.uint32(bound) * np.uint32(bound)).astype(np.uint64)
    return remainder.reshape(shape)


def _phase_table(ring: Ring, prime: int) -> Words:
    """[k, t]: round(q m / t) modulo each prime of the ring."""
    # q m = t w + rest with w the rounded quotient, so w = -rest / t modulo every divisor of q
    shift = prime // 2
    rest = (ring.modulus % prime * np.arange(prime, dtype=np.int64) + shift) % prime - shift
    rows = [(-rest % p).astype(object) * pow(prime, -1, p) % p for p in ring.primes]
    return np.array(rows, dtype=np.uint64)


def _answer_bits(prime: int, modulus: int) -> tuple[int, int]:
    """Bits of the two halves of an answer.

    Half a step of the message is 1 / 2t of the torus. It has to hold half the flood (at most 0.36 of it), the rounding
    of c0 (two bits more than t: at most 1/4), and the rounding of c1 times the secret: a sum of about 2N / 3 errors
    uniform on +-1/2 unit, which are strictly sub-Gaussian with variance 1/12, so that ten deviations are passed with
    probability below 2 exp(-50).
    """
    low = prime.bit_length() + 2
    flooded = 2.0 * prime * math.exp2(FLOOD_BITS - 1 - math.log2(modulus))
    left = 1.0 - flooded - prime / math.exp2(low)
    deviation = math.sqrt(DEGREE * 2 / 3 / 12)
    high = math.ceil(math.log2(_DEVIATIONS * deviation * 2 * prime / left))
    return low, high

"""Products of a buyer's secret and an owner's, as shares modulo M: the steps of a network on shares.

M = t_1 ... t_m is the product of the first m primes of the ciphertexts' modulus q = t_1 ... t_m p_1 ... p_j, so that a
message modulo t_i has the scale q / t_i, an integer, and nothing is ever rounded that should be exact. A share is
uint64 [m, rows, width], residues modulo each t_i; two shares, the buyer's and the owner's, add up to the value.

    input    buyer Enc(W), scale q / M; owner plaintext x, and a mask uniform modulo q over every coefficient:
             hidden perfectly; the value is right to one unit modulo M, the rounding of the mask
    matrix   for each i: buyer Enc(W mod t_i), scale q / t_i; owner plaintext share modulo t_i
    slots    for each i: buyer Enc(u mod t_i) in N slots; owner plaintext share modulo t_i, slot by slot

The last two are exact. Their answer carries a mask uniform modulo t_i on every coefficient or slot, which hides the
message perfectly, and integers uniform over a range 2^40 (or more) times that of the noise, since the noise depends on
the owner's share, and the buyer knows the errors that it comes from. The owner's share is minus the mask.

In evaluation form, slots modulo t_i are the residues of row i, and all other rows of the message are zeros: encoding
slots costs nothing.

**Reference** Smart, Vercauteren (2014) for slots; Rathee et al., CrypTFlow2, CCS 2020, section 5, for products of a
share with the other party's encrypted values; here the plaintext modulus divides q.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.keys import Domain, PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import Parameters
from enclave.engines.he.lattice.products import flood_hiding_bits, noise_bits, protected
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear.matvec import MatrixPacking

__all__ = ["Buyer", "Moduli", "Owner", "matmul_modulo"]

_LIMB_BITS = 17
_COLUMNS = 64  # that are in evaluation form at one time: 32 MB at N = 8192
_SPARE_BITS = 2  # between flooding and half of a message's scale


@lru_cache(maxsize=64)
def _ring(degree: int, primes: tuple[int, ...]) -> Ring:
    return Ring(degree, primes)


@dataclass(frozen=True, slots=True)
class Moduli:
    """The moduli t_i of shares: the first `count` primes of `parameters`, which has at least one more.

    Rings are built when they are first used, tens of milliseconds for each prime, and shared.
    """

    parameters: Parameters
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count < len(self.parameters.primes):
            raise ValueError(f"expected 1 to {len(self.parameters.primes) - 1} moduli, found {self.count}")

    @property
    def base(self) -> Ring:
        """Of ciphertexts."""
        return self.parameters.ring()

    def single(self, index: int) -> Ring:
        """Z_t for one modulus."""
        return _ring(self.degree, self.primes[index : index + 1])

    @property
    def degree(self) -> int:
        """N."""
        return self.parameters.degree

    @property
    def primes(self) -> tuple[int, ...]:
        """t_1 ... t_m."""
        return self.parameters.primes[: self.count]

    @property
    def modulus(self) -> int:
        """M."""
        return math.prod(self.primes)

    @property
    def input_primes(self) -> tuple[int, ...]:
        """Of the answers that carry the first layer."""
        return self.parameters.primes[: self.count + 1]

    def residues(self, values: NDArray[Any]) -> Words:
        """Integers of any size [...] -> [m, ...]."""
        return np.stack([(values % prime).astype(np.uint64) for prime in self.primes])

    def scale(self, index: int) -> Words:
        """q / t_i modulo t_i, the only row where an encoded message is not zero: [1, 1]."""
        prime = self.primes[index]
        return np.array([[self.parameters.modulus // prime % prime]], np.uint64)

    def times(self, index: int, x: Words, y: Words) -> Words:
        """x y modulo t_i for arrays [..., N]."""
        return self.single(index).multiply(x[..., None, :], np.ascontiguousarray(y[..., None, :]))[..., 0, :]

    def spread(self, values: Words) -> Words:
        """[rows, width] -> slots [blocks, N]; what is missing is zero."""
        flat = values.reshape(-1)
        found = np.zeros((slot_blocks(flat.size, self.degree), self.degree), np.uint64)
        found.reshape(-1)[: flat.size] = flat
        return found

    # ---- noise
    @property
    def flood_bits(self) -> int:
        """Of the integers that flood an exact answer: as many as leave its message readable."""
        return int(math.log2(self.parameters.modulus // max(self.primes))) - _SPARE_BITS

    def slot_hiding_bits(self, terms: int) -> float:
        """Statistical hiding of one answer that sums `terms` products of slots."""
        noise = noise_bits(terms * self.degree, max(self.primes) / 2, self.degree)
        return flood_hiding_bits(self.flood_bits, noise, self.degree)

    def matrix_hiding_bits(self, packing: MatrixPacking) -> float:
        """The same for a product with a matrix."""
        terms = packing.groups * packing.group * packing.block_rows
        return flood_hiding_bits(self.flood_bits, noise_bits(terms, max(self.primes) / 2, self.degree), self.degree)


def slot_blocks(size: int, degree: int) -> int:
    """Ciphertexts that `size` slots take."""
    return -(-size // degree)


class Buyer:
    """The half of whoever has the key. Encrypted halves are in evaluation form."""

    __slots__ = ("_moduli", "_secret", "_seed")

    def __init__(self, moduli: Moduli, secret: SecretKey, seed: PublicSeed) -> None:
        self._moduli, self._secret, self._seed = moduli, secret, seed

    def __repr__(self) -> str:
        return "Buyer(<redacted>)"

    def encrypt_input(self, weights: NDArray[np.int64], packing: MatrixPacking, first: int) -> Words:
        """int64 [inputs, outputs] -> [groups, k, N]."""
        moduli, base = self._moduli, self._moduli.base
        scale = base.modulus // moduli.modulus
        scales = np.array([[scale % prime] * moduli.degree for prime in base.primes], np.uint64)
        return self._encrypted(base.multiply(base.encode(packing.weights(weights)), scales), first)

    def encrypt_matrix(self, weights: Words, packing: MatrixPacking, first: int) -> Words:
        """Residues [m, inputs, outputs] -> [m, groups, k, N]."""
        polynomials = [packing.weights(residues)[:, None] for residues in weights]
        phases = [self._row(i, self._moduli.single(i).ntt(x)[:, 0]) for i, x in enumerate(polynomials)]
        return self._encrypted(np.stack(phases), first)

    def encrypt_slots(self, share: Words, first: int) -> Words:
        """A share [m, rows, width] -> [m, blocks, k, N]."""
        return self._encrypted(np.stack([self._row(i, self._moduli.spread(v)) for i, v in enumerate(share)]), first)

    def _row(self, index: int, values: Words) -> Words:
        moduli = self._moduli
        found = np.zeros((len(values), len(moduli.base.primes), moduli.degree), np.uint64)
        scale = np.repeat(moduli.scale(index), moduli.degree, axis=1)
        found[:, index] = moduli.times(index, values, scale)
        return found

    def _encrypted(self, phases: Words, first: int) -> Words:
        """phase + e - a s: `rlwe.encrypt` in evaluation form, where a uniform a is uniform too."""
        base, secret = self._moduli.base, self._secret
        count = math.prod(phases.shape[:-2])
        a = secret.take(self._seed, Domain.MESSAGES, first, count, base).reshape(phases.shape)
        error = base.ntt(secret.errors(base, *phases.shape[:-2]))
        return base.sub(base.add(phases, error), base.multiply(a, secret.reveal(base)))

    def open_input(self, answer: Words, packing: MatrixPacking, rows: int) -> Words:
        """Answers [blocks, 2, m + 1, N] -> this party's share [m, rows, outputs]."""
        ring = self._moduli.base.lower(self._moduli.count + 1)
        self._secret.count(len(answer))
        product = ring.intt(ring.multiply(ring.ntt(answer[:, 1]), self._secret.reveal(ring)))
        return packing.products(ring.drop_last(ring.add(answer[:, 0], product)), rows)

    def open_matrix(self, index: int, answer: Words, packing: MatrixPacking, rows: int) -> Words:
        """Answers [blocks, 2, N] modulo t_index -> [rows, outputs]."""
        return packing.products(self._message(index, answer), rows)

    def open_slots(self, index: int, answer: Words, shape: tuple[int, int]) -> Words:
        """Answers [blocks, 2, N] modulo t_index -> [rows, width]."""
        slots = self._moduli.single(index).ntt(self._message(index, answer)[:, None])[:, 0]
        return slots.reshape(-1)[: math.prod(shape)].reshape(shape)

    def _message(self, index: int, answer: Words) -> Words:
        """round(t phase / 2^64) for answers [blocks, 2, N] on the torus."""
        ring, prime = self._moduli.base.lower(2), self._moduli.primes[index]
        self._secret.count(len(answer))
        # c1 s is below 2^63 N, and two primes of 50 bits hold it whole
        centred = np.ascontiguousarray(answer[:, 1]).view(np.int64)
        product = ring.intt(ring.multiply(ring.encode(centred), self._secret.reveal(ring)))
        phase = answer[:, 0] + _modulo_words(product, ring.primes)
        return _rounded_share(phase, prime)


class Owner:
    """The half of whoever has the rows."""

    __slots__ = ("_moduli", "_public", "_seed", "_source")

    def __init__(self, moduli: Moduli, public: PublicKey, seed: PublicSeed, source: Source) -> None:
        self._moduli, self._public, self._seed, self._source = moduli, public, seed, source

    def __repr__(self) -> str:
        return "Owner(<redacted>)"

    def expanded(self, halves: Words, first: int) -> Words:
        """Received halves [..., k, N] -> ciphertexts [..., 2, k, N], evaluation form."""
        a = self._seed.uniform(self._moduli.base, Domain.MESSAGES, first, math.prod(halves.shape[:-2]))
        return np.stack((halves, a.reshape(halves.shape)), axis=-3)

    def answer_input(self, rows: NDArray[np.int64], weights: Words, packing: MatrixPacking) -> tuple[Words, Words]:
        """Integer rows [n, inputs], encrypted weights [groups, 2, k, N] -> answers, this party's share."""
        moduli, base, dropped = self._moduli, self._moduli.base, len(self._moduli.base.primes) - self._moduli.count
        mask = self._source.uniform(base, packing.blocks(len(rows)))
        answers = np.empty((len(mask), 2, moduli.count + 1, moduli.degree), np.uint64)
        for i, sums in enumerate(self._products(rows, weights, packing)):
            answers[i] = base.drop(protected(self._public, self._source, sums, mask[i]), dropped - 1)
        share = base.lower(moduli.count).neg(base.drop(mask, dropped))
        return answers, packing.products(share, len(rows))

    def answer_matrix(self, index: int, share: Words, weights: Words, packing: MatrixPacking) -> tuple[Words, Words]:
        """A share modulo t_index [n, inputs], weights [groups, 2, k, N] -> answers, this party's share [n, outputs]."""
        moduli = self._moduli
        centred = _centred(share, moduli.primes[index])
        sums = np.stack(list(self._products(centred, weights, packing)))
        mask = self._source.uniform(moduli.single(index), len(sums))[:, 0]
        answers = self._exact(index, sums, mask)
        return answers, packing.products(_negated(mask, moduli.primes[index]), len(share))

    def _products(self, rows: NDArray[np.int64], weights: Words, packing: MatrixPacking) -> Iterator[Words]:
        """The products of each block, [2, k, N], evaluation form; a few columns at a time, to save memory."""
        base, step = self._moduli.base, packing.block_rows
        for start in range(0, len(rows), step):
            coefficients = packing.rows(rows[start : start + step])[0]
            parts = [
                base.dot(base.encode(coefficients[low : low + _COLUMNS]), weights[low : low + _COLUMNS])
                for low in range(0, len(coefficients), _COLUMNS)
            ]
            yield reduce(base.add, parts)

    def answer_slots(self, index: int, pairs: list[tuple[Words, Words]]) -> tuple[Words, Words]:
        """Sum of shares (modulo t_index, [n, width]) times ciphertexts [blocks, 2, k, N] -> answers, own share."""
        moduli, base, single = self._moduli, self._moduli.base, self._moduli.single(index)
        sums: Words | None = None
        for share, ciphertexts in pairs:
            coefficients = single.intt(moduli.spread(share)[:, None])[:, 0]
            factor = base.encode(_centred(coefficients, moduli.primes[index]))
            product = base.multiply(ciphertexts, factor[:, None])
            sums = product if sums is None else base.add(sums, product)
        assert sums is not None
        mask = self._source.uniform(single, len(sums))
        answers = self._exact(index, sums, single.intt(mask)[:, 0])
        shape = pairs[0][0].shape
        share = _negated(mask[:, 0], moduli.primes[index]).reshape(-1)[: math.prod(shape)].reshape(shape)
        return answers, share

    def _exact(self, index: int, sums: Words, mask: Words) -> Words:
        """Answers modulo t_index under a mask modulo t_index, coefficient form [blocks, N].

        What was hidden modulo q is switched to 2^64, so that it travels in words: the rounding errors of c1 times the
        secret stay below 2^9 (six deviations at N = 32768), of the 2^14 that a message modulo t is apart.

        Returns: [blocks, 2, N].
        """
        moduli, base = self._moduli, self._moduli.base
        flood = self._source.integers(base, moduli.flood_bits, len(sums))
        scale = np.repeat(moduli.scale(index), moduli.degree, axis=1)
        row = moduli.single(index).add(flood[:, index, None], moduli.times(index, mask, scale)[:, None])
        flood[:, index] = row[:, 0]
        return base.to_torus(protected(self._public, self._source, sums, flood), 64)


def _centred(residues: Words, prime: int) -> NDArray[np.int64]:
    signed = residues.view(np.int64)
    return signed - np.int64(prime) * (signed > prime // 2)


def _negated(residues: Words, prime: int) -> Words:
    return np.where(residues == 0, residues, np.uint64(prime) - residues)


def _modulo_words(x: Words, primes: tuple[int, ...]) -> Words:
    """Integers in (-p_0 p_1 / 2, p_0 p_1 / 2), residues [..., 2, N], modulo 2^64: [..., N]."""
    first, second = primes
    low = x[..., 0, :]
    # low < p_0, which is above p_1, but not twice as large
    reduced = np.where(low >= second, low - np.uint64(second), low)
    ring = _ring(x.shape[-1], (second,))
    inverse = np.full((1, x.shape[-1]), pow(first, -1, second), np.uint64)
    difference = ring.sub(np.ascontiguousarray(x[..., 1:, :]), np.ascontiguousarray(reduced[..., None, :]))
    high = ring.multiply(difference, inverse)[..., 0, :]
    whole = low + np.uint64(first) * high  # modulo 2^64
    wrapped = np.uint64(first * second % (1 << 64))
    return np.where(high > second // 2, whole - wrapped, whole)


def _rounded_share(phase: Words, prime: int) -> Words:
    """round(prime phase / 2^64) modulo a prime below 2^50: the high word of a product of 114 bits."""
    half = np.uint64(25)
    t1, t0 = np.uint64(prime >> 25), np.uint64(prime & ((1 << 25) - 1))
    a, b = phase >> np.uint64(32), phase & np.uint64((1 << 32) - 1)
    carry = (b * t1 + (b * t0 >> half)) >> np.uint64(7)  # floor(b prime / 2^32)
    carry += np.uint64(1 << 31)  # a half of the last place
    high = (a * t1 + ((a * t0 + carry) >> half)) >> np.uint64(7)
    return np.where(high == prime, np.uint64(0), high)


def matmul_modulo(x: Words, y: Words, prime: int) -> Words:
    """x @ y modulo a prime below 2^51, for residues [n, d] and [d, h]: exact, by float64 products of 17-bit limbs."""
    limbs = -(-prime.bit_length() // _LIMB_BITS)
    mask = np.uint64((1 << _LIMB_BITS) - 1)
    total = np.zeros((x.shape[0], y.shape[1]), np.uint64)
    modulus = np.uint64(prime)
    for start in range(0, x.shape[1], 1 << 16):  # sums of 2^16 products of 34 bits are exact, limbs' sums too
        xs, ys = (
            [((v >> np.uint64(_LIMB_BITS * i)) & mask).astype(np.float64) for i in range(limbs)]
            for v in (x[:, start : start + (1 << 16)], y[start : start + (1 << 16)])
        )
        part = np.zeros_like(total)
        for weight in range(2 * limbs - 2, -1, -1):
            for shift in (9, _LIMB_BITS - 9):  # a residue of 51 bits stays below 2^60
                part = (part << np.uint64(shift)) % modulus
            for i in range(max(0, weight - limbs + 1), min(limbs, weight + 1)):
                part = (part + (xs[i] @ ys[weight - i]).astype(np.uint64)) % modulus
        total = (total + part) % modulus
    return total

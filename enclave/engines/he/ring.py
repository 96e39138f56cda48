"""Polynomials modulo X^N + 1 and a product q of primes p = 1 mod 2N, as residues.

An element is uint64 [..., k, N], row i reduced modulo prime i: in coefficient form, or in evaluation form (the number
theoretic transform, NTT) with the roots and the order of SEAL, so that arrays pass to and from its objects as they
are. Elements carry no mark of their form; the functions say which they take.

Constant time: time depends on shapes and primes alone, but for `to_integers` and for `uniform`, whose rejected draws
are independent of the result.
"""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.kernels import portable
from enclave.engines.he.kernels.tables import Tables, bit_reversed, make_tables, ntt_primes
from enclave.engines.mpc.random import KeyStream
from enclave.errors import BadInput

__all__ = ["Ring", "Words", "ntt_primes"]

Words = NDArray[np.uint64]

_STREAM_WORDS = 1 << 32  # of a key stream, for each prime's draws


class Ring:
    """Z_q[X] / (X^N + 1) for q = p_0 ... p_{k-1}. Immutable; building one takes tens of milliseconds, so share it.

    Args:
        degree: N, a power of two from 16 to 32,768.
        primes: different, each 1 modulo 2N, at most 61 bits; below 2^50 all operations are several times as fast.

    Raises: BadInput: a degree or a prime that does not fit.
    """

    __slots__ = ("_crt", "_tables", "degree", "modulus", "primes")

    degree: int
    primes: tuple[int, ...]
    modulus: int

    def __init__(self, degree: int, primes: tuple[int, ...]) -> None:
        try:
            tables = make_tables(degree, tuple(primes))
        except ValueError as error:
            raise BadInput(str(error)) from error
        self._fill(tables)

    def _fill(self, tables: Tables) -> None:
        self._tables = tables
        self.degree = tables.degree
        self.primes = tuple(int(p) for p in tables.primes)
        self.modulus = prod(self.primes)
        self._crt = _Reconstruction(self.primes)

    def __repr__(self) -> str:
        return f"Ring({self.degree}, {self.primes})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ring) and (self.degree, self.primes) == (other.degree, other.primes)

    def __hash__(self) -> int:
        return hash((self.degree, self.primes))

    def lower(self, count: int) -> Ring:
        """The ring of the first `count` primes; shares the tables."""
        if not 1 <= count <= len(self.primes):
            raise BadInput(f"expected 1 to {len(self.primes)} primes, found {count}")
        ring = Ring.__new__(Ring)
        ring._fill(self._tables.lower(count))
        return ring

    @property
    def _column(self) -> Words:
        return self._tables.primes[:, None]

    def ntt(self, x: Words) -> Words:
        """Coefficient form -> evaluation form."""
        return portable.ntt(self._tables, self._checked(x))

    def intt(self, x: Words) -> Words:
        """Evaluation form -> coefficient form."""
        return portable.intt(self._tables, self._checked(x))

    def add(self, x: Words, y: Words) -> Words:
        """x + y; leading axes broadcast."""
        return portable.add(self._checked(x), self._checked(y), self._column)

    def sub(self, x: Words, y: Words) -> Words:
        """x - y; leading axes broadcast."""
        return portable.subtract(self._checked(x), self._checked(y), self._column)

    def neg(self, x: Words) -> Words:
        """-x."""
        return portable.subtract(np.zeros((1, 1), np.uint64), self._checked(x), self._column)

    def multiply(self, x: Words, y: Words) -> Words:
        """The products of residues: of polynomials in evaluation form. Leading axes broadcast."""
        return portable.multiply(self._checked(x), self._checked(y), self._column)

    def dot(self, xs: Words, ys: Words) -> Words:
        """sum_j xs[..., j, :, :] ys[j, ..., :, :], all in evaluation form.

        Args:
            xs: [..., d, k, N], such as the columns of row blocks. ys: [d, ..., k, N], such as d ciphertexts [2, k, N].

        Returns:
            [leading axes of xs, inner axes of ys, k, N]: [d, k, N] and [d, 2, k, N] give [2, k, N].
        """
        xs, ys = self._checked(xs), self._checked(ys)
        if xs.ndim < 3 or ys.ndim < 3 or xs.shape[-3] != ys.shape[0]:
            raise BadInput(f"expected as many columns as ciphertexts, found shapes {xs.shape} and {ys.shape}")
        tail = xs.shape[-2:]
        blocks = xs.reshape(-1, *xs.shape[-3:])
        out = portable.dot(self._tables, blocks, ys.reshape(len(ys), -1, *tail))
        return out.reshape(*xs.shape[:-3], *ys.shape[1:-2], *tail)

    def from_integers(self, v: NDArray[Any]) -> Words:
        """Signed integers [..., N], int64 (or smaller) or Python's own of any size -> residues [..., k, N]."""
        if v.shape[-1:] != (self.degree,):
            raise BadInput(f"expected {self.degree} coefficients, found shape {v.shape}")
        if v.dtype == object or v.dtype == np.uint64:
            rows = [(v % p).astype(np.uint64) for p in (self.primes if v.dtype == object else self._tables.primes)]
            return np.stack(rows, axis=-2)
        return portable.reduce_signed(self._tables, v.astype(np.int64))

    def to_integers(self, x: Words) -> NDArray[Any]:
        """Coefficient form -> Python integers [..., N] in (-q / 2, q / 2]."""
        x = self._checked(x)
        weighted = self._crt.weighted(x, self._tables.primes)
        terms = [weighted[..., i, :].astype(object) * (self.modulus // p) for i, p in enumerate(self.primes)]
        total: NDArray[Any] = reduce(np.add, terms) % self.modulus
        return np.where(total > self.modulus // 2, total - self.modulus, total)

    def encode(self, v: NDArray[Any]) -> Words:
        """Signed integers [..., N] -> evaluation form [..., k, N]: `ntt(from_integers(v))`."""
        return self.ntt(self.from_integers(v))

    def encode_rows(self, rows: NDArray[Any], bits: int = 0) -> Words:
        """A block of rows -> one constant-stride polynomial for each column, in evaluation form.

        Args:
            rows: [n, d], n <= N, float64 or integers; missing rows are zeros.
            bits: float64 is scaled by 2^bits and rounded to nearest, ties to even; integers are taken as they are.

        Returns:
            [d, k, N].

        Raises: BadInput: too many rows; a value that is not finite or reaches 2^62 after scaling.
        """
        if rows.ndim != 2 or len(rows) > self.degree:
            raise BadInput(f"expected at most {self.degree} rows, found shape {rows.shape}")
        try:
            return portable.encode_rows(self._tables, rows, bits)
        except ValueError as error:
            raise BadInput(str(error)) from error

    def uniform(self, stream: KeyStream, number: int) -> Words:
        """Exactly uniform residues [k, N], a function of the stream's key and of `number` alone.

        The residues of prime i are the first N of the words from word 2^32 i of the key stream that, cut to the bits
        of the prime, lie below it.
        """
        out = np.empty((len(self.primes), self.degree), np.uint64)
        for i, prime in enumerate(self.primes):
            done, offset = 0, i * _STREAM_WORDS
            while done < self.degree:
                missing = self.degree - done
                words = stream.words(number, missing + (missing >> 3) + 8, offset)
                done += portable.accept(words, prime, out[i, done:])
                offset += words.size
        return out

    def drop_last(self, x: Words) -> Words:
        """round(x / p_{k-1}), coefficient form [..., k, N] -> [..., k-1, N]: a switch of modulus."""
        if len(self.primes) < 2:
            raise BadInput("expected a ring of at least two primes, found one")
        return portable.drop_last(self._tables, self._checked(x))

    def drop(self, x: Words, count: int) -> Words:
        """`drop_last` of the last `count` primes, one after the other."""
        if not 0 <= count < len(self.primes):
            raise BadInput(f"expected to drop 0 to {len(self.primes) - 1} primes, found {count}")
        for left in range(len(self.primes), len(self.primes) - count, -1):
            x = self.lower(left).drop_last(x)
        return x

    def to_torus(self, x: Words, bits: int) -> Words:
        """round(2^bits x / q) modulo 2^bits, coefficient form -> uint64 [..., N].

        Exact but where the fraction is within k 2^-64 of a half.
        """
        _check_bits(bits)
        crt = self._crt
        return portable.to_torus(crt.weights, crt.fractions, self._tables.primes, self._checked(x), bits)

    def from_torus(self, m: Words, bits: int) -> Words:
        """round(q m / 2^bits) for m modulo 2^bits, uint64 [..., N] -> coefficient form [..., k, N]. Exact."""
        _check_bits(bits)
        inverses = np.array([pow(1 << bits, -1, p) for p in self.primes], np.uint64)
        return portable.from_torus(self._tables.primes, self.modulus, inverses, m, bits)

    def automorphism(self, x: Words, exponent: int) -> Words:
        """x(X^exponent) for an odd exponent, coefficient form."""
        x = self._checked(x)
        places = np.arange(self.degree) * _odd(exponent) % (2 * self.degree)
        wrapped = places >= self.degree
        out = np.empty_like(x)
        out[..., places % self.degree] = np.where(wrapped, self.neg(x), x)
        return out

    def automorphism_ntt(self, x: Words, exponent: int) -> Words:
        """x(X^exponent) for an odd exponent, evaluation form: a permutation."""
        reverse = bit_reversed(self.degree)
        source = ((2 * reverse + 1) * _odd(exponent) % (2 * self.degree) - 1) // 2
        return self._checked(x)[..., reverse[source]]

    def _checked(self, x: Words) -> Words:
        expected = (len(self.primes), self.degree)
        if x.dtype != np.uint64 or x.shape[-2:] != expected:
            raise BadInput(f"expected uint64 residues [..., {expected[0]}, {expected[1]}], found {x.dtype} {x.shape}")
        return x


class _Reconstruction:
    """What x / q modulo 1 is made from: sum_i (x_i w_i mod p_i) / p_i, with w_i = (q / p_i)^-1 mod p_i.

    Attributes:
        weights: [k]. fractions: [k, 2], floor(2^128 / p_i), low word first.
    """

    __slots__ = ("fractions", "weights")

    def __init__(self, primes: tuple[int, ...]) -> None:
        modulus = prod(primes)
        self.weights: Words = np.array([pow(modulus // p, -1, p) for p in primes], np.uint64)
        words = [divmod((1 << 128) // p, 1 << 64)[::-1] for p in primes]
        self.fractions: Words = np.array(words, np.uint64)

    def weighted(self, x: Words, primes: Words) -> Words:
        return portable.multiply(x, self.weights[:, None], primes[:, None])


def _odd(exponent: int) -> int:
    if exponent % 2 != 1:
        raise BadInput(f"expected an odd exponent, found {exponent}")
    return exponent


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 64:
        raise BadInput(f"expected 1 to 64 bits, found {bits}")

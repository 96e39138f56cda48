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

from enclave.engines.he import kernels
from enclave.engines.he.kernels.tables import Tables, make_tables, ntt_primes
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

    __slots__ = ("_fractions", "_ratios", "_tables", "_weights", "degree", "modulus", "primes")

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
        weights = [pow(self.modulus // p, -1, p) for p in self.primes]
        self._weights = np.array(weights, np.uint64)
        self._ratios = np.array([(w << 64) // p for w, p in zip(weights, self.primes, strict=True)], np.uint64)
        self._fractions = np.array([divmod((1 << 128) // p, 1 << 64)[::-1] for p in self.primes], np.uint64)

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

    def ntt(self, x: Words) -> Words:
        """Coefficient form -> evaluation form."""
        return kernels.ntt(self._tables, self._checked(x))

    def intt(self, x: Words) -> Words:
        """Evaluation form -> coefficient form."""
        return kernels.intt(self._tables, self._checked(x))

    def add(self, x: Words, y: Words) -> Words:
        """x + y; leading axes broadcast."""
        return kernels.add(self._tables, self._checked(x), self._checked(y))

    def sub(self, x: Words, y: Words) -> Words:
        """x - y; leading axes broadcast."""
        return kernels.subtract(self._tables, self._checked(x), self._checked(y))

    def neg(self, x: Words) -> Words:
        """-x."""
        return kernels.subtract(self._tables, np.zeros((len(self.primes), self.degree), np.uint64), self._checked(x))

    def multiply(self, x: Words, y: Words) -> Words:
        """The products of residues: of polynomials in evaluation form. Leading axes broadcast."""
        return kernels.multiply(self._tables, self._checked(x), self._checked(y))

    def multiply_add(self, x: Words, y: Words, z: Words) -> Words:
        """x y + z as `multiply`; leading axes broadcast to those of x y."""
        return kernels.multiply_add(self._tables, self._checked(x), self._checked(y), self._checked(z))

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
        blocks = xs.reshape(prod(xs.shape[:-3]), *xs.shape[-3:])
        out = kernels.dot(self._tables, blocks, ys.reshape(len(ys), prod(ys.shape[1:-2]), *tail))
        return out.reshape(*xs.shape[:-3], *ys.shape[1:-2], *tail)

    def from_integers(self, v: NDArray[Any]) -> Words:
        """Signed integers [..., N], int64 (or smaller) or Python's own of any size -> residues [..., k, N]."""
        if v.shape[-1:] != (self.degree,):
            raise BadInput(f"expected {self.degree} coefficients, found shape {v.shape}")
        if v.dtype != object and v.dtype.kind not in "iub":
            raise BadInput(f"expected integers, found {v.dtype}")
        if v.dtype == object or v.dtype == np.uint64:
            rows = [(v % p).astype(np.uint64) for p in (self.primes if v.dtype == object else self._tables.primes)]
            return np.stack(rows, axis=-2)
        return kernels.reduce_signed(self._tables, v.astype(np.int64))

    def to_integers(self, x: Words) -> NDArray[Any]:
        """Coefficient form -> Python integers [..., N] in (-q / 2, q / 2]."""
        x = self._checked(x)
        weights = np.repeat(self._weights[:, None], self.degree, axis=1)
        weighted = kernels.multiply(self._tables, x, weights)
        terms = [weighted[..., i, :].astype(object) * (self.modulus // p) for i, p in enumerate(self.primes)]
        total: NDArray[Any] = reduce(np.add, terms) % self.modulus
        return np.where(total > self.modulus // 2, total - self.modulus, total)

    def encode(self, v: NDArray[Any]) -> Words:
        """Signed integers [..., N] -> evaluation form [..., k, N]: `ntt(from_integers(v))`."""
        if v.dtype == np.int64 and v.shape[-1:] == (self.degree,):
            return kernels.encode(self._tables, v)
        return self.ntt(self.from_integers(v))

    def encode_rows(self, rows: NDArray[Any], bits: int = 0, out: Words | None = None) -> Words:
        """A block of rows -> one constant-stride polynomial for each column, in evaluation form.

        Args:
            rows: [n, d], n <= N, float64 or integers; missing rows are zeros.
            bits: float64 is scaled by 2^bits and rounded to nearest, ties to even; integers are taken as they are.
            out: where to put the result, contiguous: fresh memory costs about as much as the transforms.

        Returns:
            [d, k, N].

        Raises: BadInput: too many rows; a value that is not finite or reaches 2^62 after scaling.
        """
        if rows.ndim != 2 or len(rows) > self.degree or not 0 <= bits <= 62:
            raise BadInput(f"expected at most {self.degree} rows and 62 bits, found shape {rows.shape} and {bits} bits")
        if rows.dtype.kind not in "fiub" or rows.dtype == np.uint64:
            raise BadInput(f"expected integers that int64 holds or floating point numbers, found {rows.dtype}")
        if out is not None and (out.shape[:-2] != rows.shape[1:] or not self._checked(out).flags.c_contiguous):
            raise BadInput(f"expected contiguous room for {rows.shape[1]} columns, found shape {out.shape}")
        rows = rows.astype(np.float64 if rows.dtype.kind == "f" else np.int64, copy=False)
        try:
            return kernels.encode_rows(self._tables, rows, bits, out)
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
                done += kernels.accept(words, out[i, done:], prime)
                offset += words.size
        return out

    def integers(self, stream: KeyStream, number: int, bits: int) -> Words:
        """Integers uniform in [-2^(bits-1), 2^(bits-1)), as residues [k, N], a function of the key, number and bits.

        Limb l of the integers, lowest first, is words [l N, l N + N) of the stream, the last one cut to the bits left.
        """
        if bits < 1:
            raise BadInput(f"expected at least one bit, found {bits}")
        limbs = -(-bits // 64)
        words = stream.words(number, limbs * self.degree).reshape(limbs, self.degree)
        return kernels.from_words(self._tables, words, bits)

    def drop_last(self, x: Words) -> Words:
        """round(x / p_{k-1}), coefficient form [..., k, N] -> [..., k-1, N]: a switch of modulus."""
        if len(self.primes) < 2:
            raise BadInput("expected a ring of at least two primes, found one")
        return kernels.drop_last(self._tables, self._checked(x))

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
        weights, ratios, fractions = self._weights, self._ratios, self._fractions
        return kernels.to_torus(self._tables, weights, ratios, fractions, self._checked(x), bits)

    def from_torus(self, m: Words, bits: int) -> Words:
        """round(q m / 2^bits) for m modulo 2^bits, uint64 [..., N] -> coefficient form [..., k, N]. Exact."""
        _check_bits(bits)
        if m.dtype != np.uint64 or m.shape[-1:] != (self.degree,):
            raise BadInput(f"expected uint64 [..., {self.degree}], found {m.dtype} {m.shape}")
        return kernels.from_torus(self._tables, self.modulus, m, bits)

    def automorphism(self, x: Words, exponent: int) -> Words:
        """x(X^exponent) for an odd exponent, coefficient form."""
        return kernels.automorphism(self._tables, self._checked(x), _odd(exponent))

    def automorphism_ntt(self, x: Words, exponent: int) -> Words:
        """x(X^exponent) for an odd exponent, evaluation form: a permutation."""
        return kernels.automorphism_ntt(self._tables, self._checked(x), _odd(exponent))

    def _checked(self, x: Words) -> Words:
        expected = (len(self.primes), self.degree)
        if x.dtype != np.uint64 or x.shape[-2:] != expected:
            raise BadInput(f"expected uint64 residues [..., {expected[0]}, {expected[1]}], found {x.dtype} {x.shape}")
        return x


def _odd(exponent: int) -> int:
    if exponent % 2 != 1:
        raise BadInput(f"expected an odd exponent, found {exponent}")
    return exponent


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 64:
        raise BadInput(f"expected 1 to 64 bits, found {bits}")

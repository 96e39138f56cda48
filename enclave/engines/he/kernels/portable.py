"""The kernels without the extension: numpy. The same results, bit for bit.

Residues are uint64 [..., k, N], row i below prime i.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.kernels.modular import add, multiply, subtract
from enclave.engines.he.kernels.tables import Tables, bit_reversed

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

OUT_OF_RANGE = "expected finite values below 2^62 after scaling"
NOT_REDUCED = "expected values below their modulus and nothing after the last"

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def ntt(tables: Tables, x: Words) -> Words:
    """Cooley-Tukey, natural order in, bit reversed out (Longa, Naehrig, CANS 2016, algorithm 1)."""
    degree, k = tables.degree, len(tables.primes)
    primes = tables.primes[:, None, None]
    lead = x.shape[:-2]
    groups = 1
    while groups < degree:
        x = x.reshape(*lead, k, groups, 2, degree // (2 * groups))
        low = x[..., 0, :]
        high = multiply(x[..., 1, :], tables.roots[:, groups : 2 * groups, None], primes)
        x = np.stack([add(low, high, primes), subtract(low, high, primes)], axis=-2)
        groups *= 2
    return x.reshape(*lead, k, degree)


def intt(tables: Tables, x: Words) -> Words:
    """The inverse: Gentleman-Sande (the same paper, algorithm 2)."""
    degree, k = tables.degree, len(tables.primes)
    primes = tables.primes[:, None, None]
    lead = x.shape[:-2]
    groups = degree // 2
    while groups:
        x = x.reshape(*lead, k, groups, 2, degree // (2 * groups))
        low, high = x[..., 0, :], x[..., 1, :]
        roots = tables.inverse_roots[:, groups : 2 * groups, None]
        x = np.stack([add(low, high, primes), multiply(subtract(low, high, primes), roots, primes)], axis=-2)
        groups //= 2
    return multiply(x.reshape(*lead, k, degree), tables.scales[:, :1], tables.primes[:, None])


def dot(tables: Tables, xs: Words, ys: Words) -> Words:
    """xs [b, d, k, N], ys [d, c, k, N] -> [b, c, k, N]."""
    primes = tables.primes[:, None]
    out = np.zeros((xs.shape[0], *ys.shape[1:]), np.uint64)
    for j in range(ys.shape[0]):
        out = add(out, multiply(xs[:, j, None], ys[None, j], primes), primes)
    return out


def reduce_signed(tables: Tables, v: Integers) -> Words:
    """int64 [..., N] -> residues [..., k, N]."""
    remainder = v[..., None, :] % tables.primes.astype(np.int64)[:, None]
    return remainder.astype(np.uint64)


def from_words(tables: Tables, words: Words, bits: int) -> Words:
    """[limbs, N] -> residues [k, N] of an integer of `bits` bits less 2^(bits-1); see `kernels.from_words`."""
    primes = tables.primes[:, None]
    digits = words.copy()
    if bits % 64:
        digits[-1] &= np.uint64((1 << bits % 64) - 1)
    bases = np.array([[2**64 % p for p in tables.primes.tolist()]], np.uint64).T
    halves = np.array([[2 ** (bits - 1) % p for p in tables.primes.tolist()]], np.uint64).T
    out = digits[-1] % primes
    for digit in digits[-2::-1]:
        out = add(multiply(out, bases, primes), digit % primes, primes)
    return subtract(out, halves, primes)


def encode_rows(tables: Tables, rows: NDArray[Any], bits: int) -> Words:
    """[n, d] -> [d, k, N] in evaluation form; see `kernels.encode_rows`."""
    if rows.dtype == np.float64:
        with np.errstate(all="ignore"):
            scaled = np.rint(rows * 2.0**bits)
        if not np.all(np.abs(scaled) < 2.0**62):
            raise ValueError(OUT_OF_RANGE)
        integers = scaled.astype(np.int64)
    else:
        integers = rows.astype(np.int64)
    columns = np.zeros((rows.shape[1], tables.degree), np.int64)
    columns[:, : rows.shape[0]] = integers.T
    return ntt(tables, reduce_signed(tables, columns))


def drop_last(tables: Tables, x: Words) -> Words:
    """round(x / p_last) modulo the others: [..., k, N] -> [..., k - 1, N]."""
    rest, last = tables.primes[:-1, None], int(tables.primes[-1])
    half = np.uint64(last // 2)
    shifted = x[..., -1:, :] + half
    shifted = np.where(shifted >= np.uint64(last), shifted - np.uint64(last), shifted)
    others = [int(p) for p in tables.primes[:-1]]
    halves = np.array([last // 2 % p for p in others], np.uint64)[:, None]
    inverses = np.array([pow(last, -1, p) for p in others], np.uint64)[:, None]
    difference = subtract(add(x[..., :-1, :], halves, rest), shifted % rest, rest)
    return multiply(difference, inverses, rest)


def to_torus(weights: Words, fractions: Words, primes: Words, x: Words, bits: int) -> Words:
    """The top `bits` of sum_i (x_i w_i mod p_i) f_i + half modulo 2^128; see `kernels.to_torus`."""
    y = multiply(x, weights[:, None], primes[:, None])
    low, high = np.zeros((2, *x.shape[:-2], x.shape[-1]), np.uint64)
    half = 1 << (127 - bits)
    low += np.uint64(half & (2**64 - 1))
    high += np.uint64(half >> 64)
    for i in range(len(primes)):
        f_low, f_high = fractions[i, :1], fractions[i, 1:]
        part = y[..., i, :] * f_low
        low = low + part
        high = high + _high_word(y[..., i, :], f_low) + y[..., i, :] * f_high + (low < part)
    out: Words = high >> np.uint64(64 - bits)
    return out


def _high_word(x: Words, y: Words) -> Words:
    """floor(x y / 2^64)."""
    x_low, x_high, y_low, y_high = x & _LOW, x >> _HALF, y & _LOW, y >> _HALF
    cross = x_high * y_low + ((x_low * y_low) >> _HALF)
    other = x_low * y_high + (cross & _LOW)
    out: Words = x_high * y_high + (cross >> _HALF) + (other >> _HALF)
    return out


def from_torus(tables: Tables, modulus: int, factors: Words, m: Words, bits: int) -> Words:
    """(q m centred modulo 2^bits) times the factors modulo the primes; see `kernels.from_torus`."""
    top = (m * np.array([modulus % 2**64], np.uint64)) << np.uint64(64 - bits)
    centred = top.view(np.int64) >> np.int64(64 - bits)
    return multiply(reduce_signed(tables, centred), factors[:, None], tables.primes[:, None])


def pack(x: Words, bits: int) -> Words:
    """[n] words, cut to `bits`, -> packed words; see `kernels.pack`."""
    out = np.zeros(-(-x.size * bits // 64) + 1, np.uint64)
    values = x & np.uint64((1 << bits) - 1)
    shared = math.gcd(bits, 64)
    lanes, stride = 64 // shared, bits // shared  # so many values fill so many words: a lane never meets itself
    for lane in range(lanes):
        mine = values[lane::lanes]
        word, shift = divmod(lane * bits, 64)
        places = word + stride * np.arange(mine.size)
        out[places] |= mine << np.uint64(shift)
        if shift + bits > 64:
            out[places + 1] |= mine >> np.uint64(64 - shift)
    return out[:-1]


def unpack(words: Words, bits: int, count: int, limit: int) -> Words:
    """The inverse of `pack`; see `kernels.unpack`."""
    source = np.append(words, np.uint64(0))
    starts = np.arange(count, dtype=np.int64) * bits
    places, shifts = starts >> 6, (starts & 63).astype(np.uint64)
    low = source[places] >> shifts
    high = (source[places + 1] << np.uint64(1)) << (np.uint64(63) - shifts)  # in two steps: a shift by 64 is undefined
    out: Words = (low | high) & np.uint64((1 << bits) - 1)
    used = count * bits % 64
    if np.any(out >= np.uint64(limit)) or (used and int(words[-1]) >> used):
        raise ValueError(NOT_REDUCED)
    return out


def accept(words: Words, out: Words, prime: int) -> int:
    """The top bits of each word, kept where they are below the prime, into `out` in order; how many."""
    values = words >> np.uint64(64 - prime.bit_length())
    kept = values[values < np.uint64(prime)][: out.size]
    out[: kept.size] = kept
    return int(kept.size)


def automorphism(tables: Tables, x: Words, exponent: int) -> Words:
    """x(X^exponent): the coefficient of X^i goes to i exponent, with X^N = -1."""
    degree = tables.degree
    places = np.arange(degree) * (exponent % (2 * degree)) % (2 * degree)
    out = np.empty_like(x)
    negative = np.where(x == 0, x, tables.primes[:, None] - x)
    out[..., places % degree] = np.where(places >= degree, negative, x)
    return out


def automorphism_ntt(tables: Tables, x: Words, exponent: int) -> Words:
    """The same in evaluation form, where place i holds the value at psi^(2 reversed(i) + 1)."""
    degree = tables.degree
    reverse = bit_reversed(degree)
    source = reverse[((2 * reverse + 1) * exponent % (2 * degree) - 1) // 2]
    return x[..., source]

"""The inner loops of polynomial arithmetic modulo word-sized primes, in C where it was compiled, in numpy otherwise.

Both give the same results bit for bit, so parties with and without the extension work together. The extension picks
its instructions when it is loaded: AVX-512 with 52-bit multipliers (IFMA), AVX2, or plain C; with the first, primes
below 2^50 are several times as fast as larger ones. ENCLAVE_KERNELS asks for less, as in `enclave.engines.mpc.kernels`.

Residues are uint64 [..., k, N], row i reduced modulo prime i of the tables. `Ring` gives these functions their
meaning and checks shapes; here every array has already the right one. All but `from_words` let other threads run.

Constant time: time and memory accesses depend on shapes and primes alone, but for `accept`, which looks at words that
it then throws away.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.kernels import portable
from enclave.engines.he.kernels.tables import Tables

if TYPE_CHECKING:
    from enclave.engines.he.kernels import _native as native
elif os.environ.get("ENCLAVE_KERNELS") == "numpy":
    native = None
else:
    try:
        from enclave.engines.he.kernels import _native as native

        if native.REVISION != 2:  # built from older sources: `pip install` it again
            native = None
    except ImportError:  # installed without a compiler
        native = None

__all__ = [
    "LEVEL",
    "accept",
    "add",
    "automorphism",
    "automorphism_ntt",
    "dot",
    "drop_last",
    "encode",
    "encode_rows",
    "from_torus",
    "from_words",
    "intt",
    "multiply",
    "multiply_add",
    "ntt",
    "pack",
    "packed_words",
    "reduce_signed",
    "subtract",
    "to_torus",
    "unpack",
]

Words = NDArray[np.uint64]

LEVEL: str = "numpy" if native is None else native.LEVEL

_ADD, _SUBTRACT, _MULTIPLY, _MULTIPLY_ADD = range(4)  # numbers of operations in the extension


def ntt(tables: Tables, x: Words) -> Words:
    """Coefficient form -> evaluation form."""
    if native is None:
        return portable.ntt(tables, x)
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    native.ntt(x, out, tables.primes, tables.roots, tables.root_quotients, tables.lanes, tables.degree)
    return out


def intt(tables: Tables, x: Words) -> Words:
    """Evaluation form -> coefficient form."""
    if native is None:
        return portable.intt(tables, x)
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    roots, quotients, lanes = tables.inverse_roots, tables.inverse_quotients, tables.inverse_lanes
    native.intt(x, out, tables.primes, roots, quotients, lanes, tables.scales, tables.degree)
    return out


def add(tables: Tables, x: Words, y: Words) -> Words:
    """x + y; leading axes broadcast."""
    if native is None:
        return portable.add(x, y, tables.primes[:, None])
    return _combine(tables, _ADD, x, y)


def subtract(tables: Tables, x: Words, y: Words) -> Words:
    """x - y; leading axes broadcast."""
    if native is None:
        return portable.subtract(x, y, tables.primes[:, None])
    return _combine(tables, _SUBTRACT, x, y)


def multiply(tables: Tables, x: Words, y: Words) -> Words:
    """x y, residue by residue; leading axes broadcast."""
    if native is None:
        return portable.multiply(x, y, tables.primes[:, None])
    return _combine(tables, _MULTIPLY, x, y)


def multiply_add(tables: Tables, x: Words, y: Words, z: Words) -> Words:
    """x y + z, residue by residue; leading axes broadcast, and z has those of the result."""
    if native is None:
        primes = tables.primes[:, None]
        return portable.add(portable.multiply(x, y, primes), z, primes)
    return _combine(tables, _MULTIPLY_ADD, x, y, z)


def _combine(tables: Tables, operation: int, x: Words, y: Words, z: Words | None = None) -> Words:
    shape = np.broadcast_shapes(x.shape, y.shape)
    if z is None:
        out = np.empty(shape, np.uint64)
    else:
        out = np.array(np.broadcast_to(z, shape), order="C")
    if out.size:
        native.combine(operation, _repeating(x, shape), _repeating(y, shape), out, tables.primes, tables.degree)
    return out


def _repeating(x: Words, shape: tuple[int, ...]) -> Words:
    """x itself where the shape repeats it as a whole, else spelt out."""
    trimmed = x.shape
    while len(trimmed) > 2 and trimmed[0] == 1:
        trimmed = trimmed[1:]
    if trimmed != shape[len(shape) - len(trimmed) :]:
        x = np.broadcast_to(x, shape)
    return np.ascontiguousarray(x)


def dot(tables: Tables, xs: Words, ys: Words) -> Words:
    """sum_j xs[b, j] ys[j, c]: xs [b, d, k, N], ys [d, c, k, N] -> [b, c, k, N], evaluation form, any d."""
    if native is None or 0 in (xs.shape[0], *ys.shape[:2]):
        return portable.dot(tables, xs, ys)
    out = np.empty((xs.shape[0], *ys.shape[1:]), np.uint64)
    xs, ys = np.ascontiguousarray(xs), np.ascontiguousarray(ys)
    native.dot(xs, ys, out, tables.primes, xs.shape[0], tables.degree)
    return out


def reduce_signed(tables: Tables, v: NDArray[np.int64]) -> Words:
    """int64 [..., N] -> residues [..., k, N]."""
    if native is None:
        return portable.reduce_signed(tables, v)
    out = np.empty((*v.shape[:-1], len(tables.primes), tables.degree), np.uint64)
    native.reduce_signed(np.ascontiguousarray(v), out, tables.primes, tables.degree)
    return out


def from_words(tables: Tables, words: Words, bits: int) -> Words:
    """Uniform words [limbs, N], cut to `bits` (lowest limb first), minus 2^(bits-1) -> residues [k, N]."""
    if native is None:
        return portable.from_words(tables, words, bits)
    out = np.empty((len(tables.primes), tables.degree), np.uint64)
    native.reduce_words(np.ascontiguousarray(words), out, tables.primes, tables.degree, bits)
    return out


def encode(tables: Tables, v: NDArray[np.int64]) -> Words:
    """int64 [..., N] -> evaluation form [..., k, N]."""
    if native is None:
        return portable.ntt(tables, portable.reduce_signed(tables, v))
    out = reduce_signed(tables, v)
    native.ntt(out, out, tables.primes, tables.roots, tables.root_quotients, tables.lanes, tables.degree)
    return out


def encode_rows(tables: Tables, rows: NDArray[Any], bits: int, out: Words | None = None) -> Words:
    """float64 or int64 [n, d], n <= N -> [d, k, N] in evaluation form, in one pass over the rows.

    float64 is scaled by 2^bits and rounded to nearest, ties to even; int64 is taken as it is.

    Args:
        out: where to put the result, contiguous: fresh memory costs about as much as the transforms.

    Raises: ValueError: a value that is not finite or reaches 2^62 after scaling.
    """
    if out is None:
        out = np.empty((rows.shape[1], len(tables.primes), tables.degree), np.uint64)
    if native is None:
        out[...] = portable.encode_rows(tables, rows, bits)
        return out
    real = rows.dtype == np.float64
    if rows.shape[1] > 1 and rows.strides[1] != rows.itemsize:
        rows = np.ascontiguousarray(rows)
    roots, quotients = tables.roots, tables.root_quotients
    primes, degree, factor = tables.primes, tables.degree, 2.0**bits if real else 1.0
    if not native.encode_rows(rows, out, primes, roots, quotients, tables.lanes, degree, real, factor):
        raise ValueError(portable.OUT_OF_RANGE)
    return out


def drop_last(tables: Tables, x: Words) -> Words:
    """round(x / p_last) modulo the others: [..., k, N] -> [..., k - 1, N], coefficient form."""
    if native is None:
        return portable.drop_last(tables, x)
    last, others = int(tables.primes[-1]), tables.primes[:-1].tolist()
    inverses = np.array([pow(last, -1, p) for p in others], np.uint64)
    out = np.empty((*x.shape[:-2], len(others), tables.degree), np.uint64)
    native.drop_last(np.ascontiguousarray(x), out, tables.primes, inverses, tables.degree)
    return out


def to_torus(tables: Tables, weights: Words, ratios: Words, fractions: Words, x: Words, bits: int) -> Words:
    """The top `bits` of sum_i (x_i w_i mod p_i) f_i + 2^(127 - bits) modulo 2^128, [..., k, N] -> [..., N].

    Args:
        weights, ratios: w and floor(2^64 w / p), [k]. fractions: f, [k, 2], low word first.
    """
    if native is None:
        return portable.to_torus(weights, fractions, tables.primes, x, bits)
    out = np.empty((*x.shape[:-2], tables.degree), np.uint64)
    native.to_torus(np.ascontiguousarray(x), out, tables.primes, weights, ratios, fractions, tables.degree, bits)
    return out


def from_torus(tables: Tables, modulus: int, m: Words, bits: int) -> Words:
    """round(q m / 2^bits), [..., N] -> [..., k, N].

    q m = 2^bits v + c with c centred, and q is 0 modulo each prime: v = -c / 2^bits there, exactly.
    """
    factors = np.array([-pow(1 << bits, -1, p) % p for p in tables.primes.tolist()], np.uint64)
    if native is None:
        return portable.from_torus(tables, modulus, factors, m, bits)
    out = np.empty((*m.shape[:-1], len(tables.primes), tables.degree), np.uint64)
    native.from_torus(np.ascontiguousarray(m), out, tables.primes, factors, tables.degree, modulus % 2**64, bits)
    return out


def packed_words(count: int, bits: int) -> int:
    """How many words `pack` makes of `count` values."""
    return -(-count * bits // 64)


def pack(x: Words, bits: int) -> Words:
    """[n] words, cut to `bits` (1 to 63), -> [ceil(n bits / 64)] words: value i from bit i bits on, the rest zero."""
    if native is None:
        return portable.pack(x, bits)
    out = np.empty(packed_words(x.size, bits), np.uint64)
    native.pack(np.ascontiguousarray(x), out, bits)
    return out


def unpack(words: Words, bits: int, count: int, limit: int) -> Words:
    """The inverse of `pack`: [count] words.

    Raises: ValueError: another number of words, a value not below `limit`, or a bit set after the last value.
    """
    if words.shape != (packed_words(count, bits),):
        raise ValueError(f"expected {packed_words(count, bits)} words, found shape {words.shape}")
    if native is None:
        return portable.unpack(words, bits, count, limit)
    out = np.empty(count, np.uint64)
    if not native.unpack(np.ascontiguousarray(words), out, bits, limit):
        raise ValueError(portable.NOT_REDUCED)
    return out


def accept(words: Words, out: Words, prime: int) -> int:
    """The top bits of each word (as many as the prime has), where they are below the prime, into `out` in order.

    Args:
        out: contiguous; what follows the accepted values is undefined.

    Returns:
        How many values `out` has now, at most its size.
    """
    accepted = portable.accept(words, out, prime) if native is None else native.accept(words, out, prime)
    return accepted


def automorphism(tables: Tables, x: Words, exponent: int) -> Words:
    """x(X^exponent), odd exponent, coefficient form."""
    if native is None:
        return portable.automorphism(tables, x, exponent)
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    native.automorphism(x, out, tables.primes, tables.degree, exponent % (2 * tables.degree))
    return out


def automorphism_ntt(tables: Tables, x: Words, exponent: int) -> Words:
    """x(X^exponent), odd exponent, evaluation form: a permutation."""
    if native is None:
        return portable.automorphism_ntt(tables, x, exponent)
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    native.automorphism_ntt(x, out, tables.degree, exponent % (2 * tables.degree))
    return out

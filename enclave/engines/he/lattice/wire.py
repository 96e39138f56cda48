"""Residues on the wire: the bits of each residue and nothing else, in 64-bit words.

For each prime in turn, its residues (the leading axes, then the coefficients) follow each other at the width of the
prime, least significant bit first. Sizes follow from shapes, so a message of another size is refused before it is
read; what is read is checked residue by residue. No other parser ever sees a foreign byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from enclave.engines.he import kernels
from enclave.engines.he.lattice.ring import Words
from enclave.errors import BadInput

__all__ = ["pack", "pack_bits", "packed_words", "unpack", "unpack_bits"]

_WORD = 64


def packed_words(primes: Sequence[int], shape: tuple[int, ...]) -> int:
    """64-bit words of residues [..., k, N] on the wire. N is a multiple of 64."""
    count = _count(primes, shape)
    return sum(count // _WORD * prime.bit_length() for prime in primes)


def pack(x: Words, primes: Sequence[int]) -> Words:
    """Residues [..., k, N] -> words [packed_words(primes, x.shape)].

    Args:
        x: reduced residues; others would spill into their neighbours.
    """
    _count(primes, x.shape)
    return np.concatenate([pack_bits(x[..., i, :], prime.bit_length()) for i, prime in enumerate(primes)])


def unpack(words: Words, primes: Sequence[int], shape: tuple[int, ...]) -> Words:
    """Words -> residues of `shape` [..., k, N].

    Raises: BadInput: another length, or a residue that is not below its prime.
    """
    expected = packed_words(primes, shape)
    if words.dtype != np.uint64 or words.shape != (expected,):
        raise BadInput(f"expected {expected} words of residues, found {words.dtype} {words.shape}")
    count, start = _count(primes, shape), 0
    out = np.empty(shape, np.uint64)
    for i, prime in enumerate(primes):
        width = prime.bit_length()
        stop = start + count // _WORD * width
        out[..., i, :] = _below(words[start:stop], width, prime).reshape(*shape[:-2], shape[-1])
        start = stop
    return out


def pack_bits(values: Words, width: int) -> Words:
    """Values below 2^width, a multiple of 64 of them -> `width` words for each 64."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.copy() if width == _WORD else kernels.pack(flat, width)


def unpack_bits(words: Words, width: int) -> Words:
    """The inverse of `pack_bits`: one axis of values below 2^width."""
    return _below(words, width, 1 << width)


def _below(words: Words, width: int, limit: int) -> Words:
    """Unpacked values.

    Raises: BadInput: one is not below `limit`.
    """
    if width == _WORD:
        return words.copy()
    try:
        return kernels.unpack(words, width, words.size * _WORD // width, limit)
    except ValueError as error:
        raise BadInput(f"expected residues below {limit}, found one that is not") from error


def _count(primes: Sequence[int], shape: tuple[int, ...]) -> int:
    """Residues of one prime in an array of `shape`."""
    if len(shape) < 2 or shape[-2] != len(primes) or shape[-1] % _WORD:
        raise BadInput(f"expected residues [..., {len(primes)}, a multiple of {_WORD}], found shape {shape}")
    return math.prod(shape[:-2]) * shape[-1]

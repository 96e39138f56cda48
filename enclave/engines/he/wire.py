"""Residues on the wire: the bits of each residue and nothing else, in 64-bit words.

For each prime in turn, its residues (the leading axes, then the coefficients) follow each other at the width of the
prime, least significant bit first. Sizes follow from shapes, so a message of another size is refused before it is
read; what is read is checked residue by residue. No other parser ever sees a foreign byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from enclave.engines.he.ring import Words
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
        x: reduced residues; what is not would be cut silently, so only reduced arrays are ever made here.
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
        row = unpack_bits(words[start:stop], width)
        largest = int(row.max())
        if largest >= prime:
            raise BadInput(f"expected residues below {prime}, found {largest}")
        out[..., i, :] = row.reshape(*shape[:-2], shape[-1])
        start = stop
    return out


def pack_bits(values: Words, width: int) -> Words:
    """The low `width` bits of each value; a multiple of 64 values -> `width` words for each 64."""
    # lane i of every group of 64 values starts at bit i * width of the group's `width` words
    lanes = values.reshape(-1, _WORD).T & np.uint64((1 << width) - 1)
    out = np.zeros((width, lanes.shape[1]), np.uint64)
    for i in range(_WORD):
        word, shift = divmod(i * width, _WORD)
        out[word] |= lanes[i] << np.uint64(shift)
        if shift + width > _WORD:
            out[word + 1] |= lanes[i] >> np.uint64(_WORD - shift)
    return np.ascontiguousarray(out.T).reshape(-1)


def unpack_bits(words: Words, width: int) -> Words:
    """The inverse of `pack_bits`: one axis of values below 2^width."""
    packed = np.ascontiguousarray(words.reshape(-1, width).T)
    out = np.empty((_WORD, packed.shape[1]), np.uint64)
    for i in range(_WORD):
        word, shift = divmod(i * width, _WORD)
        out[i] = packed[word] >> np.uint64(shift)
        if shift + width > _WORD:
            out[i] |= packed[word + 1] << np.uint64(_WORD - shift)
    out &= np.uint64((1 << width) - 1)
    return np.ascontiguousarray(out.T).reshape(-1)


def _count(primes: Sequence[int], shape: tuple[int, ...]) -> int:
    """Residues of one prime in an array of `shape`."""
    if len(shape) < 2 or shape[-2] != len(primes) or shape[-1] % _WORD:
        raise BadInput(f"expected residues [..., {len(primes)}, a multiple of {_WORD}], found shape {shape}")
    return math.prod(shape[:-2]) * shape[-1]

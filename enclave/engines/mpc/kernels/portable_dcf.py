"""Distributed comparison functions with numpy, one level of all trees at a time. The same bits as the extension's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["dcf_evaluate", "dcf_keys"]

Words = NDArray[np.uint64]

U = np.uint64
_ONE, _ALL = U(1), ~U(0)


def dcf_keys(
    hashes: Sequence[algorithms.AES],
    levels: int,
    alphas: Words,
    betas: Words,
    roots: Sequence[Words],
    seeds: Words,
    values: Words,
) -> None:
    """See `kernels.dcf_keys`; writes seeds and values."""
    s = [roots[0].copy(), roots[1].copy()]
    delta = s[0] ^ s[1]
    for level in range(levels):
        up = _mask(alphas >> U(levels - 1 - level))
        h = [_hash(hashes[0], x) for x in s]
        seeds[level] = h[0] ^ h[1] ^ (delta & ~up[:, None])
        s = [_child(h[i], s[i], up, seeds[level]) for i in (0, 1)]
        after = _mask(alphas >> U(levels - 2 - level)) if level < levels - 1 else np.zeros_like(up)
        negative = _mask(s[1][:, 0])
        own, other = (_outputs(hashes, x, len(betas)) for x in s)
        fix = (betas & after) - (betas & up) - own + other
        values[level] = (fix ^ negative) - negative


def dcf_evaluate(
    hashes: Sequence[algorithms.AES],
    levels: int,
    party: int,
    points: Words,
    roots: Words,
    seeds: Words,
    values: Words,
    sums: Words,
) -> None:
    """See `kernels.dcf_evaluate`; writes sums."""
    s = roots
    sums[...] = 0
    for level in range(levels):
        s = _child(_hash(hashes[0], s), s, _mask(points >> U(levels - 1 - level)), seeds[level])
        sums += _outputs(hashes, s, len(sums)) + (values[level] & _mask(s[:, 0]))
    if party:
        np.negative(sums, out=sums)


def _mask(bits: Words) -> Words:
    """All ones where the lowest bit is 1."""
    return np.asarray((bits & _ONE) * _ALL)


def _child(hashed: Words, parent: Words, right: Words, correction: Words) -> Words:
    return np.asarray(hashed ^ (parent & right[:, None]) ^ (correction & _mask(parent[:, :1])))


def _outputs(hashes: Sequence[algorithms.AES], seeds: Words, payload: int) -> Words:
    """(payload, n) words of every node."""
    words = [_hash(key, seeds).T for key in hashes[1:]]
    return np.asarray(np.concatenate(words)[:payload])


def _hash(key: algorithms.AES, x: Words) -> Words:
    """AES(sigma(x)) ^ sigma(x), sigma(high, low) = (high ^ low, high); x: (n, 2), low words first."""
    y = np.stack([x[:, 1], x[:, 1] ^ x[:, 0]], axis=1)
    # Safety: ECB is only the permutation here, under a public key.
    encrypted = Cipher(key, modes.ECB()).encryptor().update(y.tobytes())  # noqa: S305
    return np.asarray(np.frombuffer(encrypted, U).reshape(y.shape) ^ y)

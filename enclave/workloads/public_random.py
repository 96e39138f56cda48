"""Public pseudo-random numbers: the order of rows and the weights a training starts from.

Nothing here is secret: every party derives the same numbers from seeds that stand in the job specification.
They come from SHAKE-256 and not from a numerical library's generator, whose stream may change with its version:
parties with different versions would then train on different constants without noticing.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["public_permutation", "public_signs", "public_uniform"]


def _public_words(seed: int, purpose: str, count: int) -> NDArray[np.uint64]:
    state = hashlib.shake_256(f"enclave public {purpose} {seed}".encode())
    words: NDArray[np.uint64] = np.frombuffer(state.digest(8 * count), dtype="<u8").astype(np.uint64)
    return words


def public_permutation(seed: int, purpose: str, count: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1 that follows from `seed` and `purpose`."""
    order: NDArray[np.int64] = np.argsort(_public_words(seed, purpose, count), kind="stable").astype(np.int64)
    return order


def public_uniform(seed: int, purpose: str, shape: tuple[int, ...], bound: float) -> NDArray[np.float64]:
    """Numbers uniform in [-bound, bound), 53 bits each."""
    count = int(np.prod(shape, dtype=np.int64))
    unit = (_public_words(seed, purpose, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    found: NDArray[np.float64] = ((2.0 * unit - 1.0) * bound).reshape(shape)
    return found


def public_signs(seed: int, purpose: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Numbers -1 and 1, a bit each."""
    count = int(np.prod(shape, dtype=np.int64))
    words = _public_words(seed, purpose, (count + 63) // 64).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=count, bitorder="little")
    found: NDArray[np.int64] = (2 * bits.astype(np.int64) - 1).reshape(shape)
    return found

"""Element-wise work in pieces that stay in cache.

A temporary of more than 128 KB is mapped afresh by the allocator and touched page by page, which costs more than
arithmetic on it; in pieces, temporaries are small and their memory is used again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from enclave.engines.mpc.tape import Array

__all__ = ["blocked", "conditional"]

_ELEMENTS = 1 << 13


def blocked(function: Callable[..., Array], shape: tuple[int, ...], dtype: Any, *arrays: Array) -> Array:
    """function(*arrays), element by element along the last axis, which all arrays and the result have in common."""
    n = shape[-1]
    out = np.empty(shape, dtype)
    for start in range(0, n, _ELEMENTS):
        stop = min(start + _ELEMENTS, n)
        out[..., start:stop] = function(*(array[..., start:stop] for array in arrays))
    return out


def conditional(d: Array, value: Array, whole: Array | np.uint64 | np.uint32) -> Array:
    """value where d is 0, whole - value where d is 1, without a branch."""
    word = value.dtype.type
    ones = word(0) - d.astype(word)
    found = value ^ ones  # -value = ~value + 1
    found -= ones
    found += ones & whole
    return np.asarray(found)

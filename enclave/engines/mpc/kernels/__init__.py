"""The inner loops of the core, in C where it was compiled at install, in numpy otherwise.

Both give the same results bit for bit, so parties with and without the extension work together. The extension picks
its instructions when it is loaded: AVX-512, AVX2 with AES, or plain C. Setting the environment variable
ENCLAVE_KERNELS to "numpy", "c", "avx2" or "avx512" asks for less than the best, for tests and for finding faults.

Constant time: time and memory accesses depend on shapes alone, never on the words.
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import algorithms
from numpy.typing import NDArray

from enclave.engines.mpc.kernels import portable

if TYPE_CHECKING:
    from enclave.engines.mpc.kernels import _native as native
elif os.environ.get("ENCLAVE_KERNELS") == "numpy":
    native = None
else:
    try:
        from enclave.engines.mpc.kernels import _native as native
    except ImportError:  # installed without a compiler
        native = None

__all__ = ["LEVEL", "AesKey", "Operation"]

Words = NDArray[np.uint64]

LEVEL: str = "numpy" if native is None else native.LEVEL
_NATIVE_AES = native is not None and native.HAS_AES


class Operation(IntEnum):
    """What becomes of the words that stand in the output."""

    SET = 0
    ADD = 1
    SUBTRACT = 2
    XOR = 3


class AesKey:
    """An AES-128 key, expanded once."""

    __slots__ = ("_algorithm", "_schedule")

    def __init__(self, key: bytes) -> None:
        self._schedule = native.expand_key(key) if _NATIVE_AES else b""
        self._algorithm = None if _NATIVE_AES else algorithms.AES(key)

    def __repr__(self) -> str:
        return "AesKey(<redacted>)"

    def ctr(self, stream: int, offset: int, out: Words, operation: Operation = Operation.SET) -> None:
        """Puts words [offset, offset + out.size) of a CTR key stream into `out`, or adds, subtracts, xors them.

        The counter block is stream || block index, both 8 bytes, big endian; a block holds two words.

        Args:
            out: contiguous and writable.
        """
        if self._algorithm is None:
            native.aes_ctr(self._schedule, stream, offset, out, operation)
        else:
            portable.aes_ctr(self._algorithm, stream, offset, out, operation)

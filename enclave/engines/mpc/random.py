"""The one source of shares and masks: AES-128-CTR key streams, keyed from the operating system.

A `KeyStream` is random access: every use names a stream of its own by a number that never repeats within the
session (the counter block is number || block index), so that two parties that make the same calls draw the same
words, and a mask can be drawn again instead of being kept. numpy's and torch's generators never make a secret:
they are not cryptographic, and torch's CPU generator has 32 bits of entropy.
"""

from __future__ import annotations

import os

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from enclave.engines.mpc.kernels import AesKey, Operation

__all__ = ["KEY_BYTES", "KeyStream", "Operation", "derive_key", "fresh_key"]

KEY_BYTES = 16


def fresh_key() -> bytes:
    """128 bits of entropy from the operating system."""
    return os.urandom(KEY_BYTES)


def derive_key(key: bytes, context: bytes) -> bytes:
    """The key for one context, by HKDF-SHA256 (RFC 5869)."""
    return HKDF(SHA256(), KEY_BYTES, None, b"enclave/v1/session" + context).derive(key)


class KeyStream:
    """Random access to the key streams of one AES-128 key.

    Args:
        key: 16 bytes that only the parties entitled to these words know.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, found {len(key)}")
        self._key = AesKey(key)

    def __repr__(self) -> str:
        return "KeyStream(<redacted>)"

    def words(self, stream: int, count: int, offset: int = 0) -> NDArray[np.uint64]:
        """`count` uniform 64-bit words of `stream`, starting at word `offset`.

        Safety: (stream, offset) must not serve two purposes; callers number streams once per session.
        """
        out = np.empty(count, np.uint64)
        self._key.ctr(stream, offset, out)
        return out

    def into(self, out: NDArray[np.uint64], stream: int, offset: int = 0, operation: Operation = Operation.SET) -> None:
        """Puts the same words into `out`, or adds, subtracts or xors them: one pass over memory instead of three.

        Args:
            out: contiguous and writable.
        """
        self._key.ctr(stream, offset, out, operation)

"""The kernels without the extension: numpy, and AES from the `cryptography` library. The same results, bit for bit."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["aes_ctr"]

Words = NDArray[np.uint64]

_CHUNK_BYTES = 1 << 18
_ZEROS = bytes(_CHUNK_BYTES)


def aes_ctr(algorithm: algorithms.AES, stream: int, offset: int, out: Words, operation: int) -> None:
    """See `kernels.AesKey.ctr`; `operation` is an `Operation`'s number."""
    words = _stream_words(algorithm, stream, offset, out.size).reshape(out.shape)
    combine = (None, np.add, np.subtract, np.bitwise_xor)[operation]
    if combine is None:
        out[...] = words
    else:
        combine(out, words, out=out)


def _stream_words(algorithm: algorithms.AES, stream: int, offset: int, count: int) -> Words:
    skip = offset & 1  # a block holds two words
    nonce = stream.to_bytes(8, "big") + (offset >> 1).to_bytes(8, "big")
    encryptor = Cipher(algorithm, modes.CTR(nonce)).encryptor()
    size = 8 * (count + skip)
    words = np.empty(count + skip + 2, np.uint64)  # update_into asks for one block of slack
    view = words.view(np.uint8).data
    for done in range(0, size, _CHUNK_BYTES):
        step = min(_CHUNK_BYTES, size - done)
        chunk = _ZEROS if step == _CHUNK_BYTES else _ZEROS[:step]
        encryptor.update_into(chunk, view[done : done + step + 15])
    return words[skip : skip + count]

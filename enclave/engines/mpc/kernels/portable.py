"""The kernels without the extension: numpy, and AES from the `cryptography` library. The same results, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["aes_ctr", "from_planes", "matmul", "pack_bits", "run_program", "select", "to_planes"]

Words = NDArray[np.uint64]

_CHUNK_BYTES = 1 << 18
_ZERO, _ONES = 0, 2  # registers of a program
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


def to_planes(words: Words) -> Words:
    """See `kernels.to_planes`."""
    width = -(-words.size // 64)
    block = np.zeros(64 * width, np.uint64)
    block[: words.size] = words
    a = np.array(block.reshape(-1, 64).T, order="C")  # always a copy: the swaps below work in place
    j, m = 32, np.uint64(0xFFFFFFFF)
    while j:
        a = a.reshape(32 // j, 2, j, width)
        low, high = a[:, 0], a[:, 1]
        t = ((low >> np.uint64(j)) ^ high) & m
        high ^= t
        low ^= t << np.uint64(j)
        j >>= 1
        if j:
            m = m ^ (m << np.uint64(j))
    return a.reshape(64, width)


def from_planes(planes: Words, n: int) -> NDArray[np.uint8]:
    """See `kernels.from_planes`."""
    if not planes.size:
        return np.zeros((len(planes), n), np.uint8)
    return np.unpackbits(np.ascontiguousarray(planes).view(np.uint8), axis=-1, count=n, bitorder="little")


def pack_bits(bits: NDArray[Any]) -> Words:
    """See `kernels.pack_bits`."""
    packed = np.packbits((bits & bits.dtype.type(1)).astype(bool), bitorder="little")
    out = np.zeros(-(-bits.size // 64), np.uint64)
    out.view(np.uint8)[: packed.size] = packed
    return out


def run_program(
    code: NDArray[np.int32],
    registers: int,
    one: bool,
    inputs: Sequence[Words],
    lists: Sequence[NDArray[np.int32]],
    outputs: Sequence[Words],
) -> None:
    """See `kernels.run_program`."""
    width = inputs[0].shape[1]
    zero, ones = np.zeros(width, np.uint64), np.full(width, ~np.uint64(0))
    file: list[Words] = [zero, ones if one else zero, ones]
    for planes in inputs:
        file.extend(planes)
    file += [zero] * (registers - len(file))
    for dst, a, b, c in code.tolist():
        if a == _ONES or b == _ONES:
            file[dst] = file[a if b == _ONES else b] ^ file[c]
        else:
            product = file[a] & file[b]
            file[dst] = product if c == _ZERO else np.bitwise_xor(product, file[c], out=product)
    for found, out in zip(lists, outputs, strict=True):
        for row, register in zip(out, found.tolist(), strict=True):
            row[...] = file[register]


def matmul(x: Words, y: Words, out: Words, accumulate: bool) -> None:
    """See `kernels.matmul`."""
    # numpy's own integer product of matrices is an order of magnitude slower than a product and a sum for a vector.
    product = (x * y[:, 0]).sum(axis=1, keepdims=True, dtype=np.uint64) if y.shape[1] == 1 else x @ y
    if accumulate:
        out += product
    else:
        out[...] = product


def select(
    c: Words,
    d: NDArray[np.uint8],
    rho: Words,
    hidden: Words,
    flipped: Words,
    top: NDArray[Any] | None,
    flipped_top: NDArray[Any] | None,
    out: Words,
    shift: int,
    offset: int,
    leader: bool,
) -> None:
    """See `kernels.select`."""
    if top is not None and flipped_top is not None:
        unwrapped, left = ~c >> np.uint64(63), np.uint64(64 - shift)
        hidden = hidden - ((unwrapped * top) << left)
        flipped = flipped - ((unwrapped * flipped_top) << left)
    c = (c >> np.uint64(shift)) - np.uint64(offset >> shift)
    gated = c * rho - flipped
    whole = c - hidden if leader else np.negative(hidden)
    out[...] = np.where(d.astype(bool), whole - gated, gated)

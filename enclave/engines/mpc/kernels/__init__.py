"""The inner loops of the core, in C where it was compiled at install, in numpy otherwise.

Both give the same results bit for bit, so parties with and without the extension work together. The extension picks
its instructions when it is loaded: AVX-512 with or without the matrix unit (AMX), AVX2 with AES, or plain C. Setting
the environment variable ENCLAVE_KERNELS to "numpy", "c", "avx2" or "avx512" asks for less than the best, for tests
and for finding faults.

Constant time: time and memory accesses depend on shapes alone, never on the words.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

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

        if native.REVISION != 1:  # built from older sources: `pip install` it again
            native = None
    except ImportError:  # installed without a compiler
        native = None

__all__ = ["LEVEL", "AesKey", "Operation", "from_planes", "matmul", "pack_bits", "run_program", "to_planes"]

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


def to_planes(words: Words) -> Words:
    """(n,) words -> (64, W) bit planes, W = n / 64 rounded up: bit e of word w of plane p is bit p of word 64 w + e."""
    if native is None:
        return portable.to_planes(words)
    out = np.empty((64, -(-words.size // 64)), np.uint64)
    native.to_planes(np.ascontiguousarray(words), out)
    return out


def from_planes(planes: Words, n: int) -> NDArray[np.uint8]:
    """(k, W) packed planes -> (k, n) bytes of 0 and 1. Rows are contiguous, the distance between them is free."""
    if native is None:
        return portable.from_planes(planes, n)
    out = np.empty((len(planes), n), np.uint8)
    native.from_planes(planes, out)
    return out


def pack_bits(bits: NDArray[Any]) -> Words:
    """(n,) bytes or words -> (W,) words that hold the lowest bit of each, in order; the rest is zero."""
    if native is None:
        return portable.pack_bits(bits)
    out = np.empty(-(-bits.size // 64), np.uint64)
    native.pack_bits(np.ascontiguousarray(bits), out)
    return out


def matmul(x: Words, y: Words, out: Words | None = None, *, accumulate: bool = False) -> Words:
    """x @ y modulo 2^64, into `out` where it is given, or added to it.

    Args:
        x: (n, k), y: (k, m), any strides.
        out: (n, m), any strides; must not overlap x or y.
    """
    if out is None:
        out, accumulate = np.empty((x.shape[0], y.shape[1]), np.uint64), False
    (portable if native is None else native).matmul(x, y, out, accumulate)
    return out


def run_program(
    code: NDArray[np.int32],
    registers: int,
    one: bool,
    inputs: Sequence[Words],
    outputs: Sequence[NDArray[np.int32]],
) -> tuple[Words, ...]:
    """Runs a straight-line program over planes of bits.

    Register 0 is all zeros, register 1 all ones or, where `one` is false, zeros, register 2 all ones; the planes of
    the inputs follow. The lists of the code and of the outputs are public.

    Args:
        code: (k, 4) rows (dst, a, b, c), each reg[dst] = (reg[a] & reg[b]) ^ reg[c].
        registers: how many there are.
        inputs: (planes, W) each; rows are contiguous, the distance between them is free.
        outputs: for each output the registers that are its planes.

    Raises: ValueError: a register out of range, inputs of different widths.
    """
    width = inputs[0].shape[1]
    results = tuple(np.empty((len(output), width), np.uint64) for output in outputs)
    run = portable.run_program if native is None else native.run_program
    run(code, registers, one, tuple(inputs), tuple(outputs), results)
    return results

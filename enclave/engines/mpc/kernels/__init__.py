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

from enclave.engines.mpc.kernels import portable, portable_dcf

if TYPE_CHECKING:
    from enclave.engines.mpc.kernels import _native as native
elif os.environ.get("ENCLAVE_KERNELS") == "numpy":
    native = None
else:
    try:
        from enclave.engines.mpc.kernels import _native as native

        if native.REVISION != 2:  # built from older sources: `pip install` it again
            native = None
    except ImportError:  # installed without a compiler
        native = None

__all__ = [
    "LEVEL",
    "AesKey",
    "Operation",
    "choose",
    "dcf_evaluate",
    "dcf_keys",
    "from_planes",
    "matmul",
    "pack_bits",
    "run_program",
    "select",
    "to_planes",
]

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

    __slots__ = ("algorithm", "schedule")

    def __init__(self, key: bytes) -> None:
        self.schedule = native.expand_key(key) if _NATIVE_AES else b""
        self.algorithm = None if _NATIVE_AES else algorithms.AES(key)

    def __repr__(self) -> str:
        return "AesKey(<redacted>)"

    def ctr(self, stream: int, offset: int, out: Words, operation: Operation = Operation.SET) -> None:
        """Puts words [offset, offset + out.size) of a CTR key stream into `out`, or adds, subtracts, xors them.

        The counter block is stream || block index, both 8 bytes, big endian; a block holds two words.

        Args:
            out: contiguous and writable.
        """
        if self.algorithm is None:
            native.aes_ctr(self.schedule, stream, offset, out, operation)
        else:
            portable.aes_ctr(self.algorithm, stream, offset, out, operation)


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


def choose(bits: NDArray[Any], yes: NDArray[Any], no: NDArray[Any]) -> NDArray[Any]:
    """`yes` where a bit is 1, `no` where it is 0, as np.where does, but ten times as fast when the bits are random.

    Args:
        bits: 0 or 1, of bytes or booleans, or of words. yes, no: of one type of 1, 4 or 8 bytes; may broadcast.
    """
    same = bits.shape == yes.shape == no.shape and bits.itemsize == 1 and yes.dtype == no.dtype
    flat = bits.flags.c_contiguous and yes.flags.c_contiguous and no.flags.c_contiguous
    if native is None or not same or not flat or yes.itemsize not in (1, 4, 8):
        return np.where(bits.astype(bool, copy=False), yes, no)
    out = np.empty_like(no)
    native.choose(bits, yes, no, out)
    return out


def select(
    c: Words,
    d: NDArray[np.uint8],
    rho: Words,
    hidden: Words,
    flipped: Words,
    *,
    leader: bool,
    shift: int = 0,
    offset: int = 0,
    tops: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> Words:
    """Shares of b z for z = ((c - r) >> shift) - (offset >> shift) and b = d ^ rho, all (n,), in one pass.

    Without a shift: rho z = c' rho - flipped with c' = c - offset, and b z = rho z where d = 0, z - rho z where d = 1.
    With one, c' = (c >> shift) - (offset >> shift), and each mask loses its top 2^(64 - shift) where c has wrapped.

    Args:
        c: z + offset under the mask r, in the clear. d: b under rho, in the clear, bytes of 0 and 1.
        rho: shares. hidden, flipped: shares of r >> shift and of rho times it.
        leader: whether this rank adds what is public.
        tops: with a shift, shares of the top bit of r and of rho times it, modulo 2^32 (shift <= 32) or 2^64.
        All arrays are contiguous.
    """
    top, flipped_top = tops if tops is not None else (None, None)
    out = np.empty(c.shape, np.uint64)
    run = portable.select if native is None else native.select
    run(c, d, rho, hidden, flipped, top, flipped_top, out, shift, offset, leader)
    return out


def dcf_keys(
    hashes: Sequence[AesKey], levels: int, alphas: Words, betas: Words, roots: Sequence[Words]
) -> tuple[Words, Words]:
    """What both parties need beside their roots to evaluate x -> beta ([x < alpha] - top bit of alpha) in shares.

    A half-tree (Guo et al., EUROCRYPT 2023) whose nodes yield words as in an incremental point function (Boneh et al.,
    S&P 2021). Security: seeds of 127 bits; AES under the public `hashes` as a random permutation, made circular
    correlation robust by x -> AES(sigma(x)) ^ sigma(x) (Guo, Katz, Wang, Yu, S&P 2020).

    Args:
        hashes: public keys, the first for seeds, then one for each two words of beta, rounded up.
        levels: bits of alpha, 1 to 64.
        alphas: (n,), below 2^levels. betas: (p, n), p from 1 to 4.
        roots: two (n, 2) arrays of uniform words, but for the lowest bit of each first word: 0 in the first array, 1
            in the second.

    Returns:
        (levels, n, 2) corrections of seeds and (levels, p, n) corrections of words.
    """
    _check_hashes(hashes, len(betas), levels)
    n = alphas.size
    seeds, values = np.empty((levels, n, 2), np.uint64), np.empty((levels, len(betas), n), np.uint64)
    alphas, betas = np.ascontiguousarray(alphas), np.ascontiguousarray(betas)
    first, second = map(np.ascontiguousarray, roots)
    if _NATIVE_AES:
        schedules = tuple(key.schedule for key in hashes)
        native.dcf_keys(schedules, levels, alphas, betas, first, second, seeds, values)
    else:
        algorithms = [key.algorithm for key in hashes if key.algorithm is not None]
        portable_dcf.dcf_keys(algorithms, levels, alphas, betas, (first, second), seeds, values)
    return seeds, values


def dcf_evaluate(
    hashes: Sequence[AesKey], party: int, points: Words, roots: Words, seeds: Words, values: Words
) -> Words:
    """(p, n) words, additive shares of beta ([x < alpha] - top bit of alpha) for x = `points`; see `dcf_keys`.

    Args:
        party: 0 or 1, with that party's roots.
        points: (n,); bits from `levels` on are ignored.
    """
    levels, payload, n = values.shape
    _check_hashes(hashes, payload, levels)
    sums = np.empty((payload, n), np.uint64)
    points, roots, seeds, values = map(np.ascontiguousarray, (points, roots, seeds, values))
    if _NATIVE_AES:
        schedules = tuple(key.schedule for key in hashes)
        native.dcf_evaluate(schedules, levels, party, points, roots, seeds, values, sums)
    else:
        algorithms = [key.algorithm for key in hashes if key.algorithm is not None]
        portable_dcf.dcf_evaluate(algorithms, levels, party, points, roots, seeds, values, sums)
    return sums


def _check_hashes(hashes: Sequence[AesKey], payload: int, levels: int) -> None:
    expected = 1 + -(-payload // 2)
    if not (1 <= payload <= 4 and 1 <= levels <= 64 and len(hashes) == expected):
        raise ValueError(
            f"expected 1 to 4 words, 1 to 64 levels and {expected} hashes, found {payload}, {levels}, {len(hashes)}"
        )

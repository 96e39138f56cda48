from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

REVISION: int
LEVEL: str
HAS_AES: bool

def expand_key(key: bytes, /) -> bytes: ...
def aes_ctr(schedule: bytes, stream: int, offset: int, out: Words, operation: int, /) -> None: ...
def to_planes(words: Words, out: Words, /) -> None: ...
def from_planes(planes: Words, out: NDArray[np.uint8], /) -> None: ...
def pack_bits(bits: NDArray[Any], out: Words, /) -> None: ...
def run_program(
    code: NDArray[np.int32],
    registers: int,
    one: bool,
    inputs: tuple[Words, ...],
    lists: tuple[NDArray[np.int32], ...],
    outputs: tuple[Words, ...],
    /,
) -> None: ...
def matmul(x: Words, y: Words, out: Words, accumulate: bool, /) -> None: ...
def dcf_keys(
    schedules: tuple[bytes, ...],
    levels: int,
    alphas: Words,
    betas: Words,
    roots0: Words,
    roots1: Words,
    seeds: Words,
    values: Words,
    /,
) -> None: ...
def dcf_evaluate(
    schedules: tuple[bytes, ...],
    levels: int,
    party: int,
    points: Words,
    roots: Words,
    seeds: Words,
    values: Words,
    sums: Words,
    /,
) -> None: ...
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
    /,
) -> None: ...
def choose(d: NDArray[Any], yes: NDArray[Any], no: NDArray[Any], out: NDArray[Any], /) -> None: ...

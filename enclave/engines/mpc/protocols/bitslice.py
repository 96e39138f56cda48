"""Straight-line programs over packed bits: what a comparison does, at a party and at the dealer.

A register is a plane of 64-bit words, one bit an element. There is one instruction,

    reg[dst] = (reg[a] & reg[b]) ^ reg[c]

with three constant registers: ZERO, ONE (this rank's share of a public 1: all ones at the leader, zeros elsewhere)
and ONES (all ones at every rank). A program is built once for a shape and run on planes of any length; every
element takes the same steps, so time and memory accesses are independent of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.engines.mpc import kernels
from enclave.engines.mpc.tape import Array

__all__ = ["ONE", "ONES", "ZERO", "Builder", "Program", "execute", "fold", "products", "subsets"]

ZERO, ONE, ONES = 0, 1, 2
_CONSTANTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Instructions with their registers assigned.

    Attributes:
        inputs: planes of each input; they fill the registers from 3 on.
        code: (k, 4) int32, rows (dst, a, b, c).
        outputs: the registers that make up each output.
        registers: how many there are.
    """

    inputs: tuple[int, ...]
    code: NDArray[np.int32]
    outputs: tuple[NDArray[np.int32], ...]
    registers: int


class Builder:
    """Writes a program in single-assignment form; `program` assigns registers.

    Args:
        inputs: the number of planes of each input.
    """

    def __init__(self, *inputs: int) -> None:
        self._sizes = inputs
        self._next = _CONSTANTS
        self.inputs: list[list[int]] = []
        for size in inputs:
            self.inputs.append(list(range(self._next, self._next + size)))
            self._next += size
        self._code: list[tuple[int, int, int, int]] = []

    def and_xor(self, a: int, b: int, c: int) -> int:
        """(a & b) ^ c."""
        if ZERO in (a, b) or (a == ONES and b == ZERO):
            return c
        if c == ZERO and ONES in (a, b):
            return b if a == ONES else a
        dst = self._next
        self._next += 1
        self._code.append((dst, a, b, c))
        return dst

    def both(self, a: int, b: int) -> int:
        """a & b."""
        return self.and_xor(a, b, ZERO)

    def xor(self, a: int, b: int) -> int:
        """a ^ b."""
        if ZERO in (a, b):
            return a | b
        return self.and_xor(a, ONES, b)

    def program(self, *outputs: Sequence[int]) -> Program:
        """The program that yields these registers. Temporaries that are done with make room for later ones."""
        kept = {register for output in outputs for register in output}
        needed = set(kept)
        live: list[tuple[int, int, int, int]] = []
        for row in reversed(self._code):
            if row[0] in needed:
                live.append(row)
                needed.update(row[1:])
        live.reverse()
        last = {register: i for i, row in enumerate(live) for register in row[1:]}
        first = _CONSTANTS + sum(self._sizes)
        place = {register: register for register in range(first)}
        free: list[int] = []
        top = first
        code = []
        for i, (dst, a, b, c) in enumerate(live):
            sources = [place[a], place[b], place[c]]
            free += [place[r] for r in {a, b, c} if r >= first and last[r] == i and r not in kept]
            if free:
                place[dst] = free.pop()
            else:
                place[dst], top = top, top + 1
            code.append([place[dst], *sources])
        found = tuple(np.array([place[r] for r in output], np.int32) for output in outputs)
        return Program(self._sizes, np.array(code, np.int32).reshape(-1, 4), found, top)


def subsets(count: int) -> range:
    """Masks of all subsets of `count` variables but the empty one."""
    return range(1, 1 << count)


def products(build: Builder, bits: Sequence[int], empty: int) -> list[int]:
    """Registers with the products over all subsets of clear `bits`; the empty one is `empty`."""
    found = [empty]
    for bit in bits:
        found += [bit if p == empty else build.both(p, bit) for p in found]
    return found


def fold(build: Builder, table: Sequence[int], bit: int) -> list[int]:
    """Sets the highest variable v of a table over subsets of masks, where v = bit ^ mask and `bit` is public."""
    half = len(table) // 2
    return [build.and_xor(table[i], bit, table[half + i]) for i in range(half)]


def execute(program: Program, one: bool, *inputs: Array) -> tuple[Array, ...]:
    """Runs a program.

    Args:
        one: whether this rank adds public constants.
        inputs: (planes, W) uint64 each; rows are contiguous, the distance between them is free.

    Returns:
        One (planes, W) array for each output.
    """
    width = inputs[0].shape[1]
    found = [tuple(a.shape) for a in inputs]
    if found != [(count, width) for count in program.inputs]:
        raise ValueError(f"expected inputs of {program.inputs} planes of one width, found {found}")
    return kernels.run_program(program.code, program.registers, one, inputs, program.outputs)

"""Vectors that fill all slots again and again with one period, and matrices that multiply them by diagonals.

A vector w of D numbers, D a power of two, fills the S slots with period D. The product with a matrix A of S rows and D
columns is the sum over j < D of (diagonal j) * (w rotated by j), where diagonal j has A[i, (i + j) % D] in slot i. With
j = G b + t only b rotations of w are needed (baby steps); the giant ones are done by Horner's rule on the sums, so that
one key serves them all. The transposed product takes the diagonals the other way round.

Reference: Halevi, Shoup, "Algorithms in HElib" (2014), section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.ckks.evaluator import Encrypted, Evaluator, Plain
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.errors import BadInput, BadSpec

__all__ = ["Diagonals", "Period", "weight_words"]

Floats = NDArray[np.float64]
Numbers = NDArray[np.inexact]  # real or complex
Diagonals = Mapping[tuple[int, int], Plain]  # by giant step and baby step
_FEWEST = 4


@dataclass(frozen=True, slots=True)
class Period:
    """D = size of a period, S = slots, and D = baby * giants."""

    size: int
    slots: int

    @classmethod
    def of(cls, columns: int, slots: int) -> Period:
        """The smallest period that holds so many columns."""
        size = max(_FEWEST, 1 << (columns - 1).bit_length())
        if size > slots:
            raise BadSpec(f"expected at most {slots} columns, found {columns}", hint="hybrid or mpc would do")
        return cls(size, slots)

    @property
    def baby(self) -> int:
        """Rotations of a vector, the larger half: all blocks of rows share them."""
        return 1 << self.size.bit_length() // 2

    @property
    def giants(self) -> int:
        return self.size // self.baby

    @property
    def folds(self) -> tuple[int, ...]:
        """Rotations that add up all slots of a class modulo D."""
        return tuple(self.size << k for k in range((self.slots // self.size).bit_length() - 1))

    def blocks(self, rows: int) -> int:
        """Ciphertexts of a number each for so many rows."""
        return -(-rows // self.slots)

    def tiled(self, values: Floats) -> Floats:
        """At most D values, in every period: [S]."""
        return np.tile(np.pad(values, (0, self.size - len(values))), self.slots // self.size)

    def diagonals(self, matrix: Numbers) -> Iterator[tuple[tuple[int, int], Numbers]]:
        """Of a matrix of at most S rows and D columns, each rotated to the right by its giant step."""
        whole = np.zeros((self.slots, self.size), matrix.dtype)
        whole[: matrix.shape[0], : matrix.shape[1]] = matrix
        rows = np.arange(self.slots)
        for giant in range(self.giants):
            for baby in range(self.baby):
                columns = (rows + giant * self.baby + baby) % self.size
                yield (giant, baby), np.roll(whole[rows, columns], giant * self.baby)

    def encoded(self, evaluator: Evaluator, matrix: Numbers, count: int, scale: float) -> Diagonals:
        """The diagonals as plaintexts for ciphertexts of `count` primes."""
        return {place: evaluator.encode(values, count, scale) for place, values in self.diagonals(matrix)}

    def turned(self, evaluator: Evaluator, x: Encrypted, steps: int, count: int) -> list[Encrypted]:
        """x rotated by 0, steps, 2 steps, ...: `count` ciphertexts. One key."""
        found = [x]
        while len(found) < count:
            found.append(evaluator.rotate(found[-1], steps))
        return found

    def product(self, evaluator: Evaluator, diagonals: Diagonals, babies: list[Encrypted]) -> Encrypted:
        """A w, one level lower: A by its diagonals, w turned by 0 to baby - 1."""
        total: Encrypted | None = None
        for giant in reversed(range(self.giants)):
            inner = evaluator.dot((babies[t], diagonals[giant, t]) for t in range(self.baby))
            total = _horner(evaluator, total, inner, self.baby)
        return _present(total)

    def transposed(self, evaluator: Evaluator, diagonals: Diagonals, x: Encrypted) -> Encrypted:
        """A^T x in every period, one level lower, for x of a number in each of S rows."""
        giants = self.turned(evaluator, x, -self.baby, self.giants)
        total: Encrypted | None = None
        for t in reversed(range(self.baby)):
            inner = evaluator.dot((giants[giant], diagonals[giant, t]) for giant in range(self.giants))
            total = _horner(evaluator, total, inner, -1)
        return _present(total)

    def folded(self, evaluator: Evaluator, x: Encrypted) -> Encrypted:
        """The sum over all periods, in every period."""
        for steps in self.folds:
            x = evaluator.add(x, evaluator.rotate(x, steps))
        return x


def _horner(evaluator: Evaluator, total: Encrypted | None, inner: Encrypted | None, steps: int) -> Encrypted | None:
    """total rotated by `steps`, plus a sum of products, rescaled; None stands for zeros."""
    turned = None if total is None else evaluator.rotate(total, steps)
    if inner is None:
        return turned
    fresh = evaluator.rescale(inner)
    return fresh if turned is None else evaluator.add(turned, fresh)


def _present(total: Encrypted | None) -> Encrypted:
    if total is None:
        raise BadInput("a matrix of zeros: the product would be transparent", code="input.transparent")
    return total


def weight_words(ring: Ring, share: Words, period: Period, scale: float, frac_bits: int) -> Words:
    """A share modulo q of a phase whose slots have a period -> shares modulo 2^64 of those slots: uint64 [D].

    A phase of period D has 2 D coefficients, and a slot is a linear form of them: slot j = sum_i m_i cos(pi 3^j i / 2D)
    over the scale. A form of shares modulo q with integer factors is a share of the form; the cosines are rounded to
    as many bits as the room between slots and q leaves. Then q becomes 2^64: exact integers throughout.

    Args:
        share: [k, N], coefficient form. scale: of the slots. frac_bits: of the words; they wrap at 2^(63 - frac_bits).
    """
    degree, modulus = ring.degree, ring.modulus
    stride = degree // (2 * period.size)
    coefficients = _integers(ring, share[:, ::stride])
    # cosine * 2^bits * q / scale * 2^-room, so that the form is slot * 2^(bits - room) * q, modulo q
    room = int(np.log2(modulus / scale))
    bits = room + frac_bits - 64
    if bits < 24:
        raise BadSpec(f"expected a modulus 2^{64 - frac_bits + 24} above the scale, found 2^{room}")
    exponents = np.array([pow(3, j, 4 * period.size) for j in range(period.size)])
    angles = np.outer(exponents, np.arange(2 * period.size)) % (4 * period.size) * (np.pi / (2 * period.size))
    factors = np.rint(np.cos(angles) * (modulus / scale / 2.0**room * 2.0**bits)).astype(np.int64)
    forms = factors.astype(object) @ coefficients
    return np.array([((int(form) % modulus << 64) // modulus) % (1 << 64) for form in forms], np.uint64)


def _integers(ring: Ring, residues: Words) -> NDArray[np.object_]:
    """The integers in [0, q) of some coefficients, [k, n] -> [n]."""
    total = np.zeros(residues.shape[1], object)
    for row, prime in zip(residues, ring.primes, strict=True):
        other = ring.modulus // prime
        total += row.astype(object) * (other * pow(other, -1, prime))
    return np.asarray(total % ring.modulus)

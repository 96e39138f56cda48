"""Products of an owner's rows with a buyer's encrypted matrix of weights: how both lie in coefficients.

Weights W (d x h) and rows X (n x d) are packed so that one product of polynomials has nw x ow scores. With stride g
and g nw ow <= N, ciphertext (G, C) holds the weights of g columns of X and ow columns of W,

    sum_c sum_j W[Gg+j, Co+c] X^(c nw g + j)   times   sum_r sum_j x[r, Gg+j] X^(r g + g-1-j)

and summed over the groups G the score (r, c) is coefficient c nw g + r g + g-1: products of other columns of X meet in
coefficients between these, and what wraps around falls below the first. With g = 1 every coefficient is a score and
the answer is as small as can be; larger g needs fewer ciphertexts of weights. All of it is exact modulo 2^64.

**Reference** Huang et al., Cheetah, USENIX Security 2022, section 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.ring import Ring, Words
from enclave.engines.he.sampling import ERROR_DEVIATION

__all__ = ["MatrixPacking", "cheapest", "multiply", "noise_deviation"]


@dataclass(frozen=True, slots=True)
class MatrixPacking:
    """Where the numbers of a product (n x inner) (inner x outputs) lie. Public.

    Attributes:
        stride: g, columns of X in a polynomial. width: ow, columns of W in a ciphertext.
    """

    degree: int
    inner: int
    outputs: int
    stride: int
    width: int

    @property
    def rows(self) -> int:
        """nw, rows of X in a polynomial."""
        return self.degree // (self.stride * self.width)

    @property
    def groups(self) -> int:
        """Polynomials of a block of rows."""
        return -(-self.inner // self.stride)

    @property
    def strips(self) -> int:
        """Answers of a block of rows."""
        return -(-self.outputs // self.width)

    @property
    def queries(self) -> int:
        """Ciphertexts of weights."""
        return self.groups * self.strips

    def blocks(self, rows: int) -> int:
        """Blocks that so many rows take."""
        return -(-rows // self.rows)

    def answers(self, rows: int) -> int:
        """Ciphertexts that come back for so many rows."""
        return self.blocks(rows) * self.strips

    def of_weights(self, weights: Words) -> Words:
        """[inner, outputs] -> coefficients [groups, strips, N], uint64."""
        g, wide = self.stride, self.width
        padded = np.zeros((self.groups * g, self.strips * wide), np.uint64)
        padded[: self.inner, : self.outputs] = weights
        spaced = np.zeros((self.groups, self.strips, wide, self.rows * g), np.uint64)
        spaced[..., :g] = padded.reshape(self.groups, g, self.strips, wide).transpose(0, 2, 3, 1)
        found = np.zeros((self.groups, self.strips, self.degree), np.uint64)
        found[..., : wide * self.rows * g] = spaced.reshape(self.groups, self.strips, -1)
        return found

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """One block of at most `rows` rows [n, inner] -> coefficients [groups, N]."""
        g, n = self.stride, len(rows)
        padded = np.zeros((n, self.groups * g), np.int64)
        padded[:, : self.inner] = rows
        found = np.zeros((self.groups, self.degree), np.int64)
        found[:, : n * g] = padded.reshape(n, self.groups, g)[:, :, ::-1].transpose(1, 0, 2).reshape(self.groups, n * g)
        return found

    def scores(self, answers: Words, rows: int) -> Words:
        """Coefficients [blocks, strips, N] -> scores [rows, outputs]."""
        g, wide = self.stride, self.width
        used = answers[..., : wide * self.rows * g].reshape(*answers.shape[:2], wide, self.rows, g)[..., g - 1]
        return np.ascontiguousarray(used.transpose(0, 3, 1, 2).reshape(-1, self.strips * wide)[:rows, : self.outputs])


@lru_cache(maxsize=256)
def cheapest(
    degree: int, inner: int, outputs: int, rows: int, uses: int, query_bytes: int, answer_bytes: int
) -> MatrixPacking:
    """The packing that sends least for `uses` products with `rows` rows each and the same weights.

    Args:
        query_bytes: of one ciphertext of weights, to all who get it. answer_bytes: of one that comes back.
    """

    def cost(packing: MatrixPacking) -> tuple[int, int]:
        answers = uses * packing.answers(rows)
        return packing.queries * query_bytes + answers * answer_bytes, answers

    strides = [1 << k for k in range((inner - 1).bit_length() + 1) if 1 << k <= degree]
    widths = sorted({-(-outputs // parts) for parts in range(1, min(outputs, 64) + 1)} | {1})
    fitting = [MatrixPacking(degree, inner, outputs, g, w) for g in strides for w in widths if g * w <= degree]
    return min(fitting, key=cost)


def multiply(ring: Ring, packing: MatrixPacking, rows: NDArray[np.int64], queries: Words) -> Words:
    """The ciphertexts [blocks, strips, 2, k, N], coefficient form, of all scores.

    Args:
        rows: [n, inner], the integers that the words stand for.
        queries: [groups, strips, 2, k, N], evaluation form.
    """
    found = []
    for start in range(0, len(rows), packing.rows):
        columns = ring.encode(packing.of_rows(rows[start : start + packing.rows]))
        found.append(ring.intt(ring.dot(columns, queries)))
    return np.stack(found)


def noise_deviation(ring: Ring, packing: MatrixPacking, row_bits: float) -> float:
    """Standard deviation of a score's noise, in units of 2^-64 of the torus, where all rows are of 2^row_bits.

    It comes from the errors of the weights times the rows; those of the re-randomisation are far smaller.
    """
    terms = math.sqrt(packing.groups * ring.degree)
    return terms * ERROR_DEVIATION * 2.0 ** (row_bits + 64) / ring.modulus

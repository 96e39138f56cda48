"""All columns of a row compared with all others, from one opening of each column.

Open c_i = x_i + r_i for every column. Then c_i - c_j = (x_i - x_j) + (r_i - r_j) is public for all pairs i < j, and
the dealer, who knows the masks, gives what a comparison needs of r_i - r_j. Of the results only counts are wanted, so
bits are shared modulo 256, and a dealt table tells for a count, opened under a mask modulo 16, whether it is the one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.engines.mpc.protocols.comparison import Comparison
from enclave.engines.mpc.session import Session, Tensor
from enclave.engines.mpc.tape import Array, Draw, Spec, additive

__all__ = ["COUNTS", "MOST_COLUMNS", "Pairs", "pair_differences", "pair_indices", "tally"]

U = np.uint64
MOST_COLUMNS = 16  # wider rows play a tournament
COUNTS = 16  # counts are below it


def pair_indices(columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """i and j of all pairs i < j, in order."""
    first, second = np.triu_indices(columns, 1)
    return first.astype(np.int64), second.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Pairs:
    """A comparison of all pairs of columns whose masks are differences of the columns' masks.

    Attributes:
        comparison: of rows * pairs elements, of 64 - coarse bits each.
        coarse: how many low bits of every column are dropped first, which rounds them all alike.
    """

    comparison: Comparison
    rows: int
    columns: int
    coarse: int = 0

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "pairs"

    @property
    def free(self) -> tuple[Spec, ...]:
        """The masks of the columns; the comparison's, but its own mask."""
        return (additive(self.rows, self.columns), *self.comparison.free[1:])

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """The comparison's."""
        return self.comparison.dealt

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From the columns' masks and the comparison's others."""
        first, second = pair_indices(self.columns)
        r = np.zeros(64 * self.comparison.plane_words, U)
        masks = free[0] >> U(self.coarse)
        r[: self.comparison.n] = (masks[:, first] - masks[:, second]).reshape(-1)
        return self.comparison.values((r, *free[1:]), draw)


def pair_differences(c: Array) -> Array:
    """(rows, columns) -> (rows * pairs,): c_i - c_j."""
    first, second = pair_indices(c.shape[1])
    return np.asarray((c[:, first] - c[:, second]).reshape(-1))


def tally(session: Session, bits: Tensor, row: int, signs: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Shares modulo 256, (rows, columns), of how many of a column's pairs count. Local.

    Args:
        bits: shares of the bits, (thresholds, rows * pairs) bytes; `row` of them is counted.
        signs: whether the bit of pair (i, j) counts for i, and for j: 1 for the bit, -1 for its complement, 0 not.
    """
    pairs = pair_indices(columns)
    weights = np.zeros((len(pairs[0]), columns), np.float32)  # sums of 120 bytes are exact in it, and BLAS is fast
    base = np.zeros(columns, np.uint8)
    for indices, sign in zip(pairs, signs, strict=True):
        weights[np.arange(len(indices)), indices] = sign
        if sign < 0 and session.leader:
            np.add.at(base, indices, 1)

    def count(b: Array) -> Array:
        sums = b[row].reshape(rows, -1).astype(np.float32) @ weights
        return np.asarray(sums.astype(np.int32).astype(np.uint8) + base)

    return session.local(count, Spec((rows, columns), "u1"), bits)

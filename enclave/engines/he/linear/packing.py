"""How an owner's rows lie in the coefficients of plaintext polynomials.

With stride g, a polynomial holds g columns of N / g rows, and a ciphertext the g weights of these columns:

    sum_j w_{Gg+j} X^j  times  sum_r sum_j x[r, Gg+j] X^{rg + g-1-j}

has in coefficient rg + g-1, summed over all groups G, the score of row r: products of other rows or columns meet in
other coefficients or wrap around into them, never into these. g = 1 has one column a polynomial, and constants for
weights, so that every coefficient is a score; larger g serves few rows, which then need fewer ciphertexts.

**Reference** the constant times coefficients (g = 1) and the general form: Huang et al., Cheetah, USENIX Security
2022, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.linear.encodings import Encodings
from enclave.errors import BadData, BadSpec

__all__ = ["Batch", "Block", "EncodedRows", "Packing", "RowBlocks"]

Floats = NDArray[np.float64]
_BATCH_BLOCKS = 4
_BATCH_BYTES = 1 << 26  # of a batch, where a single block is not larger


@dataclass(frozen=True, slots=True)
class Packing:
    """Rows of `columns` numbers in polynomials of `degree` coefficients, `stride` columns in each. All public."""

    degree: int
    columns: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.columns < 1 or not 1 <= self.stride <= self.degree or self.degree % self.stride:
            raise BadSpec(f"expected columns, and a stride that divides {self.degree}, found {self}")

    @classmethod
    def fitting(cls, degree: int, columns: int, rows: int) -> Packing:
        """The largest stride, a power of two, at which `rows` rows still lie in one block."""
        stride = 1
        while 2 * stride * rows <= degree and stride < columns:
            stride *= 2
        return cls(degree, columns, stride)

    @property
    def block_rows(self) -> int:
        """Rows of one block."""
        return self.degree // self.stride

    @property
    def groups(self) -> int:
        """Polynomials of one block, and ciphertexts of one output's weights."""
        return -(-self.columns // self.stride)

    def block_count(self, rows: int) -> int:
        """Blocks of `rows` rows."""
        return -(-rows // self.block_rows)

    def blocks(self, rows: int) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each block; the last one may be shorter."""
        return tuple((start, min(rows, start + self.block_rows)) for start in range(0, rows, self.block_rows))

    def places(self, rows: int) -> NDArray[np.int64]:
        """The coefficients that hold the scores of the first `rows` rows of a block."""
        return np.arange(rows, dtype=np.int64) * self.stride + self.stride - 1

    def arranged(self, rows: Floats) -> Floats:
        """[n, columns] -> [n stride, groups]: the coefficients of each group's polynomial. What is missing is zero."""
        if self.stride == 1:
            return rows
        found = np.zeros((len(rows), self.stride, self.groups))
        full, rest = divmod(self.columns, self.stride)
        whole = rows[:, : full * self.stride].reshape(len(rows), full, self.stride)
        found[:, ::-1, :full] = whole.transpose(0, 2, 1)
        if rest:
            found[:, self.stride - rest :, full] = rows[:, full * self.stride :][:, ::-1]
        return found.reshape(-1, self.groups)

    def grouped(self, weights: NDArray[Any]) -> NDArray[Any]:
        """[columns, ...] -> [groups, stride, ...]: the coefficients of each group's ciphertext."""
        missing = self.groups * self.stride - self.columns
        padded = np.concatenate([weights, np.zeros((missing, *weights.shape[1:]), weights.dtype)])
        return padded.reshape(self.groups, self.stride, *weights.shape[1:])


class RowBlocks(Protocol):
    """Rows of one owner as numbers, block by block."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    def block(self, start: int, stop: int) -> Floats:
        """Rows start..stop, (stop - start, columns)."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """Rows start..stop in evaluation form: plaintext polynomials [groups, k, N]."""

    start: int
    stop: int
    polynomials: Words

    @property
    def rows(self) -> int:
        """Rows that are there; the rest of the block is zeros."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Batch:
    """Some blocks after the other, which share a pass over the weights: [blocks, groups, k, N]."""

    edges: tuple[tuple[int, int], ...]
    polynomials: Words

    def block(self, index: int) -> Block:
        """One of them."""
        return Block(*self.edges[index], self.polynomials[index])


class EncodedRows:
    """An owner's rows as integers round(x 2^frac_bits) in evaluation form, encoded block by block when they are read.

    What is encoded once is kept for further models, as far as `encodings` has room for it.

    Args:
        limit: the largest magnitude of an integer, by the ranges that the job declares; the noise that hides the rows
            is sized for it.
        encodings: None keeps nothing.
        key: names the rows and how they are read; the ring, the packing and `frac_bits` are added to it here.
    """

    def __init__(
        self,
        ring: Ring,
        packing: Packing,
        source: RowBlocks,
        frac_bits: int,
        limit: int,
        encodings: Encodings | None = None,
        key: Sequence[bytes] = (),
    ) -> None:
        if source.columns != packing.columns:
            raise BadSpec(f"expected rows of {packing.columns} columns, found {source.columns}")
        self._ring, self._packing, self._source = ring, packing, source
        self._bits, self._limit = frac_bits, limit
        self._edges = packing.blocks(source.rows)
        self._shape = (packing.groups, len(ring.primes), ring.degree)
        self._batch_blocks = max(1, min(_BATCH_BLOCKS, _BATCH_BYTES // (8 * prod(self._shape))))
        self._reading = Lock()  # a reader of a file has one position
        self._last: tuple[int, Batch] | None = None
        form = repr((ring.degree, ring.primes, packing, frac_bits, limit, source.rows)).encode()
        self._kept = None
        if encodings is not None:
            self._kept = encodings.opened((*key, form), len(self._edges), self._shape)

    def __repr__(self) -> str:
        return f"EncodedRows({self._source.rows} rows, {self._packing})"

    @property
    def rows(self) -> int:
        """Rows of the owner."""
        return self._source.rows

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self._edges) // self._batch_blocks)

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._edges)

    def batch(self, index: int, room: Words | None = None) -> Batch:
        """One batch of blocks. Several threads may ask.

        Args:
            room: memory of `room_shape` that may hold the result: fresh memory costs about as much as the transforms.

        Raises: BadData: a value is larger than the job declares.
        """
        first = index * self._batch_blocks
        edges = self._edges[first : first + self._batch_blocks]
        found = None if self._kept is None else self._kept.get(first, len(edges))
        if found is None:
            if room is None or (self._kept is not None and self._kept.in_memory):
                room = np.empty((len(edges), *self._shape), np.uint64)
            found = room[: len(edges)]
            for place, (start, stop) in enumerate(edges):
                self._encode(start, stop, found[place])
            if self._kept is not None:
                self._kept.put(first, found)
        return Batch(edges, found)

    @property
    def room_shape(self) -> tuple[int, ...]:
        """Of the largest batch."""
        return (self._batch_blocks, *self._shape)

    def block(self, index: int) -> Block:
        """One block; as `batch`, the last of which is remembered."""
        batch, place = divmod(index, self._batch_blocks)
        last = self._last
        if last is None or last[0] != batch:
            last = self._last = (batch, self.batch(batch))
        return last[1].block(place)

    def __iter__(self) -> Iterator[Block]:
        return (self.block(index) for index in range(len(self)))

    def _encode(self, start: int, stop: int, out: Words) -> None:
        with self._reading:
            rows = self._source.block(start, stop)
        # Safety: more than was declared would show through the noise that hides the rows.
        largest = max(float(rows.max(initial=0.0)), -float(rows.min(initial=0.0)))
        if not largest * 2.0**self._bits <= self._limit:
            raise BadData("a value of a row is larger than its column declares, or is not a number")
        self._ring.encode_rows(self._packing.arranged(rows), self._bits, out)

"""Maxima, one-hot rows and sorting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.engines.mpc.kernels import choose, from_planes
from enclave.engines.mpc.protocols import signs
from enclave.engines.mpc.protocols.comparison import bit_share, comparison, tail
from enclave.engines.mpc.protocols.pairs import MOST_COLUMNS, Pairs, pair_differences, tally
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Draw, Spec, additive, packed_bits

__all__ = ["argmax_onehot", "comparisons", "lowest_bit", "maximum", "sort_stages", "sorted_keys", "stage_sizes"]

U = np.uint64


@dataclass(frozen=True, slots=True)
class OneHotOfMask:
    """t uniform below 2^bits (as bytes or 16-bit words), and its one-hot row."""

    n: int
    bits: int

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "onehot"

    @property
    def free(self) -> tuple[Spec, ...]:
        """t, in the low bits."""
        return (additive(self.n, dtype="u1" if self.bits <= 8 else "u2"),)

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """(n, 2^bits)."""
        return (additive(self.n, 1 << self.bits),)

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From t."""
        out = np.zeros((self.n, 1 << self.bits), U)
        out[np.arange(self.n), free[0] & free[0].dtype.type((1 << self.bits) - 1)] = 1
        return (out,)


def _indicators(session: Session, x: Tensor, values: NDArray[np.int64], bits: int) -> Protocol[Tensor]:
    """[x = v] for each public v, for flat integer x below 2^bits: (n, len(values)).

    Opens x + t modulo 2^bits. Cost: 1 round; 1 or 2 B an element; 8 * 2^bits B dealt. Reveals: nothing.
    """
    n = x.shape[0]
    dtype = np.dtype("u1" if bits <= 8 else "u2")
    low = dtype.type((1 << bits) - 1)
    t, table = session.deal(OneHotOfMask(n, bits))
    masked = session.local(lambda x, t: (x.astype(dtype) + t) & low, Spec((n,), dtype.str), x, t)
    (opened,) = yield [Item("onehot", masked)]

    def pick(opened: Array, table: Array) -> Array:
        columns = ((opened & low)[:, None].astype(np.int64) - values) & int(low)
        return np.take_along_axis(table, columns, axis=1)

    return session.local(pick, (n, len(values)), opened, table)


def comparisons(columns: int) -> int:
    """Comparisons that `argmax_onehot` makes at once for one row."""
    return max(1, columns * (columns - 1) // 2) if columns <= MOST_COLUMNS else columns


def argmax_onehot(session: Session, x: Tensor) -> Protocol[Tensor]:
    """x: (rows, columns) -> integer one-hot of each row's first maximum.

    Up to 16 columns all pairs are compared and the column that wins columns - 1 times is marked:
    5 rounds, columns (columns - 1) / 2 comparisons a row. Wider rows: a tournament of ceil(log2 columns) ReLU
    levels over keys that carry the column in their low bits, then 1 round.
    Safety: differences below 2^63; for tournaments |x| * 2 columns below 2^62. Reveals: nothing.
    """
    rows, columns = x.shape
    if columns == 1:
        return session.local(lambda: np.ones((rows, 1), U) if session.leader else np.zeros((rows, 1), U), (rows, 1))
    bits = max(1, (columns - 1).bit_length())
    if columns > MOST_COLUMNS:
        return (yield from _tournament_onehot(session, x, bits))
    pairs = comparisons(columns)
    entry = Pairs(comparison(session, rows * pairs, flips="u1"), rows, columns)
    shares = session.deal(entry)
    (c,) = yield [Item("pairs", session.local(np.add, (rows, columns), x, shares[0]))]
    gaps = session.local(pair_differences, (rows * pairs,), c)
    found = yield from tail(session, entry.comparison, shares, gaps, np.zeros(1, U))
    wins = tally(session, bit_share(session, found), 0, (1, -1), rows, columns)
    count = session.local(lambda v: v.reshape(-1), Spec((rows * columns,), "u1"), wins)
    hot = yield from _indicators(session, count, np.array([columns - 1]), bits)
    return session.local(lambda h: h.reshape(rows, columns), (rows, columns), hot)


def _tournament_onehot(session: Session, x: Tensor, bits: int) -> Protocol[Tensor]:
    rows, columns = x.shape
    order = U(columns - 1) - np.arange(columns, dtype=U)  # ties: the lowest column has the largest key
    keys = session.local(lambda x: (x << U(bits)) + (order if session.leader else U(0)), (rows, columns), x)
    best = yield from maximum(session, keys)
    wanted = np.asarray(columns - 1 - np.arange(columns), np.int64)
    return (yield from _indicators(session, best, wanted, bits))


def maximum(session: Session, x: Tensor) -> Protocol[Tensor]:
    """x: (rows, columns) -> (rows,): max(a, b) = b + relu(a - b), level by level.

    Cost: ceil(log2 columns) levels of a ReLU's rounds, columns - 1 ReLUs a row. Exact. Reveals: nothing.
    """
    rows, columns = x.shape
    while columns > 1:
        half = columns // 2
        left = session.local(lambda x, h=half: x[:, :h], (rows, half), x)
        right = session.local(lambda x, h=half: x[:, h : 2 * h], (rows, half), x)
        gap = session.local(lambda a, b: (a - b).reshape(-1), (rows * half,), left, right)
        positive = yield from signs.relu(session, gap)
        rest = columns - 2 * half

        def merge(p: Array, b: Array, x: Array, h: int = half) -> Array:
            top = p.reshape(b.shape) + b
            return np.concatenate([top, x[:, 2 * h :]], axis=1) if x.shape[1] > 2 * h else top

        x = session.local(merge, (rows, half + rest), positive, right, x)
        columns = half + rest
    return session.local(lambda x: x[:, 0], (rows,), x)


def sort_stages(n: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Batcher's odd-even merge sort: index pairs (low, high) to be put in order, stage by stage.

    Comparators that would touch an index >= n are left out: it is as if the tail held plus infinity.
    """
    size = 1 << max(0, (n - 1).bit_length())
    p = 1
    while p < size:
        k = p
        while k >= 1:
            starts = np.arange(k % p, size - k, 2 * k)
            low = (starts[:, None] + np.arange(k)).reshape(-1)
            high = low + k
            keep = (low // (2 * p) == high // (2 * p)) & (high < n)
            if keep.any():
                yield low[keep], high[keep]
            k //= 2
        p *= 2


def stage_sizes(n: int) -> Iterator[int]:
    """The number of comparators of each stage of `sort_stages(n)`, without making them."""
    p = 1
    while p < n:
        k = p
        while k >= 1:
            # Blocks of k comparators; those with t a multiple of p / k would cross a boundary of 2 p.
            if k == p:
                blocks, rest = divmod(n, 2 * p)
                count = blocks * p + max(0, rest - p)
            else:
                full = max(0, (n - k) // (2 * k))
                count = (full - full // (p // k)) * k
                if (full + 1) % (p // k):
                    count += min(max(0, n - 2 * k * (full + 1)), k)
            if count:
                yield count
            k //= 2
        p *= 2


def sorted_keys(session: Session, keys: Tensor) -> Protocol[Tensor]:
    """Flat integer keys in ascending order.

    Cost: a ReLU's rounds a stage, log2(n) (log2(n) + 1) / 2 stages, one ReLU a comparator, of which there are about
    n log2(n)^2 / 4.
    Safety: |key| < 2^62. Reveals: nothing: the network is public.
    """
    n = keys.shape[0]
    if session.blank:
        for count in stage_sizes(n):
            yield from signs.relu(session, session.local(np.subtract, (count,), keys))
        return keys
    for low, high in sort_stages(n):
        gap = session.local(lambda x, a=low, b=high: x[a] - x[b], (len(low),), keys)
        excess = yield from signs.relu(session, gap)  # what the lower place has too much

        def move(x: Array, e: Array, a: Array = low, b: Array = high) -> Array:
            out = x.copy()
            out[a] -= e
            out[b] += e
            return out

        keys = session.local(move, (n,), keys, excess)
    return keys


@dataclass(frozen=True, slots=True)
class BitMask:
    """Packed random bits and their arithmetic shares."""

    n: int

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "bits"

    @property
    def free(self) -> tuple[Spec, ...]:
        """rho, packed."""
        return (packed_bits(1, -(-self.n // 64)),)

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """rho, additive."""
        return (additive(self.n),)

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """Unpacked."""
        return (from_planes(free[0], self.n)[0].astype(U),)


def lowest_bit(session: Session, x: Tensor) -> Protocol[Tensor]:
    """Additive shares of the lowest bit of flat integers: it is the exclusive or of the shares' lowest bits.

    Cost: 1 round, 1 bit an element; 8 B dealt. Reveals: nothing.
    """
    n = x.shape[0]
    words = -(-n // 64)
    flips, rho = session.deal(BitMask(n))

    def pack(x: Array, flips: Array) -> Array:
        padded = np.zeros(64 * words, np.uint8)
        padded[:n] = (x & U(1)).astype(np.uint8)
        return np.packbits(padded, bitorder="little").view(U).reshape(1, words) ^ flips

    (opened,) = yield [Item("bit", session.local(pack, (1, words), x, flips), "xor")]

    def lift(o: Array, rho: Array) -> Array:
        return choose(from_planes(o, n)[0], (U(1) if session.leader else U(0)) - rho, rho)

    return session.local(lift, (n,), opened, rho)

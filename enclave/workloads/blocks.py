"""Rows in blocks of equal shapes, so that a plan records one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from enclave.engines.interface import Engine, Secret
from enclave.errors import SessionError
from enclave.messages import JobSpec

__all__ = ["Segment", "batches", "over_blocks"]

T = TypeVar("T")
_SMALLEST_REST = 8
Kept = tuple[Secret, ...]


def over_blocks(
    engine: Engine, spec: JobSpec, holders: Sequence[tuple[int, int]], body: Callable[[int, int, int], Kept]
) -> list[Kept]:
    """Calls body(rank, start, stop) for every block of every holder's rows and returns what the calls returned.

    The very first block stands outside `repeat`: it opens the masks of the weights, which later blocks use again,
    and thus has more steps than they. Where only shapes are known, `repeat` runs its body once; the results of the
    calls left out have the shapes of that one.
    """
    found: list[Kept] = []
    started = False
    for rank, rows in holders:
        full, rest = divmod(rows, spec.block_rows)
        with engine.stage(f"rows of {spec.parties[rank].name}"):
            if full and not started:
                found.append(body(rank, 0, spec.block_rows))
            done = 1 if full and not started else 0
            equal: list[Kept] = []
            for i in engine.repeat(full - done):
                start = (done + i) * spec.block_rows
                equal.append(body(rank, start, start + spec.block_rows))
            found += _filled(engine, equal, full - done)
            if rest:
                found.append(body(rank, rows - rest, rows))
            started = True
    return found


def _filled(engine: Engine, results: list[Kept], count: int) -> list[Kept]:
    if len(results) == count:
        return results
    # Safety: values are never repeated, only shapes: a rank with shares runs every iteration.
    if engine.rank is not None:
        raise SessionError(f"expected {count} blocks, found {len(results)}")
    return results + [results[-1]] * (count - len(results))


@dataclass(frozen=True, slots=True)
class Segment:
    """`count` batches of equal composition: `sizes[k]` rows of holder k each, from its row `starts[k]` on."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    count: int

    @property
    def rows(self) -> int:
        """Rows of one batch."""
        return sum(self.sizes)


def batches(rows: Sequence[int], batch_rows: int) -> tuple[Segment, ...]:
    """Batches that together use every row of every holder once.

    Each takes from the holders in proportion to what they have left, and has `batch_rows` rows but for the last
    one. Rounding makes some holders run out of full shares first; what is left is distributed anew, so that a few
    segments of equal batches result.

    A rest of fewer than 8 rows joins the batch before it. Safety: the last batch is the freshest in a released
    model; a buyer who chooses `batch_rows` must not be able to make it a single row.
    """
    starts, left, found = [0] * len(rows), list(rows), list[Segment]()
    while total := sum(left):
        if total < batch_rows + _SMALLEST_REST or total <= batch_rows:
            found.append(Segment(tuple(starts), tuple(left), 1))
            break
        sizes = _shares(left, batch_rows)
        count = min(have // size for have, size in zip(left, sizes, strict=True) if size)
        if count > 1 and 0 < total - count * sum(sizes) < _SMALLEST_REST:
            count -= 1
        found.append(Segment(tuple(starts), sizes, count))
        starts = [start + count * size for start, size in zip(starts, sizes, strict=True)]
        left = [have - count * size for have, size in zip(left, sizes, strict=True)]
    return tuple(found)


def _shares(left: Sequence[int], size: int) -> tuple[int, ...]:
    """`size` split in proportion to `left` by largest remainder; no share exceeds what is left."""
    total = sum(left)
    shares = [have * size // total for have in left]
    by_remainder = sorted(range(len(left)), key=lambda k: (-(left[k] * size % total), k))
    for k in by_remainder[: size - sum(shares)]:
        shares[k] += 1
    return tuple(shares)

"""The maximum of a window with the bits that its gradient follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclave.engines.mpc.protocols.comparison import Bits, gated, relu
from enclave.engines.mpc.session import Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array

__all__ = ["Tournament", "maximum_gradient", "maximum_with_bits"]


@dataclass(frozen=True, slots=True)
class Tournament:
    """Who won: for each level the bits [left >= right] of its pairs, and how many columns played it."""

    rows: int
    columns: tuple[int, ...]
    bits: tuple[Bits, ...]


def maximum_with_bits(session: Session, x: Tensor) -> Protocol[tuple[Tensor, Tournament]]:
    """x (rows, columns) -> (rows,), and the bits. Column k of the first half plays column k of the second.

    Exact; of equal values the left one wins. Cost: ceil(log2 columns) times a ReLU's rounds, columns - 1 ReLUs a row.
    Reveals: nothing.
    """
    rows, columns = x.shape
    played: list[int] = []
    bits: list[Bits] = []
    while columns > 1:
        half = columns // 2
        gap = session.local(
            lambda x, h=half: (x[:, :h] - x[:, h : 2 * h]).reshape(-1),
            (rows * half,),
            x,
        )
        excess, won = yield from relu(session, gap, 0)

        def merge(e: Array, x: Array, h: int = half) -> Array:
            return np.concatenate([e.reshape(-1, h) + x[:, h : 2 * h], x[:, 2 * h :]], axis=1)

        played.append(columns)
        bits.append(won)
        columns -= half
        x = session.local(merge, (rows, columns), excess, x)
    return session.local(lambda x: x[:, 0], (rows,), x), Tournament(rows, tuple(played), tuple(bits))


def maximum_gradient(session: Session, found: Tournament, delta: Tensor) -> Protocol[Tensor]:
    """delta (rows,) -> (rows, columns): delta where the maximum was, 0 elsewhere.

    Cost: one round a level, 8 B a pair of it; nothing else, since the bits were compared in the forward pass.
    Reveals: nothing.
    """
    rows = found.rows
    spread = session.local(lambda d: d.reshape(rows, 1), (rows, 1), delta)
    for columns, bits in zip(reversed(found.columns), reversed(found.bits), strict=True):
        half = columns // 2
        top = session.local(lambda d, h=half: d[:, :h].reshape(-1), (rows * half,), spread)
        left = yield from gated(session, bits, top, 0)

        def place(left: Array, d: Array, h: int = half) -> Array:
            won = left.reshape(rows, h)
            return np.concatenate([won, d[:, :h] - won, d[:, h:]], axis=1)

        spread = session.local(place, (rows, columns), left, spread)
    return spread

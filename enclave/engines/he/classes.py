"""Accuracy of a model of several classes, with no third party: a row is correct if its true class beats all others.

Who holds what: the buyer the model and the key, each owner its rows and their true classes.

For C classes and a row of true class L, the owner needs the signs of D_d = s_L - s_{(L + d) mod C} for d = 1 ... C - 1.
It knows L, so it computes them without anybody comparing classes: with X_c the rows of true class c, zeros in place of
the others,

    D_d = sum_c X_c w_c - X_c w_{(c + d) mod C}

a linear product as any other, whose cost does not depend on the classes. Then, as in `counting`: shares of all D_d, of
their signs, and by `conjunction` of whether all are wins. Among equal scores the first class counts, as
`Engine.argmax_onehot` has it: against a class before L a win is D > 0, against one behind it D >= 0.

**Cost** C times the products of `counting`, C - 1 comparisons a row and one conjunction.

**Reveals** nothing: see `counting`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.conjunction import all_of
from enclave.engines.he.counting import Decisions, Holders, positive
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.linear import EncryptedWeights
from enclave.engines.he.packing import EncodedRows
from enclave.engines.he.ring import Words
from enclave.engines.he.sampling import Source
from enclave.engines.he.shares import Pair, hiding, to_shares
from enclave.engines.he.slots import slot_parameters
from enclave.engines.he.zero_forms import at_rank
from enclave.engines.mpc.session import Protocol, Tensor, together
from enclave.errors import BadData

__all__ = ["margin_words", "unbeaten"]

Integers = NDArray[np.int64]


def margin_words(
    engine: HeEngine, weights: EncryptedWeights, holders: Holders, rows: Sequence[EncodedRows] | None, bits: int
) -> Protocol[dict[int, Tensor]]:
    """Shares modulo 2^64 of every D_d on the torus: by owner, uint64 [C - 1, rows] at it and at the buyer.

    Args:
        weights: of C outputs. rows: this owner's X_c, for each class c; None elsewhere. bits: of returned coefficients.

    **Cost** one round; (C - 1) N bits / 8 bytes for each block of rows. **Reveals** nothing: see `shares.to_shares`.
    """
    engine.state(hiding("class margins"))
    found = yield from together(*(_margins(engine, weights, holder, rows, bits) for holder in holders))
    return dict(zip((rank for rank, _ in holders), found, strict=True))


def _margins(
    engine: HeEngine,
    weights: EncryptedWeights,
    holder: tuple[int, int],
    rows: Sequence[EncodedRows] | None,
    bits: int,
) -> Protocol[Tensor]:
    (owner, count), classes, packing = holder, weights.query.outputs, weights.query.packing
    edges, others = packing.blocks(count), weights.query.outputs - 1

    def answers() -> Iterator[Words]:
        if rows is None or [part.rows for part in rows] != [count] * classes:
            raise BadData(f"expected {count} rows for each of {classes} classes")
        for scores in _scores(weights, rows, len(edges)):
            yield weights.ring.intt(weights.ring.sub(scores[:1], scores[1:]))

    def gathered(shares: Words) -> Words:
        blocks = shares.reshape(len(edges), others, -1)
        parts = [block[:, packing.places(stop - start)] for block, (start, stop) in zip(blocks, edges, strict=True)]
        return np.concatenate(parts, axis=1)

    keys = weights.keys
    pair = Pair(weights.ring, owner, engine.buyer, keys.public, Source.fresh(), keys.secret)
    shares = yield from to_shares(engine.session, pair, answers, others * len(edges), bits, "classes:margins")
    return engine.session.local(gathered, (others, count), shares)


def _scores(weights: EncryptedWeights, rows: Sequence[EncodedRows], blocks: int) -> list[Words]:
    """For each block [C, 2, k, N], evaluation form: entry d is the score of class (L + d) mod C of every row."""
    ring, classes = weights.ring, len(rows)
    found = [np.zeros((classes, 2, len(ring.primes), ring.degree), np.uint64) for _ in range(blocks)]
    for first, part in weights.parts():
        for index, total in enumerate(found):
            for true, encoded in enumerate(rows):
                sums = weights.dot(encoded.block(index).polynomials, part)
                places = (first + np.arange(len(sums)) - true) % classes
                total[places] = ring.add(total[places], sums)
    return found


def unbeaten(
    engine: HeEngine, holders: Holders, words: Mapping[int, Tensor], truth: Integers | None, bits: int, margin: int
) -> Protocol[Decisions]:
    """Which rows' true class has the first largest score, as shared bits.

    Args:
        words: of `margin_words`. truth: this owner's true classes; None elsewhere. bits, margin: as for
            `counting.decided`.

    **Cost** a comparison of bits - 1 bits for each word, and a conjunction of C - 1 bits a row, all owners in the same
    rounds. **Reveals** nothing.
    """
    yield from engine.keys(slot_parameters())  # once for all owners
    found = yield from together(*(_unbeaten(engine, h, words[h[0]], truth, bits, margin) for h in holders))
    return Decisions(tuple(holders), dict(zip((rank for rank, _ in holders), found, strict=True)))


def _unbeaten(
    engine: HeEngine, holder: tuple[int, int], words: Tensor, truth: Integers | None, bits: int, margin: int
) -> Protocol[Tensor]:
    session, (owner, count), others = engine.session, holder, words.shape[0]
    size = (others * count,)

    def margins() -> Words:
        if truth is None or truth.shape != (count,) or truth.min() < 0 or truth.max() > others:
            raise BadData(f"expected {count} true classes from 0 to {others}")
        rival = (truth[None, :] + np.arange(1, others + 1)[:, None]) % (others + 1)
        ties = margin + (1 << 64 - bits)  # what is not below 0 has to be above it by what cutting may take off
        return np.where(rival < truth, margin, -ties).reshape(-1).astype(np.int64).view(np.uint64)

    both = (owner, engine.buyer)
    flat = at_rank(session, both, size, lambda: words.reshape(-1))
    thresholds = at_rank(session, owner, size, margins)
    wins = yield from positive(engine, owner, others * count, flat, bits, thresholds)
    parts = [at_rank(session, both, (count,), lambda k=k: wins.reshape(others, count)[k]) for k in range(others)]
    return (yield from all_of(engine, owner, count, parts))

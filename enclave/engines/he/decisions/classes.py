"""Accuracy and confusion of a model of several classes, with no third party.

Who holds what: the buyer the model and the key, each owner its rows and their true classes.

**Accuracy** A row is correct if its true class beats all others. For C classes and a row of true class L, the owner
needs the signs of D_d = s_L - s_{(L + d) mod C} for d = 1 ... C - 1.
It knows L, so it computes them without anybody comparing classes: with X_c the rows of true class c, zeros in place of
the others,

    D_d = sum_c X_c w_c - X_c w_{(c + d) mod C}

a linear product as any other, whose cost does not depend on the classes. Then, as in `counting`: shares of all D_d, of
their signs, and by `conjunction` of whether all are wins. Among equal scores the first class counts, as
`Engine.argmax_onehot` has it: against a class before L a win is D > 0, against one behind it D >= 0.

**Confusion** A row is of class c if c beats all others: shares of all scores, the signs of the differences of all pairs
of classes, and C conjunctions.

**Cost** accuracy: C times the products of `counting`, C - 1 comparisons a row and one conjunction; confusion: C (C - 1)
/ 2 comparisons a row and C conjunctions.

**Reveals** nothing: see `counting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.decisions.conjunction import all_of
from enclave.engines.he.decisions.counting import Decisions, Holders, positive
from enclave.engines.he.decisions.slots import slot_parameters
from enclave.engines.he.decisions.zero_forms import at_rank
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear.packing import EncodedRows
from enclave.engines.he.linear.shares import Pair, hiding, to_shares
from enclave.engines.he.linear.weights import EncryptedWeights
from enclave.engines.mpc.session import Protocol, Tensor, together
from enclave.errors import BadData

__all__ = ["class_words", "margin_words", "predicted", "unbeaten"]

Integers = NDArray[np.int64]


def margin_words(
    engine: HeEngine, weights: EncryptedWeights, holders: Holders, rows: Sequence[EncodedRows] | None, bits: int
) -> Protocol[dict[int, Tensor]]:
    """Shares modulo 2^64 of every D_d on the torus: by owner, uint64 [C - 1, rows] at it and at the buyer.

    Args:
        weights: of C outputs. rows: this owner's X_c, for each class c; None elsewhere. bits: of returned coefficients.

    **Cost** one round; (C - 1) N bits / 8 bytes for each block of rows. **Reveals** nothing: see `shares.to_shares`.
    """
    ring = weights.ring

    def margins(scores: Words) -> Words:
        return ring.sub(scores[:1], scores[1:])

    engine.state(hiding("class margins"))
    words = _Words(weights, rows, weights.query.outputs, bits, weights.query.outputs - 1, margins)
    return (yield from words.shared(engine, holders))


def class_words(
    engine: HeEngine, weights: EncryptedWeights, holders: Holders, rows: EncodedRows | None, bits: int
) -> Protocol[dict[int, Tensor]]:
    """Shares of the score of every class, as `margin_words`: [C, rows]. `rows` are all of this owner's."""
    engine.state(hiding("class scores"))
    words = _Words(weights, None if rows is None else [rows], 1, bits, weights.query.outputs, lambda scores: scores)
    return (yield from words.shared(engine, holders))


@dataclass(frozen=True, slots=True)
class _Words:
    """Words of every row that are made of its scores."""

    weights: EncryptedWeights
    rows: Sequence[EncodedRows] | None
    encodings: int
    bits: int
    words: int
    finish: Callable[[Words], Words]

    def shared(self, engine: HeEngine, holders: Holders) -> Protocol[dict[int, Tensor]]:
        found = yield from together(*(self._of(engine, holder) for holder in holders))
        return dict(zip((rank for rank, _ in holders), found, strict=True))

    def _of(self, engine: HeEngine, holder: tuple[int, int]) -> Protocol[Tensor]:
        (owner, count), packing = holder, self.weights.query.packing
        edges = packing.blocks(count)

        def answers() -> Iterator[Words]:
            if self.rows is None or [part.rows for part in self.rows] != [count] * self.encodings:
                raise BadData(f"expected {count} rows in {self.encodings} encodings")
            for scores in _scores(self.weights, self.rows, len(edges)):
                yield self.weights.ring.intt(self.finish(scores))

        def gathered(shares: Words) -> Words:
            blocks = shares.reshape(len(edges), self.words, -1)
            parts = [b[:, packing.places(stop - start)] for b, (start, stop) in zip(blocks, edges, strict=True)]
            return np.concatenate(parts, axis=1)

        keys, size = self.weights.keys, (self.words, count)
        pair = Pair(self.weights.ring, owner, engine.buyer, keys.public, Source.fresh(), keys.secret)
        shares = yield from to_shares(
            engine.session, pair, answers, self.words * len(edges), self.bits, "classes:scores"
        )
        return engine.session.local(gathered, size, shares)


def _scores(weights: EncryptedWeights, rows: Sequence[EncodedRows], blocks: int) -> list[Words]:
    """For each block [C, 2, k, N], evaluation form: entry d is the score of class (c + d) mod C of the rows in X_c.

    With one encoding, of all rows, entry d is the score of class d.
    """
    ring, classes = weights.ring, weights.query.outputs
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


def predicted(
    engine: HeEngine, holders: Holders, words: Mapping[int, Tensor], bits: int, margin: int
) -> Protocol[list[Decisions]]:
    """For each class whether it has the first largest score of a row, as shared bits.

    Args:
        words: of `class_words`. bits, margin: as for `counting.decided`.

    **Cost** C (C - 1) / 2 comparisons a row of bits - 1 bits, and C conjunctions of C - 1 bits, all owners in the same
    rounds. **Reveals** nothing.
    """
    yield from engine.keys(slot_parameters())  # once for all owners
    found = yield from together(*(_predicted(engine, h, words[h[0]], bits, margin) for h in holders))
    by_class = zip(*found, strict=True)
    owners = [rank for rank, _ in holders]
    return [Decisions(tuple(holders), dict(zip(owners, shares, strict=True))) for shares in by_class]


def _predicted(
    engine: HeEngine, holder: tuple[int, int], words: Tensor, bits: int, margin: int
) -> Protocol[list[Tensor]]:
    session, (owner, count), classes = engine.session, holder, words.shape[0]
    both = (owner, engine.buyer)
    first, second = np.triu_indices(classes, 1)
    size = (len(first) * count,)
    flat = at_rank(session, both, size, lambda: (words[first] - words[second]).reshape(-1))
    # [s_i >= s_j] for i < j: what is not below 0 has to be above the threshold by what cutting may take off
    threshold = np.uint64((1 << 64) - margin - (1 << 64 - bits))
    wins = yield from positive(engine, owner, len(first) * count, flat, bits, threshold)

    def beats(own: int, other: int) -> Tensor:
        index = int(np.flatnonzero((first == min(own, other)) & (second == max(own, other)))[0])
        turned = np.uint64(own > other and session.rank == owner)
        return at_rank(session, both, (count,), lambda: wins.reshape(len(first), count)[index] ^ turned)

    rivals = [[beats(own, other) for other in range(classes) if other != own] for own in range(classes)]
    return (yield from together(*(all_of(engine, owner, count, parts) for parts in rivals)))

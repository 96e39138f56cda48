"""Accuracy and confusion of a two-class model, with no third party: counts of decisions that nobody sees.

Who holds what: the buyer the model and the key, each owner its rows and their true classes.

1. Scores become words a (buyer) and b (owner) modulo 2^64 that add up to the score's turn of the torus: `weights` and
   `shares`, whose masks are uniform. (`score_words`)
2. A row's class is 1 where its score is above 0, as in `metrics.ClassTally`. Of a + b - margin, l leading bits of both
   words are kept; the sign of their sum is the exclusive or of their first bits and of the carry out of the lower l - 1
   ones, which is the `comparison` 2^(l-1) - 1 - a' < b'. It stays shared: class = f xor e, e at the buyer. (`decided`)
3. Buyer -> owners: sum_r e_r X^r for every 4,096 rows, encrypted on a torus of 2^T counts. (`tallied`)
4. A count is a sum of decisions with weights that are a function of the true classes: `sums`, of which nothing leaves
   an owner before the release. (`Tally.accuracy`, `Tally.confusion`)

What the buyer sees: of 1 words that are uniform, of 2 uniform bits, of 4 the sum of all owners' counts. Owners see
encryptions. A score within the resolution of 0 may fall to either side; one of exactly 0 is class 0, since `margin` is
above all noise.

**Reference** `shares`, `comparison`, `sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from enclave.engines.he.decisions.comparison import less_than
from enclave.engines.he.decisions.slots import DEGREE, slot_parameters
from enclave.engines.he.decisions.sums import HIDING, Counts, Integers, SumWords, padded, torus_bits
from enclave.engines.he.decisions.zero_forms import at_rank
from enclave.engines.he.engine import HeEngine, Keys
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.rlwe import encrypt, expand
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.he.linear.packing import EncodedRows
from enclave.engines.he.linear.shares import Pair, hiding, to_shares
from enclave.engines.he.linear.weights import EncryptedWeights
from enclave.engines.mpc.session import Item, Protocol, Tensor, together
from enclave.errors import BadData, BadSpec

__all__ = ["Decisions", "Holders", "Tally", "decided", "positive", "score_words", "tallied"]

Holders = Sequence[tuple[int, int]]
_NUMBER_BITS = 24


# ---- scores
def score_words(
    engine: HeEngine, weights: EncryptedWeights, holders: Holders, rows: EncodedRows | None, bits: int
) -> Protocol[dict[int, Tensor]]:
    """Shares modulo 2^64 of every row's score on the torus: by owner, uint64 [rows] at it and at the buyer.

    Args:
        weights: of one output. rows: this owner's; None elsewhere. bits: of returned coefficients, see `shares`.

    **Cost** one round; N bits / 8 bytes for each block of N / stride rows.
    **Reveals** nothing: see `shares.to_shares`.
    """
    if weights.query.outputs != 1:
        raise BadSpec(f"expected a model of one output, the decision, found {weights.query.outputs}")
    engine.state(hiding("decision scores"))
    found = yield from together(*(_words_of(engine, weights, holder, rows, bits) for holder in holders))
    return dict(zip((rank for rank, _ in holders), found, strict=True))


def _words_of(
    engine: HeEngine, weights: EncryptedWeights, holder: tuple[int, int], rows: EncodedRows | None, bits: int
) -> Protocol[Tensor]:
    session, (owner, count), ring = engine.session, holder, weights.ring
    packing, keys = weights.query.packing, weights.keys
    edges = packing.blocks(count)

    def answers() -> Iterator[Words]:
        if rows is None or rows.rows != count:
            raise BadData(f"expected {count} rows")
        _, part = next(weights.parts())  # there is one output
        for index in range(len(edges)):
            yield ring.intt(weights.dot(rows.block(index).polynomials, part))

    def gathered(blocks: Words) -> Words:
        found = [block[packing.places(stop - start)] for block, (start, stop) in zip(blocks, edges, strict=True)]
        return np.concatenate(found)

    pair = Pair(ring, owner, engine.buyer, keys.public, Source.fresh(), keys.secret)
    shares = yield from to_shares(session, pair, answers, len(edges), bits, "decision:scores")
    return session.local(gathered, (count,), shares)


# ---- decisions
@dataclass(frozen=True, slots=True, repr=False)
class Decisions:
    """Exclusive-or shares of each row's class, by owner: uint64 [rows] at it and at the buyer."""

    holders: tuple[tuple[int, int], ...]
    bits: Mapping[int, Tensor]

    def __repr__(self) -> str:
        return f"Decisions({self.holders})"


def decided(
    engine: HeEngine, holders: Holders, words: Mapping[int, Tensor], bits: int, margin: int
) -> Protocol[Decisions]:
    """Which rows have a score above 0.

    Args:
        words: by owner, shares modulo 2^64, at it and at the buyer. bits: l, of the words that are compared: scores are
            told apart at 2^-l of the torus. margin: in units of 2^-64 of the torus, at least the largest noise: what
            is below it is class 0, what is above margin + 2^(64 - l) + noise is class 1.

    **Cost** that of `comparison` with l - 1 bits, all owners in the same rounds. **Reveals** nothing.
    """
    yield from engine.keys(slot_parameters())  # once for all owners
    found = yield from together(
        *(positive(engine, rank, count, words[rank], bits, np.uint64(margin)) for rank, count in holders)
    )
    return Decisions(tuple(holders), dict(zip((rank for rank, _ in holders), found, strict=True)))


def positive(engine: HeEngine, owner: int, count: int, word: Tensor, bits: int, margin: Tensor) -> Protocol[Tensor]:
    """Shares of whether words exceed a margin: uint64 [count], see `decided`.

    Args:
        margin: uint64 [count] or a number, at the owner; of a negative one, modulo 2^64.
    """
    session, buyer = engine.session, engine.buyer
    drop, low, top = np.uint64(64 - bits), np.uint64((1 << bits - 1) - 1), np.uint64(bits - 1)
    own = at_rank(session, owner, (count,), lambda: word - margin >> drop)
    held = at_rank(session, buyer, (count,), lambda: word >> drop)
    x = at_rank(session, buyer, (count,), lambda: low - (held & low))
    y = at_rank(session, owner, (count,), lambda: own & low)
    carry = yield from less_than(engine, owner, bits - 1, count, x, y)
    mine = at_rank(session, owner, (count,), lambda: carry ^ own >> top ^ np.uint64(1))
    return mine if session.rank == owner else at_rank(session, buyer, (count,), lambda: carry ^ held >> top)


# ---- counts
def tallied(engine: HeEngine, decisions: Decisions) -> Protocol[Tally]:
    """The buyer's shares of the decisions, encrypted, at the owners: ready to count with.

    **Cost** one round, 51,200 B for every 4,096 rows. **Reveals** nothing (RLWE).
    """
    keys = yield from engine.keys(slot_parameters())
    engine.state(HIDING)
    session, rows = engine.session, sum(count for _, count in decisions.holders)
    sides = [
        _Block(engine, keys, owner, count, decisions.bits[owner], torus_bits(rows))
        for owner, count in decisions.holders
    ]
    received = yield [side.query() for side in sides]
    encrypted = None
    for side, words in zip(sides, received, strict=True):
        if session.rank == side.owner:
            encrypted = side.received(words)
    return Tally(engine, keys, decisions, encrypted)


@dataclass(frozen=True, slots=True)
class _Block:
    """The encrypted shares of one owner's rows, on their way."""

    engine: HeEngine
    keys: Keys
    owner: int
    count: int
    bits: Tensor
    torus_bits: int
    first: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", self.engine.session.new_stream() << _NUMBER_BITS)

    @property
    def shape(self) -> tuple[int, ...]:
        primes = self.keys.parameters.primes
        return (-(-self.count // DEGREE), len(primes), DEGREE)

    def query(self) -> Item:
        buyer, primes = self.engine.buyer, self.keys.parameters.primes
        value = at_rank(self.engine.session, buyer, (packed_words(primes, self.shape),), self._encrypted)
        return Item("counting:bits", value, sender=buyer, to=self.owner)

    def _encrypted(self) -> Words:
        assert self.keys.secret is not None and self.keys.seed is not None
        ring = self.keys.parameters.ring()
        phases = ring.from_torus(padded(self.bits, self.shape[0]), self.torus_bits)
        return pack(encrypt(self.keys.secret, phases, self.keys.seed, self.first), ring.primes)

    def received(self, words: Words) -> Words:
        """Evaluation form [blocks, 2, k, N], at the owner."""
        assert self.keys.seed is not None
        ring = self.keys.parameters.ring()
        return ring.ntt(expand(ring, unpack(words, ring.primes, self.shape), self.keys.seed, self.first))


@dataclass(frozen=True, slots=True, repr=False)
class Tally:
    """Decisions that can be counted, any number of times.

    Attributes:
        encrypted: the buyer's shares at an owner [blocks, 2, k, N], evaluation form; None elsewhere.
    """

    engine: HeEngine
    keys: Keys
    decisions: Decisions
    encrypted: Words | None

    def __repr__(self) -> str:
        return f"Tally({self.decisions})"

    @property
    def rows(self) -> int:
        """Of all owners."""
        return sum(count for _, count in self.decisions.holders)

    def ones(self) -> Counts:
        """The number of rows whose bit is 1, int64 (1,), sealed."""
        mine = None if self.engine.rank is None else dict(self.decisions.holders).get(self.engine.rank)
        ones = None if mine is None else np.ones(mine, np.int64)
        return self._counts(1, ones, lambda t: (t[None], np.zeros(1, np.int64)), lambda found: found)

    def accuracy(self, truth: Integers | None) -> Counts:
        """The number of correct rows, int64 (1,), sealed.

        Args:
            truth: this owner's true classes, 0 or 1, [rows]; None elsewhere.
        """
        return self._counts(1, truth, lambda t: ((2 * t - 1)[None], np.array([(1 - t).sum()])), lambda found: found)

    def by_class(self, truth: Integers | None, classes: int) -> Counts:
        """The number of rows of each true class whose bit is 1, int64 (classes,), sealed."""

        def weights(t: Integers) -> tuple[Integers, Integers]:
            return np.eye(classes, dtype=np.int64)[:, t], np.zeros(classes, np.int64)

        return self._counts(classes, truth, weights, lambda found: found, classes)

    def confusion(self, truth: Integers | None) -> Counts:
        """The counts by true class and class, int64 (2, 2), sealed. `truth` as for `accuracy`."""

        def weights(t: Integers) -> tuple[Integers, Integers]:
            return np.stack([np.ones_like(t), t, np.zeros_like(t)]), np.array([0, 0, t.sum()])

        def matrix(found: Integers) -> Integers:
            predicted, hits, true = (int(v) for v in found)
            return np.array([[self.rows - true - predicted + hits, predicted - hits], [true - hits, hits]], np.int64)

        return self._counts(3, truth, weights, matrix)

    def _counts(
        self,
        sums: int,
        truth: Integers | None,
        weights: Callable[[Integers], tuple[Integers, Integers]],
        finish: Callable[[Integers], Integers],
        classes: int = 2,
    ) -> Counts:
        """Cost: nothing before the release."""
        session, holders = self.engine.session, self.decisions.holders
        bits = SumWords(sums, torus_bits(self.rows))
        owners = tuple(rank for rank, _ in holders)
        self.keys.allow(sums * len(owners))
        zero = session.zero_share(session.new_stream(), (sums,), owners)
        answer = None
        mine = dict(holders).get(-1 if session.rank is None else session.rank)
        if mine is not None:
            if truth is None or truth.shape != (mine,) or not np.isin(truth, range(classes)).all():
                raise BadData(f"expected {mine} true classes below {classes}")
            assert self.keys.public is not None and self.encrypted is not None and session.rank is not None
            own = self.decisions.bits[session.rank].astype(np.int64)
            factors, constants = weights(truth.astype(np.int64))
            constants = constants + factors @ own
            answer = bits.made(self.keys, self.encrypted, factors * (1 - 2 * own), constants, zero, self.rows)
        return Counts(bits, self.keys, owners, answer, finish)

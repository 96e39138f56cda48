"""Scores of owners' rows under a buyer's encrypted linear model, released to the buyer row by row.

    owner:   c = sum_j x_j Enc(w_j) + Enc_pk(0) + flood         rounded to few bits, and kept until the permit
    owner -> buyer, with the permit:   the coefficients of c0 that are scores, and c1
    buyer:   c0 + c1 s, scaled

The encryption of zero makes c1 pseudo-random; without it c1 / a is the rows. The flood, integers uniform over a range
far wider than the noise sum_j x_j e_j, hides that noise, of which the buyer knows every e_j. Coefficients that are no
scores, such as those of padding and of sums of other columns, are not sent. The rounding afterwards depends on the
flooded ciphertext alone, and reveals nothing new.

Flooding hides the rows from a buyer whose public key and errors are what they should be. One that sends larger errors
learns of their product with the rows what stands out of the flood, and see `keys.PublicKey` for a public key that is
none; the statement of hiding says so, and shares (`shares`), whose masks are uniform, have no such condition.

Scores are rounded as soon as they are decrypted, to a sixteenth of their error. Raw decryptions c0 + c1 s would give
the key to an owner that comes to see them, since it knows c0 and c1: rounded, they are a problem of learning with
rounding, far harder than that of the ciphertexts. So a buyer may publish its predictions.

A buyer may encrypt other polynomials than constants. It then gets as many numbers as there are rows, but of other
linear combinations of a block's rows than one row's; a model of one weight shows it a whole column as well.

**Reference** Gentry, "A fully homomorphic encryption scheme" (2009), for flooding; Huang et al., "Cheetah", USENIX
Security 2022, for sending extracted coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine, Keys, sent_by
from enclave.engines.he.lattice.keys import PublicKey
from enclave.engines.he.lattice.products import protected
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack_bits, unpack_bits
from enclave.engines.he.linear.packing import EncodedRows, Packing
from enclave.engines.he.linear.weights import EncryptedWeights, Query, side_by_side
from enclave.engines.he.planner import HePlan, Hiding, LinearWork, plan_linear
from enclave.engines.he.steps import at_work
from enclave.engines.mpc.session import Item, Protocol, Session
from enclave.errors import BadInput, BadSpec, RangeExceeded

__all__ = ["RANGE", "Answer", "Scores", "ScoringPlan", "plan_scoring", "score"]

Floats = NDArray[np.float64]
_LANES = 64  # values that `pack_bits` packs together
_EXPANSION_S = 30.0  # CPU time of an owner that a smaller upload is worth
_BYTE_S = 8e-8  # 100 Mbit/s
_BLOCK_S = 1.5e-3  # CPU time of protecting one block, and of decrypting it
_STRIDE = 64  # the largest where rows fill many blocks
_LARGEST_DEGREE = 16384
_STEP_PRODUCTS = 1 << 26  # of a row's values with weights, a second of one core or a few
_GUARD_BITS = 4  # of scores below their error that are kept
_C0_CUT_BITS = 4  # what c0 is coarser: its rounding adds up over no secret, that of c1 over all of it
RANGE = 4.0  # the torus in units of the largest score that declared ranges allow: half of it is never reached


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """The public numbers of one scoring.

    Attributes:
        work: parameters, flooding and errors, in units of the largest score that declared ranges allow.
        c0_bits, c1_bits: of a returned coefficient of each half.
    """

    query: Query
    work: HePlan
    c0_bits: int
    c1_bits: int

    @property
    def packing(self) -> Packing:
        """How rows lie in polynomials."""
        return self.query.packing

    @property
    def hiding(self) -> Hiding:
        """What hides the rows."""
        return self.work.hiding("scores of rows")

    def words(self, rows: int) -> int:
        """64-bit words that an owner of `rows` rows returns."""
        full, rest = divmod(rows, self.packing.block_rows)
        words = full * self.block_words(self.packing.block_rows) + (self.block_words(rest) if rest else 0)
        return self.query.outputs * words

    def steps(self, rows: int) -> int:
        """Steps after which an owner of `rows` rows says that it is at work."""
        products = rows * self.packing.columns * self.query.outputs
        return max(1, min(self.packing.block_count(rows), products // _STEP_PRODUCTS))

    def block_words(self, rows: int) -> int:
        """64-bit words of one output of one block of `rows` rows."""
        return _lanes(rows) * self.c0_bits + _lanes(self.packing.degree) * self.c1_bits


def plan_scoring(columns: int, outputs: int, rows: int, frac_bits: int, magnitude: float) -> ScoringPlan:
    """The plan that takes least time on a slow network for the owner with most rows.

    Larger strides need fewer ciphertexts up and more bytes a row back; expansion needs few and takes time.

    Args:
        columns: of a row, the constant one of a bias among them.
        rows: of the largest owner.
        frac_bits: rows are rounded to so many fractional bits.
        magnitude: the largest |x|.

    Raises: BadSpec: no parameters of 128 bits of security have room for it.
    """
    if not magnitude * 2.0**frac_bits < 2.0**61:
        raise BadSpec(f"expected rows below 2^61 with {frac_bits} fractional bits, found {magnitude:g}")
    widest = max(Packing.fitting(_LARGEST_DEGREE, columns, rows).stride, min(_STRIDE, columns))
    plans = [_planned(columns, outputs, frac_bits, magnitude, 1 << i) for i in range(widest.bit_length())]

    def cost_s(plan: ScoringPlan) -> float:
        words = plan.query.words + plan.query.key_words + plan.words(rows)
        blocks = plan.packing.block_count(rows) * outputs
        return 8 * words * _BYTE_S + plan.work.expansion_s + blocks * _BLOCK_S

    return min(plans, key=cost_s)


@lru_cache(maxsize=64)
def _planned(columns: int, outputs: int, frac_bits: int, magnitude: float, stride: int) -> ScoringPlan:
    # In units of the largest score, sum_j |w_j| |x_j| <= 1: so the root of the sum of squares of w is at most
    # 1 / magnitude, where columns are scaled to reach half their magnitude, 2 / magnitude.
    weight = 2.0 / (magnitude * math.sqrt(columns))
    precision = 1.01 * 12 * weight * math.sqrt(columns / 12) * 2.0**-frac_bits
    work = LinearWork(columns, magnitude, weight, precision, score_magnitude=1.0, outputs=outputs, stride=stride)
    plan = plan_linear(work, expansion_s=_EXPANSION_S, row_bits=frac_bits)
    packing = Packing(plan.parameters.degree, columns, stride)
    levels = min(plan.expansion.levels, (packing.groups - 1).bit_length())
    c1_bits = math.prod(plan.parameters.primes[: plan.returned]).bit_length()
    return ScoringPlan(Query(plan.parameters, packing, outputs, levels), plan, c1_bits - _C0_CUT_BITS, c1_bits)


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes of the sums of one block and output on their way out, and back in at the buyer."""

    plan: ScoringPlan
    ring: Ring

    def finish(self, public: PublicKey, source: Source, sums: Words, rows: int) -> Words:
        """Protects sums [2, k, N] in evaluation form: words that may leave once a permit is there."""
        plan = self.plan
        whole = protected(public, source, sums, source.integers(self.ring, plan.work.flood_bits))
        c0 = self.ring.to_torus(whole[0], plan.c0_bits)[plan.packing.places(rows)]
        c1 = self.ring.to_torus(whole[1], plan.c1_bits)
        return np.concatenate([_packed(c0, plan.c0_bits), _packed(c1, plan.c1_bits)])

    def phases(self, secret: Words, words: Words, rows: int) -> NDArray[np.int64]:
        """The phases of `rows` scores at the buyer, in units of 2^-64 of the torus.

        Args:
            secret: evaluation form [k, N] over the ring.
        """
        plan, ring = self.plan, self.ring
        split = _lanes(rows) * plan.c0_bits
        c0 = unpack_bits(words[:split], plan.c0_bits)[:rows]
        c1 = unpack_bits(words[split:], plan.c1_bits)[: ring.degree]
        product = ring.multiply(ring.ntt(ring.from_torus(c1, plan.c1_bits)), secret)
        turned = ring.to_torus(ring.intt(product), 64)[plan.packing.places(rows)]
        found: Words = (c0 << np.uint64(64 - plan.c0_bits)) + turned
        return found.view(np.int64)


@dataclass(frozen=True, slots=True, repr=False)
class Scores:
    """Sealed scores of all owners' rows. Release gives float64 [rows] or [rows, outputs], owner by owner.

    Attributes:
        holders: (rank, rows) of each owner.
        answers: this owner's words; None elsewhere.
        ranges: [outputs], what the torus stands for, at the buyer; None elsewhere.
        finish: what the buyer makes of the scores [rows, outputs].
    """

    plan: ScoringPlan
    keys: Keys
    holders: tuple[tuple[int, int], ...]
    answers: Words | None
    ranges: Floats | None
    finish: Callable[[Floats], Floats]

    def __repr__(self) -> str:
        return f"Scores({self.plan.query})"

    def release(self, session: Session, name: str, to: int) -> Protocol[NDArray[Any] | None]:
        """Every owner's answers to the buyer.

        **Cost** one round, `ScoringPlan.words` of each owner. **Reveals** the scores, to the buyer.

        Raises: RangeExceeded: a score that no row in the declared ranges can have.
        """
        items = [self._item(session, name, to, rank, rows) for rank, rows in self.holders]
        found = yield items
        if session.rank != to:
            return None
        parts = [self._opened(words, rows) for words, (_, rows) in zip(found, self.holders, strict=True)]
        return self.finish(np.concatenate(parts))

    def _item(self, session: Session, name: str, to: int, rank: int, rows: int) -> Item:
        value = sent_by(session, rank, self.plan.words(rows), self._own)
        return Item(f"release:{name}"[:64], value, sender=rank, to=to, masked=False)

    def _own(self) -> Words:
        if self.answers is None:
            raise BadInput("expected the answers for this owner's rows")
        return self.answers

    def _opened(self, words: Words, rows: int) -> Floats:
        """The scores of one owner's rows, [rows, outputs]."""
        plan, secret = self.plan, self.keys.secret
        assert secret is not None and self.ranges is not None
        # Safety: any ring holds c1 s modulo the torus, up to rounding, if its modulus is far larger than both.
        answer = Answer(plan, plan.query.parameters.ring())
        revealed = secret.reveal(answer.ring)
        found, start = np.empty((plan.query.outputs, rows), np.int64), 0
        blocks = plan.packing.blocks(rows)
        secret.count(len(blocks) * plan.query.outputs)
        for output in range(plan.query.outputs):
            for first, stop in blocks:
                size = plan.block_words(stop - first)
                found[output, first:stop] = answer.phases(revealed, words[start : start + size], stop - first)
                start += size
        scores = found.T.astype(np.float64) * (RANGE * 2.0**-64)
        # Honest scores stay within a quarter of the torus; garbage does not.
        largest = float(np.abs(scores).max())
        if largest > 1.0 + 2 * plan.work.error:
            raise RangeExceeded("the released scores", largest, 1.0, hint="a row, or the noise, left its range")
        # Safety: what is below the precision tells of the key, see the module's text.
        step = 2.0 ** (math.floor(math.log2(plan.work.error)) - _GUARD_BITS)
        return np.asarray(np.rint(scores / step) * step * self.ranges)


def score(
    engine: HeEngine,
    plan: ScoringPlan,
    weights: EncryptedWeights,
    holders: Sequence[tuple[int, int]],
    rows: EncodedRows | None,
    ranges: Floats | None,
    finish: Callable[[Floats], Floats] = lambda scores: scores,
) -> Protocol[Scores]:
    """Computes every score at the owners, sealed.

    Args:
        rows: this owner's; None elsewhere.
        ranges: [outputs], at the buyer.

    **Cost** products of `columns` polynomials for each block of rows. One word from every owner at work after each
    `_STEP_PRODUCTS` of them, so that nobody waits in doubt; none for small jobs.
    **Reveals** nothing.
    """
    engine.state(plan.hiding)
    weights.keys.allow(plan.query.outputs * sum(len(plan.packing.blocks(count)) for _, count in holders))
    mine = dict(holders).get(-1 if engine.rank is None else engine.rank)
    if rows is not None and rows.rows != mine:
        raise BadInput(f"expected {mine} rows, found {rows.rows}")
    work = None if rows is None else _Work(engine, plan, weights, rows)
    steps = {rank: plan.steps(count) for rank, count in holders}
    yield from at_work(engine.session, steps, None if work is None else work.advance)
    answers = None if work is None else work.words()
    return Scores(plan, weights.keys, tuple(holders), answers, ranges, finish)


class _Work:
    """The answers of an owner in the making: for each part of the weights, batch by batch of the rows."""

    def __init__(self, engine: HeEngine, plan: ScoringPlan, weights: EncryptedWeights, rows: EncodedRows) -> None:
        self._engine, self._weights, self._rows = engine, weights, rows
        self._answer = Answer(plan, weights.ring)
        self._found: list[list[Words]] = [[] for _ in range(plan.query.outputs)]
        self._total, self._done = len(weights.edges()) * rows.batches, 0
        self._own = local()  # to each thread
        self._running = self._batches()

    def advance(self, step: int, steps: int) -> None:
        """One of about equal steps."""
        while self._done * steps < (step + 1) * self._total:
            first, batch = next(self._running)
            self._done += 1
            for block in batch:
                for output, words in enumerate(block, first):
                    self._found[output].append(words)

    def words(self) -> Words:
        """Output by output, block by block."""
        return np.concatenate([words for output in self._found for words in output])

    def _room(self) -> Words:
        room: Words | None = getattr(self._own, "room", None)
        if room is None:
            room = self._own.room = np.empty(self._rows.room_shape, np.uint64)
        return room

    def _batches(self) -> Iterator[tuple[int, list[list[Words]]]]:
        answer, weights, rows, public = self._answer, self._weights, self._rows, self._weights.keys.public
        assert public is not None
        for first, part in weights.parts():

            def work(index: int, part: Words = part) -> list[list[Words]]:
                batch, source = rows.batch(index, self._room()), Source.fresh()  # threads share neither
                sums = weights.dot(batch.polynomials, part)
                return [
                    [answer.finish(public, source, each, stop - start) for each in block]
                    for block, (start, stop) in zip(sums, batch.edges, strict=True)
                ]

            for found in side_by_side(work, rows.batches, self._engine.workers):
                yield first, found


def _lanes(count: int) -> int:
    """Groups of 64 values, which is words for each of their bits."""
    return -(-count // _LANES)


def _packed(values: Words, bits: int) -> Words:
    flat = values.reshape(-1)
    missing = -flat.size % _LANES
    return pack_bits(np.pad(flat, (0, missing)) if missing else flat, bits)

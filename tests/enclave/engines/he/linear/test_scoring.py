"""Scores that owners release: right, of the promised size, and silent about everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine, Keys
from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.expansion import expansion_keys, read_keys
from enclave.engines.he.lattice.keys import Domain, PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.products import protected
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear import scoring
from enclave.engines.he.linear import weights as linear
from enclave.engines.he.linear.packing import EncodedRows, Packing
from enclave.engines.he.linear.scoring import RANGE, Answer, Scores, ScoringPlan, plan_scoring, score
from enclave.engines.he.linear.weights import (
    EncryptedWeights,
    Query,
    query_phases,
    send_weights,
    side_by_side,
    torus_phases,
)
from enclave.engines.he.planner import LinearWork, plan_linear
from enclave.engines.interface import Permit
from enclave.engines.mpc.recorder import Recorder
from enclave.errors import BadInput, BadSpec, PolicyRefused, RangeExceeded, Refused

RNG = np.random.default_rng(3)
BITS = 20
Floats = NDArray[np.float64]


class Rows:
    def __init__(self, x: Floats) -> None:
        self.x = x
        self.rows, self.columns = x.shape

    def block(self, start: int, stop: int) -> Floats:
        return self.x[start:stop]


def made(rows: int, columns: int, outputs: int = 1) -> tuple[Floats, Floats]:
    return RNG.normal(size=(rows, columns)).clip(-8, 8) * 2, RNG.normal(size=(columns, outputs)) / columns**0.5


def scored(
    run_he: Callable[..., Any], xs: list[Floats], w: Floats, permit: Permit | None = None, largest: float | None = None
) -> Any:
    """The whole protocol: owner k has rows xs[k]."""
    columns, outputs = w.shape
    plan = plan_scoring(columns, outputs, max(map(len, xs)), BITS, 16.0)
    ranges = np.abs(w).sum(axis=0) * 16 if largest is None else np.full(outputs, largest)
    holders = [(rank, len(x)) for rank, x in enumerate(xs)]

    def program(engine: HeEngine) -> Any:
        def phases(ring: Any) -> Words:
            return query_phases(ring, plan.query, w / (RANGE * ranges), BITS)

        weights = engine.run(send_weights(engine, plan.query, phases if engine.is_buyer else None))
        rows = None
        if engine.rank is not None and not engine.is_buyer:
            rows = EncodedRows(weights.ring, plan.packing, Rows(xs[engine.rank]), BITS, plan.work.row_limit)
        sealed = engine.run(score(engine, plan, weights, holders, rows, ranges if engine.is_buyer else None))
        return engine.open("scores", sealed, engine.buyer, permit or Permit("job", ["scores"]))

    return run_he(len(xs) + 1, program)


@pytest.mark.parametrize(
    ("rows", "columns", "outputs"), [([8193], 3, 1), ([100], 30, 1), ([1], 1, 1), ([5, 9000, 30], 4, 2), ([300], 9, 3)]
)
def test_scores_are_those_of_float64(run_he: Callable[..., Any], rows: list[int], columns: int, outputs: int) -> None:
    xs = [made(n, columns)[0] for n in rows]
    w = made(1, columns, outputs)[1]
    ran = scored(run_he, xs, w)
    expected = np.concatenate(xs) @ w
    assert ran.results[-1].shape == expected.shape
    assert np.abs(ran.results[-1] - expected).max() < 1e-5
    assert all(result is None for result in ran.results[:-1])


@pytest.mark.parametrize(("columns", "most_up_bytes"), [(31, 5e6), (785, 10e6)])
def test_the_bytes_of_a_hundred_thousand_rows(columns: int, most_up_bytes: float) -> None:
    plan = plan_scoring(columns, 1, 100_000, BITS, 16.0)
    assert 8 * (plan.query.words + plan.query.key_words + Keys(plan.query.parameters).words) < most_up_bytes
    assert 8 * plan.words(100_000) / 100_000 < (18 if columns == 31 else 80)
    assert plan.hiding.bits >= 40 and plan.work.parameters.total_bits <= 218


def test_what_no_parameters_have_room_for_is_refused() -> None:
    with pytest.raises(BadSpec, match=r"below 2\^61"):
        plan_scoring(30, 1, 1000, 26, 2.0**40)


def expanding(columns: int, outputs: int) -> ScoringPlan:
    """A plan whose weights travel packed, whether or not that is worth it."""
    precision = 2.0**-20
    work = LinearWork(columns, 16.0, 1 / 8 / columns**0.5, precision, score_magnitude=1.0, outputs=outputs)
    plan = plan_linear(work, expansion_s=30.0, row_bits=BITS)
    levels = plan.expansion.levels
    assert levels
    return ScoringPlan(Query(plan.parameters, Packing(plan.parameters.degree, columns), outputs, levels), plan, 31, 35)


@pytest.mark.parametrize("outputs", [1, 3])
def test_expanded_weights_score_as_those_sent_one_by_one(outputs: int) -> None:
    x, w = made(50, 37, outputs)
    plan = expanding(37, outputs)
    party = Party(plan, w)
    rows = EncodedRows(party.weights.ring, plan.packing, Rows(x), BITS, plan.work.row_limit)
    parts = list(party.weights.parts(most_bytes=1))
    assert [first for first, _ in parts] == list(range(outputs)), "one output at a time, where memory is short"
    for first, part in parts:
        sums = party.weights.dot(rows.block(0).polynomials, part)
        found = party.opened(party.answer.finish(party.public, Source.fresh(), sums[0], 50), 50)
        assert np.abs(found * party.ranges[first] - x @ w[:, first]).max() < 1e-4


class Party:
    """Both sides of one scoring in one place: what an attacker at the buyer knows, and what it is sent."""

    def __init__(self, plan: ScoringPlan, w: Floats) -> None:
        self.plan = plan
        query, self.ring = plan.query, plan.query.parameters.ring()
        self.seed = PublicSeed.derived(b"test")
        self.secret = SecretKey(query.parameters.key_ring(), Source.fresh(), 1 << 20)
        self.public = PublicKey.generate(self.secret, self.ring, self.seed)
        self.ranges = np.abs(w).sum(axis=0) * 16
        self.phases = query_phases(self.ring, query, w / (RANGE * self.ranges), BITS)
        self.b = rlwe.encrypt(self.secret, self.phases, self.seed, 0)
        self.packed = rlwe.expand(self.ring, self.b, self.seed, 0)
        keys = Keys(query.parameters, self.seed, self.secret, self.public)
        switches: list[Any] = []
        if query.levels:
            halves = expansion_keys(self.secret, query.expansion, self.seed, 0)
            switches = read_keys(query.parameters.key_ring(), halves, self.seed, 0)
        self.weights = EncryptedWeights(query, keys, self.packed, switches)
        self.answer = Answer(plan, self.ring)

    def opened(self, words: Words, rows: int) -> Floats:
        phases = self.answer.phases(self.secret.reveal(self.ring), words, rows)
        return phases.astype(np.float64) * RANGE * 2.0**-64


def one_column(rows: int = 8192) -> tuple[Party, Floats, Words, Words]:
    """A party with a model of one column, its rows, their polynomial, and the bare sums."""
    plan = plan_scoring(1, 1, 8192, BITS, 16.0)
    plan = replace(plan, query=Query(plan.query.parameters, Packing(8192, 1), 1))
    x, w = made(rows, 1)
    party = Party(plan, w)
    polynomials = party.ring.encode_rows(x, BITS)
    ((_, part),) = party.weights.parts()
    return party, x, polynomials[0], party.weights.dot(polynomials, part)[0]


def test_attack_division_of_c1() -> None:
    """c1 / a is the rows, unless an encryption of zero was added."""
    party, x, _, sums = one_column()
    ring, a = party.ring, party.seed.uniform(party.ring, Domain.MESSAGES, 0, 1)[0]
    inverses = np.array(
        [[pow(int(v), -1, p) for v in row] for p, row in zip(ring.primes, ring.ntt(a), strict=True)], np.uint64
    )

    def divided(ciphertext: Words) -> NDArray[Any]:
        return ring.to_integers(ring.intt(ring.multiply(ciphertext[1], inverses)))

    integers = np.rint(x[:, 0] * 2**BITS).astype(np.int64)
    assert np.array_equal(divided(sums).astype(np.int64), integers), "bare, every row is recovered"
    flood = party.plan.work.flood_bits
    source = Source.fresh()
    answer = protected(party.public, source, sums, source.integers(ring, flood))
    found = divided(ring.ntt(answer))
    assert np.mean(np.abs(found.astype(np.float64) - integers) < 2**30) < 0.01


def test_attack_on_the_noise() -> None:
    """The key holder knows its errors e: phase - message is e times the rows, unless that was flooded."""
    party, _, polynomial, sums = one_column()
    ring, secret = party.ring, party.secret
    error = ring.sub(rlwe.phase(secret, party.packed[0, 0]), party.phases[0, 0])
    expected = ring.to_integers(ring.intt(ring.multiply(ring.ntt(error), polynomial))).astype(np.float64)
    message = ring.intt(ring.multiply(ring.ntt(party.phases[0, 0]), polynomial))

    def noise(mask: Words) -> Floats:
        answer = protected(party.public, Source.fresh(), sums, mask)
        return np.asarray(ring.to_integers(ring.sub(rlwe.phase(secret, answer), message)).astype(np.float64))

    source = Source.fresh()
    bare = np.corrcoef(noise(np.zeros_like(error)), expected)[0, 1]
    flooded = np.corrcoef(noise(source.integers(ring, party.plan.work.flood_bits)), expected)[0, 1]
    assert bare > 0.999
    assert abs(flooded) < 0.06


def test_a_guess_of_the_rows_cannot_be_checked() -> None:
    """Of two answers for the same rows under the same weights no half is the same, nor close."""
    party, _, _, sums = one_column()
    answers = [party.answer.finish(party.public, Source.fresh(), sums, 8192) for _ in range(2)]
    split = 128 * party.plan.c0_bits
    assert np.mean(answers[0][:split] == answers[1][:split]) < 0.01
    assert np.mean(answers[0][split:] == answers[1][split:]) < 0.01
    one, other = (party.opened(answer, 8192) for answer in answers)
    assert np.abs(one - other).max() < 4 * party.plan.work.error, "though both say the same"


def test_only_scores_leave_c0() -> None:
    """With a stride, other coefficients hold sums of other columns: as many c0 values leave as there are rows."""
    plan = plan_scoring(30, 1, 100, BITS, 16.0)
    assert plan.packing.stride > 1
    assert plan.block_words(100) == 2 * plan.c0_bits + 128 * plan.c1_bits


def test_the_hiding_that_is_stated_is_that_of_the_largest_rows() -> None:
    """Noise of rows that are all as large as declared stays below what the flood was sized for."""
    plan = plan_scoring(1, 1, 8192, BITS, 16.0)
    plan = replace(plan, query=Query(plan.query.parameters, Packing(8192, 1), 1))
    party = Party(plan, np.ones((1, 1)))
    ring = party.ring
    polynomial = ring.encode_rows(np.full((8192, 1), 16.0), BITS)[0]
    ((_, part),) = party.weights.parts()
    sums = party.weights.dot(polynomial[None], part)[0]
    answer = protected(party.public, Source.fresh(), sums, np.zeros_like(party.phases[0, 0]))
    message = ring.intt(ring.multiply(ring.ntt(party.phases[0, 0]), polynomial))
    noise = ring.to_integers(ring.sub(rlwe.phase(party.secret, answer), message)).astype(np.float64)
    assert np.abs(noise).max() < 2.0**plan.work.noise_bits
    assert plan.work.flood_bits >= 40 + 13 + plan.work.noise_bits


def test_the_noise_of_expanded_weights_is_below_what_the_flood_was_sized_for() -> None:
    plan = expanding(20, 1)
    w = RNG.normal(size=(20, 1))
    party = Party(plan, w)
    ring, rows = party.ring, np.full((8192, 20), 16.0)
    polynomials = ring.encode_rows(rows, BITS)
    ((_, part),) = party.weights.parts()
    answer = protected(
        party.public, Source.fresh(), party.weights.dot(polynomials, part)[0], np.zeros_like(party.phases[0, 0])
    )
    constants = np.zeros((20, ring.degree))
    constants[:, :1] = w / (RANGE * party.ranges)
    weights = ring.ntt(torus_phases(ring, constants, BITS))
    message = ring.intt(ring.dot(polynomials, weights[:, None])[0])
    noise = ring.to_integers(ring.sub(rlwe.phase(party.secret, answer), message)).astype(np.float64)
    assert 2.0 ** (plan.work.noise_bits - 6) < np.abs(noise).max() < 2.0**plan.work.noise_bits


def test_a_score_out_of_range_is_noticed(run_he: Callable[..., Any]) -> None:
    x, w = made(200, 3)
    with pytest.raises(RangeExceeded, match="released scores"):
        scored(run_he, [x], w, largest=float(np.abs(x @ w).max()) / 1.5)


def test_owners_at_work_say_so(run_he: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A long computation is cut in steps, each with a word, so that no deadline is for all of it."""
    monkeypatch.setattr(scoring, "_STEP_PRODUCTS", 8000)
    xs = [made(n, 2)[0] for n in (9000, 30, 20_000)]
    w = made(1, 2)[1]
    ran = scored(run_he, xs, w)
    assert np.abs(ran.results[-1] - np.concatenate(xs) @ w).max() < 1e-5
    rounds = [[(item[0], item[3]) for item in record[1:]] for _, record in ran.records]
    assert rounds[1:-1] == [
        [("he:at work", 0), ("he:at work", 2)],
        [("he:at work", 2)],
        [("he:at work", 2)],
        [("he:at work", 2)],
    ]


def test_garbage_is_noticed() -> None:
    """Half of all garbage coefficients lie where no honest score can."""
    party, _, _, sums = one_column(100)
    words = party.answer.finish(party.public, Source.fresh(), sums, 100)
    keys = Keys(party.plan.query.parameters, party.seed, party.secret, party.public)
    spoilt = np.random.default_rng(0).integers(0, 2**63, words.size, np.uint64)
    whole = Scores(party.plan, keys, ((0, 100),), None, party.ranges, lambda s: s)
    assert whole._opened(words, 100).shape == (100, 1)
    with pytest.raises(RangeExceeded):
        whole._opened(spoilt, 100)


def test_without_a_permit_nothing_is_sent(run_he: Callable[..., Any]) -> None:
    x, w = made(10, 2)
    with pytest.raises(PolicyRefused):
        scored(run_he, [x], w, Permit("job", ["other"]))


def test_decryptions_are_counted() -> None:
    party, _, _, sums = one_column(10)
    party.secret.cap = 1
    keys = Keys(party.plan.query.parameters, party.seed, party.secret, party.public)
    words = party.answer.finish(party.public, Source.fresh(), sums, 10)
    sealed = Scores(party.plan, keys, ((0, 10),), None, party.ranges, lambda s: s)
    sealed._opened(words, 10)
    with pytest.raises(Refused):
        sealed._opened(words, 10)


def test_weights_that_are_no_numbers_are_refused() -> None:
    ring = plan_scoring(1, 1, 10, BITS, 16.0).query.parameters.ring()
    with pytest.raises(BadInput, match="not a finite number"):
        torus_phases(ring, np.full(8192, np.nan), BITS)


def test_phases_are_exact() -> None:
    ring = plan_scoring(1, 1, 10, BITS, 16.0).query.parameters.ring()
    values = np.zeros(8192)
    values[:5] = [0.25, -0.375, 2.0**-300, 1 / 3, -5e-324]
    found = ring.to_integers(torus_phases(ring, values, 10))[:5]
    for phase, value in zip(found, values, strict=False):
        assert abs(Fraction(int(phase)) - Fraction(value) * ring.modulus / 1024) <= Fraction(1, 2)


@pytest.mark.parametrize("length", [0, 1, -1])
def test_words_that_are_no_residues_are_refused(length: int) -> None:
    """A hostile buyer's public key, weights and expansion keys: refused before anything is computed with them."""
    plan = expanding(37, 1)
    party, query = Party(plan, np.ones((37, 1))), plan.query
    keys = Keys(query.parameters, party.seed)
    ones = np.full(keys.words + length, 2**64 - 1, np.uint64)
    with pytest.raises(BadInput, match="expected"):
        keys.receive(ones)
    keys.receive(party.weights.keys.packed())
    sender = linear._Sender(HeEngine(Recorder(2, has_dealer=False)), query, keys, 0)
    good = [np.zeros(query.words, np.uint64), np.zeros(query.key_words, np.uint64)]
    sender.received(good)
    for bad in range(2):
        words = list(good)
        words[bad] = np.full(good[bad].size + length, 2**64 - 1, np.uint64)
        with pytest.raises(BadInput, match="expected"):
            sender.received(words)


@pytest.mark.parametrize("workers", [1, 3])
def test_work_is_done_in_order(workers: int) -> None:
    assert list(side_by_side(lambda i: i * i, 10, workers)) == [i * i for i in range(10)]


def test_threads_give_every_row_its_score() -> None:
    plan = expanding(12, 2)
    x, w = made(10 * 8192 + 100, 12, 2)
    party = Party(plan, w)
    rows = EncodedRows(party.ring, plan.packing, Rows(x), BITS, plan.work.row_limit)
    engine = HeEngine(Recorder(2, has_dealer=False), workers=3)
    work = scoring._Work(engine, plan, party.weights, rows)
    for step in range(2):
        work.advance(step, 2)
    sealed = Scores(plan, party.weights.keys, ((0, len(x)),), None, party.ranges, lambda s: s)
    assert np.abs(sealed._opened(work.words(), len(x)) - x @ w).max() < 1e-3


def test_an_error_in_a_thread_comes_out() -> None:
    def work(index: int) -> int:
        if index == 4:
            raise BadInput("four")
        return index

    with pytest.raises(BadInput, match="four"):
        list(side_by_side(work, 10, 3))

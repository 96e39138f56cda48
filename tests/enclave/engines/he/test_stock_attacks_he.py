"""Attacks on stock TenSEAL that succeed, and the same attacks on this engine, which get nothing.

Rings of this package only do an attacker's arithmetic here; contexts, keys and ciphertexts are TenSEAL's.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as seal
from numpy.typing import NDArray

from enclave.engines.he.decisions.zero_forms import small_slots
from enclave.engines.he.engine import Keys
from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.keys import Domain, PublicKey, SecretKey
from enclave.engines.he.lattice.products import protected
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import unpack_bits
from enclave.engines.he.linear.packing import EncodedRows
from enclave.engines.he.linear.scoring import RANGE, Scores, plan_scoring
from enclave.errors import BadInput, RangeExceeded
from tests.enclave.engines.he.linear.test_scoring import BITS, Party, Rows, made, one_column, scored

DEGREE = 4096
SCALE = 2.0**20
Floats = NDArray[np.float64]


class Stock:
    """A TenSEAL buyer with the key, and what an owner has: the same context without it."""

    def __init__(self) -> None:
        self.own = ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=[40, 20, 40], n_threads=1)
        self.own.global_scale = SCALE
        self.public = ts.context_from(self.own.serialize(save_secret_key=False), n_threads=1)
        raw = self.own.secret_key().data.data()
        self.first = self.modulus(self.own.seal_context().data)
        self.secret = np.array([raw[i] for i in range(DEGREE)], np.uint64)  # evaluation form, modulo the first prime

    def modulus(self, context: Any) -> Ring:
        """The first prime, as a ring."""
        data = context.get_context_data(context.first_parms_id())
        return Ring(DEGREE, (int(data.parms().coeff_modulus()[0].value()),))

    def halves(self, raw: Any) -> tuple[Words, Words]:
        """c0 and c1 of a ciphertext modulo the first prime, evaluation form [1, N] each."""
        step = raw.coeff_modulus_size() * DEGREE
        return tuple(np.array([[raw[j * step + i] for i in range(DEGREE)]], np.uint64) for j in (0, 1))  # type: ignore[return-value]

    def encoded(self, values: Floats, scale: float, level: Any) -> Words:
        """A plaintext's residues modulo the first prime, evaluation form [1, N]."""
        plain = seal.Plaintext()
        seal.CKKSEncoder(self.own.seal_context().data).encode(values.tolist(), level, scale, plain)
        return np.array([[plain[i] for i in range(DEGREE)]], np.uint64)

    def phase(self, raw: Any) -> Words:
        """c0 + c1 s, coefficient form: what a key holder may look at, whatever `decrypt` shows of it."""
        c0, c1 = self.halves(raw)
        return self.first.intt(self.first.add(c0, self.first.multiply(c1, self.secret[None])))


@pytest.fixture(scope="module")
def stock() -> Stock:
    return Stock()


def inverse(ring: Ring, x: Words) -> Words:
    return np.array([[pow(int(v), -1, p) for v in row] for row, p in zip(x, ring.primes, strict=True)], np.uint64)


# ---- a raw decryption is shown to who made the ciphertext
def test_stock_two_decryptions_give_away_the_secret_key(stock: Stock) -> None:
    """`decrypt` gives real parts: phases with their conjugates, two of which determine s and its conjugate."""
    rng, ring = np.random.default_rng(0), stock.first
    prime = ring.primes[0]
    equations = []
    for _ in range(2):
        answer = ts.ckks_vector(stock.public, rng.uniform(-1, 1, DEGREE // 2)) + 0.25
        shown = np.array(ts.ckks_vector_from(stock.own, answer.serialize()).decrypt())
        raw = answer.ciphertext()[0]
        equations.append((*stock.halves(raw), stock.encoded(2 * shown, raw.scale, raw.parms_id())))
    (a0, a1, pa), (b0, b1, pb) = ([part[0].astype(object) for part in found] for found in equations)
    # X -> 1 / X turns the order of evaluations around
    left, right = (pa - a0 - a0[::-1]) % prime, (pb - b0 - b0[::-1]) % prime
    determinants = (a1 * b1[::-1] - b1 * a1[::-1]) % prime
    found = [
        int((x * v - y * u) * pow(int(d), -1, prime) % prime) if d else 0
        for x, y, u, v, d in zip(left, right, a1[::-1], b1[::-1], determinants, strict=True)
    ]
    assert np.mean(np.array(found, np.uint64) == stock.secret) > 0.99


def solved(ring: Ring, c1: Words, product: Words) -> NDArray[np.int64]:
    """The ternary s with c1 s = product modulo a power of two, for c1 with an odd sum of coefficients: modulo 4."""

    def times(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.int64]:
        found = ring.intt(ring.multiply(ring.encode(x % 4), ring.encode(y % 4)))[0]
        return np.where(found > ring.modulus // 2, found.astype(np.int64) - ring.modulus, found.astype(np.int64)) % 4

    c1, inverted = c1.astype(np.int64), np.ones(1, np.int64)
    inverted = np.pad(inverted, (0, ring.degree - 1))
    for level in range(ring.degree.bit_length() - 1):  # c1^(N - 1), since c1^N = 1 modulo 2
        power = np.zeros_like(c1)
        np.add.at(power, np.arange(ring.degree) * (1 << level) % ring.degree, c1 % 2)
        inverted = times(inverted, power) % 2
    two = np.where(np.arange(ring.degree) == 0, 2, 0)
    inverted = times(inverted, two - times(c1, inverted))
    found = times(inverted, product.astype(np.int64))
    return np.where(found == 3, -1, found)


def test_ours_published_scores_do_not_give_away_the_key() -> None:
    """Scores are rounded as they are decrypted: an owner that comes to see all of them has no equation for s."""
    party, x, _, sums = one_column()
    plan, ring, places = party.plan, party.ring, 8192 // 64
    source, single = Source.fresh(), party.ring.lower(1)
    c1 = np.zeros(1, np.uint64)
    while not int(c1.sum()) % 2:
        words = party.answer.finish(party.public, source, sums, 8192)
        c0 = unpack_bits(words[: places * plan.c0_bits], plan.c0_bits)
        c1 = unpack_bits(words[places * plan.c0_bits :], plan.c1_bits)
    secret = ring.to_integers(ring.intt(party.secret.reveal(ring))).astype(np.int64)

    def recovered(shown: Floats) -> float:
        phases = np.rint(np.ldexp(shown, plan.c1_bits)).astype(np.int64).view(np.uint64)
        return float(np.mean(solved(single, c1, phases - (c0 << np.uint64(plan.c1_bits - plan.c0_bits))) == secret))

    raw = party.answer.phases(party.secret.reveal(ring), words, 8192)
    assert recovered(np.ldexp(raw.astype(np.float64), -64)) == 1.0, "raw decryptions are the key"
    keys = Keys(plan.query.parameters, party.seed, party.secret, party.public)
    released = Scores(plan, keys, ((0, 8192),), None, np.ones(1), lambda scores: scores)._opened(words, 8192)[:, 0]
    assert np.abs(released * party.ranges[0] - x[:, 0] * _weight(party)).max() < 1e-4
    assert recovered(released / RANGE) < 0.4, "no more than guessing gives"


def _weight(party: Party) -> float:
    return (
        float(party.ring.to_torus(party.phases[0, 0], 64)[:1].view(np.int64)[0])
        * 2.0 ** (BITS - 64)
        * RANGE
        * float(party.ranges[0])
    )


def test_ours_an_owner_is_shown_no_decryption(run_he: Any) -> None:
    """What a buyer sends is fresh under its key and numbered before anything was decrypted; nothing follows."""
    x, w = made(100, 3)
    ran = scored(run_he, [x], w)
    sent = [(round_, item) for round_, (_, record) in enumerate(ran.records) for item in (tuple(i) for i in record[1:])]
    last = max(round_ for round_, item in sent if item[0].startswith("release"))
    assert all(item[3] == 0 for round_, item in sent if round_ == last), "the owner's answer is the last word"
    assert {label.partition(":")[0] for label, _ in ran.opened[0]} == {"he"}


# ---- circuit privacy
def test_stock_division_of_c1_gives_the_owners_weights(stock: Stock) -> None:
    """c1 of encrypted x times plaintext w is c1 w, whatever `decrypt` shows."""
    weights = np.random.default_rng(1).normal(size=DEGREE // 2)
    query = ts.ckks_vector(stock.own, np.zeros(DEGREE // 2))
    received = ts.ckks_vector_from(stock.public, query.serialize())
    received.context().auto_rescale = False
    answer = ts.ckks_vector_from(stock.own, (received * weights.tolist()).serialize())
    c1 = [stock.halves(vector.ciphertext()[0])[1] for vector in (query, answer)]
    found = stock.first.multiply(c1[1], inverse(stock.first, c1[0]))
    level = answer.ciphertext()[0].parms_id()
    assert np.array_equal(found, stock.encoded(weights, SCALE, level)), "the encoded weights, to the last bit"


def test_stock_noise_of_a_zero_gives_the_owners_rows(stock: Stock) -> None:
    """The buyer encrypts zeros, so that the result tells nothing, and divides the noise by its own."""
    rows = np.random.default_rng(2).normal(size=DEGREE // 2)
    query = ts.ckks_vector(stock.own, np.zeros(DEGREE // 2))
    received = ts.ckks_vector_from(stock.public, query.serialize())
    received.context().auto_rescale = False
    answer, zero = (received * rows.tolist()).ciphertext()[0], seal.Ciphertext()
    context = stock.public.seal_context().data
    seal.Encryptor(context, stock.public.public_key().data).encrypt_zero(answer.parms_id(), zero)
    zero.scale = answer.scale
    seal.Evaluator(context).add_inplace(answer, zero)  # re-randomising alone does not help
    ring, level = stock.first, answer.parms_id()
    noise, error = (ring.to_integers(stock.phase(raw)).astype(np.float64) for raw in (answer, query.ciphertext()[0]))
    assert np.abs(noise).max() / SCALE**2 < 1e-2, "as a message it is zero"
    found = quotient(noise, error)
    expected = ring.to_integers(ring.intt(stock.encoded(rows, SCALE, level))).astype(np.float64)
    assert np.corrcoef(found, expected)[0, 1] > 0.99


def quotient(x: Floats, y: Floats) -> Floats:
    """x / y of negacyclic polynomials over the reals."""
    twist = np.exp(1j * np.pi * np.arange(len(x)) / len(x))
    top, bottom = np.fft.fft(x * twist), np.fft.fft(y * twist)
    return np.asarray((np.fft.ifft(top * np.conj(bottom) / np.abs(bottom) ** 2) * np.conj(twist)).real)


def test_ours_neither_c1_nor_the_noise_gives_anything() -> None:
    """The same two attacks on our words: c1 over the buyer's a, noise over the buyer's error."""
    party, x, polynomial, sums = one_column()
    plan, ring = party.plan, party.ring
    words = party.answer.finish(party.public, Source.fresh(), sums, 8192)
    c1 = ring.from_torus(unpack_bits(words[128 * plan.c0_bits :], plan.c1_bits), plan.c1_bits)
    a = party.seed.uniform(ring, Domain.MESSAGES, 0, 1)[0]
    divided = ring.to_integers(ring.intt(ring.multiply(ring.ntt(c1), inverse(ring, ring.ntt(a)))))
    assert np.mean(np.abs(divided.astype(np.float64)) < 2.0**40) < 0.01, "rows are below 2^24"
    message = ring.intt(ring.multiply(ring.ntt(party.phases[0, 0]), polynomial))
    phases = party.answer.phases(party.secret.reveal(ring), words, 8192) - ring.to_torus(message, 64).view(np.int64)
    error = ring.to_integers(ring.sub(rlwe.phase(party.secret, party.packed[0, 0]), party.phases[0, 0]))
    integers = np.rint(x[:, 0] * 2.0**BITS)
    found = quotient(phases.astype(np.float64), error.astype(np.float64))
    assert abs(np.corrcoef(found, integers)[0, 1]) < 0.06


def test_stock_other_slots_give_the_owners_weights() -> None:
    """`decrypt` shows one number of a dot product; the key holder decodes all slots, which hold partial sums."""
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60], n_threads=1)
    context.global_scale = 2.0**40
    context.generate_galois_keys()
    weights = np.array([1.0, 10.0, 100.0, 1000.0, 10000.0])
    answer = ts.ckks_vector(context, np.ones(5)).dot(weights.tolist())
    raw, plain = context.seal_context().data, seal.Plaintext()
    assert len(answer.decrypt()) == 1
    seal.Decryptor(raw, context.secret_key().data).decrypt(answer.ciphertext()[0], plain)
    slots = np.array(seal.CKKSEncoder(raw).decode_double(plain))[:5]
    assert np.allclose(-np.diff(slots), weights[:4], rtol=1e-3), "differences of neighbours are the weights"


def test_ours_only_scores_leave() -> None:
    """With several columns in one polynomial other coefficients hold sums of them: they are not sent."""
    plan = plan_scoring(30, 1, 100, BITS, 16.0)
    assert plan.packing.stride > 1
    party = Party(plan, made(1, 30)[1])
    rows = EncodedRows(party.ring, plan.packing, Rows(made(100, 30)[0]), BITS, plan.work.row_limit)
    ((_, part),) = party.weights.parts()
    words = party.answer.finish(
        party.public, Source.fresh(), party.weights.dot(rows.block(0).polynomials, part)[0], 100
    )
    assert len(words) == plan.block_words(100) == 2 * plan.c0_bits + plan.packing.degree // 64 * plan.c1_bits


def test_stock_flooding_through_the_encoder_is_read_off() -> None:
    """Noise as floats of 2^76 has multiples of 2^20 as coefficients: below, a phase is bare. Ours is of integers."""
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 60, 60], n_threads=1)
    raw, plain = context.seal_context().data, seal.Plaintext()
    flood = np.random.default_rng(4).uniform(-1, 1, 4096) * 2.0**70
    level = raw.first_parms_id()
    seal.CKKSEncoder(raw).encode(flood.tolist(), level, 1.0, plain)
    primes = [int(p.value()) for p in raw.get_context_data(level).parms().coeff_modulus()]
    ring = Ring(8192, tuple(primes))
    residues = np.array([plain[i] for i in range(2 * 8192)], np.uint64).reshape(2, 8192)
    noise = ring.to_integers(ring.intt(residues))
    assert np.mean(np.array([int(v) % (1 << 8) for v in noise]) == 0) > 0.9
    ours = ring.to_integers(Source.fresh().integers(ring, 76))
    assert np.mean(np.array([int(v) % (1 << 8) for v in ours]) == 0) < 0.02


# ---- keys and contexts
def test_stock_mixed_contexts_are_garbage_without_a_word(stock: Stock) -> None:
    other = Stock()
    mixed = ts.ckks_vector(stock.own, [1.0, 2.0, 3.0]) + ts.ckks_vector(other.own, [1.0, 2.0, 3.0])
    assert np.abs(np.array(mixed.decrypt()) - [2.0, 4.0, 6.0]).max() > 1.0


def test_ours_another_key_is_refused() -> None:
    """An answer under another key, another job's for instance, is noise: named before anything is made of it."""
    party, _, _, sums = one_column()
    words = party.answer.finish(party.public, Source.fresh(), sums, 8192)
    other = SecretKey(party.secret.ring, Source.fresh(), 1 << 20)
    keys = Keys(party.plan.query.parameters, party.seed, other, party.public)
    with pytest.raises(RangeExceeded, match="released scores"):
        Scores(party.plan, keys, ((0, 8192),), None, np.ones(1), lambda scores: scores)._opened(words, 8192)
    slots, source = small_slots(), Source.fresh()
    mine, theirs = (SecretKey(slots.ring, Source.fresh(), 10) for _ in range(2))
    public = PublicKey.generate(mine, slots.ring, party.seed)
    constants = np.ones((1, 4096), np.uint64)
    answer = slots.answer(public, source, np.zeros((1, 2, 2, 4096), np.uint64), constants)
    assert (slots.opened(mine, answer, 1) == 1).all()
    with pytest.raises(BadInput, match="belongs to another key"):
        slots.opened(theirs, answer, 1)


def test_stock_a_context_made_public_still_decrypts() -> None:
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1)
    context.global_scale = 2.0**40
    encrypted = ts.ckks_vector(context, [7.0])
    context.make_context_public()
    assert context.is_public()
    plain = seal.Plaintext()
    context.data.decryptor().decrypt(encrypted.ciphertext()[0], plain)
    found = seal.CKKSEncoder(context.seal_context().data).decode_double(plain)[0]
    assert found == pytest.approx(7.0, abs=1e-5)


def test_ours_a_public_key_on_the_wire_is_one_polynomial() -> None:
    """There is no context to send: what an owner takes has the size of b, and nothing else fits."""
    party = Party(plan_scoring(3, 1, 100, BITS, 16.0), made(1, 3)[1])
    keys = Keys(party.plan.query.parameters, party.seed, party.secret, party.public)
    words = keys.packed()
    assert len(words) == keys.words and "secret" not in repr(keys)
    for wrong in (np.concatenate((words, party.secret.reveal(party.ring).reshape(-1))), words[:-1]):
        with pytest.raises(BadInput, match="words of residues"):
            Keys(keys.parameters, party.seed).receive(wrong)


def test_stock_what_adds_up_to_zero_stops_the_job() -> None:
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1)
    context.global_scale = 2.0**40
    vector = ts.ckks_vector(context, [1.0])
    with pytest.raises((ValueError, RuntimeError), match="transparent"):
        vector - vector


def test_ours_rows_of_zeros_are_rows_as_any_other(run_he: Any) -> None:
    x = np.zeros((70, 3))
    x[:, 1] = np.arange(70) % 2  # a column of zeros, one of few ones, zeros again
    x[40:] = 0.0
    w = np.array([[0.5], [-0.25], [2.0]])
    assert np.abs(scored(run_he, [x], w).results[-1] - x @ w).max() < 1e-5
    assert np.abs(scored(run_he, [np.zeros((1, 3))], w).results[-1]).max() < 1e-5


def framed(body: bytes) -> bytes:
    """SEAL's header of an uncompressed object."""
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body


def test_stock_takes_a_public_key_that_hides_nothing(stock: Stock, tmp_path: Path) -> None:
    """A public key with a = 0 loads, and its encryption of zero leaves c1 bare but for small errors."""
    context, path = stock.own.seal_context().data, tmp_path / "key"
    halves = np.zeros((2, 3, DEGREE), np.uint64)
    halves[0] = np.random.default_rng(5).integers(0, 1 << 19, (3, DEGREE))  # b is any, a is 0
    head = struct.pack("<4QBQQQdQ", *context.key_parms_id(), 1, 2, DEGREE, 3, 1.0, 1)
    path.write_bytes(framed(head + framed(struct.pack("<Q", halves.size) + halves.tobytes())))
    forged, zero = seal.PublicKey(), seal.Ciphertext()
    forged.load(context, str(path))
    seal.Encryptor(context, forged).encrypt_zero(context.first_parms_id(), zero)
    c1 = np.array([[zero[2 * DEGREE + i] for i in range(DEGREE)]], np.uint64)
    assert np.abs(stock.first.to_integers(stock.first.intt(c1)).astype(np.float64)).max() < 50


def test_ours_expands_a_itself() -> None:
    party, _, _, sums = one_column()
    forged = PublicKey(party.ring, np.zeros_like(party.public.b), party.seed)
    assert np.array_equal(forged.a, party.public.a), "a comes from the public seed, whoever made b"
    flood = np.zeros_like(sums[0])
    answers = [protected(forged, Source.fresh(), sums, flood)[1] for _ in range(2)]
    far = party.ring.to_integers(party.ring.sub(*answers)).astype(np.float64)
    assert np.abs(far).max() > party.ring.modulus / 8

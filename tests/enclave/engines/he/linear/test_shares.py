"""Ciphertexts become shares: exact, uniform, and nothing to read off for who holds the key."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import checked, primes_of
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.rlwe import encrypt, encrypt_zero, expand
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear import shares
from enclave.engines.he.linear.matvec import MatrixPacking
from enclave.engines.he.linear.shared_products import multiply, noise_deviation, parameters
from enclave.engines.he.linear.shares import Pair, returned_bits, rounding_deviation, to_shares
from enclave.engines.mpc.session import Session
from enclave.errors import BadSpec
from tests.enclave.workloads.ranks import at_every_rank

SEED = PublicSeed.derived(b"a test")


class Keys:
    """A buyer's keys and an owner's source."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.secret = SecretKey(ring, Source.fresh(), 1 << 40)
        self.public = PublicKey.generate(self.secret, ring, SEED)
        self.source = Source.fresh()
        self.first = 0

    def encrypted(self, messages: Words) -> Words:
        """Messages modulo 2^64, [..., N]."""
        first, self.first = self.first, self.first + math.prod(messages.shape[:-1])
        b = encrypt(self.secret, self.ring.from_torus(messages, 64), SEED, first)
        return expand(self.ring, b, SEED, first)


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys(parameters().ring())


def _shares(keys: Keys, ciphertexts: Words, bits: int, parties: int = 2) -> list[Words]:
    """What `to_shares` leaves at each rank: rank 0 owns the ciphertexts, the last rank the key."""

    def program(session: Session) -> Words:
        buyer = parties - 1
        pair = Pair(
            keys.ring,
            0,
            buyer,
            keys.public if session.rank == 0 else None,
            keys.source if session.rank == 0 else None,
            keys.secret if session.rank == buyer else None,
        )
        # in two pieces, where there are two: the owner never has all of them in hand
        return session.run(to_shares(session, pair, lambda: np.array_split(ciphertexts, 2), len(ciphertexts), bits))

    return at_every_rank(parties, program)[:parties]


def _error(found: list[Words], expected: Words) -> np.ndarray:
    return (np.sum(found, axis=0, dtype=np.uint64) - expected).view(np.int64).astype(np.float64)


@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize("bits", [46, 52, 64])
def test_shares_add_up_to_the_message(keys: Keys, parties: int, bits: int) -> None:
    messages = np.random.default_rng(1).integers(0, 1 << 64, (3, keys.ring.degree), np.uint64)
    messages[0, :4] = [0, 1, (1 << 64) - 1, 1 << 63]  # where a wrap would be
    found = _shares(keys, keys.encrypted(messages), bits, parties)
    error = _error(found, messages)
    deviation = rounding_deviation(keys.ring.degree, bits)
    assert np.abs(error).max() <= 8 * deviation + 2
    assert error.std() == pytest.approx(math.hypot(deviation, 0.4), rel=0.1)
    assert all(not share.any() for share in found[1:-1]), "the others hold nothing"


@pytest.mark.parametrize("sizes", [(50,), (40, 36), (60, 49)])
def test_any_primes(sizes: tuple[int, ...]) -> None:
    keys = Keys(checked("bfv", 4096, primes_of(4096, sizes)).ring())
    messages = np.random.default_rng(2).integers(0, 1 << 64, (1, 4096), np.uint64)
    error = _error(_shares(keys, keys.encrypted(messages), 60), messages)
    # the noise of the two encryptions: e + e0 + e1 s + e u
    noise = 3.24 * math.sqrt(2 + 2 * 4096 * 2 / 3) * 2.0**64 / keys.ring.modulus
    assert np.abs(error).max() <= 8 * math.hypot(noise, rounding_deviation(4096, 60)) + 2


def _uniform(words: Words) -> bool:
    """Whether each of the 8 bytes of words takes its values equally often: chi squared with 255 degrees of freedom."""
    rows = words.reshape(-1).view(np.uint8).reshape(-1, 8)
    counts = np.stack([np.bincount(column, minlength=256) for column in rows.T])
    expected = len(rows) / 256
    return bool((((counts - expected) ** 2 / expected).sum(axis=1) < 400).all())


def test_both_shares_are_uniform(keys: Keys) -> None:
    constant = np.full((16, keys.ring.degree), 3 << 40, np.uint64)
    owner, buyer = _shares(keys, keys.encrypted(constant), 52)
    assert _uniform(owner) and _uniform(buyer)
    assert not _uniform(owner + buyer)


@pytest.mark.parametrize("kept_bits", [0, 44, 60])
def test_shares_without_the_whole_mask_are_not_uniform(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, kept_bits: int
) -> None:
    """The test above can fail: without the mask, or with one of fewer bits, some byte of the buyer's share shows it."""
    from enclave.engines.mpc.ranks import PartySession

    whole = PartySession.zero_share
    cut = np.uint64((1 << kept_bits) - 1)

    def short(self: PartySession, stream: int, shape: tuple[int, ...], among: object = None) -> Words:
        share = whole(self, stream, shape, among)  # type: ignore[arg-type]
        return share & cut if self.rank == 0 else np.uint64(0) - (np.uint64(0) - share & cut)

    monkeypatch.setattr(PartySession, "zero_share", short)
    monkeypatch.setattr(shares, "_share_of_c1", lambda key, c1, bits: np.zeros(c1.shape, np.uint64))
    _, buyer = _shares(keys, keys.encrypted(np.zeros((16, keys.ring.degree), np.uint64)), 52)
    assert not _uniform(buyer)


# ---- what the key holder could read off, with one column of rows and one ciphertext of weights


def _product(keys: Keys) -> tuple[np.ndarray, Words, Words, MatrixPacking]:
    """Rows, the query and the bare answer."""
    packing = MatrixPacking(keys.ring.degree, 1, 1)
    rows = np.random.default_rng(3).integers(-(1 << 20), 1 << 20, (keys.ring.degree, 1))
    query = keys.encrypted(packing.weights(np.array([[5 << 20]], np.uint64)))
    return rows, query, next(multiply(keys.ring, packing, [rows], keys.ring.ntt(query)))[0], packing


def _divided(keys: Keys, c1: Words, query: Words) -> np.ndarray:
    """The buyer divides c1 by the c1 of its own query."""
    a = keys.ring.ntt(query[0, 1])
    inverse = np.array([[pow(int(v), -1, p) for v in row] for row, p in zip(a, keys.ring.primes, strict=True)])
    found = keys.ring.multiply(keys.ring.ntt(c1), inverse.astype(np.uint64))
    return np.asarray(keys.ring.to_integers(keys.ring.intt(found)))


def _lifted(keys: Keys, c1: Words, bits: int) -> Words:
    """What travels, as residues again: c1 rounded to `bits` bits."""
    return keys.ring.from_torus(keys.ring.to_torus(c1, bits), bits)


def test_dividing_c1_reads_the_rows_without_re_randomisation_alone(keys: Keys) -> None:
    rows, query, bare, _ = _product(keys)
    assert (_divided(keys, bare[1], query) == rows[:, 0]).all(), "every row is read off"
    guarded = keys.ring.add(bare, encrypt_zero(keys.public, keys.source))
    assert (_divided(keys, guarded[1], query) == rows[:, 0]).sum() == 0


def test_a_public_key_of_zeros_does_not_undo_it(keys: Keys) -> None:
    """b is the buyer's to choose, a is not: c1 hides whatever b is."""
    rows, query, bare, _ = _product(keys)
    forged = PublicKey(keys.ring, np.zeros_like(keys.public.b), SEED)
    guarded = keys.ring.add(bare, encrypt_zero(forged, keys.source))
    assert (_divided(keys, guarded[1], query) == rows[:, 0]).sum() == 0


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


def test_the_noise_reads_the_rows_only_where_c0_travels(keys: Keys) -> None:
    """The buyer knows the error of its own weight: phase - score is that error times the rows."""
    ring = keys.ring
    rows, query, bare, packing = _product(keys)
    weights = ring.from_torus(packing.weights(np.array([[5 << 20]], np.uint64))[0], 64)
    plain = ring.encode(packing.rows(rows)[0, 0])

    def times_rows(x: Words) -> Words:
        return ring.intt(ring.multiply(ring.ntt(x), plain))

    error = ring.sub(_phase(keys, query[0]), weights)
    known = ring.to_integers(times_rows(error)).astype(np.float64)
    answer = ring.add(bare, encrypt_zero(keys.public, keys.source))
    noise = ring.to_integers(ring.sub(_phase(keys, answer), times_rows(weights))).astype(np.float64)
    assert _correlation(noise, known) > 0.99, "with c0 in hand, the noise is the rows'"
    lone = answer.copy()
    lone[0] = 0  # what the buyer gets: c1 alone
    seen = ring.to_integers(_phase(keys, lone)).astype(np.float64)
    assert abs(_correlation(seen, known)) < 0.08
    _, buyer = _shares(keys, bare[None], 52)
    assert abs(_correlation(buyer.view(np.int64)[0], known)) < 0.08
    assert abs(_correlation(buyer.view(np.int64)[0], rows[:, 0])) < 0.08


def _phase(keys: Keys, ciphertext: Words) -> Words:
    ring = keys.ring
    product = ring.intt(ring.multiply(ring.ntt(ciphertext[1]), keys.secret.reveal(ring)))
    return ring.add(ciphertext[0], product)


# ---- precision


def test_returned_bits_are_as_few_as_the_result_allows() -> None:
    assert [returned_bits(4096, f) for f in (8, 16, 20, 26)] == [64, 56, 52, 46]
    for frac_bits in (8, 16, 20, 26):
        bits = returned_bits(4096, frac_bits)
        half_unit = 2.0 ** (frac_bits - 1)  # of 2^-frac_bits, in units of 2^(-2 frac_bits)
        assert 6 * rounding_deviation(4096, bits) <= 0.75 * half_unit
        if bits > 46:
            assert 6 * rounding_deviation(4096, bits - 1) > 0.75 * half_unit
    with pytest.raises(BadSpec, match="more fractional bits"):
        returned_bits(32768, 6)


def test_noise_leaves_room_for_rows_up_to_16384() -> None:
    """The widest product, rows of 2^14 with 20 fractional bits everywhere: less than the quarter that is left."""
    packing = MatrixPacking(4096, 2048, 1)
    deviation = noise_deviation(parameters().ring(), packing, 34)
    assert 6 * deviation < 0.25 * 2**19


def test_no_wrap_in_many_shares(keys: Keys) -> None:
    """Messages at the edges of the ring, where a wrap would be 2^64 off. ENCLAVE_SHARES_ROWS=100000000 for a long run.

    No wrap is possible: both halves are computed modulo 2^64, and one turn of the torus is 2^64.
    """
    wanted = int(os.environ.get("ENCLAVE_SHARES_ROWS", "65536"))
    edges = np.array([0, (1 << 64) - 1, 1 << 63, (1 << 63) - 1], np.uint64)
    degree, lead = keys.ring.degree, 16
    messages = np.resize(edges, (lead, degree))
    ciphertexts = keys.encrypted(messages)
    for _ in range(-(-wanted // (lead * degree))):
        error = _error(_shares(keys, ciphertexts, 52), messages)
        assert np.abs(error).max() < 2**19

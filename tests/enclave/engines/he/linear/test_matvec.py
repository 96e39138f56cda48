"""Packed products against numpy's, and what their answers would show without protection."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import checked
from enclave.engines.he.lattice.products import flood_hiding_bits, noise_bits, protected
from enclave.engines.he.lattice.ring import Ring, ntt_primes
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear.matvec import MatrixPacking, PlainMatrix, VectorKey
from enclave.errors import BadInput, BadSpec

DEGREE, BITS = 8192, 44
RING = checked("bfv", DEGREE, ntt_primes(DEGREE, 50, 3)).ring()


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "group"),
    [(5, 7, 3, 2), (20, 10, 1, 10), (9, 4, 4, 1), (3, 5, 2, 5), (40, 3, 3, 2), (1, 1, 64, 1), (2, 64, 1, 64)],
)
def test_products_are_exact(rows: int, inputs: int, outputs: int, group: int) -> None:
    ring, rng = Ring(64, ntt_primes(64, 50, 1)), np.random.default_rng(rows)
    packing = MatrixPacking(64, inputs, outputs, group)
    x, w = rng.integers(-1000, 1000, (rows, inputs)), rng.integers(-1000, 1000, (inputs, outputs))
    product = ring.dot(ring.encode(packing.rows(x)), ring.encode(packing.weights(w)))
    found = packing.products(ring.to_integers(ring.intt(product)), rows)
    assert (found == x @ w).all()


def test_places_invert_products() -> None:
    packing = MatrixPacking(64, 5, 3, 2)
    values = np.arange(2 * 25 * 3).reshape(2, 25, 3)
    placed = packing.places(values)
    assert placed.shape == (packing.blocks(25), 2, 64)
    assert (packing.products(placed, 25) == values).all()


def test_the_cheapest_group_weighs_both_directions() -> None:
    assert MatrixPacking.cheapest(8192, 100_000, 30, 16).group == 1
    few = MatrixPacking.cheapest(8192, 40, 784, 16)
    assert few.group > 4 and few.groups + 1.5 * few.blocks(40) < 100


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadSpec, match="at most 64"):
        MatrixPacking(64, 10, 9, 8)
    with pytest.raises(BadInput, match="shape"):
        MatrixPacking(64, 5, 3, 2).weights(np.zeros((4, 3), np.int64))


def key_pair() -> tuple[SecretKey, PublicKey, PublicSeed]:
    seed = PublicSeed.derived(b"test")
    secret = SecretKey(RING, Source.fresh(), 16)
    return secret, PublicKey.generate(secret, RING, seed), seed


@pytest.mark.parametrize(("inputs", "outputs", "ciphertexts"), [(784, 10, 1), (256, 64, 2), (30, 700, 3)])
def test_encrypted_vector_times_matrix(inputs: int, outputs: int, ciphertexts: int) -> None:
    rng = np.random.default_rng(inputs)
    x, w = rng.integers(-(2**15), 2**15, inputs), rng.integers(-(2**15), 2**15, (inputs, outputs))
    secret, public, seed = key_pair()
    matrix, key = PlainMatrix(RING, w), VectorKey(secret, seed, BITS)
    sent = key.encrypt(x, matrix.packing, 0)
    product = matrix.multiply(RING.ntt(rlwe.expand(RING, sent, seed, 0)))
    assert len(product) == matrix.ciphertexts == ciphertexts
    answer = matrix.answer(public, Source.fresh(), RING.ntt(rlwe.expand(RING, sent, seed, 0)), BITS)
    assert (key.decrypt(answer, matrix) == x @ w).all()
    assert (key.decrypt(RING.drop(answer, 1), matrix) == x @ w).all()  # switched to two primes
    assert secret.decryptions == 2 * ciphertexts
    assert flood_hiding_bits(matrix.flood_bits(), noise_bits(inputs, 2**15, DEGREE), DEGREE) >= 40


def test_what_leaves_no_room_for_hiding_is_refused() -> None:
    secret, public, _ = key_pair()
    matrix = PlainMatrix(RING, np.full((784, 10), 2**30))
    with pytest.raises(BadSpec, match=r"60 bits of a message and \d+ of flooding"):
        matrix.answer(public, Source.fresh(), np.zeros((1, 2, 3, DEGREE), np.uint64), 60)
    assert secret.decryptions == 0


def test_sums_of_other_columns_show_the_matrix_unless_they_are_masked() -> None:
    """The vector is a unit: every coefficient of the product is then an element of the matrix."""
    w = np.random.default_rng(2).integers(-(2**15), 2**15, (784, 10))
    secret, public, seed = key_pair()
    matrix, key = PlainMatrix(RING, w), VectorKey(secret, seed, BITS)
    unit = np.eye(1, 784, dtype=np.int64)[0]
    vector = RING.ntt(rlwe.expand(RING, key.encrypt(unit, matrix.packing, 0), seed, 0))

    def seen(answer: np.ndarray) -> np.ndarray:
        return rlwe.signed(rlwe.decode(RING, rlwe.phase(secret, answer), BITS).messages, BITS)[0]

    elements = matrix.packing.rows(w.T)[0, 0]
    source = Source.fresh()
    flooded = protected(public, source, matrix.multiply(vector), source.integers(RING, matrix.flood_bits(), 1))
    assert (seen(flooded) == elements).all()  # all 7840 of them
    answer = matrix.answer(public, source, vector, BITS)
    assert (seen(answer) == elements).sum() <= 10 + 3  # the ten that were asked for


def test_division_shows_the_matrix_unless_it_is_protected() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-99, 99, 784), rng.integers(-(2**15), 2**15, (784, 10))
    secret, public, seed = key_pair()
    matrix, key = PlainMatrix(RING, w), VectorKey(secret, seed, BITS)
    vector = RING.ntt(rlwe.expand(RING, key.encrypt(x, matrix.packing, 0), seed, 0))
    bare = matrix.multiply(vector)

    def attack(answer: np.ndarray) -> np.ndarray:
        """c1 of the answer over c1 of the question: the plaintext polynomial."""
        one = RING.lower(1)
        prime = one.primes[0]
        inverse = np.array([pow(int(v), -1, prime) for v in vector[0, 1, 0]], np.uint64)[None]
        quotient = one.multiply(answer[0, 1, :1], inverse)
        return matrix.packing.rows(w.T)[0, 0] == one.to_integers(one.intt(quotient))

    assert attack(bare).all()
    source = Source.fresh()
    answer = protected(public, source, bare, source.integers(RING, 100, 1))
    assert attack(RING.ntt(answer)).mean() < 0.06  # zeros of the matrix polynomial are no find


def test_noise_tells_the_matrix_unless_it_is_flooded() -> None:
    """Who knows its errors e predicts the noise e * w; correlation with the truth is 1 without flooding."""
    rng = np.random.default_rng(1)
    w = rng.integers(-(2**15), 2**15, (784, 10))
    secret, public, seed = key_pair()
    matrix = PlainMatrix(RING, w)
    sent = rlwe.encrypt(secret, np.zeros((1, 3, DEGREE), np.uint64), seed, 0)
    question = rlwe.expand(RING, sent, seed, 0)
    errors = RING.to_integers(rlwe.phase(secret, question))  # of a message of zeros: its noise
    expected = RING.to_integers(RING.intt(RING.multiply(RING.encode(errors), RING.encode(matrix.packing.rows(w.T))[0])))
    source = Source.fresh()

    def correlation(flood_bits: int) -> float:
        answer = protected(public, source, matrix.multiply(RING.ntt(question)), source.integers(RING, flood_bits, 1))
        noise = RING.to_integers(rlwe.phase(secret, answer))
        return float(np.corrcoef(noise[0].astype(float), expected[0].astype(float))[0, 1])

    assert correlation(1) > 0.99
    assert abs(correlation(noise_and_hiding := 80)) < 0.06
    assert flood_hiding_bits(noise_and_hiding, noise_bits(784, 2**15, DEGREE), DEGREE) > 40

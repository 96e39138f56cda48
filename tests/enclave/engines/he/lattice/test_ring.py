"""The ring against Python integers and against SEAL."""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.engines.he.lattice.ring import Ring, Words, ntt_primes
from enclave.engines.mpc.random import KeyStream
from enclave.errors import BadInput

KEY = bytes(range(16))
RINGS = {
    "fast": Ring(64, ntt_primes(64, 50, 3)),
    "mixed": Ring(64, (*ntt_primes(64, 50, 1), *ntt_primes(64, 61, 2), *ntt_primes(64, 30, 1))),
    "one": Ring(32, ntt_primes(32, 45, 1)),
}
rings = st.sampled_from(sorted(RINGS)).map(RINGS.__getitem__)


def integers(ring: Ring, seed: int, low: int, high: int) -> np.ndarray:
    """Uniform in [low, high), with the ends among them."""
    rng = np.random.default_rng(seed)
    values = [low + int.from_bytes(rng.bytes(40), "little") % (high - low) for _ in range(ring.degree - 4)]
    return np.array([low, high - 1, 0, low + (high - low) // 2, *values], object)


def centred(value: int, modulus: int) -> int:
    value %= modulus
    return value - modulus if value > modulus // 2 else value


def schoolbook(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b modulo X^N + 1 over the integers."""
    n = len(a)
    out = np.zeros(n, object)
    for i in range(n):
        turned = np.concatenate([-b[n - i :], b[: n - i]])
        out += a[i] * turned
    return out


@settings(max_examples=30, deadline=None)
@given(rings, st.integers(0, 2**32))
def test_integers_to_residues_and_back(ring: Ring, seed: int) -> None:
    q = ring.modulus
    values = integers(ring, seed, -((q - 1) // 2), q // 2 + 1)
    assert ring.to_integers(ring.from_integers(values)).tolist() == values.tolist()
    wide = integers(ring, seed, -(q**2), q**2)
    assert ring.to_integers(ring.from_integers(wide)).tolist() == [centred(v, q) for v in wide]
    words = np.array([abs(v) % 2**64 for v in wide], np.uint64)
    assert np.array_equal(ring.from_integers(words), ring.from_integers(words.astype(object)))
    short = words.astype(np.int8)
    assert np.array_equal(ring.from_integers(short), ring.from_integers(short.astype(object)))


@settings(max_examples=20, deadline=None)
@given(rings, st.integers(0, 2**32))
def test_products_are_those_of_polynomials(ring: Ring, seed: int) -> None:
    q = ring.modulus
    a, b = integers(ring, seed, 0, q), integers(ring, seed + 1, 0, q)
    x, y = ring.ntt(ring.from_integers(a)), ring.ntt(ring.from_integers(b))
    expected = [centred(v, q) for v in schoolbook(a, b)]
    assert ring.to_integers(ring.intt(ring.multiply(x, y))).tolist() == expected
    assert ring.to_integers(ring.intt(ring.dot(x[None], y[None, None]))[0]).tolist() == expected
    sums = ring.sub(ring.multiply_add(x, y, x), ring.add(ring.neg(y), x))
    assert ring.to_integers(ring.intt(sums)).tolist() == [centred(v, q) for v in schoolbook(a, b) + b]


@settings(max_examples=40, deadline=None)
@given(rings, st.integers(1, 64), st.integers(0, 2**32))
def test_the_torus(ring: Ring, bits: int, seed: int) -> None:
    q = ring.modulus
    m = integers(ring, seed, 0, 2**bits)
    phase = ring.from_torus(m.astype(np.uint64), bits)
    assert [int(v) % q for v in ring.to_integers(phase)] == [(2 * q * v + 2**bits) // 2 ** (bits + 1) % q for v in m]
    high = m + (1 << 64 - bits) * 0 if bits == 64 else m | (1 << bits)  # bits above are ignored
    assert np.array_equal(ring.from_torus(high.astype(np.uint64), bits), phase)
    x = integers(ring, seed, 0, q)
    x[0] = (q - 1) // 2
    found = ring.to_torus(ring.from_integers(x), bits)
    assert found.tolist() == [(2 ** (bits + 1) * v + q) // (2 * q) % 2**bits for v in x]
    if q >> bits + 1:
        assert found.dtype == np.uint64 and ring.to_torus(phase, bits).tolist() == m.tolist()


def test_shares_of_a_masked_phase_add_up() -> None:
    """Rounded apart, a phase on the grid of 2^-64 and its mask add up exactly; noise moves the sum by one unit."""
    ring = RINGS["fast"]
    m = np.random.default_rng(0).integers(0, 2**64, (50, 64), np.uint64)
    stream = KeyStream(KEY)
    mask = np.stack([ring.uniform(stream, i) for i in range(50)])
    noise = np.stack([ring.integers(stream, 50 + i, 84) for i in range(50)])  # q / 2^64 is about 2^86
    phase = ring.from_torus(m, 64)
    for error, found in ((np.zeros_like(noise), {0}), (noise, {-1, 0, 1})):
        mine = ring.to_torus(ring.sub(ring.add(phase, error), mask), 64)
        assert set((mine + ring.to_torus(mask, 64) - m).view(np.int64).reshape(-1).tolist()) == found


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["fast", "mixed"]), st.integers(0, 2**32), st.integers(0, 2))
def test_fewer_primes(name: str, seed: int, dropped: int) -> None:
    ring = RINGS[name]
    values = integers(ring, seed, 0, ring.modulus)
    found = ring.drop(ring.from_integers(values), dropped)
    lower = ring.lower(len(ring.primes) - dropped)
    for p in ring.primes[: len(lower.primes) - 1 : -1]:
        values = (2 * values + p) // (2 * p)
    assert lower.modulus == prod(lower.primes)
    assert lower.to_integers(found).tolist() == [centred(v, lower.modulus) for v in values]
    assert lower == Ring(ring.degree, lower.primes) and hash(lower) == hash(Ring(ring.degree, lower.primes))
    x = ring.from_integers(integers(ring, seed, 0, ring.modulus))
    assert np.array_equal(lower.ntt(x[: len(lower.primes)]), ring.ntt(x)[: len(lower.primes)])


@settings(max_examples=20, deadline=None)
@given(rings, st.integers(-500, 500), st.integers(-500, 500), st.integers(0, 2**32))
def test_automorphisms_compose(ring: Ring, first: int, second: int, seed: int) -> None:
    first, second = 2 * first + 1, 2 * second + 1
    x = ring.from_integers(integers(ring, seed, 0, ring.modulus))
    there = ring.automorphism(x, first)
    assert np.array_equal(ring.automorphism(there, pow(first, -1, 2 * ring.degree)), x)
    assert np.array_equal(ring.automorphism(there, second), ring.automorphism(x, first * second))
    assert np.array_equal(ring.intt(ring.automorphism_ntt(ring.ntt(x), first)), there)


def test_uniform_residues_are_a_function_of_the_key_and_the_number() -> None:
    ring = Ring(64, (257, *ntt_primes(64, 50, 1)))
    stream = KeyStream(KEY)
    x = ring.uniform(stream, 7)
    assert np.array_equal(x, ring.uniform(KeyStream(KEY), 7))
    assert not np.array_equal(x, ring.uniform(stream, 8))
    assert not np.array_equal(x, ring.uniform(KeyStream(KEY[::-1]), 7))
    for i, p in enumerate(ring.primes):  # one word at a time
        words = stream.words(7, 1000, i << 32) >> np.uint64(64 - p.bit_length())
        assert x[i].tolist() == [w for w in words.tolist() if w < p][:64]


def test_uniform_residues_are_uniform() -> None:
    """Chi-squared over 257 values of which more than half the draws of 9 bits are refused."""
    ring = Ring(64, (257,))
    stream = KeyStream(KEY)
    counts = np.bincount(
        np.concatenate([ring.uniform(stream, i)[0] for i in range(2000)]).astype(np.int64), minlength=257
    )
    expected = 2000 * 64 / 257
    assert counts.size == 257 and abs(((counts - expected) ** 2 / expected).sum() - 256) < 6 * np.sqrt(512)


@pytest.mark.parametrize("bits", [1, 40, 64, 100, 128])
def test_flooding_integers(bits: int) -> None:
    ring = Ring(64, ntt_primes(64, 50, 3))
    x = ring.integers(KeyStream(KEY), 3, bits)
    limbs = KeyStream(KEY).words(3, 64 * (-(-bits // 64))).reshape(-1, 64)
    values = [sum(int(w) << 64 * i for i, w in enumerate(c)) % 2**bits - 2 ** (bits - 1) for c in limbs.T]
    assert ring.to_integers(x).tolist() == values
    assert min(values) < -(2 ** (bits - 1)) // 2 or bits == 1


def test_a_block_of_rows_times_weights() -> None:
    """The protocol's kernel: coefficient r of the sum is the score of row r."""
    ring = Ring(64, ntt_primes(64, 50, 2))
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(60, 5)), rng.integers(-1000, 1000, 5)
    constants = np.zeros((5, 64), np.int64)
    constants[:, 0] = weights
    ciphertexts = ring.encode(constants)[:, None].repeat(2, axis=1)
    scores = ring.to_integers(ring.intt(ring.dot(ring.encode_rows(rows, 20), ciphertexts)))
    expected = np.rint(rows * 2**20).astype(np.int64) @ weights
    assert scores[:, :60].tolist() == [expected.tolist()] * 2 and not scores[:, 60:].any()
    blocks = np.stack([ring.encode_rows(rows, 20), ring.encode_rows(rows[::-1], 20)])
    room = np.empty_like(blocks)
    ring.encode_rows(rows, 20, room[0])
    assert ring.encode_rows(rows[::-1], 20, room[1]) is not None and np.array_equal(room, blocks)
    both = ring.dot(blocks, ciphertexts)
    assert np.array_equal(ring.to_integers(ring.intt(both))[:, :, :60], [scores[:, :60], scores[:, 59::-1]])
    assert np.array_equal(ring.encode_rows(np.float32(rows), 20), ring.encode_rows(np.float32(rows).astype(float), 20))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.ntt(np.zeros((4, 64), np.uint64)), "expected uint64 residues"),
        (lambda r: r.intt(np.zeros((3, 64), np.int64)), "expected uint64 residues"),
        (lambda r: r.add(np.zeros((3, 64), np.uint64), np.zeros((2, 64), np.uint64)), "expected uint64 residues"),
        (lambda r: r.dot(np.zeros((2, 3, 64), np.uint64), np.zeros((3, 2, 3, 64), np.uint64)), "as many columns"),
        (lambda r: r.dot(np.zeros((3, 64), np.uint64), np.zeros((3, 2, 3, 64), np.uint64)), "as many columns"),
        (lambda r: r.from_integers(np.zeros(63, np.int64)), "expected 64 coefficients"),
        (lambda r: r.from_integers(np.zeros(64)), "expected integers"),
        (lambda r: r.from_torus(np.zeros(64, np.int64), 8), "expected uint64"),
        (lambda r: r.from_torus(np.zeros(64, np.uint64), 65), "expected 1 to 64 bits"),
        (lambda r: r.to_torus(np.zeros((3, 64), np.uint64), 0), "expected 1 to 64 bits"),
        (lambda r: r.automorphism(np.zeros((3, 64), np.uint64), 2), "expected an odd exponent"),
        (lambda r: r.automorphism_ntt(np.zeros((3, 64), np.uint64), 0), "expected an odd exponent"),
        (lambda r: r.encode_rows(np.zeros((65, 2))), "expected at most 64 rows"),
        (lambda r: r.encode_rows(np.zeros(64)), "expected at most 64 rows"),
        (lambda r: r.encode_rows(np.zeros((2, 2)), 8, np.zeros((3, 3, 64), np.uint64)), "room for 2 columns"),
        (lambda r: r.encode_rows(np.zeros((2, 2)), 8, np.zeros((4, 3, 64), np.uint64)[::2]), "room for 2 columns"),
        (lambda r: r.encode_rows(np.full((2, 2), np.nan), 8), "expected finite values"),
        (lambda r: r.encode_rows(np.ones((2, 2)), 63), "and 62 bits"),
        (lambda r: r.encode_rows(np.ones((2, 2), complex)), "expected integers"),
        (lambda r: r.encode_rows(np.ones((2, 2), np.uint64)), "expected integers"),
        (lambda r: r.lower(0), "expected 1 to 3 primes"),
        (lambda r: r.drop(np.zeros((3, 64), np.uint64), 3), "expected to drop 0 to 2"),
        (lambda r: r.lower(1).drop_last(np.zeros((1, 64), np.uint64)), "at least two primes"),
        (lambda r: r.integers(KeyStream(KEY), 0, 0), "expected at least one bit"),
        (lambda r: Ring(48, r.primes), "a power of two from 16 to 32768"),
        (lambda r: Ring(64, ()), "expected different primes"),
        (lambda r: Ring(64, r.primes * 2), "expected different primes"),
        (lambda r: Ring(64, (129 * 257,)), "expected primes of at most 61 bits"),
        (lambda r: Ring(64, (7,)), "expected primes of at most 61 bits"),
        (lambda r: Ring(64, (1,)), "expected primes of at most 61 bits"),
        (lambda r: Ring(64, (2**62 - 2**7 * 3 + 1,)), "expected primes of at most 61 bits"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call(RINGS["fast"])


def seal_ciphertext(path: Path, context: Any, polys: Words) -> Any:
    """A SEAL ciphertext in coefficient form, from its own uncompressed file format."""

    def framed(body: bytes) -> bytes:
        return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body

    size, k, degree = polys.shape
    body = b"".join(struct.pack("<Q", word) for word in context.first_parms_id())
    body += struct.pack("<BQQQdQ", 0, size, degree, k, 1.0, 1)
    body += framed(struct.pack("<Q", polys.size) + polys.tobytes())
    path.write_bytes(framed(body))
    ciphertext = seal.Ciphertext()
    ciphertext.load(context, str(path))
    return ciphertext


@pytest.fixture
def referee() -> tuple[Any, Ring]:
    degree, primes = 1024, (*ntt_primes(1024, 50, 1), *ntt_primes(1024, 60, 1), *ntt_primes(1024, 49, 1))
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus([seal.Modulus(p) for p in primes])
    parameters.set_plain_modulus(seal.Modulus(65537))
    return seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.NONE), Ring(degree, primes[:2])


def contents(ciphertext: Any, shape: tuple[int, ...]) -> Words:
    """SEAL keeps the last prime for its keys, so that the ring has one less."""
    return np.array([ciphertext[i] for i in range(np.prod(shape))], np.uint64).reshape(shape)


def test_the_transform_is_that_of_seal(referee: tuple[Any, Ring], tmp_path: Path) -> None:
    context, ring = referee
    x = np.stack([ring.uniform(KeyStream(KEY), i) for i in range(2)])
    ciphertext, evaluator = seal_ciphertext(tmp_path / "x", context, x), seal.Evaluator(context)
    assert np.array_equal(contents(ciphertext, x.shape), x)
    evaluator.transform_to_ntt_inplace(ciphertext)
    assert np.array_equal(contents(ciphertext, x.shape), ring.ntt(x))
    evaluator.transform_from_ntt_inplace(ciphertext)
    assert np.array_equal(contents(ciphertext, x.shape), x)


def test_the_switch_of_modulus_is_that_of_seal(referee: tuple[Any, Ring], tmp_path: Path) -> None:
    context, ring = referee
    x = np.stack([ring.uniform(KeyStream(KEY), i) for i in range(2)])
    ciphertext = seal_ciphertext(tmp_path / "x", context, x)
    seal.Evaluator(context).mod_switch_to_next_inplace(ciphertext)
    assert np.array_equal(contents(ciphertext, (2, 1, 1024)), ring.drop_last(x))


@pytest.mark.parametrize("bits", [30, 50, 60])
def test_the_primes_are_those_of_seal(bits: int) -> None:
    created = [prime.value() for prime in seal.CoeffModulus.Create(8192, [bits] * 3)]
    assert tuple(sorted(created, reverse=True)) == ntt_primes(8192, bits, 3)

"""The kernels of polynomial arithmetic against Python integers and numpy, at every level that this processor has."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.engines.he import kernels
from enclave.engines.he.kernels import modular, portable
from enclave.engines.he.kernels.tables import Tables, bit_reversed, is_prime, make_tables, minimal_root, ntt_primes

U = np.uint64
LEVELS = ["numpy", "c", "avx2", "avx512"]
DEGREES = [16, 32, 64, 128, 256, 512, 1024]


@cache
def tables_of(degree: int) -> Tables:
    """A small prime, the largest for the fast kernels, the first beyond those, and the largest of all."""
    return make_tables(degree, primes_of(degree))


@cache
def primes_of(degree: int) -> tuple[int, ...]:
    return tuple(ntt_primes(degree, bits, 1)[0] for bits in (18, 50, 51, 61))


def residues(rng: np.random.Generator, tables: Tables, *shape: int) -> np.ndarray:
    """Reduced, with 0, 1 and p - 1 among them."""
    primes = tables.primes[:, None]
    full = (*shape, len(primes), tables.degree)
    values = rng.integers(0, 2**64, full, U) % primes
    edges = rng.integers(0, 8, full)
    return np.where(edges == 0, primes - U(1), np.where(edges == 1, U(0), np.where(edges == 2, U(1), values)))


def test_primes() -> None:
    assert [n for n in range(100) if is_prime(n)] == [n for n in range(2, 100) if all(n % d for d in range(2, n))]
    assert is_prime(2**61 - 1) and is_prime(1125899906826241)
    # Strong pseudoprimes to 2, 3, 5, 7 and to the first nine primes; a Carmichael number; a square.
    assert not any(map(is_prime, (3215031751, 3825123056546413051, 9746347772161, (2**31 - 1) ** 2)))
    found = ntt_primes(8192, 50, 5)
    assert found == tuple(sorted(found, reverse=True)) and all(p % 16384 == 1 and is_prime(p) for p in found)
    skipped = set(range(found[-1], 2**50, 16384)) - set(found)
    assert not any(map(is_prime, skipped))
    with pytest.raises(ValueError, match="expected 3 primes of 15 bits for degree 4096, found"):
        ntt_primes(4096, 15, 3)


@pytest.mark.parametrize("degree", [16, 64, 1024])
def test_the_smallest_root(degree: int) -> None:
    for p in primes_of(degree)[:2]:
        root = minimal_root(degree, p)
        assert pow(root, degree, p) == p - 1
        assert root == min(pow(root, i, p) for i in range(1, 2 * degree, 2))


@pytest.mark.parametrize("degree", DEGREES)
def test_transforms_evaluate_at_the_odd_powers_of_the_root(degree: int) -> None:
    tables, rng = tables_of(degree), np.random.default_rng(degree)
    x = residues(rng, tables, 3)
    y = kernels.ntt(tables, x)
    assert np.array_equal(y, portable.ntt(tables, x))
    assert np.array_equal(kernels.intt(tables, y), x)
    assert np.array_equal(portable.intt(tables, y), x)
    places = [0, 1, degree // 2, degree - 1]
    for i, p in enumerate(primes_of(degree)):
        root = minimal_root(degree, p)
        for place in places:
            point = pow(root, 2 * int(bit_reversed(degree)[place]) + 1, p)
            value = 0
            for coefficient in x[1, i, ::-1].tolist():
                value = (value * point + coefficient) % p
            assert int(y[1, i, place]) == value


@pytest.mark.parametrize("degree", [2048, 4096, 8192, 16384, 32768])
def test_long_transforms(degree: int) -> None:
    tables = make_tables(degree, (*ntt_primes(degree, 50, 1), *ntt_primes(degree, 60, 1)))
    x = residues(np.random.default_rng(degree), tables, 2)
    y = kernels.ntt(tables, x)
    assert np.array_equal(y, portable.ntt(tables, x)) and np.array_equal(kernels.intt(tables, y), x)
    largest = np.broadcast_to(tables.primes[:, None] - U(1), (2, degree))
    assert np.array_equal(kernels.intt(tables, kernels.ntt(tables, largest)), largest)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([16, 64]), st.integers(0, 2**32), st.sampled_from(["same", "rows", "inner", "outer"]))
def test_pointwise(degree: int, seed: int, shapes: str) -> None:
    tables, rng = tables_of(degree), np.random.default_rng(seed)
    first, second = {"same": ((3,), (3,)), "rows": ((3,), ()), "inner": ((2, 3), (3,)), "outer": ((2, 1), (1, 3))}[
        shapes
    ]
    x, y = residues(rng, tables, *first), residues(rng, tables, *second)
    a, b, p = x.astype(object), y.astype(object), tables.primes[:, None].astype(object)
    z = residues(rng, tables, *np.broadcast_shapes(first, second))
    expected = {
        kernels.add: (a + b) % p,
        kernels.subtract: (a - b) % p,
        kernels.multiply: (a * b) % p,
        modular.multiply: (a * b) % p,
    }
    for operation, result in expected.items():
        out = operation(x, y, tables.primes[:, None]) if operation is modular.multiply else operation(tables, x, y)
        assert np.array_equal(out.astype(object), result)
        out = operation(y, x, tables.primes[:, None]) if operation is modular.multiply else operation(tables, y, x)
        assert np.array_equal(out.astype(object), (b - a) % p if operation is kernels.subtract else result)
    assert np.array_equal(kernels.multiply_add(tables, x, y, z).astype(object), (a * b + z.astype(object)) % p)


@pytest.mark.parametrize("degree", [16, 64, 1024])
@pytest.mark.parametrize(
    ("blocks", "terms", "width"), [(1, 1, 2), (1, 30, 2), (3, 9, 2), (17, 70, 2), (2, 8, 3), (2, 3, 1)]
)
def test_dot(degree: int, blocks: int, terms: int, width: int) -> None:
    if blocks * terms * degree > 100_000:
        terms //= 2
    tables, rng = tables_of(degree), np.random.default_rng(degree + terms)
    xs, ys = residues(rng, tables, blocks, terms), residues(rng, tables, terms, width)
    out = kernels.dot(tables, xs, ys)
    assert out.shape == (blocks, width, len(tables.primes), degree)
    assert np.array_equal(out, portable.dot(tables, xs, ys))
    for place in (0, degree - 1):
        for i, p in enumerate(primes_of(degree)):
            pairs = zip(xs[-1, :, i, place].tolist(), ys[:, -1, i, place].tolist(), strict=True)
            assert int(out[-1, -1, i, place]) == sum(a * b for a, b in pairs) % p


@pytest.mark.parametrize("terms", [31, 32, 33, 63, 64, 65, 2047, 2048, 2049, 4200])
@pytest.mark.parametrize("blocks", [1, 2])
def test_dot_of_the_largest_residues_does_not_overflow(terms: int, blocks: int) -> None:
    """(p - 1)^2 = 1: the sum is the number of terms, unless the lazy sums have lost a carry."""
    tables = tables_of(64)
    largest = (tables.primes - U(1))[:, None] * np.ones(64, U)
    xs, ys = np.tile(largest, (blocks, terms, 1, 1)), np.tile(largest, (terms, 2, 1, 1))
    expected = np.array([terms % p for p in primes_of(64)], U)[:, None]
    assert np.array_equal(kernels.dot(tables, xs, ys), np.broadcast_to(expected, (blocks, 2, 4, 64)))


def test_nothing_to_add_is_zero() -> None:
    tables = tables_of(64)
    empty = kernels.dot(tables, np.zeros((2, 0, 4, 64), U), np.zeros((0, 2, 4, 64), U))
    assert empty.shape == (2, 2, 4, 64) and not empty.any()
    assert kernels.dot(tables, np.zeros((0, 3, 4, 64), U), np.zeros((3, 2, 4, 64), U)).shape == (0, 2, 4, 64)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([16, 64, 128]), st.integers(0, 2**32))
def test_signed_integers(degree: int, seed: int) -> None:
    tables, rng = tables_of(degree), np.random.default_rng(seed)
    v = rng.integers(-(2**63), 2**63, (2, degree), np.int64) >> rng.integers(0, 64, (2, degree))
    for i, p in enumerate(primes_of(degree)):
        v.flat[6 * i : 6 * i + 3] = [p, -p, p - 1] if i < 2 else [-(2**63), 2**63 - 1, -1]
    out = kernels.reduce_signed(tables, v)
    for i, p in enumerate(primes_of(degree)):
        assert out[:, i].tolist() == [[int(a) % p for a in row] for row in v.tolist()]
    assert np.array_equal(out, portable.reduce_signed(tables, v))
    assert np.array_equal(kernels.encode(tables, v), kernels.ntt(tables, out))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([16, 64]), st.integers(1, 230), st.integers(0, 2**32))
def test_long_integers(degree: int, bits: int, seed: int) -> None:
    tables, limbs = tables_of(degree), -(-bits // 64)
    words = np.random.default_rng(seed).integers(0, 2**64, (limbs, degree), U)
    words[:, 0], words[:, 1] = U(0), U(2**64 - 1)
    out = kernels.from_words(tables, words, bits)
    assert np.array_equal(out, portable.from_words(tables, words, bits))
    values = [sum(int(w) << 64 * i for i, w in enumerate(column)) % 2**bits - 2 ** (bits - 1) for column in words.T]
    for i, p in enumerate(primes_of(degree)):
        assert out[i].tolist() == [v % p for v in values]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([16, 64, 128]), st.integers(0, 128), st.integers(0, 19), st.integers(0, 40), st.integers(0, 2**32)
)
def test_rows(degree: int, rows: int, columns: int, bits: int, seed: int) -> None:
    tables, rng = tables_of(degree), np.random.default_rng(seed)
    rows = min(rows, degree)
    matrix = rng.normal(0, 100, (rows, columns + 2))[:, 1:-1]  # a step between the rows
    matrix[:1] = 0.5  # a tie
    expected = np.zeros((columns, degree), np.int64)
    expected[:, :rows] = [[round(float(v) * 2**bits) for v in row] for row in matrix.T] if columns and rows else 0
    wanted = kernels.ntt(tables, kernels.reduce_signed(tables, expected))
    assert np.array_equal(kernels.encode_rows(tables, matrix, bits), wanted)
    assert np.array_equal(portable.encode_rows(tables, matrix, bits), wanted)
    integers = expected[:, :rows].T  # columns are contiguous, rows are not
    assert np.array_equal(kernels.encode_rows(tables, integers, bits), wanted)
    assert np.array_equal(
        kernels.encode_rows(tables, matrix[::-1], bits), portable.encode_rows(tables, matrix[::-1], bits)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**42, -(2.0**42), 1e308])
@pytest.mark.parametrize("place", [(0, 0), (5, 8), (63, 9)])
def test_values_out_of_range_are_refused(bad: float, place: tuple[int, int]) -> None:
    matrix = np.ones((64, 10))
    matrix[place] = bad
    for encode in (kernels.encode_rows, portable.encode_rows):
        with pytest.raises(ValueError, match="expected finite values below"):
            encode(tables_of(64), matrix, 20)
    matrix[place] = np.nextafter(2.0**42, 0)
    assert np.array_equal(
        kernels.encode_rows(tables_of(64), matrix, 20), portable.encode_rows(tables_of(64), matrix, 20)
    )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([16, 64]), st.integers(0, 2**32), st.permutations([0, 1, 2, 3]), st.integers(2, 4))
def test_drop_last(degree: int, seed: int, order: list[int], count: int) -> None:
    primes = tuple(primes_of(degree)[i] for i in order[:count])
    tables, q, last = make_tables(degree, primes), prod(primes), primes[-1]
    rng = np.random.default_rng(seed)
    values = [int.from_bytes(rng.bytes(32), "little") % q for _ in range(degree - 4)]
    values += [0, q - 1, last // 2, last // 2 + 1]
    x = np.array([[v % p for v in values] for p in primes], U)
    out = kernels.drop_last(tables, x)
    assert np.array_equal(out, portable.drop_last(tables, x))
    for i, p in enumerate(primes[:-1]):
        assert out[i].tolist() == [(2 * v + last) // (2 * last) % p for v in values]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 63), st.integers(0, 200), st.integers(0, 2**32))
def test_packing(bits: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**bits, count, U)
    values[:2] = U(2**bits - 1)
    packed = kernels.pack(values, bits)
    whole = sum(v << bits * i for i, v in enumerate(values.tolist()))
    assert packed.size == kernels.packed_words(count, bits) and int.from_bytes(packed.tobytes(), "little") == whole
    assert np.array_equal(packed, portable.pack(values, bits))
    for unpack in (kernels.unpack, portable.unpack):
        assert np.array_equal(unpack(packed, bits, count, 2**bits), values)
        if count:
            limit = int(values.max())
            assert np.array_equal(unpack(packed, bits, count, limit + 1), values)
            with pytest.raises(ValueError, match="expected values below their modulus"):
                unpack(packed, bits, count, limit)
        if count * bits % 64:
            spoilt = packed.copy()
            spoilt[-1] |= U(1 << 63)
            with pytest.raises(ValueError, match="nothing after the last"):
                unpack(spoilt, bits, count, 2**bits)
    with pytest.raises(ValueError, match=r"expected .* words, found"):
        kernels.unpack(np.append(packed, U(0)), bits, count, 2**bits)


@pytest.mark.parametrize("prime", [97, 193, 2**61 - 1, ntt_primes(8192, 50, 1)[0]])
def test_acceptance_is_exact(prime: int) -> None:
    """Every value below the prime comes from equally many words, and no other value comes at all."""
    shift = 64 - prime.bit_length()
    width = prime.bit_length()
    tops = np.arange(max(0, min(prime - 3, 2**width - 512)), 2**width, dtype=U)[:512]
    words = np.concatenate([tops << U(shift), (tops << U(shift)) | U((1 << shift) - 1)])
    for accept in (kernels.accept, portable.accept):
        out = np.zeros(words.size, U)
        count = accept(words, out, prime)
        assert out[:count].tolist() == 2 * [t for t in tops.tolist() if t < prime]
        short = np.zeros(3, U)
        assert accept(words, short, prime) == 3 and short.tolist() == out[:3].tolist()
        assert accept(words, np.zeros(0, U), prime) == 0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([16, 64, 1024]), st.integers(-(2**20), 2**20), st.integers(0, 2**32))
def test_automorphisms(degree: int, half: int, seed: int) -> None:
    tables, exponent = tables_of(degree), 2 * half + 1
    x = residues(np.random.default_rng(seed), tables, 2)
    out = kernels.automorphism(tables, x, exponent)
    assert np.array_equal(out, portable.automorphism(tables, x, exponent))
    expected = [0] * degree
    p = primes_of(degree)[1]
    for i, v in enumerate(x[0, 1].tolist()):
        place = i * exponent % (2 * degree)
        expected[place % degree] = v if place < degree else -v % p
    assert out[0, 1].tolist() == expected
    turned = kernels.automorphism_ntt(tables, kernels.ntt(tables, x), exponent)
    assert np.array_equal(turned, kernels.ntt(tables, out))
    assert np.array_equal(turned, portable.automorphism_ntt(tables, kernels.ntt(tables, x), exponent))


@pytest.mark.skipif(kernels.native is None, reason="installed without a compiler")
def test_the_extension_refuses_sizes_that_do_not_fit() -> None:
    native, t = kernels.native, tables_of(64)
    x, short = np.zeros((4, 64), U), np.zeros((3, 64), U)
    calls = [
        lambda: native.ntt(x, short, t.primes, t.roots, t.root_quotients, t.lanes, 64),
        lambda: native.ntt(x, x, t.primes, t.roots[:3], t.root_quotients, t.lanes, 64),
        lambda: native.ntt(x, x, t.primes, t.roots, t.root_quotients, t.lanes, 48),
        lambda: native.ntt(x, x, t.primes[:0], t.roots, t.root_quotients, t.lanes, 64),
        lambda: native.combine(0, short, x, x, t.primes, 64),
        lambda: native.combine(9, x, x, x, t.primes, 64),
        lambda: native.combine(0, np.zeros((8, 64), U), x, x, t.primes, 64),
        lambda: native.dot(x, x, x, t.primes, 3, 64),
        lambda: native.dot(x, x, x, t.primes, 0, 64),
        lambda: native.reduce_signed(np.zeros(63, np.int64), x, t.primes, 64),
        lambda: native.reduce_words(x[:1], x, t.primes, 64, 65),
        lambda: native.drop_last(x, x, t.primes, t.primes[:3], 64),
        lambda: native.pack(x, np.zeros(5, U), 50),
        lambda: native.unpack(np.zeros(5, U), x, 50, 2**50),
        lambda: native.automorphism(x, x, t.primes, 64, 2),
        lambda: native.automorphism_ntt(x, short, 64, 3),
        lambda: native.accept(x, x.astype(np.int32), 97),
        lambda: native.from_torus(x, x, t.primes, t.primes, 64, 1, 65),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"do not fit|expected a degree|expected 8-byte items"):
            call()
    frozen = np.zeros((4, 64), U)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"read-only|not writable"):
        native.combine(0, x, x, frozen, t.primes, 64)


def test_threads_share_tables() -> None:
    tables = make_tables(4096, ntt_primes(4096, 50, 2))
    x = residues(np.random.default_rng(0), tables, 8)
    expected = portable.ntt(tables, x)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(out, expected) for out in pool.map(lambda _: kernels.ntt(tables, x), range(8)))


FINGERPRINT = "import sys; sys.path.insert(0, sys.argv[1]); import test_kernels as t; print(t.fingerprint())"


def fingerprint() -> str:
    """The level, and a hash over what every kernel makes of the same input."""
    digest, rng = hashlib.sha256(), np.random.default_rng(3)
    for degree in (16, 256, 2048):
        tables = make_tables(degree, primes_of(degree))
        x, y = residues(rng, tables, 9, 5), residues(rng, tables, 5, 2)
        words = rng.integers(0, 2**64, (2, degree), U)
        weights, fractions = tables.primes >> U(1), rng.integers(0, 2**64, (4, 2), U)
        ratios = np.array([(int(w) << 64) // int(p) for w, p in zip(weights, tables.primes, strict=True)], U)
        accepted = np.zeros(degree, U)
        accepted = accepted[: kernels.accept(words[0], accepted, primes_of(degree)[0])]
        for out in (
            kernels.ntt(tables, x),
            kernels.intt(tables, x),
            kernels.add(tables, x, y[:, 0]),
            kernels.subtract(tables, x, y[:, 0]),
            kernels.multiply(tables, x, y[:, 0]),
            kernels.multiply_add(tables, x, x, x),
            kernels.dot(tables, x, y),
            kernels.reduce_signed(tables, words.view(np.int64)),
            kernels.from_words(tables, words, 107),
            kernels.encode_rows(tables, rng.normal(size=(degree - 3, 11)), 30),
            kernels.encode_rows(tables, words.T.view(np.int64), 0),
            kernels.drop_last(tables, x),
            kernels.to_torus(tables, weights, ratios, fractions, x, 37),
            kernels.from_torus(tables, prod(primes_of(degree)), words, 64),
            kernels.pack(words[0], 49),
            kernels.pack(words[0] >> U(3), 61),
            kernels.unpack(kernels.pack(words[0], 49), 49, degree, 2**49),
            kernels.automorphism(tables, x, 5),
            kernels.automorphism_ntt(tables, x, 5),
            accepted,
        ):
            digest.update(np.ascontiguousarray(out))
    return f"{kernels.LEVEL} {digest.hexdigest()}"


def test_every_level_gives_the_same_bits() -> None:
    here = os.path.dirname(__file__)
    found = {}
    for level in LEVELS:
        environment = {**os.environ, "ENCLAVE_KERNELS": level}
        done = subprocess.run(
            [sys.executable, "-c", FINGERPRINT, here], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        name, found[level] = done.stdout.split()
        assert name == level or LEVELS.index(name) < LEVELS.index(level)  # this processor has no more
    assert set(found.values()) == {fingerprint().split()[1]}

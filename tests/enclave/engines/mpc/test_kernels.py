"""The kernels against published vectors, Python integers and each other, at every level that this processor has."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.engines.mpc import kernels
from enclave.engines.mpc.kernels import AesKey, Operation, portable, portable_dcf
from enclave.engines.mpc.random import KeyStream

U = np.uint64
LEVELS = ["numpy", "c", "avx2", "avx512", "amx"]
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")


def reference_words(key: bytes, stream: int, offset: int, count: int) -> np.ndarray:
    """One block at a time in ECB mode."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    first, last = offset // 2, (offset + count + 1) // 2
    blocks = [encryptor.update(stream.to_bytes(8, "big") + i.to_bytes(8, "big")) for i in range(first, last)]
    return np.frombuffer(b"".join(blocks), U)[offset % 2 :][:count]


@pytest.mark.parametrize(
    ("key", "block", "expected"),
    [
        # FIPS 197, appendix B.
        (KEY.hex(), "3243f6a8885a308d313198a2e0370734", "3925841d02dc09fbdc118597196a0b32"),
        # The AES algorithm validation suite: GFSbox 128 (two of seven) and the first of VarKey 128.
        ("00" * 16, "b26aeb1874e47ca8358ff22378f09144", "459264f4798f6a78bacb89c15ed3d601"),
        ("00" * 16, "58c8e00b2631686d54eab84b91f0aca1", "08a4e2efec8a8e3312ca7460b9040bbf"),
        ("80" + "00" * 15, "00" * 16, "0edd33d3c621e546455bd8ba1418bec8"),
    ],
)
def test_aes_vectors(key: str, block: str, expected: str) -> None:
    out = np.empty(2, U)
    AesKey(bytes.fromhex(key)).ctr(int(block[:16], 16), 2 * int(block[16:], 16), out)
    assert out.tobytes().hex() == expected


@settings(max_examples=50, deadline=None)
@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**40),
    st.integers(0, 300),
    st.sampled_from(Operation),
)
def test_key_streams(key: bytes, stream: int, offset: int, count: int, operation: Operation) -> None:
    before = np.arange(count, dtype=U) * U(0x9E3779B97F4A7C15)
    words = reference_words(key, stream, offset, count)
    expected = {
        Operation.SET: words,
        Operation.ADD: before + words,
        Operation.SUBTRACT: before - words,
        Operation.XOR: before ^ words,
    }[operation]
    out, other = before.copy(), before.copy()
    AesKey(key).ctr(stream, offset, out, operation)
    portable.aes_ctr(algorithms.AES(key), stream, offset, other, operation)
    assert out.tolist() == expected.tolist() == other.tolist()


def test_a_long_key_stream_in_pieces_and_at_an_odd_address() -> None:
    stream = KeyStream(KEY)
    whole = stream.words(5, 20001)
    assert np.array_equal(whole, reference_words(KEY, 5, 0, 20001))
    memory = bytearray(8 * 20001 + 3)
    shifted = np.frombuffer(memory, U, 20001, 3)
    stream.into(shifted[:777], 5)
    stream.into(shifted[777:], 5, 777)
    assert np.array_equal(shifted, whole)
    stream.into(shifted, 5, 0, Operation.XOR)
    assert not any(memory)


def test_an_output_must_be_contiguous_and_writable() -> None:
    for out in (np.zeros(8, U)[::2], np.frombuffer(bytes(64), U)):
        with pytest.raises((ValueError, BufferError)):
            AesKey(KEY).ctr(1, 0, out)
    with pytest.raises(ValueError):
        AesKey(KEY[:15])
    assert "2b7e" not in repr(AesKey(KEY))


# ---- packed bits


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=700))
def test_planes_hold_the_bits(values: list[int]) -> None:
    words = np.array(values, U)
    planes = kernels.to_planes(words)
    assert planes.shape == (64, -(-len(values) // 64))
    for plane in range(64):
        row = sum(((value >> plane) & 1) << i for i, value in enumerate(values))
        assert int.from_bytes(planes[plane].tobytes(), "little") == row
    assert np.array_equal(planes, portable.to_planes(words))
    for some in (planes[::5], planes[3:4], planes[:0]):
        bits = kernels.from_planes(some, len(values))
        assert np.array_equal(bits, portable.from_planes(some, len(values)))
        for row, plane in zip(bits, range(0, 64, 5), strict=False):
            if some is not planes[3:4] and len(some) > 1:
                assert row.tolist() == [(value >> plane) & 1 for value in values]
    for dtype in (U, np.uint8):
        some_bits = (words & U(255)).astype(dtype)
        assert np.array_equal(kernels.pack_bits(some_bits), planes[0])
        assert np.array_equal(portable.pack_bits(some_bits), planes[0])


def test_bits_at_odd_addresses_and_in_steps() -> None:
    words = np.random.default_rng(1).integers(0, 2**64, 1000, U)
    memory = bytearray(8 * 1000 + 5)
    shifted = np.frombuffer(memory, U, 1000, 5)
    shifted[:] = words
    expected = portable.to_planes(words)
    assert np.array_equal(kernels.to_planes(shifted), expected)
    assert np.array_equal(kernels.to_planes(np.repeat(words, 2)[::2]), expected)
    assert np.array_equal(kernels.pack_bits(shifted), expected[0])
    assert np.array_equal(kernels.pack_bits(np.repeat(words, 3)[::3]), expected[0])
    with pytest.raises(ValueError):
        kernels.from_planes(expected, 16 * 64 + 1)


def random_program(rng: np.random.Generator, inputs: int, registers: int, rows: int) -> np.ndarray:
    code = rng.integers(0, registers, (rows, 4)).astype(np.int32)
    code[:, 0] = rng.integers(3, registers, rows)
    code[: registers - inputs - 3, 0] = np.arange(3 + inputs, registers)  # every temporary is written first
    for i in range(registers - inputs - 3):
        code[i, 1:] = rng.integers(0, 3 + inputs + i, 3)
    return code


def interpret(code: np.ndarray, one: bool, planes: list[int], width: int) -> dict[int, int]:
    full = (1 << 64 * width) - 1
    file = dict(enumerate([0, full if one else 0, full, *planes]))
    for dst, a, b, c in code.tolist():
        file[dst] = (file[a] & file[b]) ^ file[c]
    return file


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 150), st.booleans(), st.sampled_from([5, 40, 300]))
def test_programs_run_like_python_integers(seed: int, width: int, one: bool, temporaries: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 2**64, (7, 3, width), U)
    inputs = (whole[:, 1, :], rng.integers(0, 2**64, (2, width), U), np.empty((0, width), U))
    registers = 3 + 9 + temporaries
    code = random_program(rng, 9, registers, 2 * temporaries)
    lists = (rng.integers(0, registers, 4).astype(np.int32), np.zeros(0, np.int32), np.array([2], np.int32))
    found = kernels.run_program(code, registers, one, inputs, lists)
    planes = [int.from_bytes(np.ascontiguousarray(row).tobytes(), "little") for a in inputs for row in a]
    file = interpret(code, one, planes, width)
    other = tuple(np.empty((len(output), width), U) for output in lists)
    portable.run_program(code, registers, one, inputs, lists, other)
    for output, result, same in zip(lists, found, other, strict=True):
        assert result.shape == (len(output), width)
        assert [int.from_bytes(row.tobytes(), "little") for row in result] == [file[r] for r in output.tolist()]
        assert np.array_equal(result, same)


@pytest.mark.skipif(kernels.native is None, reason="the extension checks, numpy does not")
@pytest.mark.parametrize("row", [(2, 3, 3, 3), (3, 5, 3, 3), (3, 3, -1, 3), (5, 3, 3, 3), (1 << 30, 3, 3, 3)])
def test_a_register_out_of_range_is_refused(row: tuple[int, ...]) -> None:
    code = np.array([row], np.int32)
    with pytest.raises(ValueError, match="within range"):
        kernels.run_program(code, 5, True, (np.zeros((1, 2), U),), (np.array([3], np.int32),))


@pytest.mark.skipif(kernels.native is None, reason="the extension checks, numpy does not")
def test_planes_of_two_widths_and_bad_outputs_are_refused() -> None:
    code, planes = np.array([(4, 3, 3, 3)], np.int32), np.zeros((1, 2), U)
    for inputs, output in [((planes, planes[:, :1]), 3), ((planes,), 5), ((planes, planes, planes), 3)]:
        with pytest.raises(ValueError, match="within range"):
            kernels.run_program(code, 5, True, inputs, (np.array([output], np.int32),))


# ---- gates


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 70), st.sampled_from([0, 1, 20, 32, 33, 63]), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_selection_like_python_integers(n: int, shift: int, leader: bool, offset: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, rho, hidden, flipped = (rng.integers(0, 2**64, n, U) for _ in range(4))
    d = rng.integers(0, 2, n, np.uint8)
    top_type = np.uint32 if shift <= 32 else U
    tops = tuple(rng.integers(0, np.iinfo(top_type).max, n, top_type) for _ in range(2)) if shift else None
    start = 2**62 if offset else 0
    found = kernels.select(c, d, rho, hidden, flipped, leader=leader, shift=shift, offset=start, tops=tops)
    other = np.empty(n, U)
    portable.select(c, d, rho, hidden, flipped, *(tops or (None, None)), other, shift, start, leader)
    assert np.array_equal(found, other)
    for i, result in enumerate(found.tolist()):
        masks = [int(hidden[i]), int(flipped[i])]
        opened = (int(c[i]) >> shift) - (start >> shift)
        if tops is not None and int(c[i]) < 2**63:
            masks = [mask - (int(top[i]) << (64 - shift)) for mask, top in zip(masks, tops, strict=True)]
        gated = opened * int(rho[i]) - masks[1]
        whole = (opened if leader else 0) - masks[0]
        assert result == (whole - gated if d[i] else gated) % 2**64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, U, np.int64])
@pytest.mark.parametrize("bit_type", [np.uint8, bool, U])
def test_choices(dtype: type, bit_type: type) -> None:
    rng = np.random.default_rng(1)
    for n in (0, 1, 31, 100):
        bits = rng.integers(0, 2, n, np.uint8).astype(bit_type)
        yes, no = rng.integers(0, 100, (2, n), np.uint8).astype(dtype) * np.array(-1).astype(dtype)
        expected = [a if b else c for a, b, c in zip(yes.tolist(), bits.tolist(), no.tolist(), strict=True)]
        for found in (
            kernels.choose(bits, yes, no),
            kernels.choose(np.repeat(bits, 2)[::2], yes, np.repeat(no, 2)[::2]),
            kernels.choose(np.stack([bits] * 3), np.stack([yes] * 3), no)[2],
        ):
            assert found.dtype == dtype and found.tolist() == expected


@pytest.mark.skipif(kernels.native is None, reason="the extension checks, numpy does not")
def test_unfit_selections_are_refused() -> None:
    words, bits, tops = np.zeros(5, U), np.zeros(5, np.uint8), (np.zeros(5, np.uint32), np.zeros(5, np.uint32))
    for arguments, options in [
        ((words, bits, words, words, words[:4]), {}),
        ((words, words, words, words, words), {}),
        ((words, bits, words, words, words), {"shift": 5}),
        ((words, bits, words, words, words), {"tops": tops}),
        ((words, bits, words, words, words), {"shift": 64, "tops": tops}),
        ((words, bits, words, words, words), {"shift": 5, "tops": (tops[0], tops[1][:3])}),
    ]:
        with pytest.raises(ValueError):
            kernels.select(*arguments, leader=True, **options)


# ---- distributed comparison functions


def roots_of(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = rng.integers(0, 2**64, (2, n, 2), U)
    first[:, 0] &= ~U(1)
    second[:, 0] |= U(1)
    return first, second


def hash_bytes(payload: int) -> list[bytes]:
    return [bytes([i + 1]) * 16 for i in range(1 + -(-payload // 2))]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70), st.sampled_from([1, 2, 7, 63, 64]), st.integers(1, 4), st.integers(0, 2**32))
def test_comparison_functions(n: int, levels: int, payload: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    full = 2**levels - 1
    alphas, betas = rng.integers(0, full, n, U, endpoint=True), rng.integers(0, 2**64, (payload, n), U)
    alphas[:3] = np.array([0, full, full // 2], U)[:n]
    roots, hashes = roots_of(rng, n), [AesKey(key) for key in hash_bytes(payload)]
    plain = [algorithms.AES(key) for key in hash_bytes(payload)]
    seeds, values = kernels.dcf_keys(hashes, levels, alphas, betas, roots)
    same = np.empty_like(seeds), np.empty_like(values)
    portable_dcf.dcf_keys(plain, levels, alphas, betas, roots, *same)
    assert np.array_equal(seeds, same[0]) and np.array_equal(values, same[1])
    near = [alphas, (alphas + U(1)) & U(full), (alphas - U(1)) & U(full), alphas ^ U(full)]
    edges = [np.zeros(n, U), np.full(n, full, U), rng.integers(0, full, n, U, endpoint=True)]
    for points in near + edges:
        shares = [kernels.dcf_evaluate(hashes, party, points, roots[party], seeds, values) for party in (0, 1)]
        for party in (0, 1):
            other = np.empty_like(shares[0])
            portable_dcf.dcf_evaluate(plain, levels, party, points, roots[party], seeds, values, other)
            assert np.array_equal(shares[party], other)
        total = (shares[0] + shares[1]).T.tolist()
        for alpha, point, beta, found in zip(*(a.tolist() for a in (alphas, points, betas.T)), total, strict=True):
            weight = int(point < alpha) - (alpha >> (levels - 1))
            assert found == [weight * b % 2**64 for b in beta]


def test_what_one_party_sees_of_a_comparison_function_does_not_depend_on_alpha() -> None:
    """Ones in the corrections: near half for alpha and beta at both extremes. A constant where hashes belong fails."""
    n, levels = 400, 63
    rng = np.random.default_rng(5)
    roots, hashes = roots_of(rng, n), [AesKey(key) for key in hash_bytes(2)]
    for alpha, beta in [(0, 0), (2**63 - 1, 2**64 - 1), (1, 1)]:
        seeds, values = kernels.dcf_keys(hashes, levels, np.full(n, alpha, U), np.full((2, n), beta, U), roots)
        for bits in (np.unpackbits(seeds.view(np.uint8)), np.unpackbits(values.view(np.uint8))):
            assert abs(bits.mean() - 0.5) < 5 * 0.5 / bits.size**0.5


def test_unfit_comparison_functions_are_refused() -> None:
    roots = roots_of(np.random.default_rng(5), 2)
    hashes = [AesKey(key) for key in hash_bytes(1)]
    for levels, payload in [(0, 1), (65, 1), (5, 0), (5, 3), (5, 5)]:
        with pytest.raises(ValueError):
            kernels.dcf_keys(hashes, levels, np.zeros(2, U), np.zeros((payload, 2), U), roots)
    seeds, values = kernels.dcf_keys(hashes, 5, np.zeros(2, U), np.zeros((1, 2), U), roots)
    with pytest.raises(ValueError):
        kernels.dcf_evaluate(hashes, 0, np.zeros(3, U), roots[0], seeds, values)


# ---- all levels of the extension, and numpy, in processes of their own

FINGERPRINT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_kernels import fingerprint
print(fingerprint())
"""


def fingerprint() -> str:
    """The level, and a digest of what the kernels make of fixed inputs."""
    digest = hashlib.sha256()
    for count in (0, 1, 2, 63, 1000, 9999):
        out = np.arange(count, dtype=U)
        for operation in Operation:
            AesKey(KEY).ctr(7, count // 3, out, operation)
            digest.update(out)
    rng = np.random.default_rng(3)
    words = rng.integers(0, 2**64, 5000, U)
    planes = kernels.to_planes(words)
    code = random_program(rng, 64, 200, 500)
    outputs = (np.arange(3, 200, dtype=np.int32),)
    digest.update(planes)
    digest.update(kernels.from_planes(planes[::2], 4999))
    digest.update(kernels.pack_bits(words[:4097]))
    digest.update(kernels.pack_bits(words.view(np.uint8)[:4097]))
    digest.update(kernels.run_program(code, 200, True, (planes,), outputs)[0])
    for n, depth, m in [(1, 300, 40), (40, 300, 1), (37, 300, 41), (2, 3, 2)]:
        x, y = rng.integers(0, 2**64, (n, depth), U), rng.integers(0, 2**64, (m, depth), U).T
        digest.update(kernels.matmul(x, y, x[:, :1] * y[:1], accumulate=True))
    bits = (words[:37] & U(1)).astype(np.uint8)
    digest.update(kernels.select(words[:37], bits, *words[: 3 * 37].reshape(3, 37), leader=True, offset=5))
    points, hashes = rng.integers(0, 2**64, 37, U), [AesKey(key) for key in hash_bytes(3)]
    roots = roots_of(rng, 37)
    key = kernels.dcf_keys(hashes, 63, points >> U(1), rng.integers(0, 2**64, (3, 37), U), roots)
    for part in (*key, kernels.dcf_evaluate(hashes, 1, points >> U(2), roots[1], *key)):
        digest.update(part)
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

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
from enclave.engines.mpc.kernels import AesKey, Operation, portable
from enclave.engines.mpc.random import KeyStream

U = np.uint64
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
    return f"{kernels.LEVEL} {digest.hexdigest()}"


def test_every_level_gives_the_same_bits() -> None:
    here = os.path.dirname(__file__)
    found = {}
    for level in ("numpy", "c", "avx2", "avx512"):
        environment = {**os.environ, "ENCLAVE_KERNELS": level}
        done = subprocess.run(
            [sys.executable, "-c", FINGERPRINT, here], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        name, found[level] = done.stdout.split()
        assert name == level or kernels.LEVEL != "avx512"
    assert set(found.values()) == {fingerprint().split()[1]}

"""The ring against Python integers and against SEAL."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal

from enclave.engines.he.ring import Ring, Words, ntt_primes
from enclave.engines.mpc.random import KeyStream
from enclave.errors import BadInput

KEY = bytes(range(16))


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


def test_the_transform_is_that_of_seal(tmp_path: Path) -> None:
    degree, primes = 1024, (*ntt_primes(1024, 50, 1), *ntt_primes(1024, 60, 1), *ntt_primes(1024, 49, 1))
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus([seal.Modulus(p) for p in primes])
    parameters.set_plain_modulus(seal.Modulus(65537))
    context = seal.SEALContext(parameters, False, seal.SEC_LEVEL_TYPE.NONE)
    ring = Ring(degree, primes[:2])  # SEAL keeps the last prime for its keys
    x = np.stack([ring.uniform(KeyStream(KEY), i) for i in range(2)])
    ciphertext = seal_ciphertext(tmp_path / "x", context, x)
    seal.Evaluator(context).transform_to_ntt_inplace(ciphertext)
    flat = np.array([ciphertext[i] for i in range(x.size)], np.uint64)
    assert np.array_equal(flat.reshape(x.shape), ring.ntt(x))


def test_bad_shapes_are_refused() -> None:
    ring = Ring(16, ntt_primes(16, 30, 2))
    with pytest.raises(BadInput, match="expected uint64 residues"):
        ring.ntt(np.zeros((3, 16), np.uint64))

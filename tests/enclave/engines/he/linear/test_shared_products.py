"""Encrypted products by themselves: blocks, noise, parameters."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.he.lattice.keys import PublicSeed, SecretKey
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.rlwe import encrypt, expand, phase
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear.matvec import MatrixPacking
from enclave.engines.he.linear.shared_products import multiply, noise_deviation, parameters

SEED = PublicSeed.derived(b"shared products")
RING = parameters().ring()


def _error(packing: MatrixPacking, pieces: list[np.ndarray], weights: Words) -> np.ndarray:
    """What is decrypted, less the product of the integers modulo 2^64."""
    secret = SecretKey(RING, Source.fresh(), 1000)
    b = encrypt(secret, RING.from_torus(packing.weights(weights), 64), SEED, 0)
    queries = RING.ntt(expand(RING, b, SEED, 0))
    answers = np.concatenate(list(multiply(RING, packing, pieces, queries)))
    rows = np.concatenate(pieces)
    assert len(answers) == packing.blocks(len(rows)) and secret.decryptions == 0
    found = packing.products(RING.to_torus(phase(secret, answers), 64), len(rows))
    return np.asarray((found - rows.view(np.uint64) @ weights).view(np.int64))


@pytest.mark.parametrize(("inputs", "outputs", "group"), [(1, 1, 1), (30, 1, 8), (7, 3, 5), (64, 10, 64), (3, 40, 2)])
@pytest.mark.parametrize("sizes", [(1,), (700,), (0, 3, 511, 1, 600)])
def test_pieces_of_any_size(inputs: int, outputs: int, group: int, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(inputs)
    pieces = [rng.integers(-(1 << 22), 1 << 22, (n, inputs)) for n in sizes]
    weights = rng.integers(0, 1 << 64, (inputs, outputs), np.uint64)
    assert np.abs(_error(MatrixPacking(RING.degree, inputs, outputs, group), pieces, weights)).max() <= 4


@pytest.mark.parametrize("group", [1, 4])
def test_the_noise_is_the_stated_one(group: int) -> None:
    packing = MatrixPacking(RING.degree, 64, 1, group)
    rng = np.random.default_rng(8)
    rows = np.where(rng.random((RING.degree, 64)) < 0.5, -1, 1) << 44
    error = _error(packing, [rows], np.full((64, 1), 3, np.uint64))
    assert error.std() == pytest.approx(noise_deviation(RING, packing, 44), rel=0.1)


def test_parameters_are_within_the_table() -> None:
    found = parameters()
    assert (found.degree, found.total_bits, found.special) == (4096, 100, None)

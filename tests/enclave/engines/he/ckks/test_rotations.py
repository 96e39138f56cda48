"""Products of matrices and encrypted slots, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.he.ckks.rotations import KeyHolder, SlotMatrix
from enclave.engines.he.ckks.seal import Context
from enclave.engines.he.lattice.keys import PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import checked, primes_of
from enclave.engines.he.lattice.sampling import Source
from enclave.errors import BadInput, BadSpec

SLOTS, SCALE = 2048, 2.0**28


@pytest.fixture(scope="module")
def holder() -> KeyHolder:
    bottom, level, special = primes_of(4096, [34, 28, 46])
    context = Context(checked("ckks", 4096, (bottom, level), special))
    return KeyHolder(context, SecretKey(context.key_ring, Source.fresh(), 1000), PublicSeed.derived(b"rotations"))


def multiplied(holder: KeyHolder, matrix: SlotMatrix, values: np.ndarray) -> np.ndarray:
    evaluator = holder.evaluator(matrix.rotations)
    product = matrix.product(evaluator, matrix.encoded(evaluator, 2), holder.encrypt(values, SCALE))
    assert product.count == 1
    assert product.scale == pytest.approx(SCALE, rel=1e-9)
    return holder.decrypt(product)


@pytest.mark.parametrize(("outputs", "length"), [(1, 16), (3, 64), (10, 16), (16, 16)])
def test_a_matrix_on_blocks(holder: KeyHolder, outputs: int, length: int) -> None:
    rng, width = np.random.default_rng(outputs), SLOTS // length
    matrix, x = rng.normal(size=(outputs, length, width)), rng.uniform(-1, 1, (length, width))
    packed = SlotMatrix.of_blocks(matrix, SLOTS)
    found = multiplied(holder, packed, x.reshape(-1)).reshape(length, width)
    expected = np.einsum("ojw,jw->ow", matrix, x)
    count = len(packed.diagonals)
    for block in range(length):
        if block % count < outputs:
            assert np.abs(found[block] - expected[block % count]).max() < 1e-3


@pytest.mark.parametrize(("outputs", "columns"), [(64, 256), (10, 1024), (5, 2048), (2048, 4), (1, 1)])
def test_a_matrix_on_copies(holder: KeyHolder, outputs: int, columns: int) -> None:
    rng = np.random.default_rng(columns)
    matrix, x = rng.normal(size=(outputs, columns)) / np.sqrt(columns), rng.uniform(-1, 1, columns)
    packed = SlotMatrix.of_copies(matrix, SLOTS)
    found = multiplied(holder, packed, np.tile(x, SLOTS // columns))
    count, index = len(packed.diagonals), np.arange(outputs)
    assert np.abs(found[index // count * columns + index % count] - matrix @ x).max() < 1e-3


def test_few_products_and_few_keys() -> None:
    packed = SlotMatrix.of_copies(np.ones((64, 256)), 4096)
    assert len(packed.diagonals) == 4  # 64 x 256 / 4096
    assert packed.rotations == (1, 2, 4, 8, 16, 32, 64, 128)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadSpec, match="at most 16 outputs"):
        SlotMatrix.of_blocks(np.ones((17, 16, 128)), SLOTS)
    with pytest.raises(BadSpec, match="power of two"):
        SlotMatrix.of_copies(np.ones((2, 100)), SLOTS)


def test_a_missing_key_and_a_matrix_of_zeros_are_refused(holder: KeyHolder) -> None:
    x = holder.encrypt(np.ones(SLOTS), SCALE)
    packed = SlotMatrix.of_copies(np.ones((2, 1024)), SLOTS)
    bare = holder.evaluator((1,))
    with pytest.raises(BadInput, match="no key for a rotation by 2"):
        packed.product(bare, packed.encoded(bare, 2), x)
    zeros = SlotMatrix.of_copies(np.zeros((2, 1024)), SLOTS)
    with pytest.raises(BadInput, match="transparent"):
        zeros.product(bare, zeros.encoded(bare, 2), x)


def test_keys_of_one_set_of_parameters_fit_no_other(holder: KeyHolder) -> None:
    bottom, level, special = primes_of(4096, [35, 27, 45])
    other = Context(checked("ckks", 4096, (bottom, level), special))
    secret = SecretKey(other.key_ring, Source.fresh(), 10)
    evaluator = KeyHolder(other, secret, PublicSeed.derived(b"other")).evaluator((1,))
    with pytest.raises(BadInput) as caught:
        evaluator.rotate(holder.encrypt(np.ones(SLOTS), SCALE), 1)
    assert caught.value.code == "input.context"

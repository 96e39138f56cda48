"""Products of matrices of words against Python integers, in every layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.engines.mpc import kernels
from enclave.engines.mpc.kernels import portable

U = np.uint64


def exact_product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By Python integers."""
    whole = x.astype(object) @ y.astype(object) if x.shape[1] else np.zeros((x.shape[0], y.shape[1]), object)
    return (whole % 2**64).astype(U)


def strided(rng: np.random.Generator, rows: int, columns: int, layout: str) -> np.ndarray:
    if layout == "transposed":
        return rng.integers(0, 2**64, (columns, rows), U).T
    if layout == "steps":
        return rng.integers(0, 2**64, (2 * rows + 1, 3 * columns + 1), U)[1::2, 1::3]
    if layout == "backwards":
        return rng.integers(0, 2**64, (rows, columns), U)[::-1, ::-1]
    return rng.integers(0, 2**64, (rows, columns), U)


LAYOUTS = st.sampled_from(["rows", "transposed", "steps", "backwards"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 140), st.integers(0, 40), LAYOUTS, LAYOUTS, LAYOUTS, st.integers(0, 2**32))
def test_products_modulo_2_to_64(
    n: int, depth: int, m: int, x_layout: str, y_layout: str, out_layout: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = strided(rng, n, depth, x_layout), strided(rng, depth, m, y_layout)
    expected = exact_product(x, y)
    assert np.array_equal(kernels.matmul(x, y), expected)
    out = strided(rng, n, m, out_layout)
    summed = out + expected
    other = out.copy()
    assert kernels.matmul(x, y, out, accumulate=True) is out
    portable.matmul(x, y, other, True)
    assert np.array_equal(out, summed) and np.array_equal(other, summed)
    kernels.matmul(x, y, out)
    portable.matmul(x, y, other, False)
    assert np.array_equal(out, expected) and np.array_equal(other, expected)


@pytest.mark.parametrize("shape", [(33, 2100, 18), (16, 1024, 16), (130, 513, 49), (1, 3000, 70), (70, 3000, 1)])
@pytest.mark.parametrize("word", [2**64 - 1, 2**63, 0xFF00FF00FF00FF00, 2**52 - 1])
def test_products_of_the_largest_words(shape: tuple[int, int, int], word: int) -> None:
    n, depth, m = shape
    x, y = np.full((n, depth), word, U), np.full((depth, m), word, U)
    assert (kernels.matmul(x, y) == U(word * word * depth % 2**64)).all()


def test_products_at_an_odd_address() -> None:
    x, y = np.random.default_rng(1).integers(0, 2**64, (2, 70, 70), U)
    memory = bytearray(8 * 70 * 70 + 3)
    shifted = np.frombuffer(memory, U, 70 * 70, 3).reshape(70, 70)
    shifted[:] = x
    expected = exact_product(x, y)
    assert np.array_equal(kernels.matmul(shifted, y), expected)
    assert np.array_equal(kernels.matmul(x, y, shifted), expected)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3), (2, 3)), ((2, 3), (3, 2), (3, 3)), ((2, 3), (3, 2), (2, 1))])
def test_products_of_unfit_shapes_are_refused(shapes: tuple[tuple[int, int], ...]) -> None:
    x, y, out = (np.zeros(shape, U) for shape in shapes)
    with pytest.raises(ValueError):
        kernels.matmul(x, y, out)

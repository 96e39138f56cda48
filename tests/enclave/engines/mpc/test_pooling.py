"""Window sums against the windows themselves, and their cost where the windows are large."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.pooling import window_counts, window_totals
from enclave.engines.mpc.recorder import Recorder


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 2, 0, 1), (2, 2, 2, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (1, 2)), ((4, 3), (3, 1)), ((3, 4), (5, 5))])
def test_sums_and_counts_are_those_of_the_windows(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 64, (2, 3, 9, 7), dtype=np.uint64)
    edges = ((padding[0], padding[2]), (padding[1], padding[3]))
    padded = np.pad(words, ((0, 0), (0, 0), *edges))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]
    expected = windows.sum(axis=(4, 5), dtype=np.uint64)
    assert np.array_equal(window_totals(words, kernel, stride, padding), expected)
    for include in (False, True):
        ones = np.pad(np.ones((9, 7)), edges, constant_values=float(include))
        cells = np.lib.stride_tricks.sliding_window_view(ones, kernel)[:: stride[0], :: stride[1]].sum(axis=(2, 3))
        assert np.array_equal(window_counts((9, 7), kernel, stride, padding, include), cells)


def test_a_plan_does_not_make_the_windows() -> None:
    """131071 x 131071 cells, 128 GiB as numbers, stand in no array."""
    engine, side = MpcEngine(Recorder(2), 20), 1 << 16
    x = engine.private(None, (1, 1, 1, 1), 0)
    y = engine.avg_pool2d(x, kernel=(side, side), stride=(side, side), padding=(side - 1,) * 4, count_include_pad=True)
    assert y.shape == (1, 1, 1, 1)

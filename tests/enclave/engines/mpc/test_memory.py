"""What a session keeps in memory, and how it counts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def test_an_opened_operand_keeps_no_other_one_alive(run: Callable[..., Any]) -> None:
    """Training keeps what was opened for every row: it must not keep the weights' messages beside it."""
    kept: dict[int, Any] = {}

    def program(engine: Any) -> Any:
        rows = engine.private(np.ones((4, 50)) if engine.rank == 0 else None, (4, 50), 0)
        weights = engine.add(engine.private(np.ones((50, 3)) if engine.rank == 1 else None, (50, 3), 1), 0.5)
        product = engine.matmul(rows, weights)
        if engine.rank is not None:
            kept[engine.rank] = rows.opened.difference
        return product

    run(2, program)
    other = kept[1]
    while isinstance(other, np.ndarray) and other.base is not None:
        other = other.base
    assert memoryview(other).nbytes == 4 * 50 * 8


PEAK = """
from enclave.engines.mpc.ranks import Linked
print(Linked.peak_rss_bytes.fget(None))
"""


def test_the_peak_is_this_program_s_own() -> None:
    """A process starts with its parent's peak in getrusage; a job started from a large program must not report that."""
    ballast = np.ones(50_000_000)  # 400 MB
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert ballast.sum() > 0
    assert 20_000_000 < int(done.stdout) < 300_000_000

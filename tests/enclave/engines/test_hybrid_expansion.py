"""Weights that travel as constants in few ciphertexts, and are expanded by the owners, in sessions of shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from enclave.engines.he.lattice.expansion import Expansion
from enclave.engines.he.linear.matvec import MatrixPacking
from enclave.engines.he.linear.shared_products import expanding_parameters, noise_deviation
from enclave.engines.hybrid import HybridEngine
from enclave.engines.interface import Engine
from enclave.engines.mpc.session import Session
from enclave.plan import Plan, make_plan
from tests.enclave.workloads.ranks import at_every_rank

ROWS, COLUMNS = 100_000, 300  # of the job by its plan; the tests compute the first blocks


@pytest.mark.parametrize("layout", [((0, 40), (0, 9)), ((0, 40), (1, 7)), ((2, 30), (0, 5), (1, 8))])
@pytest.mark.parametrize("magnitude", [1.0, 30.0])
def test_products_are_those_of_integers(layout: tuple[tuple[int, int], ...], magnitude: float) -> None:
    rng, buyer = np.random.default_rng(3), max(holder for holder, _ in layout) + 1
    rows = [(holder, rng.normal(0, magnitude, (n, COLUMNS))) for holder, n in layout]
    weights = rng.normal(0, 3, (COLUMNS, 1))
    counts = dict.fromkeys(range(buyer), ROWS)

    def program(session: Session) -> Any:
        engine = HybridEngine(session, 20, rows=counts)
        w = engine.private(weights if session.rank == buyer else None, weights.shape, buyer)
        blocks = [engine.private(x if session.rank == holder else None, x.shape, holder) for holder, x in rows]
        return [engine.matmul(x, w, lazy=True).share for x in blocks]

    shares = at_every_rank(buyer + 1, program)[: buyer + 1]
    ring = expanding_parameters().ring()
    packing, row_bits = MatrixPacking(ring.degree, COLUMNS, 1), 20 + np.log2(magnitude)
    noise = noise_deviation(ring, packing, row_bits, Expansion(COLUMNS, 5)) + 2**16.5  # what rounding c1 may add
    for place, (_, x) in enumerate(rows):
        found = np.sum([share[place] for share in shares], axis=0, dtype=np.uint64).view(np.int64)
        exact = np.rint(x * 2.0**20).astype(np.int64) @ np.rint(weights * 2.0**20).astype(np.int64)
        error = np.abs((found - exact).astype(np.float64)).max()
        assert 0 < error < 6 * noise and error < 2**19, "half a unit of 2^-20"


def _planned(rows: int, columns: int) -> Plan:
    def workload(planned: Engine) -> None:
        weights = planned.private(None, (columns, 1), 1)
        for start in range(0, rows, 4096):
            planned.matmul(planned.private(None, (min(4096, rows - start), columns), 0), weights, lazy=True)

    return make_plan(2, 20, workload, engine="hybrid", rows={0: rows})


KEY, ANSWER = 102_400, 54_272  # 8192 coefficients of 100 bits, and of 53


def test_bytes_and_rounds() -> None:
    plan = _planned(ROWS, 200)
    assert plan.link_bytes == {(0, 1): 25 * ANSWER, (1, 0): 8 * KEY + 5 * 3 * KEY}
    assert plan.rounds == 26 and plan.dealer_bytes == 0
    assert sum(plan.link_bytes.values()) == 3_712_000


def test_few_columns_or_rows_are_not_expanded() -> None:
    for rows, columns in ((ROWS, 30), (2_000, 200), (ROWS, 1)):
        assert _planned(rows, columns).link_bytes[(1, 0)] % 51_200 == 0
        assert _planned(rows, columns).link_bytes[(0, 1)] % 26_624 == 0

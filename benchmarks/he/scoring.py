"""Scores of an owner's rows under an encrypted model, in whole sessions of owner and buyer."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.he.inputs import Arrays, Floats
from benchmarks.he.sessions import Ran, run_session
from benchmarks.measurement import versions
from benchmarks.peers.serving import clocked
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.linear.encodings import Encodings
from enclave.engines.he.linear.packing import EncodedRows
from enclave.engines.he.linear.scoring import RANGE, plan_scoring, score
from enclave.engines.he.linear.weights import query_phases, send_weights
from enclave.engines.interface import Permit
from enclave.plan import make_plan

__all__ = ["Scoring"]

_FRAC_BITS = 20
_OWNER, _BUYER = 0, 1
_MAGNITUDE = 8.0
_KEPT_BYTES = 1 << 34


class _Rows:
    """Rows in memory."""

    def __init__(self, x: Floats) -> None:
        self._x = x
        self.rows, self.columns = x.shape

    def block(self, start: int, stop: int) -> Floats:
        return self._x[start:stop]


class Scoring:
    """One session with rows that are not encoded, and one with rows that are."""

    def __init__(self, inputs: Arrays) -> None:
        self.versions = versions()
        self._x, self._w = inputs["x"], inputs["w"].reshape(-1, 1)
        rows, columns = self._x.shape
        self._plan = plan_scoring(columns, 1, rows, _FRAC_BITS, _MAGNITUDE)
        self._steps = make_plan(
            2, _FRAC_BITS, lambda engine: self._program(engine, None), engine="he", has_dealer=False
        )
        self._kept = Encodings(_KEPT_BYTES)
        self._scores = np.zeros(0)

    def run(self) -> dict[str, Any]:
        if not self._scores.size:
            self._session(self._kept)  # encodes
        fresh = self._session(None)
        ran, times = clocked(lambda: self._session(self._kept))
        self._scores = ran.results[_BUYER][:, 0]
        rows = len(self._x)
        work_s, expansion_s = ran.results[_OWNER]
        traffic = ran.traffic(self._steps)
        return {
            "cpu_s": list(ran.cpu_s),
            "wall_s": times["wall_s"],
            **traffic,
            "figures": {
                "rows_per_s": rows / work_s,
                "encoding_rows_per_s": rows / fresh.results[_OWNER][0],
                "expansion_s": expansion_s,
                "up_bytes": traffic["sent_bytes"],
                "row_bytes": traffic["received_bytes"] / rows,
                "hiding_bits": self._plan.hiding.bits,
            },
        }

    def _session(self, kept: Encodings | None) -> Ran:
        def program(session: Any, rank: int) -> Any:
            return self._program(HeEngine(session, _FRAC_BITS, workers=1), kept)

        return run_session(self._steps, program)

    def _program(self, engine: Any, kept: Encodings | None) -> Any:
        """Scores at the buyer; CPU seconds of the owner's work, and of expanding weights by itself."""
        plan, ranges = self._plan, np.abs(self._w).sum(axis=0) * _MAGNITUDE

        def phases(ring: Ring) -> Words:
            return query_phases(ring, plan.query, self._w / (RANGE * ranges), _FRAC_BITS)

        weights = engine.run(send_weights(engine, plan.query, phases if engine.is_buyer else None))
        rows, expansion_s = None, 0.0
        if engine.rank == _OWNER:
            begun_s = time.thread_time()
            for _ in weights.parts():
                pass
            expansion_s = time.thread_time() - begun_s
            limit = plan.work.row_limit
            rows = EncodedRows(weights.ring, plan.packing, _Rows(self._x), _FRAC_BITS, limit, kept, (b"rows",))
        begun_s = time.thread_time()
        holders = [(_OWNER, len(self._x))]
        sealed = engine.run(score(engine, plan, weights, holders, rows, ranges if engine.is_buyer else None))
        work_s = time.thread_time() - begun_s
        scores = engine.open("scores", sealed, _BUYER, Permit("benchmark", ["scores"]))
        return scores if engine.rank == _BUYER else (work_s, expansion_s)

    def outputs(self) -> dict[str, Any]:
        return {"y": self._scores}

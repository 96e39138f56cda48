"""A product of an owner's rows with a buyer's weights into shares: encrypted, and against masking the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.he.inputs import Arrays
from benchmarks.he.sessions import run_session
from benchmarks.measurement import versions
from benchmarks.peers.serving import clocked
from enclave.engines.hybrid import engine_for
from enclave.plan import Plan, make_plan

__all__ = ["Hybrid"]

_FRAC_BITS = 20
_BLOCK_ROWS = 4096
_OWNER, _BUYER = 0, 1


class Hybrid:
    """Shares of all products, with a dealer at hand; their sum is looked at outside of the session."""

    def __init__(self, inputs: Arrays) -> None:
        self.versions = versions()
        self._x, self._w = inputs["x"], inputs["w"].reshape(-1, 1)
        self._plan, self._masked = (self._planned(engine) for engine in ("hybrid", "mpc"))
        self._share_words = np.zeros(0, np.int64)

    def _planned(self, engine: str) -> Plan:
        return make_plan(2, _FRAC_BITS, self._program, engine=engine, rows=self._rows)

    @property
    def _rows(self) -> dict[int, int]:
        return {_OWNER: len(self._x)}

    def _program(self, engine: Any) -> Any:
        owner, buyer = engine.rank == _OWNER, engine.rank == _BUYER
        found = []
        with engine.stage("product"):
            weights = engine.private(self._w if buyer else None, self._w.shape, _BUYER)
            for start in range(0, len(self._x), _BLOCK_ROWS):
                block = self._x[start : start + _BLOCK_ROWS]
                rows = engine.private(block if owner else None, block.shape, _OWNER)
                found.append(engine.matmul(rows, weights, lazy=True).share)
        return found

    def run(self) -> dict[str, Any]:
        def program(session: Any, rank: int) -> Any:
            found = self._program(engine_for("hybrid", session, _FRAC_BITS, "lan", self._rows))
            return None if rank > _BUYER else np.concatenate(found)

        ran, times = clocked(lambda: run_session(self._plan, program, dealer=True))
        self._share_words = (ran.results[_OWNER] + ran.results[_BUYER]).view(np.int64)[:, 0]
        exact = _fixed(self._x) @ _fixed(self._w)[:, 0]
        errors = np.abs((self._share_words - exact).astype(np.float64)) * 2.0**-_FRAC_BITS
        sent, masked = _bytes(self._plan), _bytes(self._masked)
        return {
            "cpu_s": list(ran.cpu_s),
            "wall_s": times["wall_s"],
            **ran.traffic(self._plan),
            "dealer_bytes": self._plan.dealer_bytes,
            "figures": {
                "bytes": sent,
                "masked_bytes": masked,
                "fewer_bytes": masked / sent,
                "share_error": float(errors.max()),
                "wrong_shares": int((errors > 0.5).sum()),
            },
        }

    def outputs(self) -> dict[str, Any]:
        return {"y": self._share_words * 2.0 ** (-2 * _FRAC_BITS)}


def _fixed(x: Any) -> Any:
    return np.rint(x * 2.0**_FRAC_BITS).astype(np.int64)


def _bytes(plan: Plan) -> int:
    return sum(plan.link_bytes.values())

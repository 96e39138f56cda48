"""Homomorphic encryption joined to secret sharing, and the choice of a job's engine."""

from __future__ import annotations

from typing import cast

from enclave.engines.interface import Engine
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.session import Session

__all__ = ["HybridEngine", "engine_for"]


class HybridEngine(MpcEngine):
    """`MpcEngine`, whose products of rows known to owners with weights known to the buyer are encrypted."""


def engine_for(engine: str, session: Session, frac_bits: int, network: str = "lan", rows: int = 0) -> Engine:
    """The engine of a job, as its specification names it.

    Args:
        engine: "mpc", "hybrid" or "he"; without a dealer "he" alone, which opens nothing but its outputs.
        rows: of the whole job, by which packings are chosen; 0: unknown.
    """
    if engine == "mpc":
        return cast(Engine, MpcEngine(session, frac_bits, network))
    if engine == "he" and not session.has_dealer:
        from enclave.engines.he.engine import HeEngine

        return cast(Engine, HeEngine(session, frac_bits))
    return cast(Engine, HybridEngine(session, frac_bits, network))

"""Correlated randomness of binary shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclave.engines.mpc.tape import Array, Draw, Spec, packed_bits

__all__ = ["AndTriple"]


@dataclass(frozen=True, slots=True)
class AndTriple:
    """Uniform words a and b, and a & b with broadcasting; all shared by exclusive or."""

    x: tuple[int, ...]
    y: tuple[int, ...]

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "and"

    @property
    def free(self) -> tuple[Spec, ...]:
        """a and b."""
        return (packed_bits(*self.x), packed_bits(*self.y))

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """a & b."""
        return (packed_bits(*np.broadcast_shapes(self.x, self.y)),)

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From a and b."""
        return (free[0] & free[1],)

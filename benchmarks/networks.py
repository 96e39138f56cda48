"""The networks that systems are measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["PROFILES", "Network"]


@dataclass(frozen=True, slots=True)
class Network:
    """Round-trip time added to every link, and the bandwidth of each direction of each link."""

    name: str
    round_trip_s: float
    bandwidth_bps: float
    chosen_for: str = "lan"  # what a job says of its network, by which protocols are chosen

    @property
    def latency_s(self) -> float:
        """One way."""
        return self.round_trip_s / 2


PROFILES: Mapping[str, Network] = MappingProxyType(
    {
        "loopback": Network("loopback", 0.0, math.inf),
        "lan": Network("lan", 0.3e-3, 1e9),
        "wan": Network("wan", 40e-3, 100e6, "wan"),
    }
)

"""Time as an argument, so that tests can turn it."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Wall-clock time in whole seconds since 1970, and a monotonic time for durations."""

    def unix_s(self) -> int: ...

    def monotonic_s(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def unix_s(self) -> int:
        return int(time.time())

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands until it is told to move."""

    def __init__(self, unix_s: int = 1_700_000_000) -> None:
        self._now_s = float(unix_s)

    def unix_s(self) -> int:
        return int(self._now_s)

    def monotonic_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Moves the clock forward by `seconds` >= 0."""
        if seconds < 0:
            raise ValueError(f"a clock only goes forward, got {seconds}")
        self._now_s += seconds

"""What a suite of cases is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.measurement import Measurement

__all__ = ["Settings", "Suite", "Unavailable", "suites"]


class Unavailable(Exception):
    """A case that cannot run here; the text says what is missing."""


class Settings(Protocol):
    """What the command line decides for all cases of a run."""

    @property
    def repeat(self) -> int: ...

    @property
    def profile(self) -> str: ...

    @property
    def data(self) -> Path | None: ...

    @property
    def say(self) -> Callable[[str], None]: ...


class Suite(Protocol):
    """Cases that can be measured on several systems."""

    @property
    def name(self) -> str: ...

    @property
    def systems(self) -> Sequence[str]: ...

    @property
    def usual(self) -> Sequence[str]:
        """The systems that are measured unless others are named."""
        ...

    def listed(self) -> Sequence[tuple[str, str]]:
        """(name, one line about it) of every case that a glob can match."""
        ...

    def exists(self, name: str) -> bool:
        """Whether `name` is a case, listed or not: parameters in a name may have other values than the listed ones."""
        ...

    def measure(self, name: str, systems: Sequence[str], settings: Settings) -> Iterator[Measurement]:
        """Runs one case on each of `systems`, alternating between them where it is repeated."""
        ...


def suites() -> dict[str, Suite]:
    """All suites by name."""
    from benchmarks.floor.suite import FloorSuite
    from benchmarks.he.suite import HeSuite
    from benchmarks.jobs import JobSuite
    from benchmarks.mpc.suite import MpcSuite

    return {suite.name: suite for suite in (JobSuite(), MpcSuite(), HeSuite(), FloorSuite())}

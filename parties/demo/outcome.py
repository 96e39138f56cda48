"""What the demonstration found, as values; `showing` in the command line turns them into text or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parties.buyer import Cost

__all__ = ["DemoOutcome", "Figure", "Job", "View"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of an encrypted job beside the same computation in the clear."""

    name: str
    encrypted: float
    plaintext: float

    @property
    def difference(self) -> float:
        """Encrypted minus plaintext."""
        return self.encrypted - self.plaintext


@dataclass(frozen=True, slots=True)
class View:
    """What one party saw of a job, and what it did not."""

    party: str
    role: str
    sees: tuple[str, ...]
    hidden: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One encrypted job of the demonstration.

    Attributes:
        dealer: its name; empty for a job without one.
        hiding: each kind of ciphertext that left an owner, and by how many bits its rows are hidden; None: perfectly.
        repeats: whether a job before it had the same parties, so that what they saw was said already.
    """

    title: str
    engine: str
    dealer: str
    repeats: bool
    job_id: str
    figures: tuple[Figure, ...]
    planned: Cost
    measured: Cost
    seconds: float
    views: tuple[View, ...]
    checks: int
    failed_checks: tuple[str, ...]
    receipt: Path
    report: Path
    verdict: str
    hiding: tuple[tuple[str, float | None], ...] = ()

    @property
    def ok(self) -> bool:
        """The receipt verifies and the run is the plan, byte for byte."""
        return not self.failed_checks and self.measured == self.planned

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        figures = [{"name": f.name, "encrypted": f.encrypted, "plaintext": f.plaintext} for f in self.figures]
        views = [{"party": v.party, "sees": list(v.sees), "does_not_see": list(v.hidden)} for v in self.views]
        return {
            "title": self.title,
            "engine": self.engine,
            "dealer": self.dealer or None,
            "job_id": self.job_id,
            "figures": figures,
            "planned": self.planned.to_json(),
            "measured": self.measured.to_json(),
            "seconds": round(self.seconds, 3),
            "hiding": [{"label": label, "bits": bits} for label, bits in self.hiding],
            "views": views,
            "receipt": {"path": str(self.receipt), "checks": self.checks, "failed": list(self.failed_checks)},
            "report": {"path": str(self.report), "verdict": self.verdict},
        }


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """Everything the demonstration did."""

    folder: Path
    jobs: tuple[Job, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every job agrees with its plan and its receipt verifies."""
        return all(job.ok for job in self.jobs)

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "ok": self.ok,
            "folder": str(self.folder),
            "seconds": round(self.seconds, 1),
            "jobs": [job.to_json() for job in self.jobs],
        }

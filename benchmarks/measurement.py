"""One measured case on one system: a line of a results file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Measurement", "Spread", "append", "read", "versions"]

_LIBRARIES = ("enclave", "torch", "numpy", "scikit-learn", "crypten", "tenseal", "grpcio", "cryptography", "pyarrow")


@dataclass(frozen=True, slots=True)
class Spread:
    """Times of the repeats of one case, in seconds: by the wall clock; in the suite he of the CPU."""

    median_s: float
    p10_s: float
    p90_s: float
    repeats: int

    @classmethod
    def of(cls, times_s: Sequence[float]) -> Spread:
        """Median and deciles; raises ValueError for no times."""
        if not times_s:
            raise ValueError("no times to summarise")
        low, middle, high = (float(q) for q in np.quantile(np.array(times_s), (0.1, 0.5, 0.9)))
        return cls(round(middle, 7), round(low, 7), round(high, 7), len(times_s))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures, times and traffic. A field is None where the system or the case has no such thing.

    Attributes:
        accuracy, auc: what the system found.
        plain_accuracy, plain_auc: the same algorithm and schedule in float64.
        reference_accuracy, reference_auc: the published figure for this split, by another algorithm.
        difference_points: accuracy minus plain accuracy, in percentage points. difference_auc: the same of the AUC.
        max_error: largest absolute difference from the plain twin, of a released weight (training) or figure.
        profile: the network, see `benchmarks.networks`.
        cpu_s: CPU seconds of one repetition by process: the parties in order, then the dealer if there is one.
        session_s: the part of the time between the proposal and the released result.
        sent_bytes, received_bytes: of the compute party with the most; dealt bytes count as received. Of the suite he:
            of the buyer in a job, else of who computes on ciphertexts.
        peak_rss_bytes: by party.
        figures: of the suite floor its limits, of a protocol the work in its plan (`benchmarks.mpc.work`), of the
            suite he what `benchmarks.he.cases` names.
        error: why there are no figures.
    """

    suite: str
    case: str
    system: str
    profile: str = "loopback"
    accuracy: float | None = None
    plain_accuracy: float | None = None
    reference_accuracy: float | None = None
    difference_points: float | None = None
    auc: float | None = None
    plain_auc: float | None = None
    reference_auc: float | None = None
    difference_auc: float | None = None
    max_error: float | None = None
    median_s: float | None = None
    p10_s: float | None = None
    p90_s: float | None = None
    repeats: int = 0
    session_s: float | None = None
    cpu_s: Sequence[float] | None = None
    rounds: int | None = None
    sent_bytes: int | None = None
    received_bytes: int | None = None
    dealer_bytes: int | None = None
    peak_rss_bytes: Mapping[str, int] | None = None
    figures: Mapping[str, float] | None = None
    error: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line; what is None is left out."""
        return json.dumps({k: v for k, v in asdict(self).items() if v is not None})

    @classmethod
    def from_json(cls, line: str) -> Measurement:
        """The inverse of `to_json`; raises ValueError for anything else."""
        value: Any = json.loads(line)
        known = {f.name for f in fields(cls)}
        if not isinstance(value, dict) or not {"suite", "case", "system"} <= set(value) <= known:
            raise ValueError(f"expected a measurement, found {line[:80]!r}")
        return cls(**value)


def append(path: Path, found: Measurement) -> None:
    """Adds a line to a results file: what is measured is kept even if a later case fails."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(found.to_json() + "\n")


def read(path: Path) -> Iterator[Measurement]:
    """The lines of a results file; raises ValueError naming the one that is none."""
    for number, line in enumerate(_lines(path), 1):
        try:
            yield Measurement.from_json(line)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error


def _lines(path: Path) -> Iterable[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected lines of JSON, found bytes that are not UTF-8") from error
    return (line for line in text.splitlines() if line.strip())


@cache
def versions() -> dict[str, str]:
    """Interpreter, machine and libraries, as far as they are installed."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} CPUs"}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name == "enclave":  # a checkout that is not installed
                from enclave import __version__

                found[name] = __version__
    return found

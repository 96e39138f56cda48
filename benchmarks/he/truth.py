"""Whether a system computed what it should: against float64, and for trainings on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.he.cases import Case
from benchmarks.he.inputs import Arrays, make_inputs
from benchmarks.he.jobs import Trained
from benchmarks.he.plain import exact
from benchmarks.measurement import Measurement

__all__ = ["Truth", "error_of"]

# Of `error_of`. Above it a line is no result; what a system promises is far below.
_BOUNDS = {"matvec": 1e-3, "operation": 1e-4, "cnn": 2e-2, "scoring": 1e-3, "rmse": 1e-4, "hybrid": 1e-4, "train": 1e-2}
_PEER_BOUNDS = {"cnn": 0.5}  # the tutorial's scale of 2^26 leaves a score's first digit, and its argmax


class Truth:
    """What a case must give. Raises Unavailable where its data set is not here."""

    def __init__(self, case: Case, data: Path | None) -> None:
        self._case = case
        self._trained = Trained.of(case, data) if case.kind == "train" else None
        if self._trained is None:
            self._wanted = exact(case, make_inputs(case))()
        else:
            self._wanted = {"w": self._trained.twin()}
            self._reference = self._trained.reference()

    def judged(self, line: Measurement, found: Arrays) -> Measurement:
        """The line with its errors and accuracies.

        Raises ValueError for outputs that are wrong, missing or of another shape.
        """
        kind = self._case.kind
        bounds = _BOUNDS if line.system in ("enclave", "plain") else {**_BOUNDS, **_PEER_BOUNDS}
        error, allowed = error_of(found, self._wanted), bounds[kind]
        if error > allowed:
            raise ValueError(f"wrong: the error is {error:.3g}, at most {allowed:.3g}")
        line = replace(line, max_error=error)
        if self._trained is not None:
            accuracy, plain = (self._trained.accuracy(weights["w"]) for weights in (found, self._wanted))
            return replace(
                line,
                accuracy=accuracy,
                plain_accuracy=plain,
                reference_accuracy=self._reference,
                difference_points=100 * (accuracy - plain),
            )
        equal = self._equal(found)
        return line if equal is None else replace(line, figures={"equal": equal})

    def _equal(self, found: Arrays) -> float | None:
        """The part of decisions that are those of float64."""
        if self._case.kind == "scoring":
            return float(np.mean((found["y"] > 0) == (self._wanted["y"] > 0)))
        if self._case.kind == "cnn":
            done = ~np.isnan(found["y"]).any(axis=1)
            return float(np.mean(found["y"][done].argmax(axis=1) == self._wanted["y"][done].argmax(axis=1)))
        return None


def error_of(found: Mapping[str, Any], wanted: Arrays) -> float:
    """Largest |found - exact| / max(1, |exact|); what was not computed (not a number) does not count.

    Raises ValueError for outputs that are missing, of another shape, or not computed at all.
    """
    if set(found) != set(wanted):
        raise ValueError(f"expected the outputs {sorted(wanted)}, found {sorted(found)}")
    worst = 0.0
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise ValueError(f"expected {name} of shape {value.shape}, found {found[name].shape}")
        gaps = np.abs(found[name] - value) / np.maximum(1.0, np.abs(value))
        if np.isnan(gaps).all():
            raise ValueError(f"expected numbers in {name}, found none")
        worst = max(worst, float(np.nanmax(gaps)))
    return worst

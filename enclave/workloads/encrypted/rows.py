"""An owner's rows as an encrypted product takes them: scaled columns of known magnitude, and a column of ones.

Columns come in units, public powers of two in which each fills half of [-16, 16] or more, so that one number of
fractional bits serves all of them; of standardised rows the unit is the standard deviation.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclave.errors import BadSpec
from enclave.messages import JobSpec
from enclave.workloads.inputs import Rows
from enclave.workloads.specification import HALF_RANGE, bounds, row_holders, target_bound
from enclave.workloads.standardise import column_units, own_scaling

__all__ = ["JobColumns", "JobRows", "encoding_key"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class JobColumns:
    """What is public about the columns of a job, the one of ones last.

    Attributes:
        units: public factor of each of the encoding's columns. bounds: the largest magnitudes after it, all columns.
        rms: bounds of the root mean squares over all rows of the job, all columns.
        target_unit, target_bound: the same of a numeric target; 1 and 0 without.
    """

    units: Floats
    bounds: Floats
    rms: Floats
    target_unit: float
    target_bound: float

    @classmethod
    def of(cls, spec: JobSpec) -> JobColumns:
        """Raises BadSpec: rows of several owners are to be standardised together, which needs shares."""
        standardised = spec.encoding.standardise
        if standardised and len(row_holders(spec)) > 1:
            raise BadSpec(
                "rows of several owners are standardised together on shares, which engine he without a dealer has not",
                hint="leave standardisation out, standardise beforehand, or use --engine hybrid or --engine mpc",
            )
        units = column_units(spec)
        largest = np.full(len(units), math.sqrt(max(1, spec.rows - 1))) if standardised else bounds(spec) * units
        rms = np.ones(len(units)) if standardised else largest
        target = spec.encoding.target
        unit, bound = 1.0, 0.0
        if target is not None and target.numeric is not None:
            unit = 2.0 ** -math.ceil(math.log2(target_bound(spec) / HALF_RANGE))
            bound = target_bound(spec) * unit
        return cls(units, np.append(largest, 1.0), np.append(rms, 1.0), unit, bound)

    @property
    def magnitude(self) -> float:
        """The largest magnitude of any number of a row."""
        return float(max(HALF_RANGE, self.bounds.max()))

    def weights(self, spec: JobSpec, matrix: Floats, bias: Floats) -> Floats:
        """[columns, scores] for rows in these columns, of a model x A + b of rows as they are encoded."""
        scaled = matrix if spec.encoding.standardise else matrix / self.units[:, None]
        return np.concatenate([scaled, bias[None]])


class JobRows:
    """Rows of this party: a `RowBlocks` of `columns` columns, the last of ones."""

    def __init__(self, spec: JobSpec, columns: JobColumns, rows: Rows) -> None:
        self._rows, self._columns, self._block_rows = rows, columns, spec.block_rows
        self._scaling = own_scaling(spec, rows) if spec.encoding.standardise else None

    def __repr__(self) -> str:
        return f"JobRows({self.rows} x {self.columns})"

    @property
    def rows(self) -> int:
        """Rows of this party."""
        return self._rows.rows

    @property
    def columns(self) -> int:
        """Columns of a row, the one of ones among them."""
        return len(self._columns.bounds)

    def block(self, start: int, stop: int) -> Floats:
        """Rows start..stop, (stop - start, columns)."""
        found = np.ones((stop - start, self.columns))
        np.multiply(self._rows.features(start, stop), self._columns.units, out=found[:, :-1])
        if self._scaling is not None:
            found[:, :-1] -= self._scaling[0]
            found[:, :-1] *= self._scaling[1]
        return found

    def add_gram(self, total: Floats, step: int = 0, steps: int = 1) -> None:
        """Adds sum_r t_r t_r^T over one of some steps of the rows to `total`, symmetric.

        Args:
            total: [columns, columns] for t = columns, one more for t = (columns, target).
        """
        edges = self._edges()
        for start, stop in edges[step * len(edges) // steps : (step + 1) * len(edges) // steps]:
            t = self.block(start, stop)
            if len(total) > self.columns:
                y = self._rows.targets(start, stop).astype(np.float64) * self._columns.target_unit
                t = np.concatenate([t, y[:, None]], axis=1)
            total += t.T @ t

    def sums(self) -> Floats:
        """Sums of the columns."""
        total = np.zeros(self.columns)
        for start, stop in self._edges():
            total += self.block(start, stop).sum(axis=0)
        return total

    def _edges(self) -> list[tuple[int, int]]:
        step = max(self._block_rows, 4096)
        return [(start, min(self.rows, start + step)) for start in range(0, self.rows, step)]


def encoding_key(spec: JobSpec, rank: int) -> tuple[bytes, ...]:
    """What names the encoded rows of an owner: its data set, the version, and how rows are read."""
    dataset = spec.datasets[rank]
    digest = hashlib.sha256(spec.encoding.encode() + bytes([spec.encoding.standardise, spec.frac_bits])).digest()
    return dataset.name.encode(), dataset.version, digest

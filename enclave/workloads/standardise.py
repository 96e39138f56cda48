"""Joint standardisation: mean 0 and variance 1 over all parties' rows, with no party's moments shown to another.

Each party computes the mean and the sum of squares of its own rows in the clear and enters them as secrets; only
what lies between the parties is computed on shares, a few numbers a column whatever the number of rows. When one
party holds all rows it standardises them by itself, and nothing is computed on shares at all.

Columns are first multiplied by a public power of two each, so that their declared range fills [-16, 16]: the fixed
point then resolves the variance of narrow columns. A column whose standard deviation is below 2^-(frac_bits - 6)/2
in this unit (for 20 bits: 1/2048 of half its declared range) counts as constant: it is centred, not scaled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Engine, Secret
from enclave.messages import JobSpec
from enclave.workloads.inputs import Inputs, Rows
from enclave.workloads.specification import HALF_RANGE, bounds, row_holders

__all__ = ["Standardiser", "column_units", "own_scaling", "target_moments"]

FloatArray = NDArray[np.float64]


def column_units(spec: JobSpec) -> FloatArray:
    """The public power of two that each encoded column is multiplied by, (width,)."""
    exponents = np.ceil(np.log2(bounds(spec) / HALF_RANGE))
    units: FloatArray = np.exp2(-exponents)
    return units


def _merge(total: tuple[int, FloatArray, FloatArray], block: FloatArray) -> tuple[int, FloatArray, FloatArray]:
    """Count, mean and sum of squares about the mean with a block added, without cancellation (Chan 1979)."""
    count, mean, squares = total
    size = block.shape[0]
    own = block.mean(axis=0)
    gap = own - mean
    both = count + size
    squares = squares + ((block - own) ** 2).sum(axis=0) + gap * gap * (count * size / both)
    return both, mean + gap * (size / both), squares


def target_moments(rows: Rows, block_rows: int) -> tuple[float, float]:
    """Mean and sum of squares about it of a party's numeric targets."""
    total = (0, np.zeros(()), np.zeros(()))
    for start in range(0, rows.rows, block_rows):
        total = _merge(total, rows.targets(start, min(rows.rows, start + block_rows)).astype(np.float64))
    return float(total[1]), float(total[2])


def _moments(rows: Rows, units: FloatArray, block_rows: int) -> tuple[FloatArray, FloatArray]:
    """Mean and sum of squares about it of a party's columns in these units."""
    total = (0, np.zeros(len(units)), np.zeros(len(units)))
    for start in range(0, rows.rows, block_rows):
        total = _merge(total, rows.features(start, min(rows.rows, start + block_rows)) * units)
    return total[1], total[2]


def _floor(spec: JobSpec) -> float:
    """The variance below which a column counts as constant."""
    return 2.0 ** -(spec.frac_bits - 6)


def _scaling(spec: JobSpec, moments: tuple[FloatArray, FloatArray], rows: int) -> tuple[FloatArray, FloatArray]:
    variance = moments[1] / rows
    return moments[0], 1.0 / np.sqrt(np.where(variance < _floor(spec), 1.0, variance))


def own_scaling(spec: JobSpec, rows: Rows) -> tuple[FloatArray, FloatArray]:
    """Mean and 1 / standard deviation, in column units, of the columns of the one party that has all rows."""
    return _scaling(spec, _moments(rows, column_units(spec), spec.block_rows), rows.rows)


class Standardiser:
    """Moments of the job's rows and their use.

    Attributes:
        units: public factors of the columns, (width,).
        mean, inverse: mean and 1 / standard deviation of the columns in these units, secrets (1, width).
    """

    def __init__(self, engine: Engine, spec: JobSpec, inputs: Inputs) -> None:
        self.units = column_units(spec)
        self._holders = row_holders(spec)
        self._spec, self._floor = spec, _floor(spec)
        self._own: tuple[FloatArray, FloatArray] | None = None
        width = spec.encoding.width
        moments: list[tuple[FloatArray, FloatArray] | None] = []
        for rank, _ in self._holders:
            rows = inputs.of(rank, engine.rank)
            moments.append(None if rows is None else _moments(rows, self.units, spec.block_rows))
        with engine.stage("standardise"):
            if len(self._holders) == 1:
                self.mean, self.inverse = self._alone(engine, moments[0], width)
            else:
                self.mean, self.inverse = self._joint(engine, moments, width)

    @property
    def alone(self) -> bool:
        """Whether one party holds all rows and standardises them in the clear."""
        return len(self._holders) == 1

    def _alone(
        self, engine: Engine, moments: tuple[FloatArray, FloatArray] | None, width: int
    ) -> tuple[Secret, Secret]:
        rank, rows = self._holders[0]
        if moments is not None:
            self._own = _scaling(self._spec, moments, rows)
        own: tuple[FloatArray | None, FloatArray | None] = (None, None) if self._own is None else self._own
        mean, inverse = (
            engine.private(None if part is None else part.reshape(1, width), (1, width), rank) for part in own
        )
        return mean, inverse

    def _joint(
        self, engine: Engine, moments: list[tuple[FloatArray, FloatArray] | None], width: int
    ) -> tuple[Secret, Secret]:
        total = sum(rows for _, rows in self._holders)
        mean, variance = engine.zeros((1, width)), engine.zeros((1, width))
        means: list[Secret] = []
        for (rank, rows), known in zip(self._holders, moments, strict=True):
            values = (None, None, None) if known is None else (known[0], known[0] * (rows / total), known[1] / total)
            own, share, spread = (
                engine.private(None if v is None else v.reshape(1, width), (1, width), rank) for v in values
            )
            means.append(own)
            mean, variance = engine.add(mean, share), engine.add(variance, spread)
        apart = engine.sub(engine.concat(means, axis=0), mean)
        weights = np.array([[rows / total] for _, rows in self._holders])
        between = engine.scale(engine.mul(apart, apart), weights)
        variance = engine.add(variance, engine.sum(between, axis=0, keepdims=True))
        # A constant column has variance 0 (up to rounding): it is divided by 1 instead.
        varies = engine.ge_zero(engine.sub(variance, self._floor))
        safe = engine.add(engine.mul(varies, engine.sub(variance, 1.0)), 1.0)
        return mean, engine.inverse_sqrt(safe, self._floor, 1.05 * HALF_RANGE**2)

    def prepare(self, x: FloatArray) -> FloatArray:
        """What the party that holds rows does to them in the clear."""
        scaled = x * self.units
        if self._own is not None:
            scaled = (scaled - self._own[0]) * self._own[1]
        return scaled

    def apply(self, engine: Engine, x: Secret) -> Secret:
        """Standardises prepared rows (n, width): nothing to do where the holder has done it. Cost: n products."""
        if self.alone:
            return x
        return engine.mul(engine.sub(x, self.mean), self.inverse)

    def fold(self, engine: Engine, weight: Secret, bias: Secret | None) -> tuple[Secret, Secret]:
        """Weight (width, out) and bias that take rows in column units where these took standardised rows.

        ((u - mean) inverse) W + b = u (inverse W) + (b - mean (inverse W)). Cost: one product of W's size.
        """
        folded = engine.mul(weight, engine.reshape(self.inverse, (weight.shape[0], 1)))
        shift = engine.reshape(engine.matmul(self.mean, folded), (weight.shape[1],))
        return folded, engine.neg(shift) if bias is None else engine.sub(bias, shift)

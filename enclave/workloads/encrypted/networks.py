"""Predictions of polynomial networks without a dealer: linear layers, convolutions, and products of what they put out.

buyer:   multiplies out its model between the products, encrypts it      owners: encoded rows, in the clear
all:     shares of every layer, by `engines.he.polynomial`               nothing leaves before the permit
result:  outputs of each row; the buyer applies a final activation itself
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine
from enclave.engines.he.forms import read_network
from enclave.engines.he.networks import NetworkPlan, check_range, plan_network
from enclave.engines.he.polynomial import NetworkRows, predict_network
from enclave.engines.he.predictions import Predictions
from enclave.errors import BadSpec
from enclave.messages import Architecture, JobSpec
from enclave.models.graph import output_shape
from enclave.workloads.encrypted.affine import AffineForm
from enclave.workloads.encrypted.rows import JobColumns, JobRows
from enclave.workloads.inputs import Inputs, Rows
from enclave.workloads.specification import HALF_RANGE, row_holders

__all__ = ["check_polynomial", "has_products", "predict_polynomial"]

Floats = NDArray[np.float64]


def has_products(architecture: Architecture) -> bool:
    """Whether a network multiplies values that depend on the row, as activations of a polynomial do."""
    return any(layer.op == "mul" and len(layer.inputs) == 2 for layer in architecture.layers)


def check_polynomial(spec: JobSpec) -> NetworkPlan:
    """The public plan of a job's network.

    Raises:
        BadModel: a layer that is no polynomial, too wide or too deep, named; it says what engine would do.
        BadSpec: another output than predictions; rows of several owners that are to be standardised together.
    """
    others = [name for name in spec.outputs if name != "predictions"]
    if others:
        raise BadSpec(
            f"of a polynomial network, engine he without a dealer gives predictions alone, found {', '.join(others)}",
            hint="name a dealer, or use --engine hybrid or --engine mpc",
        )
    columns = JobColumns.of(spec)
    return plan_network(read_network(spec.architecture, None, _units(spec, columns)), _limit(spec, columns))


def predict_polynomial(engine: HeEngine, spec: JobSpec, inputs: Inputs) -> Predictions:
    """The outputs of the job's network, sealed.

    Raises: RangeExceeded: at the buyer, before it sends anything: values could leave the numbers that are planned for.
    """
    columns, factor = JobColumns.of(spec), _factor(spec)
    plan = check_polynomial(spec)
    if engine.is_buyer and inputs.model is not None:
        network = read_network(spec.architecture, inputs.model.weights, _units(spec, columns))
        plan = plan_network(network, _limit(spec, columns))
        check_range(plan, columns.bounds[:-1] * factor)
    limit = _limit(spec, columns)
    parts = [
        NetworkRows(rank, count, _reader(spec, columns, factor, inputs.of(rank, engine.rank)), limit)
        for rank, count in row_holders(spec)
    ]
    form = AffineForm(spec.architecture, plan.network.final or None, output_shape(spec.architecture))
    with engine.stage("network"):
        return engine.run(predict_network(engine, plan, parts, form.finish))


def _factor(spec: JobSpec) -> float:
    """What a column is multiplied by, besides its unit, so that its numbers are about as large as 1."""
    return 1.0 if spec.encoding.standardise else 2.0 / HALF_RANGE


def _limit(spec: JobSpec, columns: JobColumns) -> float:
    """The largest magnitude of a row's numbers as they are computed with."""
    return float(columns.bounds[:-1].max()) * _factor(spec)


def _units(spec: JobSpec, columns: JobColumns) -> Floats:
    """A row as it is computed with over a row as the architecture takes it, column by column."""
    return np.ones(len(columns.units)) if spec.encoding.standardise else columns.units * _factor(spec)


def _reader(
    spec: JobSpec, columns: JobColumns, factor: float, rows: Rows | None
) -> Callable[[int, int], Floats] | None:
    if rows is None:
        return None
    found = JobRows(spec, columns, rows)

    def read(start: int, stop: int) -> Floats:
        return found.block(start, stop)[:, :-1] * factor  # the last column is of ones

    return read

"""Predictions of polynomial networks without a dealer: linear layers, convolutions, and products of what they put out.

buyer:   multiplies out its model between the products, encrypts it      owners: encoded rows, in the clear
all:     shares of every layer, by `engines.he.polynomial`               nothing leaves before the permit
result:  outputs of each row, the buyer applies a final activation itself; or counts of classes, by comparing shares
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.decisions.classes import predicted
from enclave.engines.he.decisions.counting import Decisions, decided, tallied
from enclave.engines.he.decisions.sums import Table
from enclave.engines.he.decisions.zero_forms import at_rank
from enclave.engines.he.engine import HeEngine, Releasable
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.networks.forms import read_network
from enclave.engines.he.networks.plan import Accuracy, NetworkPlan, check_range, plan_network
from enclave.engines.he.networks.polynomial import NetworkRows, predict_network
from enclave.engines.he.networks.predictions import OutputSum, Predictions
from enclave.engines.mpc.session import Protocol, Session
from enclave.errors import BadModel, BadSpec, RangeExceeded
from enclave.messages import Architecture, JobSpec
from enclave.models.graph import output_shape
from enclave.workloads.encrypted.affine import AffineForm
from enclave.workloads.encrypted.rows import JobColumns, JobRows
from enclave.workloads.inputs import Inputs, Rows
from enclave.workloads.specification import HALF_RANGE, class_count, row_holders

__all__ = ["check_polynomial", "check_weights", "evaluate_polynomial", "has_products", "predict_polynomial"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_OUTPUTS = ("predictions", "accuracy", "confusion", "mean_score")
_MOST_ROWS = 1 << 22
_MARGIN = 8  # of 2^64: shares are rounded to a unit each, and two outputs are subtracted


def has_products(architecture: Architecture) -> bool:
    """Whether a network multiplies values that depend on the row, as activations of a polynomial do."""
    return any(layer.op == "mul" and len(layer.inputs) == 2 for layer in architecture.layers)


def check_polynomial(spec: JobSpec) -> NetworkPlan:
    """The public plan of a job's network.

    Raises:
        BadModel: a layer that is no polynomial, too wide or too deep, named; it says what engine would do.
        BadSpec: an output that needs more than comparisons; rows of several owners that are to be standardised
            together.
    """
    others = [name for name in spec.outputs if name not in _OUTPUTS]
    if others:
        raise BadSpec(
            f"of a polynomial network, engine he without a dealer gives {', '.join(_OUTPUTS)}, "
            f"found {', '.join(others)}",
            hint="name a dealer, or use --engine hybrid or --engine mpc",
        )
    if spec.rows > _MOST_ROWS:
        raise BadSpec(f"a polynomial network takes at most {_MOST_ROWS} encrypted rows, found {spec.rows}")
    if "mean_score" in spec.outputs and spec.architecture.layers[-1].op in ("softmax", "tanh"):
        raise BadModel("mean_score needs one output before a final sigmoid")
    if "accuracy" in spec.outputs or "confusion" in spec.outputs:
        classes, shape = class_count(spec), output_shape(spec.architecture)
        if classes is None or shape not in ((classes,), *([(1,)] if classes == 2 else [])):
            raise BadSpec(f"counts need a target of classes and one output for each, found outputs {shape}")
    columns = JobColumns.of(spec)
    return plan_network(read_network(spec.architecture, None, _units(spec, columns)), _limit(spec, columns))


def check_weights(spec: JobSpec, weights: Mapping[str, Floats]) -> Accuracy:
    """What a buyer asks before it proposes a job: the bounds of its network's values, and of the outputs' error.

    Raises: RangeExceeded: naming the layer whose values could leave the numbers that are planned for.
    """
    columns = JobColumns.of(spec)
    network = read_network(spec.architecture, weights, _units(spec, columns))
    spread = float(spec.rows) if "mean_score" in spec.outputs else 2.0  # a sum, or a difference of two outputs
    return check_range(plan_network(network, _limit(spec, columns)), columns.bounds[:-1] * _factor(spec), spread)


def evaluate_polynomial(engine: HeEngine, spec: JobSpec, inputs: Inputs) -> dict[str, Releasable]:
    """The job's outputs by name, sealed: the network is computed once for all of them."""
    predictions = predict_polynomial(engine, spec, inputs)
    found: dict[str, Releasable] = {"predictions": predictions, "mean_score": OutputSum(predictions)}
    if "accuracy" in spec.outputs or "confusion" in spec.outputs:
        truth = None
        if inputs.rows is not None and not engine.is_buyer:
            truth = np.asarray(inputs.rows.targets(0, inputs.rows.rows)).astype(np.int64)
        with engine.stage("decisions"):
            found |= _counts(engine, spec, predictions, truth)
    return {name: found[name] for name in spec.outputs}


def _counts(engine: HeEngine, spec: JobSpec, predictions: Predictions, truth: Integers | None) -> dict[str, Releasable]:
    """Accuracy and confusion, sealed: comparisons of shares, see `engines.he.counting` and `engines.he.classes`."""
    holders, plan, classes = row_holders(spec), predictions.plan, class_count(spec)
    assert classes is not None
    two, last = classes == 2, plan.network.final == "softmax"
    words = {}
    for (owner, count), outputs in zip(holders, predictions.words(engine.session).values(), strict=True):
        made = partial(_decision if two else _scores, outputs, last)
        shape = (count,) if two else (classes, count)
        words[owner] = at_rank(engine.session, (owner, engine.buyer), shape, made)
    if two:
        decisions = engine.run(decided(engine, holders, words, plan.release_bits, _MARGIN))
        tally = engine.run(tallied(engine, decisions))
        return {"accuracy": tally.accuracy(truth), "confusion": tally.confusion(truth)}
    chosen = engine.run(predicted(engine, holders, words, plan.release_bits, _MARGIN))
    found: dict[str, Releasable] = {}
    if "accuracy" in spec.outputs:
        found["accuracy"] = _accuracy(engine, chosen, truth)
    if "confusion" in spec.outputs:
        tallies = [engine.run(tallied(engine, each)) for each in chosen]
        found["confusion"] = Table(tuple(tally.by_class(truth, classes) for tally in tallies))
    return found


def _decision(outputs: Words, differences: bool) -> Words:
    """Above 0 for class 1: the output, or the second of two less the first. [outputs, rows] modulo 2^64 -> [rows]."""
    found: Words = outputs[1] - outputs[0] if len(outputs) == 2 else outputs[0]
    return np.uint64(0) - found if differences else found


def _scores(outputs: Words, differences: bool) -> Words:
    """One row for each class: differences to the last one lack its own."""
    return np.concatenate([outputs, np.zeros_like(outputs[:1])]) if differences else outputs


def _accuracy(engine: HeEngine, chosen: Sequence[Decisions], truth: Integers | None) -> Releasable:
    """Correct rows of several classes: whether a class is chosen equals whether it is true, in all classes of a correct
    row and in all but two of a wrong one, so that the count of these says as much as that of correct rows."""
    classes, holders = len(chosen), [(rank, len(chosen) * count) for rank, count in chosen[0].holders]
    bits = {}
    for rank, count in holders:
        parts = [each.bits[rank] for each in chosen]
        bits[rank] = at_rank(engine.session, (rank, engine.buyer), (count,), partial(np.concatenate, parts))
    tally = engine.run(tallied(engine, Decisions(tuple(holders), bits)))
    known = None if truth is None else (np.arange(classes)[:, None] == truth).astype(np.int64).reshape(-1)
    return _Correct(tally.accuracy(known), classes, sum(count for _, count in chosen[0].holders))


@dataclass(frozen=True, slots=True)
class _Correct:
    counts: Releasable
    classes: int
    rows: int

    def release(self, session: Session, name: str, to: int) -> Protocol[Integers | None]:
        found = yield from self.counts.release(session, name, to)
        return None if found is None else np.array([self.rows - (self.classes * self.rows - int(found[0])) // 2])


def predict_polynomial(engine: HeEngine, spec: JobSpec, inputs: Inputs) -> Predictions:
    """The outputs of the job's network, sealed.

    Raises: BadModel: at the buyer, before it sends anything: values of a layer could leave the numbers that are planned
        for. Others learn the layer from it; how far they go, which `check_weights` says, is the buyer's own business.
    """
    columns, factor = JobColumns.of(spec), _factor(spec)
    plan = check_polynomial(spec)
    if engine.is_buyer and inputs.model is not None:
        network = read_network(spec.architecture, inputs.model.weights, _units(spec, columns))
        plan = plan_network(network, _limit(spec, columns))
        try:
            check_weights(spec, inputs.model.weights)
        except RangeExceeded as error:
            raise BadModel(f"values at {error.layer} can leave the range that is planned for the network") from None
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

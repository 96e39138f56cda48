"""Accuracy and confusion without a dealer: `engines.he.decisions.counting` for two classes, `classes` for more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.decisions.classes import class_words, margin_words, predicted, unbeaten
from enclave.engines.he.decisions.counting import Decisions, Tally, decided, score_words, tallied
from enclave.engines.he.decisions.sums import Table
from enclave.engines.he.decisions.zero_forms import MOST
from enclave.engines.he.engine import HeEngine, Releasable
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.linear.packing import EncodedRows, Packing, RowBlocks
from enclave.engines.he.linear.scoring import RANGE
from enclave.engines.he.linear.shares import rounding_deviation
from enclave.engines.he.linear.weights import EncryptedWeights, Query, query_phases, send_weights
from enclave.engines.he.planner import MASK, HePlan, LinearWork, plan_linear
from enclave.engines.mpc.session import together
from enclave.errors import BadSpec
from enclave.messages import JobSpec
from enclave.workloads.encrypted.affine import AffineForm
from enclave.workloads.encrypted.rows import JobColumns, JobRows, encoding_key
from enclave.workloads.inputs import Inputs
from enclave.workloads.specification import class_count, row_holders

__all__ = ["DecisionPlan", "JobDecisions", "decision_weights", "plan_decisions"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_EXPANSION_S = 30.0
_DEVIATIONS = 10.0


@dataclass(frozen=True, slots=True)
class DecisionPlan:
    """The public numbers of a count of decisions.

    Attributes:
        bits: of the words that are compared, the torus being RANGE times the largest difference of scores.
        returned_bits: of the coefficients that become shares.
        margin: what stands above all noise, in units of 2^-64 of the torus.
    """

    work: HePlan
    query: Query
    bits: int
    returned_bits: int
    margin: int


def plan_decisions(spec: JobSpec, columns: JobColumns, form: AffineForm, output: str) -> DecisionPlan:
    """The plan of an output, "accuracy" or "confusion".

    Raises: BadSpec: a target without classes, too many of them, outputs that are not the classes', or ranges that no
        parameters have room for.
    """
    classes = class_count(spec)
    if classes is None or form.shape not in ((classes,), *([(1,)] if classes == 2 else [])):
        raise BadSpec(
            f"{output} needs a target of classes and one output for each, found {classes} and outputs {form.shape}"
        )
    if classes > MOST + 1:
        raise BadSpec(
            f"engine he without a dealer decides between at most {MOST + 1} classes, found {classes}",
            hint="name a dealer, or use --engine hybrid or --engine mpc",
        )
    width, magnitude = len(columns.bounds), columns.magnitude
    rows = max(count for _, count in row_holders(spec))
    # The largest score is 1, so the root of the sum of squares of the weights is at most 2 / magnitude: see `scoring`.
    weight = 2.0 / (magnitude * math.sqrt(width))
    precision = 1.01 * 12 * weight * math.sqrt(width / 12) * 2.0**-spec.frac_bits
    outputs = 1 if classes == 2 else classes
    strides = {1, Packing.fitting(4096, width, rows).stride}
    works = [LinearWork(width, magnitude, weight, precision, 1.0, outputs=outputs, stride=s) for s in sorted(strides)]
    return min((_planned(spec.frac_bits, work) for work in works), key=lambda p: p.query.words + p.query.key_words)


def _planned(frac_bits: int, work: LinearWork) -> DecisionPlan:
    plan = plan_linear(work, finishing=MASK, expansion_s=_EXPANSION_S, row_bits=frac_bits)
    degree = plan.parameters.degree
    packing = Packing(degree, work.columns, work.stride)
    levels = min(plan.expansion.levels, (packing.groups - 1).bit_length())
    bits = math.ceil(math.log2(RANGE / work.precision))  # decisions are told apart at what rounding the rows may move
    rounding = _DEVIATIONS * rounding_deviation(degree, 64)
    returned = bits + 1 + math.ceil(math.log2(rounding))
    scores = 1 if work.outputs == 1 else 2  # that one word is the difference of
    noise = scores * 2.0 ** (plan.noise_bits + 64 - math.log2(plan.parameters.modulus))
    margin = math.ceil(noise + rounding * 2.0 ** (64 - returned)) + 1
    return DecisionPlan(plan, Query(plan.parameters, packing, work.outputs, levels), bits, returned, margin)


def decision_weights(form: AffineForm, weights: Floats) -> Floats:
    """[columns, scores] -> the decision of two classes [columns, 1], as `metrics.decision` takes it, or [columns, C].

    A softmax's scores are those of all classes but the last, less the last one's.
    """
    if form.final == "softmax":
        weights = np.concatenate([weights, np.zeros((len(weights), 1))], axis=1)
    return np.asarray(weights[:, 1:] - weights[:, :1]) if weights.shape[1] == 2 else weights


class _OfClass:
    """Rows with zeros in the place of those of other classes."""

    def __init__(self, rows: RowBlocks, truth: Integers, index: int) -> None:
        self._rows, self._is = rows, truth == index
        self.rows, self.columns = rows.rows, rows.columns

    def block(self, start: int, stop: int) -> Floats:
        return np.asarray(self._rows.block(start, stop) * self._is[start:stop, None])


class JobDecisions:
    """The decisions of all rows of a job, shared between their owners and the buyer, and counts of them.

    Args:
        weights: [columns, scores], at the buyer. rows: at an owner.
    """

    def __init__(
        self,
        engine: HeEngine,
        spec: JobSpec,
        columns: JobColumns,
        form: AffineForm,
        weights: Floats | None,
        rows: JobRows | None,
        inputs: Inputs,
    ) -> None:
        self._engine, self._spec, self._rows = engine, spec, rows
        self._plan = plan_decisions(spec, columns, form, "accuracy")
        self._holders = row_holders(spec)
        self._weights = self._scaled(columns, decision_weights(form, weights)) if weights is not None else None
        self._truth: Integers | None = None
        mine = None if engine.rank is None else dict(self._holders).get(engine.rank)
        if inputs.rows is not None and mine is not None:
            self._truth = np.asarray(inputs.rows.targets(0, mine)).astype(np.int64)
        self._encrypted: EncryptedWeights | None = None
        self._tally: Tally | None = None

    def output(self, name: str) -> Releasable:
        """One output, sealed. **Reveals** nothing: see `counting`."""
        if self._plan.query.outputs == 1:
            if self._tally is None:
                self._tally = self._two_classes()
            return self._tally.accuracy(self._truth) if name == "accuracy" else self._tally.confusion(self._truth)
        return self._correct().ones() if name == "accuracy" else self._matrix()

    def _scaled(self, columns: JobColumns, decisions: Floats) -> Floats:
        largest = float((np.abs(decisions).T @ columns.bounds).max()) * (1 if decisions.shape[1] == 1 else 2)
        return decisions / (RANGE * (largest if largest > 0 else 1.0))

    def _two_classes(self) -> Tally:
        engine, plan, encrypted = self._engine, self._plan, self._weights_sent()
        encoded = None if self._rows is None else self._encoded(self._rows, True)
        with engine.stage("rows"):
            words = engine.run(score_words(engine, encrypted, self._holders, encoded, plan.returned_bits))
        with engine.stage("decisions"):
            return self._tallied(engine.run(decided(engine, self._holders, words, plan.bits, plan.margin)))

    def _correct(self) -> Tally:
        """Of several classes, whether the true one has the largest score."""
        engine, plan, encrypted = self._engine, self._plan, self._weights_sent()
        encoded = None
        if self._rows is not None and self._truth is not None:
            classes = range(plan.query.outputs)
            encoded = [self._encoded(_OfClass(self._rows, self._truth, index), False) for index in classes]
        with engine.stage("rows"):
            words = engine.run(margin_words(engine, encrypted, self._holders, encoded, plan.returned_bits))
        with engine.stage("decisions"):
            bits = unbeaten(engine, self._holders, words, self._truth, plan.bits, plan.margin)
            return self._tallied(engine.run(bits))

    def _matrix(self) -> Table:
        engine, plan, encrypted = self._engine, self._plan, self._weights_sent()
        encoded = None if self._rows is None else self._encoded(self._rows, True)
        with engine.stage("rows"):
            words = engine.run(class_words(engine, encrypted, self._holders, encoded, plan.returned_bits))
        with engine.stage("decisions"):
            classes = engine.run(predicted(engine, self._holders, words, plan.bits, plan.margin))
            tallies = engine.run(together(*(tallied(engine, each) for each in classes)))
        return Table(tuple(tally.by_class(self._truth, len(tallies)) for tally in tallies))

    def _tallied(self, decisions: Decisions) -> Tally:
        return self._engine.run(tallied(self._engine, decisions))

    def _weights_sent(self) -> EncryptedWeights:
        if self._encrypted is None:
            with self._engine.stage("model"):
                self._encrypted = self._engine.run(send_weights(self._engine, self._plan.query, self._phases()))
        return self._encrypted

    def _phases(self) -> Callable[[Ring], Words] | None:
        weights, plan = self._weights, self._plan
        if weights is None:
            return None
        return lambda ring: query_phases(ring, plan.query, weights, plan.work.row_bits)

    def _encoded(self, rows: RowBlocks, kept: bool) -> EncodedRows:
        engine, plan = self._engine, self._plan
        key = encoding_key(self._spec, cast(int, engine.rank))
        return EncodedRows(
            plan.query.parameters.ring(),
            plan.query.packing,
            rows,
            plan.work.row_bits,
            plan.work.row_limit,
            engine.encodings if kept else None,
            key,
        )

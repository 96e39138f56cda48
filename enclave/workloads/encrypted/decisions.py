"""Accuracy and confusion without a dealer: `enclave.engines.he.counting` for two classes, `classes` for more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.classes import margin_words, unbeaten
from enclave.engines.he.counting import Counts, Tally, decided, score_words, tallied
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.linear import EncryptedWeights, Query, query_phases, send_weights
from enclave.engines.he.packing import EncodedRows, Packing, RowBlocks
from enclave.engines.he.planner import MASK, HePlan, LinearWork, plan_linear
from enclave.engines.he.ring import Ring, Words
from enclave.engines.he.scoring import RANGE
from enclave.engines.he.shares import rounding_deviation
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

    Raises: BadSpec: a target without classes, more than two for a confusion, outputs that are not the classes', or
        ranges that no parameters have room for.
    """
    classes = class_count(spec)
    if classes is None or form.shape not in ((classes,), *([(1,)] if classes == 2 else [])):
        raise BadSpec(f"{output} needs a target of classes and one output for each, found shape {form.shape}")
    if classes > 2 and output != "accuracy":
        raise BadSpec(
            f"engine he without a dealer finds the {output} of two classes, found {classes}",
            hint="ask for the accuracy, name a dealer, or use --engine hybrid or --engine mpc",
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
        self._tally: Tally | None = None

    def output(self, name: str) -> Counts:
        """One output, sealed. The decisions are made once. **Reveals** nothing: see `counting`."""
        if self._tally is None:
            self._tally = self._tallied()
        if class_count(self._spec) != 2:
            return self._tally.ones()
        return self._tally.accuracy(self._truth) if name == "accuracy" else self._tally.confusion(self._truth)

    def _scaled(self, columns: JobColumns, decisions: Floats) -> Floats:
        largest = float((np.abs(decisions).T @ columns.bounds).max()) * (1 if decisions.shape[1] == 1 else 2)
        return decisions / (RANGE * (largest if largest > 0 else 1.0))

    def _tallied(self) -> Tally:
        engine, plan, holders = self._engine, self._plan, self._holders
        with engine.stage("model"):
            encrypted = engine.run(send_weights(engine, plan.query, self._phases()))
        several = plan.query.outputs > 1
        with engine.stage("rows"):
            words = self._margins(encrypted) if several else self._scores(encrypted)
        with engine.stage("decisions"):
            if several:
                bits = engine.run(unbeaten(engine, holders, words, self._truth, plan.bits, plan.margin))
            else:
                bits = engine.run(decided(engine, holders, words, plan.bits, plan.margin))
            return engine.run(tallied(engine, bits))

    def _phases(self) -> Callable[[Ring], Words] | None:
        weights, plan = self._weights, self._plan
        if weights is None:
            return None
        return lambda ring: query_phases(ring, plan.query, weights, plan.work.row_bits)

    def _scores(self, encrypted: EncryptedWeights) -> dict[int, Words]:
        encoded = None
        if self._rows is not None:
            encoded = self._encoded(self._rows, True)
        protocol = score_words(self._engine, encrypted, self._holders, encoded, self._plan.returned_bits)
        return self._engine.run(protocol)

    def _margins(self, encrypted: EncryptedWeights) -> dict[int, Words]:
        encoded = None
        if self._rows is not None and self._truth is not None:
            classes = range(self._plan.query.outputs)
            encoded = [self._encoded(_OfClass(self._rows, self._truth, index), False) for index in classes]
        protocol = margin_words(self._engine, encrypted, self._holders, encoded, self._plan.returned_bits)
        return self._engine.run(protocol)

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

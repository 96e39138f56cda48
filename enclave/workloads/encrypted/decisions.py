"""Accuracy and confusion of two classes without a dealer: see `enclave.engines.he.counting` for the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.counting import Tally, decided, score_words, tallied
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.linear import Query, query_phases, send_weights
from enclave.engines.he.packing import EncodedRows, Packing
from enclave.engines.he.planner import MASK, HePlan, LinearWork, plan_linear
from enclave.engines.he.scoring import RANGE
from enclave.engines.he.shares import rounding_deviation
from enclave.errors import BadSpec
from enclave.messages import JobSpec
from enclave.workloads.encrypted.affine import AffineForm
from enclave.workloads.encrypted.rows import JobColumns, JobRows, encoding_key
from enclave.workloads.inputs import Inputs
from enclave.workloads.specification import class_count, row_holders

__all__ = ["DecisionPlan", "decision_weights", "plan_decisions", "tally_decisions", "true_classes"]

Floats = NDArray[np.float64]
_EXPANSION_S = 30.0
_FINER_BITS = 6  # decisions are told apart at a fraction of what rounding the rows moves a score by
_DEVIATIONS = 10.0


@dataclass(frozen=True, slots=True)
class DecisionPlan:
    """The public numbers of a count of decisions.

    Attributes:
        bits: of the words that are compared, the torus being RANGE times the largest score.
        returned_bits: of the coefficients that become shares.
        margin: what stands above all noise, in units of 2^-64 of the torus.
    """

    work: HePlan
    query: Query
    bits: int
    returned_bits: int
    margin: int


def plan_decisions(spec: JobSpec, columns: JobColumns, form: AffineForm) -> DecisionPlan:
    """The plan of a job.

    Raises: BadSpec: other than two classes, or ranges that no parameters have room for.
    """
    if class_count(spec) != 2 or math.prod(form.shape) > 2:
        raise BadSpec(
            "engine he without a dealer counts decisions between two classes, of a model with one output or two",
            hint="name a dealer, or use --engine hybrid or --engine mpc",
        )
    width, magnitude = len(columns.bounds), columns.magnitude
    rows = max(count for _, count in row_holders(spec))
    # The largest score is 1, so the root of the sum of squares of the weights is at most 2 / magnitude: see `scoring`.
    weight = 2.0 / (magnitude * math.sqrt(width))
    precision = 1.01 * 12 * weight * math.sqrt(width / 12) * 2.0**-spec.frac_bits
    strides = {1, Packing.fitting(4096, width, rows).stride}
    plans = [_planned(spec.frac_bits, LinearWork(width, magnitude, weight, precision, 1.0, stride=s)) for s in strides]
    return min(plans, key=lambda plan: (plan.query.words + plan.query.key_words, plan.query.packing.stride))


def _planned(frac_bits: int, work: LinearWork) -> DecisionPlan:
    plan = plan_linear(work, finishing=MASK, expansion_s=_EXPANSION_S, row_bits=frac_bits)
    degree = plan.parameters.degree
    packing = Packing(degree, work.columns, work.stride)
    query = Query(plan.parameters, packing, 1, min(plan.expansion.levels, (packing.groups - 1).bit_length()))
    bits = frac_bits + _FINER_BITS
    rounding = _DEVIATIONS * rounding_deviation(degree, 64)
    returned = bits + 1 + math.ceil(math.log2(rounding))
    noise = 2.0 ** (plan.noise_bits + 64 - math.log2(plan.parameters.modulus))
    margin = math.ceil(noise + rounding * 2.0 ** (64 - returned)) + 1
    return DecisionPlan(plan, query, bits, returned, margin)


def decision_weights(form: AffineForm, weights: Floats) -> Floats:
    """[columns, scores] -> [columns]: the decision of a network, as `metrics.decision` takes it."""
    if weights.shape[1] == 2:
        return np.asarray(weights[:, 1] - weights[:, 0])
    return -weights[:, 0] if form.final == "softmax" else weights[:, 0]  # a softmax's score is of its first class


def tally_decisions(
    engine: HeEngine,
    spec: JobSpec,
    columns: JobColumns,
    form: AffineForm,
    weights: Floats | None,
    rows: JobRows | None,
) -> Tally:
    """The decisions of all rows, shared between their owners and the buyer, ready to be counted.

    Args:
        weights: [columns, scores], at the buyer. rows: at an owner.

    **Reveals** nothing: see `counting`.
    """
    plan, holders = plan_decisions(spec, columns, form), row_holders(spec)
    scaled = None
    if weights is not None:
        decision = decision_weights(form, weights)
        largest = float(np.abs(decision) @ columns.bounds)
        scaled = decision[:, None] / (RANGE * (largest if largest > 0 else 1.0))
    bits, found = plan.work.row_bits, scaled
    with engine.stage("model"):
        phases = None if found is None else lambda ring: query_phases(ring, plan.query, found, bits)
        encrypted = engine.run(send_weights(engine, plan.query, phases))
    encoded = None
    if rows is not None:
        key = encoding_key(spec, cast(int, engine.rank))
        ring, limit = plan.query.parameters.ring(), plan.work.row_limit
        encoded = EncodedRows(ring, plan.query.packing, rows, bits, limit, engine.encodings, key)
    with engine.stage("rows"):
        words = engine.run(score_words(engine, encrypted, holders, encoded, plan.returned_bits))
    with engine.stage("decisions"):
        decisions = engine.run(decided(engine, holders, words, plan.bits, plan.margin))
        return engine.run(tallied(engine, decisions))


def true_classes(inputs: Inputs, holders: Sequence[tuple[int, int]], rank: int | None) -> NDArray[np.int64] | None:
    """This owner's true classes [rows]; None elsewhere, and without classes."""
    count = None if rank is None else dict(holders).get(rank)
    if inputs.rows is None or count is None:
        return None
    return np.asarray(inputs.rows.targets(0, count)).astype(np.int64)

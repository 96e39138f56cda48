"""The evaluation of a job without a dealer, under homomorphic encryption.

buyer:   folds its model into one matrix, encrypts it            owners: encoded rows, in the clear
owners:  scores of each row; sums over rows for the errors       nothing leaves before the permit
result:  scores, or one number that is a sum over all owners; the buyer applies a final activation itself

What is not linear up to a final activation is for `networks`, what needs comparisons for `decisions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine, Releasable
from enclave.engines.he.linear.gram import FunctionalPlan, evaluate_functional, plan_functional, triangle
from enclave.engines.he.linear.packing import EncodedRows
from enclave.engines.he.linear.scoring import RANGE, ScoringPlan, plan_scoring, score
from enclave.engines.he.linear.weights import query_phases, send_weights
from enclave.engines.he.steps import at_work
from enclave.engines.interface import Engine, Secret
from enclave.errors import BadModel, BadSpec
from enclave.messages import JobSpec
from enclave.workloads.encrypted.affine import AffineForm, affine_form
from enclave.workloads.encrypted.decisions import DecisionPlan, JobDecisions, plan_decisions
from enclave.workloads.encrypted.networks import check_polynomial, evaluate_polynomial, has_products
from enclave.workloads.encrypted.rows import JobColumns, JobRows, encoding_key
from enclave.workloads.inputs import Inputs
from enclave.workloads.specification import row_holders

__all__ = ["check", "evaluate"]

Floats = NDArray[np.float64]
_STEP_PRODUCTS = 1 << 34  # of two columns of a row: seconds
_MOST_GRAM_COLUMNS = 4096  # 8.4 million sums, in a thousand ciphertexts
_MOST_WEIGHTS = 1 << 20
_MOST_ROWS = 1 << 31  # plans have a step for some thousands of them
_OUTPUTS = ("predictions", "accuracy", "confusion", "rmse", "mean_score")


def check(spec: JobSpec) -> None:
    """Refuses what this evaluation cannot do.

    Raises:
        BadModel: a layer that is not linear, or an activation before an error; the text names it.
        BadSpec: an output that needs shares, joint standardisation, or ranges that no parameters have room for.
    """
    if has_products(spec.architecture):
        check_polynomial(spec)
        return
    job = _Job.of(spec)
    for name in spec.outputs:
        job.plan(name)


def evaluate(engine: Engine, spec: JobSpec, inputs: Inputs) -> Mapping[str, Secret]:
    """The outputs by name, sealed: `HeEngine.open` releases them, as `outcome.finish` expects them."""
    if has_products(spec.architecture):
        return cast(Mapping[str, Secret], evaluate_polynomial(cast(HeEngine, engine), spec, inputs))
    run = _Evaluation(cast(HeEngine, engine), _Job.of(spec), inputs)
    return {name: cast(Secret, run.output(name)) for name in spec.outputs}


class _Job:
    """What the specification alone says."""

    def __init__(self, spec: JobSpec, form: AffineForm, columns: JobColumns) -> None:
        self.spec, self.form, self.columns = spec, form, columns
        self.holders = row_holders(spec)

    @classmethod
    def of(cls, spec: JobSpec) -> _Job:
        form = affine_form(spec.architecture)
        if spec.rows > _MOST_ROWS:
            raise BadSpec(f"encrypted evaluations take at most {_MOST_ROWS} rows, found {spec.rows}")
        if form.width * form.scores > _MOST_WEIGHTS:
            raise BadSpec(
                f"encrypted rows are scored with at most {_MOST_WEIGHTS} weights, found {form.width * form.scores}",
                hint="use --engine hybrid or --engine mpc",
            )
        return cls(spec, form, JobColumns.of(spec))

    def plan(self, output: str) -> ScoringPlan | FunctionalPlan | DecisionPlan:
        """The plan of one output."""
        if output == "predictions":
            return self.scoring()
        if output in ("accuracy", "confusion"):
            return plan_decisions(self.spec, self.columns, self.form, output)
        if output == "rmse":
            return self.squares()
        if output == "mean_score":
            return self.mean()
        raise BadSpec(
            f"{output} needs sorting or products of shares, which engine he without a dealer has not; it has "
            f"{', '.join(_OUTPUTS)}",
            hint="name a dealer, or use --engine hybrid or --engine mpc",
        )

    def scoring(self) -> ScoringPlan:
        rows = max(count for _, count in self.holders)
        columns = self.columns
        return plan_scoring(len(columns.bounds), self.form.scores, rows, self.spec.frac_bits, columns.magnitude)

    def squares(self) -> FunctionalPlan:
        if self.form.final is not None:
            raise BadModel(
                f"layer {self.spec.architecture.layers[-1].name}: engine he without a dealer finds the rmse of "
                f"models that end linearly, found {self.form.final}",
                hint="hybrid or mpc would do: --engine hybrid, or --engine mpc",
            )
        squares = np.square(np.append(self.columns.rms, self.columns.target_bound))
        size = len(squares)
        if size > _MOST_GRAM_COLUMNS:
            raise BadSpec(
                f"the rmse of encrypted weights takes at most {_MOST_GRAM_COLUMNS} columns, found {size}",
                hint="use --engine hybrid or --engine mpc",
            )
        # Of the triangle of r r^T, what is off the diagonal doubled: the sum of squares of all its entries.
        norm = math.sqrt(2 * float(squares.sum()) ** 2 - float(np.square(squares).sum()))
        return plan_functional(size * (size + 1) // 2, norm)

    def mean(self) -> FunctionalPlan:
        if self.form.final not in (None, "sigmoid") or self.form.scores != 1:
            raise BadModel(f"mean_score needs one output before a final sigmoid, found {self.form.final}")
        return plan_functional(len(self.columns.rms), float(np.sqrt(np.square(self.columns.rms).sum())))


class _Evaluation:
    """One run, at one rank."""

    def __init__(self, engine: HeEngine, job: _Job, inputs: Inputs) -> None:
        self._engine, self._job, self._inputs = engine, job, inputs
        self._weights: Floats | None = None  # [columns, scores], at the buyer
        if engine.is_buyer and inputs.model is not None:
            self._weights = job.columns.weights(job.spec, *job.form.fold(inputs.model.weights))
        self._rows: JobRows | None = None
        if not engine.is_buyer and inputs.rows is not None:
            self._rows = JobRows(job.spec, job.columns, inputs.rows)
        self._decisions: JobDecisions | None = None

    def _counts(self, name: str) -> Releasable:
        """One `JobDecisions` for all outputs that count."""
        if self._decisions is None:
            job = self._job
            self._decisions = JobDecisions(
                self._engine, job.spec, job.columns, job.form, self._weights, self._rows, self._inputs
            )
        return self._decisions.output(name)

    def output(self, name: str) -> Releasable:
        """One output, sealed."""
        found: Mapping[str, Callable[[], Releasable]] = {
            "predictions": self._predictions,
            "accuracy": lambda: self._counts("accuracy"),
            "confusion": lambda: self._counts("confusion"),
            "rmse": self._squares,
            "mean_score": self._mean,
        }
        return found[name]()

    def _predictions(self) -> Releasable:
        engine, job, plan, weights = self._engine, self._job, self._job.scoring(), self._weights
        ranges = None
        if weights is not None:
            largest = np.abs(weights).T @ job.columns.bounds
            ranges = np.where(largest > 0, largest, 1.0)
        bits = plan.work.row_bits
        with engine.stage("model"):
            encrypted = engine.run(
                send_weights(
                    engine,
                    plan.query,
                    None
                    if weights is None or ranges is None
                    else lambda ring: query_phases(ring, plan.query, weights / (RANGE * ranges), bits),
                )
            )
        rows = None
        if self._rows is not None:
            key = encoding_key(job.spec, cast(int, engine.rank))
            ring = plan.query.parameters.ring()
            rows = EncodedRows(ring, plan.packing, self._rows, bits, plan.work.row_limit, engine.encodings, key)
        with engine.stage("rows"):
            return engine.run(score(engine, plan, encrypted, job.holders, rows, ranges, job.form.finish))

    def _squares(self) -> Releasable:
        """The sum of squared errors, in units of the target's own."""
        job, weights, values, limit = self._job, self._weights, None, None
        unit, total = job.columns.target_unit, job.spec.rows
        if weights is not None:
            model = np.append(weights[:, 0], -1.0 / unit)
            values = np.outer(model, model)[np.triu_indices(len(model))]
            limit = float(np.abs(model) @ np.append(job.columns.rms, job.columns.target_bound)) ** 2
        gram = self._gram(len(job.columns.rms) + 1)
        numbers = None if gram is None else triangle(gram / total)
        return self._functional("rmse", job.squares(), values, numbers, limit, lambda mean: max(0.0, mean) * total)

    def _gram(self, size: int) -> Floats | None:
        """This owner's Gram matrix of its rows with their targets; None elsewhere."""
        rows, total = self._rows, np.zeros((size, size))
        steps = {rank: max(1, count * size**2 // _STEP_PRODUCTS) for rank, count in self._job.holders}
        advance = None if rows is None else lambda step, count: rows.add_gram(total, step, count)
        with self._engine.stage("rmse"):
            self._engine.run(at_work(self._engine.session, steps, advance))
        return None if rows is None else total

    def _mean(self) -> Releasable:
        """The sum of the scores."""
        job, values, limit, total = self._job, None, None, self._job.spec.rows
        if self._weights is not None:
            values = self._weights[:, 0]
            limit = float(np.abs(values) @ job.columns.rms)
        numbers = None if self._rows is None else self._rows.sums() / total
        return self._functional("mean_score", job.mean(), values, numbers, limit, lambda mean: mean * total)

    def _functional(
        self,
        name: str,
        plan: FunctionalPlan,
        values: Floats | None,
        numbers: Floats | None,
        limit: float | None,
        finish: Callable[[float], float],
    ) -> Releasable:
        owners = [rank for rank, _ in self._job.holders]
        with self._engine.stage(name):
            return self._engine.run(
                evaluate_functional(self._engine, plan, owners, values, numbers, limit, f"he:{name}", finish)
            )

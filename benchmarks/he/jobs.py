"""Whole jobs of the engine without a dealer: specification, sessions of owner and buyer, released result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.he.cases import Case
from benchmarks.he.inputs import Arrays, Floats
from benchmarks.he.sessions import run_session
from benchmarks.jobs.job import Job, specification
from benchmarks.jobs.tables import load
from benchmarks.measurement import versions
from benchmarks.peers.serving import clocked
from enclave.datasets import RowSource
from enclave.engines.he.engine import HeEngine
from enclave.engines.interface import Permit
from enclave.messages import Encoding, Feature, JobSpec, NumericFeature, Target, Training
from enclave.models import Model, dense_architecture
from enclave.plan import make_plan
from enclave.workloads import Inputs, Result, check_spec, finish, opened_outputs, release, run
from enclave.workloads.encrypted.training import plain_weights

__all__ = ["Rmse", "Train", "Trained"]

_OWNER, _BUYER = 0, 1
_CLIP = 4.0  # standard deviations: a polynomial in the place of the sigmoid does not saturate
_MARGIN = 1.0  # around the targets that occur


def _without_dealer(job: Job, **changes: Any) -> JobSpec:
    spec = specification(job)
    found = replace(spec, engine="he", parties=spec.parties[:-1], **changes)
    check_spec(found)
    return found


class _HeJob:
    """A job, run from its proposal to its result."""

    def __init__(self, spec: JobSpec, rows: RowSource, model: Model | None) -> None:
        self.versions = versions()
        self.spec, self.rows, self._model = spec, rows, model
        self.result: Result | None = None

    def run(self) -> dict[str, Any]:
        def work() -> Any:
            plan = make_plan(2, self.spec.frac_bits, lambda e: self._job(e, Inputs()), engine="he", has_dealer=False)
            return plan, run_session(plan, self._program)

        (plan, ran), times = clocked(work)
        self.result = finish(self.spec, ran.results[_BUYER])
        threads_s = sum(ran.cpu_s)
        planning_s = times["cpu_s"][0] - threads_s  # and what threads of an owner's own took
        return {
            "cpu_s": [*ran.cpu_s, max(0.0, planning_s)],
            "wall_s": times["wall_s"],
            **ran.traffic(plan),
            "figures": {"bytes": sum(plan.link_bytes.values())},
        }

    def _program(self, session: Any, rank: int) -> Any:
        inputs = Inputs(rows=self.rows) if rank == _OWNER else Inputs(model=self._model)
        return self._job(HeEngine(session, self.spec.frac_bits, workers=1), inputs)

    def _job(self, engine: Any, inputs: Inputs) -> Any:
        sealed = run(engine, self.spec, inputs)
        return release(engine, self.spec, sealed, Permit(self.spec.job_id, opened_outputs(self.spec)))


class Rmse(_HeJob):
    """The root mean squared error of the buyer's linear model on the owner's rows."""

    def __init__(self, inputs: Arrays) -> None:
        import pyarrow as pa

        x, y = inputs["x"], inputs["y"]
        names = [f"c{i}" for i in range(x.shape[1])]
        table = pa.table({**{name: x[:, i] for i, name in enumerate(names)}, "y": y})
        features = tuple(Feature(name, numeric=NumericFeature(low=-8.0, high=8.0)) for name in names)
        low, high = float(y.min()) - _MARGIN, float(y.max()) + _MARGIN
        encoding = Encoding(features, Target("y", numeric=NumericFeature(low=low, high=high)))
        architecture = dense_architecture(x.shape[1], [], 1)
        weights = (inputs["w"].reshape(-1, 1), inputs["b"])
        model = Model(architecture, {t.name: v for t, v in zip(architecture.parameters, weights, strict=True)})
        job = Job("rmse", {"owner": table}, encoding, ("rmse",), model=model)
        super().__init__(_without_dealer(job), RowSource(table, encoding), model)

    def outputs(self) -> dict[str, Any]:
        assert self.result is not None and self.result.rmse is not None
        return {"rmse": np.array([self.result.rmse])}


@dataclass(frozen=True, slots=True)
class Trained:
    """A training's data: what is trained on, what it is judged on, and the twin in the clear.

    Attributes:
        spec: of the job. rows: the owner's. test: rows that were held out, in the same encoding.
        plain_rows, plain_test: both as scikit-learn gets them, not clipped.
    """

    spec: JobSpec
    rows: RowSource
    test: RowSource
    plain_rows: RowSource
    plain_test: RowSource

    @classmethod
    def of(cls, case: Case, data: Path | None) -> Trained:
        """Raises Unavailable where the data set is not here."""
        split = load(case.name, data)
        encoding = replace(split.encoding, features=tuple(_narrowed(f) for f in split.encoding.features))
        rows = RowSource(split.train, encoding)
        architecture = dense_architecture(encoding.width, [], 1)
        zeros = Model(architecture, {t.name: np.zeros(t.shape) for t in architecture.parameters})
        job = Job(str(case), {"owner": split.train}, encoding, ("accuracy",), model=zeros)
        training = Training("logistic", case.parameters["epochs"], rows.rows, 1.0, momentum=0.3)
        spec = replace(specification(job), kind="train", training=training, outputs=("model",), engine="he")
        spec = replace(spec, parties=spec.parties[:-1])
        check_spec(spec)
        plain = (RowSource(table, split.encoding) for table in (split.train, split.test))
        return cls(spec, rows, RowSource(split.test, encoding), *plain)

    def twin(self) -> Floats:
        """The weights of the same algorithm in float64, for encoded columns, the bias last."""
        return plain_weights(self.spec, {_OWNER: self.rows})

    def accuracy(self, weights: Floats) -> float:
        """On the held-out rows."""
        x, y = _all(self.test)
        return float(((x @ weights[:-1] + weights[-1] > 0) == (y == 1)).mean())

    def reference(self) -> float:
        """Scikit-learn's accuracy on the held-out rows."""
        from sklearn.linear_model import LogisticRegression

        return float(LogisticRegression(max_iter=1000).fit(*_all(self.plain_rows)).score(*_all(self.plain_test)))


class Train(_HeJob):
    """A logistic regression by encrypted gradient descent."""

    def __init__(self, case: Case, data: Path | None) -> None:
        trained = Trained.of(case, data)
        super().__init__(trained.spec, trained.rows, None)

    def outputs(self) -> dict[str, Any]:
        assert self.result is not None and self.result.weights is not None
        return {"w": np.concatenate([np.asarray(value).reshape(-1) for value in self.result.weights.values()])}


def _narrowed(feature: Feature) -> Feature:
    numeric = feature.numeric
    if numeric is None:
        return feature
    low, high = numeric.shift - _CLIP * numeric.scale, numeric.shift + _CLIP * numeric.scale
    narrowed = replace(numeric, low=max(low, numeric.low), high=min(high, numeric.high), clip=True)
    return replace(feature, numeric=narrowed)


def _all(rows: RowSource) -> tuple[Floats, NDArray[Any]]:
    return rows.features(0, rows.rows), rows.targets(0, rows.rows)

"""Specifications, rows and plain runs for the tests of workloads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Permit
from enclave.engines.plain import InsecurePlainEngine
from enclave.messages import (
    Architecture,
    Category,
    ClassTarget,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    NumericFeature,
    PartyRef,
    Target,
)
from enclave.workloads import Inputs, Result, Sealed, check_spec, finish, release, run


@dataclass(frozen=True)
class ArrayRows:
    """Encoded rows of one party, already in memory."""

    x: NDArray[np.float64]
    y: NDArray[Any]

    @property
    def rows(self) -> int:
        return len(self.x)

    def features(self, start: int, stop: int) -> NDArray[np.float64]:
        return self.x[start:stop]

    def targets(self, start: int, stop: int) -> NDArray[Any]:
        return self.y[start:stop]


@dataclass(frozen=True)
class NamedWeights:
    """A model's weights, without its architecture."""

    weights: Mapping[str, NDArray[np.float64]]


def classes(count: int) -> Target:
    return Target("y", classes=ClassTarget(tuple(Category((str(i),)) for i in range(count))))


def number(low: float = -10.0, high: float = 10.0, shift: float = 0.0, scale: float = 1.0) -> Target:
    return Target("y", numeric=NumericFeature(shift=shift, scale=scale, low=low, high=high))


def features(x: NDArray[np.float64]) -> tuple[Feature, ...]:
    """One numeric feature a column, with a range a little wider than its values."""
    edges = [(float(c.min()) - 0.01, float(c.max()) + 0.01) for c in x.reshape(len(x), -1).T]
    return tuple(Feature(f"c{i}", numeric=NumericFeature(low=low, high=high)) for i, (low, high) in enumerate(edges))


def job(
    x: NDArray[np.float64],
    target: Target | None,
    architecture: Architecture,
    outputs: Sequence[str],
    *,
    owners: Sequence[int] = (),
    buyer_rows: int = 0,
    standardise: bool = False,
    **rest: Any,
) -> JobSpec:
    """A job over the rows of x, split over owners with these numbers of rows (one owner without)."""
    counts = tuple(owners) or (len(x) - buyer_rows,)
    parties = tuple(PartyRef(f"owner{i}", "owner", bytes([i + 1]) * 32) for i in range(len(counts)))
    ends = (PartyRef("buyer", "buyer", b"b" * 32), PartyRef("dealer", "dealer", b"d" * 32))
    return JobSpec(
        job_id="0" * 32,
        kind="train" if rest.get("training") else "evaluate",
        created_unix_s=0,
        expires_unix_s=1,
        parties=(*parties, *ends),
        datasets=tuple(DatasetRef(p.name, "rows", bytes(32), n) for p, n in zip(parties, counts, strict=True)),
        encoding=Encoding(features(x), target, standardise),
        architecture=architecture,
        outputs=tuple(outputs),
        buyer_rows=buyer_rows,
        **{"block_rows": 100, **rest},
    )


def holders(spec: JobSpec, x: NDArray[np.float64], y: NDArray[Any]) -> dict[int, ArrayRows]:
    """The rows of x and y by the rank that the specification gives them to, in order."""
    counts = [d.rows for d in spec.datasets] + ([spec.buyer_rows] if spec.buyer_rows else [])
    assert sum(counts) == len(x)
    edges = np.cumsum([0, *counts])
    return {i: ArrayRows(x[a:b], y[a:b]) for i, (a, b) in enumerate(itertools.pairwise(edges))}


def sealed(
    spec: JobSpec,
    rows: Mapping[int, ArrayRows],
    weights: Mapping[str, NDArray[np.float64]] | None = None,
    engine: InsecurePlainEngine | None = None,
) -> tuple[InsecurePlainEngine, Sealed]:
    check_spec(spec)
    engine = engine or InsecurePlainEngine(spec.frac_bits, parties=len(spec.compute_parties))
    model = None if weights is None else NamedWeights(weights)
    return engine, run(engine, spec, Inputs(model=model, by_rank=rows))


def result(
    spec: JobSpec,
    rows: Mapping[int, ArrayRows],
    weights: Mapping[str, NDArray[np.float64]] | None = None,
    engine: InsecurePlainEngine | None = None,
) -> Result:
    """The whole job on the plain engine."""
    engine, done = sealed(spec, rows, weights, engine)
    opened = release(engine, spec, done, Permit(spec.job_id, spec.outputs))
    assert opened is not None
    return finish(spec, opened)

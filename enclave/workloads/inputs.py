"""What one party brings to a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Inputs", "Rows", "Weights"]


class Rows(Protocol):
    """Encoded rows of one party, as `enclave.datasets.RowSource` reads them."""

    @property
    def rows(self) -> int: ...

    def features(self, start: int, stop: int) -> NDArray[np.float64]:
        """Encoded features of rows start..stop, (stop - start, width)."""
        ...

    def targets(self, start: int, stop: int) -> NDArray[Any]:
        """Targets of these rows, (stop - start,): float64 numbers or int64 class indices."""
        ...


class Weights(Protocol):
    """A model's weights by parameter name, as `enclave.models.Model` has them."""

    @property
    def weights(self) -> Mapping[str, NDArray[np.float64]]: ...


@dataclass(frozen=True, slots=True, repr=False)
class Inputs:
    """Rows at a party that has some, the model at the buyer of an evaluation; nothing at a dealer or in a plan.

    `by_rank` serves an engine that holds everything (`engines.plain`): the rows of every party by rank.
    """

    rows: Rows | None = None
    model: Weights | None = None
    by_rank: Mapping[int, Rows] = field(default_factory=dict)

    def of(self, rank: int, own: int | None) -> Rows | None:
        """The rows of party `rank`, as far as this process (rank `own`) holds them."""
        if rank in self.by_rank:
            return self.by_rank[rank]
        return self.rows if rank == own else None

    def weight(self, name: str) -> NDArray[np.float64] | None:
        """One weight tensor, None where there is no model."""
        return None if self.model is None else self.model.weights[name]

    def __repr__(self) -> str:
        return f"Inputs(rows={self.rows is not None or sorted(self.by_rank)}, model={self.model is not None})"

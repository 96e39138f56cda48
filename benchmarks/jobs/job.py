"""One case of the suite, ready to run: who holds which rows, how they are encoded, and what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from enclave.datasets import RowSource
from enclave.messages import Encoding, JobSpec
from parties.buyer import Schedule

if TYPE_CHECKING:
    from enclave.models import Model

__all__ = ["DATASET", "Figures", "Job", "Outcome", "Traffic", "specification"]

DATASET = "rows"
FloatArray = NDArray[np.float64]
Table = Any  # pyarrow.Table, which has no types


@dataclass(frozen=True, slots=True)
class Figures:
    """How good a model is on rows it was not trained on. None: not computed."""

    accuracy: float | None = None
    auc: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What is run.

    Attributes:
        owners: the rows of each owner, by name, in rank order.
        model: evaluated; None in a training.
        schedule: of a training; None in an evaluation.
        test: rows on which a trained model is scored, in the clear, by whoever gets it. None in an evaluation.
        reference: published figures for the same split.
    """

    case: str
    owners: Mapping[str, Table]
    encoding: Encoding
    metrics: tuple[str, ...] = ()
    model: Model | None = None
    schedule: Schedule | None = None
    test: Table | None = None
    reference: Figures = field(default_factory=Figures)

    def rows(self) -> dict[int, RowSource]:
        """Every owner's rows by rank."""
        return {rank: RowSource(table, self.encoding) for rank, table in enumerate(self.owners.values())}

    def score(self, model: Model) -> Figures:
        """The figures of a trained model on the test rows, in the clear."""
        rows = RowSource(self.test, self.encoding)
        return figures(model, rows.features(0, rows.rows), rows.targets(0, rows.rows), auc=self.classes == 2)

    @property
    def classes(self) -> int:
        """Number of classes of the target."""
        target = self.encoding.target
        assert target is not None and target.classes is not None
        return len(target.classes.classes)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an encrypted run sent. `sent_bytes` and `received_bytes` are of the compute party with the most."""

    rounds: int
    sent_bytes: int
    received_bytes: int
    dealer_bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run on one system.

    Attributes:
        seconds: from the command to its result.
        model: the trained one.
        session_s: the part of it between the proposal and the released result, where the two differ.
    """

    figures: Figures
    seconds: float
    model: Model | None = None
    traffic: Traffic | None = None
    session_s: float | None = None
    peak_rss_bytes: Mapping[str, int] | None = None


def figures(model: Model, features: FloatArray, targets: NDArray[Any], *, auc: bool) -> Figures:
    """Accuracy and AUC of a model in float64."""
    from enclave.models import forward_float

    shape = (len(features), *model.architecture.input_shape)
    outputs = forward_float(model, features.reshape(shape)).reshape(len(features), -1)
    if outputs.shape[1] == 1:
        threshold = 0.5 if model.architecture.layers[-1].op == "sigmoid" else 0.0
        accuracy = float(((outputs[:, 0] > threshold) == (targets == 1)).mean())
    else:
        accuracy = float((outputs.argmax(axis=1) == targets).mean())
    if not auc:
        return Figures(accuracy)
    from sklearn.metrics import roc_auc_score

    score = outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 1] - outputs[:, 0]
    return Figures(accuracy, float(roc_auc_score(targets, score)))


def specification(job: Job) -> JobSpec:
    """The job as parties without nodes would agree on it: the same code writes it as for real ones."""
    from enclave.identity import Card
    from enclave.messages import DatasetRef, sha256
    from parties.buyer.specs import Terms, job_spec, trained_network

    def figurehead(role: str, name: str) -> Card:
        return Card(name, role, "", sha256(role.encode(), name.encode()), (), 0, b"")

    training = None
    if job.schedule is None:
        assert job.model is not None
        architecture = job.model.architecture
    else:
        architecture, training = trained_network(job.schedule, job.encoding)
    return job_spec(
        owners=[figurehead("owner", name) for name in job.owners],
        datasets=[DatasetRef(name, DATASET, bytes(32), table.num_rows) for name, table in job.owners.items()],
        buyer=figurehead("buyer", "buyer"),
        dealer=figurehead("dealer", "dealer"),
        encoding=job.encoding,
        architecture=architecture,
        outputs=job.metrics if training is None else ("model", *job.metrics),
        terms=Terms(created_unix_s=1),
        code_version="",
        training=training,
    )

"""What a buyer gets back: figures with scikit-learn's trailing underscore, prices, and job listings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from parties.buyer.records import PREDICTIONS, RECEIPT, REPORT, REPORT_PAGE, JobFolder

if TYPE_CHECKING:
    from enclave.jobs import JobRecord
    from enclave.models import Model
    from enclave.workloads.numeric import NumericPlan

__all__ = ["Cost", "HiddenBits", "JobResult", "JobSummary", "Option", "Progress", "Quote", "Withdrawal"]

MANY = 10  # models, for a price of many

# stage, steps done, steps in all, bytes sent so far
Progress = Callable[[str, int, int, int], None]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job sends: rounds of the protocol, and bytes by (from, to), dealer included."""

    rounds: int
    link_bytes: Mapping[tuple[str, str], int]

    @property
    def total_bytes(self) -> int:
        """All payload bytes of all parties."""
        return sum(self.link_bytes.values())

    def sent_by(self, name: str) -> int:
        """Bytes that the party called `name` sends to all others."""
        return sum(size for (source, _), size in self.link_bytes.items() if source == name)

    def to_json(self) -> dict[str, Any]:
        """JSON types: rounds, total, and one entry a link."""
        links = [{"from": a, "to": b, "bytes": n} for (a, b), n in sorted(self.link_bytes.items())]
        return {"rounds": self.rounds, "bytes": self.total_bytes, "links": links}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cost:
        """The inverse of `to_json`."""
        return cls(value["rounds"], {(e["from"], e["to"]): e["bytes"] for e in value["links"]})


@dataclass(frozen=True, slots=True)
class HiddenBits:
    """What hides the owners' rows in one kind of ciphertext; `bits` None where nothing at all is told."""

    label: str
    bits: float | None
    method: str


@dataclass(frozen=True, slots=True)
class Quote:
    """A job before it is proposed: its plan, that plan at a bandwidth and latency, and what its numbers can do.

    Attributes:
        dealer: its name; empty for a job without one.
        hiding: what hides the owners' rows in ciphertexts; empty without encryption.
        options: every engine, where they were compared.
        why: why it is this engine.
    """

    kind: str
    rows: int
    steps: int
    cost: Cost
    dealer_bytes: int
    seconds: float
    bandwidth_bps: float
    latency_s: float
    plan_digest: bytes
    parties: tuple[str, ...]
    numbers: NumericPlan
    engine: str = "mpc"
    dealer: str = ""
    hiding: tuple[HiddenBits, ...] = ()
    options: tuple[Option, ...] = ()
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "kind": self.kind,
            "engine": self.engine,
            "why": self.why,
            "dealer": self.dealer or None,
            "hiding": [asdict(hidden) for hidden in self.hiding],
            "engines": [option.to_json() for option in self.options],
            "rows": self.rows,
            "steps": self.steps,
            **self.cost.to_json(),
            "dealer_bytes": self.dealer_bytes,
            "seconds": self.seconds,
            "bandwidth_bps": self.bandwidth_bps,
            "latency_s": self.latency_s,
            "plan_digest": self.plan_digest.hex(),
            "numbers": self.numbers.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Option:
    """One engine for a job: its quote, or why it cannot be had."""

    engine: str
    quote: Quote | None
    obstacle: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON types; a further model is a further job, with keys and masks of its own."""
        quote = self.quote
        if quote is None:
            return {"engine": self.engine, "possible": False, "obstacle": self.obstacle}
        return {
            "engine": self.engine,
            "possible": not self.obstacle,
            "obstacle": self.obstacle,
            "dealer": quote.dealer or None,
            "rounds": quote.cost.rounds,
            "bytes": quote.cost.total_bytes,
            f"bytes_of_{MANY}_models": MANY * quote.cost.total_bytes,
            "dealer_bytes": quote.dealer_bytes,
            "seconds": quote.seconds,
            f"seconds_of_{MANY}_models": MANY * quote.seconds,
            "hiding_bits": min((h.bits for h in quote.hiding if h.bits is not None), default=None),
        }


@dataclass(frozen=True, slots=True)
class JobResult:
    """A finished job. Figures that the job did not release raise AttributeError, as an unfitted estimator's do.

    Attributes:
        metrics: released figures by name; numbers, and the confusion matrix as rows (true) of columns (predicted).
        planned, measured: what the plan said, and what this party's links and the other parties' statements say.
        classes: names of the target's classes, in the order of the confusion matrix.
        share: this party's share of a model that stays shared; a uniform one without the others'.
        folder: specification, receipt, leakage report and result of this job.
        seconds: from the proposal to the released result; waiting for approval is not counted.
        dealer: its name; empty for a job without one.
    """

    job_id: str
    kind: str
    rows: int
    metrics: Mapping[str, Any]
    planned: Cost
    measured: Cost
    folder: Path
    seconds: float
    receipt_ok: bool
    classes: tuple[str, ...] = ()
    share: Path | None = None
    predictions: NDArray[Any] | None = field(default=None, repr=False)
    model: Model | None = field(default=None, repr=False)
    problems: tuple[str, ...] = ()
    engine: str = "mpc"
    dealer: str = ""

    @property
    def accuracy_(self) -> float:
        """Share of rows whose class the model names."""
        return float(self._figure("accuracy"))

    @property
    def auc_(self) -> float:
        """Area under the receiver operating characteristic."""
        return float(self._figure("auc"))

    @property
    def rmse_(self) -> float:
        """Root mean squared error, in units of the target."""
        return float(self._figure("rmse"))

    @property
    def r2_(self) -> float:
        """Coefficient of determination."""
        return float(self._figure("r2"))

    @property
    def brier_(self) -> float:
        """Mean of (probability of class 1 - true class)^2."""
        return float(self._figure("brier"))

    @property
    def mean_score_(self) -> float:
        """Mean of the model's one output before a final sigmoid; in units of the target, if that is a number."""
        return float(self._figure("mean_score"))

    @property
    def confusion_(self) -> list[list[int]]:
        """Rows by true class, columns by predicted class."""
        matrix: list[list[int]] = self._figure("confusion")
        return matrix

    @property
    def predictions_(self) -> NDArray[Any]:
        """One prediction a row, owner after owner in the order of the job."""
        if self.predictions is None:
            raise AttributeError("this job released no predictions")
        return self.predictions

    @property
    def model_(self) -> Model:
        """The trained model."""
        if self.model is None:
            raise AttributeError("this job released no model")
        return self.model

    def write_report_page(self) -> Path:
        """Writes the leakage report as one HTML page into `folder`, if it is not there yet, and returns its path.

        Not done before the result is returned: drawing it takes longer than a small job.
        """
        from enclave.leakage.report import LeakageReport

        folder = JobFolder(self.folder)
        if not folder.has(REPORT_PAGE):
            folder.write(REPORT_PAGE, LeakageReport.from_json(folder.read(REPORT)).to_html().encode())
        return self.folder / REPORT_PAGE

    def _figure(self, name: str) -> Any:
        if name not in self.metrics:
            raise AttributeError(f"this job released no {name}: it released {', '.join(self.metrics) or 'no figures'}")
        return self.metrics[name]

    def to_json(self) -> dict[str, Any]:
        """JSON types, without predictions and weights: those have files of their own in `folder`."""
        return {
            "job_id": self.job_id,
            "kind": self.kind,
            "state": "RELEASED",
            "engine": self.engine,
            "dealer": self.dealer or None,
            "rows": self.rows,
            "metrics": {name: _finite(figure) for name, figure in self.metrics.items()},
            "classes": list(self.classes),
            "planned": self.planned.to_json(),
            "measured": self.measured.to_json(),
            "seconds": round(self.seconds, 3),
            "receipt_ok": self.receipt_ok,
            "problems": list(self.problems),
            "share": None if self.share is None else str(self.share),
            "folder": str(self.folder),
            "files": {name: str(self.folder / file) for name, file in self._files().items()},
        }

    def _files(self) -> dict[str, str]:
        files = {"receipt": RECEIPT} if self.receipt_ok else {}
        files["report"] = REPORT
        if self.predictions is not None:
            files["predictions"] = PREDICTIONS
        if self.model is not None:
            files |= {"model": "model.onnx", "weights": "model.safetensors"}
        return files


def _finite(figure: Any) -> Any:
    # JSON has no NaN: an AUC over rows of one class is null.
    return None if isinstance(figure, float) and not math.isfinite(figure) else figure


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A job that its buyer gave up.

    Attributes:
        state: the job's end at the buyer; not WITHDRAWN where it had ended before.
        states: the end that each party states, by name, as far as they answered.
        receipt: the receipt that all parties signed, None when there is none yet.
        problems: one line each; a node that did not answer may still wait for the job, in vain.
    """

    job_id: str
    state: str
    states: Mapping[str, str]
    receipt: Path | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "job_id": self.job_id,
            "state": self.state,
            "states": dict(self.states),
            "receipt": None if self.receipt is None else str(self.receipt),
            "problems": list(self.problems),
        }


@dataclass(frozen=True, slots=True)
class JobSummary:
    """One line of a buyer's list of jobs."""

    job_id: str
    kind: str
    state: str
    data: tuple[str, ...]
    outputs: tuple[str, ...]
    created_unix_s: int
    reasons: tuple[str, ...]
    rules: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: JobRecord) -> JobSummary:
        """The line of a job in the buyer's book."""
        spec = record.spec()
        return cls(
            job_id=record.job_id,
            kind=spec.kind,
            state=record.state,
            data=tuple(f"{d.owner}/{d.name}" for d in spec.datasets),
            outputs=spec.outputs,
            created_unix_s=spec.created_unix_s,
            reasons=tuple(reason.text for reason in record.reasons),
            rules=tuple(dict.fromkeys(reason.rule for reason in record.reasons)),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "job_id": self.job_id,
            "kind": self.kind,
            "state": self.state,
            "data": list(self.data),
            "outputs": list(self.outputs),
            "created_unix_s": self.created_unix_s,
            "reasons": list(self.reasons),
            "rules": list(self.rules),
        }

"""The demonstration from the first key to the verified receipt."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from enclave.errors import BadInput
from enclave.executor.catalogue import Catalogue
from enclave.identity import Identity, TrustStore
from enclave.leakage.declared import party_views
from enclave.leakage.report import LeakageReport
from enclave.messages import JobSpec
from enclave.receipts import verify_receipt
from parties.buyer import Buyer, JobResult, Progress, Schedule
from parties.buyer.encodings import read_encoding
from parties.buyer.records import RECEIPT, REPORT, JobFolder
from parties.buyer.trial import in_the_clear
from parties.config import write_default
from parties.demo.data import OWNERS, FloatArray, IntArray, Split, load_split, write_encoding, write_owner
from parties.demo.nodes import free_port, running_nodes
from parties.demo.outcome import DemoOutcome, Figure, Job, View

if TYPE_CHECKING:
    from enclave.models import Model

__all__ = ["run_demo"]

BUYER, DEALER, AUDITOR = "lab", "dealer", "auditor"
DATASET = "biopsies"
ENGINES = ("mpc", "hybrid", "he")
SCHEDULE = Schedule(kind="logistic", epochs=8, batch_rows=50, learning_rate=0.1, momentum=0.9, l2=0.001)
# Under encryption an epoch is one step over all rows.
FULL_STEPS = Schedule(kind="logistic", epochs=6, batch_rows=500, learning_rate=0.2, momentum=0.5, l2=0.001)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Stage:
    """Where everything is while the nodes run."""

    folder: Path
    homes: Mapping[str, Path]
    split: Split
    encoding: Path
    report: Progress
    say: Say


def run_demo(folder: Path | None = None, *, say: Say, report: Progress, job_done: Callable[[Job], None]) -> DemoOutcome:
    """Runs the demonstration in `folder` (new or empty; a temporary one by default), which is left behind.

    Args:
        say: told in one line what happens next.
        report: progress of jobs, as `Buyer` reports it.
        job_done: handed each job when it is finished.

    Raises: EnclaveError; the processes that were started are stopped whatever happens.
    """
    started_s = time.monotonic()
    root = _workplace(folder)
    say(f"Everything is kept in {root}")
    split = load_split()
    homes = _found_parties(root, split, say)
    encoding = write_encoding(root / "biopsies.encoding.toml", split)
    stage = _Stage(root, homes, split, encoding, report, say)
    nodes = {name: ("dealer" if name == DEALER else "owner", homes[name]) for name in (*OWNERS, DEALER)}
    say("Starting four nodes, each a process of its own")
    with running_nodes(nodes) as processes:
        for node in processes.values():
            card = Identity.load(node.home).card
            say(f"  {node.role} {node.name} listens on {card.address}, process {node.process.pid}")
        jobs = []
        for act in (_evaluations, _trainings):
            for job in act(stage):
                jobs.append(job)
                job_done(job)
        say("Stopping the nodes")
    return DemoOutcome(root, tuple(jobs), time.monotonic() - started_s)


def _workplace(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="enclave-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty", hint="choose a new or empty directory")
    return folder.resolve()


def _found_parties(root: Path, split: Split, say: Say) -> dict[str, Path]:
    """Makes six homes, lets everybody trust everybody by card, and registers the owners' data."""
    roles = {**dict.fromkeys(OWNERS, "owner"), DEALER: "dealer", BUYER: "buyer", AUDITOR: "auditor"}
    homes = {name: root / name for name in roles}
    cards: dict[str, bytes] = {}
    for name, role in roles.items():
        address = f"127.0.0.1:{free_port()}" if role in ("owner", "dealer") else ""
        cards[name] = Identity.create(homes[name], role, name, address).card.encoded
        if address:
            write_default(homes[name], listen=address)
    for name, home in homes.items():
        trust = TrustStore(home)
        for other, card in cards.items():
            if other != name:
                trust.add(card)
    say(f"Six parties, who trust each other's cards: {', '.join(roles)}")
    for name in OWNERS:
        description = write_owner(root / "data" / name, name, split, BUYER)
        Catalogue(homes[name], name).add(description)
        say(f"  {name} offers {len(split.owners[name][1])} rows, which only its own node can read")
    return homes


# ---- two acts, each with every engine


def _evaluations(stage: _Stage) -> Iterator[Job]:
    from sklearn.linear_model import LogisticRegression

    features, classes = stage.split.buyer
    model = LogisticRegression(C=0.1, max_iter=1000).fit(_encoded(stage, features), classes)
    stage.say(f"\nThe {BUYER} has fitted a logistic regression on its own {len(classes)} rows, in the clear.")
    stage.say(f"It asks {OWNERS[0]} how good it is, without showing it, and without seeing a row: by every engine.")
    rows, truth = stage.split.owners[OWNERS[0]]
    scores = model.decision_function(_encoded(stage, rows))
    clear = {
        "accuracy": float(((scores > 0) == (truth == 1)).mean()),
        "auc": _auc(truth, scores),
        "mean_score": float(scores.mean()),
    }
    # What sorts or divides needs shares, and a dealer: under he too.
    asked = [(engine, ["accuracy", "mean_score"] if engine == "he" else ["accuracy", "auc"]) for engine in ENGINES]
    for engine, metrics in (*asked, ("he", ["accuracy", "auc"])):
        sorts = engine == "he" and "auc" in metrics
        stage.say(_SORTING_TEXT if sorts else _ENGINE_TEXTS[engine])
        with Buyer(stage.homes[BUYER], progress=stage.report) as buyer:
            result = buyer.evaluate(
                model,
                data=[f"{OWNERS[0]}/{DATASET}"],
                encoding=stage.encoding,
                metrics=metrics,
                purpose="demonstration",
                engine=engine,
            )
        figures = tuple(Figure(name, float(result.metrics[name]), clear[name]) for name in metrics)
        yield _job(stage, f"Evaluation on the {len(truth)} rows of {OWNERS[0]}", result, figures)


_ENGINE_TEXTS = {
    "mpc": f"\nmpc: everything is computed on shares, with randomness that the {DEALER} deals.",
    "hybrid": f"\nhybrid: rows stay at home and meet the {BUYER}'s encrypted weights there; the rest as mpc.",
    "he": f"\nhe: the {BUYER}'s weights travel encrypted, and there is no dealer: no third party has a part in it.",
}


_TRAINING_TEXT = "\nhybrid: weights in training are shared, and nobody's to encrypt; rows are masked, as by mpc."
_SORTING_TEXT = "\nhe, for an AUC: encrypted scores become shares, to be sorted; the dealer is needed for that alone."


def _trainings(stage: _Stage) -> Iterator[Job]:
    rows = sum(len(truth) for _, truth in stage.split.owners.values())
    features, classes = stage.split.buyer
    here = _encoded(stage, features)
    stage.say(f"\nNow the {BUYER} has a logistic regression trained on the rows of all three clinics together.")
    for engine in ENGINES:
        stage.say(_TRAINING_TEXT if engine == "hybrid" else _ENGINE_TEXTS[engine])
        with Buyer(stage.homes[BUYER], progress=stage.report) as buyer:
            result = buyer.train(
                FULL_STEPS if engine == "he" else SCHEDULE,
                data=[f"{name}/{DATASET}" for name in OWNERS],
                encoding=stage.encoding,
                metrics=[] if engine == "he" else ["accuracy", "auc"],
                purpose="demonstration",
                engine=engine,
            )
        metrics, twin = _plain_twin(stage, JobFolder(result.folder).spec())
        figures = (
            *(Figure(f"{name}, training rows", float(result.metrics[name]), metrics[name]) for name in result.metrics),
            Figure(f"accuracy, the {BUYER}'s own rows", *(_accuracy(m, here, classes) for m in (result.model_, twin))),
            Figure("largest weight", *(_largest(m) for m in (result.model_, twin))),
        )
        yield _job(stage, f"Training on the {rows} rows of {', '.join(OWNERS)}", result, figures)


def _job(stage: _Stage, title: str, result: JobResult, figures: tuple[Figure, ...]) -> Job:
    """The job with its receipt checked by the auditor, who knows nothing but the file and the cards it trusts."""
    folder = JobFolder(result.folder)
    verified = verify_receipt(folder.read(RECEIPT), TrustStore(stage.homes[AUDITOR]).cards())
    spec, found = folder.spec(), LeakageReport.from_json(folder.read(REPORT))
    return Job(
        title=title,
        engine=spec.engine,
        dealer=spec.dealer.name if spec.dealer is not None else "",
        repeats=spec.engine == "hybrid" or (spec.engine == "he" and (spec.has_dealer or spec.kind == "train")),
        job_id=result.job_id,
        figures=figures,
        planned=result.planned,
        measured=result.measured,
        seconds=result.seconds,
        views=_views(spec),
        checks=len(verified.checks),
        failed_checks=tuple(str(check) for check in verified.failures),
        receipt=result.folder / RECEIPT,
        report=result.write_report_page(),
        verdict=found.verdict,
        hiding=tuple((hidden.label, hidden.bits) for hidden in found.hiding),
    )


def _views(spec: JobSpec) -> tuple[View, ...]:
    return tuple(View(v.name, v.role, v.sees, v.hidden) for v in party_views(spec))


# ---- the plaintext twins


def _encoded(stage: _Stage, features: FloatArray) -> FloatArray:
    """The encoding worked out by hand, so that the plaintext twin does not lean on the code it checks."""
    numeric = [feature.numeric for feature in read_encoding(stage.encoding).features]
    shifts = np.array([rule.shift for rule in numeric if rule is not None])
    scales = np.array([rule.scale for rule in numeric if rule is not None])
    encoded: FloatArray = (features - shifts) / scales
    return encoded


def _plain_twin(stage: _Stage, spec: JobSpec) -> tuple[dict[str, float], Model]:
    """The same job by the same code on all rows at once, with plain numbers."""
    from enclave.datasets import RowSource
    from enclave.engines.interface import Permit
    from enclave.engines.plain import InsecurePlainEngine
    from enclave.models import Model
    from enclave.workloads import Inputs, finish, opened_outputs, release, run
    from enclave.workloads.encrypted.training import plain_weights

    rows = {
        rank: RowSource(stage.folder / "data" / name / f"{DATASET}.parquet", spec.encoding)
        for rank, name in enumerate(OWNERS)
    }
    if not spec.has_dealer:
        found = finish(spec, {"model": plain_weights(spec, rows)})
    else:
        clear = in_the_clear(spec)
        engine = InsecurePlainEngine(spec.frac_bits, parties=len(spec.compute_parties))
        sealed = run(engine, clear, Inputs(by_rank=rows))
        found = finish(clear, release(engine, clear, sealed, Permit(spec.job_id, opened_outputs(clear))) or {})
    assert found.weights is not None
    return found.figures, Model(spec.architecture, found.weights)


def _accuracy(model: Model, features: FloatArray, classes: IntArray) -> float:
    from enclave.models import forward_float

    return float(((forward_float(model, features)[:, 0] > 0.5) == (classes == 1)).mean())


def _largest(model: Model) -> float:
    return max(float(abs(weight).max()) for weight in model.weights.values())


def _auc(truth: IntArray, scores: FloatArray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))

"""The end of a job at the buyer: the result, the receipt that all parties sign, and the files that stay."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from enclave.identity import Identity
from enclave.messages import JobSpec, Transcript
from parties.buyer.closing import Closing, Ended
from parties.buyer.preparing import Draft
from parties.buyer.records import OUTPUTS, PREDICTIONS, REPORT, RESULT, JobFolder
from parties.buyer.results import Cost, JobResult
from parties.buyer.running import Finished, Run

if TYPE_CHECKING:
    from enclave.models import Model
    from enclave.workloads import Result

__all__ = ["conclude", "load_result", "retry_receipt"]

_PLACE = ["data", "row"]


def conclude(
    run: Run,
    draft: Draft,
    finished: Finished,
    *,
    identity: Identity,
    closing: Closing,
) -> JobResult:
    """Writes everything into the job's folder and returns the result.

    The result is safe before the receipt is asked for: a node that does not sign is a problem to report, and never
    a reason to lose what was released.
    """
    from enclave.receipts import outputs_digest
    from enclave.workloads import finish

    spec, folder = run.spec, run.folder
    found = finish(spec, finished.opened)
    model = _model(spec, found)
    planned = Cost.from_json(draft.planned)
    transcripts = {identity.name: finished.session.transcript}
    result = JobResult(
        job_id=spec.job_id,
        kind=spec.kind,
        rows=spec.rows,
        metrics=_metrics(found),
        planned=planned,
        measured=_measured(transcripts),
        folder=folder.path,
        seconds=finished.seconds,
        receipt_ok=False,
        classes=_classes(spec),
        engine=spec.engine,
        dealer=spec.dealer.name if spec.dealer is not None else "",
        share=_share(spec, identity),
        predictions=found.predictions,
        model=model,
    )
    _write(folder, result, spec)
    folder.write(REPORT, finished.session.report)
    commitment = outputs_digest(draft.outputs_salt, finished.opened)
    folder.write_json(OUTPUTS, {"digest": commitment.hex(), "released": list(finished.opened)})
    run.state(finished.session)
    return _with_end(result, folder, closing.close(folder, run.clients), transcripts)


def retry_receipt(folder: JobFolder, closing: Closing) -> JobResult:
    """The result that `conclude` wrote; its receipt is asked for again if it could not be made then."""
    result = load_result(folder)
    if result.receipt_ok or not folder.has(OUTPUTS):
        return result
    return _with_end(result, folder, closing.close(folder), {})


def _with_end(result: JobResult, folder: JobFolder, ended: Ended, known: Mapping[str, Transcript]) -> JobResult:
    said = {name: s.transcript for name, s in ended.statements.items() if s.transcript is not None}
    transcripts = {**known, **said}
    result = replace(
        result,
        measured=_measured(transcripts) if transcripts else result.measured,
        receipt_ok=ended.receipt is not None,
        problems=tuple(f"no receipt: {text}" if ended.receipt is None else text for text in ended.problems),
    )
    folder.write_json(RESULT, result.to_json())
    return result


def load_result(folder: JobFolder) -> JobResult:
    """The result that `conclude` wrote; raises StoreError when the folder is damaged."""
    value = folder.read_json(RESULT)
    spec = folder.spec()
    predictions = None
    if folder.has(PREDICTIONS):
        lines = list(csv.reader(folder.read(PREDICTIONS).decode().splitlines()))
        # Without a header: written by an earlier version, which had only the figures.
        figures = [line[2:] for line in lines[1:]] if lines[0][:2] == _PLACE else lines
        predictions = np.array([[float(cell) for cell in line] for line in figures])
        predictions = predictions[:, 0] if predictions.shape[1] == 1 else predictions
    model = None
    if folder.has("model.safetensors"):
        from enclave.models import read_model

        model = read_model(folder.path / "model.safetensors", architecture=spec.architecture)
    return JobResult(
        job_id=spec.job_id,
        kind=spec.kind,
        rows=spec.rows,
        metrics={name: math.nan if figure is None else figure for name, figure in value["metrics"].items()},
        planned=Cost.from_json(value["planned"]),
        measured=Cost.from_json(value["measured"]),
        folder=folder.path,
        seconds=value["seconds"],
        receipt_ok=value["receipt_ok"],
        classes=_classes(spec),
        engine=spec.engine,
        dealer=spec.dealer.name if spec.dealer is not None else "",
        share=None if value["share"] is None else Path(value["share"]),
        predictions=predictions,
        model=model,
        problems=tuple(value["problems"]),
    )


# ---- the result


def _metrics(found: Result) -> dict[str, Any]:
    metrics: dict[str, Any] = dict(found.figures)
    if found.confusion is not None:
        metrics["confusion"] = [[int(n) for n in row] for row in found.confusion]
    return metrics


def _classes(spec: JobSpec) -> tuple[str, ...]:
    target = spec.encoding.target
    if target is None or target.classes is None:
        return ()
    return tuple("/".join(c.values) or ("missing" if c.missing else "other") for c in target.classes.classes)


def _share(spec: JobSpec, identity: Identity) -> Path | None:
    path = identity.home / "shares" / f"{spec.job_id}.safetensors"  # where `enclave.executor.shares` keeps it
    return path if path.is_file() else None


def _model(spec: JobSpec, found: Result) -> Model | None:
    if found.weights is None:
        return None
    from enclave.models import Model

    return Model(spec.architecture, found.weights)


def _write(folder: JobFolder, result: JobResult, spec: JobSpec) -> None:
    if result.predictions is not None:
        folder.write(PREDICTIONS, _csv(result.predictions, spec, result.classes))
    if result.model is not None:
        from enclave.models import write_onnx, write_safetensors

        folder.write("model.safetensors", write_safetensors(result.model))
        folder.write("model.onnx", write_onnx(result.model))
    folder.write_json(RESULT, result.to_json())


def _csv(predictions: NDArray[Any], spec: JobSpec, classes: Sequence[str]) -> bytes:
    """A header, then a line a row: its data set, its number there from 1, and its figures."""
    rows = predictions.reshape(len(predictions), -1)
    width = rows.shape[1]
    names = list(classes) if width == len(classes) > 1 else [f"prediction_{i + 1}" for i in range(width)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_PLACE, *(["prediction"] if width == 1 else names)])
    places = ((f"{d.owner}/{d.name}", i + 1) for d in spec.datasets for i in range(d.rows))
    for place, row in zip(places, rows, strict=True):
        writer.writerow([*place, *(repr(float(x)) for x in row)])
    return text.getvalue().encode()


# ---- figures


def _measured(transcripts: Mapping[str, Transcript]) -> Cost:
    """Bytes as the sender counted them; where there is no word from it, as the receiver did."""
    links: dict[tuple[str, str], int] = {}
    for name, transcript in transcripts.items():
        for link in transcript.links:
            links.setdefault((link.peer, name), link.received_bytes)
    for name, transcript in transcripts.items():
        for link in transcript.links:
            links[name, link.peer] = link.sent_bytes
    rounds = max((transcript.rounds for transcript in transcripts.values()), default=0)
    return Cost(rounds, {pair: size for pair, size in links.items() if size})

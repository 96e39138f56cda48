"""`enclave buyer ...`."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave.errors import BadInput
from parties.buyer import Buyer, JobResult, Schedule
from parties.cli.console import FAILED, Answer, Console, table
from parties.cli.progress import ProgressLine
from parties.cli.quoting import quote_text
from parties.cli.units import bytes_text, seconds_text

if TYPE_CHECKING:
    from enclave.messages import DatasetInfo
    from enclave.models import Model

__all__ = ["COMMANDS", "result_text"]


@contextmanager
def _buyer(args: Namespace, console: Console) -> Iterator[Buyer]:
    line = ProgressLine(console.stderr, interactive=console.interactive)
    try:
        with Buyer(args.home, progress=line.update, note=console.note) as buyer:
            yield buyer
    finally:
        line.close()


# ---- looking around


def _datasets(args: Namespace, console: Console) -> Answer:
    with _buyer(args, console) as buyer:
        found = buyer.datasets()
    rows = []
    values: list[dict[str, Any]] = []
    for offer in found.offers:
        info = offer.info
        value = {"name": offer.name, "rows": info.ref.rows, **_described(info)}
        if args.mock is not None:
            value["mock"] = str(_write_mock(args.mock, offer.owner.name, info))
        values.append(value)
        allowed = ", ".join(info.job_kinds) or "nothing"
        rows.append(
            (
                offer.name,
                f"{info.ref.rows:,}",
                len(info.columns),
                allowed,
                ", ".join(info.outputs),
                ", ".join(info.engines),
                info.approval,
            )
        )
    for name, error in found.problems.items():
        console.note(f"no answer from {name}: {error.public}")
    problems = {name: {"code": e.code, "message": e.public, "hint": e.hint} for name, e in found.problems.items()}
    code = FAILED if problems and not values else 0
    lines = [table(("data set", "rows", "columns", "jobs", "outputs", "engines", "approval"), rows, right=(1, 2))]
    lines += [text for offer in found.offers for text in _columns_text(offer.name, offer.info)]
    if not rows:
        lines = ["no data set is offered to this buyer"]
    if args.mock is not None and rows:
        lines.append(f"mock twins (made up from the public description) are in {args.mock}")
    return Answer({"datasets": values, "problems": problems}, "\n".join(lines), code)


def _columns_text(name: str, info: DatasetInfo) -> list[str]:
    columns = []
    for column in info.columns:
        kind = f"{column.type} of {column.width}" if column.type == "list" else column.type
        columns.append((f"  {_plain(column.name)}", kind, "may be missing" if column.nullable else ""))
    about = f": {_plain(info.description)}" if info.description else ""
    return ["", f"{name}{about}", *table(("  column", "type", ""), columns).splitlines()]


def _plain(text: str) -> str:
    # An owner's words: nothing in them may move the cursor.
    return "".join(c if c.isprintable() else " " for c in text)


def _described(info: DatasetInfo) -> dict[str, Any]:
    columns = [{"name": c.name, "type": c.type, "nullable": c.nullable, "width": c.width} for c in info.columns]
    return {
        "description": info.description,
        "columns": columns,
        "jobs": list(info.job_kinds),
        "outputs": list(info.outputs),
        "engines": list(info.engines),
        "minimum_rows": info.minimum_rows,
        "approval": info.approval,
        "version": info.ref.version.hex(),
    }


def _write_mock(folder: Path, owner: str, info: DatasetInfo) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{owner}-{info.ref.name}.parquet"
    path.write_bytes(info.mock_parquet)
    return path


def _quote(args: Namespace, console: Console) -> Answer:
    common = {
        "data": args.data,
        "encoding": args.encoding,
        "dealer": args.dealer,
        "rows": args.rows,
        "bandwidth_bps": args.bandwidth,
        "latency_s": args.latency,
        "frac_bits": args.frac_bits,
        "network": args.network,
        "engine": args.engine,
        "beside": True,
    }
    with _buyer(args, console) as buyer:
        if args.command == "buyer quote evaluate":
            quote = buyer.quote_evaluate(
                args.model,
                metrics=_metrics(args),
                predictions=args.predictions,
                block_rows=args.block_rows,
                **common,
            )
        else:
            quote = buyer.quote_train(
                _schedule(args), metrics=tuple(args.metric or ()), buyer_rows=args.buyer_rows, **common
            )
    return Answer(quote.to_json(), quote_text(quote))


# ---- jobs


def _evaluate(args: Namespace, console: Console) -> Answer:
    with _buyer(args, console) as buyer:
        result = buyer.evaluate(
            args.model,
            metrics=_metrics(args),
            predictions=args.predictions,
            block_rows=args.block_rows,
            **_conduct(args),
        )
    return _answer(result)


def _predict(args: Namespace, console: Console) -> Answer:
    _refuse_existing(args.out)
    with _buyer(args, console) as buyer:
        result = buyer.predict(args.model, block_rows=args.block_rows, **_conduct(args))
    answer = _answer(result)
    if args.out is None:
        return answer
    _write_predictions(args.out, result)
    return replace(answer, value={**answer.value, "out": str(args.out)}, text=f"{answer.text}\nwritten      {args.out}")


def _train(args: Namespace, console: Console) -> Answer:
    _refuse_existing(args.out)
    if args.out is not None and args.out.suffix not in (".onnx", ".safetensors"):
        raise BadInput(f"expected a file name that ends in .onnx or .safetensors, found {args.out}")
    if args.out is not None and args.keep_shared:
        raise BadInput("a model that stays shared cannot be written", hint="leave out --out or --keep-shared")
    with _buyer(args, console) as buyer:
        result = buyer.train(_schedule(args), metrics=tuple(args.metric or ()), rows=args.rows, **_conduct(args))
    answer = _answer(result)
    if args.out is None or result.model is None:
        return answer
    _write_model(args.out, result.model)
    return replace(answer, value={**answer.value, "out": str(args.out)}, text=f"{answer.text}\nwritten      {args.out}")


def _jobs(args: Namespace, console: Console) -> Answer:
    with _buyer(args, console) as buyer:
        jobs = buyer.jobs()
    rows = [
        (job.job_id, _when(job.created_unix_s), job.kind, job.state, ", ".join(job.data), "; ".join(job.reasons)[:80])
        for job in jobs
    ]
    text = table(("job", "proposed (UTC)", "kind", "state", "data", "reason"), rows) if rows else "no jobs yet"
    return Answer({"jobs": [job.to_json() for job in jobs]}, text)


def _result(args: Namespace, console: Console) -> Answer:
    with _buyer(args, console) as buyer:
        return _answer(buyer.result(args.job, wait_s=args.wait))


def _withdraw(args: Namespace, console: Console) -> Answer:
    with _buyer(args, console) as buyer:
        found = buyer.withdraw(args.job)
    lines = [f"job {found.job_id} is {found.state.lower()}"]
    if found.receipt is not None:
        lines.append(f"receipt  {found.receipt}")
    lines += [f"problem  {problem}" for problem in found.problems]
    if found.receipt is None:
        lines.append(f"next     `enclave buyer withdraw {found.job_id}` tries again")
    return Answer(found.to_json(), "\n".join(lines), 0 if found.receipt is not None else FAILED)


def _answer(result: JobResult) -> Answer:
    return Answer(result.to_json(), result_text(result), after=result.write_report_page)


def result_text(result: JobResult) -> str:
    """A finished job for a person: figures first, then what it took, then where everything is."""
    lines = []
    for name, figure in result.metrics.items():
        if name == "confusion":
            lines.append(_confusion_text(figure, result.classes))
        else:
            lines.append(f"{name:<12} {figure:.4f}")
    if result.predictions is not None:
        lines.append(f"{'predictions':<12} {len(result.predictions):,}, in {result.folder / 'predictions.csv'}")
    if result.model is not None:
        lines.append(f"{'model':<12} {result.folder / 'model.onnx'}")
    if result.share is not None:
        lines.append(f"{'model':<12} stays shared; this party's share is {result.share}")
    cost = result.measured
    same = "as planned" if cost.link_bytes == result.planned.link_bytes else "not as planned"
    lines += [
        "",
        f"job          {result.job_id}",
        f"rows         {result.rows:,}",
        f"engine       {result.engine}, {f'dealer {result.dealer}' if result.dealer else 'without a dealer'}",
        f"took         {seconds_text(result.seconds)}, {cost.rounds:,} rounds, {bytes_text(cost.total_bytes)}, {same}",
        f"receipt      {result.folder / 'receipt.pb'}",
        f"report       {result.folder / 'report.html'}",
    ]
    lines += [f"problem      {problem}" for problem in result.problems]
    return "\n".join(lines)


def _confusion_text(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    names = [name if len(name) <= 16 else name[:15] + "…" for name in classes]
    rows = [(f"  is {name}", *(f"{n:,}" for n in row)) for name, row in zip(names, matrix, strict=True)]
    return table(("confusion", *(f"said {name}" for name in names)), rows, right=tuple(range(1, len(names) + 1)))


# ---- arguments to values, values to files


def _conduct(args: Namespace) -> dict[str, Any]:
    return {
        "data": args.data,
        "encoding": args.encoding,
        "dealer": args.dealer,
        "frac_bits": args.frac_bits,
        "network": args.network,
        "engine": args.engine,
        "purpose": args.purpose,
        "lifetime_s": args.expires,
        "deal_ahead": args.deal_ahead,
        "prepare": args.prepare,
        "wait_s": args.wait,
        "mock": args.mock,
    }


def _metrics(args: Namespace) -> tuple[str, ...]:
    return tuple(dict.fromkeys(args.metric or ("accuracy",)))


def _schedule(args: Namespace) -> Schedule:
    return Schedule(
        kind=args.kind,
        hidden=args.hidden,
        epochs=args.epochs,
        batch_rows=args.batch,
        learning_rate=args.learning_rate,
        momentum=args.momentum,
        l2=args.l2,
        seed=args.seed,
        keep_shared=getattr(args, "keep_shared", False),
        image=args.image,
        average_epochs=args.average_epochs,
    )


def _refuse_existing(path: Path | None) -> None:
    if path is None:
        return
    if path.exists():
        raise BadInput(f"{path} exists already", hint="choose another file name")
    if not path.parent.is_dir():
        raise BadInput(f"the directory {path.parent} does not exist")


def _write_model(path: Path, model: Model) -> None:
    from enclave.models import write_onnx, write_safetensors

    path.write_bytes(write_onnx(model) if path.suffix == ".onnx" else write_safetensors(model))


def _write_predictions(path: Path, result: JobResult) -> None:
    path.write_bytes((result.folder / "predictions.csv").read_bytes())


def _when(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(unix_s))


COMMANDS: Mapping[str, Callable[[Namespace, Console], Answer]] = {
    "buyer datasets": _datasets,
    "buyer quote evaluate": _quote,
    "buyer quote train": _quote,
    "buyer evaluate": _evaluate,
    "buyer train": _train,
    "buyer predict": _predict,
    "buyer jobs": _jobs,
    "buyer result": _result,
    "buyer withdraw": _withdraw,
}

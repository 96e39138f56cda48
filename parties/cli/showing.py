"""`enclave demo`: the demonstration, told to a stranger."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping

from parties.cli.console import FAILED, Answer, Console, table
from parties.cli.progress import ProgressLine
from parties.cli.units import bytes_text, seconds_text
from parties.demo import DemoOutcome, Job, run_demo

__all__ = ["COMMANDS"]


def _demo(args: Namespace, console: Console) -> Answer:
    line = ProgressLine(console.stderr, interactive=console.interactive)

    def say(text: str) -> None:
        line.close()
        console.note(text) if args.json else console.event({}, text)

    def job_done(job: Job) -> None:
        line.close()
        if not args.json:
            console.event({}, _job_text(job, console))

    try:
        outcome = run_demo(args.keep, say=say, report=line.update, job_done=job_done)
    finally:
        line.close()
    return Answer(outcome.to_json(), _end_text(outcome, console), 0 if outcome.ok else FAILED)


def _job_text(job: Job, console: Console) -> str:
    figures = [(f.name, f"{f.encrypted:.4f}", f"{f.plaintext:.4f}", f"{f.difference:+.4f}") for f in job.figures]
    costs = [
        ("rounds", f"{job.measured.rounds:,}", f"{job.planned.rounds:,}"),
        ("bytes in all", f"{job.measured.total_bytes:,}", f"{job.planned.total_bytes:,}"),
    ]
    names = sorted({name for pair in job.planned.link_bytes for name in pair})
    costs += [
        (f"  sent by {name}", f"{job.measured.sent_by(name):,}", f"{job.planned.sent_by(name):,}") for name in names
    ]
    receipt = "signed by all, and in order" if not job.failed_checks else "; ".join(job.failed_checks)
    took = f"{seconds_text(job.seconds)}, {bytes_text(job.measured.total_bytes)}"
    return "\n".join(
        [
            "",
            console.style("head", f"{job.title} by {job.engine}{'' if job.dealer else ', without a dealer'} ({took})"),
            "",
            _indented(table(("", "encrypted", "in the clear", "difference"), figures, right=(1, 2, 3))),
            "",
            _indented(table(("", "measured", "planned"), costs, right=(1, 2))),
            "",
            *_hiding(job),
            *(["  What each party saw is in the report.", ""] if job.repeats else _seen(job, console)),
            f"  receipt  {job.receipt}",
            f"           {job.checks} checks by the auditor, offline: "
            + console.style("good" if not job.failed_checks else "bad", receipt),
            f"  report   {job.report}",
            f"           {job.verdict}",
        ]
    )


def _hiding(job: Job) -> list[str]:
    if job.engine == "mpc":
        return []
    said = [f"{label}, {'masked' if bits is None else f'encrypted, {bits:.0f} bits'}" for label, bits in job.hiding]
    return [f"  How rows were hidden where they met weights: {'; '.join(said)}", ""]


def _seen(job: Job, console: Console) -> list[str]:
    return [console.style("bold", "  What each party saw, and what stayed hidden from it"), *_learned(job), ""]


def _learned(job: Job) -> list[str]:
    """What each party saw. What all who compute have in common is said once, at the top."""
    computing = [view for view in job.views if view.role in ("owner", "buyer")]
    common = [line for line in computing[0].sees if all(line in view.sees for view in computing)]
    lines = [f"  all who compute: {'; '.join(common)}"]
    for view in job.views:
        lines.append(f"  {view.party} ({view.role})")
        lines += [f"    saw     {line}" for line in view.sees if line not in common or view not in computing]
        lines += [f"    hidden  {line}" for line in view.hidden]
    return lines


def _end_text(outcome: DemoOutcome, console: Console) -> str:
    took = seconds_text(outcome.seconds)
    if not outcome.ok:
        return console.style("bad", f"\nSomething is not as it should be; see above. ({took})")
    rows = [
        (
            job.title.split(" ")[0],
            job.engine,
            job.dealer or "none",
            f"{job.measured.rounds:,}",
            bytes_text(job.measured.total_bytes),
            seconds_text(job.seconds),
            *_accuracy(job),
        )
        for job in outcome.jobs
    ]
    heads = ("", "engine", "dealer", "rounds", "bytes", "took", "accuracy", "in the clear")
    return (
        f"\n{table(heads, rows, right=(3, 4, 5, 6, 7))}\n"
        f"\n{console.style('good', 'Done')} in {took}. Encrypted and plaintext figures stand side by side above; the "
        "pages named `report` open in any browser.\n"
        f"To look further: enclave buyer jobs --home {outcome.folder / 'lab'}"
    )


def _accuracy(job: Job) -> tuple[str, str]:
    """The last accuracy of a job: that of the model on rows of the owner, or of the buyer after a training."""
    figure = [f for f in job.figures if f.name.startswith("accuracy")][-1]
    return f"{figure.encrypted:.4f}", f"{figure.plaintext:.4f}"


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


COMMANDS: Mapping[str, Callable[[Namespace, Console], Answer]] = {"demo": _demo}

"""The encrypted job as it ships: a node process per owner and for the dealer, mutual TLS over loopback, and the
buyer's own command in a process of its own. The time is that of the command, from its start to its printed result.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs.encodings import encoding_toml
from benchmarks.jobs.job import DATASET, Figures, Job, Outcome, Traffic
from enclave.executor.catalogue import Catalogue
from enclave.identity import Identity, TrustStore
from enclave.messages import Receipt, ReceiptBody, Statement
from enclave.models import write_onnx
from parties.buyer.finishing import load_result
from parties.buyer.records import RECEIPT, JobFolder
from parties.config import write_default
from parties.demo.nodes import free_port, running_nodes

__all__ = ["Fleet", "fleet"]

BUYER, DEALER = "buyer", "dealer"
_ROW_GROUP = 16_384
_POLICY = """
[policy]
buyers = ["buyer"]
kinds = ["evaluate", "train"]
outputs = ["accuracy", "auc", "model"]
engines = ["mpc"]
minimum_rows = 1
approval = "automatic"
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Running nodes that offer the rows of one job."""

    root: Path
    job: Job

    def run(self) -> Outcome:
        """The job by the buyer's command; raises RuntimeError with what the command said when it fails."""
        command = [sys.executable, "-m", "parties.cli", "buyer", *self._arguments(), "--home", str(self.root / BUYER)]
        with open(self.root / "buyer.err", "w+", encoding="utf-8") as errors:
            started_s = time.perf_counter()
            process = subprocess.Popen(
                [*command, "--json"], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=Path(__file__).parents[2]
            )
            with process:
                assert process.stdout is not None
                answer = process.stdout.readline()  # the report page is drawn after it
                seconds = time.perf_counter() - started_s
            errors.seek(0)
            if process.returncode:
                raise RuntimeError((answer.strip() or errors.read().strip())[-500:])
        result = load_result(JobFolder(Path(json.loads(answer)["folder"])))
        if result.problems:
            raise RuntimeError("; ".join(result.problems))
        figures = Figures(result.metrics.get("accuracy"), result.metrics.get("auc"))
        return Outcome(
            figures=figures if result.model is None else self.job.score(result.model),
            seconds=seconds,
            model=result.model,
            traffic=self._traffic(result.measured),
            session_s=result.seconds,
            peak_rss_bytes=_peaks(result.folder / RECEIPT),
        )

    def _arguments(self) -> list[str]:
        job, given = self.job, []
        given += ["train" if job.schedule else "evaluate", "--encoding", str(self.root / "encoding.toml")]
        for name in job.owners:
            given += ["--data", f"{name}/{DATASET}"]
        for metric in job.metrics:
            given += ["--metric", metric]
        if job.schedule is None:
            return [*given, "--model", str(self.root / "model.onnx")]
        plan = job.schedule
        given += ["--kind", plan.kind, "--epochs", str(plan.epochs), "--batch", str(plan.batch_rows)]
        given += ["--learning-rate", repr(plan.learning_rate), "--momentum", repr(plan.momentum), "--l2", repr(plan.l2)]
        return given + (["--hidden", ",".join(map(str, plan.hidden))] if plan.hidden else [])

    def _traffic(self, cost: Any) -> Traffic:
        compute = [*self.job.owners, BUYER]
        received = {name: sum(n for (_, to), n in cost.link_bytes.items() if to == name) for name in compute}
        return Traffic(
            cost.rounds, max(cost.sent_by(name) for name in compute), max(received.values()), cost.sent_by(DEALER)
        )


def _peaks(receipt: Path) -> dict[str, int]:
    """Peak memory of every party's process, as its signed statement says."""
    body = ReceiptBody.decode(Receipt.decode(receipt.read_bytes()).body)
    said = [Statement.decode(signed.body) for signed in body.statements]
    return {s.party: s.transcript.peak_rss_bytes for s in said if s.transcript is not None}


@contextmanager
def fleet(job: Job) -> Iterator[Fleet]:
    """Founds the parties of a job in a temporary folder and keeps their nodes running."""
    with tempfile.TemporaryDirectory(prefix="enclave-benchmark-") as folder:
        root = Path(folder)
        homes = _found(root, job)
        (root / "encoding.toml").write_text(encoding_toml(job.encoding), encoding="utf-8")
        if job.model is not None:
            (root / "model.onnx").write_bytes(write_onnx(job.model))
        nodes = {name: ("dealer" if name == DEALER else "owner", homes[name]) for name in (*job.owners, DEALER)}
        with running_nodes(nodes):
            yield Fleet(root, job)


def _found(root: Path, job: Job) -> dict[str, Path]:
    roles = {**dict.fromkeys(job.owners, "owner"), DEALER: "dealer", BUYER: "buyer"}
    homes = {name: root / name for name in roles}
    cards: dict[str, bytes] = {}
    for name, role in roles.items():
        address = f"127.0.0.1:{free_port()}" if role != "buyer" else ""
        cards[name] = Identity.create(homes[name], role, name, address).card.encoded
        if address:
            write_default(homes[name], listen=address)
    for name, home in homes.items():
        trust = TrustStore(home)
        for other, card in cards.items():
            if other != name:
                trust.add(card)
    for name, table in job.owners.items():
        Catalogue(homes[name], name).add(_write(root / "data" / name, table))
    return homes


def _write(folder: Path, table: Any) -> Path:
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    pq.write_table(table, folder / f"{DATASET}.parquet", row_group_size=_ROW_GROUP)
    path = folder / f"{DATASET}.toml"
    path.write_text(f'[dataset]\nname = "{DATASET}"\npath = "{DATASET}.parquet"\n{_POLICY}', encoding="utf-8")
    return path

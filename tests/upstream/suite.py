"""Runs upstream CrypTen's own tests on the fence, by real processes with a dealer, and counts.

    python -m tests.upstream.suite CHECKOUT FILE [FILE ...] [--class NAME] [--only TEXT] [--out RESULTS.jsonl]

CHECKOUT is a checkout of the CrypTen repository: nothing of it is part of this project. FILE is for example
`test_binary`. Every test has a session of its own, so that one that fails at a rank leaves nothing behind.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enclave.engines.mpc.fence.loopback import make_homes

LIMIT_S = 180.0
PARTIES = {"Test3PC": 3, "TestRSS": 3}


@dataclass(frozen=True)
class Case:
    """One test method of one class."""

    module: str
    klass: str
    test: str
    parties: int


@dataclass(frozen=True)
class Outcome:
    """How it ended: empty `kind` when it passed at every rank."""

    case: Case
    kind: str
    text: str
    trace: str
    seconds: float


def cases_of(checkout: Path, module: str) -> list[Case]:
    """The test methods of a file by reading it: its classes with a process for each rank, and their mixins."""
    tree = ast.parse((checkout / "test" / f"{module}.py").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found = []
    for name, node in classes.items():
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        if "MultiProcessTestCase" not in bases:
            continue
        bodies = [node, *(classes[base] for base in bases if base in classes)]
        tests = [f.name for body in bodies for f in body.body if isinstance(f, ast.FunctionDef)]
        found += [Case(module, name, t, PARTIES.get(name, 2)) for t in dict.fromkeys(tests) if t.startswith("test")]
    return found


class Seats:
    """The processes of a number of parties and a dealer. They are started anew after a test that hangs."""

    def __init__(self, checkout: Path, parties: int, limit_s: float) -> None:
        self.checkout, self.parties, self.limit_s = checkout, parties, limit_s
        self.folder = tempfile.TemporaryDirectory()
        make_homes(Path(self.folder.name), parties)
        self.processes: list[subprocess.Popen[str]] = []
        self.count = 0

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.upstream.seat", self.folder.name]
        self.processes = [
            subprocess.Popen(
                [*command, str(rank), str(self.parties), str(self.checkout)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(self.parties + 1)
        ]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.processes = []

    def close(self) -> None:
        self.stop()
        self.folder.cleanup()

    def run(self, case: Case) -> Outcome:
        """Runs one test at every rank."""
        if not self.processes:
            self.start()
        self.count += 1
        order = {"session": f"s{self.count}", "module": case.module, "class": case.klass, "test": case.test, "seed": 1}
        started = time.monotonic()
        try:
            self._tell({**order, "limit_s": self.limit_s})
            addresses = [self._hear(rank, 180.0) for rank in range(self.parties + 1)]
            self._tell(addresses)
            found = [self._hear(rank, self.limit_s + 20) for rank in range(self.parties + 1)]
        except (TimeoutError, OSError, ValueError) as error:
            self.stop()
            return Outcome(case, "Hung", str(error), "", time.monotonic() - started)
        errors = [report for report in found[: self.parties] if not report["ok"]] or [r for r in found if not r["ok"]]
        first: dict[str, Any] = min(errors, key=lambda r: r["kind"] in ("PeerLost", "Desynchronised"), default={})
        seconds = time.monotonic() - started
        return Outcome(case, first.get("kind", ""), first.get("text", ""), first.get("trace", ""), seconds)

    def _tell(self, value: Any) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(value) + "\n")
            process.stdin.flush()

    def _hear(self, rank: int, timeout_s: float) -> Any:
        stream = self.processes[rank].stdout
        assert stream is not None
        if not select.select([stream], [], [], timeout_s)[0]:
            raise TimeoutError(f"rank {rank} said nothing for {timeout_s:g} s")
        return json.loads(stream.readline())


def run_all(checkout: Path, cases: list[Case], limit_s: float = LIMIT_S) -> Iterator[Outcome]:
    """Runs tests one after the other."""
    seats: dict[int, Seats] = {}
    try:
        for case in cases:
            if case.parties not in seats:
                seats[case.parties] = Seats(checkout, case.parties, limit_s)
            yield seats[case.parties].run(case)
    finally:
        for group in seats.values():
            group.close()


def main() -> None:
    """Runs what is asked for; one line for each test, a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--class", dest="klass", default="", help="only this class, for example TestTFP")
    parser.add_argument("--only", default="", help="only tests whose name holds this")
    parser.add_argument("--out", type=Path, help="JSON lines with traces")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for one test")
    args = parser.parse_args()
    cases = [case for file in args.files for case in cases_of(args.checkout, file)]
    cases = [c for c in cases if args.klass in ("", c.klass) and args.only in c.test]
    passed: Counter[tuple[str, str]] = Counter()
    total = Counter((case.module, case.klass) for case in cases)
    for outcome in run_all(args.checkout, cases, args.limit):
        case = outcome.case
        passed[case.module, case.klass] += not outcome.kind
        what = "ok" if not outcome.kind else f"{outcome.kind}: {outcome.text.splitlines()[0] if outcome.text else ''}"
        print(f"{case.module} {case.klass} {case.test} {outcome.seconds:.1f} s {what[:200]}", flush=True)
        if args.out is not None:
            with args.out.open("a") as file:
                record = {"module": case.module, "class": case.klass, "test": case.test, "kind": outcome.kind}
                file.write(json.dumps({**record, "text": outcome.text, "trace": outcome.trace}) + "\n")
    for key, count in total.items():
        print(f"{key[0]:24} {key[1]:28} {passed[key]:4} of {count}")


if __name__ == "__main__":
    main()

"""Systems as child processes that take turns: the protocol between the benchmark and a system.

A worker is started once per case and system, with one argument, a JSON object:

    {"system": "crypten-ttp", "kind": "relu", "parameters": {"n": 100000}, "parties": 2, "profile": "loopback",
     "ports": [40001, ...], "inputs": "/tmp/x/in.npz", "outputs": "/tmp/x/out.npz"}

It prints one line `{"ready": true, "versions": {...}}` on standard output, or `{"unavailable": "why"}` and ends. Then
for every line `run` on standard input it does one repetition and prints

    {"wall_s": ..., "cpu_s": [party 0, party 1, ..., dealer], "rounds": ..., "sent_bytes": ..., "received_bytes": ...,
     "dealer_bytes": ..., "peak_rss_bytes": ...}

(bytes: of the party with the most; what it has no figure for it leaves out). On `stop` it writes the outputs and ends
with status 0. Anything else on standard output breaks the protocol; standard error is for people. `ports` are eight
free ports on 127.0.0.1. The first repetition is not timed. This project's own systems are also told the number of
"repetitions", the first included: a session's plan fixes its length, as a job's does.

Workers of this project's systems run with this interpreter. Those of the peers are `python -m benchmarks.peers JSON`,
with the interpreter that $ENCLAVE_PEERS_PYTHON names, by default .venv-peers/bin/python of the checkout.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from benchmarks.mpc.cases import Case
from benchmarks.mpc.inputs import Arrays
from benchmarks.suite import Unavailable

__all__ = ["PEERS", "SYSTEMS", "Assignment", "Task", "Worker", "WorkerFailed", "free_ports"]

_OWN = ("enclave", "enclave-online", "enclave-socket", "enclave-online-socket")
OURS = {**dict.fromkeys(_OWN, "benchmarks.mpc.enclave"), "plain": "benchmarks.mpc.plain"}
PEERS = ("crypten-ttp", "crypten-tfp", "spu-semi2k")
SYSTEMS = (*OURS, *PEERS)
_ROOT = Path(__file__).parents[2]
_START_S = 180.0
_STOP_S = 60.0


class WorkerFailed(Exception):
    """A worker that ended or spoke out of turn; the text has the end of what it complained."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _peers_python() -> str:
    path = os.environ.get("ENCLAVE_PEERS_PYTHON") or str(_ROOT / ".venv-peers" / "bin" / "python")
    if not Path(path).exists():
        raise Unavailable(f"{path} does not exist: `make bench-peers` makes it, or set ENCLAVE_PEERS_PYTHON")
    return path


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told."""

    system: str
    case: Case
    profile: str
    folder: Path
    repetitions: int

    @property
    def outputs(self) -> Path:
        """Where the worker leaves its results."""
        return self.folder / f"{self.system}.npz"

    def to_json(self) -> str:
        """The worker's argument."""
        fields: Mapping[str, Any] = {
            "system": self.system,
            "kind": self.case.kind,
            "parameters": dict(self.case.parameters),
            "parties": self.case.parties,
            "profile": self.profile,
            "ports": free_ports(8),
            "inputs": str(self.folder / "inputs.npz"),
            "outputs": str(self.outputs),
        }
        if self.system in OURS:
            fields = {**fields, "repetitions": self.repetitions}
        return json.dumps(fields)

    def command(self) -> list[str]:
        """The process to start. Raises Unavailable when the peers' environment is missing."""
        if self.system in OURS:
            return [sys.executable, "-m", OURS[self.system], self.to_json()]
        return [_peers_python(), "-m", "benchmarks.peers", self.to_json()]


class Assignment(Protocol):
    """What a worker is started for: a `Task`, or that of another suite."""

    @property
    def system(self) -> str: ...

    @property
    def outputs(self) -> Path: ...

    def command(self) -> list[str]: ...


class Worker:
    """One system at work on one case. Ends its process on exit, whatever happened.

    Args:
        limit_s: the longest wait for one repetition.
    """

    def __init__(self, task: Assignment, limit_s: float = 600.0) -> None:
        self.task = task
        command = task.command()
        self._limit_s = limit_s
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
        Thread(target=self._listen, name=f"output of {task.system}", daemon=True).start()
        self.versions: Mapping[str, str] = {}

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def greet(self) -> None:
        """Waits until it is ready, which it needs not be told: several workers may get ready at the same time.

        Raises Unavailable when it cannot run the case; WorkerFailed.
        """
        hello = self._hear(_START_S)
        if "unavailable" in hello:
            raise Unavailable(str(hello["unavailable"]))
        self.versions = dict(hello.get("versions", {}))

    def run(self) -> dict[str, Any]:
        """One repetition, after `greet`. Raises WorkerFailed."""
        self._tell("run")
        return self._hear(self._limit_s)

    def stop(self) -> Arrays:
        """The outputs of the last repetition; the process ends."""
        self._tell("stop")
        try:
            status = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            raise WorkerFailed(f"it did not end within {_STOP_S:g} s") from None
        if status or not self.task.outputs.exists():
            raise WorkerFailed(self._complaint(f"ended with status {status}"))
        with np.load(self.task.outputs) as file:
            return {name: file[name] for name in file.files}

    def end(self) -> None:
        """Ends the process, gently first: it has children to end."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        for signal_process in (None, self._process.terminate, self._process.kill):
            if signal_process is not None:
                signal_process()
            try:
                self._process.wait(5)
                break
            except subprocess.TimeoutExpired:
                continue
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.put(line)
        except ValueError:  # closed at the end
            pass
        self._lines.put(None)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._complaint("ended")) from None

    def _hear(self, limit_s: float) -> dict[str, Any]:
        until = time.monotonic() + limit_s
        try:
            line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            raise WorkerFailed(self._complaint(f"said nothing for {limit_s:g} s")) from None
        if line is None:
            raise WorkerFailed(self._complaint("ended"))
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise WorkerFailed(f"expected a JSON object, found {line[:80]!r}")
        return found

    def _complaint(self, what: str) -> str:
        self._errors.seek(0)
        last = [line.strip() for line in self._errors.read()[-4000:].splitlines() if line.strip()]
        return f"the worker {what}: {last[-1][:300] if last else 'without a word'}"

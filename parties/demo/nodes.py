"""Nodes of the demonstration as real processes: the same commands that an operator would type."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import parties
from enclave.errors import SessionError

__all__ = ["NodeProcess", "free_port", "running_nodes"]

_READY_S = 60.0
_STOP_S = 15.0


@dataclass(slots=True)
class NodeProcess:
    """One `enclave owner serve` or `enclave dealer serve`."""

    name: str
    role: str
    home: Path
    process: subprocess.Popen[str]

    @property
    def log(self) -> Path:
        """What the node wrote to its standard error."""
        return self.home / "node.log"

    def wait_ready(self, end_s: float) -> None:
        """Returns once the node says that it serves; raises SessionError with its last words otherwise."""
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        try:
            line = lines.get(timeout=max(0.1, end_s - time.monotonic()))
        except queue.Empty:
            raise self._failed("does not answer") from None
        if '"serving"' not in line:
            raise self._failed("did not start")

    def _read(self, lines: queue.SimpleQueue[str]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.put(line)
        lines.put("")  # the end: the process is gone

    def _failed(self, what: str) -> SessionError:
        last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no output"]
        return SessionError(f"the node of {self.name} {what}: {last[0]}", hint=f"its log is {self.log}")

    def stop(self) -> None:
        """Asks the process to end, forcibly after a while. Does nothing to one that has ended."""
        if self.process.poll() is None:
            self.process.terminate()

    def join(self, end_s: float) -> None:
        """Waits for the end; kills what does not end in time."""
        try:
            self.process.wait(max(0.1, end_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def running_nodes(homes: Mapping[str, tuple[str, Path]]) -> Iterator[dict[str, NodeProcess]]:
    """Starts a node for every name -> (role, home), waits until all serve, and stops all of them at the end.

    They end also on Ctrl-C, on SIGTERM, and when only some of them could be started.
    """
    nodes: dict[str, NodeProcess] = {}
    with _termination_as_exit():
        try:
            for name, (role, home) in homes.items():
                nodes[name] = _start(name, role, home)
            end_s = time.monotonic() + _READY_S
            for node in nodes.values():
                node.wait_ready(end_s)
            yield nodes
        finally:
            for node in nodes.values():
                node.stop()
            end_s = time.monotonic() + _STOP_S
            for node in nodes.values():
                node.join(end_s)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(name: str, role: str, home: Path) -> NodeProcess:
    command = [sys.executable, "-m", "parties.cli", role, "serve", "--home", str(home), "--json"]
    with open(home / "node.log", "wb") as log:
        process = subprocess.Popen(  # noqa: S603  our own interpreter and module, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the demonstration, which then stops its nodes in order
        )
    return NodeProcess(name, role, home, process)


def _environment() -> dict[str, str]:
    # Also from a checkout that is not installed, whatever the working directory.
    source = str(Path(parties.__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([source, inherited]) if inherited else source}


@contextlib.contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into SystemExit within, so that `finally` runs. Only the main thread may do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

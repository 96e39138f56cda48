"""Workers as subprocesses of the node: fresh interpreters, one kept warm, each used for one session.

A fork would be quicker, but gRPC does not survive one, and a fresh interpreter shares nothing with the session
before it. The warm worker has done its imports, which take seconds, and waits on its standard input. A worker ends
when that input ends: if the node dies, by whatever signal, its workers are gone with it.

What a worker writes to its standard error lands in `LOG_DIR/JOB.log`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import enclave
from enclave.errors import BadSpec, SessionError, StoreError
from enclave.executor.orders import NodeOrder, WorkerEvent, read_frame, write_frame

__all__ = ["LocalExecutor", "WorkerProcess"]

_KEPT_LOGS = 200


class WorkerProcess:
    """One worker. `send` may be called from any thread, `events` from one."""

    def __init__(self, log_dir: Path, number: int, environment: Mapping[str, str], module: str) -> None:
        self._log = log_dir / f"spare-{os.getpid()}-{number}.log"
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module, no shell
                    [sys.executable, "-P", "-m", module],  # -P: nothing is imported from the working directory
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=dict(environment),
                    start_new_session=True,  # Ctrl-C at the node's terminal is for the node to handle
                )
        except OSError as error:
            raise StoreError(f"cannot start a worker: {error.strerror}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._orders = cast(BinaryIO, self._process.stdin)
        self._events = cast(BinaryIO, self._process.stdout)
        self._write_lock = threading.Lock()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def name_log(self, job_id: str) -> Path:
        """Gives the log file the name of the job that the worker is about to run, and returns its path."""
        path = self._log.with_name(f"{job_id}.log")
        with contextlib.suppress(OSError):
            self._log.replace(path)
            self._log = path
        return self._log

    def send(self, order: NodeOrder) -> bool:
        """Writes one order; False when the worker is gone."""
        with self._write_lock:
            try:
                write_frame(self._orders, order)
            except (OSError, ValueError):
                return False
        return True

    def events(self) -> Iterator[WorkerEvent]:
        """What the worker says, until it closes its end. Raises BadSpec when it says something malformed."""
        while True:
            try:
                event = read_frame(self._events, WorkerEvent)
            except (OSError, ValueError) as error:
                raise BadSpec("the pipe to the worker broke") from error
            if event is None:
                return
            yield event

    def kill(self) -> None:
        """Ends the process at once; `events` then comes to its end."""
        self._process.kill()

    def stop(self, patience_s: float = 0.0) -> int:
        """Ends the process, forcibly after `patience_s`, and returns its exit status (negative: the signal)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if patience_s > 0:
                self._process.wait(patience_s)
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        for stream in (self._orders, self._events):
            with contextlib.suppress(OSError):
                stream.close()
        if self._log.name.startswith("spare-"):
            with contextlib.suppress(OSError):
                self._log.unlink()
        return status


class LocalExecutor:
    """Hands out workers of this machine, the warm one first.

    Args:
        log_dir: where the workers' standard error goes; made if it is missing.
        threads: processor threads that one worker may use for arithmetic.
        module: what a worker runs; another one in tests.
    """

    def __init__(self, log_dir: Path, *, threads: int = 1, module: str = "enclave.executor.worker") -> None:
        self._log_dir = log_dir
        self._module = module
        self._environment = _environment(threads)
        self._lock = threading.Lock()
        self._spare: WorkerProcess | None = None
        self._started = 0
        self._closed = False
        try:
            log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _prune(log_dir)
        except OSError as error:
            raise StoreError(f"cannot use {log_dir} for logs: {error.strerror}") from error

    def warm(self) -> None:
        """Starts the spare worker if there is none. Call when a session has ended: its imports take time from one."""
        with self._lock:
            if self._closed or (self._spare is not None and self._spare.alive):
                return
            if self._spare is not None:
                self._spare.stop()
            self._spare = self._fresh()

    def take(self, job_id: str) -> WorkerProcess:
        """A worker for one job. The caller must `stop` it."""
        with self._lock:
            if self._closed:
                raise SessionError("the node shut down", code="session.shutdown")
            worker, self._spare = self._spare, None
            if worker is not None and not worker.alive:
                worker.stop()
                worker = None
            worker = worker or self._fresh()
        worker.name_log(job_id)
        return worker

    def close(self) -> None:
        """Ends the spare; workers that were taken belong to whoever took them."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.stop()

    def _fresh(self) -> WorkerProcess:
        self._started += 1
        return WorkerProcess(self._log_dir, self._started, self._environment, self._module)


def _environment(threads: int) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in _INHERITED or k.startswith(("LC_", "PYTHON"))}
    kept |= {name: str(max(1, threads)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # The worker must run the very code that the node runs, wherever it was imported from.
    own = str(Path(enclave.__file__).resolve().parents[1])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (own, kept.get("PYTHONPATH"))))
    return kept


# Nothing else of the node's environment reaches a worker: no proxies, no debug switches of a library.
_INHERITED = frozenset({"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "TZ", "VIRTUAL_ENV"})


def _prune(log_dir: Path) -> None:
    for path in log_dir.glob("spare-*.log"):
        path.unlink(missing_ok=True)
    logs = sorted(log_dir.glob("*.log"), key=lambda p: p.stat().st_mtime)
    for path in logs[:-_KEPT_LOGS]:
        path.unlink(missing_ok=True)

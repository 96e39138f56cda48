"""Workers as subprocesses: the warm one first, used once, gone with their node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.errors import BadSpec, SessionError, StoreError
from enclave.executor.local import LocalExecutor, WorkerProcess
from enclave.executor.orders import Failure, NodeOrder

FAKE = """
import os, sys
from enclave.executor.orders import *
def say(event): write_frame(sys.stdout.buffer, event)
say(WorkerEvent(ready=Ready()))
while (order := read_frame(sys.stdin.buffer, NodeOrder)) is not None:
    text = order.cancel.text if order.cancel else ""
    print("heard", text, file=sys.stderr, flush=True)
    if text == "garbage":
        os.write(1, b"\\xff\\xff\\xff\\xff not a frame")
    elif text == "environment":
        say(WorkerEvent(outcome=Outcome(Failure("x", repr(sorted(os.environ))))))
    elif text == "path":
        say(WorkerEvent(outcome=Outcome(Failure("x", repr(sys.path)))))
    elif text == "die":
        os._exit(7)
    else:
        say(WorkerEvent(listening=Endpoint(f"{os.getpid()}:{text}")))
"""


def _tell(text: str) -> NodeOrder:
    return NodeOrder(cancel=Failure("x", text))


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    (tmp_path / "fake_worker.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with_fake = LocalExecutor(tmp_path / "logs", module="fake_worker")
    yield with_fake
    with_fake.close()


def _first(worker: WorkerProcess) -> str:
    for event in worker.events():
        if event.listening is not None:
            return event.listening.address
        if event.outcome is not None and event.outcome.failure is not None:
            return event.outcome.failure.text
    return ""


def _gone(pid: int, within_s: float = 10.0) -> bool:
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_the_warm_worker_is_taken_first_and_only_once(executor: LocalExecutor, tmp_path: Path) -> None:
    executor.warm()
    executor.warm()
    first, second = executor.take("a" * 32), executor.take("b" * 32)
    try:
        assert first.pid != second.pid
        for worker, name in ((first, "a"), (second, "b")):
            assert worker.send(_tell(name))
            assert _first(worker) == f"{worker.pid}:{name}"
        assert "heard a" in (tmp_path / "logs" / f"{'a' * 32}.log").read_text()
    finally:
        assert first.stop() < 0
        second.stop()
    executor.warm()
    third = executor.take("c" * 32)
    third.stop()
    assert third.pid not in (first.pid, second.pid)


def test_a_dead_spare_is_replaced(executor: LocalExecutor) -> None:
    executor.warm()
    spare = executor._spare
    assert spare is not None
    os.kill(spare.pid, signal.SIGKILL)
    assert _gone(spare.pid)
    worker = executor.take("a" * 32)
    worker.send(_tell("x"))
    assert _first(worker) == f"{worker.pid}:x"
    worker.stop()


def test_garbage_from_a_worker_is_an_error(executor: LocalExecutor) -> None:
    worker = executor.take("a" * 32)
    worker.send(_tell("garbage"))
    with pytest.raises(BadSpec):
        list(worker.events())
    worker.stop()


def test_a_worker_that_dies_ends_its_events_and_tells_its_status(executor: LocalExecutor) -> None:
    worker = executor.take("a" * 32)
    worker.send(_tell("die"))
    assert [e.ready is not None for e in worker.events()] == [True]
    assert worker.stop(5.0) == 7
    assert not worker.send(_tell("x"))


def test_no_secret_of_the_environment_reaches_a_worker(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("https_proxy", "http://x")
    monkeypatch.setenv("GRPC_TRACE", "all")
    fresh = LocalExecutor(tmp_path / "more", module="fake_worker", threads=3)
    worker = fresh.take("a" * 32)
    worker.send(_tell("environment"))
    found = _first(worker)
    worker.stop()
    fresh.close()
    for name in ("AWS", "proxy", "GRPC_TRACE"):
        assert name not in found
    assert "OMP_NUM_THREADS" in found


def test_nothing_is_imported_from_the_working_directory(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "enclave.py").write_text("raise SystemExit('trapped')")
    monkeypatch.chdir(trap)
    worker = executor.take("a" * 32)
    worker.send(_tell("path"))
    found = _first(worker)
    worker.stop()
    assert found
    assert str(trap) not in found and "''" not in found


def test_a_worker_does_not_outlive_its_node(tmp_path: Path) -> None:
    """kill -9 at the node closes the pipe; the real worker must end at that, idle as it is."""
    code = (
        "import sys, time; from pathlib import Path; from enclave.executor.local import LocalExecutor\n"
        f"e = LocalExecutor(Path({str(tmp_path)!r}) / 'logs'); e.warm(); w = e.take('a' * 32)\n"
        "print(w.pid, flush=True); time.sleep(60)"
    )
    root = str(Path(__file__).resolve().parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    ) as node:
        assert node.stdout is not None
        worker = int(node.stdout.readline())
        assert not _gone(worker, 0.2)
        node.kill()
        assert _gone(worker, 20.0)


def test_closing_refuses_more_workers(executor: LocalExecutor) -> None:
    executor.warm()
    executor.close()
    with pytest.raises(SessionError, match="shut down"):
        executor.take("a" * 32)


def test_logs_are_kept_within_bounds(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for i in range(230):
        (logs / f"{i:032x}.log").write_text("x")
        os.utime(logs / f"{i:032x}.log", (i, i))
    (logs / "spare-1-1.log").write_text("x")
    LocalExecutor(logs).close()
    left = sorted(path.name for path in logs.iterdir())
    assert len(left) == 200
    assert left[0] == f"{30:032x}.log"


def test_logs_that_cannot_be_written_are_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(StoreError, match="logs"):
        LocalExecutor(tmp_path / "logs")

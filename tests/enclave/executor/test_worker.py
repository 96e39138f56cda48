"""The real worker process, driven through its pipe."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.datasets import RowSource
from enclave.errors import BadData, SessionError
from enclave.executor.local import LocalExecutor, WorkerProcess
from enclave.executor.orders import Failure, Located, NodeOrder, Order, Outcome, WorkerEvent
from enclave.executor.worker import _fitting
from enclave.identity import Identity
from enclave.messages import Encoding, Feature, NumericFeature, Signed
from tests.enclave.executor.session_room import Room, make_room

__all__ = ["make_room"]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    executor = LocalExecutor(tmp_path / "logs")
    process = executor.take("ab" * 16)
    yield process
    process.stop()
    executor.close()


def _order(identity: Identity, signed: Signed, **changes: Any) -> NodeOrder:
    fields: dict[str, Any] = {
        "spec": signed,
        "home": str(identity.home),
        "dataset": "",
        "listen_host": "127.0.0.1",
        "port_low": 0,
        "port_high": 0,
        "connect_s": 30.0,
        "step_deadline_s": 10.0,
        "profile": "development",
    }
    return NodeOrder(start=Order(**{**fields, **changes}))


def _outcome(worker: WorkerProcess) -> Outcome:
    outcomes = [event.outcome for event in worker.events() if event.outcome is not None]
    assert len(outcomes) == 1, "a worker has one outcome"
    return outcomes[0]


def test_a_home_that_is_none_is_an_outcome_without_its_path(
    worker: WorkerProcess, make_room: Callable[..., Room], tmp_path: Path
) -> None:
    room = make_room(1)
    worker.send(_order(room.ids[0], room.signed, home=str(tmp_path / "nowhere")))
    failure = _outcome(worker).failure
    assert failure is not None and failure.code == "store"
    assert "nowhere" not in repr(failure)
    assert worker.stop(5) == 0


def test_the_worker_verifies_the_job_itself(worker: WorkerProcess, make_room: Callable[..., Room]) -> None:
    room = make_room(1)
    forged = Signed(room.signed.body, room.signed.key_id, b"\0" * 64)
    worker.send(_order(room.ids[0], forged))
    failure = _outcome(worker).failure
    assert failure is not None and failure.code == "untrusted"


def test_no_free_port_is_said(worker: WorkerProcess, make_room: Callable[..., Room]) -> None:
    room = make_room(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        worker.send(_order(room.ids[0], room.signed, port_low=port, port_high=port))
        failure = _outcome(worker).failure
    assert failure is not None and failure.code == "input.listen"


def test_a_peer_that_cannot_be_located_ends_the_session(worker: WorkerProcess, make_room: Callable[..., Room]) -> None:
    room = make_room(1)
    worker.send(_order(room.ids[-1], room.signed))  # the dealer dials owner0
    outcome, asked = None, []
    for event in worker.events():
        if event.locate is not None:
            asked.append(event.locate.rank)
            error = SessionError("the job is failed at owner0", code="session.ended")
            worker.send(NodeOrder(located=Located(event.locate.rank, failure=Failure.of(error))))
        outcome = event.outcome or outcome
    assert asked[0] == 0
    assert outcome is not None and outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.text) == ("session.ended", "the job is failed at owner0")


def test_a_cancelled_worker_says_why_before_it_has_a_session(
    worker: WorkerProcess, make_room: Callable[..., Room]
) -> None:
    room = make_room(1)
    worker.send(_order(room.ids[0], room.signed, dataset=""))
    outcome = None
    for event in worker.events():
        if event.listening is not None:
            worker.send(NodeOrder(cancel=Failure("job.withdrawn", "withdrawn by owner0", kind="session")))
        outcome = event.outcome or outcome
    assert outcome is not None and outcome.failure is not None
    assert outcome.failure.text == "withdrawn by owner0"
    assert worker.stop(5) == 0


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\2\xff\xff", b""])
def test_a_worker_that_hears_nonsense_or_nothing_ends(worker: WorkerProcess, data: bytes) -> None:
    begun = time.monotonic()
    worker._orders.write(data)
    worker._orders.close()
    assert [event for event in worker.events() if event.ready is None] == []
    assert worker.stop(20) >= 0
    assert time.monotonic() - begun < 20


def test_what_libraries_print_is_no_event(
    worker: WorkerProcess, make_room: Callable[..., Room], tmp_path: Path
) -> None:
    """The events of a session parse, although descriptor 1 was open to anybody's print."""
    room = make_room(1)
    worker.send(_order(room.ids[0], room.signed, home=str(tmp_path)))
    events: list[WorkerEvent] = list(worker.events())
    assert events[0].ready is not None
    assert events[-1].outcome is not None
    assert "StoreError" in (tmp_path / "logs" / f"{'ab' * 16}.log").read_text()


def test_why_rows_do_not_fit_stays_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """The reason travels to the buyer, who could ask for the range of a column bit by bit."""
    narrow = Encoding((Feature("pay", NumericFeature(low=0.0, high=5.0)),))

    def rows() -> RowSource:
        source = RowSource({"pay": [1.0, 9.5]}, narrow)
        source.check()
        return source

    with pytest.raises(BadData) as caught:
        _fitting(rows, "acme")
    assert Failure.of(caught.value).text == "the rows of acme do not fit the encoding"
    assert "pay" not in repr(Failure.of(caught.value)) and caught.value.__cause__ is None
    assert "1 rows of 'pay'" in capfd.readouterr().err


def test_other_reasons_against_the_data_are_told() -> None:
    def rows() -> RowSource:
        raise BadData("data set points is not the version that the job names")

    with pytest.raises(BadData, match="not the version"):
        _fitting(rows, "acme")


def test_a_worker_leaves_no_core_dump(worker: WorkerProcess) -> None:
    next(iter(worker.events()))
    limits = Path(f"/proc/{worker._process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]


def test_memory_beyond_the_limit_is_an_error_of_the_job_alone() -> None:
    code = (
        "import numpy as np\n"
        "from enclave.executor.worker import limit_memory\n"
        "limit_memory(0)\n"
        "np.ones(1 << 24)\n"
        "limit_memory(1 << 28)\n"
        "try:\n    np.ones(1 << 26)\nexcept MemoryError:\n    print('refused')\n"
        "print(np.ones(1 << 20).sum())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "1048576.0"]

"""Frames on the worker's pipe, and errors on their way to another process."""

from __future__ import annotations

import io

import pytest

from enclave import errors
from enclave.errors import BadSpec, EnclaveError
from enclave.executor.orders import (
    MAX_FRAME_BYTES,
    Failure,
    NodeOrder,
    Order,
    Outcome,
    PermitOrder,
    SealedEvent,
    WorkerEvent,
    read_frame,
    write_frame,
)
from enclave.messages import LinkTraffic, Signed, Transcript

ERRORS = [
    errors.Refused("no", hint="ask"),
    errors.Refused("no", code="job.unknown"),
    errors.PolicyRefused("too few rows", rules=("policy.rows.minimum", "policy.output"), hint="bring more"),
    errors.Untrusted("unknown certificate", code="untrusted.expired"),
    errors.PlanMismatch(b"\1" * 32, b"\2" * 32, who="acme"),
    errors.BadModel("layer conv9 is not supported"),
    errors.BadData("column age holds text"),
    errors.BadSpec("malformed"),
    errors.RangeExceeded("dense1", 1e9, 2.5e6),
    errors.PeerLost("dealer", 17, why="no frame"),
    errors.Desynchronised("step 3", "step 4", who="acme"),
    errors.StoreError("this party's storage failed", hint="the operator finds the details in the log"),
    errors.NotReady("approve first", job_id="ab" * 16),
    errors.SessionError("over", code="session.ended"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: f"{type(e).__name__}-{e.code}")
def test_an_error_comes_out_as_it_went_in(error: EnclaveError) -> None:
    found = Failure.decode(Failure.of(error).encode()).error()
    assert type(found) is type(error)
    assert (found.code, found.public, found.hint, str(found)) == (error.code, error.public, error.hint, str(error))
    assert found.retryable == error.retryable
    for name in ("rules", "who", "step", "expected", "found", "layer", "bound", "limit", "job_id"):
        assert getattr(found, name, None) == getattr(error, name, None), name


def test_what_is_not_ours_says_nothing() -> None:
    failure = Failure.of(ValueError("the secret is 42"))
    assert failure.code == "internal"
    assert "42" not in repr(failure)


def test_peers_hear_of_a_range_without_its_numbers() -> None:
    """A bound comes from a party's own weights, or from what it decrypted."""
    told = Failure.for_peers(errors.RangeExceeded("dense1", 12345.678, 2.5e6, hint="scale them down"))
    assert told.code == errors.RangeExceeded.code and "dense1" in told.text
    assert "12345" not in repr(told) and "12345" not in repr(Failure.decode(told.encode()).error())
    for error in ERRORS:
        if not isinstance(error, errors.RangeExceeded):
            assert Failure.for_peers(error) == Failure.of(error)


def test_data_errors_leave_their_details_at_home() -> None:
    failure = Failure.of(errors.BadData("column age is out of range", detail="row 7 holds 342"))
    assert "342" not in failure.encode().decode("latin-1")


def test_storage_errors_leave_their_paths_at_home() -> None:
    error = Failure.of(errors.StoreError("cannot write /home/ann/node.db: disk full", hint="free /home")).error()
    assert type(error) is errors.StoreError
    assert "/home" not in error.public + error.hint


@pytest.mark.parametrize(
    "failure",
    [
        Failure("plan", "x", expected="zz", found="00"),
        Failure("input.range", "x", expected="many", found="1"),
        Failure("no.such.code", "x"),
        Failure("", "x"),
    ],
)
def test_a_strange_failure_is_still_an_error(failure: Failure) -> None:
    error = failure.error()
    assert isinstance(error, EnclaveError)
    assert (error.code, error.public) == (failure.code, "x")


def _order() -> NodeOrder:
    signed = Signed(b"spec", b"k" * 32, b"s" * 64)
    return NodeOrder(start=Order(signed, "/home", "points", "127.0.0.1", 0, 0, 5.0, 10.0, 7, "development"))


def _event() -> WorkerEvent:
    transcript = Transcript(3, (LinkTraffic("acme", 1, 2),), b"d" * 32, True, 4, 5, 0.5, 0, 6, 0.25)
    return WorkerEvent(sealed=SealedEvent("ab" * 16, ("accuracy",), 60, transcript))


def test_frames_round_trip() -> None:
    pipe = io.BytesIO()
    values = [_order(), NodeOrder(permit=PermitOrder("ab" * 16, ("auc",))), NodeOrder(cancel=Failure("session", "x"))]
    for value in values:
        write_frame(pipe, value)
    pipe.seek(0)
    assert [read_frame(pipe, NodeOrder) for _ in values] == values
    assert read_frame(pipe, NodeOrder) is None


def test_events_round_trip() -> None:
    pipe = io.BytesIO()
    for value in (_event(), WorkerEvent(outcome=Outcome(Failure("session", "x"), None, b"{}", b"p" * 32))):
        write_frame(pipe, value)
    pipe.seek(0)
    assert read_frame(pipe, WorkerEvent) == _event()
    found = read_frame(pipe, WorkerEvent)
    assert found is not None and found.outcome is not None
    assert found.outcome.transcript is None
    assert found.outcome.report == b"{}"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0",
        b"\0\0\0\5abc",
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\xff\xff\xff\xff" + b"x" * 100,
        b"\0\0\0\3\xff\xff\xff",
    ],
)
def test_a_broken_pipe_is_an_error_at_once(data: bytes) -> None:
    with pytest.raises(BadSpec):
        read_frame(io.BytesIO(data), WorkerEvent)

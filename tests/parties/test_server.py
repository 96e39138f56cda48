"""The control plane's wiring: who is heard, how errors travel, what too much looks like."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from enclave.channel import tls
from enclave.clock import ManualClock
from enclave.errors import BadInput, EnclaveError, NotReady, PeerLost, PolicyRefused, SessionError, Untrusted
from enclave.identity import Card, Identity, TrustStore
from enclave.messages import Decision, DescribeReply, JobStatus, Reason, Signed
from enclave.wire import node_pb2_grpc
from parties.server import Limits, NodeClient, serve

JOB = "ab" * 16
Make = Callable[..., Identity]
Acquaint = Callable[..., tuple[TrustStore, ...]]


class FakeNode:
    """Answers everything; `error` is raised instead when it is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.callers: list[str] = []
        self.statuses = [JobStatus(JOB, "RUNNING"), JobStatus(JOB, "RELEASED")]
        self.pause = threading.Event()
        self.mute = threading.Event()  # cleared: says nothing at first
        self.mute.set()

    def _called(self, caller: Card) -> None:
        self.callers.append(caller.name)
        if self.error is not None:
            raise self.error

    def describe(self, caller: Card) -> DescribeReply:
        self._called(caller)
        return DescribeReply("acme", "owner", (), ("node.profile=development",), "0.1.0", "development")

    def propose(self, caller: Card, signed: Signed) -> Decision:
        self._called(caller)
        return Decision(JOB, "REFUSED", (Reason("policy.kind", signed.body.decode()),))

    def approve(self, caller: Card, signed: Signed) -> Decision:
        self._called(caller)
        return Decision(JOB, "ADMITTED")

    def start(self, caller: Card, job_id: str, wait_s: float, deal: bool = False) -> JobStatus:
        self._called(caller)
        self.pause.wait(wait_s if self.pause.is_set() else 0)
        return JobStatus(job_id, "RUNNING", stage=f"{wait_s:.0f}")

    def locate(self, caller: Card, job_id: str, wait_s: float) -> str:
        self._called(caller)
        return "127.0.0.1:1"

    def status(self, caller: Card, job_id: str, stop: Callable[[], bool]) -> Iterator[JobStatus]:
        self._called(caller)
        self.mute.wait(5.0)
        yield self.statuses[0]
        while not self.pause.wait(0.05) and not stop():
            pass
        yield from self.statuses[1:]

    def fetch(self, caller: Card, job_id: str, wait_s: float) -> Iterator[tuple[str, bytes]]:
        self._called(caller)
        yield "statement", b"s" * 3_000_000
        yield "report", b""

    def countersign(self, caller: Card, signed: Signed, wait_s: float) -> Signed:
        self._called(caller)
        return signed

    def deposit(self, caller: Card, receipt: bytes) -> str:
        self._called(caller)
        return JOB

    def withdraw(self, caller: Card, signed: Signed) -> JobStatus:
        self._called(caller)
        return JobStatus(JOB, "WITHDRAWN")


class Room:
    """A served fake node and a buyer that it trusts."""

    def __init__(self, make: Make, acquaint: Acquaint, limits: Limits | None = None, *, reflect: bool = False) -> None:
        self.owner, self.buyer = make("owner", "acme"), make("buyer", "bob")
        self.trust, _ = acquaint(self.owner, self.buyer)
        self.node, self.clock = FakeNode(), ManualClock()
        self.server = serve(
            self.node,
            identity=self.owner,
            trust=self.trust,
            listen="127.0.0.1:0",
            limits=limits,
            clock=self.clock,
            reflect=reflect,
        )

    def client(self, identity: Identity | None = None, card: Card | None = None) -> NodeClient:
        return NodeClient(identity or self.buyer, card or self.owner.card, address=self.server.address, deadline_s=5.0)

    def raw(self) -> grpc.Channel:
        return tls.dial(self.buyer, self.owner.card, self.server.address)


@pytest.fixture
def make_room(new_party: Make, acquaint: Acquaint) -> Iterator[Callable[..., Room]]:
    rooms: list[Room] = []

    def make(*, reflect: bool = False, **limits: float) -> Room:
        rooms.append(Room(new_party, acquaint, Limits(**limits) if limits else None, reflect=reflect))  # type: ignore[arg-type]
        return rooms[-1]

    yield make
    for room in rooms:
        room.node.pause.set()
        room.server.stop(0.5)


@pytest.fixture
def room(make_room: Callable[..., Room]) -> Room:
    return make_room()


def test_every_call_carries_values_and_the_caller_s_name(room: Room) -> None:
    signed = room.buyer.sign("job", b"spec")
    with room.client() as client:
        assert client.describe().profile == "development"
        assert client.propose(signed) == Decision(JOB, "REFUSED", (Reason("policy.kind", "spec"),))
        assert client.approve(signed).state == "ADMITTED"
        assert client.start(JOB).state == "RUNNING"
        assert client.locate(JOB) == "127.0.0.1:1"
        room.node.pause.set()
        assert list(client.status(JOB)) == room.node.statuses
        assert client.status_now(JOB).state == "RUNNING"
        assert client.fetch(JOB) == {"statement": b"s" * 3_000_000, "report": b""}
        assert client.countersign(signed) == signed
        client.deposit(b"receipt")
        assert client.withdraw(JOB).state == "WITHDRAWN"
    assert set(room.node.callers) == {"bob"}


@pytest.mark.parametrize(
    "error",
    [
        PolicyRefused("too few rows", rules=("policy.rows.minimum",), hint="bring more"),
        Untrusted("not a party"),
        PeerLost("dealer", 7, why="gone"),
        BadInput("no such thing", code="input.dataset"),
        NotReady("approve first", job_id=JOB),
        PolicyRefused("x" * 20_000, rules=tuple(f"rule.{i}" for i in range(500))),
    ],
    ids=lambda e: e.code,
)
def test_an_exception_of_the_node_is_raised_at_the_client(room: Room, error: EnclaveError) -> None:
    room.node.error = error
    with room.client() as client:
        for call in (client.describe, lambda: list(client.status(JOB)), lambda: client.fetch(JOB)):
            with pytest.raises(type(error)) as caught:
                call()
            assert (caught.value.code, caught.value.hint) == (error.code, error.hint)
            assert error.public.startswith(caught.value.public[:1000])


def test_an_unexpected_exception_stays_in_the_node_s_log(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    room.node.error = KeyError("the secret is 42")
    with room.client() as client, caplog.at_level(logging.ERROR), pytest.raises(EnclaveError) as caught:
        client.describe()
    assert caught.value.code == "internal"
    assert "42" not in caught.value.public
    assert "the secret is 42" in caplog.text


def test_a_tool_that_knows_only_grpc_sees_status_and_code(room: Room) -> None:
    room.node.error = PolicyRefused("no", rules=("policy.kind",))
    with room.raw() as channel, pytest.raises(grpc.RpcError) as caught:
        stub = node_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]
        from enclave.wire import node_pb2

        stub.Describe(node_pb2.DescribeRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert ("enclave-code", "policy") in [tuple(item) for item in caught.value.trailing_metadata()]


def test_a_node_that_never_says_a_status_is_given_up(room: Room) -> None:
    room.node.mute.clear()
    with NodeClient(room.buyer, room.owner.card, address=room.server.address, deadline_s=0.5) as client:
        begun = time.monotonic()
        with pytest.raises(SessionError) as caught:
            client.status_now(JOB)
        assert time.monotonic() - begun < 3
        assert caught.value.code == "session.timeout"
    room.node.mute.set()


def test_a_node_s_text_cannot_steer_a_terminal(room: Room) -> None:
    evil = "no\x1b[2J\rreceipt ok\nok \u202e\x07"
    room.node.statuses = [JobStatus(JOB, "FAILED", (Reason("policy.kind", evil),), stage=evil)]
    with room.client() as client:
        status = client.status_now(JOB)
        decision = client.propose(room.buyer.sign("job", b"\x1b]52;c;AAAA\x07"))
        room.node.error = SessionError(evil, hint=evil)
        with pytest.raises(SessionError) as caught:
            client.describe()
    said = (status.stage, status.reasons[0].text, decision.reasons[0].text, caught.value.public, caught.value.hint)
    assert all(text.isprintable() for text in said), said
    assert str(caught.value).isprintable()
    assert status.stage == "no?[2J receipt ok ok ??"


def test_a_stranger_is_not_heard(room: Room, new_party: Make) -> None:
    stranger = new_party("buyer", "eve")
    with room.client(stranger) as client, pytest.raises(SessionError, match="cannot reach acme"):
        client.describe()
    assert room.node.callers == []


def test_a_card_added_while_serving_is_accepted(room: Room, new_party: Make) -> None:
    late = new_party("buyer", "late")
    room.trust.add(late.card.encoded)
    with room.client(late) as client:
        client.describe()
    assert room.node.callers == ["late"]


def test_a_removed_card_is_refused_on_an_open_connection(room: Room) -> None:
    with room.client() as client:
        client.describe()
        room.trust.remove("bob")
        with pytest.raises(EnclaveError):
            client.describe()
    assert len(room.node.callers) == 1


def test_another_server_in_the_node_s_place_is_found_out(room: Room, new_party: Make) -> None:
    other = new_party("owner", "zeta")
    with room.client(card=other.card) as client, pytest.raises(Untrusted, match="certificate"):
        client.describe()


def test_nobody_there_says_where_and_what_to_do(room: Room) -> None:
    with NodeClient(room.buyer, room.owner.card, address="127.0.0.1:9", deadline_s=3) as client:
        with pytest.raises(SessionError, match=r"cannot reach acme at 127\.0\.0\.1:9") as caught:
            client.describe()
    assert "running" in caught.value.hint


def test_a_port_in_use_is_a_clear_error(room: Room) -> None:
    with pytest.raises(BadInput, match="in use") as caught:
        serve(FakeNode(), identity=room.owner, trust=room.trust, listen=room.server.address)
    assert "enclave move" in caught.value.hint
    with room.client() as client:
        client.describe()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 5000, b"\xff" * 70_000])
def test_garbage_at_the_port_harms_nobody(room: Room, data: bytes) -> None:
    host, _, port = room.server.address.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as peer:
        peer.sendall(data)
        peer.settimeout(10)
        try:
            while peer.recv(4096):
                pass
        except (ConnectionResetError, TimeoutError):
            pass
    with room.client() as client:
        client.describe()


def test_too_long_a_message_is_refused(room: Room) -> None:
    with room.client() as client:
        with pytest.raises(SessionError, match="refused the call"):
            client.propose(Signed(b"x" * (5 << 20), b"k" * 32, b"s" * 64))
        client.describe()
    assert room.node.callers == ["bob"]


def test_malformed_messages_are_refused(room: Room) -> None:
    with room.raw() as channel:
        call = channel.unary_unary("/enclave.wire.Node/Propose", None, None)
        with pytest.raises(grpc.RpcError):
            call(b"\xff\xff\xff", timeout=5)
    with room.client() as client:
        client.describe()


def test_too_many_calls_are_refused_until_time_has_passed(make_room: Callable[..., Room]) -> None:
    room = make_room(burst=5, calls_per_s=2.0)
    with room.client() as client:
        for _ in range(5):
            client.describe()
        with pytest.raises(EnclaveError, match="too many calls") as caught:
            client.describe()
        assert caught.value.code == "limit.rate"
        room.clock.advance(1.0)
        client.describe()


def test_calls_that_wait_leave_threads_for_the_others(make_room: Callable[..., Room]) -> None:
    room = make_room(threads=4, waiting=2)
    clients = [room.client() for _ in range(6)]
    streams = [client.status(JOB) for client in clients]
    first = [next(stream) for stream in streams]
    assert len(first) == 6
    # Two streams hold a thread, the others were told to ask again: a quick call still gets through.
    begun = time.monotonic()
    clients[0].describe()
    assert time.monotonic() - begun < 3
    assert clients[1].start(JOB).stage == "0"
    room.node.pause.set()
    for stream in streams:
        assert list(stream)[-1].state == "RELEASED"
    for client in clients:
        client.close()


def test_stopping_ends_status_streams_and_says_so(room: Room) -> None:
    with room.raw() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="enclave.wire.Node")
        assert health.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        room.server.refuse_traffic()
        assert health.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with room.client() as client:
        stream = client.status(JOB)
        next(stream)
        begun = time.monotonic()
        room.server.stop(3.0)
        assert time.monotonic() - begun < 3


def test_a_quarter_of_the_waiting_calls_is_one_caller_s_share(
    make_room: Callable[..., Room], acquaint: Acquaint
) -> None:
    room = make_room(threads=16, waiting=8)
    with room.client() as client, room.client(room.owner) as other:
        streams = [client.status(JOB) for _ in range(2)]
        assert [next(stream).state for stream in streams] == ["RUNNING", "RUNNING"]
        assert client.start(JOB).stage == "0"
        assert other.start(JOB).stage == "4"
        room.node.pause.set()
        for stream in streams:
            assert list(stream)[-1].state == "RELEASED"


def test_health_streams_hold_no_threads(make_room: Callable[..., Room]) -> None:
    room = make_room(threads=4, waiting=2)
    with room.raw() as channel, room.client() as client:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(8)]
        client.describe()
        for watch in watches:
            with pytest.raises(grpc.RpcError) as caught:
                next(watch)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_is_served_for_development_only(room: Room) -> None:
    with room.raw() as channel, pytest.raises(grpc.RpcError) as caught:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        next(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_lists_the_service(make_room: Callable[..., Room]) -> None:
    room = make_room(reflect=True)
    with room.raw() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        replies = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
        names = {service.name for service in next(replies).list_services_response.service}
    assert {"enclave.wire.Node", "grpc.health.v1.Health"} <= names


def test_health_and_reflection_know_only_trusted_callers(room: Room, new_party: Make) -> None:
    stranger = new_party("buyer", "eve")
    with tls.dial(stranger, room.owner.card, room.server.address) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


def test_the_port_speaks_no_tls_before_1_3(room: Room) -> None:
    host, _, port = room.server.address.rpartition(":")
    assert not tls.accepts_tls12(host, int(port))


def test_a_client_needs_an_address(new_party: Make, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="no address"):
        NodeClient(new_party("buyer", "bob"), new_party("owner", "acme").card)

"""The channel contract over TLS sockets, alone and mixed with gRPC; who is let in; and peers that misbehave."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from enclave.channel import frames, socket_link, tls
from enclave.channel.addresses import Offer
from enclave.channel.grpc_link import Listener, open_channel
from enclave.channel.linked import LinkedChannel
from enclave.channel.socket_stream import LENGTH, SocketStream
from enclave.errors import BadInput, Desynchronised, EnclaveError, PeerLost, Refused, SessionError, Untrusted
from enclave.identity import Card, Identity, TrustStore
from tests.enclave.channel.contract import ChannelContract, Channels, close_all, together
from tests.enclave.channel.parties import Parties, make_parties


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return make_parties(Path(tmp_path_factory.mktemp("homes")))


def networks(parties: Parties, transports: str) -> Iterator[Callable[[float], Channels]]:
    made: list[Channels] = []
    sessions = (f"session-{n}" for n in itertools.count())

    def make(deadline_s: float) -> Channels:
        made.append(parties.connect(next(sessions), deadline_s, transports))
        return made[-1]

    yield make
    for channels in made:
        close_all(channels)


class TestSockets(ChannelContract):
    @pytest.fixture
    def network(self, parties: Parties) -> Iterator[Callable[[float], Channels]]:
        yield from networks(parties, "sss")


def by_socket(channel: LinkedChannel, peer: int) -> bool:
    return isinstance(getattr(channel._links[peer].hang_up, "__self__", None), SocketStream)


@pytest.mark.parametrize(
    ("transports", "links"),
    [("ggg", {}), ("sgs", {(0, 1), (0, 2), (1, 2)}), ("sgg", {(0, 1)}), ("ggs", {(1, 2)})],
)
def test_a_link_is_a_socket_where_both_ends_offer_it(
    parties: Parties, transports: str, links: set[tuple[int, int]]
) -> None:
    """Rank 1, the buyer, has no port and takes what it is offered; rank 2 dials rank 0."""
    channels = parties.connect("s", 5, transports)
    try:
        found = {(a, b) for a in range(3) for b in range(a + 1, 3) if by_socket(channels[a], b)}
        assert found == set(links)
        for a, b in itertools.permutations(range(3), 2):
            channels[a].send(b, 0, "x", [bytes(8)])
        for a, b in itertools.permutations(range(3), 2):
            channels[b].receive(a, 0, "x", 8)
        together(*(c.close for c in channels))
    finally:
        close_all(channels)


class Caller:
    """A TLS client that shows a certificate and says what it likes."""

    def __init__(self, identity: Identity, server: Card, listener: Listener) -> None:
        roots = b"".join(server.certificates)
        port = Offer.parse(listener.address, "ada").socket_port
        assert port is not None
        raw = socket.create_connection(("127.0.0.1", port), 5)
        context = tls.socket_context(identity, roots, listens=False)
        self.connection = context.wrap_socket(raw, server_hostname=tls.SERVER_NAME)

    def say(self, *messages: bytes) -> Caller:
        return self.write(b"".join(LENGTH.pack(len(m)) + m for m in messages))

    def write(self, data: bytes) -> Caller:
        self.connection.settimeout(20)
        try:
            self.connection.sendall(data)
        except OSError:
            pass  # the listener may have hung up already
        return self

    def answer(self) -> frames.Head:
        return frames.parse(socket_link.read_message(self.connection, time.monotonic() + 10, 1 << 12))

    def refusal(self) -> str:
        head = self.answer()
        assert head.kind == frames.ABORT
        return head.text

    def close(self) -> None:
        self.connection.close()


def hello(session: str = "s", rank: int = 2, to: int = 0) -> bytes:
    return frames.control(frames.HELLO, step=to, value=rank, text=session)


@pytest.fixture
def listener(parties: Parties) -> Iterator[Listener]:
    made = parties.listener(0, "s", sockets=True)
    made.arrivals.own_rank = 0
    yield made
    for link in made.arrivals.links.values():
        link.sever()
    made.close()


@pytest.fixture
def call(parties: Parties, listener: Listener) -> Iterator[Callable[[Identity], Caller]]:
    made: list[Caller] = []

    def make(identity: Identity) -> Caller:
        made.append(Caller(identity, parties.identities[0].card, listener))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


Call = Callable[[Identity], Caller]


class TestAdmission:
    def test_a_party_is_welcome_once(self, parties: Parties, listener: Listener, call: Call) -> None:
        cyd = parties.identities[2]
        first = call(cyd).say(hello())
        assert first.answer().kind == frames.WELCOME
        with listener.arrivals.changed:
            assert listener.arrivals.changed.wait_for(lambda: 2 in listener.arrivals.links, 5)
        assert listener.arrivals.links[2].name == "cyd"
        assert call(cyd).say(hello()).refusal() == "cyd is connected already"
        link = listener.arrivals.links[2]
        first.close()
        assert link.settled.wait(5)
        link.hang_up()

    def test_another_session_is_refused_and_may_be_corrected(
        self, parties: Parties, listener: Listener, call: Call
    ) -> None:
        cyd = parties.identities[2]
        assert call(cyd).say(hello("yesterday")).refusal() == "another session: expected 's', found 'yesterday'"
        assert not listener.arrivals.links
        assert call(cyd).say(hello()).answer().kind == frames.WELCOME

    @pytest.mark.parametrize(
        ("who", "first", "why"),
        [
            ("bob", hello(rank=2), "another rank: this certificate is rank 1's, the greeting says 2"),
            ("cyd", hello(to=1), "another party: this is rank 0, the greeting is for 1"),
            ("eve", hello(), "eve is not a party of this session"),
        ],
    )
    def test_a_rank_belongs_to_its_certificate(
        self, parties: Parties, listener: Listener, call: Call, who: str, first: bytes, why: str
    ) -> None:
        people = {i.card.name: i for i in (*parties.identities, parties.eve)}
        assert call(people[who]).say(first).refusal() == why
        assert not listener.arrivals.links

    @pytest.mark.parametrize(
        "first", [b"", b"GET / HTTP/1.1", bytes(24), frames.frame_head(0, "x", 0), hello()[:20], b"\xff" * 3000]
    )
    def test_garbage_instead_of_a_greeting(self, parties: Parties, call: Call, first: bytes) -> None:
        assert call(parties.identities[2]).say(first).refusal().startswith("expected a greeting")

    def test_drops_instead_of_a_greeting(self, parties: Parties, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        """A byte now and then does not hold the place of a party for longer than silence does."""
        monkeypatch.setattr(socket_link, "_HELLO_S", 0.6)
        caller = call(parties.identities[2])
        for byte in LENGTH.pack(100) + bytes(10):
            caller.write(bytes([byte]))
            time.sleep(0.1)
        assert caller.refusal() == "no greeting within 0.6 s"
        assert call(parties.identities[2]).say(hello()).answer().kind == frames.WELCOME

    def test_one_that_leaves_before_its_greeting_may_come_again(self, parties: Parties, call: Call) -> None:
        call(parties.identities[2]).close()
        time.sleep(0.2)
        assert call(parties.identities[2]).say(hello()).answer().kind == frames.WELCOME

    def test_strangers_do_not_keep_parties_out(self, parties: Parties, listener: Listener, call: Call) -> None:
        port = Offer.parse(listener.address, "ada").socket_port
        held = [socket.create_connection(("127.0.0.1", port or 0)) for _ in range(60)]
        for n, raw in enumerate(held):
            raw.sendall(np.random.default_rng(n).bytes(n * 7))
        crowd = [call(parties.eve).say(hello()) for _ in range(20)]
        assert call(parties.identities[2]).say(hello()).answer().kind == frames.WELCOME
        assert {c.refusal() for c in crowd} == {"eve is not a party of this session"}
        for raw in held:
            raw.close()

    def test_a_caller_without_a_thread_does_not_end_the_listening(
        self, parties: Parties, listener: Listener, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(**_: object) -> threading.Thread:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(socket_link, "threading", SimpleNamespace(Thread=refuse))
            port = Offer.parse(listener.address, "ada").socket_port or 0
            for _ in range(socket_link._GREETERS + 1):
                with socket.create_connection(("127.0.0.1", port), 5) as raw:
                    assert raw.recv(1) == b""
        assert call(parties.identities[2]).say(hello()).answer().kind == frames.WELCOME

    def test_no_certificate_no_trust_no_old_tls(self, parties: Parties, listener: Listener, tmp_path: Path) -> None:
        server = parties.identities[0].card
        mallory = Identity.create(tmp_path / "mallory", "owner", "cyd")  # the name of a party, another key
        caller = Caller(mallory, server, listener)
        with pytest.raises((OSError, EOFError)):
            caller.say(hello()).answer()
        caller.close()
        port = Offer.parse(listener.address, "ada").socket_port or 0
        for version, shows in ((ssl.TLSVersion.TLSv1_3, False), (ssl.TLSVersion.TLSv1_2, True)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=b"".join(server.certificates).decode())
            context.minimum_version = context.maximum_version = version
            if shows:
                context.load_cert_chain(parties.identities[2].home / "tls.pem")
            with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), 5) as raw:
                with context.wrap_socket(raw, server_hostname=tls.SERVER_NAME) as connection:
                    connection.sendall(bytes(30))
                    if not connection.recv(1):
                        raise ConnectionResetError
        assert not listener.arrivals.links

    def test_both_ports_come_from_the_range(self, parties: Parties, listener: Listener) -> None:
        offer = Offer.parse(listener.address, "ada")
        assert offer.socket_port is not None
        with pytest.raises(BadInput, match="no free port"):
            parties.listener(0, "t", range(offer.socket_port, offer.socket_port + 1), sockets=True)


class TestOpening:
    def test_a_peer_that_does_not_listen_is_named(self, parties: Parties) -> None:
        begin = time.monotonic()
        with pytest.raises(PeerLost, match="not reached") as caught:
            parties.open(1, "s", None, lambda _: "127.0.0.1:8,tls://127.0.0.1:9", connect_s=1)
        assert caught.value.who in ("ada", "cyd")
        assert time.monotonic() - begin < 4

    def test_another_session_is_a_refusal_at_once(self, parties: Parties, listener: Listener) -> None:
        with pytest.raises(Refused, match="ada refused the connection: another session"):
            parties.open(1, "t", None, {0: listener.address, 2: "127.0.0.1:9"}.__getitem__)

    def test_the_wrong_party_at_the_address_is_untrusted_at_once(self, parties: Parties, listener: Listener) -> None:
        begin = time.monotonic()
        with pytest.raises(Untrusted, match="at the address of"):
            parties.open(1, "s", None, {0: "127.0.0.1:9", 2: listener.address}.__getitem__)
        assert time.monotonic() - begin < 3

    def test_a_party_that_is_not_trusted_learns_it_soon(
        self, parties: Parties, listener: Listener, tmp_path: Path
    ) -> None:
        stranger = Identity.create(tmp_path / "bob", "buyer", "bob")
        with pytest.raises(Untrusted, match="when it sees this party's certificate"):
            open_channel(
                "s", 1, ("ada", "bob"), parties.cards(1), stranger, TrustStore(stranger.home), None,
                lambda _: listener.address, 1, 10,
            )  # fmt: skip

    def test_what_speaks_no_tls_is_no_worker(self, parties: Parties) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def greet() -> None:
                for _ in range(2):  # one for each peer that is dialled: none may be left waiting for an answer
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"220 smtp.example ESMTP\r\n")
                        connection.settimeout(2)
                        connection.recv(1 << 12)

            greeter = threading.Thread(target=greet, daemon=True)
            greeter.start()
            port = server.getsockname()[1]
            with pytest.raises(SessionError, match="no worker of a session"):
                parties.open(1, "s", None, lambda _: f"127.0.0.1:9,tls://127.0.0.1:{port}", connect_s=5)
            greeter.join(5)


class TestHostilePeer:
    """A party of the session, past the greeting, that does not keep to the protocol."""

    @pytest.fixture
    def victim(self, parties: Parties, listener: Listener, call: Call) -> Iterator[tuple[LinkedChannel, Caller]]:
        bob = call(parties.identities[1]).say(hello(rank=1))
        cyd = call(parties.identities[2]).say(hello(rank=2))
        channel = parties.open(0, "s", listener, lambda _: "", deadline_s=3)
        assert {bob.answer().kind, cyd.answer().kind} == {frames.WELCOME}
        yield channel, cyd
        channel.close(EnclaveError("the test is over"))

    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"\x00",
            bytes(2000),
            frames.control(77),
            hello(),
            frames.control(frames.CREDIT, value=1),
            frames.control(frames.CREDIT, value=(1 << 64) - 1),
            frames.control(frames.ABORT, value=99),
            frames.control(frames.BATCH) + bytes(9),
        ],
    )
    def test_garbage_ends_the_session_at_once(self, victim: tuple[LinkedChannel, Caller], message: bytes) -> None:
        channel, cyd = victim
        cyd.say(message)
        begin = time.monotonic()
        with pytest.raises(Desynchronised) as caught:
            channel.receive(1, 0, "x", 8)
        assert caught.value.who == "cyd"
        assert time.monotonic() - begin < 2

    @pytest.mark.parametrize("length", [0, 23, frames.MAX_MESSAGE_BYTES + 1, (1 << 32) - 1])
    def test_a_length_beyond_bounds_ends_it_before_the_bytes_come(
        self, victim: tuple[LinkedChannel, Caller], length: int
    ) -> None:
        channel, cyd = victim
        cyd.write(LENGTH.pack(length))
        with pytest.raises(Desynchronised) as caught:
            channel.receive(2, 0, "x", 8)
        assert caught.value.who == "cyd"

    @pytest.mark.parametrize(
        "message",
        [
            frames.frame_head(0, "x", 8),
            frames.frame_head(0, "x", 8) + bytes(9),
            frames.frame_head(0, "x", 1 << 47),
            frames.frame_head(0, "x", 8)[:-1] + b"\x01" + bytes(8),
            frames.control(frames.MORE, 0, 8) + bytes(8),
        ],
    )
    def test_a_frame_that_lies_is_not_taken(self, victim: tuple[LinkedChannel, Caller], message: bytes) -> None:
        channel, cyd = victim
        cyd.say(message)
        with pytest.raises(Desynchronised) as caught:
            channel.receive(2, 0, "x", 8)
        assert caught.value.who == "cyd"

    @pytest.mark.parametrize("sent", [3, 40, frames.CHUNK_BYTES // 2])
    def test_a_message_that_stops_in_the_middle_ends_at_the_deadline(
        self, victim: tuple[LinkedChannel, Caller], sent: int
    ) -> None:
        channel, cyd = victim
        whole = frames.messages(0, "x", [bytes(frames.CHUNK_BYTES)], frames.CHUNK_BYTES)[0]
        cyd.write((LENGTH.pack(len(whole)) + whole)[:sent])
        with pytest.raises(PeerLost, match="no 'x' within 3 s"):
            channel.receive(2, 0, "x", frames.CHUNK_BYTES)

    def test_too_much_unread_data_ends_the_session(self, victim: tuple[LinkedChannel, Caller]) -> None:
        channel, cyd = victim
        whole = frames.messages(0, "x", [bytes(frames.CHUNK_BYTES)], frames.CHUNK_BYTES)[0]
        flood = threading.Thread(target=cyd.say, args=[whole] * 12, daemon=True)
        flood.start()
        with pytest.raises(Desynchronised, match=r"expected at most 16777216 unread bytes"):
            channel.receive(1, 0, "x", 8)
        flood.join(10)

    @pytest.mark.parametrize("seed", range(8))
    def test_random_bytes_never_do_worse_than_end_it(self, victim: tuple[LinkedChannel, Caller], seed: int) -> None:
        channel, cyd = victim
        draw = np.random.default_rng(seed)
        valid = [hello(), frames.frame_head(0, "x", 8) + bytes(8), frames.control(frames.WAITING, value=1)]
        valid += [frames.control(kind, value=3) for kind in range(1, 12)]
        for _ in range(40):
            message = bytearray(valid[draw.integers(len(valid))])
            for _ in range(draw.integers(0, 4)):
                message[draw.integers(len(message))] = draw.integers(256)
            cyd.say(bytes(message[: draw.integers(0, len(message) + 1)]))
        with pytest.raises((SessionError, Desynchronised)):
            for _ in range(100):
                channel.receive(2, 0, "x", 8)


def test_a_party_that_computes_still_hears_and_answers(parties: Parties) -> None:
    """No thread of `ada` waits: the watch alone reads, so that `cyd` can send on, and notices that `bob` leaves."""
    a, b, c = parties.connect("s", 10, "sss")
    try:
        size = 8 << 20  # far more than the kernel holds
        together(lambda: [c.send(0, step, "tape", [bytes(size // 4)]) for step in range(4)], lambda: time.sleep(1))
        b.close(EnclaveError("no"))
        until = time.monotonic() + 3
        while time.monotonic() < until:
            try:
                a.send(2, 0, "x", [])
            except PeerLost as error:
                assert error.who == "bob"
                break
            time.sleep(0.05)
        else:
            pytest.fail("the abort was not heard")
    finally:
        close_all((a, b, c))


def test_nothing_is_left_behind(parties: Parties) -> None:
    """Descriptors and threads of closed sessions are freed."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system has no /proc to count in")
    counts = []
    for n in range(4):
        channels = parties.connect(f"s{n}", 5, "sss")
        channels[0].send(1, 0, "x", [b"x"])
        channels[1].receive(0, 0, "x", 1)
        together(*(c.close for c in channels))
        counts.append(len(list(descriptors.iterdir())))
    assert counts[-1] <= counts[1] + 4
    assert not [t.name for t in threading.enumerate() if t.name.startswith("watch")]

"""The channel contract over gRPC, and who is let in."""

from __future__ import annotations

import itertools
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pytest

from enclave.channel import frames, grpc_link, tls
from enclave.channel.grpc_link import Listener, open_channel
from enclave.channel.linked import LinkedChannel
from enclave.errors import BadInput, Desynchronised, EnclaveError, PeerLost, Refused, SessionError, Untrusted
from enclave.identity import Identity, TrustStore
from tests.enclave.channel.contract import ChannelContract, Channels, close_all, together
from tests.enclave.channel.parties import Parties, make_parties


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return make_parties(Path(tmp_path_factory.mktemp("homes")))


class TestGrpc(ChannelContract):
    @pytest.fixture
    def network(self, parties: Parties) -> Iterator[Callable[[float], Channels]]:
        made: list[Channels] = []
        sessions = (f"session-{n}" for n in itertools.count())

        def make(deadline_s: float) -> Channels:
            made.append(parties.connect(next(sessions), deadline_s))
            return made[-1]

        yield make
        for channels in made:
            close_all(channels)


class Caller:
    """A client that holds a trusted certificate and says what it likes."""

    def __init__(self, parties: Parties, identity: Identity, listener: Listener) -> None:
        self.requests: SimpleQueue[bytes | None] = SimpleQueue()
        card = parties.identities[0].card
        self.channel = tls.dial(identity, card, listener.address, max_message_bytes=-1)
        self.call = self.channel.stream_stream("/enclave.wire.Session/Link", None, None)(
            iter(self.requests.get, None), timeout=20
        )

    def say(self, *messages: bytes) -> Caller:
        for message in messages:
            self.requests.put(message)
        return self

    def answer(self) -> bytes:
        """The listener's next message; raises grpc.RpcError."""
        return bytes(next(self.call))

    def refusal(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            while True:
                self.answer()
        return caught.value.code(), str(caught.value.details())

    def close(self) -> None:
        self.requests.put(None)
        self.call.cancel()
        self.channel.close()


def hello(session: str = "s", rank: int = 2, to: int = 0) -> bytes:
    return frames.control(frames.HELLO, step=to, value=rank, text=session)


@pytest.fixture
def listener(parties: Parties) -> Iterator[Listener]:
    made = parties.listener(0, "s")
    made.arrivals.own_rank = 0
    yield made
    made.close()


@pytest.fixture
def call(parties: Parties, listener: Listener) -> Iterator[Callable[[Identity], Caller]]:
    made: list[Caller] = []

    def make(identity: Identity) -> Caller:
        made.append(Caller(parties, identity, listener))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


Call = Callable[[Identity], Caller]


class TestAdmission:
    def test_a_party_is_welcome_once(self, parties: Parties, listener: Listener, call: Call) -> None:
        cyd = parties.identities[2]
        assert frames.parse(call(cyd).say(hello()).answer()).kind == frames.WELCOME
        assert listener.arrivals.links[2].name == "cyd"
        code, text = call(cyd).say(hello()).refusal()
        assert (code, text) == (grpc.StatusCode.ALREADY_EXISTS, "cyd is connected already")

    def test_another_session_is_refused_and_may_be_corrected(
        self, parties: Parties, listener: Listener, call: Call
    ) -> None:
        cyd = parties.identities[2]
        code, text = call(cyd).say(hello("yesterday")).refusal()
        assert (code, text) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "another session: expected 's', found 'yesterday'",
        )
        assert not listener.arrivals.links
        assert frames.parse(call(cyd).say(hello()).answer()).kind == frames.WELCOME

    def test_a_rank_belongs_to_its_certificate(self, parties: Parties, call: Call) -> None:
        code, text = call(parties.identities[1]).say(hello(rank=2)).refusal()
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert text == "another rank: this certificate is rank 1's, the greeting says 2"

    def test_a_greeting_for_somebody_else_is_refused(self, parties: Parties, call: Call) -> None:
        code, text = call(parties.identities[2]).say(hello(to=1)).refusal()
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "the greeting is for 1" in text

    def test_a_trusted_stranger_is_refused(self, parties: Parties, listener: Listener, call: Call) -> None:
        code, text = call(parties.eve).say(hello()).refusal()
        assert (code, text) == (grpc.StatusCode.UNAUTHENTICATED, "eve is not a party of this session")
        assert not listener.arrivals.links

    @pytest.mark.parametrize(
        "first", [b"", b"GET / HTTP/1.1", bytes(24), frames.frame_head(0, "x", 0), hello()[:20], b"\xff" * 3000]
    )
    def test_garbage_instead_of_a_greeting(self, parties: Parties, call: Call, first: bytes) -> None:
        code, text = call(parties.identities[2]).say(first).refusal()
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert text.startswith("expected a greeting")

    def test_silence_instead_of_a_greeting(self, parties: Parties, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(grpc_link, "_HELLO_S", 0.5)
        code, text = call(parties.identities[2]).refusal()
        assert (code, text) == (grpc.StatusCode.FAILED_PRECONDITION, "no greeting within 0.5 s")

    def test_strangers_do_not_keep_parties_out(self, parties: Parties, listener: Listener, call: Call) -> None:
        """Half-open connections, sudden ends and a crowd of trusted strangers, and then the one that is expected."""
        held = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(60)]
        for n, raw in enumerate(held):
            raw.sendall(random_bytes(n * 7, n))
        crowd = [call(parties.eve).say(hello()) for _ in range(20)]
        assert frames.parse(call(parties.identities[2]).say(hello()).answer()).kind == frames.WELCOME
        assert {c.refusal()[0] for c in crowd} <= {
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        }
        for raw in held:
            raw.close()

    def test_one_port_serves_one_listener(self, parties: Parties, listener: Listener) -> None:
        with pytest.raises(BadInput, match=r"no free port on 127\.0\.0\.1 among 1"):
            parties.listener(0, "t", range(listener.port, listener.port + 1))

    def test_the_next_port_is_taken(self, parties: Parties, listener: Listener) -> None:
        second = parties.listener(0, "t", range(listener.port, listener.port + 30))
        assert listener.port < second.port < listener.port + 30
        second.close()

    def test_a_foreign_host_is_an_error(self, parties: Parties) -> None:
        with pytest.raises(BadInput, match="no free port"):
            Listener(parties.identities[0], parties.trusts[0], "s", "192.0.2.1", range(40_000, 40_002), {})


class TestOpening:
    def test_a_peer_that_never_comes_is_named(self, parties: Parties) -> None:
        with pytest.raises(PeerLost) as caught:
            parties.open(0, "s", parties.listener(0, "s"), lambda _: "", connect_s=0.5)
        assert caught.value.who == "bob"

    def test_a_peer_that_does_not_listen_is_named(self, parties: Parties) -> None:
        begin = time.monotonic()
        with pytest.raises(PeerLost, match="not reached") as caught:
            parties.open(1, "s", None, lambda _: "127.0.0.1:9", connect_s=1)
        assert caught.value.who in ("ada", "cyd")
        assert time.monotonic() - begin < 4

    def test_another_session_is_a_refusal_at_once(self, parties: Parties) -> None:
        listener = parties.listener(0, "s")
        begin = time.monotonic()
        with pytest.raises(Refused, match="ada refused the connection: another session"):
            parties.open(1, "t", None, {0: listener.address, 2: "127.0.0.1:9"}.__getitem__)
        assert time.monotonic() - begin < 3
        listener.close()

    def test_the_wrong_party_at_the_address_is_untrusted_at_once(self, parties: Parties) -> None:
        listener = parties.listener(0, "s")
        begin = time.monotonic()
        with pytest.raises(Untrusted, match="at the address of cyd"):
            parties.open(1, "s", None, {0: listener.address, 2: listener.address}.__getitem__)
        assert time.monotonic() - begin < 3
        listener.close()

    def test_a_party_that_is_not_trusted_learns_it_soon(self, parties: Parties, tmp_path: Path) -> None:
        stranger = Identity.create(tmp_path / "bob", "buyer", "bob")
        listener = parties.listener(0, "s")
        begin = time.monotonic()
        with pytest.raises(Untrusted, match="when it sees this party's certificate"):
            open_channel(
                "s", 1, ("ada", "bob"), parties.cards(1), stranger, TrustStore(stranger.home), None,
                lambda _: listener.address, 1, 10,
            )  # fmt: skip
        assert time.monotonic() - begin < 5
        listener.close()

    def test_an_address_that_nobody_knows(self, parties: Parties) -> None:
        def locate(rank: int) -> str:
            raise PeerLost(("ada", "bob", "cyd")[rank], 0, why="its node does not know the session")

        with pytest.raises(PeerLost, match="does not know"):
            parties.open(1, "s", None, locate)

    def test_the_one_that_waits_hears_why_it_will_not_begin(self, parties: Parties) -> None:
        """`bob` reaches `ada` but not `cyd`; `ada` need not wait for her own time to run out."""
        listener = parties.listener(0, "s")
        begin = time.monotonic()
        found = together(
            lambda: parties.open(0, "s", listener, lambda _: "", connect_s=20),
            lambda: parties.open(1, "s", None, {0: listener.address, 2: "127.0.0.1:9"}.__getitem__, connect_s=1.5),
        )
        assert [e.who for e in found if isinstance(e, PeerLost)] == ["cyd", "cyd"]
        assert time.monotonic() - begin < 8


class TestHostilePeer:
    """A party of the session, past the greeting, that does not keep to the protocol."""

    @pytest.fixture
    def victim(self, parties: Parties) -> Iterator[tuple[LinkedChannel, Caller]]:
        listener = parties.listener(0, "s")
        bob = Caller(parties, parties.identities[1], listener).say(hello(rank=1))
        cyd = Caller(parties, parties.identities[2], listener).say(hello(rank=2))
        channel = parties.open(0, "s", listener, lambda _: "", deadline_s=3)
        assert frames.parse(cyd.answer()).kind == frames.WELCOME
        yield channel, cyd
        channel.close(EnclaveError("the test is over"))
        bob.close()
        cyd.close()

    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"\x00",
            bytes(2000),
            b"EN\x01\x03" + bytes(20),
            frames.control(77),
            hello(),
            frames.control(frames.CREDIT, value=1),
            frames.control(frames.CREDIT, value=(1 << 64) - 1),
            frames.control(frames.ABORT, value=99),
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

    @pytest.mark.parametrize(
        "message",
        [
            frames.frame_head(0, "x", 8),  # shorter than it says
            frames.frame_head(0, "x", 8) + bytes(9),
            frames.frame_head(0, "x", 1 << 47),
            frames.frame_head(0, "x", 8)[:-1] + b"\x01" + bytes(8),  # padding that is not zero
            frames.control(frames.MORE, 0, 8) + bytes(8),
        ],
    )
    def test_a_frame_that_lies_is_not_taken(self, victim: tuple[LinkedChannel, Caller], message: bytes) -> None:
        channel, cyd = victim
        cyd.say(message)
        with pytest.raises(Desynchronised) as caught:
            channel.receive(2, 0, "x", 8)
        assert caught.value.who == "cyd"

    def test_a_frame_that_stops_in_the_middle_ends_at_the_deadline(self, victim: tuple[LinkedChannel, Caller]) -> None:
        channel, cyd = victim
        cyd.say(frames.messages(0, "x", [bytes(frames.CHUNK_BYTES + 1)], frames.CHUNK_BYTES + 1)[0])
        with pytest.raises(PeerLost, match="no 'x' within 3 s"):
            channel.receive(2, 0, "x", frames.CHUNK_BYTES + 1)

    def test_too_much_unread_data_ends_the_session(self, victim: tuple[LinkedChannel, Caller]) -> None:
        channel, cyd = victim
        whole = frames.messages(0, "x", [bytes(frames.CHUNK_BYTES)], frames.CHUNK_BYTES)[0]
        cyd.say(*[whole] * 12)
        with pytest.raises(Desynchronised, match=r"expected at most 16777216 unread bytes"):
            channel.receive(1, 0, "x", 8)

    def test_a_huge_message_is_not_taken(self, victim: tuple[LinkedChannel, Caller]) -> None:
        channel, cyd = victim
        before = peak_rss_bytes()
        cyd.say(frames.frame_head(0, "x", 8) + bytes(200 << 20))
        with pytest.raises(SessionError) as caught:
            channel.receive(2, 0, "x", 8)
        assert isinstance(caught.value, PeerLost | Desynchronised)
        assert caught.value.who == "cyd"
        # The sender shares this process: its own copies of the message are three.
        assert peak_rss_bytes() - before < 1 << 30

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


def random_bytes(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

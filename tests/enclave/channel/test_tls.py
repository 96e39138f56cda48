"""Who can talk to a listener at all: TLS 1.3, with a certificate that stands on a trusted card."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from enclave.channel import tls
from enclave.channel.grpc_link import Listener
from enclave.errors import Untrusted
from enclave.identity import Card, Identity, TrustStore
from tests.enclave.channel.parties import Parties, introduce, make_parties

ECHO = "/test/Echo"


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return make_parties(Path(tmp_path_factory.mktemp("homes")))


@pytest.fixture
def listener(parties: Parties) -> Iterator[Listener]:
    made = parties.listener(0, "s")
    yield made
    made.close()


class Echo:
    """A control plane in small: answers with the caller's name."""

    def __init__(self, identity: Identity, trust: TrustStore) -> None:
        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return tls.peer_card(context, trust).name.encode()
            except Untrusted as error:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, error.public)

        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(call)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Echo": handler}),))
        self.port = self.server.add_secure_port("127.0.0.1:0", tls.server_credentials(identity, trust))
        self.server.start()

    def ask(self, identity: Identity, card: Card) -> str:
        """The server's answer to `identity`; raises grpc.RpcError."""
        with tls.dial(identity, card, f"127.0.0.1:{self.port}") as channel:
            answer: bytes = channel.unary_unary(ECHO)(b"", timeout=5)
        return answer.decode()


@pytest.fixture
def node(parties: Parties) -> Iterator[Echo]:
    echo = Echo(parties.identities[0], parties.trusts[0])
    yield echo
    echo.server.stop(0)


def handshake(port: int, version: ssl.TLSVersion, identity: Identity | None, server: Card, tmp: Path) -> str:
    """The TLS version that a plain client agrees on, after the server has accepted its certificate."""
    roots = tmp / "roots.pem"
    roots.write_bytes(b"".join(server.certificates))
    context = ssl.create_default_context(cafile=str(roots))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        pair = tmp / "pair.pem"
        pair.write_bytes(identity.tls_key_pem + identity.tls_certificate_pem)
        context.load_cert_chain(pair)
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname="enclave") as secure,
    ):
        # In TLS 1.3 a client learns only by reading whether its certificate was taken.
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        if not secure.recv(1):
            raise ssl.SSLError("closed")
        return str(secure.version())


def test_tls13_with_a_known_certificate_is_served(parties: Parties, listener: Listener, tmp_path: Path) -> None:
    server = parties.identities[0].card
    found = handshake(listener.port, ssl.TLSVersion.TLSv1_3, parties.identities[2], server, tmp_path)
    assert found == "TLSv1.3"


def test_tls12_is_not_served(parties: Parties, listener: Listener, tmp_path: Path) -> None:
    server = parties.identities[0].card
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(listener.port, ssl.TLSVersion.TLSv1_2, parties.identities[2], server, tmp_path)
    assert not tls.accepts_tls12("127.0.0.1", listener.port)


def test_no_certificate_is_not_served(parties: Parties, listener: Listener, tmp_path: Path) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(listener.port, ssl.TLSVersion.TLSv1_3, None, parties.identities[0].card, tmp_path)


def test_an_unknown_certificate_is_not_served(parties: Parties, listener: Listener, tmp_path: Path) -> None:
    mallory = Identity.create(tmp_path / "mallory", "owner", "cyd")  # the name of a party, another key
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(listener.port, ssl.TLSVersion.TLSv1_3, mallory, parties.identities[0].card, tmp_path)


def test_plaintext_is_not_served(listener: Listener) -> None:
    with grpc.insecure_channel(listener.address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(ECHO)(b"", timeout=3)


def test_the_caller_is_named_by_its_certificate(parties: Parties, node: Echo) -> None:
    card = parties.identities[0].card
    assert node.ask(parties.identities[1], card) == "bob"
    assert node.ask(parties.eve, card) == "eve"
    assert node.ask(parties.identities[0], card) == "ada"


def test_a_new_card_is_accepted_without_a_restart(parties: Parties, node: Echo, tmp_path: Path) -> None:
    newcomer = Identity.create(tmp_path / "new", "buyer", "newcomer")
    card = parties.identities[0].card
    with pytest.raises(grpc.RpcError):
        node.ask(newcomer, card)
    parties.trusts[0].add(newcomer.card.encoded)
    assert node.ask(newcomer, card) == "newcomer"
    parties.trusts[0].remove("newcomer")
    with pytest.raises(grpc.RpcError):
        node.ask(newcomer, card)


def test_another_trusted_party_cannot_stand_in_for_the_one_dialled(parties: Parties, node: Echo) -> None:
    """`bob` trusts both, but asked for `cyd` and reached `ada`."""
    with pytest.raises(grpc.RpcError) as caught:
        node.ask(parties.identities[1], parties.identities[2].card)
    assert "certificate" in str(caught.value.details()).lower()  # type: ignore[attr-defined]


def test_a_rotated_certificate_works_at_both_ends(tmp_path: Path) -> None:
    people = [Identity.create(tmp_path / n, r, n) for n, r in (("ada", "owner"), ("bob", "buyer"))]
    trusts = [TrustStore(p.home) for p in people]
    introduce(people, trusts)
    echo = Echo(people[0], trusts[0])
    try:
        renewed = people[1].rotate()
        assert renewed.tls_certificate_pem != people[1].tls_certificate_pem
        trusts[0].add(renewed.card.encoded)
        assert echo.ask(renewed, people[0].card) == "bob"
        fresh = people[0].rotate()
        assert echo.ask(renewed, fresh.card) == "bob"
    finally:
        echo.server.stop(0)


def test_a_rotation_in_another_process_needs_no_restart(tmp_path: Path) -> None:
    """Server and caller hold on to what they loaded at their start, and show what the home says now."""
    people = [Identity.create(tmp_path / n, r, n) for n, r in (("ada", "owner"), ("bob", "buyer"))]
    trusts = [TrustStore(p.home) for p in people]
    introduce(people, trusts)
    echo = Echo(people[0], trusts[0])
    try:
        assert echo.ask(people[1], people[0].card) == "bob"
        stolen = Identity.load(people[0].home).rotate(keep_old=False)
        assert echo.ask(people[1], stolen.card) == "bob"
        with pytest.raises(grpc.RpcError):
            echo.ask(people[1], people[0].card)
        trusts[0].add(Identity.load(people[1].home).rotate(keep_old=False).card.encoded)
        assert echo.ask(people[1], stolen.card) == "bob"
        # A home that is damaged meanwhile stops nobody.
        (people[0].home / "tls.pem").write_bytes(b"")
        assert echo.ask(people[1], stolen.card) == "bob"
    finally:
        echo.server.stop(0)


def test_too_late_is_an_error_not_a_weaker_connection() -> None:
    code = """
import grpc
from enclave.channel.tls import require_tls13
from enclave.errors import EnclaveError
try:
    require_tls13()
except EnclaveError as error:
    raise SystemExit(0 if "imported before" in str(error) else 3)
raise SystemExit(4)
"""
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(Path.cwd())}, timeout=60, check=False)
    assert done.returncode == 0


def test_the_probe_notices_tls12(tmp_path: Path) -> None:
    """Without the restriction the probe must say so, or it proves nothing."""
    code = f"""
import grpc
from concurrent import futures
from pathlib import Path
from enclave.channel.tls import accepts_tls12
from enclave.identity import Identity
me = Identity.create(Path({str(tmp_path / "home")!r}), "owner", "ada")
server = grpc.server(futures.ThreadPoolExecutor(1))
pair = [(me.tls_key_pem, me.tls_certificate_pem)]
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair, me.tls_certificate_pem, True))
server.start()
found = accepts_tls12("127.0.0.1", port)
server.stop(0)
raise SystemExit(0 if found else 4)
"""
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(Path.cwd())}, timeout=60, check=False)
    assert done.returncode == 0

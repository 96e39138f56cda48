"""Links over TLS 1.3 sockets without gRPC, for nodes that both offer it: half the CPU time, a fraction of the delay.

Admission is the same as over gRPC: the first message of the dialler names the session and both ranks, the
certificate must be that rank's, and each rank is heard once. A refusal is an ABORT message with the reason.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping

from enclave.channel import frames, tls
from enclave.channel.addresses import Offer
from enclave.channel.admission import Arrivals, why_no_hello
from enclave.channel.link import Link
from enclave.channel.socket_stream import LENGTH, SocketStream
from enclave.errors import BadInput, Desynchronised, EnclaveError, PeerLost, Refused, SessionError, Untrusted
from enclave.identity import Card, Identity, TrustStore

__all__ = ["SocketListener", "dial_socket"]

_HELLO_S = 5.0
_RETRY_S = 0.05
_GREETERS = 256
_GREETING_BYTES = frames.HEAD_BYTES + frames.MAX_TEXT_BYTES
_BUFFER_BYTES = 1 << 22
_REFUSALS = 8


class SocketListener:
    """The port of a `grpc_link.Listener` that takes sockets; whoever comes is put with its arrivals."""

    def __init__(
        self,
        identity: Identity,
        trust: TrustStore,
        session_id: str,
        host: str,
        ports: range,
        peers: Mapping[int, Card],
        arrivals: Arrivals,
    ) -> None:
        self._identity, self._trust, self._session_id = identity, trust, session_id
        self._ranks = {card.key_id: (rank, card.name) for rank, card in peers.items()}
        self._arrivals = arrivals
        self._context()  # an unreadable key is found here, and not by the first peer
        self._socket = _bind(host, ports)
        self.port: int = self._socket.getsockname()[1]
        self._greeters = threading.BoundedSemaphore(_GREETERS)
        self._over = False
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Frees the port. Links that were made go on."""
        self._over = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends a waiting accept
        self._socket.close()
        self._thread.join(1.0)

    def _context(self) -> ssl.SSLContext:
        # Anew for every connection: neither a new card nor a rotation needs a restart.
        identity = self._identity.current()
        return tls.socket_context(identity, self._trust.root_pem() or identity.tls_certificate_pem, listens=True)

    def _accept(self) -> None:
        while not self._over:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if not self._over:
                    time.sleep(_RETRY_S)  # out of descriptors, or the caller is gone already
                continue
            if not self._greeters.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._greet, args=(connection,), name="greet", daemon=True).start()
            except RuntimeError:  # the system gives no more threads: a crowd must not end the listening
                connection.close()
                self._greeters.release()

    def _greet(self, raw: socket.socket) -> None:
        connection: socket.socket | ssl.SSLSocket = raw
        try:
            _prepare(raw, _HELLO_S)
            connection = secure = self._context().wrap_socket(raw, server_side=True)
            self._admit(secure)
        except (OSError, EOFError, EnclaveError, ValueError):
            connection.close()
        finally:
            self._greeters.release()

    def _admit(self, connection: ssl.SSLSocket) -> None:
        """Welcomes the caller, or says why not."""
        refusal, rank, name = self._who(connection)
        if not refusal and not self._arrivals.claim(rank):
            refusal = f"{name} is connected already"
        if refusal:
            return _refuse(connection, refusal)
        try:
            refusal = self._hello(connection, rank)
        except (OSError, EOFError):
            self._arrivals.waive(rank)
            raise
        if refusal:
            self._arrivals.waive(rank)
            return _refuse(connection, refusal)
        link = Link(rank, name)
        link.outbox.control(frames.control(frames.WELCOME, value=rank, text=self._session_id))
        SocketStream(link, connection)
        self._arrivals.add(link)
        if self._arrivals.over or self._over:
            link.sever()  # nobody will end it: the session has failed meanwhile

    def _who(self, connection: ssl.SSLSocket) -> tuple[str, int, str]:
        try:
            card = self._trust.by_certificate(_shown(connection))
        except EnclaveError as error:
            return error.public, -1, ""
        if card.key_id not in self._ranks:
            return f"{card.name} is not a party of this session", -1, ""
        return "", *self._ranks[card.key_id]

    def _hello(self, connection: ssl.SSLSocket, rank: int) -> str:
        try:
            message = read_message(connection, time.monotonic() + _HELLO_S, _GREETING_BYTES)
        except TimeoutError:
            return f"no greeting within {_HELLO_S:g} s"
        except ValueError as error:
            return f"expected a greeting, found {error}"
        return why_no_hello(message, self._session_id, rank, self._arrivals.own_rank)


def dial_socket(
    link_to: tuple[int, str],
    locate: Callable[[], Offer],
    card: Card,
    identity: Identity,
    hello: bytes,
    session_id: str,
    until: float,
    over: Callable[[], bool],
) -> Link:
    """Connects to the socket listener of one peer, again and again while nobody listens there yet.

    Args:
        locate: where its worker listens; asked again after a failure.
        until: when to give up, of the monotonic clock.

    Raises:
        PeerLost, Untrusted, Refused, SessionError, Desynchronised.
    """
    rank, name = link_to
    roots = b"".join(pem.rstrip() + b"\n" for pem in card.certificates)
    why, refusals = "no connection", 0
    while not over():
        offer = locate()
        left = max(0.1, until - time.monotonic())
        try:
            raw = socket.create_connection((offer.host.strip("[]"), offer.socket_port or 0), left)
        except OSError as error:
            why = error.strerror or type(error).__name__
        else:
            try:
                return _enter(raw, Link(rank, name), card, identity.current(), roots, hello, session_id, left)
            except ssl.SSLCertVerificationError:
                raise _not_on_card(name) from None
            except (ssl.SSLError, ConnectionError, EOFError) as error:
                why = _short(error)
                if isinstance(error, ssl.SSLError) and "EOF" not in why and "ALERT" not in why:
                    raise SessionError(f"what listens at the address of {name} is no worker of a session") from None
                # In TLS 1.3 a server looks at the client's certificate last, and a refusal looks like this from here.
                refusals += 1
                if refusals >= _REFUSALS or "ALERT_UNKNOWN_CA" in why or "CERTIFICATE" in why:
                    raise Untrusted(
                        f"{name} ends the connection when it sees this party's certificate",
                        hint=f"give your card to the operator of {name}",
                    ) from None
            except TimeoutError:
                why = "no answer"
            finally:
                if raw.fileno() >= 0:
                    raw.close()
        if time.monotonic() + _RETRY_S > until:
            break
        time.sleep(_RETRY_S)
    raise PeerLost(name, 0, why=f"not reached before the session began: {why}")


def _enter(
    raw: socket.socket,
    link: Link,
    card: Card,
    identity: Identity,
    roots: bytes,
    hello: bytes,
    session_id: str,
    left_s: float,
) -> Link:
    """Handshake and greeting over a new connection."""
    _prepare(raw, left_s)
    context = tls.socket_context(identity, roots, listens=False)
    connection = context.wrap_socket(raw, server_hostname=tls.SERVER_NAME)
    try:
        if _shown(connection) not in {_canonical(pem) for pem in card.certificates}:
            raise _not_on_card(link.name)
        connection.sendall(LENGTH.pack(len(hello)) + hello)
        try:
            message = read_message(connection, time.monotonic() + left_s, _GREETING_BYTES)
            head = frames.parse(message)
        except ValueError as error:
            raise Desynchronised("a welcome to the session", str(error), who=link.name) from None
        if head.kind == frames.ABORT:
            raise Refused(f"{link.name} refused the connection: {head.text}", code="refused.session")
        if message != frames.control(frames.WELCOME, value=head.value, text=session_id):
            raise Desynchronised("a welcome to the session", "something else", who=link.name)
    except BaseException:
        connection.close()
        raise
    SocketStream(link, connection)
    return link


def read_message(connection: ssl.SSLSocket, until: float, limit_bytes: int) -> bytes:
    """One message of a connection that still blocks. Raises TimeoutError, EOFError, and ValueError beyond the limit."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            more = connection.recv(count - len(data))
            if not more:
                raise EOFError("the connection was closed")
            data += more
        return data

    (length,) = LENGTH.unpack(exactly(LENGTH.size))
    if length > limit_bytes:
        raise ValueError(f"{length} bytes")
    return exactly(length)


def _bind(host: str, ports: range) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        with contextlib.suppress(OSError):
            return socket.create_server((host, port), family=family, backlog=128)
    raise BadInput(
        f"no free port on {host} among {len(ports)}, {ports.start} to {ports.stop - 1}",
        hint="other sessions hold them, or the host is not this machine's: see worker_ports in node.toml",
        code="input.listen",
    )


def _prepare(connection: socket.socket, timeout_s: float) -> None:
    connection.settimeout(timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # So that a whole frame leaves at once while its receiver computes.
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER_BYTES)


def _shown(connection: ssl.SSLSocket) -> bytes:
    shown = connection.getpeercert(binary_form=True)
    if shown is None:
        raise Untrusted("the peer shows no certificate")
    return ssl.DER_cert_to_PEM_cert(shown).encode()


def _canonical(pem: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).encode()


def _not_on_card(name: str) -> Untrusted:
    return Untrusted(
        f"whoever listens at the address of {name} shows no certificate that is on its card",
        hint=f"if {name} has renewed its certificate, trust its new card",
    )


def _refuse(connection: ssl.SSLSocket, why: str) -> None:
    """Says why, gives the other side a moment to read it, and closes."""
    message = frames.control(frames.ABORT, text=why)
    with contextlib.suppress(OSError):
        connection.settimeout(1.0)
        connection.sendall(LENGTH.pack(len(message)) + message)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        while connection.recv(1 << 14):
            pass
    connection.close()


def _short(error: Exception) -> str:
    return re.sub(r"\s*\(_ssl.c:\d+\)", "", str(error))[:160]

"""Links over gRPC: one bidirectional stream of raw bytes per pair of ranks, under mutual TLS.

The buyer dials everybody, so that it needs no open port; otherwise the higher rank dials the lower. The first
message of the dialler names the session and both ranks, and the certificate must be that rank's: nobody is heard
who is not a party of this very session, and each rank once only.

Discussion: keepalive pings find a stopped or unreachable process in 6 s, a dead one ends its stream at once. What
they cannot find is a process that lives and hangs; for that, `receive` has a deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any

from enclave.channel import frames, tls
from enclave.channel.link import Link
from enclave.channel.linked import LinkedChannel, abort_links
from enclave.errors import BadInput, Desynchronised, EnclaveError, PeerLost, Refused, SessionError, Untrusted
from enclave.identity import Card, Identity, TrustStore

if TYPE_CHECKING:
    import grpc

__all__ = ["Listener", "open_channel"]

_METHOD = "/enclave.wire.Session/Link"
_HELLO_S = 5.0
_HANG_UP_S = 1.5
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", frames.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVER_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *_OPTIONS,
    ("grpc.so_reuseport", 0),  # or two listeners would share a port and take each other's peers
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_allowed_incoming_connections", 256),
)


class _Arrivals:
    """The links made so far, and the first error that ended the attempt."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.links: dict[int, Link] = {}
        self.error: EnclaveError | None = None
        self.over = False

    def add(self, link: Link) -> None:
        with self.changed:
            self.links[link.rank] = link
            self.changed.notify_all()

    def fail(self, error: EnclaveError) -> None:
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()


class _Threads(futures.Executor):
    """A thread for every call. Daemons: a link that was never closed must not keep a failed process alive."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        future: futures.Future[Any] = futures.Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001  handed to whoever asks for the result
                future.set_exception(error)

        threading.Thread(target=run, name="link", daemon=True).start()
        return future


class Listener:
    """This party's own port for one session: takes one connection from each rank that dials it.

    Args:
        session_id: what the peers must name.
        host: address to bind.
        ports: the first free one is taken; port 0 is any.
        peers: rank → card of the other parties of the session. No one else is served.

    Raises:
        BadInput: no port is free, or the host is not this machine's.
    """

    def __init__(
        self,
        identity: Identity,
        trust: TrustStore,
        session_id: str,
        host: str,
        ports: range,
        peers: Mapping[int, Card],
    ) -> None:
        tls.require_tls13()
        import grpc

        self._trust, self._session_id = trust, session_id
        self._ranks = {card.key_id: (rank, card.name) for rank, card in peers.items()}
        self._taken: set[int] = set()
        self.arrivals = _Arrivals()
        self.own_rank: int | None = None
        self._server = grpc.server(
            _Threads(),  # type: ignore[arg-type]  # any executor will do
            options=_SERVER_OPTIONS,
            maximum_concurrent_rpcs=4 * len(peers) + 4,
        )
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        service, _, method = _METHOD[1:].partition("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self._host = f"[{host}]" if ":" in host else host
        self.port = self._bind(ports, tls.server_credentials(identity, trust))
        self._server.start()
        if tls.accepts_tls12("127.0.0.1" if host in ("0.0.0.0", "::") else host, self.port):  # noqa: S104
            self.close()
            raise EnclaveError("this process would serve TLS 1.2", hint="import nothing of grpc before require_tls13()")

    @property
    def address(self) -> str:
        """host:port as bound."""
        return f"{self._host}:{self.port}"

    def close(self) -> None:
        """Frees the port; connections still open are broken after a moment."""
        self._server.stop(_HANG_UP_S).wait(_HANG_UP_S + 1)

    def _bind(self, ports: range, credentials: grpc.ServerCredentials) -> int:
        for port in ports:
            try:
                bound = self._server.add_secure_port(f"{self._host}:{port}", credentials)
            except RuntimeError:
                continue
            if bound:
                return int(bound)
        raise BadInput(
            f"no free port on {self._host} among {len(ports)}, {ports.start} to {ports.stop - 1}",
            hint="other sessions hold them, or the host is not this machine's: see worker_ports in node.toml",
            code="input.listen",
        )

    def _serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        import grpc

        try:
            card = tls.peer_card(context, self._trust)
            if card.key_id not in self._ranks:
                raise Untrusted(f"{card.name} is not a party of this session")
            rank, name = self._ranks[card.key_id]
        except EnclaveError as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, error.public)
        with self.arrivals.changed:
            fresh = rank not in self._taken
            self._taken.add(rank)
        if not fresh:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{name} is connected already")
        stream = _Accepted(Link(rank, name), requests, context, self._is_hello)
        if not stream.greeted.wait(_HELLO_S) or stream.refusal:
            with self.arrivals.changed:
                self._taken.discard(rank)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, stream.refusal or f"no greeting within {_HELLO_S:g} s")
        stream.link.outbox.control(frames.control(frames.WELCOME, value=rank, text=self._session_id))
        self.arrivals.add(stream.link)
        yield from stream.outgoing()

    def _is_hello(self, message: bytes, rank: int) -> str:
        """Why `message` does not open a link of this session; empty when it does."""
        try:
            head = frames.parse(message)
        except ValueError as error:
            return f"expected a greeting, found {error}"
        if head.kind != frames.HELLO:
            return f"expected a greeting, found {head}"
        if head.text != self._session_id:
            return f"another session: expected {self._session_id[:40]!r}, found {head.text[:40]!r}"
        if head.value != rank:
            return f"another rank: this certificate is rank {rank}'s, the greeting says {head.value}"
        if self.own_rank is not None and head.step != self.own_rank:
            return f"another party: this is rank {self.own_rank}, the greeting is for {head.step}"
        return ""


class _Accepted:
    """The listener's end of one stream. A thread reads; the server's own thread writes."""

    def __init__(
        self,
        link: Link,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        check: Callable[[bytes, int], str],
    ) -> None:
        self.link, self.refusal = link, ""
        self.greeted = threading.Event()
        self._over = threading.Event()
        self._requests, self._context, self._check = requests, context, check
        link.hang_up = self._hang_up
        link.sever = context.cancel
        context.add_callback(self._over.set)
        threading.Thread(target=self._read, name=f"from {link.name}", daemon=True).start()

    def outgoing(self) -> Iterator[bytes]:
        """What the link sends, until it is finished."""
        return iter(self.link.outbox.next, None)

    def _hang_up(self) -> None:
        self._over.wait(_HANG_UP_S)

    def _read(self) -> None:
        import grpc

        why = "it ended its connection"
        try:
            for message in self._requests:
                if self.greeted.is_set():
                    self.link.deliver(message)
                    continue
                self.refusal = self._check(message, self.link.rank)
                self.greeted.set()
                if self.refusal:
                    return
        except grpc.RpcError:
            why = "its connection broke"
        if not self.greeted.is_set():
            self.refusal = why
            self.greeted.set()
        self.link.closed(why)


class _Dialled:
    """The dialler's end of one stream. A thread reads; gRPC's own thread writes."""

    def __init__(self, link: Link, channel: grpc.Channel, hello: bytes, session_id: str) -> None:
        self.link = link
        self.greeted = threading.Event()
        self.welcome = False
        self.error: grpc.RpcError | None = None
        self._session_id, self._channel = session_id, channel
        self._over = threading.Event()
        link.outbox.control(hello)
        self._call: Any = channel.stream_stream(_METHOD, None, None)(iter(link.outbox.next, None))
        link.hang_up = self.hang_up
        link.sever = self._call.cancel
        threading.Thread(target=self._read, name=f"from {link.name}", daemon=True).start()

    def hang_up(self) -> None:
        """Waits a moment for the other end to follow, then ends the connection."""
        self._over.wait(_HANG_UP_S)
        self.drop()

    def drop(self) -> None:
        """Ends the connection."""
        self.link.outbox.kill()
        self._call.cancel()
        self._channel.close()

    def _read(self) -> None:
        import grpc

        why = "it ended its connection"
        try:
            for message in self._call:
                if self.welcome:
                    self.link.deliver(message)
                elif message == frames.control(
                    frames.WELCOME, value=frames.parse(message).value, text=self._session_id
                ):
                    self.welcome = True
                    self.greeted.set()
                else:
                    break
        except grpc.RpcError as error:
            self.error = error
            why = f"its connection broke: {_details(error)}"
        except ValueError:
            pass
        self.greeted.set()
        self._over.set()
        if self.welcome:
            self.link.closed(why)


def _details(error: grpc.RpcError) -> str:
    text = str(error.details() or error.code().name).lower()
    return text.splitlines()[0][:120] if text else "no reason given"


def _dial(
    link_to: tuple[int, str],
    connect: Callable[[], grpc.Channel],
    hello: bytes,
    session_id: str,
    until: float,
    over: Callable[[], bool],
) -> Link:
    """Connects to one peer, again and again while nobody listens there yet."""
    import grpc

    rank, name = link_to
    why = "no connection"
    while not over():
        stream = _Dialled(Link(rank, name), connect(), hello, session_id)
        stream.greeted.wait(max(0.0, until - time.monotonic()))
        if stream.welcome:
            return stream.link
        stream.drop()
        if stream.error is None:
            if stream.greeted.is_set():
                raise Desynchronised("a welcome to the session", "something else", who=name)
        else:
            code, why = stream.error.code(), _details(stream.error)
            if code in (
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.FAILED_PRECONDITION,
                grpc.StatusCode.ALREADY_EXISTS,
            ):
                raise Refused(f"{name} refused the connection: {why}", code="refused.session")
            if code is grpc.StatusCode.UNIMPLEMENTED:
                raise SessionError(f"what listens at the address of {name} is no worker of a session")
            if "certificate_verify_failed" in why or "certificate verify failed" in why:
                raise Untrusted(
                    f"whoever listens at the address of {name} shows no certificate that is on its card",
                    hint=f"if {name} has renewed its certificate, trust its new card",
                )
        if time.monotonic() + 0.1 > until:
            break
        time.sleep(0.1)
    raise PeerLost(name, 0, why=f"not reached before the session began: {why}")


def open_channel(
    session_id: str,
    rank: int,
    names: Sequence[str],
    cards: Mapping[int, Card],
    identity: Identity,
    trust: TrustStore,
    listener: Listener | None,
    locate: Callable[[int], str],
    buyer_rank: int,
    deadline_s: float,
    *,
    connect_s: float = 30.0,
) -> LinkedChannel:
    """Connects `rank` to all other ranks of a session. The channel owns the listener and closes it.

    Args:
        names: of all ranks, the dealer's included.
        cards: rank → card, of the other ranks at least.
        listener: where peers connect that dial this rank; None at the buyer.
        locate: rank → host:port of its worker; may block; called from other threads, again after a failure.
        deadline_s: the longest wait for a frame.
        connect_s: the longest wait until everybody is connected.

    Raises:
        PeerLost: a peer was not reached, or did not come.
        Untrusted, Refused: a peer is not who it should be, or refuses this party.
    """
    tls.require_tls13()
    peers = [peer for peer in range(len(names)) if peer != rank]
    dialled = [peer for peer in peers if rank == buyer_rank or (peer != buyer_rank and rank > peer)]
    if listener is None and len(dialled) < len(peers):
        raise ValueError(f"rank {rank} is dialled by others and needs a listener")
    arrivals = listener.arrivals if listener is not None else _Arrivals()
    if listener is not None:
        listener.own_rank = rank
    until = time.monotonic() + connect_s

    def reach(peer: int) -> None:
        def connect() -> grpc.Channel:
            return tls.dial(
                identity, cards[peer], locate(peer), max_message_bytes=frames.MAX_MESSAGE_BYTES, options=_OPTIONS
            )

        hello = frames.control(frames.HELLO, step=peer, value=rank, text=session_id)
        try:
            link = _dial((peer, names[peer]), connect, hello, session_id, until, lambda: arrivals.over)
        except EnclaveError as error:
            arrivals.fail(error)
            return
        arrivals.add(link)
        if arrivals.over:
            link.sever()

    for peer in dialled:
        threading.Thread(target=reach, args=(peer,), name=f"to {names[peer]}", daemon=True).start()
    error = _gather(arrivals, peers, names, until)
    if error is not None:
        abort_links(arrivals.links.values(), rank, names, 0, error)
        if listener is not None:
            listener.close()
        raise error
    return LinkedChannel(rank, names, arrivals.links, deadline_s, listener.close if listener is not None else None)


def _gather(arrivals: _Arrivals, peers: Sequence[int], names: Sequence[str], until: float) -> EnclaveError | None:
    """Waits until all peers are linked; the error when that will not happen."""
    with arrivals.changed:
        while arrivals.error is None and len(arrivals.links) < len(peers) and time.monotonic() < until + 1:
            for link in arrivals.links.values():
                if link.failure is not None:
                    arrivals.error = link.failure.as_error(names, 0)
            arrivals.changed.wait(0.05)
        missing = [peer for peer in peers if peer not in arrivals.links]
        arrivals.over = bool(missing) or arrivals.error is not None
        if arrivals.error is None and missing:
            arrivals.error = PeerLost(names[missing[0]], 0, why="it did not connect before the session began")
        return arrivals.error

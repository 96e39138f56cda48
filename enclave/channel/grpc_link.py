"""Links over gRPC: one bidirectional stream of raw bytes per pair of ranks, under mutual TLS.

The buyer dials everybody, so that it needs no open port; otherwise the higher rank dials the lower. The first
message of the dialler names the session and both ranks, and the certificate must be that rank's: nobody is heard
who is not a party of this very session, and each rank once only.

Discussion: keepalive pings find a stopped or unreachable process in 7 s, a dead one ends its stream at once. What
they cannot find is a process that lives and hangs; for that, `receive` has a deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any

from enclave.channel import frames, tls
from enclave.channel.addresses import Offer
from enclave.channel.admission import Arrivals, why_no_hello
from enclave.channel.link import Link
from enclave.channel.linked import LinkedChannel, abort_links
from enclave.channel.socket_link import SocketListener, dial_socket
from enclave.channel.streams import HANG_UP_S, METHOD, OPTIONS, SERVER_OPTIONS, AcceptedStream, dial
from enclave.errors import BadInput, EnclaveError, PeerLost, Untrusted
from enclave.identity import Card, Identity, TrustStore

if TYPE_CHECKING:
    import grpc

__all__ = ["Listener", "open_channel"]

_HELLO_S = 5.0


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
        sockets: whether links may also be TLS sockets without gRPC, on a second port; used where the other end
            offers them too.

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
        *,
        sockets: bool = False,
    ) -> None:
        tls.require_tls13()
        import grpc

        self._trust, self._session_id = trust, session_id
        self._ranks = {card.key_id: (rank, card.name) for rank, card in peers.items()}
        self.arrivals = Arrivals()
        self._sockets: SocketListener | None = None
        self._server = grpc.server(
            _Threads(),  # type: ignore[arg-type]  # any executor will do
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=4 * len(peers) + 4,
        )
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        service, _, method = METHOD[1:].partition("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self._host = f"[{host}]" if ":" in host else host
        self.port = self._bind(ports, lambda: tls.server_credentials(identity, trust))
        self._server.start()
        if tls.accepts_tls12("127.0.0.1" if host in ("0.0.0.0", "::") else host, self.port):  # noqa: S104
            self.close()
            raise EnclaveError("this process would serve TLS 1.2", hint="import nothing of grpc before require_tls13()")
        if sockets:
            try:
                self._sockets = SocketListener(identity, trust, session_id, host, ports, peers, self.arrivals)
            except EnclaveError:
                self.close()
                raise

    @property
    def offers_sockets(self) -> bool:
        """Whether this party takes links without gRPC."""
        return self._sockets is not None

    @property
    def address(self) -> str:
        """Where it listens, as `Offer` writes it, with the host as bound."""
        return str(Offer(self._host, self.port, self._sockets.port if self._sockets is not None else None))

    def close(self) -> None:
        """Frees the ports; gRPC's connections that are still open are broken after a moment."""
        if self._sockets is not None:
            self._sockets.close()
        self._server.stop(HANG_UP_S).wait(HANG_UP_S + 1)

    def _bind(self, ports: range, credentials: Callable[[], grpc.ServerCredentials]) -> int:
        for port in ports:
            try:
                # Anew for every attempt: a failed one uses them up.
                bound = self._server.add_secure_port(f"{self._host}:{port}", credentials())
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
        if not self.arrivals.claim(rank):
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{name} is connected already")
        stream = AcceptedStream(Link(rank, name), requests, context, self._is_hello)
        if not stream.greeted.wait(_HELLO_S) or stream.refusal:
            self.arrivals.waive(rank)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, stream.refusal or f"no greeting within {_HELLO_S:g} s")
        self.arrivals.add(stream.link)
        yield frames.control(frames.WELCOME, value=rank, text=self._session_id)
        yield from stream.outgoing()

    def _is_hello(self, message: bytes, rank: int) -> str:
        return why_no_hello(message, self._session_id, rank, self.arrivals.own_rank)


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
        locate: rank → where its worker listens, as `Listener.address` says it; may block; called from other
            threads, again after a failure.
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
    arrivals = listener.arrivals if listener is not None else Arrivals()
    arrivals.own_rank = rank
    # A party without a listener has offered nothing that could bind it, and takes what it is offered.
    sockets = listener is None or listener.offers_sockets
    until = time.monotonic() + connect_s

    def reach(peer: int) -> None:
        known: list[Offer] = []

        def where() -> Offer:
            return known.pop() if known else Offer.parse(locate(peer), names[peer])

        def connect() -> grpc.Channel:
            limit = frames.MAX_MESSAGE_BYTES
            return tls.dial(identity, cards[peer], where().grpc_address, max_message_bytes=limit, options=OPTIONS)

        hello = frames.control(frames.HELLO, step=peer, value=rank, text=session_id)
        to, over = (peer, names[peer]), lambda: arrivals.over
        try:
            known.append(Offer.parse(locate(peer), names[peer]))
            if sockets and known[0].socket_port is not None:
                link = dial_socket(to, where, cards[peer], identity, hello, session_id, until, over)
            else:
                link = dial(to, connect, hello, session_id, until, over)
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


def _gather(arrivals: Arrivals, peers: Sequence[int], names: Sequence[str], until: float) -> EnclaveError | None:
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

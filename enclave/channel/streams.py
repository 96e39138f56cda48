"""Both ends of one gRPC stream, each feeding a `Link`: one thread reads, one of gRPC's own writes.

Messages are raw bytes, without a serializer. Python's gRPC hands them over without a copy of its own, and a stream
that stays open costs half the round trip of a call.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from enclave.channel import frames
from enclave.channel.link import Link
from enclave.errors import Desynchronised, PeerLost, Refused, SessionError, Untrusted

if TYPE_CHECKING:
    import grpc

__all__ = ["HANG_UP_S", "METHOD", "OPTIONS", "SERVER_OPTIONS", "AcceptedStream", "DialledStream", "dial"]

METHOD = "/enclave.wire.Session/Link"
HANG_UP_S = 1.5
_RETRY_S = 0.1
_REFUSALS = 8
OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", frames.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A keepalive ping waits for the answer to a bandwidth probe, whose own patience would be a minute.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
SERVER_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *OPTIONS,
    ("grpc.so_reuseport", 0),  # or two listeners would share a port and take each other's peers
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_allowed_incoming_connections", 256),
)


class AcceptedStream:
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
        self._over.wait(HANG_UP_S)

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


class DialledStream:
    """The dialler's end of one stream. A thread reads; gRPC's own thread writes."""

    def __init__(self, link: Link, channel: grpc.Channel, hello: bytes, session_id: str) -> None:
        self.link = link
        self.greeted = threading.Event()
        self.welcome = False
        self.error: grpc.RpcError | None = None
        self._session_id, self._channel = session_id, channel
        self._over = threading.Event()
        link.outbox.control(hello)
        self._call: Any = channel.stream_stream(METHOD, None, None)(iter(link.outbox.next, None))
        link.hang_up = self.hang_up
        link.sever = self._call.cancel
        threading.Thread(target=self._read, name=f"from {link.name}", daemon=True).start()

    def hang_up(self) -> None:
        """Waits a moment for the other end to follow, then ends the connection."""
        self._over.wait(HANG_UP_S)
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
    """What gRPC says of it, in one short line without the address."""
    text = str(error.details() or error.code().name).rpartition("last error: ")[2]
    if "ping timeout" in text or "watchdog" in text:
        return "no answer to a ping for 5 s"
    return " ".join(re.sub(r"(UNKNOWN|UNAVAILABLE): |ipv[46]:\S+ ", "", text).split())[:160]


def dial(
    link_to: tuple[int, str],
    connect: Callable[[], grpc.Channel],
    hello: bytes,
    session_id: str,
    until: float,
    over: Callable[[], bool],
) -> Link:
    """Connects to one peer, again and again while nobody listens there yet."""
    rank, name = link_to
    why, closed = "no connection", 0
    while not over():
        stream = DialledStream(Link(rank, name), connect(), hello, session_id)
        stream.greeted.wait(max(0.0, until - time.monotonic()))
        if stream.welcome:
            return stream.link
        stream.drop()
        if stream.error is not None:
            why = _details(stream.error)
            closed = closed + 1 if "Socket closed" in why else 0
            _give_up(name, stream.error.code(), why, closed)
        elif stream.greeted.is_set():
            raise Desynchronised("a welcome to the session", "something else", who=name)
        if time.monotonic() + _RETRY_S > until:
            break
        time.sleep(_RETRY_S)
    raise PeerLost(name, 0, why=f"not reached before the session began: {why}")


def _give_up(name: str, code: grpc.StatusCode, why: str, closed: int) -> None:
    """Raises what no further attempt would mend; `closed` counts connections that ended right after they began."""
    import grpc

    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS):
        raise Refused(f"{name} refused the connection: {why}", code="refused.session")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        raise SessionError(f"what listens at the address of {name} is no worker of a session")
    if "CERTIFICATE_VERIFY_FAILED" in why or "certificate verify failed" in why:
        raise Untrusted(
            f"whoever listens at the address of {name} shows no certificate that is on its card",
            hint=f"if {name} has renewed its certificate, trust its new card",
        )
    # In TLS 1.3 a server looks at the client's certificate last, and a refusal looks like this from here.
    if closed >= _REFUSALS:
        raise Untrusted(
            f"{name} ends the connection when it sees this party's certificate",
            hint=f"give your card to the operator of {name}",
        )

"""A handler behind mutual TLS: who calls, how much, how often, and what an exception looks like outside.

Imports gRPC: only `serve` imports this module, after it has made TLS 1.3 the least.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from enclave.channel import tls
from enclave.clock import Clock
from enclave.errors import BadInput, EnclaveError
from enclave.identity import Card, Identity, TrustStore
from enclave.messages import Signed
from enclave.wire import node_pb2, node_pb2_grpc
from parties.server.handler import Handler, Limits
from parties.server.statuses import status_of

__all__ = ["NodeServer", "listen_with"]

SERVICE = "enclave.wire.Node"


class _Buckets:
    """One token bucket per caller."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._levels: dict[bytes, tuple[float, float]] = {}

    def take(self, key_id: bytes) -> bool:
        """Takes a token; False when the caller has none left."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            level, then_s = self._levels.get(key_id, (float(self._limits.burst), now_s))
            level = min(self._limits.burst, level + (now_s - then_s) * self._limits.calls_per_s)
            allowed = level >= 1
            self._levels[key_id] = (level - 1 if allowed else level, now_s)
            return allowed


class _Guard:
    """Stands before every call: names the caller, counts its calls, turns exceptions into statuses."""

    def __init__(self, trust: TrustStore, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self._trust = trust
        self._buckets = _Buckets(limits, clock)
        self._lock = threading.Lock()
        self._waiting: dict[bytes, int] = {}
        self._log = logging.getLogger(__name__)

    @contextmanager
    def call(self, context: grpc.ServicerContext) -> Iterator[Card]:
        """Yields the caller's card; an exception inside ends the call with the status that belongs to it."""
        try:
            caller = tls.peer_card(context, self._trust)
            if not self._buckets.take(caller.key_id):
                raise EnclaveError(
                    f"too many calls from {caller.name}", hint="wait a second and try again", code="limit.rate"
                )
            yield caller
        except EnclaveError as error:
            if error.code == "internal" or error.code.startswith("store"):
                self._log.error("call failed: %s", error.public)
            self._abort(context, error)
        except Exception as error:  # noqa: BLE001  the edge: nothing of it may reach the wire, all of it the log
            if not context.is_active():
                return
            self._log.exception("unexpected %s", type(error).__name__)
            self._abort(context, EnclaveError("internal error", hint="the operator finds the details in the log"))

    @contextmanager
    def waiting(self, context: grpc.ServicerContext, caller: Card) -> Iterator[float]:
        """Yields how long the call may hold its thread: 0 when too many calls do already, its caller's or all."""
        if not self._begin_wait(caller.key_id):
            yield 0.0
            return
        try:
            left_s = context.time_remaining()
            yield min(self.limits.wait_s, max(0.0, left_s - 1.0) if left_s is not None else self.limits.wait_s)
        finally:
            self._end_wait(caller.key_id)

    def _begin_wait(self, key_id: bytes) -> bool:
        with self._lock:
            own = self._waiting.get(key_id, 0)
            if sum(self._waiting.values()) >= self.limits.waiting or own >= max(1, self.limits.waiting // 4):
                return False
            self._waiting[key_id] = own + 1
            return True

    def _end_wait(self, key_id: bytes) -> None:
        with self._lock:
            left = self._waiting.pop(key_id) - 1
            if left:
                self._waiting[key_id] = left

    @staticmethod
    def _abort(context: grpc.ServicerContext, error: EnclaveError) -> NoReturn:
        code, text, trailer = status_of(error)
        if error.code == "limit.rate":
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
        context.set_trailing_metadata(trailer)
        context.abort(code, text)


class _Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """The guard before the services that are not ours: health, and reflection where it is served."""

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(f"/{SERVICE}/"):
            return handler
        guard = self._guard

        def wrap(inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            def guarded(request: Any, context: grpc.ServicerContext) -> Any:
                with guard.call(context):
                    return inner(request, context)

            return guarded

        if handler.unary_unary:
            return handler._replace(unary_unary=wrap(handler.unary_unary))
        if handler.unary_stream:
            # Health.Watch: it would hold a thread for as long as its caller likes. UNIMPLEMENTED; Check can be asked.
            return None
        return handler._replace(stream_stream=wrap(handler.stream_stream)) if handler.stream_stream else handler


class _Servicer(node_pb2_grpc.NodeServicer):
    """Wire messages to values and back; every decision is the handler's."""

    def __init__(self, handler: Handler, guard: _Guard, stopping: threading.Event) -> None:
        self._handler = handler
        self._guard = guard
        self._stopping = stopping

    def Describe(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._guard.call(context) as caller:
            return self._handler.describe(caller).to_message()

    def Propose(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._guard.call(context) as caller:
            return self._handler.propose(caller, Signed.from_message(request)).to_message()

    def Approve(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._guard.call(context) as caller:
            return self._handler.approve(caller, Signed.from_message(request)).to_message()

    def Start(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._guard.call(context) as caller, self._guard.waiting(context, caller) as wait_s:
            return self._handler.start(caller, request.job_id, wait_s, request.deal).to_message()

    def Locate(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._guard.call(context) as caller, self._guard.waiting(context, caller) as wait_s:
            return node_pb2.Endpoint(address=self._handler.locate(caller, request.job_id, wait_s))

    def Status(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with self._guard.call(context) as caller, self._guard.waiting(context, caller) as wait_s:

            def stop() -> bool:
                return wait_s == 0 or self._stopping.is_set() or not context.is_active()

            for status in self._handler.status(caller, request.job_id, stop):
                yield status.to_message()

    def Fetch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        size = self._guard.limits.chunk_bytes
        with self._guard.call(context) as caller, self._guard.waiting(context, caller) as wait_s:
            for name, data in self._handler.fetch(caller, request.job_id, wait_s):
                for start in range(0, max(1, len(data)), size):
                    yield node_pb2.Chunk(name=name, data=data[start : start + size])

    def Countersign(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._guard.call(context) as caller, self._guard.waiting(context, caller) as wait_s:
            return self._handler.countersign(caller, Signed.from_message(request), wait_s).to_message()

    def Deposit(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._guard.call(context) as caller:
            return node_pb2.JobRef(job_id=self._handler.deposit(caller, request.data))

    def Withdraw(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._guard.call(context) as caller:
            return self._handler.withdraw(caller, Signed.from_message(request)).to_message()


class NodeServer:
    """A listening control port. `address` is the one that was bound, with the port that was really taken."""

    def __init__(
        self, server: grpc.Server, address: str, pool: health.HealthServicer, stopping: threading.Event
    ) -> None:
        self.address = address
        self._server = server
        self._health = pool
        self._stopping = stopping

    def stop(self, grace_s: float = 2.0) -> None:
        """Says NOT_SERVING, ends status streams, lets calls in progress finish for `grace_s`, then closes."""
        self.refuse_traffic()
        self._stopping.set()
        self._server.stop(grace_s).wait(grace_s + 5.0)

    def refuse_traffic(self) -> None:
        """Tells health checks that this node takes no more work."""
        self._health.enter_graceful_shutdown()


def listen_with(
    handler: Handler,
    identity: Identity,
    trust: TrustStore,
    listen: str,
    limits: Limits,
    clock: Clock,
    *,
    reflect: bool,
) -> NodeServer:
    """Starts a server; see `parties.server.serve`."""
    guard = _Guard(trust, limits, clock)
    stopping = threading.Event()
    server = grpc.server(
        futures.ThreadPoolExecutor(limits.threads, thread_name_prefix="control"),
        interceptors=[_Interceptor(guard)],
        options=(
            ("grpc.so_reuseport", 0),  # a second node on the port must fail, not share it
            ("grpc.max_receive_message_length", limits.message_bytes),
            ("grpc.max_send_message_length", 64 << 20),
            ("grpc.max_concurrent_streams", 256),
            ("grpc.server_handshake_timeout_ms", 5_000),
            ("grpc.max_allowed_incoming_connections", 1024),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ),
        maximum_concurrent_rpcs=4 * limits.threads,
    )
    node_pb2_grpc.add_NodeServicer_to_server(_Servicer(handler, guard, stopping), server)  # type: ignore[no-untyped-call]
    pool = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(pool, server)
    if reflect:
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = _bind(server, listen, tls.server_credentials(identity, trust))
    for name in ("", SERVICE):
        pool.set(name, health_pb2.HealthCheckResponse.SERVING)
    server.start()
    host = listen.rpartition(":")[0]
    node = NodeServer(server, f"{host}:{port}", pool, stopping)
    if tls.accepts_tls12("127.0.0.1" if host in ("0.0.0.0", "[::]") else host.strip("[]"), port):  # noqa: S104
        node.stop(0.0)
        raise EnclaveError("this process would serve TLS 1.2", hint="import nothing of grpc before require_tls13()")
    return node


def _bind(server: grpc.Server, listen: str, credentials: grpc.ServerCredentials) -> int:
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise BadInput(
            f"cannot listen on {listen}: the port is in use or the address is not this machine's",
            hint="stop the other program, or give this node another address with `enclave move HOST:PORT`",
            code="input.listen",
        )
    return port

"""The single map between errors and gRPC statuses.

The status code is for tools that know only gRPC. What our own client reads is the `Failure` in the trailing
metadata, from which it rebuilds the exception. Imports gRPC: import it after TLS has been restricted.
"""

from __future__ import annotations

from typing import Any

import grpc

from enclave.errors import (
    BadInput,
    BadSpec,
    EnclaveError,
    NotReady,
    PlanMismatch,
    Refused,
    SessionError,
    StoreError,
    Untrusted,
)
from enclave.executor.orders import Failure, printable

__all__ = ["RPC_ERROR", "error_of_call", "status_of"]

RPC_ERROR = grpc.RpcError

# The first class that fits decides, so that a subclass stands before its base.
_STATUSES: tuple[tuple[type[EnclaveError], grpc.StatusCode], ...] = (
    (Untrusted, grpc.StatusCode.UNAUTHENTICATED),
    (PlanMismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (Refused, grpc.StatusCode.PERMISSION_DENIED),
    (BadInput, grpc.StatusCode.INVALID_ARGUMENT),
    (SessionError, grpc.StatusCode.ABORTED),
    (StoreError, grpc.StatusCode.INTERNAL),
    (NotReady, grpc.StatusCode.FAILED_PRECONDITION),
)
CODE_KEY = "enclave-code"
FAILURE_KEY = "enclave-failure-bin"
_MAX_FAILURE_BYTES = 6000  # HTTP/2 peers refuse more than 8 KiB of metadata


def status_of(error: EnclaveError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Status code, text and trailing metadata for `error`."""
    code = next((c for kind, c in _STATUSES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    failure = Failure.of(error)
    packed = failure.encode()
    if len(packed) > _MAX_FAILURE_BYTES:
        packed = Failure(failure.code, failure.text[:1000], hint=failure.hint[:500], rules=failure.rules[:16]).encode()
    trailer: tuple[tuple[str, str | bytes], ...] = ((CODE_KEY, error.code), (FAILURE_KEY, packed[:_MAX_FAILURE_BYTES]))
    return code, failure.text[:1000], trailer


def error_of_call(error: grpc.RpcError, *, who: str, address: str) -> EnclaveError:
    """The exception that the node called `who` raised, or what kept the call from reaching it."""
    trailer: Any = error.trailing_metadata() or ()
    for key, value in trailer:
        if key == FAILURE_KEY and isinstance(value, bytes):
            try:
                return Failure.decode(value, limit_bytes=_MAX_FAILURE_BYTES).error()
            except BadSpec:
                break
    code, details = error.code(), printable(str(error.details() or "")[:300])
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unreachable(who, address, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return SessionError(f"no answer from {who} at {address} in time", code="session.timeout")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return SessionError(f"{who} refused the call: {details}", code="session.too_much")
    return EnclaveError(f"call to {who} failed: {code.name.lower()}: {details}", code="internal.call")


def _unreachable(who: str, address: str, details: str) -> EnclaveError:
    if "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify failed" in details.lower():
        return Untrusted(
            f"whoever answers at {address} does not show a certificate that is on the card of {who}",
            hint=f"if {who} has rotated its certificate, trust its new card; otherwise check the address",
        )
    return SessionError(
        f"cannot reach {who} at {address}: {details or 'no connection'}",
        hint=f"is the node of {who} running, and does it trust the card of this party?",
        code="session.unreachable",
    )

"""What travels between a node and its worker, as validated values and as frames on a pipe.

A frame is four bytes of length (big endian) and that many bytes of protobuf. Errors cross as `Failure`, here and
in the trailing metadata of a gRPC call, and come out as the exception that went in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import BinaryIO, TypeVar

from enclave import errors
from enclave.errors import BadSpec, EnclaveError
from enclave.messages import Reason, Signed, Transcript, Value
from enclave.wire import node_pb2, session_pb2

__all__ = [
    "Endpoint",
    "Failure",
    "Locate",
    "Located",
    "NodeOrder",
    "Order",
    "Outcome",
    "PermitOrder",
    "ProgressEvent",
    "Ready",
    "SealedEvent",
    "WorkerEvent",
    "printable",
    "read_frame",
    "write_frame",
]

MAX_FRAME_BYTES = 64 << 20
_SEE_LOG = "the operator finds the details in the log"
V = TypeVar("V", bound=Value)

# Only classes listed here come out of a Failure; any other kind becomes a plain EnclaveError that keeps its code.
_PLAIN: Mapping[str, type[EnclaveError]] = MappingProxyType(
    {
        c.code: c
        for c in (
            errors.Refused,
            errors.Untrusted,
            errors.BadInput,
            errors.BadModel,
            errors.BadData,
            errors.BadSpec,
            errors.SessionError,
            errors.StoreError,
        )
    }
)


def printable(text: str) -> str:
    """Another party's text as it may stand in a terminal or a log: one line, and nothing that steers either.

    White space becomes a blank; control characters, direction marks and the like become a question mark.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


@dataclass(frozen=True, slots=True)
class Failure(Value):
    """An error on its way to another process."""

    wire = node_pb2.Failure
    code: str
    text: str
    hint: str = ""
    rules: tuple[str, ...] = ()
    who: str = ""
    step: int = 0
    expected: str = ""
    found: str = ""
    kind: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that says what `error` says; an error of no known kind is "internal" and says nothing."""
        if not isinstance(error, EnclaveError):
            return cls("internal", "internal error", hint=_SEE_LOG)
        if isinstance(error, errors.StoreError):
            # Its text has paths of this machine.
            return cls(error.code, "this party's storage failed", hint=_SEE_LOG, kind=errors.StoreError.code)
        plain = cls(error.code, error.public, hint=error.hint, kind=type(error).code)
        match error:
            case errors.PolicyRefused():
                return replace(plain, rules=error.rules)
            case errors.PlanMismatch():
                return replace(plain, expected=error.expected.hex(), found=error.found.hex(), who=error.who)
            case errors.PeerLost():
                return replace(plain, who=error.who, step=error.step)
            case errors.Desynchronised():
                return replace(plain, expected=error.expected, found=error.found, who=error.who)
            case errors.RangeExceeded():
                return replace(plain, who=error.layer, expected=repr(error.limit), found=repr(error.bound))
            case errors.NotReady():
                return replace(plain, expected=error.job_id)
        return plain

    @classmethod
    def for_peers(cls, error: BaseException) -> Failure:
        """`of`, for the other parties of a session: without a number that this party computed from what it alone has,
        such as a bound from its weights or a value that it decrypted, which would make it an oracle for them."""
        if isinstance(error, errors.RangeExceeded):
            return cls(error.code, f"values at {error.layer} left their range", kind=errors.BadInput.code)
        return cls.of(error)

    def reason(self) -> Reason:
        """The failure as a reason in a job's record."""
        return Reason(printable(self.rules[0] if self.rules else self.code), printable(self.text[:2000]))

    def error(self) -> EnclaveError:
        """The exception that `of` was given, with the text it had there, as far as that is `printable`."""
        text, hint = printable(self.text), printable(self.hint)
        result = self._build()
        result.code, result.public, result.hint, result.args = printable(self.code), text, hint, (text,)
        return result

    def _build(self) -> EnclaveError:
        kind = self.kind or self.code
        try:
            match kind:
                case errors.PolicyRefused.code:
                    return errors.PolicyRefused(self.text, rules=self.rules)
                case errors.PlanMismatch.code:
                    return errors.PlanMismatch(bytes.fromhex(self.expected), bytes.fromhex(self.found), who=self.who)
                case errors.PeerLost.code:
                    return errors.PeerLost(self.who, self.step)
                case errors.Desynchronised.code:
                    return errors.Desynchronised(self.expected, self.found, who=self.who)
                case errors.RangeExceeded.code:
                    return errors.RangeExceeded(self.who, float(self.found), float(self.expected))
                case errors.NotReady.code:
                    return errors.NotReady(self.text, job_id=self.expected)
        except ValueError:
            return EnclaveError(self.text)
        return _PLAIN.get(kind, EnclaveError)(self.text)


@dataclass(frozen=True, slots=True)
class Order(Value):
    """One job for one worker."""

    wire = session_pb2.Order
    spec: Signed
    home: str
    dataset: str
    listen_host: str
    port_low: int
    port_high: int
    connect_s: float
    step_deadline_s: float
    dealer_bytes_limit: int = 0
    profile: str = "production"
    deal: bool = False
    stock_bytes_limit: int = 0
    transport: str = "grpc"
    encodings_limit_bytes: int = 0
    memory_limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PermitOrder(Value):
    """The yes of this party's gate: these outputs may be opened to the buyer once all have agreed."""

    wire = session_pb2.Permit
    job_id: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Located(Value):
    """The answer to `Locate`: an address, or why there is none."""

    wire = session_pb2.Located
    rank: int
    address: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class NodeOrder(Value):
    """What a node tells its worker: exactly one field is set."""

    wire = session_pb2.NodeOrder
    start: Order | None = None
    permit: PermitOrder | None = None
    refuse: Failure | None = None
    cancel: Failure | None = None
    located: Located | None = None
    release: Ready | None = None


@dataclass(frozen=True, slots=True)
class Ready(Value):
    """An event without content."""

    wire = session_pb2.Ready


@dataclass(frozen=True, slots=True)
class Endpoint(Value):
    """Where a worker listens."""

    wire = node_pb2.Endpoint
    address: str


@dataclass(frozen=True, slots=True)
class Locate(Value):
    """Asks the node where the worker of a rank listens."""

    wire = session_pb2.Locate
    rank: int


@dataclass(frozen=True, slots=True)
class ProgressEvent(Value):
    """Plan steps done and in all."""

    wire = session_pb2.Progress
    steps_done: int
    steps_total: int
    stage: str


@dataclass(frozen=True, slots=True)
class SealedEvent(Value):
    """The result exists as shares only; the worker waits for a permit or a refusal."""

    wire = session_pb2.Sealed
    job_id: str
    outputs: tuple[str, ...]
    rows: int
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class Outcome(Value):
    """How a session ended; `failure` is None when it ran to its end."""

    wire = session_pb2.Outcome
    failure: Failure | None = None
    transcript: Transcript | None = None
    report: bytes = b""
    plan_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class WorkerEvent(Value):
    """What a worker tells its node: exactly one field is set."""

    wire = session_pb2.WorkerEvent
    listening: Endpoint | None = None
    progress: ProgressEvent | None = None
    sealed: SealedEvent | None = None
    outcome: Outcome | None = None
    locate: Locate | None = None
    ready: Ready | None = None
    connected: Ready | None = None
    agreed: Ready | None = None


def write_frame(stream: BinaryIO, value: Value) -> None:
    """Writes one value; raises OSError when the other end is gone."""
    data = value.encode()
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def read_frame(stream: BinaryIO, kind: type[V]) -> V | None:
    """Reads one value; None at the end of the stream, BadSpec for a frame that is cut short, too long or malformed."""
    head = stream.read(4)
    if not head:
        return None
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > MAX_FRAME_BYTES:
        raise BadSpec(f"malformed frame on the worker's pipe: {size} bytes announced")
    data = stream.read(size)
    if len(data) < size:
        raise BadSpec(f"frame on the worker's pipe cut short: expected {size} bytes, found {len(data)}")
    return kind.decode(data, limit_bytes=MAX_FRAME_BYTES)

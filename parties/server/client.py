"""Calls to another party's node: values in, values out, and the node's own exceptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from enclave.channel import tls
from enclave.errors import BadSpec, EnclaveError, NotReady, SessionError
from enclave.executor.orders import printable
from enclave.identity import Card, Identity
from enclave.messages import Decision, DescribeReply, JobRef, JobSpec, JobStatus, Reason, Signed
from enclave.wire import node_pb2

if TYPE_CHECKING:
    import grpc

__all__ = ["NodeClient", "start_everywhere"]

_MAX_REPLY_BYTES = 64 << 20
# A peer whose machine is gone leaves no error behind: the stream of a silent peer ends after 25 seconds.
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)
_FINAL = frozenset({"RELEASED", "REFUSED", "FAILED", "WITHDRAWN", "EXPIRED"})


class NodeClient:
    """A connection to the node of `card`, which must show a certificate that stands on it.

    Every method raises what the node raised (`enclave.errors`), SessionError when the node cannot be reached or
    does not answer in time, and Untrusted when somebody else answers. Methods may be called from several threads.
    """

    def __init__(self, identity: Identity, card: Card, *, address: str = "", deadline_s: float = 15.0) -> None:
        self.card = card
        self.address = address or card.address
        if not self.address:
            raise SessionError(f"{card.name} has no address on its card", code="session.unreachable")
        self._identity = identity
        self._deadline_s = deadline_s
        self._channel: grpc.Channel = tls.dial(
            identity, card, self.address, max_message_bytes=_MAX_REPLY_BYTES, options=_KEEPALIVE
        )
        # Not before `dial` has restricted TLS.
        from enclave.wire import node_pb2_grpc
        from parties.server import statuses

        self._stub: Any = node_pb2_grpc.NodeStub(self._channel)  # type: ignore[no-untyped-call]
        self._rpc_error: type[Exception] = statuses.RPC_ERROR

    def __enter__(self) -> NodeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def describe(self) -> DescribeReply:
        """Who the node is, and what it offers this party."""
        reply = DescribeReply.from_message(self._call(self._stub.Describe, node_pb2.DescribeRequest()))
        shown = tuple(replace(info, description=printable(info.description)) for info in reply.datasets)
        return replace(reply, datasets=shown, claims=tuple(map(printable, reply.claims)))

    def propose(self, signed: Signed) -> Decision:
        """Hands in a signed JobSpec. A refusal is a decision with reasons, not an exception."""
        return _decision(self._call(self._stub.Propose, signed.to_message()))

    def approve(self, signed: Signed) -> Decision:
        """Hands in the operator's signed Approval, at the operator's own node."""
        return _decision(self._call(self._stub.Approve, signed.to_message()))

    def start(self, job_id: str, *, deal: bool = False) -> JobStatus:
        """Asks for a worker; the answer comes after some seconds at most, RUNNING or still waiting for one.

        Args:
            deal: for the dealing phase of a job that is dealt ahead; `dealing` is then what runs or waits.
        """
        return _status(self._call(self._stub.Start, node_pb2.StartRequest(job_id=job_id, deal=deal)))

    def locate(self, job_id: str, *, within_s: float = 30.0, stop: Callable[[], bool] = lambda: False) -> str:
        """host:port of the node's worker for this job, once it listens; NotReady when it does not `within_s`."""
        end_s = time.monotonic() + within_s
        while True:
            try:
                return str(self._call(self._stub.Locate, node_pb2.JobRef(job_id=job_id)).address)
            except NotReady:
                if time.monotonic() > end_s or stop():
                    raise
                time.sleep(0.1)

    def status(self, job_id: str) -> Iterator[JobStatus]:
        """The job's status now and at every change until it is final. Closing the iterator ends the call."""
        while True:
            final = False
            call = self._stub.Status(node_pb2.JobRef(job_id=job_id))
            try:
                for message in call:
                    status = _status(message)
                    final = status.state in _FINAL
                    yield status
            except self._rpc_error as error:
                raise self._error(error) from error
            finally:
                call.cancel()
            if final:
                return
            time.sleep(0.3)

    def status_now(self, job_id: str) -> JobStatus:
        """The job's status at this moment; SessionError when there is no answer within the deadline."""
        call = self._stub.Status(node_pb2.JobRef(job_id=job_id), timeout=self._deadline_s)
        try:
            for message in call:
                return _status(message)
        except self._rpc_error as error:
            raise self._error(error) from error
        finally:
            call.cancel()
        raise SessionError(f"no status of job {job_id} from {self.card.name}")

    def fetch(self, job_id: str) -> dict[str, bytes]:
        """Documents of a finished job by name: "statement" (Signed), "report" (JSON), "receipt". NotReady before."""
        documents: dict[str, bytearray] = {}
        size = 0
        try:
            for chunk in self._stub.Fetch(node_pb2.JobRef(job_id=job_id), timeout=4 * self._deadline_s):
                documents.setdefault(chunk.name, bytearray()).extend(chunk.data)
                size += len(chunk.data)
                if size > _MAX_REPLY_BYTES or len(documents) > 16:
                    raise BadSpec(f"documents of {self.card.name} too long: at most {_MAX_REPLY_BYTES} bytes")
        except self._rpc_error as error:
            raise self._error(error) from error
        return {name: bytes(data) for name, data in documents.items()}

    def countersign(self, signed: Signed) -> Signed:
        """Hands in a ReceiptBody signed by this party; gets the node's countersignature."""
        return Signed.from_message(self._call(self._stub.Countersign, signed.to_message()))

    def deposit(self, receipt: bytes) -> None:
        """Hands over the complete receipt, which the node checks and keeps."""
        self._call(self._stub.Deposit, node_pb2.Chunk(name="receipt", data=receipt))

    def withdraw(self, job_id: str) -> JobStatus:
        """Withdraws the job at this node, signed by this party."""
        signed = self._identity.sign("withdraw", JobRef(job_id).encode())
        return _status(self._call(self._stub.Withdraw, signed.to_message()))

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._deadline_s)
        except self._rpc_error as error:
            raise self._error(error) from error

    def _error(self, error: Any) -> EnclaveError:
        from parties.server.statuses import error_of_call

        return error_of_call(error, who=self.card.name, address=self.address)


def _decision(message: Any) -> Decision:
    found = Decision.from_message(message)
    return replace(found, state=printable(found.state), reasons=_shown(found.reasons))


def _status(message: Any) -> JobStatus:
    found = JobStatus.from_message(message)
    stage, state, dealing = printable(found.stage), printable(found.state), printable(found.dealing)
    return replace(found, state=state, stage=stage, dealing=dealing, reasons=_shown(found.reasons))


def _shown(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    return tuple(Reason(printable(reason.rule), printable(reason.text)) for reason in reasons)


def start_everywhere(
    clients: Sequence[NodeClient],
    spec: JobSpec,
    *,
    deal: bool = False,
    waiting: Callable[[NodeClient, JobStatus], None] | None = None,
    now_unix_s: Callable[[], float] = time.time,
) -> None:
    """Gets a worker for the job at every node, one node after the other, in the order of their key ids.

    Every buyer takes workers in this one order, and holds those it has while it waits for the next: hence no two
    jobs can wait for each other. While it waits, the nodes that have a worker ready are told so again; a node
    whose buyer is silent gives the worker to another job.

    Args:
        deal: for the dealing phase of a job that is dealt ahead, not for its session.
        waiting: told, about twice a minute or more often, which node the job waits for.

    Raises:
        SessionError: the job ended at a node before the last had a worker; Refused and others as raised by a node.
    """
    held: list[NodeClient] = []
    for client in sorted(clients, key=lambda c: c.card.key_id):
        while True:
            status = _started(client, spec.job_id, deal)
            if status.state not in ("PROPOSED", "ADMITTED") or (deal and status.dealing == "running"):
                break
            if status.state == "PROPOSED":
                raise NotReady(f"{client.card.name} has not approved the job yet", job_id=spec.job_id)
            if now_unix_s() > spec.expires_unix_s:
                raise SessionError(f"the job expired while it waited for a worker at {client.card.name}")
            if waiting is not None:
                waiting(client, status)
            for other in held:
                _started(other, spec.job_id, deal)
        held.append(client)


def _started(client: NodeClient, job_id: str, deal: bool) -> JobStatus:
    status = client.start(job_id, deal=deal)
    if status.state in _FINAL:
        text = "; ".join(r.text for r in status.reasons)
        raise SessionError(
            f"the job is {status.state.lower()} at {client.card.name}" + (f": {text}" if text else ""),
            code="session.ended",
        )
    return status

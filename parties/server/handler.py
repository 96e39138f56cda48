"""What a server needs of a node, and what one caller may ask of it. No gRPC here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from enclave.identity import Card
from enclave.messages import Decision, DescribeReply, JobStatus, Signed

__all__ = ["Handler", "Limits"]


class Handler(Protocol):
    """The control calls of a party node. `caller` is the party whose certificate the connection shows."""

    def describe(self, caller: Card) -> DescribeReply: ...

    def propose(self, caller: Card, signed: Signed) -> Decision: ...

    def approve(self, caller: Card, signed: Signed) -> Decision: ...

    def start(self, caller: Card, job_id: str, wait_s: float, deal: bool = False) -> JobStatus:
        """Asks for a worker, and waits up to `wait_s` for it; with `deal` for the dealing phase."""
        ...

    def locate(self, caller: Card, job_id: str, wait_s: float) -> str:
        """Where this party's worker listens; raises NotReady when it does not within `wait_s`."""
        ...

    def status(self, caller: Card, job_id: str, stop: Callable[[], bool]) -> Iterator[JobStatus]:
        """The status now and at every change, until the job is final or `stop()`."""
        ...

    def fetch(self, caller: Card, job_id: str, wait_s: float) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the documents of a finished job, whose session may take up to `wait_s` to end."""
        ...

    def countersign(self, caller: Card, signed: Signed, wait_s: float) -> Signed:
        """This party's signature; waits up to `wait_s` for the session to end, NotReady after."""
        ...

    def deposit(self, caller: Card, receipt: bytes) -> str:
        """Keeps a complete receipt; the job's id."""
        ...

    def withdraw(self, caller: Card, signed: Signed) -> JobStatus: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one node puts up with.

    Attributes:
        waiting: how many calls may hold a thread while they wait; one caller has at most a quarter of them.
    """

    message_bytes: int = 4 << 20
    chunk_bytes: int = 1 << 20
    calls_per_s: float = 200.0
    burst: int = 1000
    threads: int = 160
    waiting: int = 128
    wait_s: float = 10.0

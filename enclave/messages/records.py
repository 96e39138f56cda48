"""What is kept of a job: transcripts, statements, receipts and ledger entries."""

from __future__ import annotations

from dataclasses import dataclass

from enclave.messages.codec import Value
from enclave.messages.control import Reason
from enclave.messages.job import Signed
from enclave.wire import receipt_pb2

__all__ = ["LedgerEntry", "LinkTraffic", "Receipt", "ReceiptBody", "Statement", "Transcript"]


@dataclass(frozen=True, slots=True)
class LinkTraffic(Value):
    """Bytes between this party and one peer."""

    wire = receipt_pb2.LinkTraffic
    peer: str
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Transcript(Value):
    """What one party's session did, in figures that do not depend on the data."""

    wire = receipt_pb2.Transcript
    rounds: int
    links: tuple[LinkTraffic, ...]
    digest: bytes
    equals_plan: bool
    openings: int = 0
    opened_words: int = 0
    uniformity_p: float = 1.0
    reused_masks: int = 0
    peak_rss_bytes: int = 0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Statement(Value):
    """What one party says of a finished job. `report_digest` is the SHA-256 of its leakage report as it was written."""

    wire = receipt_pb2.Statement
    job_id: str
    party: str
    spec_digest: bytes
    plan_digest: bytes
    state: str
    claims: tuple[str, ...]
    views: tuple[str, ...]
    ledger_head: bytes
    ledger_index: int
    finished_unix_s: int
    transcript: Transcript | None = None
    reasons: tuple[Reason, ...] = ()
    report_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class ReceiptBody(Value):
    """What all parties countersign."""

    wire = receipt_pb2.ReceiptBody
    spec: bytes
    spec_signature: bytes
    statements: tuple[Signed, ...]
    outputs_digest: bytes
    released: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Receipt(Value):
    """A body with every party's countersignature, and the cards needed to check it offline."""

    wire = receipt_pb2.Receipt
    body: bytes
    countersignatures: tuple[Signed, ...]
    cards: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LedgerEntry(Value):
    """One event of one job at one party, linked to the entry before it."""

    wire = receipt_pb2.LedgerEntry
    index: int
    previous: bytes
    unix_s: int
    event: str
    job_id: str
    spec_digest: bytes
    reasons: tuple[Reason, ...] = ()
    detail: bytes = b""

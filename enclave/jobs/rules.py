"""The values a job's life is described with: allowed transitions, bounds, and how a specification is named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from enclave.messages import Reason
from enclave.store import JobRecord

MAX_REASONS = 50
MAX_REASON_CHARS = 2000
TRANSITIONS = frozenset(
    {
        ("PROPOSED", "ADMITTED"),
        ("PROPOSED", "REFUSED"),
        ("PROPOSED", "WITHDRAWN"),
        ("PROPOSED", "EXPIRED"),
        ("ADMITTED", "RUNNING"),
        ("ADMITTED", "REFUSED"),
        ("ADMITTED", "FAILED"),
        ("ADMITTED", "WITHDRAWN"),
        ("ADMITTED", "EXPIRED"),
        ("RUNNING", "SEALED"),
        ("RUNNING", "FAILED"),
        ("RUNNING", "WITHDRAWN"),
        ("SEALED", "RELEASED"),
        ("SEALED", "REFUSED"),
        ("SEALED", "FAILED"),
        ("SEALED", "WITHDRAWN"),
    }
)


def spec_digest(body: bytes) -> bytes:
    """SHA-256 of a specification's bytes as received: how approvals, ledgers and receipts name it."""
    return hashlib.sha256(body).digest()


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Bounds of one node.

    Attributes:
        max_open_per_buyer: jobs of one buyer that are not final.
        max_lifetime_s: how far in the future a job may expire.
        max_run_s: a session that still runs after this time is failed.
    """

    max_open_per_buyer: int = 64
    max_lifetime_s: int = 30 * 86_400
    max_run_s: int = 86_400


@dataclass(frozen=True, slots=True)
class History:
    """What the store knows and a policy may ask for.

    Attributes:
        granted: other jobs of the same buyer on the same data set that ran, whatever their end, or still may.
        approved: this node's operator has signed for exactly this specification.
    """

    granted: int
    approved: bool


Judge = Callable[[JobRecord, History], tuple[str, tuple[Reason, ...]]]


def bounded(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    """The reasons, cut to what a ledger entry should hold: some of their text may come from a peer."""
    kept = [Reason(reason.rule[:100], _cut(reason.text)) for reason in reasons[:MAX_REASONS]]
    if len(reasons) > MAX_REASONS:
        kept.append(Reason("job.reasons", f"and {len(reasons) - MAX_REASONS} more"))
    return tuple(kept)


def _cut(text: str) -> str:
    # Half a surrogate pair can stand in a file name, and not in a protobuf string.
    return text[:MAX_REASON_CHARS].encode("utf-8", "replace").decode("utf-8")

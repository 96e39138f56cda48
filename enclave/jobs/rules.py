"""The values a job's life is described with: allowed transitions, bounds, and how a specification is named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from enclave.messages import Reason
from enclave.store import JobRecord

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
        granted: other jobs of the same buyer on the same data set that were released or still may be.
        approved: this node's operator has signed for exactly this specification.
    """

    granted: int
    approved: bool


Judge = Callable[[JobRecord, History], tuple[str, tuple[Reason, ...]]]

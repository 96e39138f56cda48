"""The values that go in and out of the store. Signed bytes are kept and handed back exactly as received."""

from __future__ import annotations

from dataclasses import dataclass

from enclave.messages import JobSpec, Reason, Signed

STATES = (
    "PROPOSED",
    "ADMITTED",
    "RUNNING",
    "SEALED",
    "RELEASED",
    "REFUSED",
    "FAILED",
    "WITHDRAWN",
    "EXPIRED",
)
FINAL = frozenset({"RELEASED", "REFUSED", "FAILED", "WITHDRAWN", "EXPIRED"})
DOCUMENTS = ("statement", "receipt", "report")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job as this node knows it.

    Attributes:
        signed: the buyer's signed specification, byte for byte as received; `signed.key_id` is the buyer's key.
        spec_digest: SHA-256 of `signed.body`, 32 bytes.
        dataset: name of this node's own data set in the job; empty at a node that brings no data.
        start_unix_s: when the buyer asked for the start; 0 while it has not.
        worker: who holds the lease; empty before the session and after it.
        lease_unix_s: the lease ends here unless it is renewed; 0 without a lease.
        deadline_unix_s: the session is failed here even if it is still alive; 0 without a session.
    """

    job_id: str
    signed: Signed
    spec_digest: bytes
    dataset: str
    state: str
    reasons: tuple[Reason, ...]
    received_unix_s: int
    updated_unix_s: int
    expires_unix_s: int
    start_unix_s: int = 0
    worker: str = ""
    lease_unix_s: int = 0
    deadline_unix_s: int = 0

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen to the job any more."""
        return self.state in FINAL

    def spec(self) -> JobSpec:
        """The specification, parsed from the stored bytes."""
        return JobSpec.decode(self.signed.body)


@dataclass(frozen=True, slots=True)
class StoredApproval:
    """An operator's consent, as signed."""

    job_id: str
    signed: Signed
    unix_s: int

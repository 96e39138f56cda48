"""A party's own record of what it did: signed entries, each holding the digest of the whole entry before it.

Pure functions; the store keeps the entries. Whoever has the entries and the party's card can find an entry that was
edited, removed, moved, put in by somebody else, or cut off at the front. Entries cut off at the end leave a shorter
chain that is in order by itself, so a verifier that knows a later head (from a receipt, whose statements carry one)
passes it on.

Discussion: the digest covers the signature too, and is taken over the three byte strings of `Signed` with their
lengths in front, never over a serialised message: protobuf bytes are not canonical. A Merkle tree (RFC 6962) over
the same 32-byte digests as its leaves can be added without touching an entry; this chain does not claim its format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from enclave.errors import BadSpec, StoreError, Untrusted
from enclave.identity import Card, Identity, verify
from enclave.messages import LedgerEntry, Reason, Signed, sha256

__all__ = ["GENESIS", "MAX_DETAIL_BYTES", "head", "link", "verify_chain"]

GENESIS = bytes(32)
MAX_DETAIL_BYTES = 65_536

_EVENT = re.compile(r"[a-z][a-z_]{0,31}")
_JOB_ID = re.compile(r"[0-9a-f]{32}")


def head(signed: Signed) -> bytes:
    """The 32-byte digest of one signed entry: what the next entry links to, and what a statement quotes."""
    return sha256(signed.body, signed.key_id, signed.signature)


def link(
    identity: Identity,
    previous: Signed | None,
    *,
    unix_s: int,
    event: str,
    job_id: str,
    spec_digest: bytes,
    reasons: Sequence[Reason] = (),
    detail: bytes = b"",
) -> Signed:
    """The next entry after `previous` (None: the first), signed.

    Args:
        unix_s: when, by this party's clock. A clock may be set back, so times need not rise.
        event: a lower-case word, the state that the job has reached.
        spec_digest: SHA-256 of the job specification, 32 bytes.
        detail: at most MAX_DETAIL_BYTES that belong to the event.

    Raises:
        StoreError: `previous` is not an entry that this party signed.
        ValueError: an argument is malformed.
    """
    if not _EVENT.fullmatch(event) or not _JOB_ID.fullmatch(job_id) or len(spec_digest) != 32:
        raise ValueError(f"malformed ledger entry: event {event[:40]!r}, job {job_id[:40]!r}")
    if len(detail) > MAX_DETAIL_BYTES:
        raise ValueError(f"ledger detail too long: at most {MAX_DETAIL_BYTES} bytes, got {len(detail)}")
    index = 0
    if previous is not None:
        try:
            index = LedgerEntry.decode(verify(previous, "ledger", identity.card)).index + 1
        except (Untrusted, BadSpec) as error:
            raise StoreError("the last ledger entry is damaged, nothing can be added", hint=_RESTORE) from error
    entry = LedgerEntry(
        index=index,
        previous=GENESIS if previous is None else head(previous),
        unix_s=unix_s,
        event=event,
        job_id=job_id,
        spec_digest=spec_digest,
        reasons=tuple(reasons),
        detail=detail,
    )
    return identity.sign("ledger", entry.encode())


def verify_chain(
    entries: Sequence[Signed], card: Card, *, includes: tuple[int, bytes] | None = None
) -> tuple[LedgerEntry, ...]:
    """The entries of a whole ledger from its first one on, after checking every signature and every link.

    Args:
        includes: (index, head) of an entry that must be there, as a receipt's statement names it. Without it,
            entries missing at the end go unnoticed.

    Raises:
        Untrusted: an entry was edited or was not signed by the party of `card`.
        StoreError: entries are missing, doubled or in another order.
    """
    found: list[LedgerEntry] = []
    previous = GENESIS
    for index, signed in enumerate(entries):
        try:
            entry = LedgerEntry.decode(verify(signed, "ledger", card))
        except Untrusted as error:
            raise Untrusted(f"ledger entry {index} of {card.name}: {error.public}") from error
        except BadSpec as error:
            raise StoreError(f"ledger entry {index} of {card.name}: {error.public}") from error
        if entry.index != index:
            raise StoreError(f"ledger of {card.name}: expected entry {index}, found entry {entry.index}")
        if entry.previous != previous:
            raise StoreError(f"ledger of {card.name}: entry {index} does not follow the entry before it")
        found.append(entry)
        previous = head(signed)
    if includes is not None:
        index, digest = includes
        if not 0 <= index < len(entries):
            raise StoreError(f"ledger of {card.name}: expected entry {index}, found {len(entries)} entries")
        if head(entries[index]) != digest:
            raise StoreError(f"ledger of {card.name}: entry {index} is not the one that was quoted")
    return tuple(found)


_RESTORE = "restore the store from a backup and compare its last head with the receipts that were handed out"

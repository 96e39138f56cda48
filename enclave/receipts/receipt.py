"""Making, countersigning and verifying a receipt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.errors import BadSpec, Refused
from enclave.identity import Card, Identity
from enclave.messages import JobSpec, Receipt, ReceiptBody, Signed, Statement, sha256
from enclave.receipts.checks import (
    EVIDENCE,
    MAX_RECEIPT_BYTES,
    Check,
    Checks,
    check_body,
    check_cards,
    check_evidence,
    digest,
    parse_body,
)

__all__ = ["Verified", "assemble", "complete", "countersign", "outputs_digest", "sign_statement", "verify_receipt"]


@dataclass(frozen=True, slots=True)
class Verified:
    """The outcome of `verify_receipt`: every check, and what the receipt says where it could be read.

    `mode` is "authenticated" when the parties' keys were compared with trusted cards, else "consistent".
    """

    mode: str
    checks: tuple[Check, ...]
    receipt_digest: bytes
    spec: JobSpec | None = None
    body: ReceiptBody | None = None
    statements: tuple[Statement, ...] = ()

    @property
    def ok(self) -> bool:
        """True when no check failed."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed, in order."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def released(self) -> bool:
        """True when every party states that the job's outputs were released."""
        return bool(self.statements) and all(said.state == "RELEASED" for said in self.statements)

    @property
    def state(self) -> str:
        """The final state that all parties state, "ENDED" where they differ, "" when the receipt could not be read."""
        states = {said.state for said in self.statements}
        return states.pop() if len(states) == 1 else "ENDED" if states else ""


def outputs_digest(salt: bytes, outputs: Mapping[str, NDArray[Any]]) -> bytes:
    """Commits to the released outputs. The buyer keeps `salt` (at least 16 secret random bytes).

    Args:
        salt: random bytes; without them a digest of an accuracy could be searched for.
        outputs: name to array; dtype and shape count, the order of the names does not.
    """
    if len(salt) < 16:
        raise BadSpec(f"the salt of an outputs digest must have at least 16 bytes, found {len(salt)}")
    parts = [salt]
    for name in sorted(outputs):
        array = np.asarray(outputs[name])
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        parts += [name.encode(), little.dtype.str.encode(), repr(array.shape).encode(), little.tobytes()]
    return sha256(*parts)


def sign_statement(identity: Identity, statement: Statement) -> Signed:
    """This party's statement under its own signature."""
    if statement.party != identity.name:
        raise BadSpec(f"a party states only for itself: expected {identity.name}, found {statement.party}")
    return identity.sign("statement", statement.encode())


def assemble(
    spec: Signed, statements: Sequence[Signed], *, outputs_digest: bytes = b"", released: Iterable[str] = ()
) -> bytes:
    """The body that everybody countersigns: `statements` in rank order, spec bytes as they were signed."""
    return ReceiptBody(
        spec=spec.body,
        spec_signature=spec.signature,
        statements=tuple(statements),
        outputs_digest=outputs_digest,
        released=tuple(released),
    ).encode()


def countersign(identity: Identity, body: bytes, *, statement: Signed, spec: Signed, cards: Sequence[Card]) -> Signed:
    """This party's signature of SHA-256(body), given only if the body is true as far as it can tell.

    Args:
        body: encoded ReceiptBody from the buyer.
        statement: what this party signed itself; it must be in the body bit for bit.
        spec: the signed specification that this party ran.
        cards: the cards that this party trusts (its own too); all others' signatures are checked with them.

    Raises:
        Refused: with every failed check in the text.
    """
    checks = Checks()
    parsed = parse_body(body, checks)
    if parsed is not None:
        job, content, _ = parsed
        checks.equal("spec.own", digest(spec.body), digest(content.spec), identity.name)
        checks.equal("spec.own", spec.signature, content.spec_signature, identity.name)
        own = [s for p, s in zip(job.parties, content.statements, strict=False) if p.key_id == identity.key_id]
        checks.that("statement.own", own == [statement], "this party's own statement", "another", identity.name)
        by_key = {card.key_id: card for card in (*cards, identity.card)}
        check_body(parsed, by_key, checks)
    failed = [str(check) for check in checks.made if not check.ok]
    if failed:
        raise Refused(
            "receipt not countersigned: " + "; ".join(failed),
            code="refused.receipt",
            hint="ask the buyer for a receipt over the statements that the parties signed",
        )
    return identity.sign("receipt", digest(body))


def complete(body: bytes, countersignatures: Sequence[Signed], cards: Sequence[Card]) -> bytes:
    """The receipt's bytes. Countersignatures and cards in rank order; raises Refused when it would not verify."""
    data = Receipt(
        body=body, countersignatures=tuple(countersignatures), cards=tuple(card.encoded for card in cards)
    ).encode()
    verified = verify_receipt(data)
    # A receipt that documents a leak is still a receipt: only a wrong one is held back.
    wrong = [str(check) for check in verified.failures if check.name not in EVIDENCE]
    if wrong:
        raise Refused("receipt is not complete: " + "; ".join(wrong), code="refused.receipt")
    return data


def verify_receipt(data: bytes, trusted: Sequence[Card] | None = None) -> Verified:
    """Checks a receipt offline, from its bytes alone. Never raises for what the bytes contain.

    Args:
        data: the receipt as it was stored.
        trusted: cards that the reader knows from elsewhere; then every party must be one of them.
    """
    checks = Checks()
    mode = "consistent" if trusted is None else "authenticated"
    seen = digest(data)
    try:
        receipt = Receipt.decode(data, limit_bytes=MAX_RECEIPT_BYTES)
    except BadSpec as error:
        checks.that("receipt.format", False, "a receipt", error.public)
        return Verified(mode, tuple(checks.made), seen)
    # Only the outer envelope is compared with its encoding; what is signed is verified as received.
    checks.that("receipt.format", receipt.encode() == data, "one encoding, no further bytes", "other bytes")
    parsed = parse_body(receipt.body, checks)
    if parsed is None:
        return Verified(mode, tuple(checks.made), seen)
    spec, body, statements = parsed
    cards = check_cards(spec, receipt.cards, trusted, checks)
    check_body(parsed, cards, checks)
    expected = digest(receipt.body)
    checks.equal("countersignatures.count", len(spec.parties), len(receipt.countersignatures))
    for party, signed in zip(spec.parties, receipt.countersignatures, strict=False):
        if checks.equal("countersignature.body", expected, signed.body, party.name):
            checks.signed("countersignature", signed, "receipt", cards.get(party.key_id), party.name)
    check_evidence(spec, statements, checks)
    return Verified(mode, tuple(checks.made), seen, spec, body, statements)

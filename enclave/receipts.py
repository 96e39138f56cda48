"""Receipts: what all parties of a finished job sign, and the offline check of it.

    statement      each party signs what it says of the job             (domain "statement")
    body           the buyer puts the signed spec and all statements together
    countersign    each party signs SHA-256(body) after checking it     (domain "receipt")
    receipt        body, countersignatures in rank order, cards in rank order

Equivocation shows: every party's statement lies in the body that every party signs, and what one party says it
sent must be what the other says it received. A receipt has one encoding only: whatever is not signed (the outer
envelope) must be byte for byte what its fields encode to, so no bytes ride along unsigned.

`verify_receipt` needs the file and nothing else. With the cards of the parties at hand (`trusted`) it says that
*these* parties signed ("authenticated"); without them, that whoever signed agrees with itself ("consistent").

Claims are lines "key=value". A key that two parties state must have one value, except keys that begin with
"node.": those describe a single machine.

Inclusion proofs of the ledger are not part of this version; a statement carries its ledger's head and index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.errors import BadSpec, Refused, Untrusted
from enclave.identity import Card, Identity, verify
from enclave.messages import JobSpec, Receipt, ReceiptBody, Signed, Statement, Transcript, sha256

__all__ = [
    "FINAL_STATES",
    "MAX_RECEIPT_BYTES",
    "SMALLEST_P",
    "Check",
    "Verified",
    "assemble",
    "complete",
    "countersign",
    "digest",
    "outputs_digest",
    "sign_statement",
    "verify_receipt",
]

MAX_RECEIPT_BYTES = 16 << 20
FINAL_STATES = ("RELEASED", "REFUSED", "FAILED", "WITHDRAWN", "EXPIRED")
# A job whose openings are uniform falls below this in less than one of a million runs, all tests together.
SMALLEST_P = 2e-7
_CLOCK_SKEW_S = 300
_OWN_CLAIMS = "node."


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `name` is stable; `subject` is the party (or pair) it concerns, if any."""

    name: str
    ok: bool
    subject: str = ""
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        about = f"{self.name} [{self.subject}]" if self.subject else self.name
        return f"{about}: ok" if self.ok else f"{about}: expected {self.expected}, found {self.found}"


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
    def state(self) -> str:
        """The final state that the parties state, or "" when the receipt could not be read."""
        return self.statements[0].state if self.statements else ""


class _Checks:
    """Collects checks; each method returns whether its check passed."""

    def __init__(self) -> None:
        self.made: list[Check] = []

    def that(self, name: str, ok: bool, expected: str, found: str, subject: str = "") -> bool:
        self.made.append(Check(name, bool(ok), subject, expected, found))
        return bool(ok)

    def equal(self, name: str, expected: object, found: object, subject: str = "") -> bool:
        return self.that(name, expected == found, _show(expected), _show(found), subject)

    def signed(self, name: str, signed: Signed, domain: str, card: Card | None, subject: str) -> bool:
        if card is None:
            return self.that(name, False, "a signature by a known card", "no card of this party", subject)
        if not self.equal(name, card.key_id, signed.key_id, subject):
            return False
        try:
            verify(signed, domain, card)
        except Untrusted as error:
            self.made.pop()
            return self.that(name, False, f"a signature by {card.name}", error.public, subject)
        return True


def _show(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()[:16] + ("…" if len(value) > 8 else "") if value else "nothing"
    return str(value)[:200]


def digest(data: bytes) -> bytes:
    """SHA-256 of one byte string as it stands: the digest of a spec, a body, a receipt (32 bytes)."""
    return hashlib.sha256(data).digest()


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
    checks = _Checks()
    parsed = _parse_body(body, checks)
    if parsed is not None:
        job, content, _ = parsed
        checks.equal("spec.own", digest(spec.body), digest(content.spec), identity.name)
        checks.equal("spec.own", spec.signature, content.spec_signature, identity.name)
        own = [s for p, s in zip(job.parties, content.statements, strict=False) if p.key_id == identity.key_id]
        checks.that("statement.own", own == [statement], "this party's own statement", "another", identity.name)
        by_key = {card.key_id: card for card in (*cards, identity.card)}
        _check_body(parsed, by_key, checks)
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
    wrong = [str(check) for check in verified.failures if check.name not in _EVIDENCE]
    if wrong:
        raise Refused("receipt is not complete: " + "; ".join(wrong), code="refused.receipt")
    return data


def verify_receipt(data: bytes, trusted: Sequence[Card] | None = None) -> Verified:
    """Checks a receipt offline, from its bytes alone. Never raises for what the bytes contain.

    Args:
        data: the receipt as it was stored.
        trusted: cards that the reader knows from elsewhere; then every party must be one of them.
    """
    checks = _Checks()
    mode = "consistent" if trusted is None else "authenticated"
    seen = digest(data)
    try:
        receipt = Receipt.decode(data, limit_bytes=MAX_RECEIPT_BYTES)
    except BadSpec as error:
        checks.that("receipt.format", False, "a receipt", error.public)
        return Verified(mode, tuple(checks.made), seen)
    # Only the outer envelope is compared with its encoding; what is signed is verified as received.
    checks.that("receipt.format", receipt.encode() == data, "one encoding, no further bytes", "other bytes")
    parsed = _parse_body(receipt.body, checks)
    if parsed is None:
        return Verified(mode, tuple(checks.made), seen)
    spec, body, statements = parsed
    cards = _check_cards(spec, receipt.cards, trusted, checks)
    _check_body(parsed, cards, checks)
    expected = digest(receipt.body)
    checks.equal("countersignatures.count", len(spec.parties), len(receipt.countersignatures))
    for party, signed in zip(spec.parties, receipt.countersignatures, strict=False):
        if checks.equal("countersignature.body", expected, signed.body, party.name):
            checks.signed("countersignature", signed, "receipt", cards.get(party.key_id), party.name)
    _check_evidence(spec, statements, checks)
    return Verified(mode, tuple(checks.made), seen, spec, body, statements)


_Parsed = tuple[JobSpec, ReceiptBody, tuple[Statement, ...]]


def _parse_body(data: bytes, checks: _Checks) -> _Parsed | None:
    """Body, spec and statements, or None with the failed check recorded."""
    name = "body.format"
    try:
        body = ReceiptBody.decode(data, limit_bytes=MAX_RECEIPT_BYTES)
        checks.that(name, True, "a receipt body", "a receipt body")
        name = "spec.format"
        spec = JobSpec.decode(body.spec)
        checks.that(name, True, "a job specification", "a job specification")
        if not checks.equal("statements.count", len(spec.parties), len(body.statements)):
            return None
        name = "statement.format"
        statements = tuple(Statement.decode(signed.body) for signed in body.statements)
    except BadSpec as error:
        checks.that(name, False, "a well-formed message", error.public)
        return None
    return spec, body, statements


def _check_cards(
    spec: JobSpec, encoded: Sequence[bytes], trusted: Sequence[Card] | None, checks: _Checks
) -> dict[bytes, Card]:
    """The parties' cards by key id: self-signed, in rank order, with the key, name and role that the spec names."""
    found: dict[bytes, Card] = {}
    checks.equal("cards.count", len(spec.parties), len(encoded))
    known = None if trusted is None else {card.key_id: card for card in trusted}
    for party, data in zip(spec.parties, encoded, strict=False):
        try:
            card = Card.decode(data)
            exact = Signed.decode(data).encode() == data
        except (BadSpec, Untrusted) as error:
            checks.that("card.signature", False, "a self-signed card", error.public, party.name)
            continue
        checks.that("card.signature", exact, "a self-signed card", "a card with further bytes", party.name)
        if checks.equal("card.key", party.key_id, card.key_id, party.name):
            found[card.key_id] = card
        checks.equal("card.role", f"{party.name} ({party.role})", f"{card.name} ({card.role})", party.name)
        checks.that("card.certificates", len(card.certificates) > 0, "at least one", "none", party.name)
        if known is not None:
            pinned = known.get(card.key_id)
            same = pinned is not None and (pinned.name, pinned.role) == (card.name, card.role)
            checks.that("card.trusted", same, "a trusted card", _show(card.key_id), party.name)
    return found


def _check_body(parsed: _Parsed, cards: Mapping[bytes, Card], checks: _Checks) -> None:
    """Signatures and agreement of what is in the body."""
    spec, body, statements = parsed
    buyer = spec.buyer
    signed_spec = Signed(body=body.spec, key_id=buyer.key_id, signature=body.spec_signature)
    checks.signed("spec.signature", signed_spec, "job", cards.get(buyer.key_id), buyer.name)
    checks.equal("plan.digest", 32, len(spec.plan_digest))
    spec_digest, state = digest(body.spec), statements[0].state
    for party, signed, said in zip(spec.parties, body.statements, statements, strict=True):
        checks.signed("statement.signature", signed, "statement", cards.get(party.key_id), party.name)
        checks.equal("statement.party", party.name, said.party, party.name)
        checks.equal("statement.job", spec.job_id, said.job_id, party.name)
        checks.equal("statement.spec", spec_digest, said.spec_digest, party.name)
        checks.equal("statement.plan", spec.plan_digest, said.plan_digest, party.name)
        checks.equal("statement.state", state, said.state, party.name)
        checks.equal("statement.ledger", 32, len(said.ledger_head), party.name)
        timely = said.finished_unix_s >= spec.created_unix_s - _CLOCK_SKEW_S
        checks.that(
            "statement.time", timely, f"after {spec.created_unix_s}", f"finished at {said.finished_unix_s}", party.name
        )
    checks.that("state.final", state in FINAL_STATES, " or ".join(FINAL_STATES), state[:40])
    _check_released(spec, body, state, checks)
    if state == "RELEASED":
        _check_traffic(spec, statements, checks)
    _check_claims(spec, statements, checks)


def _check_released(spec: JobSpec, body: ReceiptBody, state: str, checks: _Checks) -> None:
    names = body.released
    allowed = spec.outputs if state == "RELEASED" else ()
    subset = len(set(names)) == len(names) and set(names) <= set(allowed)
    checks.that("outputs.released", subset, f"a subset of {list(allowed)}", str(list(names)[:20]))
    size = len(body.outputs_digest)
    checks.that("outputs.digest", size == 32 or (size == 0 and not names), "32 bytes", f"{size} bytes")


def _check_traffic(spec: JobSpec, statements: Sequence[Statement], checks: _Checks) -> None:
    """Rounds are equal at all compute parties, and each pair agrees on the bytes between them."""
    names = [party.name for party in spec.parties]
    made: dict[str, Transcript] = {}
    for name, said in zip(names, statements, strict=True):
        present = said.transcript is not None
        if checks.that("transcript.present", present, "a transcript", "none", name) and said.transcript is not None:
            made[name] = said.transcript
            peers = [link.peer for link in said.transcript.links]
            proper = len(set(peers)) == len(peers) and set(peers) <= set(names) - {name}
            checks.that("transcript.links", proper, "each other party at most once", str(peers[:20]), name)
    compute = [p.name for p in spec.compute_parties if p.name in made]
    for name in compute[1:]:
        checks.equal("transcript.rounds", made[compute[0]].rounds, made[name].rounds, name)
    links = {(name, link.peer): link for name, t in made.items() for link in t.links}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            here, there = links.get((first, second)), links.get((second, first))
            sent = (here.sent_bytes, here.received_bytes) if here else (0, 0)
            got = (there.received_bytes, there.sent_bytes) if there else (0, 0)
            checks.that(
                "traffic.consistent",
                sent == got and min(sent) >= 0,
                f"{sent[0]} bytes sent and {sent[1]} received, as {first} says",
                f"{got[0]} received and {got[1]} sent, as {second} says",
                f"{first}, {second}",
            )


def _check_claims(spec: JobSpec, statements: Sequence[Statement], checks: _Checks) -> None:
    stated: dict[str, tuple[str, str]] = {"engine": (spec.engine, "spec"), "frac_bits": (str(spec.frac_bits), "spec")}
    expected, found = "one value per claim", ""
    for said in statements:
        own: dict[str, str] = {}
        for line in said.claims:
            key, separator, value = line.partition("=")
            if not key or not separator or key in own:
                found = found or f"{line[:80]!r} at {said.party}"
            own[key] = value
        for key, value in own.items():
            if key.startswith(_OWN_CLAIMS):
                continue
            first, who = stated.setdefault(key, (value, said.party))
            if first != value and not found:
                expected = f"{key}={first[:80]} as at {who}"
                found = f"{key}={value[:80]} at {said.party}"
    checks.that("claims.agree", not found, expected, found or expected)


_EVIDENCE = ("transcript.plan", "transcript.masks", "transcript.uniform")


def _check_evidence(spec: JobSpec, statements: Sequence[Statement], checks: _Checks) -> None:
    """What the transcripts say about the protocol itself: the plan was kept and masks were good."""
    for party, said in zip(spec.parties, statements, strict=True):
        found = said.transcript
        if found is None:
            continue
        if said.state == "RELEASED":
            checks.equal("transcript.plan", True, found.equals_plan, party.name)
        checks.equal("transcript.masks", 0, found.reused_masks, party.name)
        uniform = SMALLEST_P <= found.uniformity_p <= 1.0
        checks.that("transcript.uniform", uniform, f"p of at least {SMALLEST_P}", f"{found.uniformity_p}", party.name)

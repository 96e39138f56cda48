"""What is looked at in a receipt: form, signatures, agreement of the statements, traffic, claims, evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enclave.errors import BadSpec, Untrusted
from enclave.identity import Card, verify
from enclave.messages import JobSpec, ReceiptBody, Signed, Statement, Transcript

__all__ = [
    "EVIDENCE",
    "FINAL_STATES",
    "MAX_RECEIPT_BYTES",
    "OWN_CLAIMS",
    "SMALLEST_P",
    "Check",
    "Checks",
    "Parsed",
    "check_body",
    "check_cards",
    "check_evidence",
    "digest",
    "parse_body",
]

MAX_RECEIPT_BYTES = 16 << 20
FINAL_STATES = ("RELEASED", "REFUSED", "FAILED", "WITHDRAWN", "EXPIRED")
# A job whose openings are uniform falls below this in less than one of a million runs, all tests together.
SMALLEST_P = 2e-7
_CLOCK_SKEW_S = 300
OWN_CLAIMS = "node."


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `name` is stable; `subject` is the party (or pair) it concerns, if any.

    `found` equals `expected` in a check that passed.
    """

    name: str
    ok: bool
    subject: str = ""
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        about = f"{self.name} [{self.subject}]" if self.subject else self.name
        return f"{about}: ok" if self.ok else f"{about}: expected {self.expected}, found {self.found}"


class Checks:
    """Collects checks; each method returns whether its check passed."""

    def __init__(self) -> None:
        self.made: list[Check] = []

    def that(self, name: str, ok: bool, expected: str, found: str, subject: str = "") -> bool:
        """`found` says what was found if the check fails; a check that passed found what was expected."""
        self.made.append(Check(name, bool(ok), subject, expected, expected if ok else found))
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


Parsed = tuple[JobSpec, ReceiptBody, tuple[Statement, ...]]


def parse_body(data: bytes, checks: Checks) -> Parsed | None:
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


def check_cards(
    spec: JobSpec, encoded: Sequence[bytes], trusted: Sequence[Card] | None, checks: Checks
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
        checks.equal("card.organisation", party.run_by, card.organisation, party.name)
        checks.that("card.certificates", len(card.certificates) > 0, "at least one", "none", party.name)
        if known is not None:
            pinned = known.get(card.key_id)
            same = pinned is not None and (pinned.name, pinned.role) == (card.name, card.role)
            checks.that("card.trusted", same, "a trusted card", _show(card.key_id), party.name)
    return found


def check_body(parsed: Parsed, cards: Mapping[bytes, Card], checks: Checks) -> None:
    """Signatures and agreement of what is in the body."""
    spec, body, statements = parsed
    buyer = spec.buyer
    signed_spec = Signed(body=body.spec, key_id=buyer.key_id, signature=body.spec_signature)
    checks.signed("spec.signature", signed_spec, "job", cards.get(buyer.key_id), buyer.name)
    checks.equal("plan.digest", 32, len(spec.plan_digest))
    spec_digest = digest(body.spec)
    # One party that released is enough: a receipt must not say of a job that it ended without a result when it did not.
    released = any(said.state == "RELEASED" for said in statements)
    for party, signed, said in zip(spec.parties, body.statements, statements, strict=True):
        checks.signed("statement.signature", signed, "statement", cards.get(party.key_id), party.name)
        checks.equal("statement.party", party.name, said.party, party.name)
        checks.equal("statement.job", spec.job_id, said.job_id, party.name)
        checks.equal("statement.spec", spec_digest, said.spec_digest, party.name)
        checks.equal("statement.plan", spec.plan_digest, said.plan_digest, party.name)
        final = said.state in FINAL_STATES
        if checks.that("state.final", final, " or ".join(FINAL_STATES), said.state[:40], party.name) and released:
            checks.equal("statement.state", "RELEASED", said.state, party.name)
        checks.equal("statement.ledger", 32, len(said.ledger_head), party.name)
        size = len(said.report_digest)
        checks.that("statement.report", size in (0, 32), "32 bytes or nothing", f"{size} bytes", party.name)
        timely = said.finished_unix_s >= spec.created_unix_s - _CLOCK_SKEW_S
        checks.that(
            "statement.time", timely, f"after {spec.created_unix_s}", f"finished at {said.finished_unix_s}", party.name
        )
    _check_released(spec, body, released, checks)
    if released:
        _check_traffic(spec, statements, checks)
    _check_claims(spec, statements, checks)


def _check_released(spec: JobSpec, body: ReceiptBody, released: bool, checks: Checks) -> None:
    names = body.released
    allowed = spec.outputs if released else ()
    subset = len(set(names)) == len(names) and set(names) <= set(allowed)
    checks.that("outputs.released", subset, f"a subset of {list(allowed)}", str(list(names)[:20]))
    size = len(body.outputs_digest)
    proper = (size == 32 and released) or (size == 0 and not names)
    checks.that("outputs.digest", proper, "32 bytes" if released else "nothing", f"{size} bytes")


def _check_traffic(spec: JobSpec, statements: Sequence[Statement], checks: Checks) -> None:
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


def _check_claims(spec: JobSpec, statements: Sequence[Statement], checks: Checks) -> None:
    stated: dict[str, tuple[str, str]] = {
        "engine": (spec.engine, "spec"),
        "frac_bits": (str(spec.frac_bits), "spec"),
    }
    if spec.has_dealer:
        stated["dealer.independent"] = ("no" if spec.dealer_kin else "yes", "spec")
    else:
        stated["dealer"] = ("no dealer", "spec")
    expected, found = "one value per claim", ""
    for said in statements:
        own: dict[str, str] = {}
        for line in said.claims:
            key, separator, value = line.partition("=")
            if not key or not separator or key in own:
                found = found or f"{line[:80]!r} at {said.party}"
            own[key] = value
        for key, value in own.items():
            if key.startswith(OWN_CLAIMS):
                continue
            first, who = stated.setdefault(key, (value, said.party))
            if first != value and not found:
                expected = f"{key}={first[:80]} as at {who}"
                found = f"{key}={value[:80]} at {said.party}"
    checks.that("claims.agree", not found, expected, found)


EVIDENCE = ("transcript.plan", "transcript.masks", "transcript.uniform")


def check_evidence(spec: JobSpec, statements: Sequence[Statement], checks: Checks) -> None:
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

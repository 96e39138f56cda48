"""The ledger: what a chain holds, and every way of tampering with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from enclave import ledger
from enclave.errors import StoreError, Untrusted
from enclave.identity import Identity
from enclave.messages import LedgerEntry, Reason, Signed

JOB = "0123456789abcdef" * 2
DIGEST = bytes(range(32))
EVENTS = ("proposed", "admitted", "running", "sealed", "released")


@pytest.fixture
def owner(tmp_path: Path) -> Identity:
    return Identity.create(tmp_path / "owner", "owner", "alice")


def chain(identity: Identity, events: tuple[str, ...] = EVENTS) -> list[Signed]:
    found: list[Signed] = []
    for i, event in enumerate(events):
        last = found[-1] if found else None
        found.append(ledger.link(identity, last, unix_s=1000 + i, event=event, job_id=JOB, spec_digest=DIGEST))
    return found


def test_a_chain_gives_its_entries_back(owner: Identity) -> None:
    reasons = (Reason("policy.rows.minimum", "too few"),)
    first = ledger.link(
        owner, None, unix_s=7, event="refused", job_id=JOB, spec_digest=DIGEST, reasons=reasons, detail=b"\0x"
    )
    second = ledger.link(owner, first, unix_s=6, event="expired", job_id=JOB, spec_digest=DIGEST)
    a, b = ledger.verify_chain([first, second], owner.card)
    assert a == LedgerEntry(0, ledger.GENESIS, 7, "refused", JOB, DIGEST, reasons, b"\0x")
    assert b == LedgerEntry(1, ledger.head(first), 6, "expired", JOB, DIGEST)
    assert ledger.verify_chain([], owner.card) == ()


def test_the_head_covers_body_key_and_signature(owner: Identity) -> None:
    entry = chain(owner)[0]
    changed = [dataclasses.replace(entry, **{f.name: b"\1" * 32}) for f in dataclasses.fields(entry)]
    moved = dataclasses.replace(entry, body=entry.body + entry.key_id[:1], key_id=entry.key_id[1:])
    heads = {ledger.head(e) for e in (entry, *changed, moved)}
    assert len(heads) == 5 and all(len(h) == 32 for h in heads)


@pytest.mark.parametrize("gone", range(4))
def test_a_removed_entry_is_found(owner: Identity, gone: int) -> None:
    entries = chain(owner)
    with pytest.raises(StoreError, match=f"expected entry {gone}, found entry {gone + 1}"):
        ledger.verify_chain(entries[:gone] + entries[gone + 1 :], owner.card)


def test_entries_cut_off_at_the_front_are_found(owner: Identity) -> None:
    with pytest.raises(StoreError, match="expected entry 0, found entry 2"):
        ledger.verify_chain(chain(owner)[2:], owner.card)


def test_entries_cut_off_at_the_end_are_found_by_a_quoted_head(owner: Identity) -> None:
    entries = chain(owner)
    quoted = (4, ledger.head(entries[4]))
    assert len(ledger.verify_chain(entries, owner.card, includes=quoted)) == 5
    with pytest.raises(StoreError, match="expected entry 4, found 4 entries"):
        ledger.verify_chain(entries[:4], owner.card, includes=quoted)


def test_a_second_history_does_not_hold_the_quoted_entry(owner: Identity) -> None:
    quoted = (1, ledger.head(chain(owner)[1]))
    other = chain(owner, ("proposed", "refused", "expired"))
    with pytest.raises(StoreError, match="not the one that was quoted"):
        ledger.verify_chain(other, owner.card, includes=quoted)


def test_reordered_and_doubled_entries_are_found(owner: Identity) -> None:
    a, b, c, d, e = chain(owner)
    for tampered in ([a, c, b, d, e], [b, a, c, d, e], [a, b, b, c], [a, a]):
        with pytest.raises(StoreError, match="expected entry"):
            ledger.verify_chain(tampered, owner.card)


def test_a_spliced_history_is_found(owner: Identity) -> None:
    ours, theirs = chain(owner), chain(owner, ("proposed", "refused", "failed"))
    with pytest.raises(StoreError, match="entry 2 does not follow"):
        ledger.verify_chain([*ours[:2], theirs[2]], owner.card)


def test_every_edited_bit_of_a_body_is_found(owner: Identity) -> None:
    entries = chain(owner, EVENTS[:2])
    body = entries[1].body
    for bit in range(0, len(body) * 8, 7):
        edited = bytearray(body)
        edited[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Untrusted, match="entry 1 of alice"):
            ledger.verify_chain([entries[0], dataclasses.replace(entries[1], body=bytes(edited))], owner.card)


def test_a_foreign_signature_is_found(owner: Identity, tmp_path: Path) -> None:
    mallory = Identity.create(tmp_path / "mallory", "owner", "mallory")
    entries = chain(owner)
    forged = mallory.sign("ledger", entries[2].body)
    for entry in (forged, dataclasses.replace(forged, key_id=owner.key_id)):
        with pytest.raises(Untrusted, match="entry 2 of alice"):
            ledger.verify_chain([*entries[:2], entry, *entries[3:]], owner.card)


def test_a_signature_for_another_purpose_is_no_entry(owner: Identity) -> None:
    entry = chain(owner)[0]
    with pytest.raises(Untrusted):
        ledger.verify_chain([owner.sign("statement", entry.body)], owner.card)


def test_a_signed_body_that_is_no_entry_is_found(owner: Identity) -> None:
    with pytest.raises(StoreError, match="entry 0 of alice"):
        ledger.verify_chain([owner.sign("ledger", b"\xff\xff\xff")], owner.card)


def test_nothing_is_linked_to_a_damaged_or_foreign_entry(owner: Identity, tmp_path: Path) -> None:
    mallory = Identity.create(tmp_path / "mallory", "owner", "mallory")
    last = chain(owner)[0]
    for previous in (
        dataclasses.replace(last, body=last.body + b"\0"),
        chain(mallory)[0],
        owner.sign("job", last.body),
    ):
        with pytest.raises(StoreError, match="damaged"):
            ledger.link(owner, previous, unix_s=1, event="failed", job_id=JOB, spec_digest=DIGEST)


@pytest.mark.parametrize(
    "wrong", [{"event": "Released"}, {"event": ""}, {"job_id": "../x"}, {"spec_digest": b""}, {"detail": bytes(65_537)}]
)
def test_malformed_entries_are_not_signed(owner: Identity, wrong: dict[str, object]) -> None:
    fields: dict[str, object] = {"event": "failed", "job_id": JOB, "spec_digest": DIGEST, **wrong}
    with pytest.raises(ValueError, match="ledger"):
        ledger.link(owner, None, unix_s=1, **fields)  # type: ignore[arg-type]


def test_each_party_keeps_its_own_chain(new_party: Callable[..., Identity]) -> None:
    alice, bob = new_party("owner", "alice"), new_party("buyer", "bob")
    with pytest.raises(Untrusted, match="another key"):
        ledger.verify_chain(chain(alice), bob.card)

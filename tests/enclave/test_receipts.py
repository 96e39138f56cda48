"""A receipt is true or it does not verify: every field, every signature, every party that lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave.clock import ManualClock
from enclave.errors import BadSpec, Refused
from enclave.identity import Card, Identity
from enclave.messages import DatasetRef, LinkTraffic, Receipt, ReceiptBody, Signed
from enclave.receipts import (
    Verified,
    assemble,
    complete,
    countersign,
    digest,
    outputs_digest,
    sign_statement,
    verify_receipt,
)
from tests.enclave.receipt_room import NAMES, NOW, Room


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return Room(tmp_path_factory.mktemp("parties"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("other") / "north", "owner", "north", clock=ManualClock(NOW))


def failed(verified: Verified) -> set[str]:
    assert not verified.ok
    return {check.name for check in verified.failures}


def test_honest_receipt(room: Room) -> None:
    body = assemble(
        room.signed_spec,
        [sign_statement(i, s) for i, s in zip(room.identities, room.statements, strict=True)],
        outputs_digest=outputs_digest(b"s" * 32, {"accuracy": np.array(0.75)}),
        released=("accuracy",),
    )
    signatures = [
        countersign(i, body, statement=s, spec=room.signed_spec, cards=room.cards)
        for i, s in zip(room.identities, room.signed(), strict=True)
    ]
    data = complete(body, signatures, room.cards)
    verified = verify_receipt(data)
    assert verified.ok and verified.mode == "consistent" and not verified.failures
    assert verified.state == "RELEASED" and verified.spec == room.spec
    assert verified.receipt_digest == digest(data)
    names = {c.name for c in verified.checks}
    assert {"spec.signature", "statement.signature", "countersignature", "traffic.consistent", "claims.agree"} <= names
    assert len([c for c in verified.checks if c.name == "countersignature"]) == 4
    assert len([c for c in verified.checks if c.name == "traffic.consistent"]) == 6


def test_trusted_cards_authenticate(room: Room, stranger: Identity) -> None:
    assert verify_receipt(room.receipt(), room.cards).mode == "authenticated"
    assert verify_receipt(room.receipt(), room.cards).ok
    assert failed(verify_receipt(room.receipt(), room.cards[1:])) == {"card.trusted"}
    assert failed(verify_receipt(room.receipt(), [stranger.card, *room.cards[1:]])) == {"card.trusted"}
    assert failed(verify_receipt(room.receipt(), ())) == {"card.trusted"}


def test_strangers_are_consistent_but_not_authentic(room: Room, tmp_path: Path) -> None:
    impostors = Room(tmp_path)
    data = impostors.receipt()
    assert verify_receipt(data).ok, "anybody can make a receipt that agrees with itself"
    assert failed(verify_receipt(data, room.cards)) == {"card.trusted"}


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"x" * (16 << 20) + b"x", b"\x0a\x05hello"])
def test_garbage_is_reported_not_raised(data: bytes) -> None:
    verified = verify_receipt(data)
    assert failed(verified) <= {"receipt.format", "body.format", "spec.format"}
    assert verified.spec is None and verified.state == ""


def test_bit_flips_anywhere(room: Room) -> None:
    data = room.receipt()
    for i, place in enumerate(range(0, len(data), 19)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (i % 8)
        assert not verify_receipt(bytes(flipped)).ok, f"bit {i % 8} of byte {place}"


def test_no_bytes_ride_along(room: Room) -> None:
    data = room.receipt()
    unknown_field = b"\x7a\x03abc"
    assert failed(verify_receipt(data + unknown_field)) == {"receipt.format"}
    cards = (room.cards[0].encoded + unknown_field, *(c.encoded for c in room.cards[1:]))
    assert failed(verify_receipt(room.receipt(cards=cards))) == {"card.signature"}


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"job_id": "cd" * 16}, "statement.job"),
        ({"party": "south"}, "statement.party"),
        ({"spec_digest": bytes(32)}, "statement.spec"),
        ({"plan_digest": bytes(32)}, "statement.plan"),
        ({"ledger_head": b""}, "statement.ledger"),
        ({"finished_unix_s": NOW - 301}, "statement.time"),
        ({"claims": ("engine=plain",)}, "claims.agree"),
        ({"claims": ("engine=mpc", "tls=1.2")}, "claims.agree"),
        ({"claims": ("engine=mpc", "engine=mpc")}, "claims.agree"),
        ({"claims": ("frac_bits=21",)}, "claims.agree"),
        ({"claims": ("safe",)}, "claims.agree"),
        ({"claims": ("dealer.independent=no",)}, "claims.agree"),
        ({"transcript": None}, "transcript.present"),
    ],
)
def test_one_party_lies(room: Room, change: dict[str, Any], check: str) -> None:
    found = failed(verify_receipt(room.lie("north", **change)))
    assert check in found
    assert found <= {check, "traffic.consistent"}


def test_one_party_states_another_end(room: Room) -> None:
    assert "statement.state" in failed(verify_receipt(room.lie("south", state="FAILED")))
    assert "state.final" in failed(
        verify_receipt(
            room.receipt(room.body(statements=tuple(room.signed([room.statement(n, state="DONE") for n in NAMES]))))
        )
    )


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"rounds": 42}, "transcript.rounds"),
        ({"equals_plan": False}, "transcript.plan"),
        ({"reused_masks": 1}, "transcript.masks"),
        ({"uniformity_p": 1e-9}, "transcript.uniform"),
        ({"uniformity_p": float("nan")}, "transcript.uniform"),
        ({"links": ()}, "traffic.consistent"),
    ],
)
def test_transcripts(room: Room, change: dict[str, Any], check: str) -> None:
    transcript = room.statements[1].transcript
    assert transcript is not None
    data = room.lie("south", transcript=dataclasses.replace(transcript, **change))
    assert failed(verify_receipt(data)) == {check}


@pytest.mark.parametrize("field", ["sent_bytes", "received_bytes"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_traffic_is_compared_pairwise(room: Room, field: str, index: int) -> None:
    transcript = room.statements[0].transcript
    assert transcript is not None
    links = list(transcript.links)
    links[index] = dataclasses.replace(links[index], **{field: getattr(links[index], field) + 1})
    verified = verify_receipt(room.lie("north", transcript=dataclasses.replace(transcript, links=tuple(links))))
    assert [c.subject for c in verified.failures] == [f"north, {NAMES[index + 1]}"]


def test_links_to_strangers_or_twice(room: Room) -> None:
    transcript = room.statements[0].transcript
    assert transcript is not None
    for extra in (LinkTraffic("eve", 1, 1), transcript.links[0]):
        links = (*transcript.links, extra)
        data = room.lie("north", transcript=dataclasses.replace(transcript, links=links))
        assert failed(verify_receipt(data)) == {"transcript.links"}


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"released": ("accuracy", "model")}, "outputs.released"),
        ({"released": ("accuracy", "accuracy")}, "outputs.released"),
        ({"outputs_digest": b""}, "outputs.digest"),
        ({"spec_signature": bytes(64)}, "spec.signature"),
        ({"statements": ()}, "statements.count"),
        ({"spec": b"spec"}, "spec.format"),
    ],
)
def test_body_that_all_signed_is_still_wrong(room: Room, change: dict[str, Any], check: str) -> None:
    assert failed(verify_receipt(room.receipt(room.body(**change)))) == {check}


def test_spec_signed_by_another_party(room: Room) -> None:
    forged = room.identities[0].sign("job", room.signed_spec.body)
    assert failed(verify_receipt(room.receipt(room.body(spec_signature=forged.signature)))) == {"spec.signature"}


def test_spec_signature_of_another_domain(room: Room) -> None:
    other = room.identities[2].sign("approval", room.signed_spec.body)
    assert failed(verify_receipt(room.receipt(room.body(spec_signature=other.signature)))) == {"spec.signature"}


def test_changed_spec_under_the_old_statements(room: Room) -> None:
    spec = room.identities[2].sign("job", room.make_spec(outputs=("accuracy", "predictions")).encode())
    found = failed(verify_receipt(room.receipt(room.body(spec=spec.body, spec_signature=spec.signature))))
    assert found == {"statement.spec"}


def test_swapped_statements(room: Room) -> None:
    swapped = room.signed()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    found = failed(verify_receipt(room.receipt(room.body(statements=tuple(swapped)))))
    assert {"statement.signature", "statement.party"} <= found


def test_replayed_statement_of_another_job(room: Room) -> None:
    other = room.statement("north", job_id="cd" * 16, spec_digest=digest(b"other"))
    replayed = (room.identities[0].sign("statement", other.encode()), *room.signed()[1:])
    assert failed(verify_receipt(room.receipt(room.body(statements=replayed)))) == {"statement.job", "statement.spec"}


def test_statement_signed_by_another_key(room: Room, stranger: Identity) -> None:
    for identity in (stranger, room.identities[1]):
        forged = (identity.sign("statement", room.statements[0].encode()), *room.signed()[1:])
        assert failed(verify_receipt(room.receipt(room.body(statements=forged)))) == {"statement.signature"}
    relabelled = dataclasses.replace(
        stranger.sign("statement", room.statements[0].encode()), key_id=room.cards[0].key_id
    )
    found = failed(verify_receipt(room.receipt(room.body(statements=(relabelled, *room.signed()[1:])))))
    assert found == {"statement.signature"}


def test_countersignatures(room: Room, stranger: Identity) -> None:
    body = room.body().encode()
    good = [i.sign("receipt", digest(body)) for i in room.identities]
    wrong: list[tuple[list[Signed], str]] = [
        (good[:-1], "countersignatures.count"),
        ([*good, good[0]], "countersignatures.count"),
        ([good[1], good[0], *good[2:]], "countersignature"),
        ([stranger.sign("receipt", digest(body)), *good[1:]], "countersignature"),
        ([room.identities[0].sign("statement", digest(body)), *good[1:]], "countersignature"),
        ([dataclasses.replace(good[0], signature=b""), *good[1:]], "countersignature"),
        ([room.identities[0].sign("receipt", digest(b"another body")), *good[1:]], "countersignature.body"),
    ]
    for signatures, check in wrong:
        assert failed(verify_receipt(room.receipt(countersignatures=tuple(signatures)))) == {check}
        with pytest.raises(Refused, match=check):
            complete(body, signatures, room.cards)


def test_cards(room: Room, stranger: Identity) -> None:
    encoded = [c.encoded for c in room.cards]
    wrong: list[tuple[list[bytes], str]] = [
        (encoded[:-1], "cards.count"),
        ([encoded[1], encoded[0], *encoded[2:]], "card.key"),
        ([stranger.card.encoded, *encoded[1:]], "card.key"),
        ([b"card", *encoded[1:]], "card.signature"),
    ]
    for cards, check in wrong:
        found = failed(verify_receipt(room.receipt(cards=tuple(cards))))
        assert check in found and "statement.signature" in found


def test_role_on_card_differs_from_spec(room: Room) -> None:
    parties = list(room.spec.parties)
    parties[0] = dataclasses.replace(parties[0], name="nord")
    spec = room.make_spec(
        parties=tuple(parties),
        datasets=(DatasetRef("nord", "heart", bytes(32), 300), room.spec.datasets[1]),
    )
    signed = room.identities[2].sign("job", spec.encode())
    found = failed(verify_receipt(room.receipt(room.body(spec=signed.body, spec_signature=signed.signature))))
    assert "card.role" in found


def test_organisations_on_cards_and_in_the_job_are_the_same(room: Room) -> None:
    """A job that calls the dealer independent is held against the cards that the receipt carries."""
    parties = list(room.spec.parties)
    parties[3] = dataclasses.replace(parties[3], organisation="Somebody Else")
    signed = room.identities[2].sign("job", room.make_spec(parties=tuple(parties)).encode())
    said = [room.statement(n, spec_digest=digest(signed.body)) for n in NAMES]
    body = room.body(spec=signed.body, spec_signature=signed.signature, statements=tuple(room.signed(said)))
    assert failed(verify_receipt(room.receipt(body))) == {"card.organisation"}


def test_unreleased_jobs_have_receipts_too(room: Room) -> None:
    for state in ("REFUSED", "FAILED", "WITHDRAWN", "EXPIRED"):
        said = room.signed([room.statement(n, state=state, transcript=None) for n in NAMES])
        body = assemble(room.signed_spec, said)
        for identity, own in zip(room.identities, said, strict=True):
            countersign(identity, body, statement=own, spec=room.signed_spec, cards=room.cards)
        quiet = room.body(statements=tuple(said), outputs_digest=b"", released=())
        assert verify_receipt(room.receipt(quiet)).ok
        leaky = room.body(statements=tuple(said))
        assert failed(verify_receipt(room.receipt(leaky))) == {"outputs.released", "outputs.digest"}


def test_parties_of_an_unreleased_job_may_end_differently(room: Room) -> None:
    states = ("REFUSED", "WITHDRAWN", "FAILED", "EXPIRED")
    said = [room.statement(n, state=s, transcript=None) for n, s in zip(NAMES, states, strict=True)]
    signed = room.signed(said)
    body = assemble(room.signed_spec, signed)
    signatures = [
        countersign(identity, body, statement=own, spec=room.signed_spec, cards=room.cards)
        for identity, own in zip(room.identities, signed, strict=True)
    ]
    verified = verify_receipt(complete(body, signatures, room.cards), room.cards)
    assert verified.ok and not verified.released and verified.state == "ENDED"
    assert [s.state for s in verified.statements] == list(states)
    quiet = room.body(statements=tuple(signed), outputs_digest=b"", released=("accuracy",))
    assert failed(verify_receipt(room.receipt(quiet))) == {"outputs.released", "outputs.digest"}


def test_one_release_among_other_ends_is_no_end_without_release(room: Room) -> None:
    """Whoever says RELEASED may have let its share go: nobody countersigns that nothing was released."""
    said = [room.statement(n, state="RELEASED" if n == "south" else "FAILED") for n in NAMES]
    signed = room.signed(said)
    body = assemble(room.signed_spec, signed)
    for identity, own in zip(room.identities, signed, strict=True):
        with pytest.raises(Refused, match=r"statement\.state \[north\]: expected RELEASED"):
            countersign(identity, body, statement=own, spec=room.signed_spec, cards=room.cards)
    quiet = room.body(statements=tuple(signed), outputs_digest=b"", released=())
    assert "statement.state" in failed(verify_receipt(room.receipt(quiet)))


def test_receipt_of_a_leak_is_evidence(room: Room) -> None:
    transcript = room.statements[0].transcript
    assert transcript is not None
    said = [room.statement("north", transcript=dataclasses.replace(transcript, reused_masks=3)), *room.statements[1:]]
    body = room.body(statements=tuple(room.signed(said))).encode()
    signatures = [
        countersign(i, body, statement=s, spec=room.signed_spec, cards=room.cards)
        for i, s in zip(room.identities, room.signed(said), strict=True)
    ]
    assert failed(verify_receipt(complete(body, signatures, room.cards))) == {"transcript.masks"}


Change = Callable[[Room], ReceiptBody]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda r: r.body(released=("predictions",)), "outputs.released"),
        (lambda r: r.body(statements=(r.signed()[1], r.signed()[0], *r.signed()[2:])), "statement.own"),
        (lambda r: r.body(spec_signature=bytes(64)), "spec.own"),
        (
            lambda r: r.body(statements=(*r.signed()[:3], r.identities[0].sign("statement", r.statements[3].encode()))),
            "statement.signature",
        ),
        (
            lambda r: r.body(
                statements=tuple(r.signed([r.statement("north", finished_unix_s=NOW + 61), *r.statements[1:]]))
            ),
            "statement.own",
        ),
    ],
)
def test_no_countersignature_for_an_untrue_body(room: Room, change: Change, check: str) -> None:
    with pytest.raises(Refused, match=check) as caught:
        countersign(
            room.identities[0],
            change(room).encode(),
            statement=room.signed()[0],
            spec=room.signed_spec,
            cards=room.cards,
        )
    assert caught.value.code == "refused.receipt"


def test_no_countersignature_for_strangers_or_garbage(room: Room) -> None:
    own, body = room.signed()[0], room.body().encode()
    with pytest.raises(Refused, match="no card of this party"):
        countersign(room.identities[0], body, statement=own, spec=room.signed_spec, cards=room.cards[:2])
    with pytest.raises(Refused, match=r"body\.format"):
        countersign(room.identities[0], b"\xff", statement=own, spec=room.signed_spec, cards=room.cards)


def test_statement_for_another_party(room: Room) -> None:
    with pytest.raises(BadSpec, match="only for itself"):
        sign_statement(room.identities[0], room.statements[1])


def test_outputs_digest() -> None:
    salt, array = b"0123456789abcdef", np.array([0.5, 0.25])
    first = outputs_digest(salt, {"a": array, "b": np.array(1)})
    assert first == outputs_digest(salt, {"b": np.array(1), "a": array.astype(">f8")})
    assert len(first) == 32
    others = [
        outputs_digest(b"0123456789abcdeF", {"a": array, "b": np.array(1)}),
        outputs_digest(salt, {"a": array[::-1], "b": np.array(1)}),
        outputs_digest(salt, {"a": array.reshape(2, 1), "b": np.array(1)}),
        outputs_digest(salt, {"a": array.astype(np.float32), "b": np.array(1)}),
        outputs_digest(salt, {"a": array}),
    ]
    assert first not in others and len(set(others)) == len(others)
    with pytest.raises(BadSpec, match="16 bytes"):
        outputs_digest(b"short", {})


def test_cards_are_passed_on_as_received(room: Room) -> None:
    receipt = Receipt.decode(room.receipt())
    assert [Card.decode(c) for c in receipt.cards] == room.cards


def test_a_check_that_passed_tells_of_no_failure(room: Room) -> None:
    for check in verify_receipt(room.receipt(), room.cards).checks:
        assert check.ok and check.found == check.expected, check

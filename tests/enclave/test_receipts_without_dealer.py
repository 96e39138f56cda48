"""The receipt of a job that had no dealer: three parties sign, and nobody can claim that there was one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enclave.messages import Transcript
from enclave.receipts import verify_receipt
from tests.enclave.receipt_room import NAMES, Room

HONEST = ("engine=he", "dealer=no dealer", "frac_bits=20")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return alone(tmp_path_factory.mktemp("parties"))


def alone(base: Path) -> Room:
    """Two owners and a buyer."""
    room = Room(base)
    room.identities, room.cards = room.identities[:-1], room.cards[:-1]
    room.spec = room.make_spec(engine="he")
    room.signed_spec = room.identities[-1].sign("job", room.spec.encode())
    room.statements = []
    for name in NAMES[:-1]:
        said = room.statement(name, claims=HONEST)
        seen = said.transcript
        assert isinstance(seen, Transcript)
        links = tuple(link for link in seen.links if link.peer != NAMES[-1])
        room.statements.append(replace(said, transcript=replace(seen, links=links)))
    return room


def failed(room: Room, *claims: str) -> set[str]:
    said = [replace(room.statements[0], claims=claims), *room.statements[1:]]
    receipt = room.receipt(room.body(statements=tuple(room.signed(said))))
    return {check.name for check in verify_receipt(receipt).failures}


def test_three_parties_are_enough(room: Room) -> None:
    verified = verify_receipt(room.receipt())
    assert verified.ok and verified.spec == room.spec
    assert failed(room, *HONEST) == set()


def test_a_dealer_that_was_not_there_is_a_lie(room: Room) -> None:
    assert failed(room, "engine=he", "dealer=deal 0011223344556677") == {"claims.agree"}
    assert failed(room, "engine=mpc", "dealer=no dealer") == {"claims.agree"}

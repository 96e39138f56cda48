"""A signed job as one of its parties reads it: who signed, who takes part, and which rank is this party's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from enclave import __version__
from enclave.errors import BadSpec, Untrusted
from enclave.identity import Card, Identity, TrustStore, verify
from enclave.messages import JobSpec, PartyRef, Signed

__all__ = ["Assignment", "read_job"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A verified job and this party's place in it. `cards` has every rank, this party's own included."""

    signed: Signed
    spec: JobSpec
    rank: int
    cards: Mapping[int, Card]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parties by rank."""
        return tuple(party.name for party in self.spec.parties)

    @property
    def peers(self) -> dict[int, Card]:
        """The cards of all other ranks."""
        return {rank: card for rank, card in self.cards.items() if rank != self.rank}

    @property
    def digest(self) -> bytes:
        """SHA-256 of the specification as it was received."""
        return hashlib.sha256(self.signed.body).digest()

    @property
    def role(self) -> str:
        """owner, buyer or dealer."""
        return self.spec.parties[self.rank].role


def read_job(signed: Signed, identity: Identity, trust: TrustStore) -> Assignment:
    """Verifies and parses a job.

    Every party must stand under its name, role and key on a trusted card: a job that could name a key of its own
    as the dealer, say, would let its author learn everything.

    Raises:
        Untrusted: a bad signature, a signer who is no buyer or not the job's buyer, an unknown party.
        BadSpec: the specification is malformed.
    """
    buyer = trust.by_key_id(signed.key_id)
    if buyer.role != "buyer":
        raise Untrusted(f"{buyer.name} is trusted as {buyer.role} and cannot sign jobs", code="untrusted.role")
    spec = JobSpec.decode(verify(signed, "job", buyer))
    if spec.code_version not in ("", __version__):
        text = f"the job was made by version {spec.code_version[:40]}, {identity.name} runs {__version__}"
        raise BadSpec(text, hint="all parties of a job must run the same version")
    if spec.buyer.key_id != signed.key_id:
        raise Untrusted(f"the job is signed by {buyer.name}, its buyer is {spec.buyer.name} with another key")
    cards = {}
    for rank, party in enumerate(spec.parties):
        card = identity.card if party.key_id == identity.key_id else _known(trust, party, identity.name)
        if (card.name, card.role) != (party.name, party.role):
            raise Untrusted(
                f"the key of {party.role} {party.name} belongs to {card.role} {card.name}", code="untrusted.role"
            )
        if card.organisation != party.run_by:
            raise Untrusted(
                f"{party.name} is run by {card.organisation}, as its card here says; the job says {party.run_by[:120]}",
                hint=f"{identity.name} and the buyer must trust the same card of {party.name}",
                code="untrusted.organisation",
            )
        cards[rank] = card
    own = [rank for rank, party in enumerate(spec.parties) if party.key_id == identity.key_id]
    if not own:
        raise Untrusted(f"{identity.name} is not a party of the job", code="untrusted.party")
    return Assignment(signed, spec, own[0], cards)


def _known(trust: TrustStore, party: PartyRef, here: str) -> Card:
    try:
        return trust.by_key_id(party.key_id)
    except Untrusted as error:
        # Read by the buyer, whose own trust is in order: it is `here` that has something to do.
        raise Untrusted(
            f"{here} does not trust {party.role} {party.name} with key {party.key_id[:8].hex()}, a party of the job",
            hint=f"all parties of a job must trust each other: {here} must run `enclave trust CARD` with the card of "
            f"{party.name}",
        ) from error

"""The cards a party trusts, one file per name, read again whenever the directory changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from enclave.clock import Clock, SystemClock
from enclave.errors import StoreError, Untrusted
from enclave.identity import card as cards
from enclave.identity.card import MAX_CARD_BYTES, Card
from enclave.identity.home import read_file, write_file
from enclave.messages import is_name

__all__ = ["TrustStore"]

_Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What the directory held when it was last read; replaced as a whole, so that threads need no lock."""

    fingerprint: _Fingerprint
    cards: tuple[Card, ...]
    by_key: dict[bytes, Card]
    by_certificate: dict[bytes, tuple[Card, bytes]]
    root_pem: bytes
    problems: tuple[str, ...]


class TrustStore:
    """Who may connect to the party in `home`, and whose signatures it accepts.

    A party trusts itself: its own card is found by key and by certificate (its operator's commands reach its node
    in this way) but is not listed among `cards`.
    """

    def __init__(self, home: Path, clock: Clock | None = None) -> None:
        self._home = home
        self._clock = clock or SystemClock()
        self._last: _Snapshot | None = None

    def add(self, card_bytes: bytes, replace: bool = False) -> Card:
        """Trusts a card. The same key with a newer card (other certificates, other address) is an update.

        Args:
            replace: take the card although the name is known with another key or role, or with a newer card.

        Raises:
            Untrusted: the card is damaged, or would silently take the place of another party.
            StoreError: the disk refuses.
        """
        card = Card.decode(card_bytes)
        now = self._snapshot()
        own = self._own()
        if own is not None and (card.name == own.name or card.key_id == own.key_id):
            raise Untrusted(f"the card of {card.name} has the name or the key of this party itself")
        for known in now.cards:
            if known.name == card.name:
                if not replace:
                    _check_update(known, card)
            elif known.name.casefold() == card.name.casefold():
                raise Untrusted(f"the name {card.name} differs from the known {known.name} only in its capitals")
            elif known.key_id == card.key_id:
                raise Untrusted(f"the key of {card.name} is already known as {known.name}")
        write_file(self._home / "trusted" / f"{card.name}.card", card.encoded, 0o644)
        return card

    def remove(self, name: str) -> None:
        """Trusts the party called `name` no longer; raises Untrusted when it was not trusted."""
        path = self._home / "trusted" / f"{name}.card"
        try:
            if not is_name(name):
                raise FileNotFoundError(name)
            path.unlink()
        except FileNotFoundError as error:
            raise Untrusted(f"no party called {name[:80]!r} is trusted") from error
        except OSError as error:
            raise StoreError(f"cannot remove {path}: {error.strerror}") from error

    def cards(self) -> tuple[Card, ...]:
        """All trusted cards, ordered by name, without this party's own."""
        return self._snapshot().cards

    def problems(self) -> tuple[str, ...]:
        """One line for each file among the trusted cards that is not a usable card, and is therefore ignored."""
        return self._snapshot().problems

    def by_name(self, name: str) -> Card:
        """The trusted card of the party called `name`; raises Untrusted."""
        for card in self._snapshot().cards:
            if card.name == name:
                return card
        raise Untrusted(f"no party called {name[:80]!r} is trusted", hint=_ADD)

    def by_key_id(self, key_id: bytes) -> Card:
        """The card of the party with this key; raises Untrusted when there is none.

        Dates are not checked: they belong to the TLS certificate, and a signature is good after it has expired.
        """
        card = self._snapshot().by_key.get(key_id)
        if card is None:
            raise Untrusted(f"the key {key_id[:8].hex()} is not trusted", hint=_ADD)
        return card

    def by_certificate(self, pem: bytes) -> Card:
        """The card of the party that shows this certificate: the very same bytes (DER), not a chain to them.

        Raises:
            Untrusted: no trusted card lists the certificate, or it is not valid now.
        """
        digest = hashlib.sha256(cards.der(pem)).digest()
        found = self._snapshot().by_certificate.get(digest)
        if found is None:
            raise Untrusted("unknown certificate: it stands on no trusted card", hint=_ADD)
        card, listed = found
        hint = f"{card.name} must rotate its certificate and hand out its new card"
        cards.check_dates(listed, self._clock.unix_s(), who=card.name, hint=hint)
        return card

    def root_pem(self) -> bytes:
        """Every certificate on a trusted card and on this party's own, concatenated: the TLS library's roots.

        They only keep strangers out early. What names the peer is `by_certificate`.
        """
        return self._snapshot().root_pem

    def _own(self) -> Card | None:
        path = self._home / "card"
        return Card.decode(read_file(path, MAX_CARD_BYTES)) if path.is_file() else None

    def _snapshot(self) -> _Snapshot:
        files = [self._home / "card", *sorted((self._home / "trusted").glob("*.card"))]
        fingerprint = _fingerprint(files)
        last = self._last
        if last is None or last.fingerprint != fingerprint:
            last = self._read(fingerprint, files)
            self._last = last
        return last

    def _read(self, fingerprint: _Fingerprint, files: list[Path]) -> _Snapshot:
        found: list[Card] = []
        problems: list[str] = []
        by_key: dict[bytes, Card] = {}
        by_certificate: dict[bytes, tuple[Card, bytes]] = {}
        for path in files:
            if not path.is_file():
                continue
            try:
                card = Card.decode(read_file(path, MAX_CARD_BYTES))
            except (Untrusted, StoreError) as error:
                # One damaged file (a card half copied) must not lock all other parties out.
                problems.append(f"{path.name}: {error.public}")
                continue
            own = path == files[0]
            if not own and path.name != f"{card.name}.card":
                problems.append(f"{path.name}: expected the file name {card.name}.card")
            elif card.key_id in by_key:
                problems.append(f"{path.name}: its key is already known as {by_key[card.key_id].name}")
            else:
                by_key[card.key_id] = card
                for pem in card.certificates:
                    by_certificate[hashlib.sha256(cards.der(pem)).digest()] = (card, pem)
                if not own:
                    found.append(card)
        roots = b"".join(pem.rstrip() + b"\n" for _, pem in by_certificate.values())
        return _Snapshot(fingerprint, tuple(found), by_key, by_certificate, roots, tuple(problems))


_ADD = "if you know the party, run `enclave trust CARD` with its card"


def _check_update(known: Card, card: Card) -> None:
    if known.key_id != card.key_id:
        raise Untrusted(
            f"{card.name} is already trusted with another key: expected {known.key_id.hex()[:16]}, "
            f"found {card.key_id.hex()[:16]}",
            hint="ask the party whether it made new keys, compare the digits by telephone, then replace the card",
        )
    if known.role != card.role:
        raise Untrusted(f"{card.name} is already trusted as {known.role}, found {card.role}")
    if card.issued_unix_s < known.issued_unix_s:
        raise Untrusted(f"the card of {card.name} is older than the one already trusted")


def _fingerprint(files: list[Path]) -> _Fingerprint:
    found = []
    for path in files:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)

"""Trust: who is let in, who is not, and what an operator must decide."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enclave.clock import ManualClock
from enclave.errors import Untrusted
from enclave.identity import MAX_CARD_BYTES, Identity, TrustStore, verify
from enclave.identity.card import issue_card, new_certificate

DAY_S = 86_400
NewParty = Callable[..., Identity]
Acquaint = Callable[..., tuple[TrustStore, ...]]


def card_of(key: Ed25519PrivateKey, name: str) -> bytes:
    """A valid card of `key` under any name."""
    key_id = hashlib.sha256(key.public_key().public_bytes_raw()).digest()
    certificate = new_certificate(key_id, 1_700_000_000)[1]
    card = issue_card(key, name=name, role="buyer", address="", certificates=(certificate,), unix_s=1_700_000_000)
    return card.encoded


def test_trusted_parties_are_found_and_others_are_not(new_party: NewParty, acquaint: Acquaint) -> None:
    alice, bob, eve = new_party("owner", "alice"), new_party("buyer", "bob"), new_party("buyer", "eve")
    trust, _ = acquaint(alice, bob)
    assert trust.cards() == (bob.card,) == (trust.by_name("bob"),)
    assert trust.by_key_id(bob.key_id) == trust.by_certificate(bob.tls_certificate_pem) == bob.card
    for look in (
        lambda: trust.by_key_id(eve.key_id),
        lambda: trust.by_key_id(b""),
        lambda: trust.by_name("eve"),
        lambda: trust.by_certificate(eve.tls_certificate_pem),
        lambda: trust.by_certificate(b"garbage"),
        lambda: trust.by_certificate(bob.tls_certificate_pem + eve.tls_certificate_pem),
    ):
        with pytest.raises(Untrusted):
            look()


def test_a_party_trusts_itself_but_does_not_list_itself(new_party: NewParty) -> None:
    alice = new_party("owner", "alice")
    trust = TrustStore(alice.home)
    assert trust.cards() == ()
    assert trust.by_certificate(alice.tls_certificate_pem) == trust.by_key_id(alice.key_id) == alice.card
    assert trust.root_pem() == alice.tls_certificate_pem


def test_a_certificate_with_the_same_name_is_not_enough(new_party: NewParty, acquaint: Acquaint) -> None:
    alice, bob = new_party("owner", "alice"), new_party("buyer", "bob")
    trust, _ = acquaint(alice, bob)
    with pytest.raises(Untrusted, match="unknown certificate"):
        trust.by_certificate(new_certificate(bob.key_id, bob.card.issued_unix_s)[1])


def test_the_roots_are_every_trusted_certificate(new_party: NewParty, acquaint: Acquaint) -> None:
    alice, bob, carol = new_party("owner", "alice"), new_party("buyer", "bob"), new_party("dealer", "carol")
    trust, *_ = acquaint(alice, bob, carol)
    roots = x509.load_pem_x509_certificates(trust.root_pem())
    expected = [x509.load_pem_x509_certificate(p.tls_certificate_pem) for p in (alice, bob, carol)]
    assert sorted(c.fingerprint(hashes.SHA256()) for c in roots) == sorted(
        c.fingerprint(hashes.SHA256()) for c in expected
    )


def test_a_new_card_is_picked_up_by_a_store_that_is_open(new_party: NewParty) -> None:
    alice, bob, carol = new_party("owner", "alice"), new_party("buyer", "bob"), new_party("dealer", "carol")
    running = TrustStore(alice.home)
    assert running.cards() == ()
    TrustStore(alice.home).add(bob.card.encoded)
    assert running.by_certificate(bob.tls_certificate_pem) == bob.card
    TrustStore(alice.home).add(carol.card.encoded)
    TrustStore(alice.home).remove("bob")
    assert running.cards() == (carol.card,)
    with pytest.raises(Untrusted):
        running.by_certificate(bob.tls_certificate_pem)


def test_another_key_under_a_known_name_needs_a_decision(new_party: NewParty, tmp_path: Path) -> None:
    alice, bob = new_party("owner", "alice"), new_party("buyer", "bob")
    impostor = Identity.create(tmp_path / "impostor", "buyer", "bob")
    trust = TrustStore(alice.home)
    trust.add(bob.card.encoded)
    with pytest.raises(Untrusted, match="already trusted with another key") as caught:
        trust.add(impostor.card.encoded)
    assert caught.value.hint and trust.cards() == (bob.card,)
    trust.add(impostor.card.encoded, replace=True)
    assert trust.cards() == (impostor.card,)


def test_an_older_card_and_another_role_need_a_decision(tmp_path: Path, new_party: NewParty) -> None:
    trust = TrustStore(new_party("owner", "alice").home)
    old = Identity.create(tmp_path / "bob", "buyer", "bob", clock=ManualClock())
    new = old.rotate(ManualClock(1_700_000_001))
    trust.add(new.card.encoded)
    with pytest.raises(Untrusted, match="older than the one already trusted"):
        trust.add(old.card.encoded)
    key = serialization.load_pem_private_key((old.home / "signing.key").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    dealer = issue_card(
        key, name="bob", role="dealer", address="", certificates=new.card.certificates, unix_s=1_800_000_000
    )
    with pytest.raises(Untrusted, match="already trusted as buyer, found dealer"):
        trust.add(dealer.encoded)
    assert trust.cards() == (new.card,)
    trust.add(old.card.encoded, replace=True)
    assert trust.cards() == (old.card,)


def test_one_key_has_one_name_and_names_differ_in_more_than_capitals(tmp_path: Path, new_party: NewParty) -> None:
    trust = TrustStore(new_party("owner", "alice").home)
    key = Ed25519PrivateKey.generate()
    trust.add(card_of(key, "bob"))
    with pytest.raises(Untrusted, match="already known as bob"):
        trust.add(card_of(key, "robert"), replace=True)
    with pytest.raises(Untrusted, match="capitals"):
        trust.add(Identity.create(tmp_path / "Bob", "buyer", "Bob").card.encoded)


def test_nobody_takes_the_name_or_the_key_of_the_party_itself(tmp_path: Path, new_party: NewParty) -> None:
    alice = new_party("owner", "alice")
    impostor = Identity.create(tmp_path / "impostor", "buyer", "alice")
    for card in (impostor.card, alice.card):
        with pytest.raises(Untrusted, match="this party itself"):
            TrustStore(alice.home).add(card.encoded, replace=True)


def test_hostile_card_bytes_are_not_stored(new_party: NewParty) -> None:
    alice = new_party("owner", "alice")
    trust = TrustStore(alice.home)
    for data in (b"", b"\xff" * 100, bytes(MAX_CARD_BYTES + 1), new_party("buyer", "bob").card.encoded[:-1]):
        with pytest.raises(Untrusted):
            trust.add(data)
    assert list((alice.home / "trusted").iterdir()) == []


def test_one_damaged_file_does_not_lock_the_others_out(new_party: NewParty, acquaint: Acquaint) -> None:
    alice, bob, carol = new_party("owner", "alice"), new_party("buyer", "bob"), new_party("dealer", "carol")
    trust, *_ = acquaint(alice, bob, carol)
    folder = alice.home / "trusted"
    (folder / "half.card").write_bytes(bob.card.encoded[:300])
    (folder / "aaa.card").write_bytes(new_party("buyer", "eve").card.encoded)
    (folder / "notes.txt").write_text("not a card")
    (folder / "dir.card").mkdir()
    assert trust.cards() == (bob.card, carol.card)
    assert [line.split(":")[0] for line in trust.problems()] == ["aaa.card", "half.card"]
    with pytest.raises(Untrusted):
        trust.by_name("eve")


@pytest.mark.parametrize("name", ["bob", "../card", "", "a/b"])
def test_only_a_trusted_party_can_be_removed(new_party: NewParty, name: str) -> None:
    alice = new_party("owner", "alice")
    with pytest.raises(Untrusted, match="no party called"):
        TrustStore(alice.home).remove(name)
    assert (alice.home / "card").is_file()


def test_expiry_stops_the_connection_not_old_signatures(tmp_path: Path, new_party: NewParty) -> None:
    clock = ManualClock()
    bob = Identity.create(tmp_path / "bob", "buyer", "bob", clock=clock)
    trust = TrustStore(new_party("owner", "alice").home, clock)
    trust.add(bob.card.encoded)
    signed = bob.sign("receipt", b"done")
    clock.advance(398 * DAY_S)
    with pytest.raises(Untrusted, match="certificate of bob expired") as caught:
        trust.by_certificate(bob.tls_certificate_pem)
    assert "rotate" in caught.value.hint
    assert verify(signed, "receipt", trust.by_key_id(bob.key_id)) == b"done"


def test_a_store_is_read_by_many_threads_while_cards_come_in(new_party: NewParty, acquaint: Acquaint) -> None:
    alice, bob = new_party("owner", "alice"), new_party("buyer", "bob")
    trust, _ = acquaint(alice, bob)
    others = [new_party("buyer", f"b{i}") for i in range(8)]
    failures: list[Exception] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                assert trust.by_certificate(bob.tls_certificate_pem) == bob.card
            except Exception as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for other in others:
        trust.add(other.card.encoded)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == [] and len(trust.cards()) == 9

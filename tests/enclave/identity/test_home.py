"""Homes: their files, their damage, expiry and rotation."""

from __future__ import annotations

import datetime
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from enclave.clock import ManualClock
from enclave.errors import BadInput, BadSpec, EnclaveError, StoreError, Untrusted
from enclave.identity import MAX_CARD_BYTES, ROLES, Identity, TrustStore, verify

DAY_S = 86_400
NewParty = Callable[..., Identity]
Acquaint = Callable[..., tuple[TrustStore, ...]]


def test_a_home_has_its_files_with_their_modes(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    old = os.umask(0)
    try:
        Identity.create(home, "owner", "alice", "127.0.0.1:7443")
    finally:
        os.umask(old)
    modes = {str(p.relative_to(home)): stat.S_IMODE(p.stat().st_mode) for p in home.rglob("*")}
    assert modes == {"signing.key": 0o600, "tls.pem": 0o600, "card": 0o644, "trusted": 0o700}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.parametrize("role", ROLES)
def test_what_is_loaded_is_what_was_created(tmp_path: Path, role: str) -> None:
    made = Identity.create(tmp_path, role, "a.b_c-1", "node.example.org:443")
    found = Identity.load(tmp_path)
    assert (found.name, found.role, found.card, found.key_id) == ("a.b_c-1", role, made.card, made.key_id)
    assert found.card.address == "node.example.org:443"
    assert (found.tls_key_pem, found.tls_certificate_pem) == (made.tls_key_pem, made.tls_certificate_pem)
    assert verify(found.sign("job", b"x"), "job", made.card) == b"x"


def test_the_certificate_is_what_tls_needs(new_party: NewParty) -> None:
    alice = new_party("owner", "alice")
    certificate = x509.load_pem_x509_certificate(alice.tls_certificate_pem)
    key = serialization.load_pem_private_key(alice.tls_key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()
    hosts = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == ["enclave"]
    assert certificate.subject.rfc4514_string() == f"CN={alice.key_id.hex()}"
    # A node shows its certificate, and the subjects of those it accepts, to everybody who connects.
    assert b"alice" not in certificate.public_bytes(serialization.Encoding.DER)
    assert alice.card.certificates == (alice.tls_certificate_pem,)
    days = (certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days
    assert days in (396, 397) and alice.expires_unix_s == int(certificate.not_valid_after_utc.timestamp())


def test_two_parties_share_no_key(new_party: NewParty) -> None:
    parties = [new_party("owner", name) for name in ("a", "b", "c")]
    assert len({p.key_id for p in parties}) == len({p.tls_key_pem for p in parties}) == 3


def test_a_home_is_never_overwritten(tmp_path: Path) -> None:
    alice = Identity.create(tmp_path / "home", "owner", "alice")
    with pytest.raises(BadInput, match="not empty") as caught:
        Identity.create(tmp_path / "home", "owner", "alice")
    assert caught.value.code == "input.home" and caught.value.hint
    assert Identity.load(tmp_path / "home").key_id == alice.key_id
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        Identity.create(tmp_path / "other", "owner", "alice")


def test_a_home_where_a_file_stands_is_an_error_of_this_project(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EnclaveError):
            Identity.create(home, "owner", "alice")


@pytest.mark.parametrize(
    ("role", "name", "address"),
    [
        ("king", "alice", ""),
        ("", "alice", ""),
        ("owner", "", ""),
        ("owner", "a/b", ""),
        ("owner", "..", ""),
        ("owner", "a" * 65, ""),
        ("owner", "alice\n", ""),
        ("owner", "alice", "nowhere"),
        ("owner", "alice", "host:0"),
        ("owner", "alice", "host:65536"),
        ("owner", "alice", "host:1/../x"),
        ("owner", "alice", "a b:1"),
    ],
)
def test_a_malformed_party_leaves_no_home(tmp_path: Path, role: str, name: str, address: str) -> None:
    with pytest.raises(BadSpec):
        Identity.create(tmp_path / "home", role, name, address)
    assert not (tmp_path / "home").exists()


def test_a_full_disk_leaves_no_half_of_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == "card":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        Identity.create(tmp_path / "home", "owner", "alice")
    monkeypatch.undo()
    assert list((tmp_path / "home").iterdir()) == []
    assert Identity.create(tmp_path / "home", "owner", "alice").name == "alice"


def test_secrets_are_not_in_the_repr(new_party: NewParty) -> None:
    alice = new_party("owner", "alice")
    text = f"{alice!r} {alice} {alice.card!r}"
    assert "alice" in text and "PRIVATE" not in text
    assert "PRIVATE" not in alice.card.encoded.decode("latin-1")


@pytest.mark.parametrize("name", ["signing.key", "tls.pem"])
def test_keys_that_others_may_read_are_refused(new_party: NewParty, name: str) -> None:
    home = new_party("owner", "alice").home
    (home / name).chmod(0o640)
    with pytest.raises(StoreError, match="expected mode 0600, found 0640") as caught:
        Identity.load(home)
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("name", ["signing.key", "tls.pem", "card"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "swapped"])
def test_a_damaged_home_is_refused(new_party: NewParty, name: str, damage: str) -> None:
    alice, bob = new_party("owner", "alice"), new_party("owner", "bob")
    path = alice.home / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "garbage": b"\x0a\xff" * 50}.get(damage, (bob.home / name).read_bytes()))
    with pytest.raises(StoreError) as caught:
        Identity.load(alice.home)
    assert "PRIVATE" not in str(caught.value)


def test_an_absent_home_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a home") as caught:
        Identity.load(tmp_path / "nothing")
    assert "enclave init" in caught.value.hint


def test_no_temporary_file_is_left(new_party: NewParty, acquaint: Acquaint) -> None:
    alice, bob = new_party("owner", "alice"), new_party("buyer", "bob")
    acquaint(alice, bob)
    alice.rotate()
    assert [p for p in alice.home.rglob(".*")] == []


def test_an_expired_home_says_to_rotate_and_can(tmp_path: Path) -> None:
    clock = ManualClock()
    alice = Identity.create(tmp_path, "owner", "alice", clock=clock)
    clock.advance(397 * DAY_S)
    assert Identity.load(tmp_path, clock).name == "alice"
    clock.advance(1)
    with pytest.raises(Untrusted, match=r"alice.*expired on 2024-12-15") as caught:
        Identity.load(tmp_path, clock)
    assert "enclave rotate" in caught.value.hint and caught.value.code == "untrusted.expired"
    renewed = Identity.load(tmp_path, clock, expired_ok=True).rotate(clock)
    assert renewed.key_id == alice.key_id and len(renewed.card.certificates) == 1
    assert Identity.load(tmp_path, clock).tls_certificate_pem == renewed.tls_certificate_pem


def test_a_certificate_from_the_future_is_refused(tmp_path: Path) -> None:
    clock = ManualClock()
    Identity.create(tmp_path, "owner", "alice", clock=clock)
    assert Identity.load(tmp_path, ManualClock(clock.unix_s() - 3600)).name == "alice"
    with pytest.raises(Untrusted, match="not valid before"):
        Identity.load(tmp_path, ManualClock(clock.unix_s() - 3601))


def test_rotation_keeps_the_old_certificate_until_it_expires(tmp_path: Path) -> None:
    clock = ManualClock()
    alice = Identity.create(tmp_path / "alice", "owner", "alice", clock=clock)
    bob = Identity.create(tmp_path / "bob", "buyer", "bob", clock=clock)
    trust = TrustStore(bob.home, clock)
    trust.add(alice.card.encoded)
    clock.advance(300 * DAY_S)
    renewed = alice.rotate(clock)
    assert renewed.card.certificates == (renewed.tls_certificate_pem, alice.tls_certificate_pem)
    assert Identity.load(alice.home, clock).tls_key_pem == renewed.tls_key_pem != alice.tls_key_pem

    with pytest.raises(Untrusted, match="unknown certificate"):
        trust.by_certificate(renewed.tls_certificate_pem)
    trust.add(renewed.card.encoded)
    assert trust.by_certificate(renewed.tls_certificate_pem) == trust.by_certificate(alice.tls_certificate_pem)

    clock.advance(97 * DAY_S + 1)
    assert trust.by_certificate(renewed.tls_certificate_pem).name == "alice"
    with pytest.raises(Untrusted, match="certificate of alice expired"):
        trust.by_certificate(alice.tls_certificate_pem)
    assert renewed.rotate(clock).card.certificates[1:] == (renewed.tls_certificate_pem,)


def test_rotation_after_a_theft_drops_the_old_certificate(new_party: NewParty, acquaint: Acquaint) -> None:
    alice, bob = new_party("owner", "alice"), new_party("buyer", "bob")
    _, trust = acquaint(alice, bob)
    trust.add(alice.rotate(keep_old=False).card.encoded)
    with pytest.raises(Untrusted, match="unknown certificate"):
        trust.by_certificate(alice.tls_certificate_pem)


def test_many_rotations_stay_within_the_limits_of_a_card(new_party: NewParty) -> None:
    alice = new_party("owner", "alice")
    for _ in range(6):
        alice = alice.rotate()
    assert len(alice.card.certificates) == 4 and len(alice.card.encoded) < MAX_CARD_BYTES


def test_a_crash_between_the_two_writes_of_a_rotation_loses_nothing(
    new_party: NewParty, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = new_party("owner", "alice")
    replace = os.replace

    def crash(source: Path, target: Path) -> None:
        if target.name == "tls.pem":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(StoreError, match="No space left"):
        alice.rotate()
    monkeypatch.undo()
    found = Identity.load(alice.home)
    assert found.tls_certificate_pem == alice.tls_certificate_pem
    assert alice.tls_certificate_pem in found.card.certificates and len(found.card.certificates) == 2
    assert len(found.rotate().card.certificates) == 3


def test_a_clock_that_was_set_back_does_not_make_an_older_card(tmp_path: Path) -> None:
    alice = Identity.create(tmp_path, "owner", "alice", clock=ManualClock(1_700_000_000))
    assert alice.rotate(ManualClock(1_600_000_000)).card.issued_unix_s == 1_700_000_000


def test_a_moved_party_keeps_its_keys(new_party: NewParty, acquaint: Acquaint) -> None:
    alice, bob = new_party("owner", "alice"), new_party("buyer", "bob")
    _, trust = acquaint(alice, bob)
    moved = alice.move("10.0.0.1:7443")
    assert trust.add(moved.card.encoded).address == Identity.load(alice.home).card.address == "10.0.0.1:7443"
    assert trust.by_certificate(alice.tls_certificate_pem).address == "10.0.0.1:7443"
    with pytest.raises(BadSpec, match="address"):
        alice.move("nowhere")


def test_the_current_identity_is_what_the_home_says_now(new_party: NewParty, tmp_path: Path) -> None:
    alice, eve = new_party("owner", "alice"), new_party("owner", "eve")
    assert alice.current() is alice
    renewed = alice.rotate()
    assert alice.current().tls_certificate_pem == renewed.tls_certificate_pem
    assert alice.current().card == renewed.card and renewed.current() is renewed
    (alice.home / "tls.pem").chmod(0o644)
    assert alice.current() is alice, "others may read the key: not used"
    (alice.home / "tls.pem").chmod(0o600)
    for name in ("signing.key", "tls.pem", "card"):
        (alice.home / name).write_bytes((eve.home / name).read_bytes())
    assert alice.current() is alice, "another party's keys"
    shutil.rmtree(alice.home)
    assert alice.current() is alice

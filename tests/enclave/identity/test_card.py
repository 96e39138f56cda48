"""Cards and signatures: what they hold, and what hostile bytes must not achieve."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enclave.errors import BadSpec, Untrusted
from enclave.identity import DOMAINS, MAX_CARD_BYTES, Card, Identity, TrustStore, verify
from enclave.identity.card import SERVER_NAME, CardBody, sign_with
from enclave.messages import Signed

NewParty = Callable[..., Identity]
Acquaint = Callable[..., tuple[TrustStore, ...]]


def forge(key: Ed25519PrivateKey, certificates: tuple[bytes, ...], **changes: object) -> bytes:
    """A card signed by `key` whose body skips every check of this project."""
    message = CardBody.wire()
    fields: dict[str, object] = {"name": "mallory", "role": "buyer", "address": "", "issued_unix_s": 1, **changes}
    fields.setdefault("signing_key", key.public_key().public_bytes_raw())
    for name, value in fields.items():
        setattr(message, name, value)
    message.certificates.extend(certificates)  # type: ignore[attr-defined]
    return sign_with(key, "card", message.SerializeToString()).encode()


def make_certificate(
    name: str = "mallory",
    *,
    ca: bool = False,
    usages: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    issuer: ec.EllipticCurvePrivateKey | None = None,
    host: str = SERVER_NAME,
) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), False)
    return builder.sign(issuer or key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_signature_holds_for_its_purpose_body_and_party_only(new_party: NewParty) -> None:
    alice, bob = new_party("owner", "alice"), new_party("buyer", "bob")
    signed = alice.sign("approval", b"body")
    assert verify(signed, "approval", alice.card) == b"body"
    for domain in DOMAINS - {"approval"}:
        with pytest.raises(Untrusted, match="does not hold"):
            verify(signed, domain, alice.card)
    with pytest.raises(Untrusted, match="another key"):
        verify(signed, "approval", bob.card)
    with pytest.raises(Untrusted, match="does not hold"):
        verify(dataclasses.replace(signed, key_id=bob.key_id), "approval", bob.card)
    for changed in (
        dataclasses.replace(signed, body=b"Body"),
        dataclasses.replace(signed, body=b""),
        dataclasses.replace(signed, signature=b""),
        dataclasses.replace(signed, signature=signed.signature[:-1]),
        dataclasses.replace(signed, signature=signed.signature + b"\0"),
        dataclasses.replace(signed, signature=bytes(64)),
    ):
        with pytest.raises(Untrusted, match="the approval signature of alice does not hold"):
            verify(changed, "approval", alice.card)


def test_an_unknown_purpose_is_a_programming_error(new_party: NewParty) -> None:
    alice = new_party("owner", "alice")
    with pytest.raises(ValueError, match="domain"):
        alice.sign("anything", b"")
    with pytest.raises(ValueError, match="domain"):
        verify(alice.sign("job", b""), "anything", alice.card)


def test_the_signed_bytes_are_fixed(new_party: NewParty) -> None:
    """The format that other implementations must produce: RFC 8032 over tag, domain, zero, SHA-256 of the body."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    signed = sign_with(key, "job", b"body")
    digest = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"
    key.public_key().verify(signed.signature, b"enclave/v1/job\0" + bytes.fromhex(digest))
    assert signed.key_id.hex() == "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c"


def test_a_card_survives_its_journey(new_party: NewParty) -> None:
    alice = new_party("owner", "alice", "[::1]:7443")
    card = Card.decode((alice.home / "card").read_bytes())
    assert card == alice.card and card.encoded == (alice.home / "card").read_bytes()
    assert len(card.key_id) == 32 and card.key_id == alice.key_id


def test_every_flipped_bit_of_a_card_is_refused(new_party: NewParty) -> None:
    encoded = new_party("owner", "alice").card.encoded
    for bit in range(0, len(encoded) * 8, 5):
        hostile = bytearray(encoded)
        hostile[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Untrusted):
            Card.decode(bytes(hostile))


def test_every_truncation_of_a_card_is_refused(new_party: NewParty) -> None:
    encoded = new_party("owner", "alice").card.encoded
    for size in range(0, len(encoded), 3):
        with pytest.raises(Untrusted):
            Card.decode(encoded[:size])


def test_an_oversized_card_is_refused_unread() -> None:
    with pytest.raises(Untrusted, match="too long"):
        Card.decode(bytes(MAX_CARD_BYTES + 1))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "../../etc/passwd"}, "plain name"),
        ({"name": "a/b"}, "plain name"),
        ({"name": ".hidden"}, "plain name"),
        ({"name": "m\0"}, "plain name"),
        ({"name": ""}, "plain name"),
        ({"role": "root"}, "role"),
        ({"role": "Owner"}, "role"),
        ({"address": "http://x"}, "address"),
        ({"address": "h:99999"}, "address"),
        ({"signing_key": b"short"}, "32 bytes"),
        ({"issued_unix_s": -1}, "issue time"),
        ({"name": "eve"}, "made out to mallory"),
    ],
)
def test_a_self_signed_card_with_hostile_fields_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(Untrusted, match=text):
        Card.decode(forge(Ed25519PrivateKey.generate(), (make_certificate(),), **changes))


def test_the_forger_of_these_tests_can_make_a_good_card() -> None:
    assert Card.decode(forge(Ed25519PrivateKey.generate(), (make_certificate(),))).name == "mallory"


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (lambda: b"", "one PEM certificate"),
        (lambda: make_certificate() * 2, "one PEM certificate"),
        (lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "malformed"),
        (lambda: make_certificate(ca=True), "issue other certificates"),
        (lambda: make_certificate(host="example.org"), "made out to"),
        (lambda: make_certificate(usages=(ExtendedKeyUsageOID.SERVER_AUTH,)), "both ends"),
        (lambda: make_certificate(key=rsa.generate_private_key(65537, 2048)), "P-256"),
        (lambda: make_certificate(key=ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (lambda: make_certificate(issuer=ec.generate_private_key(ec.SECP256R1())), "needed part"),
    ],
)
def test_a_card_with_an_unfit_certificate_is_refused(certificate: Callable[[], bytes], text: str) -> None:
    with pytest.raises(Untrusted, match=text):
        Card.decode(forge(Ed25519PrivateKey.generate(), (certificate(),)))


@pytest.mark.parametrize("count", [0, 5])
def test_a_card_has_one_to_four_certificates(count: int) -> None:
    with pytest.raises(Untrusted, match="1 to 4 certificates"):
        Card.decode(forge(Ed25519PrivateKey.generate(), (make_certificate(),) * count))


def test_a_card_signed_by_another_key_than_its_own_is_refused() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(Untrusted, match="another key"):
        Card.decode(forge(Ed25519PrivateKey.generate(), (make_certificate(),), signing_key=other))


def test_a_key_of_small_order_signs_nothing() -> None:
    """With the neutral element as key, one signature holds for every message: OpenSSL accepts it, a card must not."""
    neutral, signature = b"\1" + bytes(31), b"\1" + bytes(63)
    for message in (b"yes", b"no"):
        Ed25519PublicKey.from_public_bytes(neutral).verify(signature, message)
    body = CardBody.wire(name="mallory", role="buyer", signing_key=neutral, certificates=[make_certificate()])
    key_id = "01d0fabd251fcbbe2b93b4b927b26ad2a1a99077152e45ded1e678afa45dbec5"
    card = Signed(body.SerializeToString(), bytes.fromhex(key_id), signature)
    with pytest.raises(Untrusted, match="small order"):
        Card.decode(card.encode())


def test_a_card_without_an_organisation_is_run_under_its_own_name(new_party: NewParty, tmp_path: Path) -> None:
    alice = new_party("owner", "alice")
    old = forge(Ed25519PrivateKey.generate(), (make_certificate(),))
    assert Card.decode(old).organisation == "mallory" and alice.card.organisation == "alice"
    named = Identity.create(tmp_path / "named", "dealer", "deal", organisation=" Trust Ltd ")
    assert named.card.organisation == Identity.load(named.home).card.organisation == "Trust Ltd"
    assert named.rotate().card.organisation == named.move("h:1").card.organisation == "Trust Ltd"
    for text in ("two\nlines", "\x1b[2J", "x" * 121):
        with pytest.raises(BadSpec, match="one line of at most 120"):
            Identity.create(tmp_path / "bad", "dealer", "deal", organisation=text)

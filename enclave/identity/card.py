"""The public card of a party, and signatures over bytes.

What is signed is `b"enclave/v1/" + domain + b"\\0" + SHA-256(body)`. The domain keeps a signature made for one
purpose (say a ledger entry) from being shown for another (say an approval) whose bytes happen to parse as well; no
domain contains a zero byte, so no two pairs of domain and body give one input unless SHA-256 collides. The body
is hashed first so that a signature can later be checked by somebody who may see only the digest.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enclave.errors import BadSpec, Untrusted
from enclave.messages import Signed, Value, check, is_name, is_organisation
from enclave.wire import identity_pb2

__all__ = ["DOMAINS", "MAX_CARD_BYTES", "ROLES", "Card", "verify"]

ROLES = ("owner", "dealer", "buyer", "auditor")
DOMAINS = frozenset({"job", "approval", "withdraw", "statement", "receipt", "ledger", "card"})
MAX_CARD_BYTES = 16_384
MAX_CERTIFICATES = 4
SERVER_NAME = "enclave"
CERTIFICATE_DAYS = 397

_ADDRESS = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
# A certificate made a moment ago must be valid on a machine whose clock is a little behind.
_CLOCK_SKEW = datetime.timedelta(hours=1)
# Safety: for a key of small order a signature can be found that holds for any message, so that its owner could
# deny what it signed. OpenSSL accepts such keys. These are all encodings, without the sign bit, of the eight points.
_SMALL_ORDER = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


@dataclass(frozen=True, slots=True)
class CardBody(Value):
    """What a card says, in the form that is signed."""

    wire = identity_pb2.Card
    name: str
    role: str
    address: str
    signing_key: bytes
    certificates: tuple[bytes, ...]
    issued_unix_s: int
    organisation: str = ""

    def __post_init__(self) -> None:
        check(is_name(self.name), f"party name {self.name[:80]!r} is not a plain name")
        check(self.role in ROLES, f"role must be one of {', '.join(ROLES)}, found {self.role[:40]!r}")
        check(is_address(self.address), f"address must be host:port or empty, found {self.address[:80]!r}")
        check(len(self.signing_key) == 32, f"signing key must have 32 bytes, found {len(self.signing_key)}")
        check(_without_sign(self.signing_key) not in _SMALL_ORDER, "signing key has small order")
        count = len(self.certificates)
        check(1 <= count <= MAX_CERTIFICATES, f"a card has 1 to {MAX_CERTIFICATES} certificates, found {count}")
        check(is_organisation(self.organisation), "organisation must be one line of at most 120 signs")
        check(0 <= self.issued_unix_s < 1 << 40, f"issue time out of range: {self.issued_unix_s}")


@dataclass(frozen=True, slots=True)
class Card:
    """A party's name, role, address, public signing key and TLS certificates, as that party signed them.

    Attributes:
        signing_key: the raw Ed25519 public key, 32 bytes.
        certificates: PEM, newest first. More than one while a rotation is under way.
        organisation: who runs the party, as it says itself; on older cards its name.
        encoded: the bytes as received; a card is passed on in this form only.
    """

    name: str
    role: str
    address: str
    signing_key: bytes
    certificates: tuple[bytes, ...]
    issued_unix_s: int
    encoded: bytes = field(repr=False)
    organisation: str = ""

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the signing key, 32 bytes: what job specs and signatures name the party by."""
        return hashlib.sha256(self.signing_key).digest()

    @classmethod
    def decode(cls, data: bytes) -> Card:
        """Parses a card and verifies its self-signature and its certificates (their form, not their dates).

        Raises:
            Untrusted: the bytes are too long, damaged, not signed by the key they name, or the certificates are
                not what this project makes.
        """
        try:
            signed = Signed.decode(data, limit_bytes=MAX_CARD_BYTES)
            body = CardBody.decode(signed.body, limit_bytes=MAX_CARD_BYTES)
        except BadSpec as error:
            raise Untrusted(f"not a card: {error.public}", hint=_ASK_AGAIN) from error
        card = cls(
            name=body.name,
            role=body.role,
            address=body.address,
            signing_key=body.signing_key,
            certificates=body.certificates,
            issued_unix_s=body.issued_unix_s,
            encoded=bytes(data),
            organisation=body.organisation or body.name,
        )
        verify(signed, "card", card)
        for pem in card.certificates:
            _check_certificate(pem, card)
        return card


_ASK_AGAIN = "ask the party for its card again; it is the file `card` in its home directory"


def is_address(text: str) -> bool:
    """Whether `text` is empty or host:port."""
    match = _ADDRESS.fullmatch(text)
    return not text or (match is not None and 0 < int(match[1]) < 65_536)


def _without_sign(key: bytes) -> bytes:
    return key[:31] + bytes([key[31] & 0x7F])


def _signing_input(domain: str, body: bytes) -> bytes:
    if domain not in DOMAINS:
        raise ValueError(f"signature domain must be one of {sorted(DOMAINS)}, got {domain!r}")
    return b"enclave/v1/" + domain.encode() + b"\0" + hashlib.sha256(body).digest()


def sign_with(key: Ed25519PrivateKey, domain: str, body: bytes) -> Signed:
    """Signs `body` for one purpose; raises ValueError when `domain` is not in `DOMAINS`."""
    key_id = hashlib.sha256(key.public_key().public_bytes_raw()).digest()
    return Signed(body=body, key_id=key_id, signature=key.sign(_signing_input(domain, body)))


def verify(signed: Signed, domain: str, card: Card) -> bytes:
    """The body of `signed`, if the party of `card` signed it for `domain`.

    Raises:
        Untrusted: another key is named, or the signature does not hold.
    """
    if signed.key_id != card.key_id:
        raise Untrusted(
            f"signed by another key: expected {card.key_id.hex()[:16]} of {card.name}, found {signed.key_id.hex()[:16]}"
        )
    try:
        Ed25519PublicKey.from_public_bytes(card.signing_key).verify(
            signed.signature, _signing_input(domain, signed.body)
        )
    except (InvalidSignature, ValueError) as error:
        if domain not in DOMAINS:
            raise
        raise Untrusted(f"the {domain} signature of {card.name} does not hold") from error
    return signed.body


def issue_card(
    key: Ed25519PrivateKey,
    *,
    name: str,
    role: str,
    address: str,
    certificates: tuple[bytes, ...],
    unix_s: int,
    organisation: str = "",
) -> Card:
    """A new card signed by `key`; raises BadSpec when a field is malformed."""
    public = key.public_key().public_bytes_raw()
    body = CardBody(name, role, address, public, certificates, unix_s, organisation)
    return Card.decode(sign_with(key, "card", body.encode()).encode())


# ---- certificates


def new_certificate(key_id: bytes, unix_s: int) -> tuple[bytes, bytes]:
    """A fresh ECDSA P-256 key and a self-signed certificate for it: (private key PKCS8 PEM, certificate PEM).

    It is made out to the party's key id in hex, and not to its name: whoever connects to a node is shown the node's
    certificate and the subjects of all that the node would accept, before it has shown one itself.

    There is no key usage extension: TLS libraries accept a self-signed certificate as its own trust anchor only
    when its key usage is absent or lets it sign certificates, and it must not sign any. The key identifiers tell the
    library a party's old and new certificate apart, which have one subject: it looks at the first that fits.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, key_id.hex())])
    now = datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def der(pem: bytes) -> bytes:
    """The DER bytes of one PEM certificate; raises Untrusted when it is none."""
    return _parse(pem).public_bytes(serialization.Encoding.DER)


def check_dates(pem: bytes, unix_s: int, *, who: str, hint: str) -> None:
    """Raises Untrusted unless the certificate is valid at `unix_s` (the ends belong to the validity)."""
    certificate = _parse(pem)
    now = datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
    if now > certificate.not_valid_after_utc:
        end = certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")
        raise Untrusted(f"the certificate of {who} expired on {end}", hint=hint, code="untrusted.expired")
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc.strftime("%Y-%m-%d %H:%M UTC")
        raise Untrusted(
            f"the certificate of {who} is not valid before {begin}",
            hint="compare the clocks of the two machines",
            code="untrusted.not_yet_valid",
        )


def expires_unix_s(pem: bytes) -> int:
    """The last second at which the certificate is valid."""
    return int(_parse(pem).not_valid_after_utc.timestamp())


def _parse(pem: bytes) -> x509.Certificate:
    if pem.count(b"-----BEGIN ") != 1 or len(pem) > MAX_CARD_BYTES:
        raise Untrusted("expected one PEM certificate")
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise Untrusted("malformed certificate") from error


def _check_certificate(pem: bytes, card: Card) -> None:
    certificate, name = _parse(pem), card.name
    try:
        names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = alternative.get_values_for_type(x509.DNSName)
        key = certificate.public_key()
        certificate.verify_directly_issued_by(certificate)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, UnsupportedAlgorithm, InvalidSignature) as error:
        raise Untrusted(f"the certificate on the card of {name} lacks a needed part") from error
    except (ValueError, TypeError) as error:
        raise Untrusted(f"the certificate on the card of {name} is malformed") from error
    # The first cards had certificates made out to the party's name.
    if names not in ([card.key_id.hex()], [name]) or SERVER_NAME not in hosts:
        raise Untrusted(f"the certificate on the card of {name} is made out to {', '.join(names)[:80] or 'nobody'}")
    # Safety: a certificate that may issue others would widen what the TLS library accepts before we look at it.
    if basic.ca:
        raise Untrusted(f"the certificate on the card of {name} could issue other certificates")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage or ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise Untrusted(f"the certificate on the card of {name} is not for both ends of a connection")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Untrusted(f"the certificate on the card of {name} must have an ECDSA P-256 key")

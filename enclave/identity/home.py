"""A party's home directory: its private keys and its card.

    HOME/                mode 0700
      signing.key        Ed25519, PKCS8 PEM, mode 0600
      tls.pem            ECDSA P-256 key (PKCS8) and its certificate, in one file, mode 0600
      card               the public card; give it to the parties that shall trust this one
      trusted/NAME.card  the cards this party trusts

The TLS key and its certificate share a file so that they change together. A rotation writes the card first: a crash
between the two writes leaves a card that lists the new certificate and the one still in use, and the home loads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from enclave.clock import Clock, SystemClock
from enclave.errors import BadInput, StoreError, Untrusted
from enclave.identity import card as cards
from enclave.identity.card import MAX_CARD_BYTES, MAX_CERTIFICATES, Card
from enclave.messages import Signed

__all__ = ["Identity"]

_MAX_KEY_BYTES = 16_384
_END_OF_KEY = b"-----END PRIVATE KEY-----\n"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Identity:
    """A party's own keys. `create` makes them once, `load` reads them; the object itself never changes.

    A process that runs for long asks for `current` before it shows a certificate.

    Attributes:
        tls_key_pem: PKCS8 PEM of the TLS key. Secret.
        tls_certificate_pem: the certificate that this party shows now.
    """

    home: Path
    card: Card
    tls_key_pem: bytes
    tls_certificate_pem: bytes
    _signing_key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"Identity({self.role} {self.name}, key {self.key_id.hex()[:16]})"

    @property
    def name(self) -> str:
        """The party's name."""
        return self.card.name

    @property
    def role(self) -> str:
        """owner, dealer, buyer or auditor."""
        return self.card.role

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the public signing key, 32 bytes."""
        return self.card.key_id

    @property
    def expires_unix_s(self) -> int:
        """The last second at which the TLS certificate is valid."""
        return cards.expires_unix_s(self.tls_certificate_pem)

    @classmethod
    def create(
        cls,
        home: Path,
        role: str,
        name: str,
        address: str = "",
        clock: Clock | None = None,
        organisation: str = "",
    ) -> Identity:
        """Makes a new party in `home`, which must be absent or empty.

        Args:
            organisation: who runs the party; its name if empty.

        Raises:
            BadInput: `home` holds something already, or role, name or address are malformed (BadSpec).
            StoreError: the disk refuses.
        """
        unix_s = (clock or SystemClock()).unix_s()
        key = Ed25519PrivateKey.generate()
        tls_key, certificate = cards.new_certificate(
            hashlib.sha256(key.public_key().public_bytes_raw()).digest(), unix_s
        )
        card = cards.issue_card(
            key,
            name=name,
            role=role,
            address=address,
            certificates=(certificate,),
            unix_s=unix_s,
            organisation=organisation.strip() or name,
        )
        signing_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            _make_home(home)
        except FileExistsError as error:
            raise BadInput(
                f"{home} is not empty: a new home needs an empty or absent directory",
                hint="choose another directory, or `rotate` to renew the certificate of a home",
                code="input.home",
            ) from error
        except OSError as error:
            raise StoreError(f"cannot create {home}: {error.strerror}") from error
        try:
            write_file(home / "signing.key", signing_pem, 0o600)
            write_file(home / "tls.pem", tls_key + certificate, 0o600)
            write_file(home / "card", card.encoded, 0o644)
        except StoreError:
            _unmake_home(home)
            raise
        return cls(home, card, tls_key, certificate, key)

    @classmethod
    def load(cls, home: Path, clock: Clock | None = None, *, expired_ok: bool = False) -> Identity:
        """Reads the party in `home`. `expired_ok` is for renewing a certificate, and for nothing that talks TLS.

        Raises:
            StoreError: `home` is no home, is damaged, or others may read its keys.
            Untrusted: the certificate has expired.
        """
        if not (home / "card").is_file():
            raise StoreError(f"{home} is not a home: it has no card", hint="make one with `enclave init ROLE NAME`")
        signing_pem = _read_secret(home / "signing.key")
        tls_pem = _read_secret(home / "tls.pem")
        tls_key, end, certificate = tls_pem.partition(_END_OF_KEY)
        try:
            key = serialization.load_pem_private_key(signing_pem, password=None)
            card = Card.decode(read_file(home / "card", MAX_CARD_BYTES))
            current = cards.der(certificate)
            listed = {cards.der(pem) for pem in card.certificates}
        except (ValueError, TypeError, Untrusted) as error:
            raise StoreError(f"the home {home} is damaged: {type(error).__name__}", hint=_RESTORE) from error
        if not isinstance(key, Ed25519PrivateKey) or key.public_key().public_bytes_raw() != card.signing_key:
            raise StoreError(f"the home {home} is damaged: signing.key is not the key of its card", hint=_RESTORE)
        if current not in listed:
            raise StoreError(f"the home {home} is damaged: tls.pem is not on its card", hint=_RESTORE)
        if not expired_ok:
            now = (clock or SystemClock()).unix_s()
            cards.check_dates(certificate, now, who=f"this party ({card.name})", hint="renew it with `enclave rotate`")
        return cls(home, card, tls_key + end, certificate, key)

    def current(self) -> Identity:
        """This party as its home says now: the renewed one, after another process has rotated its certificate.

        Itself while nothing changed, and where the home cannot be read or has become another party's.
        """
        try:
            if _read_secret(self.home / "tls.pem") == self.tls_key_pem + self.tls_certificate_pem:
                return self
            found = Identity.load(self.home, expired_ok=True)
        except (StoreError, OSError):
            return self
        return found if found.key_id == self.key_id else self

    def sign(self, domain: str, body: bytes) -> Signed:
        """Signs `body` for one purpose; raises ValueError when `domain` is not one of `DOMAINS`."""
        return cards.sign_with(self._signing_key, domain, body)

    def rotate(self, clock: Clock | None = None, *, keep_old: bool = True) -> Identity:
        """Makes a new TLS key and certificate, writes them and a new card, and returns the renewed identity.

        The signing key, and so the party's key id, stays. Peers accept the new certificate once they have been
        given the new card, without a restart; a running node shows the new certificate from its next connection on. A
        peer with the old card refuses it: hand the new card out at once. Until it expires the old certificate
        stays on the card, for connections and sessions that began with it. With `keep_old` False, for a key that
        may have been stolen, peers drop the old certificate as soon as they have the new card.

        Raises:
            StoreError: the disk refuses; the old certificate is then still in use.
        """
        unix_s = (clock or SystemClock()).unix_s()
        tls_key, certificate = cards.new_certificate(self.key_id, unix_s)
        others = (pem for pem in self.card.certificates if pem != self.tls_certificate_pem)
        kept = [pem for pem in (self.tls_certificate_pem, *others) if cards.expires_unix_s(pem) >= unix_s]
        certificates = (certificate, *(kept[: MAX_CERTIFICATES - 1] if keep_old else ()))
        card = self._reissue(certificates, self.card.address, unix_s)
        write_file(self.home / "card", card.encoded, 0o644)
        write_file(self.home / "tls.pem", tls_key + certificate, 0o600)
        return Identity(self.home, card, tls_key, certificate, self._signing_key)

    def move(self, address: str, clock: Clock | None = None) -> Identity:
        """Writes a card with another control address; raises BadSpec when it is not host:port."""
        card = self._reissue(self.card.certificates, address, (clock or SystemClock()).unix_s())
        write_file(self.home / "card", card.encoded, 0o644)
        return Identity(self.home, card, self.tls_key_pem, self.tls_certificate_pem, self._signing_key)

    def _reissue(self, certificates: tuple[bytes, ...], address: str, unix_s: int) -> Card:
        # A clock that was set back must not make a card that peers take for an older one.
        return cards.issue_card(
            self._signing_key,
            name=self.name,
            role=self.role,
            address=address,
            certificates=certificates,
            unix_s=max(unix_s, self.card.issued_unix_s),
            organisation=self.card.organisation,
        )


_RESTORE = "restore the directory from a backup; keys cannot be recovered otherwise"


def _make_home(home: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(home.iterdir()):
        raise FileExistsError(home)
    home.chmod(0o700)
    # Safety: mkdir fails for the second of two callers, so two `create` never write keys into one home.
    (home / "trusted").mkdir(mode=0o700)


def _unmake_home(home: Path) -> None:
    # Safety: `_make_home` found the directory empty, so these are the files of this call and nobody's keys.
    with contextlib.suppress(OSError):
        for name in ("card", "tls.pem", "signing.key"):
            (home / name).unlink(missing_ok=True)
        (home / "trusted").rmdir()


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Writes a whole file so that a reader, or a crash, sees the old content or the new; raises StoreError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def read_file(path: Path, limit_bytes: int) -> bytes:
    """The content of a file of at most `limit_bytes`, one byte more when it is longer; raises StoreError."""
    try:
        with open(path, "rb") as file:
            return file.read(limit_bytes + 1)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def _read_secret(path: Path) -> bytes:
    data = read_file(path, _MAX_KEY_BYTES)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise StoreError(
            f"others may read {path}: expected mode 0600, found {mode:04o}",
            hint=f"chmod 600 {path}; if others had access to the machine, make new keys",
        )
    return data

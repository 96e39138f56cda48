"""How a stock is sealed on the disk: its binding, its head, the nonces, and the few steps that must be durable."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from enclave.engines.mpc.random import KEY_BYTES, fresh_key
from enclave.errors import SessionError, StoreError

__all__ = [
    "CHUNK_BYTES",
    "PART_CHUNKS",
    "TAG_BYTES",
    "Binding",
    "Head",
    "Secrets",
    "as_store_error",
    "damaged",
    "erase",
    "fresh_file_key",
    "is_session_name",
    "mark_used",
    "open_chunk",
    "part_path",
    "read_key",
    "seal_chunk",
    "unusable",
]

CHUNK_BYTES = 1 << 20
PART_CHUNKS = 32
TAG_BYTES = 16
FILE_KEY_BYTES = 32
SALT_BYTES = KEY_BYTES
_MAGIC = b"ENSTOCK1"
_PUBLIC = struct.Struct(">8sHHQQ32s32s32s16sH")
_SEALED = struct.Struct(f">{FILE_KEY_BYTES + TAG_BYTES}s{KEY_BYTES + TAG_BYTES}s")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_AGAIN = "deal the session again, or run it online"


def is_session_name(name: str) -> bool:
    """1 to 64 letters, digits, - and _: safe as the name of a folder."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Binding:
    """The one session and the one rank that a stock is good for.

    Attributes:
        session: a name that serves one session only, a job's id for instance.
        dealt_bytes: the plan's dealer bytes: what the leader keeps; the others keep a seed alone.
        expires_unix_s: the last second at which the session may begin.
    """

    session: str
    parties: int
    rank: int  # `parties` at the dealer, who keeps the stock's id alone
    plan_digest: bytes
    spec_digest: bytes
    dealt_bytes: int
    expires_unix_s: int = 1 << 40

    def __post_init__(self) -> None:
        if not is_session_name(self.session):
            raise ValueError(f"a session's name has 1 to 64 letters, digits, - and _, found {self.session[:80]!r}")
        if not 0 <= self.rank <= self.parties or len(self.plan_digest) != 32 or len(self.spec_digest) != 32:
            raise ValueError("expected a rank of the session and digests of 32 bytes")

    @property
    def own_bytes(self) -> int:
        """Bytes of corrections that this rank keeps."""
        return self.dealt_bytes if self.rank == 0 else 0

    @property
    def chunks(self) -> int:
        """Sealed chunks that this rank keeps."""
        return -(-self.own_bytes // CHUNK_BYTES)

    @property
    def disk_bytes(self) -> int:
        """What this rank's stock takes on the disk, without the file system's own overhead."""
        head = _PUBLIC.size + len(self.session) + _SEALED.size
        return head + self.own_bytes + TAG_BYTES * self.chunks

    def differences(self, other: Binding) -> tuple[str, ...]:
        """Names of the attributes in which two bindings differ."""
        names = (field.name for field in fields(self))
        return tuple(name for name, a, b in zip(names, astuple(self), astuple(other), strict=True) if a != b)

    def stock_id(self, nonce: bytes) -> bytes:
        """The name that all parties give the stock: a hash over the dealer's public nonce and what it is bound to."""
        sizes = struct.pack(">HQQ", self.parties, self.dealt_bytes, self.expires_unix_s)
        said = (nonce, self.plan_digest, self.spec_digest, sizes, self.session.encode())
        return hashlib.sha256(b"enclave/v1/stock" + b"".join(said)).digest()


@dataclass(frozen=True, slots=True)
class Head:
    """The public part of a stock's head."""

    binding: Binding
    stock_id: bytes
    salt: bytes

    def encode(self) -> bytes:
        """The bytes on the disk; everything sealed is bound to them."""
        b, name = self.binding, self.binding.session.encode()
        sizes = (b.parties, b.rank, b.dealt_bytes, b.expires_unix_s)
        fixed = _PUBLIC.pack(_MAGIC, *sizes, b.plan_digest, b.spec_digest, self.stock_id, self.salt, len(name))
        return fixed + name

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Reads the front of a head; raises ValueError when it is none."""
        if len(data) < _PUBLIC.size + _SEALED.size or not data.startswith(_MAGIC):
            raise ValueError(f"expected the head of a stock, found {len(data)} bytes that are none")
        _, parties, rank, dealt, expires, plan, spec, stock_id, salt, size = _PUBLIC.unpack_from(data)
        name = data[_PUBLIC.size : -_SEALED.size]
        if len(name) != size:
            raise ValueError(f"expected a name of {size} bytes, found {len(name)}")
        return cls(Binding(name.decode(), parties, rank, plan, spec, dealt, expires), stock_id, salt)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the public part."""
        return hashlib.sha256(self.encode()).digest()


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The key of one stock's chunks, and the seed in common with the dealer."""

    file_key: bytes
    seed: bytes

    def seal(self, head: Head, sealing_key: bytes) -> bytes:
        """The sealed part of the head."""
        digest = head.digest
        wrapped = AESGCM(_wrapping(sealing_key, head.salt)).encrypt(_nonce(0), self.file_key, digest)
        return _SEALED.pack(wrapped, AESGCM(self.file_key).encrypt(_nonce(0), self.seed, _bound(digest, 0)))

    @classmethod
    def open(cls, data: bytes, head: Head, sealing_key: bytes) -> Secrets:
        """Opens the end of a head; raises ValueError when it, or the public part, was changed."""
        try:
            wrapped, sealed_seed = _SEALED.unpack(data[-_SEALED.size :])
            file_key = AESGCM(_wrapping(sealing_key, head.salt)).decrypt(_nonce(0), wrapped, head.digest)
            return cls(file_key, AESGCM(file_key).decrypt(_nonce(0), sealed_seed, _bound(head.digest, 0)))
        except (InvalidTag, struct.error) as error:
            raise ValueError("the head was changed") from error


def fresh_file_key() -> bytes:
    """A key for AES-256."""
    return fresh_key() + fresh_key()


def seal_chunk(aead: AESGCM, digest: bytes, index: int, chunk: bytes | memoryview) -> bytes:
    """Chunk `index` of the stock whose head has `digest`; TAG_BYTES longer than the chunk."""
    return aead.encrypt(_nonce(index + 1), chunk, _bound(digest, index + 1))


def open_chunk(aead: AESGCM, digest: bytes, index: int, sealed: bytes) -> bytes:
    """The chunk; raises ValueError when it was changed, or is another one."""
    try:
        return aead.decrypt(_nonce(index + 1), sealed, _bound(digest, index + 1))
    except InvalidTag as error:
        raise ValueError(f"chunk {index} was changed") from error


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")


def _bound(digest: bytes, index: int) -> bytes:
    return digest + index.to_bytes(8, "big")


def _wrapping(sealing_key: bytes, salt: bytes) -> bytes:
    # Safety: a fresh salt for every stock, so that this key seals one file key and a fixed nonce will do.
    return HKDF(SHA256(), 32, salt, b"enclave/v1/stock key").derive(sealing_key)


def read_key(path: Path) -> bytes:
    """The key that seals a party's stocks; raises StoreError when others may read it, or it is none."""
    key, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 or len(key) != FILE_KEY_BYTES:
        raise StoreError(
            f"expected {FILE_KEY_BYTES} bytes of mode 0600 in {path}, found {len(key)} of mode {mode:04o}",
            hint=f"remove it with what is beside it: {_AGAIN}",
            code="store.stock",
        )
    return key


def part_path(folder: Path, chunk: int) -> Path:
    """The file that holds a chunk."""
    return folder / f"{chunk // PART_CHUNKS:05d}.part"


def mark_used(mark: Path, binding: Binding) -> None:
    """Writes the mark, durably; raises SessionError when it is there: of two users one fails."""
    try:
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise unusable(f"what was dealt ahead for {binding.session} was used already") from None
    try:
        os.write(descriptor, str(binding.expires_unix_s).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync_folder(mark.parent)


def erase(path: Path) -> None:
    """Overwrites a file with zeros and removes it, durably; a file that is not there is left so."""
    try:
        with open(path, "r+b", buffering=0) as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    path.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def as_store_error(text: str) -> Iterator[None]:
    """Turns what the system refuses into a StoreError; code `store.full` where there is no room."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        code, hint = ("store.full", "run the job online, or make room") if full else ("", "")
        raise StoreError(f"{text}: {error.strerror}", hint=hint, code=code) from error


def damaged(folder: Path, why: str) -> StoreError:
    """The error of a stock that is not as it was written."""
    return StoreError(f"what was dealt ahead in {folder} is damaged: {why}", hint=_AGAIN, code="store.stock")


def unusable(text: str) -> SessionError:
    """The error of a stock that is not there, or not for this session."""
    return SessionError(text, hint=_AGAIN, code="session.stock")

"""The stocks of one party: begun, found, limited and swept. What a stock is on the disk says `stock`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Container, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave.clock import Clock, SystemClock
from enclave.engines.mpc.random import fresh_key
from enclave.engines.mpc.sealed import (
    CHUNK_BYTES,
    PART_CHUNKS,
    Binding,
    Head,
    Secrets,
    as_store_error,
    damaged,
    erase,
    fresh_file_key,
    is_session_name,
    part_path,
    read_key,
    seal_chunk,
    unusable,
)
from enclave.engines.mpc.stock import Stock
from enclave.errors import PolicyRefused, StoreError
from enclave.identity.home import write_file

__all__ = ["Shelf", "StockWriter"]


class Shelf:
    """The stocks of one party.

    Args:
        home: the party's own directory: the sealing key and the marks of used stocks are in `home`/stock.
        folder: where the stocks lie; `home`/stock/dealt if None.
        limit_bytes: what all stocks together may take; None for no limit.
    """

    def __init__(
        self, home: Path, folder: Path | None = None, *, limit_bytes: int | None = None, clock: Clock | None = None
    ) -> None:
        self._home = home / "stock"
        self._folder = folder or self._home / "dealt"
        self._limit_bytes = limit_bytes
        self._clock = clock or SystemClock()

    def writer(self, binding: Binding, stock_id: bytes) -> StockWriter:
        """Begins a stock; an older one of the session is thrown away.

        Raises:
            PolicyRefused: (node.stock) all stocks together would be larger than the limit.
            StoreError: the disk is too full for it (code `store.full`), or refuses.
        """
        path = self._folder / binding.session
        with as_store_error(f"cannot keep what is dealt to {binding.session}"):
            for folder in (self._home, self._home / "spent", self._folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self.discard(binding.session)
                self._refuse_beyond_limits(binding)
                path.mkdir(mode=0o700)
                (path / f"need.{binding.disk_bytes}").touch(0o600)
            head = Head(binding, stock_id, fresh_key())
            return StockWriter(path, head, self._sealing_key())

    def find(self, binding: Binding) -> Stock:
        """The unused stock of a session. Nothing is used up yet.

        Raises:
            SessionError: (code `session.stock`) there is none, it was used, has expired, or is another session's.
            StoreError: it is damaged, or the disk refuses.
        """
        path = self._folder / binding.session
        try:
            head = Head.decode((path / "head").read_bytes())
        except FileNotFoundError:
            raise unusable(f"nothing was dealt ahead for {binding.session}") from None
        except OSError as error:
            raise StoreError(f"cannot read {path / 'head'}: {error.strerror}") from error
        except ValueError as error:
            raise damaged(path, str(error)) from error
        if wrong := ", ".join(head.binding.differences(binding)):
            raise unusable(f"what was dealt ahead for {binding.session} is bound to another {wrong}")
        if self._clock.unix_s() > binding.expires_unix_s:
            raise unusable(f"what was dealt ahead for {binding.session} has expired")
        stock = Stock(path, self._home, head)
        if stock.mark.exists():
            raise unusable(f"what was dealt ahead for {binding.session} was used already")
        return stock

    def names(self) -> tuple[str, ...]:
        """The sessions of all stocks, unfinished ones and those in use included."""
        if not self._folder.is_dir():
            return ()
        return tuple(sorted(path.name for path in self._folder.iterdir() if is_session_name(path.name)))

    def ready(self, session: str) -> bool:
        """Whether there is a whole stock of that session, used by nobody yet."""
        return bool(is_session_name(session)) and (self._folder / session / "head").is_file()

    def discard(self, session: str) -> None:
        """Deletes the stock of a session, if there is one."""
        path = self._folder / session
        if is_session_name(session) and path.is_dir():
            erase(path / "head")
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, keep: Container[str], *, unfinished: bool = False) -> tuple[str, ...]:
        """Deletes the stocks of all sessions but those in `keep`, and marks that have expired.

        Args:
            unfinished: delete those in `keep` too that are not whole: no process is at work on any.

        Returns:
            The sessions whose stocks were deleted.
        """
        gone = [name for name in self.names() if name not in keep or (unfinished and not self.ready(name))]
        for name in gone:
            self.discard(name)
        for mark in (self._home / "spent").glob("*"):
            with contextlib.suppress(OSError, ValueError):  # a mark that a crash left empty stays
                if self._clock.unix_s() > int(mark.read_text()):
                    mark.unlink()
        return tuple(gone)

    @property
    def reserved_bytes(self) -> int:
        """What all stocks together take, or will once they are written."""
        return sum(_need(self._folder / name) for name in self.names())

    def _refuse_beyond_limits(self, binding: Binding) -> None:
        taken, need = self.reserved_bytes, binding.disk_bytes
        if self._limit_bytes is not None and taken + need > self._limit_bytes:
            raise PolicyRefused(
                f"dealing ahead needs {need} bytes of disk beside {taken} in use, at most {self._limit_bytes} here",
                rules=("node.stock",),
                hint="run the job online, or wait until other jobs have used what was dealt to them",
            )
        free = shutil.disk_usage(self._folder).free
        if need > free:
            text = f"dealing ahead needs {need} bytes of disk, {free} are free in {self._folder}"
            raise StoreError(text, hint="run the job online, or make room", code="store.full")

    def _sealing_key(self) -> bytes:
        path = self._home / "key"
        with self._locked():
            if not path.exists():
                write_file(path, fresh_file_key(), 0o600)
        return read_key(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time. Not to be nested."""
        descriptor = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class StockWriter:
    """A stock while it is dealt. It becomes one with `finish`; `discard` leaves nothing."""

    def __init__(self, path: Path, head: Head, sealing_key: bytes) -> None:
        self._path, self._head, self._digest = path, head, head.digest
        self._sealing_key, self._file_key = sealing_key, fresh_file_key()
        self._aead = AESGCM(self._file_key)
        self._chunks = self._written_bytes = 0
        self._part: int | None = None

    def append(self, chunk: bytes | memoryview) -> None:
        """Seals one chunk: CHUNK_BYTES long, or the rest. Raises StoreError when the disk refuses."""
        binding = self._head.binding
        expected = min(CHUNK_BYTES, binding.own_bytes - self._written_bytes)
        if len(chunk) != expected or not expected:
            raise ValueError(f"the next chunk has {expected} bytes, found {len(chunk)}")
        sealed = memoryview(seal_chunk(self._aead, self._digest, self._chunks, chunk))
        with as_store_error(f"cannot keep what is dealt to {binding.session}"):
            if self._part is None:
                path = part_path(self._path, self._chunks)
                self._part = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            while sealed:
                sealed = sealed[os.write(self._part, sealed) :]
            self._chunks += 1
            self._written_bytes += expected
            if self._chunks % PART_CHUNKS == 0:
                self._close_part()

    def finish(self, seed: bytes) -> None:
        """Makes the stock durable, with the key that this party and the dealer have in common."""
        binding = self._head.binding
        if self._written_bytes != binding.own_bytes:
            raise ValueError(f"expected {binding.own_bytes} bytes dealt, found {self._written_bytes}")
        with as_store_error(f"cannot keep what is dealt to {binding.session}"):
            self._close_part()
        sealed = Secrets(self._file_key, seed).seal(self._head, self._sealing_key)
        write_file(self._path / "head", self._head.encode() + sealed, 0o600)

    def discard(self) -> None:
        """Deletes what was written."""
        if self._part is not None:
            os.close(self._part)
            self._part = None
        erase(self._path / "head")
        shutil.rmtree(self._path, ignore_errors=True)

    def _close_part(self) -> None:
        if self._part is not None:
            descriptor, self._part = self._part, None
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _need(path: Path) -> int:
    return sum(int(file.suffix[1:]) for file in path.glob("need.*"))

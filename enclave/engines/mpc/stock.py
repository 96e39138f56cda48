"""Correlated randomness on a party's disk: what `ahead` leaves there, and how it is used exactly once.

    FOLDER/NAME/            one stock, NAME is the session's; mode 0700, files 0600
      need.N                empty; N bytes are reserved for the stock, before the first one is written
      00000.part …          the leader's corrections, sealed in chunks of 1 MiB; a part has 32 of them
      head                  binding, the sealed file key and the sealed seed; written last: without it there is no stock
    HOME/stock/key          seals the file keys of all stocks of this party
    HOME/stock/spent/ID     the stock of this id was used, or was about to be

Sealing: every stock has a random AES-256-GCM key of its own, the file key. Chunk i has nonce i and is bound to the
digest of the head's public part and to i, so chunks cannot be changed, exchanged, or brought over from another stock,
and a nonce is never used twice: parts are created exclusively, once per key. The file key is sealed in the head with
a key derived from HOME/stock/key and a random salt. How many bytes there must be is in the head, so a missing end is
noticed before it is missed.

Never twice: `Stock.use` first creates the mark in `spent`, exclusively and durably: of two users one fails. Then it
reads the head, overwrites it with zeros and removes it, durably. Only after that it gives out the first key. A crash
at any point leaves at most a mark, and parts that nobody can read: the session must be dealt again, with fresh
randomness. Whoever puts back a copy of the folder meets the mark. Whoever puts back a copy of the whole home meets
the peers, whose own stocks are used: a session begins only if all parties show the same unused one. All parties'
homes put back at once, as by one snapshot of several machines, would defeat that; a job has its dealer as a witness
besides (`ahead.Witness`), whose mark must be put back too.

Discussion: overwriting does not reach the old copies that a journal or a solid-state disk may keep. The head is the
only place where that matters, and what it takes to read such a copy, HOME/stock/key, is on the same machine: to be
safe from an owner's own forensic tools is not a goal, since the owner could keep the shares in the first place. On
a disk that is lost or sold, parts are unreadable without HOME, which may lie on another one.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave.engines.mpc.random import KeyStream
from enclave.engines.mpc.sealed import (
    CHUNK_BYTES,
    PART_CHUNKS,
    TAG_BYTES,
    Head,
    Secrets,
    as_store_error,
    damaged,
    erase,
    mark_used,
    open_chunk,
    part_path,
    read_key,
)
from enclave.errors import StoreError

__all__ = ["Stock"]

_READ_AHEAD_CHUNKS = 8  # opened and waiting while one is in use: what a large step asks for at once


class Stock:
    """What was dealt ahead for one session at one rank: `use` once, then `take` in the plan's order, then `close`.

    Attributes:
        id: the same at all parties of one dealing.
        mark: the file that says that it was used.
    """

    def __init__(self, path: Path, home: Path, head: Head) -> None:
        self.id = head.stock_id
        self.binding = head.binding
        self.mark = home / "spent" / head.stock_id.hex()
        self._path, self._home, self._head = path, home, head
        self._reader: _Reader | None = None
        self._chunk = memoryview(b"")
        self._position = 0
        self._left_bytes = head.binding.own_bytes

    def __repr__(self) -> str:
        return f"Stock({self.id.hex()[:16]} of {self.binding.session}, {self._left_bytes} bytes left)"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use(self) -> KeyStream:
        """Destroys the stock on the disk and gives the key in common with the dealer.

        Raises: SessionError (`session.stock`) when it was used before; StoreError when it is damaged, and then it is
            used up all the same.
        """
        with as_store_error(f"cannot use what was dealt to {self.binding.session}"):
            mark_used(self.mark, self.binding)
            path = self._path / "head"
            data, sealing_key = path.read_bytes(), read_key(self._home / "key")
            erase(path)
        try:
            secrets = Secrets.open(data, self._head, sealing_key)
        except ValueError as error:
            raise damaged(self._path, str(error)) from error
        self._reader = _Reader(self._path, self._head, secrets.file_key)
        self._reader.start()
        return KeyStream(secrets.seed)

    @property
    def left_bytes(self) -> int:
        """Corrections that were not taken yet; 0 after a session that ran to its end."""
        return self._left_bytes

    def take(self, size_bytes: int) -> memoryview:
        """The next bytes, aligned to 8. Raises StoreError when they were changed, exchanged or cut."""
        if size_bytes > self._left_bytes:
            raise damaged(self._path, f"expected {size_bytes} bytes more, found {self._left_bytes}")
        self._left_bytes -= size_bytes
        if size_bytes and self._position == len(self._chunk):
            self._next()
        start, stop = self._position, self._position + size_bytes
        if start % 8 == 0 and stop <= len(self._chunk):
            self._position = stop
            return self._chunk[start:stop]
        return self._gather(size_bytes)

    def _gather(self, size_bytes: int) -> memoryview:
        whole, done = np.empty(size_bytes, np.uint8).data, 0
        while done < size_bytes:
            if self._position == len(self._chunk):
                self._next()
            step = min(size_bytes - done, len(self._chunk) - self._position)
            whole[done : done + step] = self._chunk[self._position : self._position + step]
            done, self._position = done + step, self._position + step
        return whole

    def close(self) -> None:
        """Deletes what is left of a stock that was used; one that was not stays as it is."""
        if self._reader is not None:
            self._reader.stop()
            self._chunk, self._position, self._left_bytes = memoryview(b""), 0, 0
            shutil.rmtree(self._path, ignore_errors=True)

    def _next(self) -> None:
        if self._reader is None:
            raise ValueError("a stock gives nothing before use()")
        self._chunk, self._position = memoryview(self._reader.next()), 0


class _Reader(threading.Thread):
    """Opens chunks ahead of need, and deletes each part once it was read."""

    def __init__(self, path: Path, head: Head, file_key: bytes) -> None:
        super().__init__(name=f"stock {head.binding.session[:8]}", daemon=True)
        self._path, self._binding, self._digest = path, head.binding, head.digest
        self._aead = AESGCM(file_key)
        self._ready: queue.Queue[bytes | StoreError] = queue.Queue(_READ_AHEAD_CHUNKS)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Until all is read, the stock is closed, or a chunk cannot be opened."""
        try:
            for chunk in self._chunks():
                if not self._put(chunk):
                    return
        except StoreError as error:
            self._put(error)
        except Exception as error:  # noqa: BLE001  a thread that ends without a word would hang the session
            self._put(StoreError(f"cannot read what was dealt ahead: {type(error).__name__}"))

    def next(self) -> bytes:
        """The next chunk; raises StoreError."""
        found = self._ready.get()
        if isinstance(found, StoreError):
            raise found
        return found

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        while self.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get_nowait()
            self.join(0.01)

    def _put(self, item: bytes | StoreError) -> bool:
        if not self._stopped.is_set():
            self._ready.put(item)  # `stop` makes room
        return not self._stopped.is_set()

    def _chunks(self) -> Iterator[bytes]:
        left = self._binding.own_bytes
        for first in range(0, self._binding.chunks, PART_CHUNKS):
            path = part_path(self._path, first)
            with as_store_error(f"cannot read {path}"), open(path, "rb", buffering=0) as file:
                for index in range(first, min(first + PART_CHUNKS, self._binding.chunks)):
                    size = min(CHUNK_BYTES, left)
                    yield self._open(file.read(size + TAG_BYTES), index)
                    left -= size
                path.unlink()

    def _open(self, sealed: bytes, index: int) -> bytes:
        try:
            # Safety: a chunk cut short fails here as well: its last bytes are no tag of what is before them.
            return open_chunk(self._aead, self._digest, index, sealed)
        except ValueError as error:
            raise damaged(self._path, str(error)) from error

"""Encoded rows kept from model to model: in memory, and in a folder on the owner's own disk.

Encoding costs as much as scoring does, and depends on the rows and the parameters alone. What is kept is the owner's
plaintext in another form: it lies beside the data themselves, readable by the owner alone (mode 0600), and goes when
the data set changes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np

from enclave.engines.he.lattice.ring import Words

__all__ = ["Encodings", "Kept"]

_MAGIC = b"enclave rows 1\n\0"
_HEADER_BYTES = 64  # magic and SHA-256 of the key, padded: blocks stay aligned to cache lines


class Encodings:
    """A bounded store of encoded rows. Least recently used blocks leave the memory, oldest files the folder.

    Args:
        memory_bytes: the most that is kept in memory.
        folder: created with mode 0700 when it is missing; None: nothing is kept on the disk.
        folder_bytes: the most that the files there may take. A disk that fails is done without.
    """

    def __init__(self, memory_bytes: int = 1 << 29, folder: Path | None = None, folder_bytes: int = 1 << 33) -> None:
        self.memory_bytes, self._folder, self._folder_bytes = memory_bytes, folder, folder_bytes
        self._blocks: OrderedDict[tuple[bytes, int], Words] = OrderedDict()
        self._held_bytes = 0
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Encodings({self._held_bytes} bytes in memory)"

    def opened(self, key: Sequence[bytes], blocks: int, shape: tuple[int, ...]) -> Kept:
        """What is kept under a key, block by block.

        Args:
            key: the name of the data set, its version, and whatever else decides the encoding. Files of another
                version of that data set are deleted.
            shape: of one block.
        """
        digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in key)).digest()
        kept = Kept(self, digest, blocks, shape)
        if self._folder is not None:
            with suppress(OSError):
                kept.file = self._file(key, kept)
        return kept

    def forget(self, name: bytes) -> None:
        """Deletes the files of a data set, which its owner has withdrawn; memory is dropped altogether."""
        with self._lock:
            self._blocks.clear()
            self._held_bytes = 0
        for path in self._files(_short(name) + "-*"):
            path.unlink(missing_ok=True)

    # ---- memory
    def recall(self, digest: bytes, index: int) -> Words | None:
        """A block from memory."""
        with self._lock:
            found = self._blocks.get((digest, index))
            if found is not None:
                self._blocks.move_to_end((digest, index))
            return found

    def remember(self, digest: bytes, index: int, block: Words) -> None:
        """Keeps a block in memory, at the cost of the least recently used ones."""
        if block.nbytes > self.memory_bytes:
            return
        with self._lock:
            if (digest, index) not in self._blocks:
                self._blocks[digest, index] = block
                self._held_bytes += block.nbytes
            while self._held_bytes > self.memory_bytes:
                _, dropped = self._blocks.popitem(last=False)
                self._held_bytes -= dropped.nbytes

    # ---- disk
    def _file(self, key: Sequence[bytes], kept: Kept) -> _File | None:
        folder = cast(Path, self._folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name, version = _short(key[0]), _short(key[1]) if len(key) > 1 else ""
        for path in self._files(f"{name}-*"):
            if not path.name.startswith(f"{name}-{version}-"):
                path.unlink(missing_ok=True)
        for part in self._files("*.rows.*"):
            process = part.name.rpartition(".")[2].partition("-")[0]
            if process.isdecimal() and not _is_running(int(process)):
                part.unlink(missing_ok=True)  # of a process that was killed
        path = folder / f"{name}-{version}-{kept.digest.hex()[:32]}.rows"
        size = _HEADER_BYTES + kept.block_bytes * kept.blocks
        with suppress(FileNotFoundError):
            return _File.existing(path, kept.digest, size)
        if size > self._folder_bytes:
            return None
        self._make_room(size)
        return _File.created(path, kept.digest, size)

    def _files(self, pattern: str) -> list[Path]:
        return [] if self._folder is None else sorted(self._folder.glob(pattern))

    def _make_room(self, size: int) -> None:
        files = sorted(((path, path.stat()) for path in self._files("*.rows*")), key=lambda file: file[1].st_mtime)
        total = sum(stat.st_size for _, stat in files)
        for path, stat in files:
            if total + size <= self._folder_bytes:
                break
            path.unlink(missing_ok=True)
            total -= stat.st_size


class Kept:
    """The encoded rows of one data set under one key, as far as they are kept."""

    def __init__(self, encodings: Encodings, digest: bytes, blocks: int, shape: tuple[int, ...]) -> None:
        self.digest, self.blocks, self.shape = digest, blocks, shape
        self.block_bytes = prod(shape) * 8
        self.file: _File | None = None
        self._encodings = encodings
        self._missing = set(range(blocks))
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Kept({self.blocks} blocks)"

    @property
    def in_memory(self) -> bool:
        """Whether memory has room for all of them: of more, each pass would drop what the next one needs first."""
        return self.blocks * self.block_bytes <= self._encodings.memory_bytes

    def get(self, first: int, count: int) -> Words | None:
        """`count` blocks from `first` on, [count, *shape], as they were put; None where they are not kept."""
        file = self.file
        if file is not None and file.complete:
            return file.blocks(first, count, self.shape)
        return self._encodings.recall(self.digest, first)

    def put(self, first: int, blocks: Words) -> None:
        """Keeps blocks [count, *shape]."""
        if self.in_memory:
            self._encodings.remember(self.digest, first, blocks)
        file = self.file
        if file is None or file.complete:
            return
        with self._lock:
            try:
                file.write(first, blocks)
                self._missing.difference_update(range(first, first + len(blocks)))
                if not self._missing:
                    file.finish()
            except OSError:
                self.file = None


class _File:
    """A file of blocks: written as a part, renamed when it is whole, mapped from then on."""

    def __init__(self, path: Path, descriptor: int, part: Path | None) -> None:
        self._path, self._part = path, part
        self._descriptor: int | None = descriptor
        self._map: Words | None = None
        if part is None:
            self._to_map()

    @classmethod
    def existing(cls, path: Path, digest: bytes, size: int) -> _File:
        """Raises FileNotFoundError, also for a file that is not what its name says: it is deleted."""
        descriptor = os.open(path, os.O_RDONLY)
        if os.fstat(descriptor).st_size != size or os.pread(descriptor, _HEADER_BYTES, 0) != _header(digest):
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise FileNotFoundError(path)
        os.utime(path)
        return cls(path, descriptor, None)

    @classmethod
    def created(cls, path: Path, digest: bytes, size: int) -> _File:
        part = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        file = cls(path, descriptor, part)
        os.truncate(descriptor, size)
        os.pwrite(descriptor, _header(digest), 0)
        return file

    @property
    def complete(self) -> bool:
        """Whether every block is in the file."""
        return self._map is not None

    def blocks(self, first: int, count: int, shape: tuple[int, ...]) -> Words:
        """Some blocks, as a view of the file."""
        words = prod(shape)
        return cast(Words, self._map)[first * words : (first + count) * words].reshape(count, *shape)

    def write(self, first: int, blocks: Words) -> None:
        data = np.ascontiguousarray(blocks).reshape(-1).view(np.uint8).data
        start = _HEADER_BYTES + first * blocks[0].nbytes
        while data:
            written = os.pwrite(cast(int, self._descriptor), data, start)
            data, start = data[written:], start + written

    def finish(self) -> None:
        """Every block is written: the file gets its name."""
        os.replace(cast(Path, self._part), self._path)
        self._part = None
        self._to_map()

    def _to_map(self) -> None:
        mapped = mmap.mmap(cast(int, self._descriptor), 0, access=mmap.ACCESS_READ)
        self._map = np.frombuffer(mapped, np.uint64, offset=_HEADER_BYTES)
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self._close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as somebody else
        return True
    return True


def _header(digest: bytes) -> bytes:
    return (_MAGIC + digest).ljust(_HEADER_BYTES, b"\0")


def _short(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()[:24]

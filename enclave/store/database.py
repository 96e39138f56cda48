"""The node's SQLite file and its one door.

Every write is one `run_tx(name, fn)`: BEGIN IMMEDIATE, `fn(tx)`, COMMIT with the log synced to the disk, so that what
was committed survives a power cut and what was not left no trace. `fn` may be run again when another process holds the
lock, so it must do nothing but read and write through its `tx`. The threads of a process take turns at a lock in
memory: SQLite has one writer anyway, and waiting there is fair and free of polling. SQLite rather than a server: a
party node is one process beside its data, and its operator should have nothing else to run.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from enclave.errors import StoreError
from enclave.store.schema import MIGRATIONS, Migrations, migrate
from enclave.store.transaction import Tx

T = TypeVar("T")
BUSY_TIMEOUT_S = 2.0
ATTEMPTS = 5
_PAGE_BYTES = 4096


class Store:
    """One open store. Safe to use from many threads; close it when done."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._write_lock = threading.Lock()
        self._writer = 0
        self._claim = -1
        self.path = path

    @classmethod
    def open(cls, path: Path, *, max_bytes: int = 0, migrations: Migrations = MIGRATIONS) -> Self:
        """Opens or creates the store at `path` and migrates it.

        Args:
            max_bytes: the file never grows past this size; 0 for no limit.

        Raises:
            StoreError: no such directory, not a store, damaged, of a newer version, disk full, read-only.
        """
        path = path.absolute()
        try:
            # Created here and not by SQLite: specifications are nobody else's business, whatever the umask.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(
                f"cannot open the store {path}: {error.strerror}",
                hint="the home directory must exist and be writable for the user that runs the node",
            ) from error
        engine = sqlalchemy.create_engine(
            URL.create("sqlite", database=str(path)),
            connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
            pool_size=4,
            max_overflow=-1,  # the callers are a bounded pool of threads already
        )
        event.listen(engine, "connect", _Pragmas(max_bytes))
        store = cls(engine, path)
        try:
            store._read_connection("check", _quick_check)
            store._locked("migrate", lambda connection: migrate(connection, migrations))
        except BaseException:
            store.close()
            raise
        return store

    def run_tx(self, name: str, fn: Callable[[Tx], T]) -> T:
        """Runs `fn` in one durable write transaction and returns its result.

        Args:
            name: what is done, for error messages and the rows' `updated_by`.
            fn: repeatable; whatever it raises rolls everything back and passes through.

        Raises:
            StoreError: disk full, read-only, damaged, or busy for too long. Nothing was written.
        """
        return self._locked(name, lambda connection: fn(Tx(connection, name)))

    def read(self, name: str, fn: Callable[[Tx], T]) -> T:
        """Runs `fn` on one consistent snapshot, without waiting for writers. Writing is an error."""
        return self._read_connection(name, lambda connection: fn(Tx(connection, name)))

    def claim(self) -> None:
        """Makes this process the only node on this store, until it ends (also by kill -9) or closes the store.

        Raises:
            StoreError: another process serves it.
        """
        if self._claim >= 0:
            return
        handle = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise StoreError(
                f"another process already serves {self.path.parent}",
                hint="one home directory is one node: stop the other process, or use another home",
            ) from error
        self._claim = handle

    def close(self) -> None:
        """Closes all connections and gives up the claim. Idempotent."""
        self._engine.dispose()
        if self._claim >= 0:
            os.close(self._claim)
            self._claim = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _locked(self, name: str, fn: Callable[[Connection], T]) -> T:
        if self._writer == threading.get_ident():
            raise RuntimeError(f"transaction {name} was started inside another one")
        with self._write_lock:
            self._writer = threading.get_ident()
            try:
                for attempt in range(1, ATTEMPTS + 1):
                    try:
                        return self._attempt(name, "BEGIN IMMEDIATE", fn)
                    except _Busy as busy:
                        if attempt == ATTEMPTS:
                            raise busy.error from busy
                raise AssertionError("unreachable")
            finally:
                self._writer = 0

    def _read_connection(self, name: str, fn: Callable[[Connection], T]) -> T:
        try:
            with _translated(name), self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA query_only = 1")
                try:
                    connection.exec_driver_sql("BEGIN")
                    return fn(connection)
                finally:
                    connection.rollback()
                    connection.exec_driver_sql("PRAGMA query_only = 0")
        except _Busy as busy:
            raise busy.error from busy

    def _attempt(self, name: str, begin: str, fn: Callable[[Connection], T]) -> T:
        with _translated(name), self._engine.connect() as connection:
            try:
                connection.exec_driver_sql(begin)
                result = fn(connection)
                self._commit(connection)
            except BaseException:
                connection.rollback()
                raise
            return result

    def _commit(self, connection: Connection) -> None:
        connection.commit()


class _Pragmas:
    """Sets up each new connection."""

    def __init__(self, max_bytes: int) -> None:
        self._max_pages = max(1, max_bytes // _PAGE_BYTES) if max_bytes else 0

    def __call__(self, connection: sqlite3.Connection, _: object) -> None:
        cursor = connection.cursor()
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.execute("PRAGMA trusted_schema = OFF")
            if self._max_pages:
                cursor.execute(f"PRAGMA max_page_count = {self._max_pages:d}")
        finally:
            cursor.close()


class _Busy(Exception):
    """Another process holds the lock; carries the error to raise when patience ends."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(error.public)
        self.error = error


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turns the driver's errors into StoreError; lets everything else through."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", None)
        primary = None if code is None else int(code) & 0xFF
        text, hint = _WHAT.get(primary, (str(cause), ""))
        failure = StoreError(f"the store could not {name}: {text}", hint=hint)
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            failure.retryable = True
            raise _Busy(failure) from error
        raise failure from error


_DAMAGED = ("the file is damaged", "restore the store from a copy; keep the damaged file for the auditor")
_WHAT: Mapping[int | None, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: (
        "the disk is full (no space left on device), or the store has reached its size limit",
        "free some space; at a node, max_store_bytes may be the limit",
    ),
    sqlite3.SQLITE_READONLY: ("it is read-only", "the file and its directory must be writable for the node's user"),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: ("the file is not a store", _DAMAGED[1]),
    sqlite3.SQLITE_IOERR: (
        "the disk is full or reports an error",
        "free some space, or look at the machine's log; the store itself is consistent",
    ),
    sqlite3.SQLITE_CANTOPEN: ("the file cannot be opened", "the home directory must exist and be writable"),
    sqlite3.SQLITE_BUSY: ("another process holds it", "end the other program that has the store open"),
    sqlite3.SQLITE_LOCKED: ("another process holds it", "end the other program that has the store open"),
}


def _quick_check(connection: Connection) -> None:
    found: list[Any] = list(connection.exec_driver_sql("PRAGMA quick_check(1)").scalars())
    if found != ["ok"]:
        raise StoreError(f"the store is damaged: {found[0] if found else 'no answer'}", hint=_DAMAGED[1])

"""The tables, and how a store of an older version becomes one of this version.

A migration, once released, is never edited: the next change is a new one at the end of `MIGRATIONS`. The version of
a store is the number of migrations that were applied to it. What must hold whatever the code above does is in the
schema: a state is one of nine, the ledger only grows, and no job has the same event twice (so no second release).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError

from enclave.errors import StoreError

Migrations = Sequence[Sequence[str]]

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE jobs (
            job_id TEXT PRIMARY KEY,
            spec BLOB NOT NULL,             -- the JobSpec as the buyer signed it
            key_id BLOB NOT NULL,           -- of the buyer
            signature BLOB NOT NULL,
            spec_digest BLOB NOT NULL,      -- SHA-256 of spec
            dataset TEXT NOT NULL,          -- this node's own, or ''
            received_unix_s INTEGER NOT NULL,
            expires_unix_s INTEGER NOT NULL,
            -- what follows changes during the job's life
            state TEXT NOT NULL CHECK (state IN ('PROPOSED', 'ADMITTED', 'RUNNING', 'SEALED', 'RELEASED',
                                                 'REFUSED', 'FAILED', 'WITHDRAWN', 'EXPIRED')),
            reasons TEXT NOT NULL,          -- JSON: [[rule, text], ...]
            updated_unix_s INTEGER NOT NULL,
            updated_by TEXT NOT NULL,       -- name of the transaction
            start_unix_s INTEGER NOT NULL,
            worker TEXT NOT NULL,
            lease_unix_s INTEGER NOT NULL,
            deadline_unix_s INTEGER NOT NULL,
            CHECK ((worker = '') = (lease_unix_s = 0))
        )
        """,
        "CREATE INDEX jobs_by_state ON jobs (state, start_unix_s)",
        "CREATE INDEX jobs_by_buyer ON jobs (key_id, state)",
        """
        CREATE TABLE ledger (
            position INTEGER PRIMARY KEY CHECK (position >= 0),
            job_id TEXT NOT NULL REFERENCES jobs (job_id),
            event TEXT NOT NULL,
            body BLOB NOT NULL,             -- the LedgerEntry as signed
            key_id BLOB NOT NULL,
            signature BLOB NOT NULL
        )
        """,
        "CREATE UNIQUE INDEX ledger_once ON ledger (job_id, event)",
        """
        CREATE TRIGGER ledger_kept BEFORE DELETE ON ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END
        """,
        """
        CREATE TRIGGER ledger_unchanged BEFORE UPDATE ON ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END
        """,
        """
        CREATE TABLE documents (
            job_id TEXT NOT NULL REFERENCES jobs (job_id),
            name TEXT NOT NULL CHECK (name IN ('statement', 'receipt', 'report')),
            data BLOB NOT NULL,
            PRIMARY KEY (job_id, name)
        )
        """,
        """
        CREATE TABLE approvals (
            job_id TEXT PRIMARY KEY REFERENCES jobs (job_id),
            body BLOB NOT NULL,             -- the Approval as the operator signed it
            key_id BLOB NOT NULL,
            signature BLOB NOT NULL,
            unix_s INTEGER NOT NULL
        )
        """,
    ),
)

# Table objects only describe what the migrations made; they hold no state.
_METADATA = MetaData()

jobs = Table(
    "jobs",
    _METADATA,
    Column("job_id", String, primary_key=True),
    Column("spec", LargeBinary),
    Column("key_id", LargeBinary),
    Column("signature", LargeBinary),
    Column("spec_digest", LargeBinary),
    Column("dataset", String),
    Column("received_unix_s", Integer),
    Column("expires_unix_s", Integer),
    Column("state", String),
    Column("reasons", String),
    Column("updated_unix_s", Integer),
    Column("updated_by", String),
    Column("start_unix_s", Integer),
    Column("worker", String),
    Column("lease_unix_s", Integer),
    Column("deadline_unix_s", Integer),
)
ledger = Table(
    "ledger",
    _METADATA,
    Column("position", Integer, primary_key=True),
    Column("job_id", String),
    Column("event", String),
    Column("body", LargeBinary),
    Column("key_id", LargeBinary),
    Column("signature", LargeBinary),
)
documents = Table(
    "documents",
    _METADATA,
    Column("job_id", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("data", LargeBinary),
)
approvals = Table(
    "approvals",
    _METADATA,
    Column("job_id", String, primary_key=True),
    Column("body", LargeBinary),
    Column("key_id", LargeBinary),
    Column("signature", LargeBinary),
    Column("unix_s", Integer),
)
TABLES = (jobs, ledger, documents, approvals)


def version_of(connection: Connection) -> int:
    """The store's version; 0 for an empty file.

    Raises:
        StoreError: the file is a database, but not one of this project, or its version is not a number >= 1.
    """
    names = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    if not names:
        return 0
    foreign = StoreError(
        f"not a store of this project: expected a table schema_version, found {', '.join(sorted(names))[:200]}",
        hint="point the node at its own home directory, or move the file away",
    )
    if "schema_version" not in names:
        raise foreign
    try:
        versions = connection.exec_driver_sql("SELECT version FROM schema_version").scalars().all()
    except DatabaseError as error:
        raise foreign from error
    if len(versions) != 1 or not isinstance(versions[0], int) or versions[0] < 1:
        raise StoreError(f"the store's version must be one number >= 1, found {versions}")
    return versions[0]


def migrate(connection: Connection, migrations: Migrations) -> None:
    """Brings the store up to `len(migrations)`, inside the caller's transaction.

    Raises:
        StoreError: the store was written by a newer version of this software.
    """
    found, newest = version_of(connection), len(migrations)
    if found > newest:
        raise StoreError(
            f"store of a newer version: this software knows versions up to {newest}, found {found}",
            hint="start the newer software again, or restore the copy of the store made before the upgrade",
        )
    if found == newest:
        return
    if found == 0:
        connection.exec_driver_sql("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.exec_driver_sql("INSERT INTO schema_version VALUES (0)")
    for statements in migrations[found:]:
        for statement in statements:
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql("UPDATE schema_version SET version = ?", (newest,))

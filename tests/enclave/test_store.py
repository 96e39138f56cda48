"""The store: transactions, threads, migrations, and what happens when the disk says no."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from enclave.errors import StoreError
from enclave.messages import Reason, Signed
from enclave.store import JobRecord, Store, StoredApproval, Tx, database
from enclave.store.schema import MIGRATIONS, TABLES


def record(number: int = 1, state: str = "PROPOSED", spec: bytes = b"spec") -> JobRecord:
    signed = Signed(spec, b"k" * 32, b"s" * 64)
    return JobRecord(f"{number:032x}", signed, b"d" * 32, "hearts", state, (), 100, 100, 200)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        yield store


def test_rows_come_back_as_they_went_in(store: Store, path: Path) -> None:
    job = JobRecord(
        job_id="a" * 32,
        signed=Signed(b"\x00\xffspec", b"k" * 32, b"s" * 64),
        spec_digest=b"d" * 32,
        dataset="hearts",
        state="RUNNING",
        reasons=(Reason("policy.rows.minimum", 'quote " and ü'),),
        received_unix_s=1,
        updated_unix_s=2,
        expires_unix_s=3,
        start_unix_s=4,
        worker="w",
        lease_unix_s=5,
        deadline_unix_s=6,
    )
    consent = StoredApproval(job.job_id, Signed(b"yes", b"o" * 32, b"t" * 64), 7)

    def body(tx: Tx) -> None:
        tx.insert_job(job)
        tx.insert_approval(consent)
        tx.append_entry(0, job.job_id, "proposed", Signed(b"e0", b"o" * 32, b"u" * 64))
        tx.append_entry(1, job.job_id, "admitted", Signed(b"e1", b"o" * 32, b"u" * 64))
        tx.insert_document(job.job_id, "report", b"\x00" * 10)

    store.run_tx("fill", body)
    store.close()
    with Store.open(path) as again:
        found = again.read("look", lambda tx: (tx.job(job.job_id), tx.approval(job.job_id), tx.entries(1)))
        assert found == (job, consent, (Signed(b"e1", b"o" * 32, b"u" * 64),))
        assert again.read("look", lambda tx: tx.entries(0, 1))[0].body == b"e0"
        last = again.read("look", lambda tx: tx.last_entry())
        assert last is not None and last[0] == 1
        assert again.read("look", lambda tx: tx.document(job.job_id, "report")) == b"\x00" * 10
        assert again.read("look", lambda tx: tx.job("b" * 32)) is None


def test_an_error_in_the_body_rolls_everything_back(store: Store) -> None:
    def body(tx: Tx) -> None:
        tx.insert_job(record())
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        store.run_tx("fail", body)
    assert store.read("look", lambda tx: tx.jobs()) == ()


def test_reading_cannot_write(store: Store) -> None:
    with pytest.raises(StoreError, match="read-only"):
        store.read("sneak", lambda tx: tx.insert_job(record()))
    store.run_tx("write", lambda tx: tx.insert_job(record()))  # the connection is usable again
    assert len(store.read("look", lambda tx: tx.jobs())) == 1


def test_a_transaction_inside_a_transaction_is_a_mistake_and_no_deadlock(store: Store) -> None:
    with pytest.raises(RuntimeError, match="inside"):
        store.run_tx("outer", lambda tx: store.run_tx("inner", lambda tx: None))
    store.run_tx("after", lambda tx: None)


def test_threads_take_turns(store: Store) -> None:
    """Read-modify-write by eight threads at once loses no update."""
    store.run_tx("first", lambda tx: tx.insert_job(record()))
    errors: list[BaseException] = []

    def count(tx: Tx) -> None:
        job = tx.job(record().job_id)
        assert job is not None
        tx.update_job(replace(job, updated_unix_s=job.updated_unix_s + 1))

    def work() -> None:
        try:
            for _ in range(10):
                store.run_tx("count", count)
                store.read("look", lambda tx: tx.jobs())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    job = store.read("look", lambda tx: tx.job(record().job_id))
    assert job is not None and job.updated_unix_s == 180


def test_a_reader_sees_one_moment(store: Store) -> None:
    def body(tx: Tx) -> tuple[int, int]:
        before = len(tx.jobs())
        thread = threading.Thread(target=store.run_tx, args=("other", lambda tx: tx.insert_job(record())))
        thread.start()
        thread.join()
        return before, len(tx.jobs())

    assert store.read("look", body) == (0, 0)
    assert len(store.read("look", lambda tx: tx.jobs())) == 1


def test_commits_are_synced_and_the_file_is_private(store: Store, path: Path) -> None:
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    store.run_tx("write", lambda tx: tx.insert_job(record()))
    for file in path.parent.glob("store.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


# ---- what the schema holds whatever the code does


def test_the_ledger_only_grows_and_has_no_event_twice(store: Store) -> None:
    store.run_tx(
        "fill", lambda tx: (tx.insert_job(record()), tx.append_entry(0, record().job_id, "released", _entry()))
    )
    with pytest.raises(StoreError, match="UNIQUE"):
        store.run_tx("again", lambda tx: tx.append_entry(1, record().job_id, "released", _entry()))
    with pytest.raises(StoreError, match="UNIQUE"):
        store.run_tx("same place", lambda tx: tx.append_entry(0, record().job_id, "failed", _entry()))
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.run_tx("no job", lambda tx: tx.append_entry(1, "c" * 32, "failed", _entry()))
    for statement in ("DELETE FROM ledger", "UPDATE ledger SET event = 'failed'"):
        with pytest.raises(StoreError, match="only grows"):
            store.run_tx("cheat", lambda tx, s=statement: tx._connection.exec_driver_sql(s))
    with pytest.raises(StoreError, match="CHECK"):
        store.run_tx("odd state", lambda tx: tx.insert_job(record(2, "DONE")))


def _entry() -> Signed:
    return Signed(b"entry", b"o" * 32, b"u" * 64)


def test_tables_in_the_code_are_those_of_the_migrations(store: Store) -> None:
    inspector = sqlalchemy.inspect(store._engine)
    assert set(inspector.get_table_names()) == {table.name for table in TABLES} | {"schema_version"}
    for table in TABLES:
        made = {column["name"] for column in inspector.get_columns(table.name)}
        assert made == {column.name for column in table.columns}


# ---- versions


def raw(path: Path, *statements: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        rows: list[tuple[object, ...]] = []
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        connection.commit()
        return rows
    finally:
        connection.close()


def test_a_store_of_a_newer_version_is_refused_untouched(path: Path) -> None:
    newer = (*MIGRATIONS, ("CREATE TABLE more (x INTEGER)",))
    Store.open(path, migrations=newer).close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"newer version: .* up to {len(MIGRATIONS)}, found {len(newer)}") as caught:
        Store.open(path)
    assert "newer software" in caught.value.hint
    assert path.read_bytes() == before


def test_an_older_store_is_migrated_and_keeps_its_rows(path: Path) -> None:
    with Store.open(path) as store:
        store.run_tx("write", lambda tx: tx.insert_job(record()))
    newer = (
        *MIGRATIONS,
        ("CREATE TABLE more (x INTEGER)",),
        ("ALTER TABLE jobs ADD COLUMN y INTEGER", "DROP TABLE more"),
    )
    with Store.open(path, migrations=newer) as store:
        assert store.read("look", lambda tx: tx.job(record().job_id)) == record()
    assert raw(path, "SELECT version FROM schema_version") == [(len(newer),)]
    Store.open(path, migrations=newer).close()


def test_a_migration_that_fails_leaves_the_old_version(path: Path) -> None:
    Store.open(path).close()
    broken = (*MIGRATIONS, ("CREATE TABLE more (x INTEGER)", "CREATE TABLE jobs (x INTEGER)"))
    with pytest.raises(StoreError, match="could not migrate"):
        Store.open(path, migrations=broken)
    assert raw(path, "SELECT name FROM sqlite_master WHERE name = 'more'") == []
    Store.open(path).close()


@pytest.mark.parametrize("version", ["0", "-1", "'x'", "NULL"])
def test_a_nonsense_version(path: Path, version: str) -> None:
    raw(path, "CREATE TABLE schema_version (version)", f"INSERT INTO schema_version VALUES ({version})")
    with pytest.raises(StoreError, match="version must be one number"):
        Store.open(path)


def test_somebody_elses_database(path: Path) -> None:
    raw(path, "CREATE TABLE customers (x)")
    with pytest.raises(StoreError, match=r"not a store of this project: .* customers"):
        Store.open(path)
    assert raw(path, "SELECT name FROM sqlite_master") == [("customers",)]


# ---- the disk says no


def test_disk_full_is_a_clear_error_and_leaves_nothing_half_written(path: Path) -> None:
    with Store.open(path, max_bytes=160 << 10) as store:
        written = 0

        def body(tx: Tx) -> None:
            job = record(written, spec=b"x" * 20_000)
            tx.insert_job(job)
            tx.append_entry(written, job.job_id, "proposed", Signed(b"e" * 5_000, b"o" * 32, b"u" * 64))

        with pytest.raises(StoreError, match=r"could not propose: .* full") as caught:
            while True:
                store.run_tx("propose", body)
                written += 1
        assert "free some space" in caught.value.hint
        assert written > 1
        # Reading goes on, the failed transaction left no row in either table, and small writes may still fit.
        jobs, entries = store.read("look", lambda tx: (tx.jobs(), tx.entries()))
        assert len(jobs) == len(entries) == written
    with Store.open(path) as store:  # with room again, the same job goes through
        store.run_tx("propose", body)
        assert len(store.read("look", lambda tx: tx.jobs())) == written + 1


WRITE_ERROR = """
import resource, sys
from pathlib import Path
from enclave.errors import StoreError
from enclave.messages import Signed
from enclave.store import JobRecord, Store

store = Store.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for n in range(100):
        signed = Signed(b"x" * 20_000, b"k" * 32, b"s" * 64)
        job = JobRecord(f"{n:032x}", signed, b"d" * 32, "hearts", "PROPOSED", (), 1, 1, 2)
        store.run_tx("propose", lambda tx: tx.insert_job(job))
        print(n, flush=True)
except StoreError as error:
    print(error.public)
"""


def test_a_write_error_of_the_system(path: Path) -> None:
    """The operating system refuses to let the file grow, as it does when a quota ends."""
    found = subprocess.run(
        [sys.executable, "-c", WRITE_ERROR, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    *committed, message = found.stdout.splitlines()
    assert message == "the store could not propose: the disk is full or reports an error"
    with Store.open(path) as store:
        assert len(store.read("look", lambda tx: tx.jobs())) == len(committed) > 0


def test_a_file_that_is_not_a_database(path: Path) -> None:
    path.write_bytes(b"garbage, long enough to be looked at" * 200)
    with pytest.raises(StoreError, match="not a store"):
        Store.open(path)


def test_a_damaged_file_is_found_at_the_start(path: Path) -> None:
    with Store.open(path) as store:
        for number in range(40):
            store.run_tx("fill", lambda tx, n=number: tx.insert_job(record(n, spec=b"x" * 3000)))
    raw(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    for page in range(4, len(data) // 4096, 2):
        data[page * 4096 : page * 4096 + 2000] = b"\xa5" * 2000
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged") as caught:
        Store.open(path)
    assert "restore" in caught.value.hint


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot open the store"):
        Store.open(tmp_path / "nowhere" / "store.db")
    with pytest.raises(StoreError, match="cannot open the store"):
        Store.open(tmp_path)


# ---- other processes

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(store: Store, path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
        process.wait()


def test_busy_is_retried_and_then_reported(
    store: Store, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    attempt = Store._attempt

    def counted(self: Store, name: str, *rest: object) -> object:
        calls.append(name)
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 20")
        return attempt(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_attempt", counted)
    with pytest.raises(StoreError, match="another process holds it") as caught:
        store.run_tx("write", lambda tx: tx.insert_job(record()))
    assert caught.value.retryable
    assert len(calls) == database.ATTEMPTS
    assert store.read("look", lambda tx: tx.jobs()) == ()  # readers never wait


def test_busy_for_a_moment_is_not_noticed(store: Store, holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None

    def let_go() -> None:
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    timer = threading.Timer(0.2, let_go)
    timer.start()
    store.run_tx("write", lambda tx: tx.insert_job(record()))
    timer.join()
    assert len(store.read("look", lambda tx: tx.jobs())) == 1


def test_one_claim_at_a_time(store: Store, path: Path) -> None:
    store.claim()
    store.claim()
    with Store.open(path) as other:
        with pytest.raises(StoreError, match="already serves") as caught:
            other.claim()
        assert "stop the other" in caught.value.hint
        store.close()
        other.claim()

"""Leases, expiry, restarts."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from enclave.errors import Refused, StoreError
from enclave.jobs import JobLimits, Jobs
from enclave.store import Store


def test_only_started_jobs_are_leased_oldest_first_and_once(desk: Any) -> None:
    for number in (1, 2, 3):
        desk.admitted(number)
    assert desk.jobs.lease("w1", 60) is None
    desk.jobs.ask_start(f"{2:032x}")
    desk.clock.advance(1)
    desk.jobs.ask_start(f"{1:032x}")
    desk.jobs.ask_start(f"{1:032x}")
    leased = [desk.jobs.lease(f"w{n}", 60) for n in range(3)]
    assert [r and r.job_id for r in leased] == [f"{2:032x}", f"{1:032x}", None]
    assert leased[0] is not None and leased[0].worker == "w0" and leased[0].state == "RUNNING"


def test_a_named_lease_takes_that_job_or_none(desk: Any) -> None:
    for number in (1, 2):
        desk.jobs.ask_start(desk.admitted(number))
    record = desk.jobs.lease("w1", 60, f"{2:032x}")
    assert record is not None and record.job_id == f"{2:032x}"
    assert desk.jobs.lease("w1", 60, f"{2:032x}") is None


def test_many_workers_get_each_job_once(desk: Any) -> None:
    for number in range(12):
        desk.jobs.ask_start(desk.admitted(number))
    got: list[str] = []

    def work(worker: str) -> None:
        while (record := desk.jobs.lease(worker, 60)) is not None:
            got.append(record.job_id)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [f"{n:032x}" for n in range(12)]


def test_start_of_a_job_that_cannot_start(desk: Any) -> None:
    with pytest.raises(Refused, match="PROPOSED"):
        desk.jobs.ask_start(desk.at("PROPOSED", 1))
    assert desk.jobs.ask_start(desk.at("FAILED", 2)).state == "FAILED"
    late = desk.admitted(3)
    desk.clock.advance(3600)
    with pytest.raises(Refused) as caught:
        desk.jobs.ask_start(late)
    assert caught.value.code == "job.expired"


def test_a_lease_that_is_not_renewed_ends_the_job(desk: Any) -> None:
    kept, lost = desk.running(1, "w1", 60), desk.running(2, "w2", 60)
    desk.clock.advance(59)
    desk.jobs.renew(kept, "w1", 60)
    assert desk.jobs.expire_due() == ()
    desk.clock.advance(1)
    assert [r.job_id for r in desk.jobs.expire_due()] == [lost]
    assert desk.jobs.get(lost).state == "FAILED"
    assert desk.jobs.get(lost).reasons[0].rule == "job.lease"
    with pytest.raises(Refused) as caught:
        desk.jobs.renew(lost, "w2", 60)
    assert caught.value.code == "job.lease"
    with pytest.raises(Refused):
        desk.jobs.advance(lost, "SEALED", worker_id="w2")


def test_a_lease_is_not_another_workers(desk: Any) -> None:
    job_id = desk.running()
    with pytest.raises(Refused):
        desk.jobs.renew(job_id, "w2", 60)
    with pytest.raises(Refused) as caught:
        desk.jobs.advance(job_id, "SEALED", worker_id="w2")
    assert caught.value.code == "job.lease"
    assert desk.jobs.get(job_id).state == "RUNNING"


def test_overdue_jobs_end(new_desk: Any) -> None:
    desk = new_desk(JobLimits(max_run_s=5000))
    with desk.store:
        desk.at("PROPOSED", 1)
        desk.at("ADMITTED", 2)
        job_id = desk.running(3, lease_s=10_000)
        desk.clock.advance(3600)
        assert [r.state for r in desk.jobs.expire_due()] == ["EXPIRED", "EXPIRED"]
        assert desk.jobs.get(job_id).state == "RUNNING"  # an expiry is for starting, not for finishing
        desk.clock.advance(1400)
        assert [r.state for r in desk.jobs.expire_due()] == ["FAILED"]
        assert desk.jobs.get(job_id).reasons[0].rule == "job.deadline"
        assert desk.jobs.expire_due() == ()


def test_a_restart_ends_sessions_and_keeps_the_waiting(desk: Any) -> None:
    states = ("PROPOSED", "ADMITTED", "RUNNING", "SEALED", "RELEASED", "REFUSED", "FAILED", "WITHDRAWN", "EXPIRED")
    ids = {state: desk.at(state, n) for n, state in enumerate(states)}
    started = desk.admitted(20)
    desk.jobs.ask_start(started)
    jobs = desk.reopen()
    failed = jobs.recover()
    assert {r.job_id for r in failed} == {ids["RUNNING"], ids["SEALED"]}
    expected = dict(zip(states, states, strict=True)) | {"RUNNING": "FAILED", "SEALED": "FAILED"}
    assert {state: jobs.get(job_id).state for state, job_id in ids.items()} == expected
    assert jobs.get(ids["SEALED"]).reasons[0].rule == "node.restarted"
    assert jobs.lease("w9", 60) is None  # the start was forgotten
    jobs.ask_start(started)
    assert jobs.lease("w9", 60) is not None
    with pytest.raises(Refused):
        jobs.advance(ids["SEALED"], "RELEASED")
    jobs.check_ledger()


def test_two_nodes_on_one_home(desk: Any) -> None:
    desk.jobs.recover()
    desk.jobs.recover()
    with Store.open(desk.path) as other, pytest.raises(StoreError, match="already serves"):
        Jobs(other, desk.owner, desk.clock).recover()


def test_a_forged_state_is_found(desk: Any) -> None:
    job_id = desk.at("SEALED")
    desk.store.close()
    raw = sqlite3.connect(desk.path)
    raw.execute("UPDATE jobs SET state = 'RELEASED'")
    raw.commit()
    raw.close()
    with pytest.raises(StoreError, match=rf"disagrees with the jobs: for {job_id} it says sealed"):
        desk.reopen().recover()


def test_a_changed_ledger_is_found(desk: Any) -> None:
    desk.at("SEALED")
    desk.store.close()
    raw = sqlite3.connect(desk.path)
    raw.execute("DROP TRIGGER ledger_kept")
    raw.execute("DELETE FROM ledger WHERE position = 1")
    raw.commit()
    raw.close()
    with pytest.raises(StoreError, match="ledger is damaged"):
        desk.reopen().recover()


KILLED = """
import sys
from pathlib import Path
from enclave.clock import ManualClock
from enclave.identity import Identity
from enclave.jobs import Jobs
from enclave.store import Store

home = Path(sys.argv[1])
jobs = Jobs(Store.open(home / "store.db"), Identity.load(home / "owner", ManualClock()), ManualClock())
jobs.recover()
print("ready", flush=True)
while (record := jobs.lease("w1", 60)) is not None:
    jobs.advance(record.job_id, "SEALED")
    jobs.advance(record.job_id, "RELEASED")
    print(record.job_id, flush=True)
"""


def test_kill_9_in_the_middle(desk: Any) -> None:
    """A real process dies by SIGKILL while it moves jobs. Nothing is lost, nothing can be released again."""
    ids = [desk.admitted(n) for n in range(60)]
    desk.store.close()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    # The starts are asked for by the second process itself, since its recover forgets earlier ones.
    script = KILLED.replace(
        'print("ready"', 'for r in jobs.list(("ADMITTED",)): jobs.ask_start(r.job_id)\nprint("ready"'
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(desk.path.parent)], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as lines:
        assert lines.readline() == "ready\n"
        told = [lines.readline().strip() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        told += [line.strip() for line in lines if line.endswith("\n")]
    assert process.wait() == -signal.SIGKILL
    jobs = desk.reopen()
    jobs.recover()
    records = {r.job_id: r for r in jobs.list()}
    assert set(records) == set(ids)
    assert set(told) <= {j for j, r in records.items() if r.state == "RELEASED"}
    assert {r.state for r in records.values()} <= {"ADMITTED", "FAILED", "RELEASED"}
    for job_id in told:
        with pytest.raises(Refused):
            jobs.advance(job_id, "RELEASED")
    desk.clock.advance(3600)
    jobs.expire_due()
    assert all(r.is_final for r in jobs.list())
    jobs.check_ledger()

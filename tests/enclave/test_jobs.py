"""The life of one job: transitions, idempotence, leases, restarts, documents."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.clock import ManualClock
from enclave.errors import BadSpec, Refused, StoreError, Untrusted
from enclave.identity import Identity
from enclave.jobs import FINAL, STATES, TRANSITIONS, History, JobLimits, JobRecord, Jobs, spec_digest
from enclave.ledger import head, verify_chain
from enclave.messages import (
    Approval,
    Architecture,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    NumericFeature,
    PartyRef,
    Reason,
    Signed,
)
from enclave.store import Store

NOW = 1_700_000_000


class Desk:
    """One node's store with its keys, and a buyer who signs jobs."""

    def __init__(self, home: Path, limits: JobLimits | None = None) -> None:
        self.clock = ManualClock(NOW)
        self.owner = Identity.create(home / "owner", "owner", "clinic", "127.0.0.1:1", self.clock)
        self.buyer = Identity.create(home / "buyer", "buyer", "acme", "", self.clock)
        self.path = home / "store.db"
        self.limits = limits
        self.store = Store.open(self.path)
        self.jobs = Jobs(self.store, self.owner, self.clock, limits)

    def reopen(self) -> Jobs:
        self.store.close()
        self.store = Store.open(self.path)
        self.jobs = Jobs(self.store, self.owner, self.clock, self.limits)
        return self.jobs

    def spec(self, number: int = 1, *, expires_in_s: int = 3600, purpose: str = "") -> JobSpec:
        return JobSpec(
            job_id=f"{number:032x}",
            kind="evaluate",
            created_unix_s=NOW - 1,
            expires_unix_s=self.clock.unix_s() + expires_in_s,
            parties=(
                PartyRef("clinic", "owner", self.owner.key_id, "127.0.0.1:1"),
                PartyRef("acme", "buyer", self.buyer.key_id),
                PartyRef("dealer", "dealer", b"d" * 32, "127.0.0.1:2"),
            ),
            datasets=(DatasetRef("clinic", "hearts", b"v" * 32, 300),),
            encoding=Encoding((Feature("age", NumericFeature()),)),
            architecture=Architecture((1,), (), ()),
            outputs=("accuracy",),
            purpose=purpose,
        )

    def propose(self, spec: JobSpec) -> JobRecord:
        return self.jobs.propose(self.buyer.sign("job", spec.encode()), spec)

    def admitted(self, number: int = 1) -> str:
        record = self.propose(self.spec(number))
        return self.jobs.advance(record.job_id, "ADMITTED").job_id

    def running(self, number: int = 1, worker: str = "w1", lease_s: int = 60) -> str:
        job_id = self.admitted(number)
        self.jobs.ask_start(job_id)
        assert self.jobs.lease(worker, lease_s, job_id) is not None
        return job_id

    def at(self, state: str, number: int = 1) -> str:
        """A job brought to `state` by a shortest allowed way."""
        ways = {"PROPOSED": [], "ADMITTED": ["ADMITTED"], "RUNNING": ["ADMITTED", "RUNNING"]}
        ways["SEALED"] = [*ways["RUNNING"], "SEALED"]
        ways["RELEASED"] = [*ways["SEALED"], "RELEASED"]
        ways["FAILED"] = [*ways["RUNNING"], "FAILED"]
        ways |= {state: [state] for state in ("REFUSED", "WITHDRAWN", "EXPIRED")}
        job_id = self.propose(self.spec(number)).job_id
        for step in ways[state]:
            if step == "RUNNING":
                self.jobs.ask_start(job_id)
                self.jobs.lease("w1", 60, job_id)
            else:
                self.jobs.advance(job_id, step)
        return job_id

    def events(self) -> list[tuple[str, str]]:
        return [(e.job_id, e.event) for e in verify_chain(self.jobs.ledger_entries(), self.owner.card)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


# ---- the graph


def test_every_state_reaches_a_final_one_and_no_final_state_is_left() -> None:
    assert {a for a, _ in TRANSITIONS} | {b for _, b in TRANSITIONS} == set(STATES)
    assert not any(a in FINAL for a, _ in TRANSITIONS)
    for state in set(STATES) - FINAL:
        assert any(a == state and b in FINAL for a, b in TRANSITIONS), state


def test_the_graph_has_no_cycle() -> None:
    left = set(TRANSITIONS)
    while left:
        leaves = {b for _, b in left} - {a for a, _ in left}
        assert leaves, f"a cycle among {left}"
        left = {(a, b) for a, b in left if b not in leaves}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("to", STATES)
def test_only_the_pairs_of_the_table_are_allowed(desk: Desk, state: str, to: str) -> None:
    job_id = desk.at(state)
    before = desk.events()
    if (state, to) in TRANSITIONS:
        assert desk.jobs.advance(job_id, to).state == to
        assert desk.events() == [*before, (job_id, to.lower())]
    else:
        with pytest.raises(Refused) as caught:
            desk.jobs.advance(job_id, to)
        assert caught.value.code == "job.state"
        assert desk.jobs.get(job_id).state == state
        assert desk.events() == before


def test_only_sealed_is_ever_released() -> None:
    assert {a for a, b in TRANSITIONS if b == "RELEASED"} == {"SEALED"}


def test_unknown_job_and_unknown_state(desk: Desk) -> None:
    with pytest.raises(Refused, match="no job"):
        desk.jobs.advance("f" * 32, "ADMITTED")
    with pytest.raises(Refused):
        desk.jobs.advance(desk.at("PROPOSED"), "DONE")


def test_the_ledger_entry_says_what_happened(desk: Desk) -> None:
    job_id = desk.running()
    desk.jobs.advance(job_id, "SEALED")
    desk.jobs.advance(job_id, "RELEASED", (Reason("policy.output", "all allowed"),), b"digest", worker_id="w1")
    entry = verify_chain(desk.jobs.ledger_entries(), desk.owner.card)[-1]
    assert (entry.event, entry.detail, entry.reasons) == (
        "released",
        b"digest",
        (Reason("policy.output", "all allowed"),),
    )
    assert entry.spec_digest == spec_digest(desk.spec().encode())
    position, digest = desk.jobs.ledger_position(job_id)
    assert position == entry.index == 4
    assert digest == head(desk.jobs.ledger_entries()[-1])


def test_reasons_of_any_size_leave_a_ledger_that_goes_on(desk: Desk) -> None:
    """Attack: a peer whose error text fills the ledger entry beyond what can be read back."""
    job_id = desk.running(1)
    record = desk.jobs.advance(job_id, "FAILED", [Reason("peer.error", "\udcff" + "x" * 5000)] * 2000)
    assert len(record.reasons) == 51 and record.reasons[-1] == Reason("job.reasons", "and 1950 more")
    desk.propose(desk.spec(2))
    assert desk.jobs.check_ledger()[-2].reasons == record.reasons == desk.jobs.get(job_id).reasons


# ---- proposals


def test_the_same_signed_bytes_are_one_job(desk: Desk) -> None:
    first = desk.propose(desk.spec())
    assert desk.propose(desk.spec()) == first
    desk.jobs.advance(first.job_id, "ADMITTED")
    assert desk.propose(desk.spec()).state == "ADMITTED"
    assert desk.events() == [(first.job_id, "proposed"), (first.job_id, "admitted")]


def test_bytes_are_kept_as_received(desk: Desk) -> None:
    # An unknown field survives in the bytes although the parsed value does not have it.
    body = desk.spec().encode() + b"\xfa\x3e\x03abc"
    signed = desk.buyer.sign("job", body)
    record = desk.jobs.propose(signed, JobSpec.decode(body))
    assert desk.reopen().get(record.job_id).signed == signed
    assert record.spec_digest == hashlib.sha256(body).digest()
    assert desk.jobs.get(record.job_id).spec() == desk.spec()


def test_one_id_with_other_bytes_is_refused(desk: Desk) -> None:
    desk.propose(desk.spec())
    with pytest.raises(Refused) as caught:
        desk.propose(desk.spec(purpose="something else"))
    assert caught.value.code == "job.conflict"
    assert len(desk.events()) == 1


def test_a_job_signed_by_somebody_else_than_its_buyer_is_refused(desk: Desk) -> None:
    spec = desk.spec()
    with pytest.raises(BadSpec, match="signed by its buyer acme"):
        desk.jobs.propose(desk.owner.sign("job", spec.encode()), spec)
    assert desk.jobs.list() == ()


def test_an_expired_job_is_refused_and_leaves_no_trace(desk: Desk) -> None:
    spec = desk.spec(expires_in_s=10)
    desk.clock.advance(10)
    with pytest.raises(Refused) as caught:
        desk.propose(spec)
    assert caught.value.code == "job.expired"
    assert desk.jobs.list() == () and desk.events() == []


def test_a_job_that_would_live_too_long_is_refused(desk: Desk) -> None:
    with pytest.raises(Refused) as caught:
        desk.propose(desk.spec(expires_in_s=31 * 86_400))
    assert caught.value.code == "job.lifetime"


def test_a_buyer_has_a_bounded_number_of_open_jobs(tmp_path: Path) -> None:
    desk = Desk(tmp_path, JobLimits(max_open_per_buyer=2))
    with desk.store:
        first = desk.propose(desk.spec(1))
        desk.propose(desk.spec(2))
        with pytest.raises(Refused) as caught:
            desk.propose(desk.spec(3))
        assert caught.value.code == "job.limit"
        assert desk.propose(desk.spec(2)).state == "PROPOSED"  # known ones are still answered
        desk.jobs.advance(first.job_id, "WITHDRAWN")
        assert desk.propose(desk.spec(3)).state == "PROPOSED"


def test_twenty_proposals_at_once(desk: Desk) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(2):
                desk.propose(desk.spec(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n // 2,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(desk.jobs.list()) == 20
    assert len(desk.events()) == 20


# ---- decisions


def test_decide_moves_a_job_once(desk: Desk) -> None:
    job_id = desk.propose(desk.spec()).job_id
    wait = (Reason("policy.approval", "waits for the owner's consent"),)
    assert desk.jobs.decide(job_id, lambda _r, _h: ("PROPOSED", wait)).reasons == wait
    assert desk.jobs.status(job_id).reasons == wait
    assert len(desk.events()) == 1
    no = (Reason("policy.buyer", "not listed"), Reason("policy.kind", "not allowed"))
    assert desk.jobs.decide(job_id, lambda _r, _h: ("REFUSED", no)).state == "REFUSED"
    assert desk.jobs.decide(job_id, lambda _r, _h: ("ADMITTED", ())).state == "REFUSED"
    assert desk.jobs.get(job_id).reasons == no
    assert verify_chain(desk.jobs.ledger_entries(), desk.owner.card)[-1].reasons == no


def test_a_judge_that_fails_changes_nothing(desk: Desk) -> None:
    job_id = desk.propose(desk.spec()).job_id

    def judge(_record: JobRecord, _history: History) -> tuple[str, tuple[Reason, ...]]:
        raise ValueError("no facts")

    with pytest.raises(ValueError, match="no facts"):
        desk.jobs.decide(job_id, judge)
    assert desk.jobs.get(job_id).state == "PROPOSED"


def test_a_limit_holds_when_all_ask_at_once(desk: Desk) -> None:
    """Sixteen jobs, room for three: counting and admitting are one step, so exactly three are admitted."""
    ids = [desk.propose(desk.spec(n)).job_id for n in range(16)]

    def judge(_record: JobRecord, history: History) -> tuple[str, tuple[Reason, ...]]:
        return ("ADMITTED", ()) if history.granted < 3 else ("REFUSED", (Reason("policy.jobs.maximum", "3"),))

    threads = [threading.Thread(target=desk.jobs.decide, args=(job_id, judge)) for job_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.jobs.list(("ADMITTED",))) == 3


def test_failed_jobs_do_not_count_as_granted(desk: Desk) -> None:
    desk.at("FAILED", 1)
    desk.at("RELEASED", 2)
    desk.at("REFUSED", 3)
    seen: list[History] = []

    def judge(_record: JobRecord, history: History) -> tuple[str, tuple[Reason, ...]]:
        seen.append(history)
        return "PROPOSED", ()

    desk.jobs.decide(desk.propose(desk.spec(4)).job_id, judge)
    assert seen == [History(granted=1, approved=False)]


def approval_of(desk: Desk, job_id: str, digest: bytes) -> Signed:
    return desk.owner.sign("approval", Approval(job_id, digest).encode())


def test_approval_is_recorded_once_and_seen_by_the_judge(desk: Desk) -> None:
    record = desk.propose(desk.spec())
    signed = approval_of(desk, record.job_id, record.spec_digest)
    assert desk.jobs.approve(signed).state == "PROPOSED"
    desk.jobs.approve(signed)
    desk.reopen()
    done = desk.jobs.decide(record.job_id, lambda _r, h: ("ADMITTED" if h.approved else "REFUSED", ()))
    assert done.state == "ADMITTED"
    assert desk.jobs.approve(signed).state == "ADMITTED"


def test_approval_by_anybody_else_or_of_anything_else(desk: Desk) -> None:
    record = desk.propose(desk.spec())
    body = Approval(record.job_id, record.spec_digest).encode()
    with pytest.raises(Untrusted):
        desk.jobs.approve(desk.buyer.sign("approval", body))
    with pytest.raises(Untrusted):  # signed for another purpose
        desk.jobs.approve(desk.owner.sign("withdraw", body))
    with pytest.raises(Refused) as caught:
        desk.jobs.approve(approval_of(desk, record.job_id, b"x" * 32))
    assert caught.value.code == "job.conflict"
    desk.jobs.advance(record.job_id, "WITHDRAWN")
    with pytest.raises(Refused, match="WITHDRAWN"):
        desk.jobs.approve(approval_of(desk, record.job_id, record.spec_digest))


# ---- leases


def test_only_started_jobs_are_leased_oldest_first_and_once(desk: Desk) -> None:
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


def test_a_named_lease_takes_that_job_or_none(desk: Desk) -> None:
    for number in (1, 2):
        desk.jobs.ask_start(desk.admitted(number))
    record = desk.jobs.lease("w1", 60, f"{2:032x}")
    assert record is not None and record.job_id == f"{2:032x}"
    assert desk.jobs.lease("w1", 60, f"{2:032x}") is None


def test_many_workers_get_each_job_once(desk: Desk) -> None:
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


def test_start_of_a_job_that_cannot_start(desk: Desk) -> None:
    with pytest.raises(Refused, match="PROPOSED"):
        desk.jobs.ask_start(desk.at("PROPOSED", 1))
    assert desk.jobs.ask_start(desk.at("FAILED", 2)).state == "FAILED"
    late = desk.admitted(3)
    desk.clock.advance(3600)
    with pytest.raises(Refused) as caught:
        desk.jobs.ask_start(late)
    assert caught.value.code == "job.expired"


def test_a_lease_that_is_not_renewed_ends_the_job(desk: Desk) -> None:
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


def test_a_lease_is_not_another_workers(desk: Desk) -> None:
    job_id = desk.running()
    with pytest.raises(Refused):
        desk.jobs.renew(job_id, "w2", 60)
    with pytest.raises(Refused) as caught:
        desk.jobs.advance(job_id, "SEALED", worker_id="w2")
    assert caught.value.code == "job.lease"
    assert desk.jobs.get(job_id).state == "RUNNING"


def test_overdue_jobs_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path, JobLimits(max_run_s=5000))
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


# ---- restarts


def test_a_restart_ends_sessions_and_keeps_the_waiting(desk: Desk) -> None:
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


def test_two_nodes_on_one_home(desk: Desk) -> None:
    desk.jobs.recover()
    desk.jobs.recover()
    with Store.open(desk.path) as other, pytest.raises(StoreError, match="already serves"):
        Jobs(other, desk.owner, desk.clock).recover()


def test_a_forged_state_is_found(desk: Desk) -> None:
    import sqlite3

    job_id = desk.at("SEALED")
    desk.store.close()
    raw = sqlite3.connect(desk.path)
    raw.execute("UPDATE jobs SET state = 'RELEASED'")
    raw.commit()
    raw.close()
    with pytest.raises(StoreError, match=rf"disagrees with the jobs: for {job_id} it says sealed"):
        desk.reopen().recover()


def test_a_changed_ledger_is_found(desk: Desk) -> None:
    import sqlite3

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


def test_kill_9_in_the_middle(desk: Desk) -> None:
    """A real process dies by SIGKILL while it moves jobs. Nothing is lost, nothing can be released again."""
    ids = [desk.admitted(n) for n in range(60)]
    desk.store.close()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
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


# ---- status and documents


def test_status_carries_progress_only_while_there_is_a_session(desk: Desk) -> None:
    job_id = desk.running()
    desk.jobs.progress(job_id, 3, 10, "layer 1")
    status = desk.jobs.status(job_id)
    assert (status.state, status.steps_done, status.steps_total, status.stage) == ("RUNNING", 3, 10, "layer 1")
    desk.jobs.advance(job_id, "FAILED")
    desk.jobs.progress(job_id, 4, 10, "late")
    assert desk.jobs.status(job_id).steps_total == 0


def test_wait_returns_at_once_on_a_change(desk: Desk) -> None:
    job_id = desk.propose(desk.spec()).job_id
    seen = desk.jobs.wait(job_id, None, 10.0)
    assert desk.jobs.wait(job_id, seen, 0.01) == seen
    thread = threading.Thread(target=desk.jobs.advance, args=(job_id, "ADMITTED"))
    thread.start()
    assert desk.jobs.wait(job_id, seen, 30.0).state == "ADMITTED"
    thread.join()


def test_documents_are_written_once(desk: Desk) -> None:
    job_id = desk.at("FAILED")
    assert desk.jobs.document(job_id, "statement") is None
    desk.jobs.save_document(job_id, "statement", b"\x00signed")
    desk.jobs.save_document(job_id, "statement", b"\x00signed")
    with pytest.raises(Refused, match="already has another statement"):
        desk.jobs.save_document(job_id, "statement", b"other")
    assert desk.reopen().document(job_id, "statement") == b"\x00signed"
    with pytest.raises(Refused, match="one of statement, receipt, report"):
        desk.jobs.save_document(job_id, "../../etc/passwd", b"")
    with pytest.raises(Refused, match="no job"):
        desk.jobs.save_document("e" * 32, "receipt", b"")


def test_list_keeps_the_order_of_arrival(desk: Desk) -> None:
    for number in (5, 3, 9):
        desk.propose(desk.spec(number))
    assert [int(r.job_id, 16) for r in desk.jobs.list()] == [5, 3, 9]
    assert [int(r.job_id, 16) for r in desk.jobs.list(limit=2)] == [3, 9]
    assert desk.jobs.list(("RUNNING",)) == ()

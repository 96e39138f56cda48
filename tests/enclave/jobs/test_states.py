"""The graph of states, and what each move writes."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from enclave.errors import Refused
from enclave.jobs import FINAL, STATES, TRANSITIONS, spec_digest
from enclave.ledger import head, verify_chain
from enclave.messages import (
    Reason,
)


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
def test_only_the_pairs_of_the_table_are_allowed(desk: Any, state: str, to: str) -> None:
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


def test_unknown_job_and_unknown_state(desk: Any) -> None:
    with pytest.raises(Refused, match="no job"):
        desk.jobs.advance("f" * 32, "ADMITTED")
    with pytest.raises(Refused):
        desk.jobs.advance(desk.at("PROPOSED"), "DONE")


def test_the_ledger_entry_says_what_happened(desk: Any) -> None:
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


def test_reasons_of_any_size_leave_a_ledger_that_goes_on(desk: Any) -> None:
    """Attack: a peer whose error text fills the ledger entry beyond what can be read back."""
    job_id = desk.running(1)
    record = desk.jobs.advance(job_id, "FAILED", [Reason("peer.error", "\udcff" + "x" * 5000)] * 2000)
    assert len(record.reasons) == 51 and record.reasons[-1] == Reason("job.reasons", "and 1950 more")
    desk.propose(desk.spec(2))
    assert desk.jobs.check_ledger()[-2].reasons == record.reasons == desk.jobs.get(job_id).reasons


def test_status_carries_progress_only_while_there_is_a_session(desk: Any) -> None:
    job_id = desk.running()
    desk.jobs.progress(job_id, 3, 10, "layer 1")
    status = desk.jobs.status(job_id)
    assert (status.state, status.steps_done, status.steps_total, status.stage) == ("RUNNING", 3, 10, "layer 1")
    desk.jobs.advance(job_id, "FAILED")
    desk.jobs.progress(job_id, 4, 10, "late")
    assert desk.jobs.status(job_id).steps_total == 0


def test_wait_returns_at_once_on_a_change(desk: Any) -> None:
    job_id = desk.propose(desk.spec()).job_id
    seen = desk.jobs.wait(job_id, None, 10.0)
    assert desk.jobs.wait(job_id, seen, 0.01) == seen
    thread = threading.Thread(target=desk.jobs.advance, args=(job_id, "ADMITTED"))
    thread.start()
    assert desk.jobs.wait(job_id, seen, 30.0).state == "ADMITTED"
    thread.join()


def test_documents_are_written_once(desk: Any) -> None:
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


def test_list_keeps_the_order_of_arrival(desk: Any) -> None:
    for number in (5, 3, 9):
        desk.propose(desk.spec(number))
    assert [int(r.job_id, 16) for r in desk.jobs.list()] == [5, 3, 9]
    assert [int(r.job_id, 16) for r in desk.jobs.list(limit=2)] == [3, 9]
    assert desk.jobs.list(("RUNNING",)) == ()

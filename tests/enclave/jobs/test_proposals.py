"""Proposals, decisions and approvals."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import pytest

from enclave.errors import BadSpec, Refused, Untrusted
from enclave.jobs import History, JobLimits, JobRecord
from enclave.ledger import verify_chain
from enclave.messages import (
    Approval,
    JobSpec,
    Reason,
    Signed,
)


def test_the_same_signed_bytes_are_one_job(desk: Any) -> None:
    first = desk.propose(desk.spec())
    assert desk.propose(desk.spec()) == first
    desk.jobs.advance(first.job_id, "ADMITTED")
    assert desk.propose(desk.spec()).state == "ADMITTED"
    assert desk.events() == [(first.job_id, "proposed"), (first.job_id, "admitted")]


def test_bytes_are_kept_as_received(desk: Any) -> None:
    # An unknown field survives in the bytes although the parsed value does not have it.
    body = desk.spec().encode() + b"\xfa\x3e\x03abc"
    signed = desk.buyer.sign("job", body)
    record = desk.jobs.propose(signed, JobSpec.decode(body))
    assert desk.reopen().get(record.job_id).signed == signed
    assert record.spec_digest == hashlib.sha256(body).digest()
    assert desk.jobs.get(record.job_id).spec() == desk.spec()


def test_one_id_with_other_bytes_is_refused(desk: Any) -> None:
    desk.propose(desk.spec())
    with pytest.raises(Refused) as caught:
        desk.propose(desk.spec(purpose="something else"))
    assert caught.value.code == "job.conflict"
    assert len(desk.events()) == 1


def test_a_job_signed_by_somebody_else_than_its_buyer_is_refused(desk: Any) -> None:
    spec = desk.spec()
    with pytest.raises(BadSpec, match="signed by its buyer acme"):
        desk.jobs.propose(desk.owner.sign("job", spec.encode()), spec)
    assert desk.jobs.list() == ()


def test_an_expired_job_is_refused_and_leaves_no_trace(desk: Any) -> None:
    spec = desk.spec(expires_in_s=10)
    desk.clock.advance(10)
    with pytest.raises(Refused) as caught:
        desk.propose(spec)
    assert caught.value.code == "job.expired"
    assert desk.jobs.list() == () and desk.events() == []


def test_a_job_that_would_live_too_long_is_refused(desk: Any) -> None:
    with pytest.raises(Refused) as caught:
        desk.propose(desk.spec(expires_in_s=31 * 86_400))
    assert caught.value.code == "job.lifetime"


def test_a_buyer_has_a_bounded_number_of_open_jobs(new_desk: Any) -> None:
    desk = new_desk(JobLimits(max_open_per_buyer=2))
    with desk.store:
        first = desk.propose(desk.spec(1))
        desk.propose(desk.spec(2))
        with pytest.raises(Refused) as caught:
            desk.propose(desk.spec(3))
        assert caught.value.code == "job.limit"
        assert desk.propose(desk.spec(2)).state == "PROPOSED"  # known ones are still answered
        desk.jobs.advance(first.job_id, "WITHDRAWN")
        assert desk.propose(desk.spec(3)).state == "PROPOSED"


def test_twenty_proposals_at_once(desk: Any) -> None:
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


def test_decide_moves_a_job_once(desk: Any) -> None:
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


def test_a_judge_that_fails_changes_nothing(desk: Any) -> None:
    job_id = desk.propose(desk.spec()).job_id

    def judge(_record: JobRecord, _history: History) -> tuple[str, tuple[Reason, ...]]:
        raise ValueError("no facts")

    with pytest.raises(ValueError, match="no facts"):
        desk.jobs.decide(job_id, judge)
    assert desk.jobs.get(job_id).state == "PROPOSED"


def test_a_limit_holds_when_all_ask_at_once(desk: Any) -> None:
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


def test_every_job_that_ran_counts_as_granted(desk: Any) -> None:
    """A failure after the start counts: otherwise its reasons and its time could be asked for without end."""
    withdrawn, never_ran = desk.at("RUNNING", 5), desk.at("ADMITTED", 6)
    for job_id in (withdrawn, never_ran):
        desk.jobs.advance(job_id, "WITHDRAWN")
    desk.at("FAILED", 1)
    desk.at("RELEASED", 2)
    desk.at("REFUSED", 3)
    seen: list[History] = []

    def judge(_record: JobRecord, history: History) -> tuple[str, tuple[Reason, ...]]:
        seen.append(history)
        return "PROPOSED", ()

    desk.jobs.decide(desk.propose(desk.spec(4)).job_id, judge)
    assert seen == [History(granted=3, approved=False)]
    assert desk.jobs.history(withdrawn).granted == 2


def approval_of(desk: Any, job_id: str, digest: bytes) -> Signed:
    return desk.owner.sign("approval", Approval(job_id, digest).encode())


def test_approval_is_recorded_once_and_seen_by_the_judge(desk: Any) -> None:
    record = desk.propose(desk.spec())
    signed = approval_of(desk, record.job_id, record.spec_digest)
    assert desk.jobs.approve(signed).state == "PROPOSED"
    desk.jobs.approve(signed)
    desk.reopen()
    done = desk.jobs.decide(record.job_id, lambda _r, h: ("ADMITTED" if h.approved else "REFUSED", ()))
    assert done.state == "ADMITTED"
    assert desk.jobs.approve(signed).state == "ADMITTED"


def test_approval_by_anybody_else_or_of_anything_else(desk: Any) -> None:
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

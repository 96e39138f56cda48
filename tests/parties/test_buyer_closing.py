"""However a job ends, all parties sign the same receipt of it; who does not answer is asked again later."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

import pytest

from enclave.errors import EnclaveError, NotReady, PolicyRefused, SessionError
from enclave.identity import Identity, TrustStore
from enclave.messages import Signed, Statement
from enclave.receipts import Verified, verify_receipt
from parties import owner
from parties.buyer import Buyer, Schedule, Withdrawal
from parties.server import NodeClient
from tests.parties.fleet import Fleet
from tests.parties.shell import Shell, enclave

__all__ = ["enclave"]

ENCODING = """
[[features]]
columns = ["a", "b", "c"]
low = -2
high = 2

[target]
column = "y"
classes = ["no", "yes"]
"""
BOTH = ["owner0/points", "owner1/points"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Owner 0 agrees by itself, owner 1 wants to be asked."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), owners=2)
    (fleet.root / "points.toml").write_text(ENCODING)
    toml = fleet.root / "owner1-data" / "points.toml"
    toml.write_text(toml.read_text().replace('"automatic"', '"manual"'))
    owner.add(fleet.root / "owner1", toml, replace=True)
    try:
        yield fleet.up()
    finally:
        fleet.down()


@pytest.fixture
def buyer(fleet: Fleet) -> Iterator[Buyer]:
    with Buyer(fleet.root / "buyer") as found:
        yield found


def _receipt(fleet: Fleet, job_id: str) -> Verified:
    """The receipt that buyer and nodes hold alike, verified against the cards that the buyer trusts."""
    data = (fleet.root / "buyer" / "jobs" / job_id / "receipt.pb").read_bytes()
    for name in fleet.node_names:
        with fleet.client(name) as client:
            assert client.fetch(job_id)["receipt"] == data, name
    cards = (*TrustStore(fleet.root / "buyer").cards(), Identity.load(fleet.root / "buyer").card)
    verified = verify_receipt(data, cards)
    assert verified.ok and verified.mode == "authenticated", verified.failures
    assert verified.body is not None and verified.body.released == () and not verified.released
    return verified


def _states(verified: Verified) -> dict[str, str]:
    return {said.party: said.state for said in verified.statements}


def _waiting(fleet: Fleet, buyer: Buyer) -> str:
    with pytest.raises(NotReady) as waiting:
        buyer.evaluate(fleet.model(), data=BOTH, encoding=fleet.root / "points.toml")
    return waiting.value.job_id


def _fetched(client: NodeClient, job_id: str) -> dict[str, bytes]:
    """The documents of a job that is about to end at this node."""
    end_s = time.monotonic() + 10
    while True:
        try:
            return client.fetch(job_id)
        except NotReady:
            assert time.monotonic() < end_s
            time.sleep(0.05)


def _notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def test_a_refused_job_has_a_receipt_with_each_party_s_own_end(fleet: Fleet, buyer: Buyer, enclave: Shell) -> None:
    folder = fleet.root / "owner1-data"
    text = (folder / "points.toml").read_text()
    (folder / "closed.toml").write_text(text.replace("name = 'points'", "name = 'closed'").replace('"evaluate", ', ""))
    owner.add(fleet.root / "owner1", folder / "closed.toml")
    with pytest.raises(PolicyRefused) as refused:
        buyer.evaluate(fleet.model(), data=[BOTH[0], "owner1/closed"], encoding=fleet.root / "points.toml")
    job_id = buyer.jobs()[-1].job_id
    path = fleet.root / "buyer" / "jobs" / job_id / "receipt.pb"
    assert _notes(refused.value) == f"the receipt of this end, signed by all, is {path}"
    job = buyer.jobs()[-1]
    assert job.rules == ("policy.kind", "policy.approval")
    assert job.reasons[0].startswith("owner1: evaluate jobs are not allowed")
    verified = _receipt(fleet, job_id)
    assert _states(verified) == {
        "owner0": "WITHDRAWN",
        "owner1": "REFUSED",
        "buyer": "REFUSED",
        "dealer": "WITHDRAWN",
    }
    assert enclave("auditor", "verify", path, "--home", fleet.root / "buyer") == 0
    assert "kind     evaluate, ended without release\n" in enclave.out and "released nothing\n" in enclave.out
    assert re.search(r"^end      owner0  withdrawn: withdrawn by buyer \(job\.withdrawn\)$", enclave.out, re.MULTILINE)
    assert re.search(r"^end      owner1  refused: evaluate jobs .* \(policy\.kind\)", enclave.out, re.MULTILINE)
    assert enclave("auditor", "verify", path, "--home", fleet.root / "buyer", "--json") == 0
    ends = enclave.json()["ends"]
    assert isinstance(ends, list) and (ends[1]["state"], ends[1]["reasons"][0]["rule"]) == ("REFUSED", "policy.kind")
    # The command says the same again, in its own words and with the same exit code.
    assert enclave("buyer", "result", job_id, "--home", fleet.root / "buyer") == 1
    assert f"note: the receipt of this end, signed by all, is {path}\n" in enclave.err
    assert enclave("buyer", "result", job_id, "--home", fleet.root / "buyer", "--json") == 1
    error = enclave.json()["error"]
    assert isinstance(error, dict) and error["rules"] == ["policy.kind", "policy.approval"] and len(error["notes"]) == 1


def test_a_job_that_an_owner_withdraws_has_a_receipt(fleet: Fleet, buyer: Buyer) -> None:
    job_id = _waiting(fleet, buyer)
    assert not (fleet.root / "buyer" / "jobs" / job_id / "receipt.pb").exists(), "it has not ended"
    owner.withdraw(fleet.root / "owner1", job_id)
    with pytest.raises(SessionError, match="withdrawn at owner1"):
        buyer.result(job_id)
    assert set(_states(_receipt(fleet, job_id)).values()) == {"WITHDRAWN"}


def test_a_node_that_is_away_signs_later(fleet: Fleet, buyer: Buyer) -> None:
    job_id = _waiting(fleet, buyer)
    folder = fleet.root / "buyer" / "jobs" / job_id
    owner.withdraw(fleet.root / "owner1", job_id)
    fleet.kill("dealer")
    try:
        for _ in range(2):
            with pytest.raises(EnclaveError) as ended:
                buyer.result(job_id)
            note = _notes(ended.value)
            assert note.startswith("no receipt yet: cannot reach dealer") and "\n" not in note
            assert note.endswith(f"`enclave buyer result {job_id}` tries again")
    finally:
        fleet.up("dealer")
    assert not (folder / "receipt.pb").exists()
    kept = {p.name: Statement.decode(Signed.decode(p.read_bytes()).body) for p in folder.glob("statement-*.pb")}
    assert set(kept) == {"statement-buyer.pb", "statement-owner0.pb", "statement-owner1.pb"}
    assert kept["statement-owner1.pb"].state == "WITHDRAWN"
    with pytest.raises(SessionError) as again:
        buyer.result(job_id)
    assert "signed by all" in _notes(again.value)
    _receipt(fleet, job_id)


def test_a_node_that_never_heard_of_the_job_signs_that_it_ended(fleet: Fleet) -> None:
    fleet.kill("owner0")
    try:
        with Buyer(fleet.root / "buyer") as buyer:
            spec = fleet.spec(parties=tuple(fleet.party(n) for n in ("owner0", "owner1", "buyer", "dealer")))
            folder = fleet.root / "buyer" / "jobs" / spec.job_id
            folder.mkdir(parents=True)
            (folder / "spec.pb").write_bytes(fleet.sign(spec).encode())
            (folder / "request.json").write_text(
                '{"salt": "", "outputs_salt": "", "rows": null, "planned": {"rounds": 0, "links": []}}'
            )
            with pytest.raises(SessionError, match="cannot reach owner0") as lost:
                buyer.result(spec.job_id)
            assert "no receipt yet: cannot reach owner0" in _notes(lost.value)
    finally:
        fleet.up("owner0")
    with Buyer(fleet.root / "buyer") as buyer, pytest.raises(SessionError) as again:
        buyer.result(spec.job_id)
    assert "signed by all" in _notes(again.value)
    assert _states(_receipt(fleet, spec.job_id))["owner0"] == "WITHDRAWN"


def test_a_receipt_that_could_not_be_made_at_the_release_is_made_later(fleet: Fleet) -> None:
    def progress(stage: str, done: int, total: int, size_bytes: int) -> None:
        if stage == "collecting the receipt":
            with fleet.client("dealer") as client:
                _fetched(client, buyer.jobs()[-1].job_id)
            fleet.kill("dealer")

    with Buyer(fleet.root / "buyer", progress=progress) as buyer:
        try:
            result = buyer.evaluate(fleet.model(), data=BOTH[:1], encoding=fleet.root / "points.toml")
        finally:
            fleet.up("dealer")
    assert not result.receipt_ok and result.problems[0].startswith("no receipt: cannot reach dealer")
    with Buyer(fleet.root / "buyer") as buyer:
        later = buyer.result(result.job_id)
        assert later.receipt_ok and later.problems == () and later.metrics == result.metrics
        verified = verify_receipt((result.folder / "receipt.pb").read_bytes())
        assert verified.released and verified.body is not None and verified.body.released == ("accuracy",)
        assert later.measured == later.planned
        assert buyer.result(result.job_id).receipt_ok


# ---- withdrawing


def test_a_buyer_withdraws_a_waiting_job_everywhere(fleet: Fleet, buyer: Buyer, enclave: Shell) -> None:
    job_id = _waiting(fleet, buyer)
    assert enclave("buyer", "withdraw", job_id[:12], "--home", fleet.root / "buyer") == 0
    receipt = fleet.root / "buyer" / "jobs" / job_id / "receipt.pb"
    assert enclave.out == f"job {job_id} is withdrawn\nreceipt  {receipt}\n"
    verified = _receipt(fleet, job_id)
    assert set(_states(verified).values()) == {"WITHDRAWN"}
    assert {r.text for said in verified.statements for r in said.reasons} == {"withdrawn by buyer"}
    again = buyer.withdraw(job_id)
    assert again.state == "WITHDRAWN" and again.receipt == receipt and again.problems == ()
    with pytest.raises(EnclaveError, match="WITHDRAWN"):
        owner.approve(fleet.root / "owner1", job_id)
    with pytest.raises(SessionError, match="is withdrawn: withdrawn by buyer"):
        buyer.result(job_id)
    assert enclave("buyer", "withdraw", "0" * 32, "--home", fleet.root / "buyer") == 1
    assert "no job of this buyer" in enclave.err


def test_a_running_job_is_withdrawn_from_another_command(fleet: Fleet) -> None:
    """The command that runs the job ends with the news, and both hold one receipt."""
    found: list[Withdrawal] = []

    def withdraw() -> None:
        with Buyer(fleet.root / "buyer") as other:
            found.append(other.withdraw(other.jobs()[-1].job_id))

    def progress(stage: str, done: int, total: int, size_bytes: int) -> None:
        if done > 20 and not threads:
            threads.append(threading.Thread(target=withdraw))
            threads[0].start()

    threads: list[threading.Thread] = []
    schedule = Schedule(kind="logistic", epochs=2000, batch_rows=16, keep_shared=True)
    with Buyer(fleet.root / "buyer", progress=progress) as buyer:
        with pytest.raises(EnclaveError, match="withdrawn"):
            buyer.train(schedule, data=BOTH[:1], encoding=fleet.root / "points.toml", metrics=["accuracy"])
        threads[0].join(60)
        job = buyer.jobs()[-1]
    assert job.state == "WITHDRAWN" and found[0].state == "WITHDRAWN"
    data = (fleet.root / "buyer" / "jobs" / job.job_id / "receipt.pb").read_bytes()
    verified = verify_receipt(data)
    assert not verified.released and not [c for c in verified.failures if not c.name.startswith("transcript.")]
    assert set(_states(verified).values()) <= {"WITHDRAWN", "FAILED"}


def test_a_released_job_is_not_withdrawn(fleet: Fleet, buyer: Buyer, enclave: Shell) -> None:
    result = buyer.evaluate(fleet.model(), data=BOTH[:1], encoding=fleet.root / "points.toml")
    assert enclave("buyer", "withdraw", result.job_id, "--home", fleet.root / "buyer") == 1
    assert f"error: job {result.job_id} is released already\nhint: see `enclave buyer result" in enclave.err
    assert buyer.result(result.job_id).metrics == result.metrics

"""Real processes over mutual TLS: jobs of 2, 3 and 4 parties, and every way in which one of them goes away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.errors import EnclaveError, NotReady, PeerLost, SessionError
from enclave.executor.session import Sealing
from enclave.identity import Identity, TrustStore
from enclave.jobs import FINAL
from enclave.messages import JobSpec, JobStatus, Signed, Statement
from enclave.receipts import assemble, complete, countersign, outputs_digest, sign_statement, verify_receipt
from parties import owner
from parties.server import start_everywhere
from tests.parties.fleet import Fleet


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two owners, a dealer and a buyer; tests leave all nodes up."""
    fleet = Fleet(tmp_path_factory.mktemp("trio"), owners=2, settings="shutdown_s = 5\nmax_jobs = 2\n").up()
    yield fleet
    fleet.down()


def _final(fleet: Fleet, spec: JobSpec, names: tuple[str, ...] = (), within_s: float = 10.0) -> dict[str, JobStatus]:
    """The final status at every node; fails when one is not final in time."""
    end_s, found = time.monotonic() + within_s, {}
    for name in names or fleet.node_names:
        with fleet.client(name) as client:
            while (status := client.status_now(spec.job_id)).state not in FINAL:
                assert time.monotonic() < end_s, (name, status)
                time.sleep(0.05)
            found[name] = status
    return found


def _held(fleet: Fleet, spec: JobSpec, during: Callable[[], None], where: str = "gate") -> BaseException | None:
    """Runs the job with the buyer's gate (or commit) held while `during` acts; what the buyer's run raised."""

    def gate(sealing: Sealing) -> tuple[str, ...]:
        if where == "gate":
            during()
        return sealing.outputs

    def commit() -> None:
        if where == "commit":
            during()

    try:
        fleet.run(spec, gate=gate, commit=commit)
    except EnclaveError as error:
        return error
    return None


def _workers(fleet: Fleet, name: str) -> list[int]:
    """The children of every thread: a worker belongs to the thread that started it, the spare to another."""
    tasks = Path(f"/proc/{fleet.processes[name].pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


# ---- the straight way


@pytest.mark.parametrize("owners", [1, 2, 3])
def test_a_job_from_proposal_to_receipt(tmp_path: Path, trio: Fleet, owners: int) -> None:
    fleet = trio if owners == 2 else Fleet(tmp_path, owners=owners).up()
    try:
        spec = fleet.spec(outputs=("accuracy", "confusion"))
        result, found = fleet.run(spec)
        assert found.accuracy == fleet.expected()
        assert found.confusion is not None and found.confusion.sum() == 60 * owners
        assert {s.state for s in _final(fleet, spec).values()} == {"RELEASED"}
        statements = _statements(fleet, spec)
        own = Statement.decode(statements["owner0"].body)
        receipt = _receipt(fleet, spec, statements, _buyer_statement(fleet, spec, own, result.transcript), result)
        assert verify_receipt(receipt, tuple(i.card for i in fleet.ids.values())).ok
        for client in fleet.clients():
            with client:
                client.deposit(receipt)
                documents = client.fetch(spec.job_id)
            assert documents["receipt"] == receipt
            assert b'"findings": []' in documents["report"]
    finally:
        if fleet is not trio:
            fleet.down()


def _statements(fleet: Fleet, spec: JobSpec) -> dict[str, Signed]:
    found = {}
    for name in fleet.node_names:
        with fleet.client(name) as client:
            found[name] = Signed.decode(client.fetch(spec.job_id)["statement"])
    return found


def _buyer_statement(fleet: Fleet, spec: JobSpec, like: Statement, transcript: Any) -> Signed:
    claims = tuple(line for line in like.claims if not line.startswith("node."))
    said = Statement(
        spec.job_id,
        "buyer",
        like.spec_digest,
        spec.plan_digest,
        "RELEASED",
        claims,
        (),
        b"h" * 32,
        0,
        int(time.time()),
        transcript,
    )
    return sign_statement(fleet.ids["buyer"], said)


def _receipt(fleet: Fleet, spec: JobSpec, statements: dict[str, Signed], own: Signed, result: Any) -> bytes:
    signed, buyer = fleet.sign(spec), fleet.ids["buyer"]
    ordered = [own if p.role == "buyer" else statements[p.name] for p in spec.parties]
    cards = [fleet.ids[p.name].card for p in spec.parties]
    digest = outputs_digest(b"s" * 16, result.opened)
    body = assemble(signed, ordered, outputs_digest=digest, released=spec.outputs)
    signatures = []
    for party in spec.parties:
        if party.role == "buyer":
            signatures.append(countersign(buyer, body, statement=own, spec=signed, cards=cards))
            continue
        with fleet.client(party.name) as client:
            signatures.append(client.countersign(buyer.sign("receipt", body)))
    data = complete(body, signatures, cards)
    lied = assemble(signed, ordered, outputs_digest=digest, released=("predictions",))
    with fleet.client("owner0") as client, pytest.raises(EnclaveError, match="not countersigned"):
        client.countersign(buyer.sign("receipt", lied))
    with fleet.client("owner0") as client, pytest.raises(EnclaveError):
        client.deposit(data[:-40])
    return data


def test_the_dealer_counts_what_it_sent_and_opened_nothing(trio: Fleet) -> None:
    spec = trio.spec()
    result, _ = trio.run(spec)
    dealt = Statement.decode(_statements(trio, spec)["dealer"].body).transcript
    assert dealt is not None and dealt.equals_plan
    assert dealt.openings == dealt.opened_words == 0
    sent = {link.peer: link.sent_bytes for link in dealt.links}
    assert sent == {"owner0": result.plan.dealer_bytes, "owner1": 0, "buyer": 0}
    assert all(link.received_bytes == 0 for link in dealt.links)


def test_rows_changed_after_registration_end_the_job_at_once(trio: Fleet) -> None:
    csv = trio.root / "owner0-data" / "points.csv"
    before = csv.read_text()
    spec = trio.spec()
    csv.write_text(before.replace("yes", "no", 1))
    try:
        with pytest.raises(EnclaveError, match="not the version that the job names"):
            trio.run(spec)
    finally:
        csv.write_text(before)
    statuses = _final(trio, spec)
    assert {s.state for s in statuses.values()} == {"FAILED"}
    assert statuses["owner0"].reasons[0].rule == "input.data"
    assert all("owner0" in s.reasons[0].text for n, s in statuses.items() if n != "owner0")


def test_a_policy_that_changed_meanwhile_stops_the_release_everywhere(trio: Fleet) -> None:
    spec = trio.spec()
    toml = trio.root / "owner1" / "datasets" / "points" / "dataset.toml"
    before = toml.read_text()
    clients, signed = trio.clients(), trio.sign(spec)
    for client in clients:
        assert client.propose(signed).state == "ADMITTED"
    start_everywhere(clients, spec)
    with trio.client("owner1") as client:
        client.locate(spec.job_id)
    # The worker listens, hence it has opened the data: what refuses now is the gate.
    toml.write_text(before.replace("minimum_rows = 20", "minimum_rows = 100"))
    try:
        with pytest.raises(PeerLost, match="release refused: 60 rows of points") as caught:
            trio.join(signed, spec, clients)
    finally:
        toml.write_text(before)
        for client in clients:
            client.close()
    assert caught.value.who == "owner1"
    statuses = _final(trio, spec)
    assert statuses["owner1"].state == "REFUSED"
    assert statuses["owner1"].reasons[0].rule == "policy.rows.minimum"
    assert {statuses[n].state for n in ("owner0", "dealer")} == {"FAILED"}


# ---- people who change their minds


def test_an_owner_that_withdraws_stops_a_running_job_everywhere(trio: Fleet) -> None:
    spec = trio.spec()

    def withdraw() -> None:
        owner.withdraw(trio.root / "owner1", spec.job_id)
        time.sleep(3)

    begun = time.monotonic()
    error = _held(trio, spec, withdraw)
    assert isinstance(error, PeerLost) and error.who == "owner1"
    assert "withdrawn" in error.public
    statuses = _final(trio, spec)
    assert time.monotonic() - begun < 15
    assert statuses["owner1"].state == "WITHDRAWN"
    assert {statuses[n].state for n in ("owner0", "dealer")} == {"FAILED"}


def test_a_buyer_that_withdraws_leaves_no_worker_behind(trio: Fleet) -> None:
    spec = trio.spec()
    signed, clients = trio.sign(spec), trio.clients()
    for client in clients:
        client.propose(signed)
    start_everywhere(clients, spec)
    for client in clients:
        assert client.withdraw(spec.job_id).state == "WITHDRAWN"
        client.close()
    assert {s.state for s in _final(trio, spec).values()} == {"WITHDRAWN"}
    assert trio.run(trio.spec())[1].accuracy == trio.expected()


# ---- kill -9


@pytest.mark.parametrize("victim", ["owner0", "owner1", "dealer"])
@pytest.mark.parametrize("where", ["gate", "commit"])
def test_a_killed_node_ends_the_job_for_all_and_comes_back(trio: Fleet, victim: str, where: str) -> None:
    spec = trio.spec()
    killed_s: list[float] = []

    def kill() -> None:
        trio.kill(victim)
        killed_s.append(time.monotonic())
        # Long enough for the connection to break, far shorter than any deadline.
        time.sleep(1)

    error = _held(trio, spec, kill, where)
    if where == "gate":
        assert isinstance(error, PeerLost) and error.who == victim, error
    others = tuple(name for name in trio.node_names if name != victim)
    statuses = _final(trio, spec, others)
    assert time.monotonic() - killed_s[0] < 10
    if where == "gate":
        for status in statuses.values():
            assert status.state == "FAILED"
            assert victim in status.reasons[0].text
    trio.up(victim)
    found = _final(trio, spec, (victim,))[victim]
    assert found.state == "FAILED" or (where == "commit" and found.state == "RELEASED")
    for name in trio.node_names:
        with trio.client(name) as client:
            statement = Statement.decode(Signed.decode(client.fetch(spec.job_id)["statement"]).body)
            assert statement.state == _final(trio, spec, (name,))[name].state
    assert trio.run(trio.spec())[1].accuracy == trio.expected()


def test_a_node_killed_before_the_session_loses_no_job(trio: Fleet) -> None:
    admitted, started = trio.spec(), trio.spec()
    clients = trio.clients()
    for spec in (admitted, started):
        for client in clients:
            client.propose(trio.sign(spec))
    with trio.client("owner0") as client:
        assert client.start(started.job_id).state == "RUNNING"
    trio.kill("owner0")
    trio.up("owner0")
    statuses = _final(trio, started, ("owner0",))
    assert statuses["owner0"].reasons[0].rule == "node.restarted"
    # What was admitted only still runs.
    assert trio.join(trio.sign(admitted), admitted, clients)[1].accuracy == trio.expected()
    with pytest.raises(SessionError, match="failed at owner0"):
        start_everywhere(clients, started)
    for client in clients:
        client.withdraw(started.job_id)
        client.close()
    _final(trio, started)


def test_a_killed_worker_ends_the_job_for_all_and_harms_no_node(trio: Fleet) -> None:
    spec = trio.spec()

    def kill() -> None:
        for pid in _workers(trio, "owner1"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(1)

    error = _held(trio, spec, kill)
    assert isinstance(error, PeerLost) and error.who == "owner1"
    statuses = _final(trio, spec)
    assert {s.state for s in statuses.values()} == {"FAILED"}
    assert statuses["owner1"].reasons[0].rule == "session.worker"
    assert trio.run(trio.spec())[1].accuracy == trio.expected()


def test_a_worker_that_hangs_is_found_out_within_ten_seconds(trio: Fleet) -> None:
    spec = trio.spec()
    stopped: list[int] = []

    def stop() -> None:
        stopped.extend(_workers(trio, "owner0"))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        # All others wait for the buyer, which waits here: only the silence itself gives the culprit away.
        statuses = _final(trio, spec, ("owner1", "dealer"), within_s=12.0)
        assert {s.state for s in statuses.values()} == {"FAILED"}
        assert all("owner0" in s.reasons[0].text for s in statuses.values())

    try:
        error = _held(trio, spec, stop)
        assert isinstance(error, PeerLost) and error.who == "owner0", error
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    _final(trio, spec, ("owner0",))


def test_a_node_told_to_stop_lets_the_session_end_first(trio: Fleet) -> None:
    spec = trio.spec()
    process = trio.processes["owner0"]

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        with trio.client("owner0") as client, pytest.raises(NotReady, match="shutting down"):
            client.propose(trio.sign(trio.spec()))

    assert _held(trio, spec, stop) is None
    assert process.wait(15) == 0
    del trio.processes["owner0"]
    trio.up("owner0")
    assert {s.state for s in _final(trio, spec).values()} == {"RELEASED"}


# ---- keys


def test_a_running_node_takes_up_its_rotated_certificate(tmp_path: Path) -> None:
    """Rotated in this process, with the old certificate dropped: whoever showed it would be refused by all."""
    fleet = Fleet(tmp_path).up()
    try:
        before = fleet.ids["owner0"]
        assert fleet.run(fleet.spec())[1].accuracy == fleet.expected()
        renewed = Identity.load(before.home).rotate(keep_old=False)
        for name in ("buyer", "dealer"):
            TrustStore(fleet.root / name).add(renewed.card.encoded)
        with fleet.client("owner0") as client, pytest.raises(EnclaveError, match="does not show a certificate"):
            client.describe()
        fleet.ids["owner0"] = renewed
        with fleet.client("owner0") as client:
            assert client.describe().name == "owner0"
        # The node asks the dealer where its worker is, as a caller; its own worker is asked by the others.
        assert fleet.run(fleet.spec())[1].accuracy == fleet.expected()
        assert fleet.processes["owner0"].poll() is None
    finally:
        fleet.down()


# ---- many at once


def test_twenty_jobs_at_once_all_end(trio: Fleet) -> None:
    """Every job needs a worker at three nodes that have two each, and the threads race."""
    specs = [trio.spec() for _ in range(20)]
    found: dict[str, object] = {}

    def one(spec: JobSpec) -> None:
        try:
            found[spec.job_id] = trio.run(spec, connect_s=120.0)[1].accuracy
        except Exception as error:
            found[spec.job_id] = error

    threads = [threading.Thread(target=one, args=(spec,), daemon=True) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert list(found.values()) == [trio.expected()] * 20
    for spec in specs:
        assert {s.state for s in _final(trio, spec).values()} == {"RELEASED"}


def test_a_party_s_trust_is_its_own(trio: Fleet) -> None:
    """A node that has dropped the dealer's card admits no job with it, whatever the others think."""
    card = trio.ids["dealer"].card
    trust = TrustStore(trio.root / "owner1")
    trust.remove("dealer")
    try:
        spec = trio.spec()
        with trio.client("owner1") as client, pytest.raises(EnclaveError, match="does not trust dealer dealer"):
            client.propose(trio.sign(spec))
    finally:
        trust.add(card.encoded)

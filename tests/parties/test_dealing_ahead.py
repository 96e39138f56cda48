"""Jobs that are dealt ahead, between real processes: prepared, kept over restarts, started, and swept."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.errors import NotReady, Refused
from enclave.identity import TrustStore
from enclave.messages import Statement
from enclave.models import write_onnx
from enclave.receipts import verify_receipt
from parties.buyer import Buyer
from parties.node import leases, open_node
from tests.parties.fleet import Fleet
from tests.parties.test_buyer import ENCODING

DATA = ["owner0/points", "owner1/points"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("ahead"), owners=2, settings="shutdown_s = 0\nmax_stock_bytes = 10000000\n")
    (fleet.root / "points.toml").write_text(ENCODING)
    (fleet.root / "model.onnx").write_bytes(write_onnx(fleet.model()))
    try:
        yield fleet.up()
    finally:
        fleet.down()


@pytest.fixture
def buyer(fleet: Fleet) -> Iterator[Buyer]:
    with Buyer(fleet.root / "buyer") as found:
        yield found


def prepare(fleet: Fleet, buyer: Buyer) -> str:
    with pytest.raises(NotReady, match="dealt ahead and waits") as info:
        buyer.evaluate(fleet.root / "model.onnx", data=DATA, encoding=fleet.root / "points.toml", prepare=True)
    return info.value.job_id


def stocks(fleet: Fleet, job_id: str) -> dict[str, set[str]]:
    """Names of the files dealt ahead to each party that has any."""
    found = {name: fleet.root / name / "stock" / "dealt" / job_id for name in fleet.ids}
    return {name: {p.suffix or p.name for p in path.iterdir()} for name, path in found.items() if path.is_dir()}


def test_a_prepared_job_outlives_its_nodes_and_runs_without_being_dealt_to(fleet: Fleet, buyer: Buyer) -> None:
    job_id = prepare(fleet, buyer)
    kept = stocks(fleet, job_id)
    assert set(kept) == {"owner0", "owner1", "buyer", "dealer"}
    assert all("head" in files for files in kept.values())
    assert [name for name, files in kept.items() if ".part" in files] == ["owner0"]
    for name in fleet.node_names:
        with fleet.client(name) as client:
            status = client.status_now(job_id)
            assert (status.state, status.dealing) == ("ADMITTED", "dealt")
        fleet.kill(name, signal.SIGTERM)
    buyer.close()
    fleet.up()
    assert set(stocks(fleet, job_id)) == set(kept)

    result = buyer.result(job_id)
    assert result.accuracy_ == pytest.approx(fleet.expected(), abs=1e-9)
    assert result.measured == result.planned and result.problems == ()
    assert result.measured.sent_by("dealer") == 0
    assert stocks(fleet, job_id) == {}
    trust = TrustStore(fleet.root / "buyer")
    checked = verify_receipt((result.folder / "receipt.pb").read_bytes(), (*trust.cards(), fleet.ids["buyer"].card))
    assert checked.failures == () and checked.body is not None
    for signed in checked.body.statements:
        said = Statement.decode(signed.body)
        assert any(claim.startswith("dealing=ahead") for claim in said.claims)


def test_in_one_command(fleet: Fleet, buyer: Buyer) -> None:
    result = buyer.evaluate(fleet.root / "model.onnx", data=DATA, encoding=fleet.root / "points.toml", deal_ahead=True)
    assert result.accuracy_ == pytest.approx(fleet.expected(), abs=1e-9)
    assert stocks(fleet, result.job_id) == {}


def test_a_withdrawn_job_leaves_no_stock(fleet: Fleet, buyer: Buyer) -> None:
    job_id = prepare(fleet, buyer)
    assert buyer.withdraw(job_id).state == "WITHDRAWN"
    assert stocks(fleet, job_id) == {}


def test_what_one_party_lost_is_dealt_again(fleet: Fleet, buyer: Buyer) -> None:
    job_id = prepare(fleet, buyer)
    with fleet.client("owner1") as client, pytest.raises(NotReady, match="not dealt yet"):
        (fleet.root / "owner1" / "stock" / "dealt" / job_id / "head").unlink()
        client.start(job_id)
    assert buyer.result(job_id).accuracy_ == pytest.approx(fleet.expected(), abs=1e-9)


def test_a_disk_that_fails_leaves_the_job_admitted(fleet: Fleet, buyer: Buyer) -> None:
    folder = fleet.root / "owner0" / "stock" / "dealt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    folder.write_bytes(b"")
    with pytest.raises(NotReady, match=r"was not dealt ahead: .*owner0.*storage failed") as info:
        buyer.evaluate(fleet.root / "model.onnx", data=DATA, encoding=fleet.root / "points.toml", deal_ahead=True)
    assert "tries again" in info.value.hint
    assert stocks(fleet, info.value.job_id) == {}
    folder.unlink()
    assert buyer.result(info.value.job_id).accuracy_ == pytest.approx(fleet.expected(), abs=1e-9)


def test_an_owner_without_the_disk_refuses_the_job_and_takes_it_online(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, settings="shutdown_s = 0\nmax_stock_bytes = 1000\n")
    node = open_node(fleet.root / "owner0")
    try:
        with fleet.client("owner0") as client:
            refused = client.propose(fleet.sign(fleet.spec(deal_ahead=True)))
            assert (refused.state, [reason.rule for reason in refused.reasons]) == ("REFUSED", ["node.stock"])
            assert "at most 1000 here" in refused.reasons[0].text
            online = fleet.spec()
            assert client.propose(fleet.sign(online)).state == "ADMITTED"
            with pytest.raises(Refused, match="dealt online"):
                client.start(online.job_id, deal=True)
    finally:
        node.close()


def test_a_buyer_cannot_have_one_job_dealt_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, settings="shutdown_s = 0\n")
    monkeypatch.setattr(leases, "_MAX_DEALINGS", 1)
    node = open_node(fleet.root / "dealer", silence_s=1.0)
    try:
        with fleet.client("dealer") as client:
            spec = fleet.spec(deal_ahead=True)
            assert client.propose(fleet.sign(spec)).state == "ADMITTED"
            assert client.start(spec.job_id, deal=True).dealing == "running"
            end_s = time.monotonic() + 60
            while (status := client.status_now(spec.job_id)).dealing == "running":
                assert time.monotonic() < end_s
                # Longer than the silence: a look is a sign of life of the buyer.
                time.sleep(2.0)
            # Nobody came: the worker was needed elsewhere. The job is as it was.
            assert (status.state, status.dealing) == ("ADMITTED", "failed")
            assert "buyer was silent" in status.reasons[0].text
            with pytest.raises(Refused, match="was dealt 1 times") as info:
                client.start(spec.job_id, deal=True)
            assert info.value.code == "job.dealing"
    finally:
        node.close()

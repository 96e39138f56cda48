"""The buyer's client against real nodes over mutual TLS, and against nobody where nobody is needed."""

from __future__ import annotations

import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from enclave.datasets.export import write_parquet
from enclave.errors import (
    BadData,
    BadInput,
    BadModel,
    NotReady,
    PolicyRefused,
    RangeExceeded,
    SessionError,
    Untrusted,
)
from enclave.identity import Identity, TrustStore
from enclave.models import forward_float, read_model, write_onnx
from enclave.receipts import verify_receipt
from parties import owner
from parties.buyer import Buyer, Schedule
from tests.parties.fleet import Fleet, table

ENCODING = """
[[features]]
columns = ["a", "b", "c"]
low = -2
high = 2

[target]
column = "y"
classes = ["no", "yes"]
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), owners=2)
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


BOTH = ["owner0/points", "owner1/points"]


# ---- jobs


def test_an_evaluation_gives_the_plaintext_figures_and_a_receipt(fleet: Fleet, buyer: Buyer) -> None:
    metrics = ["accuracy", "confusion", "auc"]
    result = buyer.evaluate(
        fleet.root / "model.onnx", data=BOTH, encoding=fleet.root / "points.toml", metrics=metrics, purpose="a test"
    )
    assert result.accuracy_ == pytest.approx(fleet.expected(), abs=1e-9)
    assert np.sum(result.confusion_) == 120 and np.trace(result.confusion_) == round(120 * fleet.expected())
    assert 0.9 < result.auc_ <= 1
    with pytest.raises(AttributeError, match="released no rmse"):
        _ = result.rmse_
    assert result.measured == result.planned and result.problems == ()
    assert result.rows == 120 and result.classes == ("no", "yes")

    trusted = (*TrustStore(fleet.root / "buyer").cards(), Identity.load(fleet.root / "buyer").card)
    verified = verify_receipt((result.folder / "receipt.pb").read_bytes(), trusted)
    assert verified.ok and verified.mode == "authenticated", verified.failures
    assert {s.party for s in verified.statements} == {"owner0", "owner1", "buyer", "dealer"}
    assert result.write_report_page().read_text().startswith("<!doctype html>")
    for path in result.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(result.folder.stat().st_mode) == 0o700

    again = buyer.result(result.job_id[:12])
    assert (again.metrics, again.planned, again.measured) == (result.metrics, result.planned, result.measured)
    assert buyer.jobs()[-1].state == "RELEASED"
    assert owner.jobs(fleet.root / "owner0")[-1].state == "RELEASED"


def test_every_node_keeps_the_receipt(fleet: Fleet, buyer: Buyer) -> None:
    result = buyer.evaluate(fleet.model(), data=BOTH[:1], encoding=fleet.root / "points.toml")
    receipt = (result.folder / "receipt.pb").read_bytes()
    for name in ("owner0", "dealer"):
        with fleet.client(name) as client:
            assert client.fetch(result.job_id)["receipt"] == receipt


def test_a_torch_module_and_a_scikit_learn_model_are_taken(fleet: Fleet, buyer: Buyer) -> None:
    import torch
    from sklearn.linear_model import LogisticRegression

    x, y = table(60, seed=1)
    fitted = LogisticRegression().fit(x, y)
    result = buyer.evaluate(fitted, data=BOTH[:1], encoding=fleet.root / "points.toml")
    assert result.accuracy_ == pytest.approx(fitted.score(x, y), abs=1e-9)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    with torch.no_grad():
        expected = float((module(torch.tensor(x, dtype=torch.float32)).argmax(1).numpy() == y).mean())
    result = buyer.evaluate(module, data=BOTH[:1], encoding=fleet.root / "points.toml")
    assert result.accuracy_ == pytest.approx(expected, abs=1.1 / 60)


def test_a_training_stays_shared_and_releases_only_its_metrics(fleet: Fleet, buyer: Buyer) -> None:
    schedule = Schedule(kind="logistic", epochs=3, batch_rows=32, learning_rate=0.5, keep_shared=True)
    result = buyer.train(schedule, data=BOTH, encoding=fleet.root / "points.toml", metrics=["accuracy"])
    assert result.accuracy_ > 0.9 and result.measured == result.planned
    with pytest.raises(AttributeError, match="released no model"):
        _ = result.model_
    assert not (result.folder / "model.onnx").exists()
    assert result.share is not None and stat.S_IMODE(result.share.stat().st_mode) == 0o600
    assert buyer.result(result.job_id).share == result.share


def test_a_trained_model_comes_as_onnx_and_safetensors_and_uses_the_buyers_rows(fleet: Fleet, buyer: Buyer) -> None:
    x, y = table(60, seed=1)
    folder = fleet.root / "owner0-data"
    text = (folder / "points.toml").read_text()
    (folder / "open.toml").write_text(
        text.replace("name = 'points'", "name = 'open'").replace('"accuracy", ', '"accuracy", "model", ')
    )
    owner.add(fleet.root / "owner0", folder / "open.toml")
    own_x, own_y = table(40, seed=9)
    columns = {name: own_x[:, i] for i, name in enumerate("abc")}
    write_parquet(fleet.root / "own.parquet", {**columns, "y": [("no", "yes")[k] for k in own_y]})
    result = buyer.train(
        Schedule(kind="mlp", hidden=(4,), epochs=20, batch_rows=20, learning_rate=0.3),
        data=["owner0/open"],
        encoding=fleet.root / "points.toml",
        rows=fleet.root / "own.parquet",
    )
    assert result.rows == 100
    scores = forward_float(result.model_, x)[:, 0]
    assert 0 <= scores.min() and scores.max() <= 1, "the model ends in a probability"
    assert np.mean((scores > 0.5) == y) > 0.9
    again = forward_float(read_model(result.folder / "model.onnx"), x)
    assert np.allclose(again[:, 0], scores, atol=1e-6)
    assert np.array_equal(forward_float(buyer.result(result.job_id).model_, x)[:, 0], scores)


# ---- refusals and mistakes


def test_a_refusal_names_the_owner_and_the_rule_and_ends_the_job_everywhere(fleet: Fleet, buyer: Buyer) -> None:
    with pytest.raises(PolicyRefused) as refused:
        buyer.predict(fleet.model(), data=BOTH, encoding=fleet.root / "points.toml")
    assert refused.value.rules == ("policy.output",)
    assert "refused by owner0, owner1: owner0: output predictions is not allowed" in refused.value.public
    job = buyer.jobs()[-1]
    assert job.state == "REFUSED"
    assert owner.jobs(fleet.root / "owner0")[-1].state == "REFUSED"
    with fleet.client("dealer") as client:
        assert client.status_now(job.job_id).state == "WITHDRAWN"
    with pytest.raises(PolicyRefused, match="is refused"):
        buyer.result(job.job_id)


def test_one_refusal_withdraws_the_job_at_the_others(fleet: Fleet, buyer: Buyer) -> None:
    folder = fleet.root / "owner1-data"
    text = (folder / "points.toml").read_text()
    (folder / "closed.toml").write_text(text.replace("name = 'points'", "name = 'closed'").replace('"evaluate", ', ""))
    owner.add(fleet.root / "owner1", folder / "closed.toml")
    with pytest.raises(PolicyRefused, match="refused by owner1: ") as refused:
        buyer.evaluate(fleet.model(), data=["owner0/points", "owner1/closed"], encoding=fleet.root / "points.toml")
    assert refused.value.rules == ("policy.kind",)
    assert owner.jobs(fleet.root / "owner0")[-1].state == "WITHDRAWN"


def test_mistakes_are_found_before_anybody_hears_of_the_job(fleet: Fleet, buyer: Buyer, tmp_path: Path) -> None:
    count = len(buyer.jobs())
    model, encoding = fleet.model(), fleet.root / "points.toml"

    def written(text: str) -> Path:
        path = tmp_path / "changed.toml"
        path.write_text(text)
        return path

    with pytest.raises(Untrusted, match="no party called 'owner9' is trusted"):
        buyer.evaluate(model, data=["owner9/points"], encoding=encoding)
    with pytest.raises(BadInput, match="dealer is not an owner"):
        buyer.evaluate(model, data=["dealer/points"], encoding=encoding)
    with pytest.raises(BadInput, match="offers no data set 'dots': it offers"):
        buyer.evaluate(model, data=["owner0/dots"], encoding=encoding)
    with pytest.raises(BadInput, match="expected OWNER/DATASET, found 'points'"):
        buyer.evaluate(model, data=["points"], encoding=encoding)
    with pytest.raises(BadInput, match="one data set per owner and job, found two of owner0"):
        buyer.evaluate(model, data=["owner0/points", "owner0/other"], encoding=encoding)
    with pytest.raises(Untrusted, match="no dealer called 'nobody'"):
        buyer.evaluate(model, data=BOTH, encoding=encoding, dealer="nobody")
    with pytest.raises(BadData, match="owner0/points has no column zz"):
        buyer.evaluate(model, data=BOTH, encoding=written(ENCODING.replace('"c"', '"zz"')))
    with pytest.raises(BadModel, match="the encoding yields 2 numbers a row, the model takes"):
        buyer.evaluate(model, data=BOTH, encoding=written(ENCODING.replace(', "c"', "")))
    with pytest.raises(RangeExceeded, match=r"values at \w+ can reach"):
        buyer.evaluate(model, data=BOTH, encoding=written(ENCODING.replace("high = 2", "high = 1e14")))
    with pytest.raises(BadInput, match="rmse needs a numeric target"):
        buyer.evaluate(model, data=BOTH, encoding=encoding, metrics=["rmse"])
    with pytest.raises(BadInput, match="outputs must be among"):
        buyer.evaluate(model, data=BOTH, encoding=encoding, metrics=["beauty"])
    with pytest.raises(BadModel, match="cannot read"):
        buyer.evaluate(tmp_path / "absent.onnx", data=BOTH, encoding=encoding)
    with pytest.raises(BadInput, match="frac_bits must lie in"):
        buyer.evaluate(model, data=BOTH, encoding=encoding, frac_bits=60)
    with pytest.raises(BadInput, match="linear regression needs a number"):
        buyer.train(Schedule(kind="linear"), data=BOTH, encoding=encoding)
    with pytest.raises(BadInput, match="hidden layers belong to kind mlp"):
        buyer.train(Schedule(kind="logistic", hidden=(3,)), data=BOTH, encoding=encoding)
    with pytest.raises(BadInput, match="learning_rate out of range"):
        buyer.train(Schedule(kind="logistic", learning_rate=-1), data=BOTH, encoding=encoding)
    with pytest.raises(BadData, match="does not exist"):
        buyer.train(Schedule(kind="logistic"), data=BOTH, encoding=encoding, rows=tmp_path / "absent.csv")
    with pytest.raises(BadInput, match="no job of this buyer"):
        buyer.result("abc123")
    with pytest.raises(BadInput, match="expected a job id"):
        buyer.result("../../etc")
    assert len(buyer.jobs()) == count


def test_only_a_buyer_buys(fleet: Fleet) -> None:
    with pytest.raises(BadInput, match="owner0 is an owner, expected a buyer"):
        Buyer(fleet.root / "owner0")


def test_a_trial_on_the_mock_twins_finds_what_the_job_would_run_into(fleet: Fleet, buyer: Buyer) -> None:
    result = buyer.evaluate(fleet.model(), data=BOTH, encoding=fleet.root / "points.toml", mock=True)
    assert result.accuracy_ == pytest.approx(fleet.expected(), abs=1e-9)
    names = [offer.name for offer in buyer.datasets().offers]
    assert "owner0/points" in names and "owner1/points" in names


# ---- waiting, failing


def test_a_job_waits_for_approval_and_goes_on_later(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, approval="manual")
    (tmp_path / "points.toml").write_text(ENCODING)
    try:
        fleet.up()
        with Buyer(tmp_path / "buyer") as buyer:
            with pytest.raises(NotReady, match="waits for approval by owner0") as waiting:
                buyer.evaluate(fleet.model(), data=["owner0/points"], encoding=tmp_path / "points.toml")
            job_id = waiting.value.job_id
            assert job_id == buyer.jobs()[-1].job_id and buyer.jobs()[-1].state == "PROPOSED"
            with pytest.raises(NotReady):
                buyer.result(job_id)
            owner.approve(tmp_path / "owner0", job_id)
        with Buyer(tmp_path / "buyer") as later:
            result = later.result(job_id)
            assert result.accuracy_ == pytest.approx(fleet.expected(), abs=1e-9)
            assert result.receipt_ok

            with pytest.raises(NotReady) as waiting:
                later.evaluate(fleet.model(), data=["owner0/points"], encoding=tmp_path / "points.toml")
            owner.withdraw(tmp_path / "owner0", waiting.value.job_id)
            with pytest.raises(SessionError, match="withdrawn at owner0"):
                later.result(waiting.value.job_id)
            assert later.jobs()[-1].state in ("WITHDRAWN", "FAILED")
    finally:
        fleet.down()


def test_a_node_that_dies_is_named_and_the_job_ends_everywhere(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, owners=2)
    (tmp_path / "points.toml").write_text(ENCODING)
    running = threading.Event()

    def progress(stage: str, done: int, total: int, size_bytes: int) -> None:
        if done > 50:
            running.set()

    schedule = Schedule(kind="logistic", epochs=2000, batch_rows=16, keep_shared=True)
    try:
        fleet.up()

        def kill() -> None:
            assert running.wait(60)
            fleet.kill("owner1", signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with Buyer(tmp_path / "buyer", progress=progress) as buyer:
            with pytest.raises(SessionError, match="owner1") as lost:
                buyer.train(schedule, data=BOTH, encoding=tmp_path / "points.toml", metrics=["accuracy"])
            killer.join()
            assert lost.value.hint or lost.value.code
            assert buyer.jobs()[-1].state == "FAILED"
            end_s = time.monotonic() + 10
            while owner.jobs(tmp_path / "owner0")[-1].state == "RUNNING" and time.monotonic() < end_s:
                time.sleep(0.1)
            assert owner.jobs(tmp_path / "owner0")[-1].state in ("FAILED", "WITHDRAWN")
            with pytest.raises(SessionError, match="cannot reach owner1"):
                buyer.evaluate(fleet.model(), data=BOTH, encoding=tmp_path / "points.toml")
            catalogue = buyer.datasets()
            assert list(catalogue.problems) == ["owner1"] and len(catalogue.offers) == 1
    finally:
        fleet.down()


def test_an_interrupted_buyer_leaves_no_job_behind(fleet: Fleet) -> None:
    def interrupt(stage: str, done: int, total: int, size_bytes: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    schedule = Schedule(kind="logistic", epochs=2000, batch_rows=16, keep_shared=True)
    with Buyer(fleet.root / "buyer", progress=interrupt) as buyer:
        with pytest.raises(KeyboardInterrupt):
            buyer.train(schedule, data=BOTH, encoding=fleet.root / "points.toml", metrics=["accuracy"])
        job = buyer.jobs()[-1]
    assert job.state == "FAILED" and job.reasons == ("the buyer stopped",)
    end_s = time.monotonic() + 10
    while owner.jobs(fleet.root / "owner0")[-1].state in ("RUNNING", "ADMITTED") and time.monotonic() < end_s:
        time.sleep(0.1)
    assert owner.jobs(fleet.root / "owner0")[-1].state in ("FAILED", "WITHDRAWN")


# ---- quotes


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Buyer]:
    """A buyer who trusts nobody, so that nobody can be asked."""
    Identity.create(tmp_path / "lab", "buyer", "lab")
    (tmp_path / "points.toml").write_text(ENCODING)
    with Buyer(tmp_path / "lab") as buyer:
        yield buyer


def test_a_quote_by_hand_contacts_nobody(lonely: Buyer, tmp_path: Path) -> None:
    schedule = Schedule(kind="logistic", epochs=2, batch_rows=50)
    given = {"data": ["a/x", "b/y"], "encoding": tmp_path / "points.toml"}
    near = lonely.quote_train(schedule, rows=[100, 50], latency_s=0.001, **given)
    far = lonely.quote_train(schedule, rows=[100, 50], latency_s=0.1, **given)
    assert near.rows == 150 and near.cost == far.cost and near.plan_digest == far.plan_digest
    assert far.seconds - near.seconds == pytest.approx(0.099 * near.cost.rounds, rel=1e-6)
    slow = lonely.quote_train(schedule, rows=[100, 50], latency_s=0.001, bandwidth_bps=1e6, **given)
    assert slow.seconds > near.seconds
    longer = lonely.quote_train(Schedule(kind="logistic", epochs=4, batch_rows=50), rows=[100, 50], **given)
    assert longer.cost.rounds > near.cost.rounds
    assert near.cost.link_bytes["dealer", "a"] == near.dealer_bytes
    with pytest.raises(BadInput, match="expected one row count per data set, 2, found 1"):
        lonely.quote_train(schedule, rows=[100], **given)
    with pytest.raises(BadInput, match="must have rows"):
        lonely.quote_train(schedule, rows=[100, 0], **given)
    with pytest.raises(BadInput, match="expected one trusted dealer, found none"):
        lonely.quote_train(schedule, **given)


def test_a_quote_is_the_plan_of_the_job(fleet: Fleet, buyer: Buyer) -> None:
    quote = buyer.quote_evaluate(fleet.model(), data=BOTH, encoding=fleet.root / "points.toml")
    result = buyer.evaluate(fleet.model(), data=BOTH, encoding=fleet.root / "points.toml")
    assert quote.cost == result.planned == result.measured

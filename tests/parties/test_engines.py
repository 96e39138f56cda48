"""Jobs of the engines `he` and `hybrid` end to end: nodes in processes of their own, over mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enclave.errors import BadModel, PolicyRefused
from enclave.leakage.report import LeakageReport
from enclave.messages import Architecture, Layer, TensorType
from enclave.models import Model, dense_architecture, write_onnx
from enclave.receipts import verify_receipt
from parties.buyer import Buyer, JobResult
from tests.parties.fleet import Fleet, table
from tests.parties.shell import Shell, enclave
from tests.parties.test_buyer import BOTH, ENCODING

__all__ = ["enclave"]

OUTPUTS = ("accuracy", "auc", "brier", "confusion", "mean_score", "predictions", "model")
X, Y = (np.concatenate(parts) for parts in zip(table(60, 1), table(60, 2), strict=True))
WEIGHTS = np.array([[1.5], [-2.0], [0.25]])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), owners=2, engines=("hybrid", "he"), outputs=OUTPUTS)
    (fleet.root / "points.toml").write_text(ENCODING)
    (fleet.root / "model.onnx").write_bytes(write_onnx(logistic()))
    (fleet.root / "perceptron.onnx").write_bytes(write_onnx(perceptron()))
    try:
        yield fleet.up()
    finally:
        fleet.down()


@pytest.fixture
def buyer(fleet: Fleet) -> Iterator[Buyer]:
    with Buyer(fleet.root / "buyer") as found:
        yield found


def logistic() -> Model:
    network = dense_architecture(3, (), 1)
    head = Layer("sigmoid", "probability", (network.layers[-1].name,))
    network = Architecture(network.input_shape, (*network.layers, head), network.parameters)
    return Model(network, {"dense0.weight": WEIGHTS, "dense0.bias": np.array([0.125])})


def perceptron() -> Model:
    rng = np.random.default_rng(3)
    network = dense_architecture(3, (4,), 1)
    return Model(network, {p.name: rng.normal(size=p.shape) for p in network.parameters})


def probabilities() -> np.ndarray:
    return 1 / (1 + np.exp(-(X @ WEIGHTS[:, 0] + 0.125)))


def checked(fleet: Fleet, result: JobResult, *, dealer: bool) -> LeakageReport:
    """The receipt verifies and says who dealt; the plan was kept."""
    cards = [identity.card for identity in fleet.ids.values()]
    verified = verify_receipt((result.folder / "receipt.pb").read_bytes(), cards)
    assert verified.failures == () and result.receipt_ok and result.planned == result.measured
    report = LeakageReport.from_json((result.folder / "report.json").read_bytes())
    assert report.findings == () and report.transcript_equals_plan
    claims = dict(line.split("=", 1) for line in report.claims)
    assert claims["dealer"].startswith("dealer ") if dealer else claims["dealer"] == "no dealer"
    assert ("dealer" in {view.role for view in report.views}) == dealer
    assert report.hiding and all(hidden.bits is not None and hidden.bits >= 40 for hidden in report.hiding)
    return report


def test_predictions_without_a_dealer(fleet: Fleet, buyer: Buyer) -> None:
    fleet.kill("dealer")  # nobody misses it
    try:
        result = buyer.evaluate(
            fleet.root / "model.onnx",
            data=BOTH,
            encoding=fleet.root / "points.toml",
            metrics=["mean_score"],
            predictions=True,
            engine="he",
        )
    finally:
        fleet.up("dealer")
    np.testing.assert_allclose(result.predictions_, probabilities(), atol=1e-4)
    scores = np.log(probabilities() / (1 - probabilities()))
    assert result.mean_score_ == pytest.approx(scores.mean(), abs=1e-4)
    checked(fleet, result, dealer=False)


def test_hybrid_gives_what_comparisons_give(fleet: Fleet, buyer: Buyer) -> None:
    result = buyer.evaluate(
        fleet.root / "model.onnx",
        data=BOTH,
        encoding=fleet.root / "points.toml",
        metrics=["accuracy", "confusion", "auc", "brier"],
        engine="hybrid",
    )
    assert result.accuracy_ == pytest.approx(((probabilities() > 0.5) == Y).mean(), abs=1 / 120)
    assert result.brier_ == pytest.approx(((probabilities() - Y) ** 2).mean(), abs=1e-4)
    assert np.sum(result.confusion_) == 120
    checked(fleet, result, dealer=True)


def test_he_with_a_dealer_where_the_output_needs_one(fleet: Fleet, buyer: Buyer) -> None:
    result = buyer.evaluate(
        fleet.root / "model.onnx",
        data=BOTH,
        encoding=fleet.root / "points.toml",
        metrics=["auc", "brier"],
        engine="he",
    )
    assert result.brier_ == pytest.approx(((probabilities() - Y) ** 2).mean(), abs=1e-4)
    checked(fleet, result, dealer=True)


def test_auto_chooses_among_what_the_owners_allow(fleet: Fleet, buyer: Buyer) -> None:
    said: list[str] = []
    with Buyer(fleet.root / "buyer", note=said.append) as chatty:
        result = chatty.evaluate(
            fleet.root / "model.onnx",
            data=BOTH,
            encoding=fleet.root / "points.toml",
            metrics=["mean_score"],
            engine="auto",
        )
    checked(fleet, result, dealer=False)
    assert said == [line for line in said if line.startswith("engine    he needs no dealer, and takes")]
    assert "mpc cannot: policy.engine: owner0/points allows hybrid, he" in said[0]


def test_refusals_leave_the_nodes_unharmed(fleet: Fleet, buyer: Buyer) -> None:
    given = {"data": BOTH, "encoding": fleet.root / "points.toml"}
    with pytest.raises(PolicyRefused) as caught:
        buyer.evaluate(fleet.root / "model.onnx", metrics=["accuracy"], engine="mpc", **given)
    assert caught.value.rules == ("policy.engine",)
    with pytest.raises(BadModel, match=r"layer act0\S*: .* found relu") as refused:
        buyer.evaluate(fleet.root / "perceptron.onnx", metrics=["accuracy"], engine="he", **given)
    assert "hybrid or mpc would do" in refused.value.hint
    result = buyer.evaluate(fleet.root / "perceptron.onnx", metrics=["accuracy"], engine="hybrid", **given)
    network = perceptron().weights
    hidden = np.maximum(X @ network["dense0.weight"] + network["dense0.bias"], 0)
    outputs = hidden @ network["dense1.weight"] + network["dense1.bias"]
    assert result.accuracy_ == pytest.approx(((outputs[:, 0] > 0) == Y).mean(), abs=1 / 120)


def test_the_command_line(fleet: Fleet, enclave: Shell, tmp_path: Path) -> None:
    home = ["--home", fleet.root / "buyer"]

    def buying(*words: object) -> int:
        return enclave("buyer", *words, *home)

    job = ["--data", BOTH[0], "--data", BOTH[1], "--encoding", fleet.root / "points.toml"]
    model = ["--model", fleet.root / "model.onnx"]
    assert buying("predict", *model, *job, "--engine", "he", "--out", tmp_path / "p.csv", "--json") == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 121
    assert buying("evaluate", *model, *job, "--metric", "mean_score", "--engine", "auto") == 0
    assert "engine    he needs no dealer" in enclave.err and enclave.out.startswith("mean_score")
    assert buying("evaluate", *model, *job, "--engine", "mpc") == 1
    assert "policy.engine" in enclave.err
    perceptron = ["--model", fleet.root / "perceptron.onnx"]
    assert buying("evaluate", *perceptron, *job, "--engine", "he") == 1
    assert "layer act0" in enclave.err and "hybrid or mpc would do" in enclave.err
    assert buying("evaluate", *model, *job, "--engine", "sgx") == 2
    assert buying("quote", "evaluate", *model, *job, "--engine", "auto", "--metric", "mean_score") == 0
    assert "chosen: he needs no dealer" in enclave.out and "hidden bits" in enclave.out
    assert buying("quote", "evaluate", *perceptron, *job, "--engine", "auto", "--json") == 0
    assert json.loads(enclave.out)["engine"] == "hybrid"


def test_owners_say_which_engines_they_allow(buyer: Buyer) -> None:
    assert [offer.info.engines for offer in buyer.datasets().offers] == [("hybrid", "he")] * 2


def test_a_replaced_engine_is_another_plan(fleet: Fleet) -> None:
    spec = fleet.spec(engine="hybrid")
    with fleet.client("owner0") as client:
        decision = client.propose(fleet.sign(replace(spec, engine="he", job_id="ab" * 16, plan_digest=bytes(32))))
    assert decision.state == "REFUSED" and decision.reasons[0].rule == "plan.mismatch"


def test_an_owner_keeps_its_encoded_rows_from_job_to_job(fleet: Fleet, buyer: Buyer) -> None:
    folder = fleet.root / "owner0" / "encodings"
    given = {"data": BOTH[:1], "encoding": fleet.root / "points.toml", "engine": "he"}
    first = buyer.predict(fleet.root / "model.onnx", **given)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert kept and all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.iterdir()))
    second = buyer.predict(fleet.root / "model.onnx", **given)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}.keys() == kept.keys()
    np.testing.assert_allclose(first.predictions_, second.predictions_, atol=1e-5)
    assert not (fleet.root / "buyer" / "encodings").exists()


def test_a_polynomial_network_predicts_after_a_trial_on_the_mock_twins(fleet: Fleet) -> None:
    layers = (
        Layer("linear", "first", ("input",), ("a",)),
        Layer("mul", "square", ("first", "first")),
        Layer("linear", "second", ("square",), ("b",)),
    )
    network = Architecture((3,), layers, (TensorType("a", (3, 2)), TensorType("b", (2, 1))))
    first, second = np.array([[0.5, -0.25], [1.0, 0.5], [0.25, 0.75]]), np.array([[0.5], [-0.75]])
    said: list[str] = []
    with Buyer(fleet.root / "buyer", note=said.append) as chatty:
        result = chatty.predict(
            Model(network, {"a": first, "b": second}),
            data=BOTH[:1],
            encoding=fleet.root / "points.toml",
            engine="he",
            mock=True,
        )
    assert len(said) == 1 and said[0].startswith("mock run  passed")
    np.testing.assert_allclose(result.predictions_, ((X[:60] @ first) ** 2 @ second)[:, 0], atol=1e-3)
    checked(fleet, result, dealer=False)

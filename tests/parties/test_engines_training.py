"""Regressions without a dealer, end to end: what is trained, and how wrong a model of numbers is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from enclave.datasets import RowSource
from enclave.errors import BadInput, BadModel
from enclave.leakage.report import LeakageReport
from enclave.models import Model, dense_architecture, forward_float
from enclave.workloads.encrypted.training import plain_weights
from parties import owner
from parties.buyer import Buyer, Schedule
from parties.buyer.records import JobFolder
from tests.parties.fleet import Fleet, table
from tests.parties.shell import Shell, enclave
from tests.parties.test_buyer import BOTH, ENCODING

__all__ = ["enclave"]

PRICES = ENCODING.replace('column = "y"\nclasses = ["no", "yes"]', 'column = "y"\nlow = -8\nhigh = 8')
FEATURES = np.concatenate([table(60, 1)[0], table(60, 2)[0]])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), owners=2, engines=("he",), outputs=("rmse", "model"))
    (fleet.root / "points.toml").write_text(ENCODING)
    (fleet.root / "prices.toml").write_text(PRICES)
    for index, name in enumerate(fleet.owner_names):
        folder = fleet.root / f"{name}-data"
        x = table(60, index + 1)[0]
        lines = [",".join(map(str, [*row, round(float(price(row)), 4)])) for row in x]
        (folder / "prices.csv").write_text("\n".join(["a,b,c,y", *lines]) + "\n")
        text = (folder / "points.toml").read_text().replace("points", "prices")
        text = text.replace("values = ['no', 'yes']", "low = -8\nhigh = 8")
        (folder / "prices.toml").write_text(text)
        owner.add(fleet.root / name, folder / "prices.toml")
    try:
        yield fleet.up(*fleet.owner_names)  # there is no dealer to be had
    finally:
        fleet.down()


@pytest.fixture
def buyer(fleet: Fleet) -> Iterator[Buyer]:
    with Buyer(fleet.root / "buyer") as found:
        yield found


def price(row: np.ndarray) -> np.ndarray:
    return row @ np.array([1.0, -2.0, 0.5]) + 0.25 + 0.5 * np.sin(9 * row[..., 0])


def rows(fleet: Fleet, spec: object, data: str) -> dict[int, RowSource]:
    encoding = spec.encoding  # type: ignore[attr-defined]
    return {i: RowSource(fleet.root / f"{n}-data" / f"{data}.csv", encoding) for i, n in enumerate(fleet.owner_names)}


def test_an_rmse_over_two_owners(fleet: Fleet, buyer: Buyer) -> None:
    network = dense_architecture(3, (), 1)
    weights = np.array([[0.9], [-1.75], [0.5]])
    model = Model(network, {"dense0.weight": weights, "dense0.bias": np.array([0.125])})
    result = buyer.evaluate(
        model,
        data=["owner0/prices", "owner1/prices"],
        encoding=fleet.root / "prices.toml",
        metrics=["rmse"],
        engine="he",
    )
    errors = FEATURES @ weights[:, 0] + 0.125 - np.round(price(FEATURES), 4)
    assert result.rmse_ == pytest.approx(np.sqrt((errors**2).mean()), abs=1e-5)
    assert result.receipt_ok and result.planned == result.measured


def test_a_logistic_regression_over_two_owners(fleet: Fleet, buyer: Buyer) -> None:
    schedule = Schedule("logistic", epochs=3, learning_rate=0.5, momentum=0.5)
    result = buyer.train(schedule, data=BOTH, encoding=fleet.root / "points.toml", engine="he")
    spec = JobFolder(result.folder).spec()
    expected = plain_weights(spec, rows(fleet, spec, "points"))
    found = np.concatenate([result.model_.weights[p.name].ravel() for p in spec.architecture.parameters])
    np.testing.assert_allclose(found, expected, atol=2.0**-12)  # released rounded
    truth = np.concatenate([table(60, 1)[1], table(60, 2)[1]])
    scores = forward_float(result.model_, FEATURES)[:, 0]
    assert ((scores > 0.5) == truth).mean() > 0.85
    report = LeakageReport.from_json((result.folder / "report.json").read_bytes())
    assert report.findings == () and {hidden.label for hidden in report.hiding} >= {"training"}
    assert all(hidden.bits is None or hidden.bits >= 40 for hidden in report.hiding)
    assert result.planned == result.measured and result.receipt_ok


def test_a_linear_regression_is_exact_after_one_step(fleet: Fleet, enclave: Shell, tmp_path: Path) -> None:
    words = ["buyer", "train", "--kind", "linear", "--epochs", "1", "--momentum", "0", "--learning-rate", "1"]
    given = ["--data", "owner0/prices", "--encoding", fleet.root / "prices.toml", "--home", fleet.root / "buyer"]
    assert enclave(*words, *given, "--engine", "he", "--out", tmp_path / "model.safetensors", "--json") == 0
    x, y = FEATURES[:60], np.round(price(FEATURES[:60]), 4)
    expected = np.linalg.lstsq(np.hstack([x, np.ones((60, 1))]), y, rcond=None)[0]
    from enclave.models import read_model

    found = read_model(tmp_path / "model.safetensors", architecture=dense_architecture(3, (), 1)).weights
    np.testing.assert_allclose(found["dense0.weight"][:, 0], expected[:3], atol=5e-3)
    np.testing.assert_allclose(found["dense0.bias"], expected[3:], atol=5e-3)


def test_what_no_encrypted_training_can_do(fleet: Fleet, enclave: Shell, buyer: Buyer) -> None:
    given = {"data": BOTH, "encoding": fleet.root / "points.toml", "engine": "he"}
    with pytest.raises(BadModel, match="engine he trains one linear layer"):
        buyer.train(Schedule("mlp", hidden=(4,)), **given)
    with pytest.raises(BadInput, match="releases the model alone"):
        buyer.train(Schedule("logistic"), metrics=["accuracy"], **given)
    words = ["buyer", "train", "--kind", "mlp", "--hidden", "4", "--engine", "he", "--home", fleet.root / "buyer"]
    assert enclave(*words, "--data", BOTH[0], "--encoding", fleet.root / "points.toml") == 1
    assert "hybrid or mpc would do" in enclave.err

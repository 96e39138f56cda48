"""Polynomial networks under encryption: against float64, exact rounds and bytes, what each party sees."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.he.networks.crossterms import Buyer
from enclave.engines.he.networks.forms import read_network
from enclave.engines.he.networks.plan import NetworkPlan, accuracy, plan_network
from enclave.errors import BadData, BadInput
from enclave.models.model import Model
from enclave.models.reference import forward_float
from tests.enclave.engines.he.network_models import convolutional, dense, power, predicted, quadratic, residual


def rows(count: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).clip(-4, 4)


@pytest.mark.parametrize(
    ("model", "width"),
    [(dense([6, 5, 3]), 6), (dense([30, 8, 4, 2]), 30), (quadratic(5, 4, 1), 5), (convolutional(), 64)],
    ids=["square", "two squares", "quadratic", "convolutional"],
)
def test_predictions_are_the_networks_within_the_stated_error(run_he, model: Model, width: int) -> None:
    x = rows(40, width)
    ran = predicted(run_he, model, [x])
    expected = forward_float(model, x)
    plan = plan_network(read_network(model.architecture, model.weights))
    stated = accuracy(plan, np.full(width, 8.0))
    error = np.abs(ran.results[1] - expected).max()
    assert ran.results[0] is None
    assert error < stated.error


def test_rounds_and_bytes_are_known(run_he) -> None:
    """N = 8192, k = 4 and m = 2 primes of 50 bits: a polynomial of r residues is 51,200 r bytes."""
    ran = predicted(run_he, dense([6, 5, 3]), [rows(40, 6)])
    polynomial = 8192 * 50 // 8
    opened = [item for _, record in ran.records if record[0] == "open" for item in record[1:]]
    sizes = {label: [size for name, _, size, _, _ in opened if name == label] for label, *_ in opened}
    assert sizes == {
        "he:public key": [4 * polynomial],
        "he:weights": [4 * polynomial, 2 * 4 * polynomial],
        "he:input": [2 * 3 * polynomial],
        "he:factors": [2 * 4 * polynomial],
        "he:products": [2 * 8 * 8192] * 2,
        "he:dense1": [2 * 8 * 8192] * 2,
        "release:predictions": [-(-40 * 3 // 64) * 50 * 8],
    }
    assert all(session.rounds == 6 for session in ran.sessions)


def test_the_owner_receives_encryptions_alone(run_he) -> None:
    ran = predicted(run_he, dense([6, 5, 3]), [rows(40, 6)])
    assert {label for label, _ in ran.opened[0]} == {"he:public key", "he:weights", "he:factors"}
    # the buyer's are masked, but for the release, which is no masked opening
    assert {label for label, _ in ran.opened[1]} >= {"he:input", "he:products+he:dense1"} or ran.opened[1]
    assert "release:predictions" not in {label for label, _ in ran.opened[1]}


def test_several_owners_and_chunks(run_he, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkPlan, "chunk_rows", property(lambda self: 16))
    model, parts = dense([6, 5, 3]), [rows(40, 6, 1), rows(7, 6, 2)]
    ran = predicted(run_he, model, parts)
    assert np.abs(ran.results[2] - forward_float(model, np.concatenate(parts))).max() < 5e-3
    assert ran.sessions[0].rounds == 2 + 3 * 3 + 1  # keys, weights; three chunks; release


@pytest.mark.parametrize("model", [power(), residual()], ids=["power", "residual"])
def test_products_of_any_kind(run_he, model: Model) -> None:
    x = rows(30, model.architecture.input_shape[0]).clip(-2, 2)
    ran = predicted(run_he, model, [x], limit=2.0)
    assert np.abs(ran.results[1] - forward_float(model, x)).max() < 2e-2


def test_a_value_beyond_the_declared_range_ends_the_job(run_he) -> None:
    x = rows(10, 6)
    x[3, 2] = 9.0
    with pytest.raises(BadData, match="larger than its column declares") as caught:
        predicted(run_he, dense([6, 5, 3]), [x])
    assert "9" not in str(caught.value)
    x[3, 2] = np.nan
    with pytest.raises(BadData):
        predicted(run_he, dense([6, 5, 3]), [x])


def test_low_bits_of_an_output_stay_with_the_owner(run_he) -> None:
    """The buyer gets the output's high bits: with its own share it could otherwise solve for the row."""
    plan = plan_network(read_network(dense([6, 5, 3]).architecture))
    assert plan.release_bits < plan.modulus_bits - 45
    assert 2.0**-21 < plan.release_unit <= 2.0**-19
    x = rows(40, 6)
    found = predicted(run_he, dense([6, 5, 3]), [x]).results[1] / plan.release_unit
    assert np.abs(found - np.rint(found)).max() < 1e-3


def test_a_forged_residue_is_refused(run_he, monkeypatch: pytest.MonkeyPatch) -> None:
    def forged(self: Buyer, share: np.ndarray, first: int) -> np.ndarray:
        return np.full((2, 1, 4, 8192), (1 << 50) - 1, np.uint64)

    monkeypatch.setattr(Buyer, "encrypt_slots", forged)
    with pytest.raises(BadInput, match="expected residues below"):
        predicted(run_he, dense([6, 5, 3]), [rows(10, 6)])

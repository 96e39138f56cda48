"""The same workloads on shares: every rank meets the plan made from shapes, and the results are those in the clear."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from enclave.channel.memory import memory_network
from enclave.engines.interface import Engine, Permit
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Session
from enclave.messages import JobSpec, Training
from enclave.models import dense_architecture
from enclave.workloads import Inputs, Result, check_spec, finish, release, run
from tests.enclave.workloads.made_jobs import ArrayRows, NamedWeights, classes, holders, job, number, result


def opened(session: Session, spec: JobSpec, inputs: Inputs) -> dict[str, NDArray[Any]] | None:
    engine = cast(Engine, MpcEngine(session, spec.frac_bits))
    return release(engine, spec, run(engine, spec, inputs), Permit(spec.job_id, spec.outputs))


def on_shares(
    spec: JobSpec, rows: Mapping[int, ArrayRows], weights: Mapping[str, NDArray[np.float64]] | None = None
) -> Result:
    """The job at every rank and the dealer, each in a thread with its own inputs alone."""
    check_spec(spec)
    parties = len(spec.compute_parties)
    plan = Recorder(parties)
    assert opened(plan, spec, Inputs()) is None
    channels = memory_network([p.name for p in spec.parties], deadline_s=30)
    found: dict[int, Any] = {}

    def main(rank: int) -> None:
        model = NamedWeights(weights) if weights is not None and rank == parties - 1 else None
        kind = DealerSession if rank == parties else PartySession
        try:
            session = kind(channels[rank], parties, plan.digest)
            found[rank] = opened(session, spec, Inputs(rows.get(rank), model))
            assert session.digest == plan.digest
            channels[rank].close()
        except Exception as error:
            found[rank] = error
            channels[rank].close(error if hasattr(error, "public") else None)

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(parties + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value in found.values():
        if isinstance(value, Exception):
            raise value
    assert [rank for rank, value in found.items() if value is not None] == [parties - 1], "only the buyer learns"
    return finish(spec, found[parties - 1])


@pytest.mark.parametrize("owners", [(569,), (40, 260, 269)])
def test_evaluating_a_standardised_logistic_model(owners: tuple[int, ...]) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(0)
    weights = {"dense0.weight": rng.normal(size=(30, 1)), "dense0.bias": np.array([-0.3])}
    spec = job(
        x, classes(2), dense_architecture(30, [], 1), ("accuracy", "confusion", "auc"), owners=owners, standardise=True
    )
    rows = holders(spec, x, y)
    clear, shared = result(spec, rows, weights), on_shares(spec, rows, weights)
    assert shared.accuracy == pytest.approx(clear.accuracy, abs=0.003)
    assert shared.auc == pytest.approx(clear.auc, abs=1e-3)
    assert shared.confusion is not None and shared.confusion.sum() == 569


def test_evaluating_a_regression() -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    weights = {"dense0.weight": np.full((10, 1), 0.1), "dense0.bias": np.array([0.1])}
    outputs = ("rmse", "r2", "predictions")
    spec = job(x, number(20, 350, 150, 75), dense_architecture(10, [], 1), outputs, owners=(200, 242))
    rows = holders(spec, x, (y - 150) / 75)
    clear, shared = result(spec, rows, weights), on_shares(spec, rows, weights)
    assert shared.rmse == pytest.approx(clear.rmse, rel=1e-4)
    assert shared.r2 == pytest.approx(clear.r2, abs=1e-4)
    assert clear.predictions is not None and shared.predictions is not None
    np.testing.assert_allclose(shared.predictions, clear.predictions, atol=0.01)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_training_a_perceptron_over_owners_and_the_buyer(activation: str) -> None:
    x, y = load_iris(return_X_y=True)
    training = Training("cross_entropy", 3, 32, 0.1, 0.9, 1e-3)
    spec = job(
        x,
        classes(3),
        dense_architecture(4, [5], 3, activation),
        ("model", "accuracy", "confusion"),
        owners=(50, 60),
        buyer_rows=40,
        standardise=True,
        training=training,
    )
    rows = holders(spec, x, y)
    clear, shared = result(spec, rows), on_shares(spec, rows)
    assert clear.weights is not None and shared.weights is not None
    for name, weight in clear.weights.items():
        np.testing.assert_allclose(shared.weights[name], weight, atol=0.01)
    assert shared.accuracy == pytest.approx(clear.accuracy, abs=0.02)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_training_one_layer_on_one_owner(loss: str) -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    target, labels = (classes(2), (y > 140).astype(np.int64)) if loss == "logistic" else (number(), (y - 150) / 75)
    training = Training(loss, 4, 64, 0.1)
    spec = job(x, target, dense_architecture(10, [], 1), ("model",), training=training)
    rows = holders(spec, x, labels)
    clear, shared = result(spec, rows), on_shares(spec, rows)
    assert clear.weights is not None and shared.weights is not None
    for name, weight in clear.weights.items():
        np.testing.assert_allclose(shared.weights[name], weight, atol=5e-4)

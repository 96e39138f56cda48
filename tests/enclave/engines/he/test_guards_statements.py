"""Every kind of ciphertext that leaves an owner is stated, with at least 40 bits, and what is released has a gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.engines.interface import Permit
from enclave.errors import PolicyRefused
from enclave.messages import Training
from enclave.models import dense_architecture
from tests.enclave.workloads.encrypted_jobs import Ran, encrypted_job, run_job
from tests.enclave.workloads.made_jobs import classes, number

RNG = np.random.default_rng(9)
X = RNG.uniform(-1, 1, (60, 3))
Y = RNG.uniform(-1, 1, 60)
CLASS = (X[:, 0] > 0).astype(np.int64)
# What an owner sends that is no ciphertext: uniform words among owners, and signs of life.
PLAIN = {"he:at work", "he:working", "he:mask key", "truncation:share"}
STATED = {
    "release:predictions": "scores of rows",
    "release:rmse": "sums over rows",
    "release:mean_score": "sums over rows",
    "release:accuracy": "counting",
    "release:confusion": "counting",
    "release:model": "truncation",
    "decision:scores": "decision scores",
    "classes:scores": "class margins",
    "comparison:forms": "comparison",
    "conjunction:forms": "conjunction",
    "he:masked": "training",
}


def weights(outputs: int) -> dict[str, NDArray[np.float64]]:
    return {"dense0.weight": RNG.normal(size=(3, outputs)), "dense0.bias": RNG.normal(size=outputs)}


def scored() -> Ran:
    spec = encrypted_job(
        X, number(), dense_architecture(3, (), 1), ("predictions", "rmse", "mean_score"), owners=(40, 20)
    )
    return run_job(spec, X, Y, weights(1))


def counted() -> Ran:
    spec = encrypted_job(X, classes(2), dense_architecture(3, (), 2), ("accuracy", "confusion"), owners=(40, 20))
    return run_job(spec, X, CLASS, weights(2))


def many() -> Ran:
    spec = encrypted_job(X, classes(3), dense_architecture(3, (), 3), ("accuracy",), owners=(40, 20))
    return run_job(spec, X, RNG.integers(0, 3, 60), weights(3))


def trained() -> Ran:
    training = Training("squared", 2, 60, 0.1)
    spec = encrypted_job(X, number(), dense_architecture(3, (), 1), ("model",), owners=(40, 20), training=training)
    return run_job(spec, X, Y, {})


@pytest.fixture(scope="module", params=[scored, counted, many, trained], ids=lambda job: job.__name__)
def ran(request: pytest.FixtureRequest) -> Ran:
    job: Callable[[], Ran] = request.param
    return job()


def sent_by_owners(ran: Ran) -> list[tuple[str, Any]]:
    """(label, receiver) of all that owners send, in order."""
    buyer = len(ran.sessions) - 1
    items = [item for _, record in ran.records if record[0] == "open" for item in record[1:]]
    return [(item[0], item[4]) for item in items if item[3] != buyer]


def test_every_kind_of_ciphertext_is_stated(ran: Ran) -> None:
    labels = {label for label, _ in sent_by_owners(ran)} - PLAIN
    assert labels and labels <= STATED.keys()
    stated = {hiding.label: hiding for hiding in ran.engines[0].statements}
    assert {STATED[label] for label in labels} == stated.keys(), "no more and no less"
    assert all(hiding.bits >= 40 and hiding.method for hiding in stated.values())
    assert all(engine.statements == ran.engines[0].statements for engine in ran.engines)


def test_answers_go_to_the_key_holder_alone(ran: Ran) -> None:
    buyer = len(ran.sessions) - 1
    for label, receiver in sent_by_owners(ran):
        assert label in PLAIN or receiver == buyer or label.startswith("release:"), label


def test_what_is_released_comes_last(ran: Ran) -> None:
    labels = [label for label, _ in sent_by_owners(ran)]
    first = next(index for index, label in enumerate(labels) if label.startswith("release:"))
    assert all(label.startswith("release:") for label in labels[first:])


def test_a_permit_for_less_releases_less() -> None:
    spec = encrypted_job(X, number(), dense_architecture(3, (), 1), ("mean_score", "rmse"), owners=(40, 20))
    with pytest.raises(PolicyRefused, match="no permit to release"):
        run_job(spec, X, Y, weights(1), permit=Permit(spec.job_id, ["mean_score"]))

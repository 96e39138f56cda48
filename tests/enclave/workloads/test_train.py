"""Training on the plain engine against torch's optimiser on the same batches, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from enclave.engines.interface import Permit
from enclave.engines.plain import InsecurePlainEngine
from enclave.messages import Architecture, JobSpec, Layer, Training
from enclave.models import dense_architecture
from enclave.workloads import Result, release
from enclave.workloads.blocks import batches
from enclave.workloads.network import without_final
from enclave.workloads.public_random import public_permutation, public_uniform
from enclave.workloads.trainable import TrainableNetwork
from tests.enclave.workloads.made_jobs import classes, holders, job, number, result, sealed
from tests.enclave.workloads.test_trainable import in_torch

LOSSES = {
    "squared": lambda z, y: ((z[:, 0] - y) ** 2).mean() / 2,
    "logistic": lambda z, y: torch.nn.functional.binary_cross_entropy_with_logits(z[:, 0], y.double()),
    "cross_entropy": torch.nn.functional.cross_entropy,
}


def torch_batches(spec: JobSpec, x: NDArray[np.float64], y: NDArray[Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The public schedule, written down a second time."""
    assert spec.training is not None
    parts = []
    for rank, own in holders(spec, x, y).items():
        order = public_permutation(spec.training.shuffle_seed, f"rows of rank {rank}", own.rows)
        parts.append((own.x[order], own.y[order]))
    found = []
    for segment in batches([len(p[0]) for p in parts], spec.training.batch_rows):
        for i in range(segment.count):
            cuts = [slice(a + i * n, a + (i + 1) * n) for a, n in zip(segment.starts, segment.sizes, strict=True)]
            chosen = [[p[k][cut] for p, cut in zip(parts, cuts, strict=True)] for k in (0, 1)]
            found.append((torch.from_numpy(np.concatenate(chosen[0])), torch.from_numpy(np.concatenate(chosen[1]))))
    return found


def torch_training(spec: JobSpec, x: NDArray[np.float64], y: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """torch.optim.SGD on the same start and the same batches, in float64."""
    training = spec.training
    assert training is not None
    network, start, weights = TrainableNetwork(spec.architecture), 0, dict[str, torch.Tensor]()
    flat = network.initial(training.init_seed)
    for name, shape in network.parameters:
        size = int(np.prod(shape))
        weights[name] = torch.from_numpy(flat[start : start + size].reshape(shape).copy()).requires_grad_()
        start += size
    decayed = {step.weight for step in network.weighted}
    groups = [
        {"params": [w for name, w in weights.items() if name in decayed], "weight_decay": training.l2},
        {"params": [w for name, w in weights.items() if name not in decayed], "weight_decay": 0.0},
    ]
    body = without_final(spec.architecture, ("sigmoid", "softmax"))
    descent = torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum)
    sums, count = {name: np.zeros(w.shape) for name, w in weights.items()}, 0
    for epoch in range(training.epochs):
        for xb, yb in torch_batches(spec, x, y):
            if epoch >= training.epochs - training.average_epochs:
                count += 1
                for name, weight in weights.items():
                    sums[name] += weight.detach().numpy()
            z = in_torch(body, weights, xb.reshape(len(xb), *body.input_shape))
            descent.zero_grad()
            LOSSES[training.loss](z, yb).backward()
            descent.step()
    if count:
        return {name: total / count for name, total in sums.items()}
    return {name: w.detach().numpy() for name, w in weights.items()}


def same(found: Result, expected: dict[str, NDArray[np.float64]], tolerance: float = 1e-9) -> None:
    assert found.weights is not None and found.weights.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(found.weights[name], weight, atol=tolerance, rtol=tolerance)


def scaled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    z: NDArray[np.float64] = (x - x.mean(axis=0)) / x.std(axis=0)
    return z


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("l2", [0.0, 1e-2, 1e-6])
@pytest.mark.parametrize("owners", [(569,), (201, 199, 120)])
def test_logistic_regression_equals_torch(momentum: float, l2: float, owners: tuple[int, ...]) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = scaled(x)
    training = Training("logistic", 3, 64, 0.1, momentum, l2, shuffle_seed=5)
    spec = job(
        x,
        classes(2),
        dense_architecture(30, [], 1),
        ("model", "accuracy", "auc"),
        owners=owners,
        buyer_rows=569 - sum(owners),
        training=training,
    )
    found = result(spec, holders(spec, x, y), None)
    expected = torch_training(spec, x, y)
    same(found, expected)
    scores = (x @ expected["dense0.weight"] + expected["dense0.bias"])[:, 0]
    assert found.accuracy == accuracy_score(y, scores > 0)
    assert found.auc == pytest.approx(roc_auc_score(y, scores), abs=1e-9)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("hidden", [(8,), (7, 5)])
def test_perceptrons_equal_torch(activation: str, hidden: tuple[int, ...]) -> None:
    x, y = load_iris(return_X_y=True)
    x = scaled(x)
    training = Training("cross_entropy", 4, 16, 0.2, 0.8, 1e-3, shuffle_seed=1, init_seed=2)
    spec = job(
        x, classes(3), dense_architecture(4, hidden, 3, activation), ("model",), owners=(70, 80), training=training
    )
    same(result(spec, holders(spec, x, y)), torch_training(spec, x, y))


def test_a_perceptron_for_each_loss_equals_torch() -> None:
    x, y = load_diabetes(return_X_y=True, scaled=True)
    y, binary = (y - 150) / 75, (y > 140).astype(np.int64)
    for loss, target, labels in (("squared", number(), y), ("logistic", classes(2), binary)):
        training = Training(loss, 2, 100, 0.05, 0.5, init_seed=3)
        spec = job(x, target, dense_architecture(10, [6], 1), ("model",), training=training)
        same(result(spec, holders(spec, x, labels)), torch_training(spec, x, labels))


@pytest.mark.parametrize(("epochs", "averaged"), [(1, 1), (3, 1), (4, 2), (2, 2)])
def test_the_mean_of_the_last_epochs_equals_torch(epochs: int, averaged: int) -> None:
    x, y = load_iris(return_X_y=True)
    training = Training("cross_entropy", epochs, 16, 0.2, 0.8, average_epochs=averaged)
    spec = job(scaled(x), classes(3), dense_architecture(4, (6,), 3), ("model",), owners=(70, 80), training=training)
    same(result(spec, holders(spec, scaled(x), y)), torch_training(spec, scaled(x), y))


def test_layers_without_bias() -> None:
    x, y = load_iris(return_X_y=True)
    full = dense_architecture(4, [5], 3)
    kept = tuple(p for p in full.parameters if p.name.endswith("weight"))
    layers = tuple(Layer(c.op, c.name, c.inputs, c.parameters[:1], c.ints) for c in full.layers)
    architecture = Architecture((4,), (*layers, Layer("softmax", "p", (layers[-1].name,))), kept)
    spec = job(x, classes(3), architecture, ("model",), training=Training("cross_entropy", 2, 40, 0.05, 0.9))
    same(result(spec, holders(spec, x, y)), torch_training(spec, x, y))


@pytest.mark.parametrize("owners", [(442,), (300, 100)])
def test_ridge_reaches_the_closed_form(owners: tuple[int, ...]) -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    encoded = (y - 150) / 75
    training = Training("squared", 400, 442, 0.2, 0.9, l2=0.05)
    outputs = ("model", "rmse", "r2")
    spec = job(
        x,
        number(20, 350, 150, 75),
        dense_architecture(10, [], 1),
        outputs,
        owners=owners,
        buyer_rows=442 - sum(owners),
        standardise=True,
        training=training,
    )
    found = result(spec, holders(spec, x, encoded))
    model = Ridge(alpha=0.05 * 442).fit(scaled(x), encoded)
    assert found.weights is not None
    predicted = (x @ found.weights["dense0.weight"] + found.weights["dense0.bias"])[:, 0]
    np.testing.assert_allclose(predicted, model.predict(scaled(x)), atol=1e-6)  # the scaling is folded into the model
    assert found.r2 == pytest.approx(r2_score(encoded, predicted), abs=1e-5)


def test_a_released_model_takes_rows_as_encoded() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    training = Training("logistic", 40, 64, 0.1, 0.9, 1e-3)
    architecture = dense_architecture(30, [], 1)
    spec = job(
        x, classes(2), architecture, ("model", "accuracy"), owners=(300, 269), standardise=True, training=training
    )
    found = result(spec, holders(spec, x, y))
    assert found.weights is not None
    scores = (x @ found.weights["dense0.weight"] + found.weights["dense0.bias"])[:, 0]
    assert accuracy_score(y, scores > 0) == found.accuracy
    reference = LogisticRegression(C=1 / (1e-3 * 569)).fit(scaled(x), y).score(scaled(x), y)
    assert found.accuracy == pytest.approx(reference, abs=0.003)


def test_rounded_training_stays_close() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    training = Training("logistic", 10, 32, 0.1, 0.9, 1e-4)
    spec = job(
        x, classes(2), dense_architecture(30, [8], 1), ("model", "accuracy"), standardise=True, training=training
    )
    exact, rows = result(spec, holders(spec, x, y)), holders(spec, x, y)
    rounded = result(spec, rows, None, InsecurePlainEngine(20, round_to=20))
    assert exact.accuracy is not None
    assert rounded.accuracy == pytest.approx(exact.accuracy, abs=0.004)


def test_a_model_that_stays_shared_is_not_opened() -> None:
    x, y = load_iris(return_X_y=True)
    training = Training("cross_entropy", 1, 50, 0.1, deliver="shared")
    spec = job(x, classes(3), dense_architecture(4, [], 3), ("accuracy", "model"), training=training)
    engine, done = sealed(spec, holders(spec, x, y))
    assert set(done.outputs) == {"accuracy"} and done.shared["model"].shape == (15,)
    opened = release(engine, spec, done, Permit(spec.job_id, spec.outputs))
    assert opened is not None and set(opened) == {"accuracy"}


def test_what_is_not_asked_for_is_not_sealed() -> None:
    x, y = load_iris(return_X_y=True)
    spec = job(
        x, classes(3), dense_architecture(4, [], 3), ("accuracy",), training=Training("cross_entropy", 1, 50, 0.1)
    )
    _, done = sealed(spec, holders(spec, x, y))
    assert set(done.outputs) == {"accuracy"} and not done.shared


def test_public_numbers_are_fixed_for_ever() -> None:
    """Known answers, from hashlib and Python's integers alone: parties with different libraries must agree."""
    assert public_permutation(7, "rows of rank 0", 8).tolist() == [2, 7, 6, 3, 5, 4, 1, 0]
    found = public_uniform(7, "weights w", (2, 2), 1.0)
    assert found.reshape(-1).tolist() == [
        0.7897477546732337,
        -0.9389955481790369,
        -0.9026965033400787,
        0.386288310170237,
    ]
    big = public_uniform(1, "w", (100, 100), 0.5)
    assert np.abs(big).max() <= 0.5 and abs(big.mean()) < 0.01 and len(np.unique(big)) == 10_000
    assert sorted(public_permutation(1, "p", 1000)) == list(range(1000))


def test_different_layers_start_differently() -> None:
    network = TrainableNetwork(dense_architecture(4, [4], 4))
    start = network.initial(0)
    assert not np.array_equal(start[:16], start[20:36])
    assert not np.array_equal(start, network.initial(1))
    assert not TrainableNetwork(dense_architecture(4, [], 4)).initial(0).any()

"""Training networks with convolutions: torch's steps in the clear, the plain twin's accuracy on shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from enclave.errors import BadSpec
from enclave.messages import Architecture, Encoding, Feature, JobSpec, NumericFeature, Training
from enclave.models import Model, forward_float, lenet_architecture
from enclave.workloads import check_spec
from tests.enclave.workloads.made_jobs import classes, holders, job, result
from tests.enclave.workloads.test_on_shares import on_shares
from tests.enclave.workloads.test_train import same, torch_training
from tests.enclave.workloads.test_trainable import CONV, POOL, chain

DIGITS = chain(
    (1, 8, 8),
    [
        ("conv2d", ("w1", "b1"), CONV),
        ("relu", ()),
        ("max_pool2d", (), POOL),
        ("flatten", ()),
        ("linear", ("w2", "b2")),
        ("softmax", ()),
    ],
    w1=(8, 1, 3, 3),
    b1=(8,),
    w2=(72, 10),
    b2=(10,),
)


def digits(count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images 8 by 8, values in [0, 1]: a little noise on every pixel, or windows of background would be ties, of
    which torch gives the gradient to another element."""
    x, y = load_digits(return_X_y=True)
    noise = np.random.default_rng(9).uniform(0.0, 0.05, (count, 64))
    return 0.95 * x[:count] / 16.0 + noise, y[:count]


def image_job(architecture: Architecture, rows: int, training: Training, *owners: int) -> JobSpec:
    x, _ = digits(rows) if architecture is DIGITS else (np.zeros((rows, 256)), None)
    spec = job(x, classes(10), architecture, ("model", "accuracy"), owners=owners, training=training)
    pixels = Feature("pixels", numeric=NumericFeature(low=0.0, high=1.0, width=x.shape[1]))
    return replace(spec, encoding=Encoding((pixels,), spec.encoding.target))


@pytest.mark.parametrize("owners", [(300,), (120, 180)])
def test_every_step_equals_torch(owners: tuple[int, ...]) -> None:
    x, y = digits(300)
    spec = image_job(DIGITS, 300, Training("cross_entropy", 3, 50, 0.1, 0.9, 1e-3, init_seed=1), *owners)
    same(result(spec, holders(spec, x, y)), torch_training(spec, x, y))


def test_lenet_takes_a_step_as_torch_does() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(24, 256)), rng.integers(0, 10, 24)
    spec = image_job(lenet_architecture((1, 16, 16), 10), 24, Training("cross_entropy", 2, 12, 0.05, 0.5, init_seed=3))
    same(result(spec, holders(spec, x, y)), torch_training(spec, x, y))


def test_on_shares_a_network_of_images_learns_what_its_twin_learns() -> None:
    x, y = digits(400)
    spec = image_job(DIGITS, 400, Training("cross_entropy", 4, 40, 0.2, 0.9, init_seed=1, average_epochs=1), 150, 250)
    rows = holders(spec, x, y)
    clear, shared = result(spec, rows), on_shares(spec, rows)
    assert clear.accuracy is not None and clear.accuracy > 0.93
    assert shared.accuracy == pytest.approx(clear.accuracy, abs=0.01)
    assert shared.weights is not None
    again = forward_float(Model(spec.architecture, shared.weights), x).argmax(axis=1)
    assert float((again == y).mean()) == pytest.approx(shared.accuracy, abs=0.005)


def test_standardising_images_is_refused() -> None:
    spec = image_job(DIGITS, 100, Training("cross_entropy", 1, 20, 0.1))
    encoding = Encoding(spec.encoding.features, spec.encoding.target, True)
    with pytest.raises(BadSpec, match="needs a linear first layer with a bias"):
        check_spec(replace(spec, encoding=encoding))

"""The packed image network on encrypted digits, against float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from enclave.engines.he.ckks.convolution import SCALE, EncodedNetwork, ImageNetwork, image_parameters, image_windows
from enclave.engines.he.ckks.rotations import KeyHolder
from enclave.engines.he.ckks.seal import Context
from enclave.engines.he.lattice.keys import PublicSeed, SecretKey
from enclave.engines.he.lattice.sampling import Source
from enclave.errors import BadSpec

IMAGES = 25


def fitted(images: np.ndarray, labels: np.ndarray) -> ImageNetwork:
    """Random features and a ridge on top: a network that classifies, in well under a second."""
    rng = np.random.default_rng(0)
    kernel, kernel_bias = rng.normal(size=(4, 7, 7)) / 7, rng.normal(size=4) * 0.1
    first, first_bias = rng.normal(size=(256, 64)) / 24, rng.normal(size=64) * 0.3
    patches = np.stack([image_windows(image, (7, 7), 3) for image in images])
    features = np.square(np.einsum("cp,npw->ncw", kernel.reshape(4, -1), patches) + kernel_bias[:, None])
    hidden = np.square(features.reshape(len(images), -1) @ first + first_bias)
    hidden1 = np.append(hidden, np.ones((len(images), 1)), axis=1)
    ridge = np.linalg.solve(hidden1.T @ hidden1 + 0.1 * np.eye(65), hidden1.T @ np.eye(10)[labels])
    return ImageNetwork((28, 28), 3, kernel, kernel_bias, first, first_bias, ridge[:-1], ridge[-1])


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    images = np.kron(data.images / 16.0, np.ones((3, 3)))
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), data.target


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(image_parameters())


def agreement(context: Context, network: ImageNetwork, images: np.ndarray) -> tuple[float, float]:
    """Part of images with the same argmax as in float64, and the largest error of an output."""
    holder = KeyHolder(context, SecretKey(context.key_ring, Source.fresh(), 200), PublicSeed.derived(b"images"))
    encoded = EncodedNetwork(network, context.slots)
    evaluator = holder.evaluator(encoded.rotations)
    plains = encoded.encode(evaluator)
    equal, error = 0, 0.0
    for image in images:
        answer = encoded.forward(evaluator, plains, holder.encrypt(encoded.slots_of(image), SCALE))
        outputs, expected = encoded.outputs_of(holder.decrypt(answer)), network.predict(image)
        equal += int(outputs.argmax() == expected.argmax())
        error = max(error, float(np.abs(outputs - expected).max()))
    return equal / len(images), error


def test_digits(context: Context, digits: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = digits
    network = fitted(images[:1000], labels[:1000])
    correct = np.mean([network.predict(image).argmax() == label for image, label in zip(images, labels, strict=True)])
    assert correct > 0.85, "the network does not classify"
    equal, error = agreement(context, network, images[1000 : 1000 + IMAGES])
    assert equal == 1.0
    assert error < 0.01


def test_other_shapes(context: Context) -> None:
    rng = np.random.default_rng(3)
    network = ImageNetwork(
        (10, 12), 2, rng.normal(size=(3, 3, 4)) / 4, rng.normal(size=3), rng.normal(size=(60, 7)) / 8,
        rng.normal(size=7), rng.normal(size=(7, 3)), rng.normal(size=3),
    )  # fmt: skip
    assert network.windows == 20
    _, error = agreement(context, network, rng.uniform(size=(1, 10, 12)))
    assert error < 0.05  # of outputs up to 60


def test_parameters_and_keys(context: Context, digits: tuple[np.ndarray, np.ndarray]) -> None:
    assert image_parameters().total_bits == 218
    encoded = EncodedNetwork(fitted(digits[0][:100], digits[1][:100]), context.slots)
    assert encoded.rotations == tuple(1 << i for i in range(12))


def test_a_layer_that_does_not_fit_is_named() -> None:
    zeros = np.zeros
    network = ImageNetwork(
        (28, 28), 1, zeros((4, 7, 7)), zeros(4), zeros((1936, 64)), zeros(64), zeros((64, 10)), zeros(10)
    )
    with pytest.raises(BadSpec, match="the convolution needs 25088 slots"):
        EncodedNetwork(network, 4096)


@pytest.mark.skipif("ENCLAVE_DATA" not in os.environ, reason="needs MNIST under ENCLAVE_DATA")
def test_mnist(context: Context) -> None:
    with np.load(Path(os.environ["ENCLAVE_DATA"]) / "mnist" / "mnist.npz") as data:
        images, labels = data["x_test"] / 255.0, data["y_test"]
    equal, _ = agreement(context, fitted(images[:2000], labels[:2000]), images[2000:2100])
    assert equal == 1.0

"""The inputs of each case, equal for all systems: made from fixed seeds."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.he.cases import PRIME_BITS, Case

__all__ = ["IMAGES", "Arrays", "Floats", "make_inputs"]

Floats: TypeAlias = NDArray[np.float64]
Arrays: TypeAlias = dict[str, NDArray[np.float64]]
IMAGES = 10  # encrypted images that repetitions go round
_LARGEST = 8.0  # standard deviations that made-up rows are clipped at


def make_inputs(case: Case) -> Arrays:
    """Arrays by name, float64. Trainings have none: they read data sets."""
    rng = np.random.default_rng(0)
    size = case.parameters
    if case.kind == "matvec":
        return {"x": rng.uniform(-1, 1, size["d"]), "w": rng.uniform(-1, 1, (size["d"], size["m"]))}
    if case.kind == "operation":
        slots = size["n"] // 2
        return {
            "x": rng.uniform(-1, 1, slots),
            "y": rng.uniform(-1, 1, slots),
            "bits": np.array(PRIME_BITS[size["n"]], np.float64),
        }
    if case.kind == "cnn":
        return _tutorial(rng)
    if case.kind in ("scoring", "hybrid", "rmse"):
        x = rng.normal(size=(size["n"], size["d"])).clip(-_LARGEST, _LARGEST)
        found = {"x": x, "w": rng.normal(size=size["d"]) / np.sqrt(size["d"])}
        if case.kind == "rmse":
            found |= {"b": rng.normal(size=1), "y": x @ found["w"] + 0.1 * rng.normal(size=size["n"])}
        return found
    return {}


def _tutorial(rng: np.random.Generator) -> Arrays:
    """Digits of scikit-learn enlarged to 28 x 28, and a network that classifies them.

    The first two layers are random and the last is fitted (ridge): a network of the tutorial's shape with scores that
    differ, without its training.
    """
    from sklearn.datasets import load_digits

    from enclave.engines.he.ckks.convolution import image_windows

    data = load_digits()
    images = np.pad(np.kron(data.images / 16.0, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    known, labels = images[:1000], data.target[:1000]
    kernel, kernel_bias = rng.normal(size=(4, 7, 7)) / 7, rng.normal(size=4) * 0.1
    first, first_bias = rng.normal(size=(256, 64)) / 24, rng.normal(size=64) * 0.3
    patches = np.stack([image_windows(image, (7, 7), 3) for image in known])
    features = np.square(np.einsum("cp,npw->ncw", kernel.reshape(4, -1), patches) + kernel_bias[:, None])
    hidden = np.square(features.reshape(len(known), -1) @ first + first_bias)
    hidden = np.append(hidden, np.ones((len(known), 1)), axis=1)
    ridge = np.linalg.solve(hidden.T @ hidden + 0.1 * np.eye(65), hidden.T @ np.eye(10)[labels])
    return {
        "images": images[1000 : 1000 + IMAGES],
        "kernel": kernel,
        "kernel_bias": kernel_bias,
        "first": first,
        "first_bias": first_bias,
        "second": ridge[:-1],
        "second_bias": ridge[-1],
    }

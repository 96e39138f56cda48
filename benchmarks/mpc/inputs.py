"""The inputs of a case: the same for every system and every run. The ranges are those of `benchmarks.mpc.cases`."""

from __future__ import annotations

import itertools
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.mpc.cases import Case

__all__ = ["Arrays", "make_inputs"]

Arrays = dict[str, NDArray[Any]]
_GRID = 2.0**16
_RANGES = {
    "relu": (-16.0, 16.0),
    "argmax": (-16.0, 16.0),
    "max": (-16.0, 16.0),
    "exp": (-8.0, 2.0),
    "matmul": (-1.0, 1.0),
}
_POSITIVE = ("log", "reciprocal", "rsqrt")
_MLP = (784, 128, 128, 10)


class _Draws:
    """Numbers on the grid of 2^-16."""

    def __init__(self, case: Case) -> None:
        seed = zlib.crc32(f"{case.kind} {sorted(case.parameters.items())}".encode())
        self._generator = np.random.default_rng(seed)

    def uniform(self, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        return on_grid(self._generator.uniform(low, high, shape))

    def log_uniform(self, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        return on_grid(np.exp(self._generator.uniform(math.log(low), math.log(high), shape)))

    def weights(self, fan_in: int, *shape: int) -> NDArray[np.float64]:
        return self.uniform(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), *shape)

    def classes(self, count: int, rows: int) -> NDArray[np.float64]:
        return self._generator.integers(0, count, rows).astype(np.float64)


def on_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded to multiples of 2^-16."""
    rounded: NDArray[np.float64] = np.rint(values * _GRID) / _GRID
    return rounded


def make_inputs(case: Case) -> Arrays:
    """Arrays by name, float64."""
    draws, size, kind = _Draws(case), case.parameters, case.kind
    low, high = _RANGES.get(kind, (-8.0, 8.0))
    if kind in _POSITIVE:
        return {"x": draws.log_uniform(1 / 16, 64.0, size["n"])}
    if kind == "matmul":
        return {
            "x": draws.uniform(low, high, size["m"], size["k"]),
            "y": draws.uniform(low, high, size["k"], size["n"]),
        }
    if kind == "mul":
        return {"x": draws.uniform(low, high, size["n"]), "y": draws.uniform(low, high, size["n"])}
    if "rows" in size:
        return {"x": _without_ties(draws.uniform(low, high, size["rows"], size["cols"]))}
    if kind in ("mlp-inference", "mlp-train"):
        return _mlp(draws, size["batch"], labels=kind == "mlp-train")
    if kind == "lr-step":
        x = draws.uniform(0.0, 1.0, size["batch"], 784)
        return {
            "x": x,
            "w": draws.weights(784, 784, 1),
            "b": draws.weights(784, 1),
            "y": draws.classes(2, size["batch"]),
        }
    if kind == "lr-breast-cancer":
        return _breast_cancer()
    if kind == "lenet-inference":
        return _lenet(draws, size["batch"])
    return {"x": draws.uniform(low, high, size["n"])}


def _without_ties(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows whose numbers all differ: a repeated one moves up the grid until it is alone."""
    for row in x:
        seen: set[float] = set()
        for i, value in enumerate(row):
            while float(value) in seen:
                value += 1 / _GRID
            seen.add(float(value))
            row[i] = value
    return x


def _mlp(draws: _Draws, batch: int, *, labels: bool) -> Arrays:
    found: Arrays = {"x": draws.uniform(0.0, 1.0, batch, _MLP[0])}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(_MLP), 1):
        found[f"w{i}"] = draws.weights(inputs, inputs, outputs)
        found[f"b{i}"] = draws.weights(inputs, outputs)
    if labels:
        found["y"] = draws.classes(_MLP[-1], batch)
    return found


def _lenet(draws: _Draws, batch: int) -> Arrays:
    return {
        "x": draws.uniform(0.0, 1.0, batch, 1, 28, 28),
        "w1": draws.weights(25, 16, 1, 5, 5),
        "b1": draws.weights(25, 16),
        "w2": draws.weights(400, 16, 16, 5, 5),
        "b2": draws.weights(400, 16),
        "w3": draws.weights(256, 256, 100),
        "b3": draws.weights(256, 100),
        "w4": draws.weights(100, 100, 10),
        "b4": draws.weights(100, 10),
    }


def _breast_cancer() -> Arrays:
    from sklearn.datasets import load_breast_cancer

    rows, target = load_breast_cancer(return_X_y=True)
    x = on_grid((rows - rows.mean(axis=0)) / rows.std(axis=0))
    return {"x": x, "w": np.zeros((x.shape[1], 1)), "b": np.zeros(1), "y": target.astype(np.float64)}

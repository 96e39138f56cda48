"""The system `plain`: float64 in the clear, which is what a case must give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.he.cases import Case
from benchmarks.he.inputs import Arrays, make_inputs
from benchmarks.measurement import versions
from benchmarks.peers.serving import clocked

__all__ = ["Plain", "exact"]

_LEAST_S = 0.02  # CPU time that a computation is repeated for


def exact(case: Case, inputs: Arrays) -> Callable[[], Arrays]:
    """A function that computes the outputs of any case but a training."""
    if case.kind == "cnn":
        from benchmarks.he.products import network_of

        network = network_of(inputs)
        return lambda: {"y": np.stack([network.predict(image) for image in inputs["images"]])}
    x = inputs["x"]
    if case.kind == "operation":
        y = inputs["y"]
        found = {"add": x + y, "multiply": x * y, "multiply-plain": x * y, "rescale": x * y, "rotate": np.roll(x, -1)}
        return lambda: {"y": found.get(case.name, x)}
    w = inputs["w"]
    if case.kind == "rmse":
        return lambda: {"rmse": np.sqrt([np.mean(np.square(x @ w + inputs["b"] - inputs["y"]))])}
    return lambda: {"y": x @ w}


class Plain:
    """The system `plain`."""

    def __init__(self, case: Case, data: Path | None) -> None:
        self.versions = versions()
        self._images = 1
        if case.kind == "train":
            from benchmarks.he.jobs import Trained

            trained = Trained.of(case, data)
            self._compute: Callable[[], dict[str, Any]] = lambda: {"w": trained.twin()}
        else:
            inputs = make_inputs(case)
            self._compute = exact(case, inputs)
            self._images = len(inputs.get("images", [()]))
        self._found: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        self._found, times = clocked(self._compute, _LEAST_S)
        return {"cpu_s": [times["cpu_s"][0] / self._images], "wall_s": times["wall_s"] / self._images}

    def outputs(self) -> dict[str, Any]:
        return self._found

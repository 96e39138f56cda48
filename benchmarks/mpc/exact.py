"""What a case must give: float64, and how far a system may be off."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.mpc.cases import Case
from benchmarks.mpc.inputs import Arrays

__all__ = ["bound", "error_of", "exact"]

# Of `error_of`. What this project promises, and what an approximation by a peer may do before its line is no result.
_OWN_BOUNDS = {"relu": 1e-5, "mul": 1e-4, "max": 1e-5, "matmul": 1e-3, "softmax": 2.0**-10}
_OWN_BOUND = 2.0**-9
_PEER_BOUND = 0.25
_TRAINING = ("mlp-train", "lr-step", "lr-breast-cancer")


def bound(case: Case, system: str, start: Mapping[str, NDArray[Any]], wanted: Arrays) -> float:
    """The largest error with which a line counts.

    For this project's systems what it promises; for peers 0.25, because their approximations are wide in places, and
    the error is in the line. In trainings a part of the largest change of a weight: 1/64, for peers 1/4. For argmax
    a number of rows: none, for peers 1 %.
    """
    own = system.startswith("enclave")
    if case.kind in _TRAINING:
        moved = max(float(np.abs(value - start[name]).max()) for name, value in wanted.items())
        return moved / 64 if own or system == "plain" else moved / 4
    if case.kind == "argmax":
        return 0.0 if own or system == "plain" else case.parameters["rows"] / 100
    if system == "plain":
        return 1e-4  # float32
    return _OWN_BOUNDS.get(case.kind, _OWN_BOUND) if own else _PEER_BOUND


def exact(case: Case, t: Arrays) -> Arrays:
    """The outputs in float64."""
    kind = case.kind
    if kind in _FUNCTIONS:
        return {"y": _FUNCTIONS[kind](t["x"])}
    if kind == "mul":
        return {"y": t["x"] * t["y"]}
    if kind == "matmul":
        return {"y": t["x"] @ t["y"]}
    from benchmarks.mpc.plain import torch_outputs

    return torch_outputs(case, t, double=True)()


def error_of(case: Case, found: Mapping[str, NDArray[Any]], wanted: Arrays) -> float:
    """Largest |found - exact| / max(1, |exact|); for argmax the number of wrong rows.

    Raises ValueError for outputs that are missing or of another shape.
    """
    if set(found) != set(wanted):
        raise ValueError(f"expected the outputs {sorted(wanted)}, found {sorted(found)}")
    worst = 0.0
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise ValueError(f"expected {name} of shape {value.shape}, found {found[name].shape}")
        ours = found[name].astype(np.float64)
        if case.kind == "argmax":
            return float(np.any(np.rint(ours) != value, axis=-1).sum())
        gaps = np.abs(ours - value) / np.maximum(1.0, np.abs(value))
        worst = max(worst, float(np.nan_to_num(gaps, nan=np.inf).max()))
    return worst


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    phi = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel().tolist()])
    return np.asarray(x * phi.reshape(x.shape))


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _onehot(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.eye(x.shape[-1])[x.argmax(axis=-1)])


_FUNCTIONS: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu": _gelu,
    "exp": np.exp,
    "log": np.log,
    "reciprocal": lambda x: 1.0 / x,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "softmax": _softmax,
    "argmax": _onehot,
    "max": lambda x: np.asarray(x.max(axis=-1)),
}

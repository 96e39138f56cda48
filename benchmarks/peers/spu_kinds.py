"""The cases for SPU 0.9.5: plain JAX functions of shared arrays, which its compiler turns into secure programs.

Where there is a choice, the one that favours SPU: activations and convolutions are (batch, row, column, channel), the
order that SPU's convolutions work in, and transposed before the clock starts; the one-hot `argmax` compares with the
maximum; gradients are those of `jax.grad`, so that the value of a loss is never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from benchmarks.peers.task import RATES

__all__ = ["function", "laid_out"]

Values = Mapping[str, Any]
_CLASSES = 10


def laid_out(kind: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The inputs as the function takes them, before they are shared: float32, labels as one-hot rows or columns."""
    found = dict(inputs)
    if kind == "mlp-train":
        found["y"] = np.eye(_CLASSES)[inputs["y"].astype(int)]
    if kind in ("lr-step", "lr-breast-cancer"):
        found["y"] = inputs["y"].reshape(-1, 1)
    if kind == "lenet-inference":
        found |= {"x": inputs["x"].transpose(0, 2, 3, 1)}
        found |= {name: inputs[name].transpose(2, 3, 1, 0) for name in ("w1", "w2")}
        rows = inputs["w3"]  # its inputs are (channel, row, column)
        found["w3"] = rows.reshape(16, 4, 4, -1).transpose(1, 2, 0, 3).reshape(rows.shape)
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in found.items()}


def function(kind: str, parameters: Mapping[str, int]) -> Callable[[Values], Values]:
    """From shared inputs by name to shared outputs by name."""
    if kind == "mlp-train":
        return lambda v: _descend(_cross_entropy, v, RATES[kind], 1)
    if kind in ("lr-step", "lr-breast-cancer"):
        return lambda v: _descend(_logistic_loss, v, RATES[kind], parameters.get("steps", 1))
    return lambda v: {"y": _FUNCTIONS[kind](v)}


def _mlp(v: Values) -> Any:
    hidden = jax.nn.relu(v["x"] @ v["w1"] + v["b1"])
    return jax.nn.relu(hidden @ v["w2"] + v["b2"]) @ v["w3"] + v["b3"]


def _convolution(x: Any, weight: Any, bias: Any) -> Any:
    return lax.conv_general_dilated(x, weight, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


def _pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _lenet(v: Values) -> Any:
    x = _pool(jax.nn.relu(_convolution(v["x"], v["w1"], v["b1"])))
    x = _pool(jax.nn.relu(_convolution(x, v["w2"], v["b2"])))
    x = jax.nn.relu(x.reshape(x.shape[0], -1) @ v["w3"] + v["b3"])
    return x @ v["w4"] + v["b4"]


def _cross_entropy(weights: Values, x: Any, y: Any) -> Any:
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(_mlp({**weights, "x": x}), axis=1) * y, axis=1))


def _logistic_loss(weights: Values, x: Any, y: Any) -> Any:
    logits = x @ weights["w"] + weights["b"]
    return jnp.mean(jnp.logaddexp(0.0, logits) - y * logits)


def _descend(loss: Callable[..., Any], v: Values, rate: float, steps: int) -> Values:
    weights = {name: value for name, value in v.items() if name not in ("x", "y")}
    for _ in range(steps):
        gradients = jax.grad(loss)(weights, v["x"], v["y"])
        weights = {name: value - rate * gradients[name] for name, value in weights.items()}
    return weights


_FUNCTIONS: Mapping[str, Callable[[Values], Any]] = {
    "relu": lambda v: jax.nn.relu(v["x"]),
    "sigmoid": lambda v: jax.nn.sigmoid(v["x"]),
    "tanh": lambda v: jnp.tanh(v["x"]),
    "gelu": lambda v: jax.nn.gelu(v["x"], approximate=False),
    "exp": lambda v: jnp.exp(v["x"]),
    "log": lambda v: jnp.log(v["x"]),
    "reciprocal": lambda v: 1.0 / v["x"],
    "rsqrt": lambda v: lax.rsqrt(v["x"]),
    "mul": lambda v: v["x"] * v["y"],
    "softmax": lambda v: jax.nn.softmax(v["x"], axis=1),
    "argmax": lambda v: (v["x"] == jnp.max(v["x"], axis=1, keepdims=True)).astype(jnp.float32),
    "max": lambda v: jnp.max(v["x"], axis=1),
    "matmul": lambda v: v["x"] @ v["y"],
    "mlp-inference": _mlp,
    "lenet-inference": _lenet,
}

"""The cases in stock CrypTen 0.4.1, each by its public API, as its own examples and benchmarks use it.

Configuration is CrypTen's default (16 fractional bits, 64-bit ring, its iteration counts), except where the case
makes something public that CrypTen can use: `reciprocal` is told that its input is positive.

Where there is a choice, the one that favours CrypTen:
* inference runs under `crypten.no_grad()`;
* `gelu` is the tanh form: CrypTen's `erf`, which the exact form would need, is wrong by orders of magnitude;
* logistic regression uses `BCEWithLogitsLoss`, not a sigmoid and `BCELoss`: the backward pass saves a reciprocal;
* training updates by `crypten.optim.SGD`, not `Module.update_parameters`, whose default clips gradients in 40 rounds.

The value of the training loss is computed, as in CrypTen's examples: that is the losses' default. With
`skip_loss` ($ENCLAVE_PEERS_SKIP_LOSS=1) the loss stops at its probabilities (`skip_forward=True` of its losses).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import crypten
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.task import ELEMENTWISE, RATES

__all__ = ["Program", "program"]

Shared = Mapping[str, Any]
_CLASSES = 10


@dataclass(frozen=True, slots=True)
class Program:
    """`prepare`, outside the clock, makes what `compute` turns into shared outputs; both run at every rank alike."""

    prepare: Callable[[], Any]
    compute: Callable[[Any], Shared]


def program(kind: str, parameters: Mapping[str, int], inputs: Mapping[str, NDArray[Any]], skip_loss: bool) -> Program:
    """Shares the inputs from rank 0. All ranks have the plain inputs only so that no rank has to send them."""
    plain = {name: torch.from_numpy(np.asarray(value)).float() for name, value in inputs.items()}
    if kind in ("mlp-inference", "lenet-inference"):
        return _inference(_mlp if kind == "mlp-inference" else _lenet, plain)
    if kind == "mlp-train":
        plain["y"] = torch.nn.functional.one_hot(plain["y"].long(), _CLASSES).float()
        loss = crypten.nn.CrossEntropyLoss(skip_forward=skip_loss)
        return _training(_mlp, plain, loss, RATES[kind], 1)
    if kind in ("lr-step", "lr-breast-cancer"):
        plain["y"] = plain["y"].reshape(-1, 1)
        loss = crypten.nn.BCEWithLogitsLoss(skip_forward=skip_loss)
        return _training(_logistic, plain, loss, RATES[kind], parameters.get("steps", 1))
    shared = {name: crypten.cryptensor(value, src=0) for name, value in plain.items()}
    function = _FUNCTIONS[kind]

    def compute(values: Shared) -> Shared:
        with crypten.no_grad():
            return {"y": function(**values)}

    return Program(lambda: shared, compute)


def _gelu(x: Any) -> Any:
    return x * ((x + x.pow(3) * 0.044715) * math.sqrt(2 / math.pi)).tanh().add(1) * 0.5


def _reciprocal(x: Any) -> Any:
    with crypten.cfg.temp_override({"functions.reciprocal_all_pos": True}):
        return x.reciprocal()


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{name: lambda x, name=name: getattr(x, name)() for name in ELEMENTWISE},
    "gelu": _gelu,
    "reciprocal": _reciprocal,
    "rsqrt": lambda x: x.inv_sqrt(),
    "mul": lambda x, y: x * y,
    "softmax": lambda x: x.softmax(1),
    "argmax": lambda x: x.argmax(1, one_hot=True),
    "max": lambda x: x.max(1)[0],
    "matmul": lambda x, y: x.matmul(y),
}


def _linear(plain: Mapping[str, Any], suffix: str) -> Any:
    weight = plain["w" + suffix]
    layer = crypten.nn.Linear(*weight.shape)
    layer.set_parameter("weight", weight.t().contiguous())
    layer.set_parameter("bias", plain["b" + suffix].clone())
    return layer


def _convolution(plain: Mapping[str, Any], suffix: str) -> Any:
    weight = plain["w" + suffix]
    layer = crypten.nn.Conv2d(weight.shape[1], weight.shape[0], kernel_size=weight.shape[2])
    layer.set_parameter("weight", weight.clone())
    layer.set_parameter("bias", plain["b" + suffix].clone())
    return layer


def _mlp(plain: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    layers = {suffix: _linear(plain, suffix) for suffix in "123"}
    relu = crypten.nn.ReLU
    return crypten.nn.Sequential(layers["1"], relu(), layers["2"], relu(), layers["3"]), layers


def _logistic(plain: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    layer = _linear(plain, "")
    return crypten.nn.Sequential(layer), {"": layer}


def _lenet(plain: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    nn = crypten.nn
    layers = {**{suffix: _convolution(plain, suffix) for suffix in "12"}, **{s: _linear(plain, s) for s in "34"}}
    model = nn.Sequential(
        *(layers["1"], nn.ReLU(), nn.MaxPool2d(2), layers["2"], nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(axis=1), layers["3"], nn.ReLU(), layers["4"]),
    )
    return model, layers


def _inference(build: Callable[..., tuple[Any, dict[str, Any]]], plain: Mapping[str, Any]) -> Program:
    model, _ = build(plain)
    model.encrypt(src=0)
    model.eval()
    x = crypten.cryptensor(plain["x"], src=0)

    def compute(values: Any) -> Shared:
        with crypten.no_grad():
            return {"y": model(values)}

    return Program(lambda: x, compute)


def _training(
    build: Callable[..., tuple[Any, dict[str, Any]]], plain: Mapping[str, Any], loss: Any, rate: float, steps: int
) -> Program:
    x, y = (crypten.cryptensor(plain[name], src=0) for name in "xy")

    def prepare() -> Any:
        model, layers = build(plain)
        model.encrypt(src=0)
        model.train()
        return model, layers, crypten.optim.SGD(model.parameters(), lr=rate)

    def compute(state: Any) -> Shared:
        model, layers, optimizer = state
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        weights = {"w" + suffix: layer.weight.t() for suffix, layer in layers.items()}
        return {**weights, **{"b" + suffix: layer.bias for suffix, layer in layers.items()}}

    return Program(prepare, compute)

"""The cases on this project's engine: written once, run at parties, dealer and plan.

Models go through the code of the jobs: `enclave.workloads.network` for inference, `Descent` for training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.mpc.cases import ELEMENTWISE, Case, learning_rate
from benchmarks.mpc.inputs import Arrays
from enclave.engines.interface import Engine, Secret
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.session import Session
from enclave.engines.mpc.tape import Blank
from enclave.engines.mpc.tensor import RingTensor, encode
from enclave.messages import Architecture, Layer, TensorType, Training
from enclave.models import dense_architecture
from enclave.workloads.descent import Descent
from enclave.workloads.network import forward
from enclave.workloads.trainable import TrainableNetwork

__all__ = ["FRAC_BITS", "Program", "Words", "ring_inputs", "tensors"]

FRAC_BITS = 20
Tensors = Mapping[str, RingTensor]
Words = NDArray[np.uint64]
# The ranges of the inputs, which are public.
_POSITIVE, _EXPONENTS = (1 / 16, 64.0), (-8.0, 2.0)


@dataclass(frozen=True, slots=True)
class Input:
    """An input as ring elements in the clear: what is shared before the clock starts. `words` None: shape only."""

    shape: tuple[int, ...]
    frac_bits: int
    words: Words | None = None


def ring_inputs(case: Case, arrays: Arrays) -> dict[str, Input]:
    """The case's inputs as the engine takes them: labels as integers, rows as (rows, columns)."""
    found = {}
    for name, array in arrays.items():
        if name == "y" and case.kind == "mlp-train":
            found[name] = _integers(np.eye(10)[array.astype(np.int64)])
        elif name == "y" and case.kind.startswith("lr-"):
            found[name] = _integers(array[:, None])
        else:
            found[name] = Input(array.shape, FRAC_BITS, encode(array, FRAC_BITS))
    return found


def _integers(values: NDArray[Any]) -> Input:
    return Input(values.shape, 0, values.astype(np.int64).view(np.uint64))


def tensors(session: Session, inputs: Mapping[str, Input], shares: Mapping[str, Words] | None) -> dict[str, RingTensor]:
    """This rank's inputs; blanks where there are no shares."""
    return {
        name: RingTensor(
            session, one.shape, one.frac_bits, Blank(one.shape) if shares is None else shares[name].reshape(one.shape)
        )
        for name, one in inputs.items()
    }


class Program:
    """A case as a function of shares.

    Attributes:
        kept: inputs whose tensors, with what was opened for them, live from one repetition to the next.
    """

    def __init__(self, case: Case) -> None:
        self.kept: tuple[str, ...] = ()
        kind = case.kind
        if kind in ("mlp-train", "lr-step"):
            self.kept = ("x", "y")
        elif kind == "mlp-inference":
            self.kept = ("w1", "b1", "w2", "b2", "w3", "b3")
        elif kind == "lenet-inference":
            self.kept = ("w1", "b1", "w2", "b2", "w3", "b3", "w4", "b4")
        self._case = case
        self._body = _body(case)

    def run(self, engine: MpcEngine, inputs: Tensors) -> dict[str, RingTensor]:
        """One repetition; outputs by name. A truncation that is still to come is part of the result, but for a softmax:
        it ends in no product of shares, and what follows (a difference, a comparison) needs none."""
        found = self._body(engine, inputs)
        return found if self._case.kind == "softmax" else {n: engine.settled(v)[0] for n, v in found.items()}


Body = Callable[[MpcEngine, Tensors], dict[str, RingTensor]]


def _body(case: Case) -> Body:
    kind = case.kind
    if kind in ELEMENTWISE or kind in ("softmax", "argmax", "max", "matmul"):
        function = _SIMPLE[kind]
        return lambda engine, t: {"y": function(engine, t)}
    if kind == "mlp-inference":
        return _inference(dense_architecture(784, (128, 128), 10))
    if kind == "lenet-inference":
        return _inference(_lenet())
    if kind == "mlp-train":
        return _training(dense_architecture(784, (128, 128), 10), case)
    columns = 784 if kind == "lr-step" else 30
    return _training(dense_architecture(columns, (), 1), case)


def _maximum(engine: MpcEngine, x: RingTensor) -> RingTensor:
    rows, columns = x.shape
    pooled = engine.max_pool2d(
        engine.reshape(x, (1, 1, rows, columns)), kernel=(1, columns), stride=(1, 1), padding=(0, 0, 0, 0)
    )
    return engine.reshape(pooled, (rows,))


_SIMPLE: Mapping[str, Callable[[MpcEngine, Tensors], RingTensor]] = {
    "relu": lambda engine, t: engine.relu(t["x"]),
    "sigmoid": lambda engine, t: engine.sigmoid(t["x"]),
    "tanh": lambda engine, t: engine.tanh(t["x"]),
    "gelu": lambda engine, t: engine.gelu(t["x"]),
    "exp": lambda engine, t: engine.exp(t["x"], *_EXPONENTS),
    "log": lambda engine, t: engine.logarithm(t["x"], *_POSITIVE),
    "reciprocal": lambda engine, t: engine.reciprocal(t["x"], *_POSITIVE),
    "rsqrt": lambda engine, t: engine.inverse_sqrt(t["x"], *_POSITIVE),
    "mul": lambda engine, t: engine.mul(t["x"], t["y"]),
    "softmax": lambda engine, t: engine.softmax(t["x"], lazy=True),
    "argmax": lambda engine, t: engine.argmax_onehot(t["x"]),
    "max": lambda engine, t: _maximum(engine, t["x"]),
    "matmul": lambda engine, t: engine.matmul(t["x"], t["y"]),
}


def _named(architecture: Architecture, t: Tensors) -> dict[str, Secret]:
    """The inputs w1, b1, w2, ... (or w, b) under the architecture's names."""
    weights = [value for name, value in t.items() if name[0] in "wb"]
    return {tensor.name: cast(Secret, w) for tensor, w in zip(architecture.parameters, weights, strict=True)}


def _inference(architecture: Architecture) -> Body:
    def body(engine: MpcEngine, t: Tensors) -> dict[str, RingTensor]:
        logits = forward(cast(Engine, engine), architecture, _named(architecture, t), t["x"])
        return {"y": cast(RingTensor, logits)}

    return body


def _training(architecture: Architecture, case: Case) -> Body:
    """Steps of gradient descent as `enclave.workloads.train` takes them."""
    network, steps = TrainableNetwork(architecture), case.parameters.get("steps", 1)
    loss = "cross_entropy" if case.kind == "mlp-train" else "logistic"

    def body(shares: MpcEngine, t: Tensors) -> dict[str, RingTensor]:
        engine = cast(Engine, shares)
        training = Training(loss, 1, t["x"].shape[0], learning_rate(case.kind))
        start = network.flatten(engine, _named(architecture, t))
        descent = Descent(engine, network, training, start=start)
        for _ in range(steps):
            descent.step(t["x"], t["y"])
        weights = network.unflatten(engine, descent.result())
        names = [name for name in t if name[0] in "wb"]
        return {name: cast(RingTensor, value) for name, value in zip(names, weights.values(), strict=True)}

    return body


def _lenet() -> Architecture:
    """MiniONN's network for MNIST."""
    conv, pool = (1, 1, 0, 0, 0, 0, 1, 1, 1), (2, 2, 2, 2, 0, 0, 0, 0)
    layers = (
        Layer("conv2d", "conv1", ("input",), ("w1", "b1"), conv),
        Layer("relu", "relu1", ("conv1",)),
        Layer("max_pool2d", "pool1", ("relu1",), (), pool),
        Layer("conv2d", "conv2", ("pool1",), ("w2", "b2"), conv),
        Layer("relu", "relu2", ("conv2",)),
        Layer("max_pool2d", "pool2", ("relu2",), (), pool),
        Layer("flatten", "flatten", ("pool2",)),
        Layer("linear", "fc1", ("flatten",), ("w3", "b3")),
        Layer("relu", "relu3", ("fc1",)),
        Layer("linear", "fc2", ("relu3",), ("w4", "b4")),
    )
    shapes = {"w1": (16, 1, 5, 5), "b1": (16,), "w2": (16, 16, 5, 5), "b2": (16,)} | {
        "w3": (256, 100),
        "b3": (100,),
        "w4": (100, 10),
        "b4": (10,),
    }
    return Architecture((1, 28, 28), layers, tuple(TensorType(name, shape) for name, shape in shapes.items()))

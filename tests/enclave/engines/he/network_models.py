"""Polynomial networks with random weights, and a run of one at every rank."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from enclave.engines.he.engine import HeEngine
from enclave.engines.he.networks.forms import read_network
from enclave.engines.he.networks.plan import plan_network
from enclave.engines.he.networks.polynomial import NetworkRows, predict_network
from enclave.engines.interface import Permit
from enclave.models.builder import GraphBuilder
from enclave.models.model import Model


def square(builder: GraphBuilder, value: str) -> str:
    return builder.layer("mul", "square", [value, value])


def dense(widths: Sequence[int], seed: int = 0) -> Model:
    """linear, square, linear, square, ..., linear."""
    rng, builder, value = np.random.default_rng(seed), GraphBuilder((widths[0],)), "input"
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        value = square(builder, value) if i else value
        weight = rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)
        value = builder.linear(f"dense{i}", value, weight, rng.normal(size=outputs) * 0.1)
    return builder.build(value)


def quadratic(inputs: int, hidden: int, outputs: int, seed: int = 0) -> Model:
    """linear, a z^2 + b z + c, linear, with the polynomial spelled out in mul, mul, add, add."""
    rng, builder = np.random.default_rng(seed), GraphBuilder((inputs,))
    z = builder.linear("first", "input", rng.normal(size=(inputs, hidden)) / np.sqrt(inputs), rng.normal(size=hidden))
    second = builder.constant("mul", "a", square(builder, z), 0.125)
    first = builder.constant("mul", "b", z, 0.5)
    value = builder.constant("add", "c", builder.layer("add", "sum", [second, first]), 0.25)
    return builder.build(builder.linear("last", value, rng.normal(size=(hidden, outputs)), rng.normal(size=outputs)))


def convolutional(image: int = 8, channels: int = 4, kernel: int = 3, stride: int = 2, seed: int = 0) -> Model:
    """conv2d, square, flatten, linear, square, linear."""
    rng, builder = np.random.default_rng(seed), GraphBuilder((1, image, image))
    weight = builder.weight("conv.weight", rng.normal(size=(channels, 1, kernel, kernel)) / kernel)
    bias = builder.weight("conv.bias", rng.normal(size=channels) * 0.1)
    value = builder.layer("conv2d", "conv", ["input"], [weight, bias], [stride, stride, 0, 0, 0, 0, 1, 1, 1])
    value = builder.layer("flatten", "flat", [square(builder, value)])
    size = builder.shape(value)[0]
    value = builder.linear("hidden", value, rng.normal(size=(size, 8)) / np.sqrt(size), rng.normal(size=8) * 0.1)
    value = square(builder, value)
    return builder.build(builder.linear("last", value, rng.normal(size=(8, 10)), rng.normal(size=10)))


def power() -> Model:
    builder = GraphBuilder((3,))
    return builder.build(square(builder, square(builder, "input")))


def residual() -> Model:
    """A product of two different values, a skip from the input, a mean, and a broadcast."""
    rng, b = np.random.default_rng(0), GraphBuilder((4,))
    left, right = (b.linear(name, "input", rng.normal(size=(4, 3)), rng.normal(size=3)) for name in "ab")
    gate = b.linear("gate", "input", rng.normal(size=(4, 1)), None)
    value = b.layer("mul", "gated", [b.layer("mul", "both", [left, right]), gate])
    skip = b.linear("skip", "input", rng.normal(size=(4, 3)), None)
    joined = b.layer("concat", "joined", [value, skip, left], ints=[0])
    return b.build(b.linear("last", joined, rng.normal(size=(9, 2)), rng.normal(size=2)))


def predicted(run_he: Any, model: Model, rows: Sequence[np.ndarray], limit: float = 8.0) -> Any:
    """Runs a network over the rows of one or more owners; the result at the buyer is `ran.results[-1]`."""
    buyer = len(rows)

    def program(engine: HeEngine) -> Any:
        weights = model.weights if engine.rank == buyer else None
        plan = plan_network(read_network(model.architecture, weights))
        parts = [
            NetworkRows(rank, len(x), (lambda start, stop, x=x: x[start:stop]) if engine.rank == rank else None, limit)
            for rank, x in enumerate(rows)
        ]
        sealed = engine.run(predict_network(engine, plan, parts))
        return engine.open("predictions", sealed, buyer, Permit("job", ["predictions"]))

    return run_he(buyer + 1, program)

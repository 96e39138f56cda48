"""What `accuracy` states is what protocols do: never more, and not so much less that a plan would be useless."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.protocols import accuracy
from enclave.engines.mpc.tensor import RingTensor

FUNCTIONS = {
    "sigmoid": (lambda x: 1 / (1 + np.exp(-np.clip(x, -700, 700))), accuracy.SIGMOID),
    "tanh": (np.tanh, accuracy.TANH),
}


def grid(frac_bits: int) -> np.ndarray:
    """Densely where functions bend, and up to the edge of what a product may be."""
    edge = 2.0 ** (59 - 2 * frac_bits)
    far = np.concatenate([s * np.geomspace(10, edge, 40) for s in (1, -1)])
    x = np.concatenate([np.linspace(-10, 10, 6001), far])
    return np.asarray(np.rint(x * 2.0**frac_bits) / 2.0**frac_bits)


@pytest.mark.parametrize("frac_bits", [12, 16, 20])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, frac_bits: int, evaluate: Callable[..., np.ndarray]) -> None:
    function, stated = FUNCTIONS[name]
    x = grid(frac_bits)
    off = np.abs(evaluate(2, lambda engine, a: getattr(engine, name)(a), x, frac_bits=frac_bits) - function(x))
    assert off.max() <= stated.at(frac_bits) < 10 * off.max()


@pytest.mark.parametrize("columns", [2, 3, 10, 16, 20])
@pytest.mark.parametrize("frac_bits", [12, 20])
def test_softmax(columns: int, frac_bits: int, evaluate: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(columns)
    spread = np.repeat([0.0, 0.1, 1.0, 5.0, 50.0, 1e4], 100)[:, None]
    x = np.rint(rng.normal(size=(600, columns)) * spread * 2.0**frac_bits) / 2.0**frac_bits
    e = np.exp(x - x.max(axis=1, keepdims=True))
    off = np.abs(evaluate(2, MpcEngine.softmax, x, frac_bits=frac_bits) - e / e.sum(axis=1, keepdims=True))
    assert off.max() <= accuracy.softmax_accuracy(columns).at(frac_bits)


@pytest.mark.parametrize("frac_bits", [12, 20])
def test_a_product_and_a_relu_of_it(frac_bits: int, evaluate: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(4)
    x, y = (np.rint(rng.normal(size=(64, 64)) * 2.0**frac_bits) / 2.0**frac_bits for _ in range(2))
    y *= np.geomspace(2.0**-frac_bits, 1.0, 64)  # products about a unit are where a ReLU may err
    y = np.rint(y * 2.0**frac_bits) / 2.0**frac_bits

    def program(engine: MpcEngine, a: RingTensor, b: RingTensor) -> RingTensor:
        z = engine.matmul(a, b, lazy=True)
        return engine.concat([engine.relu(z), engine.settled(z)[0]], axis=0)

    found = evaluate(3, program, x, y, frac_bits=frac_bits)
    unit = accuracy.TRUNCATION.at(frac_bits)
    assert np.abs(found[64:] - x @ y).max() <= unit == 2.0**-frac_bits
    assert np.abs(found[:64] - np.maximum(x @ y, 0.0)).max() <= unit + accuracy.RELU.at(frac_bits)

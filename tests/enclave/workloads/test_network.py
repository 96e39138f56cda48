"""Every operator of the graph, on the plain engine, against torch and against the models' own float reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from enclave.engines.interface import Permit
from enclave.engines.plain import InsecurePlainEngine
from enclave.errors import BadModel
from enclave.messages import Architecture, Layer, TensorType
from enclave.models import Model, dense_architecture
from enclave.models.graph import OPERATORS
from enclave.models.reference import forward_float
from enclave.workloads.network import forward, without_final

RNG = np.random.default_rng(0)


def applied(architecture: Architecture, weights: dict[str, NDArray[np.float64]], x: NDArray[np.float64]) -> NDArray:
    engine = InsecurePlainEngine()
    shared = {name: engine.private(w, w.shape, 1) for name, w in weights.items()}
    found = forward(engine, architecture, shared, engine.private(x, x.shape, 0))
    opened = engine.open("y", found, 1, Permit("job", ["y"]))
    assert opened is not None
    return opened


def made(
    input_shape: tuple[int, ...], layers: list[Layer], shapes: dict[str, tuple[int, ...]]
) -> tuple[Architecture, dict[str, NDArray[np.float64]]]:
    architecture = Architecture(input_shape, tuple(layers), tuple(TensorType(n, s) for n, s in shapes.items()))
    return architecture, {name: RNG.normal(size=shape) for name, shape in shapes.items()}


CASES = {
    "linear": made((5,), [Layer("linear", "y", ("input",), ("w", "b"))], {"w": (5, 3), "b": (3,)}),
    "linear on the last axis": made((2, 5), [Layer("linear", "y", ("input",), ("w",))], {"w": (5, 3)}),
    "conv2d": made(
        (4, 7, 6),
        [Layer("conv2d", "y", ("input",), ("w", "b"), (2, 1, 1, 0, 2, 1, 1, 2, 2))],
        {"w": (6, 2, 3, 2), "b": (6,)},
    ),
    "max_pool2d": made((2, 5, 6), [Layer("max_pool2d", "y", ("input",), (), (2, 3, 2, 1, 1, 0, 0, 2))], {}),
    "avg_pool2d": made((2, 5, 6), [Layer("avg_pool2d", "y", ("input",), (), (2, 3, 2, 1, 1, 0, 0, 2, 1))], {}),
    "avg_pool2d of what is there": made(
        (2, 5, 6), [Layer("avg_pool2d", "y", ("input",), (), (2, 3, 2, 1, 1, 0, 0, 2, 0))], {}
    ),
    "relu": made((4,), [Layer("relu", "y", ("input",))], {}),
    "sigmoid": made((4,), [Layer("sigmoid", "y", ("input",))], {}),
    "tanh": made((4,), [Layer("tanh", "y", ("input",))], {}),
    "softmax": made((3, 4), [Layer("softmax", "y", ("input",))], {}),
    "flatten": made((2, 3, 2), [Layer("flatten", "y", ("input",))], {}),
    "reshape": made((2, 6), [Layer("reshape", "y", ("input",), (), (3, 4))], {}),
    "affine": made((3, 2, 2), [Layer("affine", "y", ("input",), ("s", "t"))], {"s": (3,), "t": (3,)}),
    "add a parameter": made((3, 2), [Layer("add", "y", ("input",), ("p",))], {"p": (2,)}),
    "mul two inputs": made((3, 2), [Layer("tanh", "t", ("input",)), Layer("mul", "y", ("input", "t"))], {}),
    "concat": made((3, 2), [Layer("tanh", "t", ("input",)), Layer("concat", "y", ("t", "input"), (), (1,))], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_means_what_the_reference_says(case: str) -> None:
    architecture, weights = CASES[case]
    x = RNG.normal(size=(3, *architecture.input_shape))
    found = applied(architecture, weights, x)
    np.testing.assert_allclose(found, forward_float(Model(architecture, weights), x), atol=1e-12)


def test_every_operator_of_the_graph_has_a_case() -> None:
    used = {layer.op for architecture, _ in CASES.values() for layer in architecture.layers}
    assert used == set(OPERATORS)


def test_a_small_image_network_equals_torch() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 10),
        torch.nn.Softmax(dim=1),
    ).double()
    layers = (
        Layer("conv2d", "c", ("input",), ("k", "kb"), (1, 1, 1, 1, 1, 1, 1, 1, 1)),
        Layer("relu", "r", ("c",)),
        Layer("max_pool2d", "m", ("r",), (), (2, 2, 2, 2, 0, 0, 0, 0)),
        Layer("flatten", "f", ("m",)),
        Layer("linear", "l", ("f",), ("w", "b")),
        Layer("softmax", "p", ("l",)),
    )
    values = [p.detach().numpy() for p in net.parameters()]
    weights = {"k": values[0], "kb": values[1], "w": values[2].T.copy(), "b": values[3]}
    architecture = Architecture((1, 8, 8), layers, tuple(TensorType(n, w.shape) for n, w in weights.items()))
    x = RNG.normal(size=(5, 1, 8, 8))
    expected = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(applied(architecture, weights, x), expected, atol=1e-12)


def test_an_unknown_operator_is_refused() -> None:
    architecture = Architecture((2,), (Layer("exp", "y", ("input",)),), ())
    with pytest.raises(BadModel, match="exp"):
        applied(architecture, {}, np.zeros((1, 2)))


def test_only_a_last_layer_on_the_one_before_it_is_left_out() -> None:
    base = dense_architecture(3, [], 2)
    ended = Architecture((3,), (*base.layers, Layer("softmax", "p", ("dense0",))), base.parameters)
    assert without_final(ended, ("softmax",)) == base
    assert without_final(ended, ("sigmoid",)) is ended
    assert without_final(base, ("sigmoid",)) is base
    alone = Architecture((3,), (Layer("sigmoid", "p", ("input",)),), ())
    assert without_final(alone, ("sigmoid",)) is alone
    skipping = (*base.layers, Layer("tanh", "t", ("dense0",)), Layer("sigmoid", "p", ("dense0",)))
    skipped = Architecture((3,), skipping, base.parameters)
    assert without_final(skipped, ("sigmoid",)) is skipped

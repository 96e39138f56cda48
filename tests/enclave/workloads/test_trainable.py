"""Gradients of chains of layers against torch's, in the clear and on shares, and what cannot be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from enclave.engines.interface import Permit
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Session
from enclave.engines.plain import InsecurePlainEngine
from enclave.errors import BadModel
from enclave.messages import Architecture, Layer, TensorType
from enclave.models import dense_architecture
from enclave.workloads.trainable import TrainableNetwork
from tests.enclave.workloads.ranks import at_every_rank

Array = NDArray[np.float64]
CONV = (1, 1, 0, 0, 0, 0, 1, 1, 1)
POOL = (2, 2, 2, 2, 0, 0, 0, 0)


def chain(shape: tuple[int, ...], layers: Sequence[tuple[Any, ...]], **weights: tuple[int, ...]) -> Architecture:
    """Layers (op, parameters, ints), each on the one before."""
    made, previous = [], "input"
    for i, (op, parameters, *ints) in enumerate(layers):
        made.append(Layer(op, f"l{i}", (previous,), tuple(parameters), tuple(*ints)))
        previous = f"l{i}"
    return Architecture(shape, tuple(made), tuple(TensorType(n, s) for n, s in weights.items()))


SMALL_LENET = chain(
    (1, 12, 12),
    [
        ("conv2d", ("w1", "b1"), CONV),
        ("relu", ()),
        ("max_pool2d", (), POOL),
        ("conv2d", ("w2", "b2"), CONV),
        ("relu", ()),
        ("max_pool2d", (), POOL),
        ("flatten", ()),
        ("linear", ("w3", "b3")),
        ("relu", ()),
        ("linear", ("w4", "b4")),
    ],
    w1=(3, 1, 3, 3),
    b1=(3,),
    w2=(4, 3, 2, 2),
    b2=(4,),
    w3=(16, 6),
    b3=(6,),
    w4=(6, 5),
    b4=(5,),
)
MEANS = chain(
    (2, 7, 6),
    [
        ("conv2d", ("w1", "b1"), (2, 1, 1, 0, 2, 1, 1, 2, 2)),
        ("tanh", ()),
        ("avg_pool2d", (), (2, 3, 1, 2, 1, 1, 0, 1, 0)),
        ("reshape", (), (2, 24)),
        ("flatten", ()),
        ("linear", ("w2",)),
        ("sigmoid", ()),
        ("linear", ("w3", "b3")),
    ],
    w1=(4, 1, 3, 2),
    b1=(4,),
    w2=(48, 5),
    w3=(5, 3),
    b3=(3,),
)
OVERLAPPING = chain(
    (2, 5, 5),
    [
        ("max_pool2d", (), (3, 3, 1, 1, 1, 1, 1, 1)),
        ("conv2d", ("w1",), (1, 1, 1, 1, 1, 1, 1, 1, 1)),
        ("max_pool2d", (), (3, 2, 1, 2, 0, 0, 0, 0)),
        ("flatten", ()),
        ("linear", ("w2", "b2")),
    ],
    w1=(3, 2, 3, 3),
    w2=(18, 2),
    b2=(2,),
)
NETWORKS = {"lenet": SMALL_LENET, "means": MEANS, "overlapping": OVERLAPPING, "mlp": dense_architecture(6, [5, 4], 3)}


def in_torch(architecture: Architecture, weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    f = torch.nn.functional
    for layer in architecture.layers:
        ws = [weights[name] for name in layer.parameters]
        if layer.op == "linear":
            x = x @ ws[0] + (ws[1] if len(ws) == 2 else 0.0)
        elif layer.op == "conv2d":
            sh, sw, top, left, bottom, right, dh, dw, groups = layer.ints
            padded = f.pad(x, (left, right, top, bottom))
            x = f.conv2d(padded, ws[0], *ws[1:], stride=(sh, sw), dilation=(dh, dw), groups=groups)
        elif layer.op == "max_pool2d":
            kh, kw, sh, sw, top, left, bottom, right = layer.ints
            x = f.max_pool2d(f.pad(x, (left, right, top, bottom), value=-1e9), (kh, kw), (sh, sw))
        elif layer.op == "avg_pool2d":
            kh, kw, sh, sw, top, left, bottom, right, counted = layer.ints
            assert not counted
            ones = f.pad(torch.ones_like(x), (left, right, top, bottom))
            total, count = (f.avg_pool2d(a, (kh, kw), (sh, sw)) for a in (f.pad(x, (left, right, top, bottom)), ones))
            x = total / count
        elif layer.op in ("flatten", "reshape"):
            x = x.reshape(len(x), *(layer.ints or (-1,)))
        else:
            x = getattr(torch, layer.op)(x)
    return x


def expected(architecture: Architecture, x: Array, delta: Array, seed: int) -> tuple[Array, Array, Array]:
    """Flat weights, outputs, and flat gradients of sum(outputs * delta)."""
    rng = np.random.default_rng(seed)
    weights = {t.name: torch.from_numpy(rng.normal(size=t.shape) / 2).requires_grad_() for t in architecture.parameters}
    y = in_torch(architecture, weights, torch.from_numpy(x))
    y.backward(torch.from_numpy(delta))
    flat, gradient = [], []
    for weight in weights.values():
        assert weight.grad is not None
        flat.append(weight.detach().numpy().reshape(-1))
        gradient.append(weight.grad.numpy().reshape(-1))
    return np.concatenate(flat), y.detach().numpy(), np.concatenate(gradient)


def descended(network: TrainableNetwork, engine: Any, flat: Any, x: Any, delta: Any) -> Any:
    """Outputs and gradients, flat, one after the other."""
    weights = network.unflatten(engine, flat)
    outputs, cache = network.forward(engine, weights, x)
    gradient = network.flatten(engine, network.backward(engine, weights, cache, delta))
    return engine.concat([engine.reshape(outputs, (int(np.prod(outputs.shape)),)), gradient], axis=0)


def example(name: str) -> tuple[Architecture, Array, Array]:
    architecture, rng = NETWORKS[name], np.random.default_rng(3)
    x = rng.normal(size=(4, *architecture.input_shape))
    return architecture, x, rng.normal(size=(4, TrainableNetwork(architecture).outputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_torch(name: str) -> None:
    architecture, x, delta = example(name)
    flat, y, gradient = expected(architecture, x, delta, seed=0)
    engine = InsecurePlainEngine()
    given = (engine.private(a, a.shape, 0) for a in (flat, x, delta))
    found = engine.open("y", descended(TrainableNetwork(architecture), engine, *given), 0, Permit("job", ["y"]))
    np.testing.assert_allclose(found, np.concatenate([y.reshape(-1), gradient]), atol=1e-10)


@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_on_shares_equal_torch(name: str, parties: int) -> None:
    architecture, x, delta = example(name)
    flat, y, gradient = expected(architecture, x, delta, seed=0)
    found = on_shares(parties, TrainableNetwork(architecture), flat, x, delta)
    tolerance = 2e-2 if name == "means" else 2e-4  # a sigmoid is good to 2.5e-4, and a sum over 48 inputs of it is not
    np.testing.assert_allclose(found, np.concatenate([y.reshape(-1), gradient]), atol=tolerance)


def on_shares(parties: int, network: TrainableNetwork, *inputs: Array) -> Array:
    def program(session: Session) -> Any:
        engine: Any = MpcEngine(session, 20)
        held = (k % parties for k in range(len(inputs)))
        given = [engine.private(a if engine.rank == k else None, a.shape, k) for k, a in zip(held, inputs, strict=True)]
        return engine.open("y", descended(network, engine, *given), 0, Permit("test", ["y"]))

    return np.asarray(at_every_rank(parties, program)[0])


def test_a_step_opens_weights_images_and_gradients_once() -> None:
    """Forward and backward together: a mask per value, not per product."""
    network = TrainableNetwork(SMALL_LENET)
    plan = Recorder(2)
    engine: Any = MpcEngine(plan, 20)
    given = [engine.private(None, s, 0) for s in ((network.size,), (4, 1, 12, 12), (4, 5))]
    descended(network, engine, *given)
    masks = [
        item[2] // 8 for _, record in plan.records if record[0] == "open" for item in record[1:] if item[0] == "mask"
    ]
    images = [4 * 144, 4 * 3 * 25, 4 * 16, 4 * 6]  # what enters the layers with weights
    deltas = [4 * 5, 4 * 6, 4 * 4 * 16, 4 * 3 * 100]
    assert sorted(masks) == sorted([27, 48, 96, 30, *images, *deltas])


def test_relu_comes_after_the_maximum() -> None:
    steps = [step.op for step in TrainableNetwork(SMALL_LENET).steps]
    assert steps[:6] == ["conv2d", "max_pool2d", "relu", "conv2d", "max_pool2d", "relu"]


def test_start_weights_have_the_fan_of_their_layer() -> None:
    network = TrainableNetwork(SMALL_LENET)
    flat, start, found = network.initial(1), 0, {}
    for name, shape in network.parameters:
        found[name] = flat[start : start + int(np.prod(shape))]
        start += int(np.prod(shape))
    for name, fan in (("w1", 9), ("w2", 12), ("w3", 16), ("w4", 6 + 5)):
        edge = np.sqrt(6.0 / fan)
        assert 0.7 * edge < np.abs(found[name]).max() <= edge
    assert not any(found[name].any() for name in ("b1", "b2", "b3", "b4"))
    assert network.decayed().sum() == 27 + 48 + 96 + 30


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (chain((4,), [("relu", ()), ("linear", ("w",))], w=(4, 2)), "l0: relu cannot be trained here"),
        (chain((4,), [("linear", ("w",)), ("relu", ())], w=(4, 2)), "ends in a linear layer"),
        (
            chain((4,), [("linear", ("w",)), ("relu", ()), ("tanh", ()), ("linear", ("v",))], w=(4, 2), v=(2, 1)),
            "l2: tanh",
        ),
        (chain((4,), [("affine", ("s", "t")), ("linear", ("w",))], s=(4,), t=(4,), w=(4, 2)), "affine cannot be"),
        (chain((2, 4), [("linear", ("w",))], w=(4, 2)), "rows with one axis"),
        (chain((4,), [("linear", ("w",)), ("relu", ()), ("linear", ("w",))], w=(4, 4)), "one layer only"),
    ],
)
def test_what_cannot_be_trained_is_named(architecture: Architecture, message: str) -> None:
    with pytest.raises(BadModel, match=message):
        TrainableNetwork(architecture)


def test_a_branch_is_no_chain() -> None:
    layers = (
        Layer("linear", "a", ("input",), ("w",)),
        Layer("add", "b", ("a", "input")),
        Layer("linear", "c", ("b",), ("v",)),
    )
    forked = Architecture((3,), layers, (TensorType("w", (3, 3)), TensorType("v", (3, 1))))
    with pytest.raises(BadModel, match="expected input 'a'"):
        TrainableNetwork(forked)

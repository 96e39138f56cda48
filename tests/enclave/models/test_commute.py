"""A ReLU moves behind a maximum only where that changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.errors import BadModel
from enclave.messages import Architecture, Layer
from enclave.models import Model, forward_float, lenet_architecture, shapes
from enclave.models.commute import pooled_first

POOL = (3, 2, 2, 1, 1, 1, 1, 0)


def architecture(*layers: Layer) -> Architecture:
    return Architecture((2, 6, 5), layers, ())


RELU, MAX = Layer("relu", "r", ("input",)), Layer("max_pool2d", "p", ("r",), (), POOL)


def test_the_maximum_comes_first_and_nothing_changes() -> None:
    before = architecture(RELU, MAX, Layer("flatten", "f", ("p",)))
    after = pooled_first(before)
    assert [(layer.op, layer.name, layer.inputs) for layer in after.layers] == [
        ("max_pool2d", "r", ("input",)),
        ("relu", "p", ("r",)),
        ("flatten", "f", ("p",)),
    ]
    assert pooled_first(after) == after
    x = np.random.default_rng(0).normal(size=(50, 2, 6, 5)) - 1.0
    np.testing.assert_array_equal(forward_float(Model(before, {}), x), forward_float(Model(after, {}), x))


def test_a_relu_that_something_else_reads_stays() -> None:
    read_twice = architecture(
        RELU,
        MAX,
        Layer("flatten", "a", ("r",)),
        Layer("flatten", "b", ("p",)),
        Layer("concat", "c", ("a", "b"), (), (0,)),
    )
    assert pooled_first(read_twice) == read_twice
    mean = architecture(RELU, Layer("avg_pool2d", "p", ("r",), (), (*POOL, 1)))
    assert pooled_first(mean) == mean


def test_lenet_of_mnist_is_the_one_of_the_literature() -> None:
    lenet = lenet_architecture((1, 28, 28), 10)
    assert shapes(lenet)["flat"] == (256,) and shapes(lenet)["dense1"] == (10,)
    assert sum(int(np.prod(t.shape)) for t in lenet.parameters) == 16 * 26 + 16 * 401 + 257 * 100 + 101 * 10
    after = pooled_first(lenet)
    assert [shapes(after)[name] for name in ("act0", "pool0")] == [(16, 12, 12)] * 2
    with pytest.raises(BadModel, match=r"at least 16 by 16, found \(1, 15, 28\)"):
        lenet_architecture((1, 15, 28), 10)

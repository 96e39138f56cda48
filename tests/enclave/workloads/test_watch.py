"""How surely a training that left the range is noticed, and that a healthy one is left in peace."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.engines.interface import Permit
from enclave.engines.plain import InsecurePlainEngine
from enclave.messages import Training
from enclave.models import dense_architecture
from enclave.workloads.descent import Descent, Layout
from enclave.workloads.trainable import TrainableNetwork
from enclave.workloads.watch import Watch, watch_limit

PERMIT = Permit("job", ["steady"])
EDGE = 2.0 ** (63 - 41)  # of a gradient with 41 fractional bits


def is_calm(steps: list[list[NDArray[np.float64]]], largest: float = 100.0) -> bool:
    """What the watch says of steps of values."""
    engine = InsecurePlainEngine()
    watch = Watch(engine, 20, len(steps), largest)
    for values in steps:
        watch.see(*(engine.private(value, value.shape, 0) for value in values))
        watch.take(engine.settled(*watch.noted))
    found = engine.open("calm", watch.calm(), 0, Permit("job", ["calm"]))
    assert found is not None
    return bool(found[0])


def test_a_healthy_training_is_calm() -> None:
    rng = np.random.default_rng(0)
    steps = [[rng.normal(size=(128, 10)) * 10, rng.normal(size=2000) * 20] for _ in range(300)]
    assert is_calm(steps)


def test_one_wrapped_number_is_missed_as_often_as_stated() -> None:
    rng = np.random.default_rng(1)
    stated = watch_limit(20, 100.0) / EDGE
    trials = 600
    missed = sum(is_calm([[np.concatenate([rng.normal(size=30), rng.uniform(-EDGE, EDGE, 1)])]]) for _ in range(trials))
    assert stated == 1 / 8 and abs(missed / trials - stated) < 5 * np.sqrt(stated / trials)


def test_numbers_that_wrap_all_over_are_noticed() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        assert not is_calm([[rng.normal(size=50)], [rng.uniform(-EDGE, EDGE, 50)], [rng.uniform(-EDGE, EDGE, 50)]])


@pytest.mark.parametrize(("largest", "bits"), [(0.5, 19), (2.0**15, 19), (2.0**16, 20), (2.0**17, 21), (2.0**21, 21)])
def test_large_numbers_that_were_declared_have_a_larger_limit(largest: float, bits: int) -> None:
    assert watch_limit(20, largest) == 2.0**bits


@pytest.mark.parametrize(("value", "found"), [(0.0, 1), (2000.0, 1), (-2000.0, 1), (2049.0, 0), (-3000.0, 0), (5e5, 0)])
def test_a_weight_beyond_half_of_its_room_is_found(value: float, found: int) -> None:
    engine = InsecurePlainEngine()
    training = Training("logistic", 1, 128, 0.125)
    assert Layout.of(training, 20).weight_bits == 50  # hence a room of 4096
    network = TrainableNetwork(dense_architecture(3, [], 1))
    weights = np.array([0.5, value, -0.25, 0.0])
    descent = Descent(engine, network, training, start=engine.private(weights, weights.shape, 0))
    for _ in range(3):
        descent.inspect()
    steady = engine.open("steady", descent.steady(engine.public(np.ones(1, np.int64), integer=True)), 0, PERMIT)
    assert steady is not None and int(steady[0]) == found

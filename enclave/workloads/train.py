"""Train a model on the rows of several owners, and of the buyer if it has some.

    owners, buyer:  encoded rows and targets, shuffled once by a public order, secret-shared in batches
    all:            mini-batch gradient descent with momentum by a fixed public schedule
    result:         the weights, still shared; metrics over all training rows

The steps are those of `descent`.

Batches are the same in every epoch: what is opened under a mask for a row is opened once, whatever the number of
epochs. For that the secrets of all rows stay in memory: up to 24 bytes a value at every party.

A training that left the fixed-point range (`watch`) yields marks in the place of all its outputs: the buyer then
learns that, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclave.engines.interface import AnyArray, Engine, FloatArray, Secret
from enclave.errors import BadSpec
from enclave.messages import JobSpec, Training
from enclave.metrics import flagged, truth
from enclave.workloads.blocks import Segment, batches
from enclave.workloads.descent import Descent
from enclave.workloads.evaluate import score
from enclave.workloads.inputs import Inputs
from enclave.workloads.public_random import public_permutation
from enclave.workloads.specification import class_count, first_gradient, row_holders
from enclave.workloads.standardise import Standardiser
from enclave.workloads.trainable import TrainableNetwork
from enclave.workloads.watch import Watch, weight_limit

__all__ = ["train"]


def train(engine: Engine, spec: JobSpec, inputs: Inputs) -> dict[str, Secret]:
    """The outputs of a training by name, as secrets; "model" holds all weights, flat, for rows in column units."""
    if spec.training is None:
        raise BadSpec("a training job needs a training section")
    network = TrainableNetwork(spec.architecture)
    standardiser = Standardiser(engine, spec, inputs) if spec.encoding.standardise else None
    data = _Batches(engine, spec, inputs, standardiser)
    steps = spec.training.epochs * sum(segment.count for segment in data.segments)
    largest = first_gradient(spec)
    watch = Watch(engine, spec.frac_bits, steps, largest)
    descent = Descent(engine, network, spec.training, watch, largest=largest)
    _run_schedule(engine, spec.training, data, descent)
    with engine.stage("range"):
        result = descent.result()
        calm = descent.steady(watch.calm())
    weights = network.unflatten(engine, result)
    found: dict[str, Secret] = {}
    if set(spec.outputs) - {"model"}:
        with engine.stage("metrics"):
            found = score(engine, spec, inputs, weights, standardiser)
            found = {name: flagged(engine, value, calm) for name, value in found.items()}
    if standardiser is not None:
        first = network.first_linear
        assert first is not None and first.weight is not None and first.bias is not None  # check_spec
        folded = standardiser.fold(engine, weights[first.weight], weights[first.bias])
        weights = {**weights, first.weight: folded[0], first.bias: folded[1]}
    found["model"] = flagged(engine, network.flatten(engine, weights), calm, mark=-2.0 * weight_limit(spec.frac_bits))
    return found


def _run_schedule(engine: Engine, training: Training, data: _Batches, descent: Descent) -> None:
    """All epochs. The first step stands outside `repeat`, and so does the first epoch: constants become shares in
    one, masks of rows are opened in the other, so that both have other steps than what follows."""
    last = min(training.average_epochs, training.epochs - 1)
    averaged = training.average_epochs * sum(segment.count for segment in data.segments)
    if training.average_epochs > last:
        descent.average(averaged)
    with engine.stage("epoch 1"):
        started = False
        for k, segment in enumerate(data.segments):
            if not started:
                descent.step(*data.get(k, 0))
            done = 0 if started else 1
            started = True
            for i in engine.repeat(segment.count - done):
                descent.step(*data.get(k, done + i))
        descent.inspect()
    _run_epochs(engine, range(2, training.epochs - last + 1), data, descent)
    if last:
        descent.average(averaged)
    _run_epochs(engine, range(training.epochs - last + 1, training.epochs + 1), data, descent)


def _run_epochs(engine: Engine, numbers: range, data: _Batches, descent: Descent) -> None:
    """Epochs of equal steps."""
    for i in engine.repeat(len(numbers)):
        with engine.stage(f"epoch {numbers[i]}"):
            for k, segment in enumerate(data.segments):
                for index in engine.repeat(segment.count):
                    descent.step(*data.get(k, index))
            descent.inspect()


class _Batches:
    """The secrets of every batch, made when first asked for and kept."""

    def __init__(self, engine: Engine, spec: JobSpec, inputs: Inputs, standardiser: Standardiser | None) -> None:
        assert spec.training is not None
        self._engine, self._standardiser = engine, standardiser
        self._row, self._classes = tuple(spec.architecture.input_shape), class_count(spec)
        self._ranks = [rank for rank, _ in row_holders(spec)]
        self.segments: Sequence[Segment] = batches([n for _, n in row_holders(spec)], spec.training.batch_rows)
        self._local: list[tuple[FloatArray, AnyArray] | None] = []
        for rank, count in row_holders(spec):
            rows = inputs.of(rank, engine.rank)
            if rows is None:
                self._local.append(None)
                continue
            order = public_permutation(spec.training.shuffle_seed, f"rows of rank {rank}", count)
            features, targets = rows.features(0, count), rows.targets(0, count)
            prepared = features if standardiser is None else standardiser.prepare(features)
            self._local.append((prepared[order], self._encoded(targets)[order]))
        self._made: dict[tuple[int, int], tuple[Secret, Secret]] = {}

    def _encoded(self, targets: AnyArray) -> AnyArray:
        if self._classes is None:
            return targets.astype(np.float64).reshape(-1, 1)
        return truth(targets, self._classes).reshape(len(targets), -1)

    def get(self, segment: int, index: int) -> tuple[Secret, Secret]:
        """Batch `index` of a segment, x (rows, *input shape), numbers, and y (rows, outputs).

        A mask belongs to a tensor: rows take the shape of their first layer here, once, and not in every step.
        """
        if (segment, index) not in self._made:
            self._made[segment, index] = self._make(self.segments[segment], index)
        return self._made[segment, index]

    def _make(self, segment: Segment, index: int) -> tuple[Secret, Secret]:
        engine = self._engine
        width = 1 if self._classes in (None, 2) else self._classes
        assert width is not None
        xs: list[Secret] = []
        ys: list[Secret] = []
        for k, rank in enumerate(self._ranks):
            size, local = segment.sizes[k], self._local[k]
            start = segment.starts[k] + index * size
            if size:
                values = (
                    (None, None) if local is None else (local[0][start : start + size], local[1][start : start + size])
                )
                shape = (size, *self._row)
                xs.append(engine.private(None if values[0] is None else values[0].reshape(shape), shape, rank))
                ys.append(engine.private(values[1], (size, width), rank, integer=self._classes is not None))
        x = xs[0] if len(xs) == 1 else engine.concat(xs, axis=0)
        y = ys[0] if len(ys) == 1 else engine.concat(ys, axis=0)
        return (x if self._standardiser is None else self._standardiser.apply(engine, x)), y

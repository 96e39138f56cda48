"""Train a model on the rows of several owners, and of the buyer if it has some.

    owners, buyer:  encoded rows and targets, shuffled once by a public order, secret-shared in batches
    all:            mini-batch gradient descent with momentum by a fixed public schedule
    result:         the weights, still shared; metrics over all training rows

The loss is the mean over a batch of (output - target)^2 / 2, of the logistic loss or of the cross-entropy, plus
l2 / 2 times the squared weights (not the biases). Momentum is v = m v + gradient, w = w - rate v.

Batches are the same in every epoch: what is opened under a mask for a row is opened once, whatever the number of
epochs. For that the secrets of all rows stay in memory: up to 24 bytes a value at every party.

A training that left the fixed-point range (`watch`) yields marks in the place of all its outputs: the buyer then
learns that, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from enclave.engines.interface import AnyArray, Engine, FloatArray, Secret
from enclave.errors import BadSpec
from enclave.messages import JobSpec, Training
from enclave.metrics import flagged, truth
from enclave.workloads.blocks import Segment, batches
from enclave.workloads.dense import DenseNetwork
from enclave.workloads.evaluate import score
from enclave.workloads.inputs import Inputs
from enclave.workloads.public_random import public_permutation
from enclave.workloads.specification import class_count, row_holders
from enclave.workloads.standardise import Standardiser
from enclave.workloads.watch import Watch, weight_limit

__all__ = ["train"]


@dataclass(frozen=True, slots=True)
class _Batch:
    x: Secret
    y: Secret


def train(engine: Engine, spec: JobSpec, inputs: Inputs) -> dict[str, Secret]:
    """The outputs of a training by name, as secrets; "model" holds all weights, flat, for rows in column units."""
    if spec.training is None:
        raise BadSpec("a training job needs a training section")
    network = DenseNetwork(spec.architecture)
    standardiser = Standardiser(engine, spec, inputs) if spec.encoding.standardise else None
    data = _Batches(engine, spec, inputs, standardiser)
    steps = spec.training.epochs * sum(segment.count for segment in data.segments)
    descent = _Descent(engine, network, spec.training, Watch(engine, spec.frac_bits, steps))
    _run_schedule(engine, spec.training, data, descent)
    with engine.stage("range"):
        calm = descent.watch.calm()
    weights = network.unflatten(engine, descent.weights)
    found: dict[str, Secret] = {}
    if set(spec.outputs) - {"model"}:
        with engine.stage("metrics"):
            found = score(engine, spec, inputs, weights, standardiser)
            found = {name: flagged(engine, value, calm) for name, value in found.items()}
    if standardiser is not None:
        first = network.layers[0]
        assert first.bias is not None  # check_spec
        folded = standardiser.fold(engine, weights[first.weight], weights[first.bias])
        weights = {**weights, first.weight: folded[0], first.bias: folded[1]}
    found["model"] = flagged(engine, network.flatten(engine, weights), calm, mark=-2.0 * weight_limit(spec.frac_bits))
    return found


def _run_schedule(engine: Engine, training: Training, data: _Batches, descent: _Descent) -> None:
    """All epochs. The first step stands outside `repeat`, and so does the first epoch: constants become shares in
    one, masks of rows are opened in the other, so that both have other steps than what follows."""
    with engine.stage("epoch 1"):
        started = False
        for k, segment in enumerate(data.segments):
            if not started:
                descent.step(data.get(k, 0))
            done = 0 if started else 1
            started = True
            for i in engine.repeat(segment.count - done):
                descent.step(data.get(k, done + i))
    for epoch in engine.repeat(training.epochs - 1):
        with engine.stage(f"epoch {epoch + 2}"):
            for k, segment in enumerate(data.segments):
                for i in engine.repeat(segment.count):
                    descent.step(data.get(k, i))


class _Batches:
    """The secrets of every batch, made when first asked for and kept."""

    def __init__(self, engine: Engine, spec: JobSpec, inputs: Inputs, standardiser: Standardiser | None) -> None:
        assert spec.training is not None
        self._engine, self._standardiser = engine, standardiser
        self._width, self._classes = spec.encoding.width, class_count(spec)
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
        self._made: dict[tuple[int, int], _Batch] = {}

    def _encoded(self, targets: AnyArray) -> FloatArray:
        if self._classes is None:
            return targets.astype(np.float64).reshape(-1, 1)
        return truth(targets, self._classes).astype(np.float64).reshape(len(targets), -1)

    def get(self, segment: int, index: int) -> _Batch:
        """Batch `index` of a segment, x (rows, width) and y (rows, outputs), numbers."""
        if (segment, index) not in self._made:
            self._made[segment, index] = self._make(self.segments[segment], index)
        return self._made[segment, index]

    def _make(self, segment: Segment, index: int) -> _Batch:
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
                xs.append(engine.private(values[0], (size, self._width), rank))
                ys.append(engine.private(values[1], (size, width), rank))
        x = xs[0] if len(xs) == 1 else engine.concat(xs, axis=0)
        y = ys[0] if len(ys) == 1 else engine.concat(ys, axis=0)
        return _Batch(x if self._standardiser is None else self._standardiser.apply(engine, x), y)


class _Descent:
    """Weights and velocity, flat; the velocity in units of a gradient summed over a full batch.

    A mean would lose log2(batch) of the few bits that a small gradient has; so the sum is kept, and what divides
    it is folded into the learning rate: one truncation of the step, and none of the gradient.
    """

    def __init__(self, engine: Engine, network: DenseNetwork, training: Training, watch: Watch) -> None:
        self._engine, self._network, self._training = engine, network, training
        self.watch = watch
        self._decay = network.decayed()
        self._velocity: Secret | None = None
        # Where only shapes are known the values are not made: a plan must not cost what its model costs.
        blank = engine.rank is None
        self.weights: Secret = (
            engine.zeros((network.size,)) if blank else engine.public(network.initial(training.init_seed))
        )

    def step(self, batch: _Batch) -> None:
        """One batch: forward, backward, update."""
        engine, network = self._engine, self._network
        weights = network.unflatten(engine, self.weights)
        outputs, cache = network.forward(engine, weights, batch.x)
        delta = engine.sub(self._predicted(outputs), batch.y)
        gradient = network.flatten(engine, network.backward(engine, weights, cache, delta))
        self.watch.see(outputs, gradient)
        self._update(gradient, batch.x.shape[0])

    def _predicted(self, outputs: Secret) -> Secret:
        """What the loss's derivative subtracts the target from."""
        if self._training.loss == "squared":
            return outputs
        return self._engine.sigmoid(outputs) if self._training.loss == "logistic" else self._engine.softmax(outputs)

    def _update(self, gradient: Secret, rows: int) -> None:
        engine, training = self._engine, self._training
        full = training.batch_rows
        if training.momentum == 0:
            terms = [(gradient, np.array(training.learning_rate / rows))]
            if training.l2:
                terms.append((self.weights, training.learning_rate * training.l2 * self._decay))
            self.weights = engine.sub(self.weights, self._scaled_sum(terms))
            return
        terms = []
        if rows != full:
            terms.append((gradient, np.array(full / rows)))
        if self._velocity is not None:
            terms.append((self._velocity, np.array(training.momentum)))
        if training.l2:
            terms.append((self.weights, full * training.l2 * self._decay))
        velocity = self._scaled_sum(terms) if terms else None
        if rows == full:
            velocity = gradient if velocity is None else engine.add(gradient, velocity)
        assert velocity is not None
        self._velocity = velocity
        self.weights = engine.sub(self.weights, engine.scale(velocity, training.learning_rate / full))

    def _scaled_sum(self, terms: Sequence[tuple[Secret, FloatArray]]) -> Secret:
        """The sum of secret times public factor over flat terms, truncated together in one round if they can be."""
        engine, size = self._engine, self._network.size
        largest = [float(factor.max()) for _, factor in terms]
        if len(terms) == 1 or min(largest) < max(largest) / 128:
            # Factors that go together share their scale: one far below the others would lose its own digits.
            parts = [engine.scale(x, factor) for x, factor in terms]
            return reduce(engine.add, parts)
        factors = np.concatenate([np.broadcast_to(factor, (size,)) for _, factor in terms])
        scaled = engine.scale(engine.concat([x for x, _ in terms], axis=0), factors)
        total = engine.rows(scaled, 0, size)
        for i in range(1, len(terms)):
            total = engine.add(total, engine.rows(scaled, i * size, (i + 1) * size))
        return total

"""The plaintext twin: the same algorithm and schedule in float64 by torch, with nothing of our engines or gradients.

Only what is public constant is shared with the encrypted job: the order of rows, the composition of batches, the
initial weights. Gradients are torch's own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.jobs.job import Job, Outcome, figures, specification

if TYPE_CHECKING:
    from enclave.messages import JobSpec
    from enclave.models import Model

__all__ = ["run_plain"]


def run_plain(job: Job) -> Outcome:
    """Runs the job in the clear on all rows together."""
    rows = job.rows()
    features = [source.features(0, source.rows) for source in rows.values()]
    targets = [source.targets(0, source.rows) for source in rows.values()]
    if job.model is not None:
        started_s = time.perf_counter()
        found = figures(job.model, np.concatenate(features), np.concatenate(targets), auc="auc" in job.metrics)
        return Outcome(found, time.perf_counter() - started_s)
    spec = specification(job)
    started_s = time.perf_counter()
    model = _standardised(spec, features, targets) if spec.encoding.standardise else _descend(spec, features, targets)
    seconds = time.perf_counter() - started_s
    return Outcome(job.score(model), seconds, model)


def _standardised(spec: JobSpec, features: list[Any], targets: list[Any]) -> Model:
    """Trains on rows of mean 0 and variance 1, and returns the model for rows as they came."""
    from enclave.models import Model

    pooled = np.concatenate(features)
    mean, deviation = pooled.mean(axis=0), pooled.std(axis=0)
    deviation[deviation == 0] = 1.0
    weights = dict(_descend(spec, [(x - mean) / deviation for x in features], targets).weights)
    first, bias = spec.architecture.layers[0].parameters
    weights[first] = weights[first] / deviation[:, None]
    weights[bias] = weights[bias] - mean @ weights[first]
    return Model(spec.architecture, weights)


def _descend(spec: JobSpec, features: list[Any], targets: list[Any]) -> Model:
    import torch

    from enclave.models import Model
    from enclave.workloads.blocks import batches
    from enclave.workloads.public_random import public_permutation
    from enclave.workloads.trainable import TrainableNetwork

    training = spec.training
    assert training is not None
    torch.set_num_threads(1)  # as every party of an encrypted job
    network = TrainableNetwork(spec.architecture)
    parameters = _parameters(network, training.init_seed)
    for rank, (x, y) in enumerate(zip(features, targets, strict=True)):
        order = public_permutation(training.shuffle_seed, f"rows of rank {rank}", len(x))
        features[rank], targets[rank] = torch.from_numpy(x[order]), torch.from_numpy(y[order])
    decayed = {step.weight for step in network.weighted}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in parameters.items() if name in decayed], "weight_decay": training.l2},
        {"params": [p for name, p in parameters.items() if name not in decayed]},
    ]
    optimiser = torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum)
    segments = batches([len(x) for x in features], training.batch_rows)
    means, count = {name: torch.zeros_like(value) for name, value in parameters.items()}, 0
    for epoch in range(training.epochs):
        for segment in segments:
            for index in range(segment.count):
                at = [start + index * size for start, size in zip(segment.starts, segment.sizes, strict=True)]
                parts = [slice(start, start + size) for start, size in zip(at, segment.sizes, strict=True)]
                x = torch.cat([rows[part] for rows, part in zip(features, parts, strict=True)])
                x = x.reshape(len(x), *spec.architecture.input_shape)
                y = torch.cat([rows[part] for rows, part in zip(targets, parts, strict=True)])
                if epoch >= training.epochs - training.average_epochs:
                    count += 1
                    for name, value in parameters.items():
                        means[name] += value.detach()
                optimiser.zero_grad()
                loss: Any = _loss(training.loss, _forward(network, parameters, x), y)
                loss.backward()
                optimiser.step()
    found = {name: means[name] / count if count else value.detach() for name, value in parameters.items()}
    return Model(spec.architecture, {name: value.numpy() for name, value in found.items()})


def _parameters(network: Any, seed: int) -> dict[str, Any]:
    import torch

    flat, found, start = network.initial(seed), dict[str, Any](), 0
    for name, shape in network.parameters:
        size = int(np.prod(shape))
        found[name] = torch.tensor(flat[start : start + size].reshape(shape), requires_grad=True)
        start += size
    return found


def _forward(network: Any, parameters: dict[str, Any], x: Any) -> Any:
    for step in network.steps:
        weight = None if step.weight is None else parameters[step.weight]
        x = _step(step, x, weight, None if step.bias is None else parameters[step.bias])
    return x


def _step(step: Any, x: Any, weight: Any, bias: Any) -> Any:
    """One operator as torch has it; `enclave.models.graph` says what its `ints` mean."""
    import torch
    from torch.nn import functional

    if step.op == "linear":
        return x @ weight if bias is None else x @ weight + bias
    if step.op == "conv2d":
        stride, (top, left, bottom, right) = step.ints[:2], step.ints[2:6]
        padded = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(padded, weight, bias, stride, 0, step.ints[6:8], step.ints[8])
    if step.op in ("max_pool2d", "avg_pool2d"):
        kernel, stride, (top, left, bottom, right) = step.ints[:2], step.ints[2:4], step.ints[4:8]
        if step.op == "max_pool2d":
            padded = functional.pad(x, (left, right, top, bottom), value=-torch.inf)
            return functional.max_pool2d(padded, kernel, stride)
        return functional.avg_pool2d(x, kernel, stride, (top, left), count_include_pad=bool(step.ints[8]))
    activations = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
    return activations[step.op](x) if step.op in activations else x.reshape(x.shape[0], *step.outputs)


def _loss(kind: str, outputs: Any, y: Any) -> Any:
    from torch.nn import functional

    if kind == "squared":
        return functional.mse_loss(outputs[:, 0], y) / 2
    if kind == "logistic":
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], y.to(outputs.dtype))
    return functional.cross_entropy(outputs, y)

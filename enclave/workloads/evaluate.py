"""Evaluate a model of the buyer's on rows of the owners'.

buyer:   weights, secret-shared                   owners: encoded rows, secret-shared block by block
all:     outputs of the network on each block; counts and squares are added up, scores are kept
result:  the metrics, still shared
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from enclave.engines.interface import AnyArray, Engine, Secret
from enclave.messages import Architecture, JobSpec, Layer
from enclave.metrics import (
    ClassTally,
    auc,
    brier,
    decision,
    error_limit,
    flagged,
    r2_parts,
    squared_error,
    total_squares,
    truth,
)
from enclave.models.graph import INPUT, parameter_shapes
from enclave.workloads.blocks import over_blocks
from enclave.workloads.inputs import Inputs
from enclave.workloads.network import forward, without_final
from enclave.workloads.specification import class_count, row_holders
from enclave.workloads.standardise import Standardiser, target_moments

__all__ = ["evaluate", "score"]


def evaluate(engine: Engine, spec: JobSpec, inputs: Inputs) -> dict[str, Secret]:
    """The outputs of an evaluation by name, as secrets."""
    buyer = len(spec.datasets)
    declared = parameter_shapes(spec.architecture)
    weights = {name: engine.private(inputs.weight(name), shape, buyer) for name, shape in declared.items()}
    standardiser = Standardiser(engine, spec, inputs) if spec.encoding.standardise else None
    return score(engine, spec, inputs, weights, standardiser)


def score(
    engine: Engine, spec: JobSpec, inputs: Inputs, weights: Mapping[str, Secret], standardiser: Standardiser | None
) -> dict[str, Secret]:
    """Metrics of a network with the given weights over all rows of the job."""
    return _Scoring(engine, spec, inputs, weights, standardiser).run()


class _Scoring:
    def __init__(
        self,
        engine: Engine,
        spec: JobSpec,
        inputs: Inputs,
        weights: Mapping[str, Secret],
        standardiser: Standardiser | None,
    ) -> None:
        self._engine, self._spec, self._inputs = engine, spec, inputs
        self._classes = class_count(spec)
        self._wanted = frozenset(spec.outputs)
        self._standardiser = standardiser
        # No metric of classes changes by a final sigmoid or softmax, and scores are what comes before it; predictions
        # of rows and errors of numbers apply it afterwards.
        self._final: Layer | None = None
        self._architecture = spec.architecture
        if self._classes is not None or "mean_score" in self._wanted:
            self._architecture = without_final(spec.architecture, ("sigmoid", "softmax"))
            if self._architecture is not spec.architecture:
                self._final = spec.architecture.layers[-1]
        self._weights = dict(weights)
        self._scaled = standardiser is not None and not standardiser.alone
        if self._scaled:
            self._fold()
        self._tally: ClassTally | None = None
        if self._classes is not None and self._wanted & {"accuracy", "confusion"}:
            self._tally = ClassTally(engine, self._classes, confusion="confusion" in self._wanted)
        self._squares, self._brier, self._scores = (engine.zeros((1,)) for _ in range(3))
        self._outside = engine.zeros((1,), integer=True)

    def _fold(self) -> None:
        """Standardises by changed weights of the first layer, where that is possible: rows then stay as entered."""
        readers = [layer for layer in self._architecture.layers if INPUT in layer.inputs]
        first = readers[0]
        if len(readers) > 1 or first.op != "linear" or len(self._architecture.input_shape) != 1:
            return
        assert self._standardiser is not None
        bias = self._weights[first.parameters[1]] if len(first.parameters) == 2 else None
        names = (f"{first.name}:weight", f"{first.name}:bias")  # no declared name holds a colon
        folded = self._standardiser.fold(self._engine, self._weights[first.parameters[0]], bias)
        self._weights.update(zip(names, folded, strict=True))
        changed = Layer(first.op, first.name, first.inputs, names)
        layers = tuple(changed if layer is first else layer for layer in self._architecture.layers)
        self._architecture = Architecture(self._architecture.input_shape, layers, self._architecture.parameters)
        self._scaled = False

    def run(self) -> dict[str, Secret]:
        spec, engine = self._spec, self._engine
        holders = row_holders(spec)
        kept = over_blocks(engine, spec, holders, self._block)
        found: dict[str, Secret] = {}
        if "accuracy" in self._wanted and self._tally is not None:
            found["accuracy"] = self._tally.correct(spec.rows)
        if "confusion" in self._wanted and self._tally is not None:
            found["confusion"] = self._tally.confusion(spec.rows)
        if "auc" in self._wanted:
            with engine.stage("auc"):
                found["auc"] = auc(engine, self._joined(kept, 0), self._all_bits(holders))
        if "predictions" in self._wanted:
            found["predictions"] = self._joined(kept, -1)
        if self._wanted & {"rmse", "r2"}:
            with engine.stage("errors"):
                found |= self._errors(holders)
        found |= {"brier": self._brier, "mean_score": self._scores}
        return {name: found[name] for name in spec.outputs if name in found}

    def _block(self, rank: int, start: int, stop: int) -> tuple[Secret, ...]:
        """Counts one block; keeps its decisions for an AUC and its predictions, in this order."""
        engine = self._engine
        outputs = forward(engine, self._architecture, self._weights, self._features(rank, start, stop))
        kept: list[Secret] = []
        with engine.stage("metrics"):
            if self._tally is not None:
                self._tally.add(outputs, self._truth(rank, start, stop))
            if self._wanted & {"rmse", "r2"}:
                limit = error_limit(self._spec.frac_bits, self._spec.rows)
                squares, outside = squared_error(engine, self._finished(outputs), self._truth(rank, start, stop), limit)
                self._squares = engine.add(self._squares, squares)
                self._outside = engine.add(self._outside, outside)
            if "brier" in self._wanted:
                part = brier(engine, decision(engine, outputs), self._truth(rank, start, stop))
                self._brier = engine.add(self._brier, part)
            if "mean_score" in self._wanted:
                # Settled first: the sum over all rows has the room of a value, not that of a product.
                (scores,) = engine.settled(decision(engine, outputs))
                self._scores = engine.add(self._scores, engine.sum(scores, axis=0, keepdims=True))
            if "auc" in self._wanted:
                kept.append(decision(engine, outputs))
            if "predictions" in self._wanted:
                kept.append(self._predictions(outputs))
        return tuple(kept)

    def _features(self, rank: int, start: int, stop: int) -> Secret:
        rows = self._inputs.of(rank, self._engine.rank)
        width, shape = self._spec.encoding.width, (stop - start, *self._spec.architecture.input_shape)
        value: AnyArray | None = None
        if rows is not None:
            value = rows.features(start, stop)
            value = value if self._standardiser is None else self._standardiser.prepare(value)
        if not self._scaled:
            return self._engine.private(None if value is None else value.reshape(shape), shape, rank)
        assert self._standardiser is not None
        x = self._engine.private(value, (stop - start, width), rank)
        return self._engine.reshape(self._standardiser.apply(self._engine, x), shape)

    def _truth(self, rank: int, start: int, stop: int) -> Secret:
        rows, classes = self._inputs.of(rank, self._engine.rank), self._classes
        value = None if rows is None else rows.targets(start, stop)
        if classes is None:
            return self._engine.private(value, (stop - start,), rank)
        shape = (stop - start,) if classes == 2 else (stop - start, classes)
        return self._engine.private(None if value is None else truth(value, classes), shape, rank, integer=True)

    def _finished(self, outputs: Secret) -> Secret:
        if self._final is None:
            return outputs
        return self._engine.sigmoid(outputs) if self._final.op == "sigmoid" else self._engine.softmax(outputs)

    def _predictions(self, outputs: Secret) -> Secret:
        engine, outputs = self._engine, self._finished(outputs)
        return engine.reshape(outputs, (outputs.shape[0],)) if outputs.shape[1:] == (1,) else outputs

    def _joined(self, kept: Sequence[tuple[Secret, ...]], index: int) -> Secret:
        return self._engine.concat([block[index] for block in kept], axis=0)

    def _all_bits(self, holders: Sequence[tuple[int, int]]) -> Secret:
        return self._engine.concat([self._truth(rank, 0, rows) for rank, rows in holders], axis=0)

    def _errors(self, holders: Sequence[tuple[int, int]]) -> dict[str, Secret]:
        """The sum of squares and the parts of R2, unless an error left the range: then only that is said."""
        engine = self._engine
        fine = engine.ge_zero(engine.neg(self._outside))
        found = {}
        if "rmse" in self._wanted:
            found["rmse"] = flagged(engine, self._squares, fine)
        if "r2" in self._wanted:
            found["r2"] = flagged(engine, self._r2(holders, engine.mul(self._squares, fine)), fine)
        return found

    def _r2(self, holders: Sequence[tuple[int, int]], error: Secret) -> Secret:
        engine, spec = self._engine, self._spec
        parts: tuple[list[Secret], ...] = ([], [], [])
        for rank, count in holders:
            rows = self._inputs.of(rank, engine.rank)
            values: tuple[float | None, ...] = (None, None, None)
            if rows is not None:
                mean, squares = target_moments(rows, spec.block_rows)
                values = (mean, mean * (count / spec.rows), squares)
            for part, value in zip(parts, values, strict=True):
                part.append(engine.private(None if value is None else np.array([value]), (1,), rank))
        means, shares, own = (engine.concat(part, axis=0) for part in parts)
        total = total_squares(engine, [count for _, count in holders], means, shares, own)
        return r2_parts(engine, error, total, min(60, 62 - spec.frac_bits + spec.rows.bit_length()))

"""Schedules: every row once, equal shapes, and steps that do not change from one repetition to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.engines.plain import InsecurePlainEngine
from enclave.messages import JobSpec, Training
from enclave.models import dense_architecture
from enclave.workloads.blocks import batches
from tests.enclave.workloads.made_jobs import ArrayRows, classes, holders, job, number, result


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(1, 300))
def test_batches_use_every_row_once(rows: list[int], batch_rows: int) -> None:
    used: list[set[int]] = [set() for _ in rows]
    sizes = []
    for segment in batches(rows, batch_rows):
        for i in range(segment.count):
            sizes.append(segment.rows)
            for k, size in enumerate(segment.sizes):
                own = set(range(segment.starts[k] + i * size, segment.starts[k] + (i + 1) * size))
                assert len(own) == size and not own & used[k]
                used[k] |= own
    assert [len(u) for u in used] == rows
    assert [max(u) + 1 for u in used] == rows
    assert sizes[:-1] == [batch_rows] * (len(sizes) - 1) and sizes[-1] < batch_rows + 8
    assert sizes[-1] >= min(8, batch_rows, sum(rows))  # a last batch of few rows would show them in the model


def test_batches_are_in_proportion_and_few_kinds() -> None:
    segments = batches([303, 294, 123, 200], 32)
    assert segments[0].sizes == (11, 10, 4, 7) and segments[0].count == 27
    assert len(segments) == 3
    assert len(batches([1, 1, 100_000], 64)) <= 3


SECRET = type(InsecurePlainEngine().zeros(()))


class Tracer(InsecurePlainEngine):
    """Notes every call with its shapes, and of products whether an operand was used in one before: an engine opens
    a mask at the first use. Raises when two iterations of one `repeat` differ: a plan records only one."""

    def __init__(self, parties: int) -> None:
        super().__init__(parties=parties)
        self.notes: list[Any] = []
        self.used: dict[int, Any] = {}
        self.repeated = 0
        for name in (
            "mul",
            "matmul",
            "scale",
            "ge_zero",
            "relu_with_gate",
            "gated",
            "sigmoid",
            "softmax",
            "argmax_onehot",
        ):
            setattr(self, name, self.noted(name, getattr(self, name)))

    def noted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            secrets = [a for a in args if isinstance(a, SECRET)]
            fresh = [id(a) not in self.used for a in secrets]
            if name in ("mul", "matmul"):
                self.used.update({id(a): a for a in secrets})  # kept alive, so that no id comes twice
            self.notes.append((name, [(a.shape, a.is_integer) for a in secrets], fresh, sorted(options.items())))
            return method(*args, **options)

        return call

    def repeat(self, count: int) -> Iterator[int]:
        expected: list[Any] | None = None
        for i in range(count):
            start = len(self.notes)
            yield i
            body = self.notes[start:]
            assert expected is None or body == expected, f"iteration {i} of {count} is not like the first"
            expected, self.repeated = body, self.repeated + (i > 0)

    def stage(self, name: str) -> AbstractContextManager[None]:
        self.notes.append(("stage",))
        return super().stage(name)


def traced(spec: JobSpec, x: np.ndarray, y: np.ndarray, weights: dict[str, np.ndarray] | None = None) -> Tracer:
    tracer = Tracer(len(spec.compute_parties))
    result(spec, holders(spec, x, y), weights, tracer)
    assert tracer.repeated > 0
    return tracer


RNG = np.random.default_rng(0)
X = RNG.normal(size=(230, 3))
BITS = (X.sum(axis=1) > 0).astype(np.int64)


@pytest.mark.parametrize("owners", [(230,), (7, 103, 120), (100, 130)])
@pytest.mark.parametrize("standardise", [True, False])
def test_blocks_of_an_evaluation_repeat_exactly(owners: tuple[int, ...], standardise: bool) -> None:
    weights = {"dense0.weight": np.ones((3, 1)), "dense0.bias": np.zeros(1)}
    spec = job(
        X,
        classes(2),
        dense_architecture(3, [], 1),
        ("auc", "confusion"),
        owners=owners,
        standardise=standardise,
        block_rows=10,
    )
    traced(spec, X, BITS, weights)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("owners", [(230,), (31, 99, 40)])
@pytest.mark.parametrize("batch_rows", [16, 23, 300])
def test_steps_of_a_training_repeat_exactly(momentum: float, owners: tuple[int, ...], batch_rows: int) -> None:
    training = Training("logistic", 3, batch_rows, 0.1, momentum, 1e-3)
    spec = job(
        X,
        classes(2),
        dense_architecture(3, [4], 1),
        ("model", "accuracy"),
        owners=owners,
        buyer_rows=230 - sum(owners),
        standardise=True,
        training=training,
        block_rows=10,
    )
    traced(spec, X, BITS)


def test_steps_do_not_depend_on_the_data() -> None:
    training = Training("squared", 2, 50, 0.01, 0.9)
    spec = job(
        X, number(), dense_architecture(3, [4], 1), ("model", "r2", "rmse"), owners=(130, 100), training=training
    )
    notes = [traced(spec, X * f, RNG.normal(size=230)).notes for f in (1.0, 0.5)]
    assert notes[0] == notes[1]


def test_training_reads_its_rows_once() -> None:
    """Secrets of a batch are made once and used in every epoch, so that its mask is opened once."""
    made: list[tuple[int, ...]] = []

    class Counting(InsecurePlainEngine):
        def private(self, value: Any, shape: Any, holder: int, *, integer: bool = False) -> Any:
            made.append(tuple(shape))
            return super().private(value, shape, holder, integer=integer)

    training = Training("logistic", 5, 46, 0.1)
    spec = job(X, classes(2), dense_architecture(3, [], 1), ("model",), training=training)
    result(spec, {0: ArrayRows(X, BITS)}, None, Counting())
    assert made.count((46, 3)) == 5  # 230 rows, five epochs

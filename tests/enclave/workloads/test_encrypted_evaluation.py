"""Evaluations under homomorphic encryption without a dealer, against float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine
from enclave.engines.he.linear.encodings import Encodings
from enclave.engines.interface import Permit
from enclave.errors import BadModel, BadSpec, PolicyRefused
from enclave.messages import Architecture, JobSpec, Layer, TensorType
from enclave.models import dense_architecture
from enclave.workloads import check_spec
from enclave.workloads.encrypted import evaluation
from tests.enclave.workloads.encrypted_jobs import encrypted_job, run_job
from tests.enclave.workloads.made_jobs import ArrayRows, classes, number

RNG = np.random.default_rng(4)
X = RNG.normal(size=(500, 5)) * [1.0, 10.0, 0.1, 300.0, 2.0] + [0.0, 3.0, 0.0, -50.0, 1.0]
SCALES = X.std(axis=0)


def made(outputs: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return RNG.normal(size=(5, outputs)) / SCALES[:, None], RNG.normal(size=outputs)


def named(architecture: Architecture, *values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {tensor.name: value for tensor, value in zip(architecture.parameters, values, strict=True)}


def with_final(architecture: Architecture, op: str) -> Architecture:
    last = Layer(op, "final", (architecture.layers[-1].name,))
    return Architecture(architecture.input_shape, (*architecture.layers, last), architecture.parameters)


@pytest.mark.parametrize("owners", [(500,), (100, 399, 1)])
@pytest.mark.parametrize("final", [None, "sigmoid", "tanh"])
def test_predictions_are_those_of_float64(owners: tuple[int, ...], final: str | None) -> None:
    w, b = made(1)
    linear = dense_architecture(5, [], 1)
    architecture = linear if final is None else with_final(linear, final)
    spec = encrypted_job(X, None, architecture, ["predictions"], owners=owners)
    found = run_job(spec, X, np.zeros(500), named(linear, w, b)).result.predictions
    z = (X @ w + b)[:, 0]
    expected = {None: z, "sigmoid": 1 / (1 + np.exp(-z)), "tanh": np.tanh(z)}[final]
    assert found is not None and found.shape == (500,)
    assert np.abs(found - expected).max() < 2e-5


@pytest.mark.parametrize("final", [None, "softmax", "sigmoid"])
def test_several_outputs(final: str | None) -> None:
    w, b = made(3)
    linear = dense_architecture(5, [], 3)
    architecture = linear if final is None else with_final(linear, final)
    spec = encrypted_job(X, None, architecture, ["predictions"])
    found = run_job(spec, X, np.zeros(500), named(linear, w, b)).result.predictions
    z = X @ w + b
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    expected = {None: z, "softmax": powers / powers.sum(axis=1, keepdims=True), "sigmoid": 1 / (1 + np.exp(-z))}
    assert found is not None and np.abs(found - expected[final]).max() < 2e-5


def test_of_a_softmax_only_differences_of_logits_leave() -> None:
    linear = dense_architecture(5, [], 3)
    spec = encrypted_job(X, None, with_final(linear, "softmax"), ["predictions"])
    w, b = made(3)
    shift = RNG.normal(size=(5, 1))
    runs = [run_job(spec, X, np.zeros(500), named(linear, w + s, b)) for s in (0 * shift, shift)]
    one, other = (ran.result.predictions for ran in runs)
    assert one is not None and other is not None and np.abs(one - other).max() < 2e-5


@pytest.mark.parametrize("owners", [(500,), (100, 399, 1)])
def test_errors_and_means_of_a_linear_model(owners: tuple[int, ...]) -> None:
    w, b = made(1)
    y = (X @ w + b)[:, 0] + 0.3 * RNG.normal(size=500)
    low, high = float(y.min()) - 1, float(y.max()) + 1
    target = number(low, high, shift=2.0, scale=3.0)
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, target, linear, ["rmse", "mean_score"], owners=owners)
    scaled = (y - 2.0) / 3.0
    fitted = named(linear, w / 3.0, (b - 2.0) / 3.0)
    ran = run_job(spec, X, scaled, fitted)
    expected = np.sqrt(np.mean(((X @ w + b)[:, 0] - y) ** 2))
    assert ran.result.rmse == pytest.approx(expected, rel=1e-6)
    assert ran.result.mean_score == pytest.approx(np.mean(X @ w + b), abs=1e-6)


def test_a_long_sum_is_cut_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_STEP_PRODUCTS", 49 * 4096)
    x = np.tile(X, (30, 1))
    w, b = made(1)
    y = (x @ w + b)[:, 0] + np.arange(len(x)) / len(x)
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(x, number(float(y.min()) - 1, float(y.max()) + 1), linear, ["rmse"], owners=(10_000, 5000))
    ran = run_job(spec, x, y, named(linear, w, b))
    assert ran.result.rmse == pytest.approx(np.sqrt(np.mean((np.arange(len(x)) / len(x)) ** 2)), rel=1e-6)
    labels = [[item[0] for item in record[1:]] for _, record in ran.records]
    assert labels == [["he:at work"], ["he:rmse", "he:public key"], ["release:rmse"]]


def test_a_perfect_fit_has_a_tiny_error_and_never_a_negative_one() -> None:
    w, b = made(1)
    y = (X @ w + b)[:, 0]
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, number(float(y.min()) - 1, float(y.max()) + 1), linear, ["rmse"])
    found = run_job(spec, X, y, named(linear, w, b)).result.rmse
    assert found is not None and 0 <= found < 1e-3


def test_a_single_owner_standardises_its_own_rows() -> None:
    w, b = RNG.normal(size=(5, 1)), RNG.normal(size=1)
    linear = dense_architecture(5, [], 1)
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    y = (z @ w + b)[:, 0] + 0.1
    target = number(float(y.min()) - 1, float(y.max()) + 1)
    spec = encrypted_job(X, target, linear, ["predictions", "rmse", "mean_score"], standardise=True)
    found = run_job(spec, X, y, named(linear, w, b)).result
    assert found.predictions is not None and np.abs(found.predictions - (z @ w + b)[:, 0]).max() < 2e-5
    assert found.rmse == pytest.approx(0.1, rel=1e-6)
    assert found.mean_score == pytest.approx(float(np.mean(z @ w + b)), abs=1e-6)


def test_convolutions_and_pools_fold() -> None:
    x = RNG.normal(size=(40, 36))
    layers = (
        Layer("conv2d", "conv", ("input",), ("k", "kb"), (1, 1, 0, 0, 0, 0, 1, 1, 1)),
        Layer("avg_pool2d", "pool", ("conv",), (), (2, 2, 2, 2, 0, 0, 0, 0, 1)),
        Layer("flatten", "flat", ("pool",)),
        Layer("linear", "last", ("flat",), ("w", "b")),
    )
    shapes = {"k": (3, 1, 3, 3), "kb": (3,), "w": (12, 2), "b": (2,)}
    architecture = Architecture((1, 6, 6), layers, tuple(TensorType(n, s) for n, s in shapes.items()))
    weights = {name: RNG.normal(size=shape) for name, shape in shapes.items()}
    spec = encrypted_job(x, None, architecture, ["predictions"])
    found = run_job(spec, x, np.zeros(40), weights).result.predictions
    images = x.reshape(40, 6, 6)
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    conv = np.einsum("nijab,oab->noij", windows, weights["k"][:, 0]) + weights["kb"][:, None, None]
    pooled = conv.reshape(40, 3, 2, 2, 2, 2).mean(axis=(3, 5)).reshape(40, 12)
    assert found is not None and np.abs(found - (pooled @ weights["w"] + weights["b"])).max() < 5e-5


def test_zero_columns_and_a_model_of_zeros() -> None:
    x = X.copy()
    x[:, 1] = 0.0
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(x, None, linear, ["predictions"])
    found = run_job(spec, x, np.zeros(500), named(linear, np.zeros((5, 1)), np.zeros(1))).result.predictions
    assert found is not None and np.abs(found).max() < 1e-6


@pytest.mark.parametrize("op", ["relu", "sigmoid"])
def test_a_layer_between_is_named(op: str) -> None:
    spec = encrypted_job(X, None, dense_architecture(5, [4], 1, op), ["predictions"])
    with pytest.raises(BadModel, match=f"layer {spec.architecture.layers[1].name}: .* found {op}") as caught:
        check_spec(spec)
    assert "hybrid or mpc would do" in str(caught.value.hint)


def test_an_error_after_an_activation_is_refused() -> None:
    architecture = with_final(dense_architecture(5, [], 1), "sigmoid")
    with pytest.raises(BadModel, match=r"layer final: .* rmse of models that end linearly"):
        check_spec(encrypted_job(X, number(), architecture, ["rmse"]))


def test_what_needs_comparisons_is_refused() -> None:
    spec = encrypted_job(X, classes(2), dense_architecture(5, [], 1), ["auc"])
    with pytest.raises(BadSpec, match="auc needs"):
        check_spec(spec)


def test_rows_of_several_owners_are_not_standardised_together() -> None:
    spec = encrypted_job(X, None, dense_architecture(5, [], 1), ["predictions"], owners=(250, 250), standardise=True)
    with pytest.raises(BadSpec, match="standardised together"):
        check_spec(spec)


@pytest.mark.parametrize(
    ("columns", "outputs", "rows", "output", "refusal"),
    [
        (5, 1, 1 << 38, "predictions", "at most 2147483648 rows"),
        (1 << 10, 1 << 11, 10, "predictions", "at most 1048576 weights"),
        (5000, 1, 10, "rmse", "at most 4096 columns"),
    ],
)
def test_a_job_too_large_to_plan_is_refused_at_once(
    columns: int, outputs: int, rows: int, output: str, refusal: str
) -> None:
    """A specification comes from a buyer: its plan must not take a node's memory or time."""
    x = np.zeros((1, columns))
    spec = encrypted_job(x, number(), dense_architecture(columns, [], outputs), [output])
    spec = replace(spec, datasets=(replace(spec.datasets[0], rows=rows),))
    with pytest.raises(BadSpec, match=refusal):
        evaluation.check(spec)


def test_nothing_leaves_without_a_permit() -> None:
    spec = encrypted_job(X, None, dense_architecture(5, [], 1), ["predictions"])
    with pytest.raises(PolicyRefused):
        run_job(spec, X, np.zeros(500), named(spec.architecture, *made(1)), Permit(spec.job_id, ["rmse"]))


def test_rounds_and_bytes() -> None:
    """All of 500 rows lie in one block with a stride of 8: one ciphertext goes and one comes."""

    def rounds(spec: JobSpec) -> list[list[tuple[str, int]]]:
        ran = run_job(spec, X, np.zeros(500), named(linear, *made(1)))
        return [[(label, size) for label, _, size, _, _ in record[1:]] for _, record in ran.records]

    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, number(-500, 500), linear, ["predictions"])
    assert rounds(spec) == [
        [("he:weights", 117760), ("he:public key", 117760)],
        [("release:predictions", 37824)],
    ]
    assert rounds(replace(spec, outputs=("rmse",))) == [
        [("he:rmse", 161792), ("he:public key", 161792)],
        [("release:rmse", 65544)],
    ]


def test_encoded_rows_serve_the_next_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    original = ArrayRows.features

    def counted(self: ArrayRows, start: int, stop: int) -> NDArray[np.float64]:
        reads.append(stop - start)
        return original(self, start, stop)

    monkeypatch.setattr(ArrayRows, "features", counted)
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, None, linear, ["predictions"])

    def predicted(spec: JobSpec, w: NDArray[np.float64], b: NDArray[np.float64]) -> int:
        """How many rows were read for it."""
        reads.clear()
        ran = run_job(
            spec,
            X,
            np.zeros(500),
            named(linear, w, b),
            engine=lambda session, bits: HeEngine(session, bits, encodings=Encodings(0, tmp_path), workers=2),
        )
        assert ran.result.predictions is not None
        assert np.abs(ran.result.predictions - (X @ w + b)[:, 0]).max() < 2e-5
        return sum(reads)

    assert [predicted(spec, *made(1)) for _ in range(3)] == [500, 0, 0]
    assert predicted(replace(spec, frac_bits=22), *made(1)) == 500
    changed = replace(spec, datasets=(replace(spec.datasets[0], version=bytes([1]) * 32),))
    assert predicted(changed, *made(1)) == 500
    assert len(list(tmp_path.iterdir())) == 1, "the rows of the old version are gone"


def test_what_hides_the_rows_is_stated() -> None:
    linear = dense_architecture(5, [], 1)
    spec = encrypted_job(X, number(-500, 500), linear, ["predictions", "rmse"])
    ran = run_job(spec, X, np.zeros(500), named(linear, *made(1)))
    for engine in ran.engines:
        assert [statement.label for statement in engine.statements] == ["scores of rows", "sums over rows"]
        assert all(statement.bits >= 40 for statement in engine.statements)

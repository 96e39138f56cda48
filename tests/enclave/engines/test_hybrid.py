"""Products of owners' rows with a buyer's weights under encryption, inside sessions of shares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits

from enclave.channel.memory import memory_network
from enclave.engines.hybrid import HybridEngine, engine_for
from enclave.engines.interface import Permit
from enclave.engines.mpc.protocols.arithmetic import Conv2d
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Item, Session
from enclave.errors import BadInput
from enclave.messages import Architecture, JobSpec, Layer, TensorType
from enclave.models import dense_architecture
from enclave.models.lenet import lenet_architecture
from enclave.workloads import Inputs, Result, finish, release, row_holders, run
from tests.enclave.workloads.made_jobs import ArrayRows, NamedWeights, classes, holders, job, result
from tests.enclave.workloads.ranks import at_every_rank

Matrix = NDArray[np.float64]


def _product(
    parties: int, rows: Sequence[tuple[int, Matrix]], weights: Matrix, buyer: int, multiply: Callable[..., Any]
) -> NDArray[np.int64]:
    """The words, with 40 fractional bits, of multiply(engine, rows, weights): rows by their holders, stacked."""

    def program(session: Session) -> Any:
        engine = HybridEngine(session, 20, always=True)
        parts = [engine.private(x if session.rank == holder else None, x.shape, holder) for holder, x in rows]
        x = parts[0] if len(parts) == 1 else engine.concat(parts, 0)
        w = engine.private(weights if session.rank == buyer else None, weights.shape, buyer)
        y = multiply(engine, x, w)
        assert y.pending and y.frac_bits == 40
        return y.share

    shares = at_every_rank(parties, program)[:parties]
    return cast("NDArray[np.int64]", np.sum(shares, axis=0, dtype=np.uint64).view(np.int64))


def _fixed(x: Matrix) -> NDArray[Any]:
    return np.rint(x * 2.0**20).astype(np.int64).astype(object)


def _close(found: NDArray[np.int64], expected: NDArray[Any]) -> None:
    """Half a unit of 2^-20 at most, against Python's integers; and noise where there is some."""
    error = (found.astype(object) - expected).astype(np.float64)
    assert np.abs(error).max() < 2**19
    assert np.abs(error).max() > 0


RNG = np.random.default_rng(7)
LAYOUTS = {
    "one owner": (2, ((0, 50),), 1),
    "two owners": (3, ((0, 50), (1, 33)), 2),
    "three owners": (4, ((2, 5), (0, 50), (1, 33)), 3),
    "the buyer's own rows too": (3, ((0, 50), (2, 20), (1, 7)), 2),
    "the first rank's weights": (2, ((1, 40),), 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1), (30, 1), (7, 5)])
def test_products_are_those_of_integers(layout: str, shape: tuple[int, int]) -> None:
    parties, parts, buyer = LAYOUTS[layout]
    rows = [(holder, RNG.normal(0, 100, (n, shape[0]))) for holder, n in parts]
    weights = RNG.normal(0, 10, shape)
    found = _product(parties, rows, weights, buyer, lambda e, x, w: e.matmul(x, w, lazy=True))
    _close(found, _fixed(np.concatenate([x for _, x in rows])) @ _fixed(weights))


@pytest.mark.parametrize("parties", [2, 3])
def test_shared_weights(parties: int) -> None:
    """Each rank's share of them goes encrypted: its own rows with its own share need nothing."""
    x, w = [(rank, RNG.normal(size=(20, 6))) for rank in range(parties - 1)], RNG.normal(size=(6, 2))
    found = _product(parties, x, w, parties - 1, lambda e, x, w: e.matmul(x, e.add(w, np.zeros((6, 2))), lazy=True))
    _close(found, _fixed(np.concatenate([part for _, part in x])) @ _fixed(w))


def test_transposed_weights() -> None:
    x, w = RNG.normal(size=(20, 6)), RNG.normal(size=(4, 6))
    found = _product(2, [(0, x)], w, 1, lambda e, x, w: e.matmul(x, w, transpose_y=True, lazy=True))
    _close(found, _fixed(x) @ _fixed(w).T)


@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (0, 0, 0, 0)), ((2, 1), (1, 0, 2, 1))])
def test_convolutions_are_those_of_integers(stride: tuple[int, int], padding: tuple[int, int, int, int]) -> None:
    images, kernels = RNG.normal(size=(5, 2, 8, 7)), RNG.normal(size=(3, 2, 3, 3))
    conv = {"stride": stride, "padding": padding, "dilation": (1, 1), "groups": 1}
    parts = [(0, images[:2]), (1, images[2:])]
    found = _product(3, parts, kernels, 2, lambda e, x, w: e.conv2d(x, w, **conv, lazy=True))
    words = [np.rint(a * 2.0**20).astype(np.int64).view(np.uint64) for a in (images, kernels)]
    expected = Conv2d(stride, padding, (1, 1), 1).apply(*words).view(np.int64).astype(object)
    assert found.shape == expected.shape
    _close(found, expected)


def test_large_products_wrap_as_words_do() -> None:
    """Modulo 2^64, as shares are: nothing is clipped and no carry is lost."""
    x, w = np.full((3, 2), 2.0**20), np.full((2, 1), 2.0**21 + 0.5)
    found = _product(2, [(0, x)], w, 1, lambda e, x, w: e.matmul(x, w, lazy=True))
    expected = (_fixed(x) @ _fixed(w) + (1 << 63)) % (1 << 64) - (1 << 63)
    # the noise grows with the rows: still 2^-20 of what they are
    assert np.abs((found.astype(object) - expected).astype(np.float64)).max() < 2**30


# ---- whole evaluations


def _opened(session: Session, spec: JobSpec, inputs: Inputs, engine: str) -> Any:
    found = engine_for(engine, session, spec.frac_bits, spec.network, dict(row_holders(spec)))
    opened = release(found, spec, run(found, spec, inputs), Permit(spec.job_id, spec.outputs))
    if session.rank is None:
        assert cast(HybridEngine, found).statements
    return opened


def _hybrid(spec: JobSpec, rows: Mapping[int, ArrayRows], weights: Mapping[str, Matrix], engine: str = "he") -> Result:
    buyer = len(spec.datasets)

    def program(session: Session) -> Any:
        rank = session.rank
        model = NamedWeights(weights) if rank == buyer else None
        return _opened(session, spec, Inputs(None if rank is None else rows.get(rank), model), engine)

    found = at_every_rank(buyer + 1, program)
    assert [rank for rank, value in enumerate(found) if value is not None] == [buyer], "only the buyer learns"
    return finish(spec, found[buyer])


@pytest.mark.parametrize("owners", [(569,), (100, 469), (69, 200, 300)])
def test_logistic_regression_over_owners(owners: tuple[int, ...]) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    weights = {"dense0.weight": np.random.default_rng(0).normal(size=(30, 1)), "dense0.bias": np.array([-0.3])}
    outputs = ("accuracy", "confusion", "auc", "predictions")
    spec = job(x, classes(2), dense_architecture(30, [], 1), outputs, owners=owners)
    rows = holders(spec, x, y)
    clear, found = result(spec, rows, weights), _hybrid(spec, rows, weights)
    assert found.accuracy == clear.accuracy and found.auc == pytest.approx(clear.auc, abs=1e-6)
    assert clear.predictions is not None and found.predictions is not None
    np.testing.assert_allclose(found.predictions, clear.predictions, atol=1e-4)
    assert clear.confusion is not None and found.confusion is not None
    assert found.confusion.tolist() == clear.confusion.tolist()


def test_rows_standardised_over_owners() -> None:
    """The moments go into the first layer's weights, which are shared then: rows still leave in no form."""
    x, y = load_breast_cancer(return_X_y=True)
    weights = {"dense0.weight": np.random.default_rng(0).normal(size=(30, 1)), "dense0.bias": np.array([-0.3])}
    spec = job(x, classes(2), dense_architecture(30, [], 1), ("accuracy", "auc"), owners=(69, 500), standardise=True)
    rows = holders(spec, x, y)
    clear, found = result(spec, rows, weights), _hybrid(spec, rows, weights)
    assert found.accuracy == pytest.approx(clear.accuracy, abs=0.003)
    assert found.auc == pytest.approx(clear.auc, abs=1e-3)


def test_a_layer_over_the_last_axis() -> None:
    """Rows of several vectors each are so many rows, and still their owners'."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(30, 4, 6)), rng.integers(0, 3, 30)
    layers = (
        Layer("linear", "each", ("input",), ("a",)),
        Layer("flatten", "flat", ("each",)),
        Layer("linear", "last", ("flat",), ("b",)),
    )
    architecture = Architecture((4, 6), layers, (TensorType("a", (6, 2)), TensorType("b", (8, 3))))
    weights = {p.name: rng.normal(size=p.shape) for p in architecture.parameters}
    spec = job(x, classes(3), architecture, ("predictions",), owners=(10, 20))
    rows = holders(spec, x.reshape(30, -1), y)
    clear, found = result(spec, rows, weights), _hybrid(spec, rows, weights)
    assert clear.predictions is not None and found.predictions is not None
    np.testing.assert_allclose(found.predictions, clear.predictions, atol=1e-3)


def test_a_perceptron() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:300] / 16, y[:300]
    rng = np.random.default_rng(1)
    architecture = dense_architecture(64, [16], 10, "relu")
    weights = {p.name: rng.normal(0, 0.5, p.shape) for p in architecture.parameters}
    spec = job(x, classes(10), architecture, ("accuracy", "confusion", "predictions"), owners=(130, 170))
    rows = holders(spec, x, y)
    clear, found = result(spec, rows, weights), _hybrid(spec, rows, weights)
    assert found.accuracy == clear.accuracy
    assert clear.predictions is not None and found.predictions is not None
    np.testing.assert_allclose(found.predictions, clear.predictions, atol=1e-3)


def test_a_small_convolutional_network() -> None:
    rng = np.random.default_rng(2)
    images, labels = rng.uniform(0, 1, (6, 1, 16, 16)), rng.integers(0, 3, 6)
    architecture = lenet_architecture((1, 16, 16), 3)
    weights = {p.name: rng.normal(0, 0.2, p.shape) for p in architecture.parameters}
    spec = job(images, classes(3), architecture, ("predictions",), owners=(2, 4))
    rows = holders(spec, images.reshape(6, -1), labels)
    clear, found = result(spec, rows, weights), _hybrid(spec, rows, weights)
    assert clear.predictions is not None and found.predictions is not None
    np.testing.assert_allclose(found.predictions, clear.predictions, atol=1e-3)


# ---- what a peer may send


def test_a_query_that_is_not_reduced_is_refused() -> None:
    """All bits set: no residue below a prime."""
    plan = Recorder(2)
    engine = HybridEngine(plan, 20, always=True)
    engine.matmul(engine.private(None, (9, 4), 0), engine.private(None, (4, 1), 1), lazy=True)
    first = next(record for _, record in plan.records if record[0] == "open")
    sizes = [(label, size // 8) for label, _, size, _, _ in first[1:]]
    channels = memory_network(["owner", "buyer", "dealer"], deadline_s=10.0)
    found: list[Any] = []

    def forge(rank: int) -> None:
        if rank == 2:
            DealerSession(channels[2], 2, plan.digest)
            return
        session = PartySession(channels[rank], 2, plan.digest)
        if rank == 1:
            session.open([Item(label, np.full(n, ~np.uint64(0)), sender=1, to=0) for label, n in sizes])
            return
        engine = HybridEngine(session, 20, always=True)
        try:
            engine.matmul(engine.private(np.ones((9, 4)), (9, 4), 0), engine.private(None, (4, 1), 1), lazy=True)
        except BadInput as error:
            found.append(error)

    threads = [threading.Thread(target=forge, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1 and "expected residues below" in found[0].public

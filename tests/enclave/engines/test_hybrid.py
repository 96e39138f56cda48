"""Products of owners' rows with a buyer's weights under encryption, inside sessions of shares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits

from enclave.channel.memory import memory_network
from enclave.engines.hybrid import MOST_QUERIES, HybridEngine, engine_for
from enclave.engines.interface import Engine, Permit
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.protocols.arithmetic import Conv2d
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Item, Session
from enclave.errors import BadInput, BadSpec
from enclave.executor.session import plan_job
from enclave.messages import Architecture, JobSpec, Layer, TensorType, Training
from enclave.models import dense_architecture
from enclave.models.lenet import lenet_architecture
from enclave.plan import Plan, make_plan
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


# ---- what it costs, and when it is chosen


def _planned(rows: int, block: int, inputs: int, outputs: int, engine: str, parties: int = 2) -> Plan:
    """All rows are the first party's, weights the last one's; those between could have rows too."""

    def workload(planned: Engine) -> None:
        weights = planned.private(None, (inputs, outputs), parties - 1)

        def body(count: int) -> None:
            planned.matmul(planned.private(None, (count, inputs), 0), weights, lazy=True)

        with planned.stage("layer"):
            body(block)
            for _ in planned.repeat(rows // block - 1):
                body(block)
            if rows % block:
                body(rows % block)

    return make_plan(
        parties, 20, workload, engine=engine, rows={rank: rows if rank == 0 else 0 for rank in range(parties - 1)}
    )


def _bytes(plan: Plan) -> int:
    return sum(plan.link_bytes.values())


def test_bytes_and_rounds_of_the_wide_matrix() -> None:
    masked, encrypted = (_planned(100_000, 4096, 200, 1, engine) for engine in ("mpc", "hybrid"))
    assert _bytes(masked) == 160_801_600
    # 50 kB for the key and each of 50 ciphertexts of weights, 26 kB for each of 98 answers
    assert _bytes(encrypted) == 51 * 51_200 + 98 * 26_624 == 5_220_352
    assert encrypted.link_bytes == {(0, 1): 98 * 26_624, (1, 0): 51 * 51_200}
    assert (masked.rounds, encrypted.rounds) == (25, 26)
    assert encrypted.dealer_bytes == 0
    assert _bytes(masked) > 20 * _bytes(encrypted)


def test_weights_go_once_to_every_owner() -> None:
    plan = _planned(12_000, 4096, 30, 1, "hybrid", parties=4)
    query = plan.link_bytes[(3, 0)]
    assert plan.link_bytes == {(0, 3): plan.link_bytes[(0, 3)], (3, 0): query, (3, 1): query, (3, 2): query}
    assert plan.rounds == 4


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "encrypted"),
    [
        (100_000, 200, 1, True),
        (100_000, 30, 1, True),
        (60_000, 784, 128, True),
        (1_000, 784, 128, False),
        (2_000, 30, 1, True),
        (1_000, 30, 1, False),
        (4_096, 1, 1, False),
    ],
)
def test_the_engine_takes_what_sends_less(rows: int, inputs: int, outputs: int, encrypted: bool) -> None:
    block = min(rows, 4096)
    found, masked, strict = (_planned(rows, block, inputs, outputs, e) for e in ("hybrid", "mpc", "he"))
    assert bool(found.hiding) == encrypted
    assert (found.digest == masked.digest) != encrypted
    assert _bytes(found) <= min(_bytes(masked), _bytes(strict))
    assert [statement.label for statement in strict.hiding] == ["layer"]
    assert strict.hiding[0].bits == 128 and "re-randomised" in strict.hiding[0].method


def test_too_many_ciphertexts_of_weights_are_masked_or_refused() -> None:
    inputs = MOST_QUERIES + 1
    # so many outputs that groups of columns do not fit
    assert not _planned(10_000, 5_000, inputs, 4096, "hybrid").hiding
    with pytest.raises(BadSpec, match=f"layer: expected at most {MOST_QUERIES} ciphertexts of weights, found {inputs}"):
        _planned(10_000, 5_000, inputs, 4096, "he")
    with pytest.raises(BadSpec, match="expected at most 4096 outputs, found 4097"):
        _planned(10_000, 5_000, 3, 4097, "he")


def test_a_small_first_owner_does_not_decide_for_all() -> None:
    def sent(counts: Sequence[int]) -> int:
        def workload(planned: Engine) -> None:
            weights = planned.private(None, (200, 1), len(counts))
            for rank, count in enumerate(counts):
                for start in range(0, count, 4096):
                    x = planned.private(None, (min(4096, count - start), 200), rank)
                    planned.matmul(x, weights, lazy=True)

        return _bytes(make_plan(len(counts) + 1, 20, workload, engine="hybrid", rows=dict(enumerate(counts))))

    assert sent((10, 50_000)) == sent((50_000, 10)) < 6_000_000


@pytest.mark.parametrize("counts", [(10, 3 * 16_384), (10, 2 * 16_384, 5)])
def test_large_blocks_after_a_small_one_follow_its_choice(counts: tuple[int, ...]) -> None:
    """What is repeated in a plan is recorded once: the weights must have gone before, in whatever form."""

    def workload(engine: Engine) -> None:
        weights = engine.private(None, (3, 1), len(counts))
        for rank, count in enumerate(counts):
            for _ in engine.repeat(count // 16_384):
                engine.matmul(engine.private(None, (16_384, 3), rank), weights, lazy=True)
            if count % 16_384:
                engine.matmul(engine.private(None, (count % 16_384, 3), rank), weights, lazy=True)

    plan = make_plan(len(counts) + 1, 20, workload, engine="hybrid", rows=dict(enumerate(counts)))
    assert plan.rounds <= sum(count // 16_384 for count in counts) + len(counts) + 1


def test_a_training_masks_its_rows_once() -> None:
    """Shared weights change from batch to batch; the rows do not."""

    def workload(engine: HybridEngine) -> None:
        x, w = engine.private(None, (9, 4), 0), engine.private(None, (4, 1), 1)
        engine.matmul(x, engine.add(w, 1.0))

    training = HybridEngine(Recorder(2), 20)
    workload(training)
    assert not training.statements
    evaluation = HybridEngine(Recorder(2), 20, always=True)
    workload(evaluation)
    assert evaluation.statements


def test_a_training_is_that_of_shares() -> None:
    x, _ = load_breast_cancer(return_X_y=True)
    training = Training("logistic", 2, 64, 0.1)
    spec = job(x, classes(2), dense_architecture(30, [], 1), ("model", "accuracy"), training=training)
    plans = [plan_job(replace(spec, engine=engine)) for engine in ("mpc", "hybrid")]
    assert plans[0].digest == plans[1].digest and not plans[1].hiding


def test_rows_that_cannot_be_encrypted_do_not_leave() -> None:
    engine = HybridEngine(Recorder(3), 20, rows={0: 9}, always=True)
    x, w = engine.private(None, (9, 4), 0), engine.private(None, (9, 1), 2)
    with pytest.raises(BadSpec, match="expected rows as they are") as caught:
        engine.matmul(x, w, transpose_x=True)
    assert caught.value.hint == "engine hybrid or mpc would do"
    with pytest.raises(BadSpec, match="expected weights of 20 fractional bits"):
        engine.matmul(x, engine.private(None, (4, 1), 2, integer=True))
    with pytest.raises(BadSpec, match="those who bring the job's rows"):
        engine.matmul(engine.private(None, (9, 4), 1), engine.private(None, (4, 1), 2))


def test_the_choice_of_engines() -> None:
    assert type(engine_for("mpc", Recorder(2), 20)) is MpcEngine
    assert type(engine_for("hybrid", Recorder(2), 20)) is HybridEngine
    assert type(engine_for("he", Recorder(2), 20)) is HybridEngine
    assert not isinstance(engine_for("he", Recorder(2, has_dealer=False), 20), MpcEngine)


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

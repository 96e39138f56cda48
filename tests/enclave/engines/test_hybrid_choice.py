"""Which products of rows a hybrid session encrypts, what that costs, and what it says of those that it masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sklearn.datasets import load_breast_cancer

from enclave.engines.hybrid import MOST_MORE_BYTES, MOST_QUERIES, HybridEngine, _cheapest, engine_for
from enclave.engines.interface import Engine
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.recorder import Recorder
from enclave.errors import BadSpec
from enclave.executor.session import plan_job
from enclave.messages import Training
from enclave.models import dense_architecture
from enclave.plan import Plan, make_plan
from tests.enclave.workloads.made_jobs import classes, job


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
    # expanded weights: 100 kB for each of 8 halves, and three times that for each of 5 keys; 54 kB for an answer
    assert encrypted.link_bytes == {(0, 1): 25 * 54_272, (1, 0): 8 * 102_400 + 5 * 307_200}
    assert _bytes(encrypted) == 3_712_000
    assert (masked.rounds, encrypted.rounds) == (25, 26)
    assert encrypted.dealer_bytes == 0
    assert _bytes(masked) > 40 * _bytes(encrypted)


def test_weights_go_once_to_every_owner() -> None:
    plan = _planned(12_000, 4096, 30, 1, "hybrid", parties=4)
    query = plan.link_bytes[(3, 0)]
    assert plan.link_bytes == {(0, 3): plan.link_bytes[(0, 3)], (3, 0): query, (3, 1): query, (3, 2): query}
    assert plan.rounds == 4


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "more"),
    [
        (100_000, 200, 1, 3_712_000 - 160_801_600),
        (60_000, 784, 128, 90_112_000 - 438_562_816),
        (1_000, 784, 128, 11_724_800 - 8_098_816),
        (1_000, 30, 1, 260_096 - 248_240),
        (100, 30, 1, 129_024 - 25_040),
        (4_096, 1, 1, 129_024 - 65_544),
    ],
)
def test_rows_are_encrypted_as_far_as_that_is_feasible(rows: int, inputs: int, outputs: int, more: int) -> None:
    block = min(rows, 4096)
    found, masked, strict = (_planned(rows, block, inputs, outputs, e) for e in ("hybrid", "mpc", "he"))
    assert _bytes(found) - _bytes(masked) == more < MOST_MORE_BYTES
    assert found.digest == strict.digest != masked.digest
    assert found.hiding == strict.hiding and masked.hiding == ()
    assert [(statement.label, statement.bits) for statement in found.hiding] == [("layer", 128)]
    assert found.hiding[0].encrypted and "re-randomised" in found.hiding[0].method


def test_what_would_send_far_more_is_masked_and_says_so() -> None:
    found, masked, strict = (_planned(10, 10, 2_048, 2_048, engine, parties=8) for engine in ("hybrid", "mpc", "he"))
    more = _bytes(strict) - _bytes(masked)
    assert more > MOST_MORE_BYTES and found.digest == masked.digest and strict.hiding[0].encrypted
    (said,) = found.hiding
    method = f"masked, because encryption takes at most 16 MiB more than masks, found {more / 2**20:,.0f}"
    assert (said.label, said.bits, said.method) == ("layer", math.inf, method)
    assert said.describe() == f"layer: all bits, {method}"


def test_too_many_ciphertexts_of_weights_are_masked_or_refused() -> None:
    inputs = MOST_QUERIES + 1
    # so many outputs that groups of columns do not fit
    (said,) = _planned(10_000, 5_000, inputs, 4096, "hybrid").hiding
    needs = f"at most {MOST_QUERIES} ciphertexts of weights, found {inputs}"
    assert not said.encrypted and said.method == f"masked, because encryption takes {needs}"
    with pytest.raises(BadSpec, match=f"layer: expected {needs}"):
        _planned(10_000, 5_000, inputs, 4096, "he")
    with pytest.raises(BadSpec, match="expected at most 4096 outputs, found 4097"):
        _planned(10_000, 5_000, 3, 4097, "he")


def test_a_packing_within_the_bound_is_found_where_there_is_one() -> None:
    """One column in each would send less, if so many ciphertexts were allowed."""
    packing = _cheapest(4096, 2 * MOST_QUERIES, 1, ((1_000_000, 1),), 100.0)
    assert packing.groups == MOST_QUERIES and packing.group == 2


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
    (said,) = training.statements
    assert not said.encrypted and "rows that are read once" in said.method
    evaluation = HybridEngine(Recorder(2), 20, always=True)
    workload(evaluation)
    assert all(statement.encrypted for statement in evaluation.statements)


def test_a_training_is_that_of_shares() -> None:
    x, _ = load_breast_cancer(return_X_y=True)
    training = Training("logistic", 2, 64, 0.1)
    spec = job(x, classes(2), dense_architecture(30, [], 1), ("model", "accuracy"), training=training)
    plans = [plan_job(replace(spec, engine=engine)) for engine in ("mpc", "hybrid")]
    assert plans[0].digest == plans[1].digest and not plans[0].hiding
    assert [(said.label, said.encrypted) for said in plans[1].hiding] == [("every layer", False)]


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
    assert type(engine_for("mpc", Recorder(2), 20)) is MpcEngine  # type: ignore[comparison-overlap]
    assert type(engine_for("hybrid", Recorder(2), 20)) is HybridEngine
    assert type(engine_for("he", Recorder(2), 20)) is HybridEngine
    assert not isinstance(engine_for("he", Recorder(2, has_dealer=False), 20), MpcEngine)


def test_wide_ranges_are_not_expanded() -> None:
    def sent(largest: float) -> dict[tuple[int, int], int]:
        def workload(engine: Engine) -> None:
            engine.matmul(engine.private(None, (100_000, 200), 0), engine.private(None, (200, 1), 1), lazy=True)

        return make_plan(2, 20, workload, engine="hybrid", rows={0: 100_000}, largest=largest).link_bytes

    assert sent(512.0)[1, 0] == 8 * 102_400 + 5 * 307_200
    assert sent(512.5)[1, 0] % 51_200 == 0  # weights as they are, whose noise is 2^9 times smaller
    assert sent(512.5)[1, 0] > sent(512.0)[1, 0]

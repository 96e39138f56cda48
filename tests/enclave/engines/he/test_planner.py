"""Plans: what they promise holds, as SEAL measures it, and is not absurdly careful."""

import json
import math

import numpy as np
import pytest

from enclave.engines.he.lattice.expansion import Expansion, expand_constants, expansion_keys, read_keys
from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.noise import deviations
from enclave.engines.he.lattice.parameters import MOST_BITS
from enclave.engines.he.lattice.rlwe import encrypt, encrypt_zero, expand, phase
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import packed_words
from enclave.engines.he.planner import FLOOD, MASK, HePlan, Hiding, LinearWork, plan_linear
from enclave.errors import BadSpec
from tests.enclave.engines.he.packed_values import packed_phases
from tests.enclave.engines.he.seal_referee import Referee, key_for, noise_bits

SEED = PublicSeed.derived(b"planner")
NARROW = LinearWork(columns=30, row_magnitude=8.0, weight_magnitude=1.0, precision=2e-3, score_magnitude=64.0)
FINE = LinearWork(columns=30, row_magnitude=8.0, weight_magnitude=1.0, precision=1e-6, score_magnitude=64.0)
WIDE = LinearWork(columns=100, row_magnitude=4.0, weight_magnitude=1.0, precision=1e-2, score_magnitude=64.0)


def _answer(plan: HePlan, key: SecretKey, rows: np.ndarray, weights: np.ndarray, bits: int) -> np.ndarray:
    """An owner's answer before it is flooded: [2, k, N], coefficient form; integer weights modulo 2^bits."""
    ring, shape = plan.parameters.ring(), plan.expansion
    packed = expand(ring, encrypt(key, packed_phases(ring, weights, bits, shape), SEED, 0), SEED, 0)
    if shape.levels:
        key_ring = plan.parameters.key_ring()
        keys = read_keys(key_ring, expansion_keys(key, shape, SEED, 0), SEED, 0)
        packed = np.concatenate(list(expand_constants(keys, packed, shape, ring)))
    answer = ring.intt(ring.dot(ring.encode(rows.T), ring.ntt(packed)))
    return ring.add(answer, encrypt_zero(PublicKey.generate(key, ring, SEED), Source.fresh()))


def _integer_rows(plan: HePlan) -> np.ndarray:
    """Rows as large as declared: [N, columns]."""
    shape = (plan.parameters.degree, plan.work.columns)
    return np.random.default_rng(0).choice(np.array([-1, 1]), shape) * plan.row_limit


@pytest.mark.parametrize(
    ("work", "finishing", "expansion_s"),
    [(NARROW, FLOOD, 0.0), (FINE, FLOOD, 60.0), (WIDE, FLOOD, 60.0), (NARROW, MASK, 0.0)],
)
def test_seal_confirms_the_bound_on_the_noise(work: LinearWork, finishing: str, expansion_s: float) -> None:
    plan = plan_linear(work, finishing=finishing, expansion_s=expansion_s)
    assert bool(plan.expansion.levels) == bool(expansion_s)
    ring, key = plan.parameters.ring(), key_for(plan.parameters)
    bits = math.floor(math.log2(ring.modulus) - plan.noise_bits) - 2  # more and the referee could not decrypt
    assert bits > 10
    bits = min(bits, 59)
    referee = Referee(plan.parameters, key, 1 << bits)
    rows = _integer_rows(plan)
    weights = np.random.default_rng(1).integers(-20, 20, work.columns)
    answer = _answer(plan, key, rows, weights, bits)
    ciphertext = referee.ciphertext(answer)
    assert (referee.decrypt(ciphertext).astype(np.int64) == rows @ weights % (1 << bits)).all()
    measured = noise_bits(ring, 1 << bits, referee.budget(ciphertext))
    assert measured - 1 <= plan.noise_bits < measured + 6  # the budget is in whole bits


@pytest.mark.parametrize(("work", "expansion_s"), [(NARROW, 0.0), (WIDE, 60.0)])
def test_flooded_and_switched_scores_keep_the_error_that_is_promised(work: LinearWork, expansion_s: float) -> None:
    plan = plan_linear(work, expansion_s=expansion_s)
    ring, key, degree = plan.parameters.ring(), key_for(plan.parameters), plan.parameters.degree
    rng = np.random.default_rng(2)
    rows = rng.uniform(-1, 1, (degree, work.columns)) * work.row_magnitude
    weights = rng.uniform(-1, 1, work.columns) * work.weight_magnitude
    weights *= min(1.0, work.largest_score / np.abs(rows @ weights).max())
    integers = np.rint(rows * 2.0**plan.row_bits).astype(np.int64)
    answer = _answer(plan, key, integers, weights, plan.torus_bits)
    answer[0] = ring.add(answer[0], Source.fresh().integers(ring, plan.flood_bits))
    low = ring.lower(plan.returned)
    phases = low.to_integers(phase(key, ring.drop(answer, len(ring.primes) - plan.returned)))
    scores = phases.astype(float) / low.modulus * 2.0 ** (plan.torus_bits - plan.row_bits)
    errors = scores - rows @ weights
    assert np.abs(errors).max() < plan.error <= work.precision
    assert 0.1 < errors.std() / plan.deviation < 1.2
    assert 8 * packed_words(low.primes, (2, plan.returned, degree)) == plan.answer_bytes


def test_the_flood_hides_the_noise_of_a_whole_ciphertext() -> None:
    for statistical_bits in (40, 60):
        plan = plan_linear(NARROW, statistical_bits=statistical_bits)
        spread = plan.flood_bits - plan.noise_bits - math.log2(plan.parameters.degree)
        assert statistical_bits <= spread < statistical_bits + 1 and spread == pytest.approx(plan.hiding_bits)
        assert plan.hiding("scores").bits == plan.hiding_bits
    mask = plan_linear(NARROW, finishing=MASK)
    assert mask.flood_bits == 0 and mask.hiding_bits == 128 and "distance 0" in mask.hiding("shares").method


def test_parameters_are_as_small_as_the_precision_allows() -> None:
    plan = plan_linear(NARROW)
    assert plan.parameters.degree == 4096 and plan.parameters.special is None
    assert plan.returned == 1 and plan.answer_bytes / 4096 < 10
    assert plan.upload_bytes == 31 * 8 * packed_words(plan.parameters.primes, (3, 4096))
    finer = plan_linear(FINE)
    assert finer.parameters.degree == 8192
    for found in (plan, finer):
        assert found.parameters.total_bits <= MOST_BITS[found.parameters.degree]
        assert all(prime < 1 << 50 for prime in found.parameters.key_primes)


def test_expansion_trades_time_for_upload() -> None:
    work = LinearWork(784, 8.0, 1.0, 2e-3, score_magnitude=128.0, row_rms=1.0)
    alone, expanded = plan_linear(work), plan_linear(work, expansion_s=60.0)
    assert alone.expansion.levels == 0 and alone.upload_bytes > 40e6
    assert expanded.upload_bytes < 6e6 and expanded.expansion.ciphertexts < 20
    assert plan_linear(work, expansion_s=1e-6).expansion.levels == 0
    assert expanded.expansion.switches < 784
    strided = LinearWork(784, 8.0, 1.0, 2e-3, score_magnitude=128.0, row_rms=1.0, stride=8)
    assert plan_linear(strided, expansion_s=60.0).expansion == Expansion(98, 0)


def test_what_is_not_reachable_is_refused_by_name() -> None:
    with pytest.raises(BadSpec, match="expected a precision that 128-bit parameters reach, found 1e-60 for 30 columns"):
        plan_linear(LinearWork(30, 8.0, 1.0, 1e-60))
    with pytest.raises(BadSpec, match=r"expected rows with at least 14 fractional bits .* found 10"):
        plan_linear(NARROW, row_bits=10)
    with pytest.raises(BadSpec, match="expected a torus of at least 22 bits to hold all scores, found 20"):
        plan_linear(NARROW, torus_bits=20)
    with pytest.raises(BadSpec, match="expected flood or mask"):
        plan_linear(NARROW, finishing="none")
    for wrong in (
        {"columns": 0},
        {"precision": 0.0},
        {"precision": math.nan},
        {"row_magnitude": math.inf},
        {"weight_magnitude": -1.0},
        {"stride": 0},
    ):
        fields = {"columns": 1, "row_magnitude": 1.0, "weight_magnitude": 1.0, "precision": 0.1} | wrong
        with pytest.raises(BadSpec, match="expected positive counts"):
            LinearWork(**fields)  # type: ignore[arg-type]


def test_plans_describe_themselves() -> None:
    plan = plan_linear(WIDE, expansion_s=60.0)
    text = plan.describe()
    for word in ("100 columns", "bits", "hiding", "error at most", "key switches", "flooded with"):
        assert word in text
    found = json.loads(json.dumps(plan.to_json()))
    assert found["parameters"]["degree"] == plan.parameters.degree and found["flood_bits"] == plan.flood_bits
    assert Hiding("scores", 40.9, "flooded").describe() == "scores: 40 bits, flooded"
    assert plan_linear(WIDE, expansion_s=60.0) == plan


def test_deviations_are_those_of_a_tail_of_forty_bits() -> None:
    z = deviations(40, 8192)
    assert 8.5 < z < 9.0
    assert math.log2(2 * 8192) - z**2 / 2 / math.log(2) == pytest.approx(-40)


@pytest.mark.parametrize("seed", range(8))
def test_any_plan_keeps_what_was_asked_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    work = LinearWork(
        columns=int(2 ** rng.uniform(0, 10)),
        row_magnitude=float(2 ** rng.uniform(-6, 10)),
        weight_magnitude=float(2 ** rng.uniform(-6, 10)),
        precision=float(2 ** rng.uniform(-4, 2)),
        outputs=int(rng.integers(1, 5)),
    )
    finishing = (FLOOD, MASK)[seed % 2]
    plan = plan_linear(work, finishing=finishing, expansion_s=float(rng.choice([0.0, 0.2, 30.0])))
    assert plan.error <= work.precision and plan.deviation < plan.error
    assert plan.hiding_bits >= 40 and plan.parameters.total_bits <= MOST_BITS[plan.parameters.degree]
    # the largest score and all noise fit half the torus
    room = 2.0 ** (plan.torus_bits - plan.row_bits - 1)
    assert work.largest_score + work.precision < room
    assert plan.expansion.count == work.columns * work.outputs
    assert 1 <= plan.returned <= len(plan.parameters.primes)
    assert plan.row_limit >= work.row_magnitude * 2**plan.row_bits

"""Training under encryption: against the same algorithm in numpy, and the parts it is made of."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, Ridge

from enclave.engines.he.ckks.evaluation_keys import key_bytes
from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.ring import Ring, ntt_primes
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.regression import training
from enclave.engines.he.regression.descent import (
    INTERVAL,
    OwnRows,
    Problem,
    own_rows,
    plain_training,
    sigmoid_coefficients,
)
from enclave.engines.he.regression.encrypted_steps import key_uses
from enclave.engines.he.regression.periods import Period, weight_words
from enclave.engines.interface import Permit
from enclave.errors import BadData, BadInput, BadSpec

Rows = list[OwnRows]


def cancer() -> tuple[np.ndarray, np.ndarray]:
    """Standardised columns and a bias; classes."""
    x, y = load_breast_cancer(return_X_y=True)
    return np.c_[(x - x.mean(0)) / x.std(0), np.ones(len(x))], y.astype(float)


def program(problem: Problem, rows: Rows) -> Any:
    def main(engine: Any) -> Any:
        own = None if engine.rank is None or engine.is_buyer else rows[engine.rank]
        sealed = engine.run(training.train(engine, problem, own))
        return engine.open("model", sealed, engine.buyer, Permit("job", ["model"]))

    return main


# ---- in the clear


def test_the_polynomial_is_near_the_sigmoid_and_pushes_back_outside() -> None:
    c = sigmoid_coefficients()
    z = np.linspace(-INTERVAL, INTERVAL, 999)
    p = 0.5 + sum(k * z ** (2 * j + 1) for j, k in enumerate(c))
    assert np.abs(p - 1 / (1 + np.exp(-z))).max() < 0.11
    far = np.array([1.2, 2.0, 10.0]) * INTERVAL
    assert (0.5 + sum(k * far ** (2 * j + 1) for j, k in enumerate(c)) > 1).all()


def test_the_fixed_hessian_comes_near_scikit_learn() -> None:
    x, y = cancer()
    problem = Problem("logistic", (len(x),), 31, True, 60, l2=0.02)
    weights = plain_training(problem, [own_rows(problem, 0, x, y)])
    theirs = LogisticRegression(C=1 / (0.02 * len(x))).fit(x[:, :-1], y)
    assert np.mean((x @ weights > 0) == theirs.predict(x[:, :-1])) > 0.99


def test_weights_are_those_of_columns_as_they_are() -> None:
    x, y = cancer()
    mean, inverse = np.linspace(-3, 3, 30), np.geomspace(0.01, 50, 30)
    raw = np.c_[x[:, :-1] / inverse + mean, np.ones(len(x))]
    problem = Problem("logistic", (len(x),), 31, True, 5, l2=0.02, momentum=0.2)
    plain = plain_training(problem, [own_rows(problem, 0, x, y)])
    back = np.diag(np.append(inverse, 1.0))
    back[-1, :-1] = -mean * inverse
    moved = plain_training(problem, [own_rows(problem, 0, raw, y, back)])
    assert np.allclose(raw @ moved, x @ plain)
    halves = Problem("logistic", (300, 269), 31, True, 5, rate=0.1, l2=0.02, momentum=0.2)
    parts = [slice(0, 300), slice(300, 569)]
    together = plain_training(halves, [own_rows(halves, i, x[k], y[k]) for i, k in enumerate(parts)])
    apart = plain_training(halves, [own_rows(halves, i, raw[k], y[k], back) for i, k in enumerate(parts)])
    assert np.allclose(raw @ apart, x @ together)


def test_one_step_solves_the_squared_loss() -> None:
    x, _ = cancer()
    y = x @ np.linspace(-1, 1, 31) + np.random.default_rng(2).normal(size=len(x))
    problem = Problem("squared", (len(x),), 31, True, 9, rate=0.1, l2=0.05)
    found = plain_training(problem, [own_rows(problem, 0, x, y)])
    theirs = Ridge(alpha=0.05 * len(x)).fit(x[:, :-1], y)
    assert np.allclose(found[:-1], theirs.coef_)


def test_an_owner_refuses_a_rate_that_could_diverge() -> None:
    x, y = cancer()
    problem = Problem("logistic", (500, 69), 31, True, 5, rate=2.0)
    with pytest.raises(BadData, match="could diverge"):
        own_rows(problem, 0, x[:500], y[:500])


# ---- products by diagonals and the way out


def test_diagonals_multiply_and_reproduce_their_layout() -> None:
    period = Period.of(11, 64)
    assert (period.size, period.baby, period.giants, period.folds) == (16, 4, 4, (16, 32))
    g = np.random.default_rng(0)
    a, w, r = g.normal(size=(64, 11)), g.normal(size=11), g.normal(size=64)
    filled = period.tiled(w)
    total, back = np.zeros(64), np.zeros(64)
    for (giant, baby), diagonal in period.diagonals(a):
        total += np.roll(diagonal * np.roll(filled, -baby), -giant * period.baby)
        back += np.roll(diagonal * np.roll(r, giant * period.baby), baby)
    assert np.allclose(total, a @ w)
    assert np.allclose(back.reshape(4, 16).sum(0)[:11], a.T @ r)
    with pytest.raises(BadSpec):
        Period.of(65, 64)


def test_shares_of_a_phase_become_words_of_its_slots() -> None:
    """Against exact integers, for random shares of a phase of small period."""
    degree, scale = 256, 2.0**40
    ring = Ring(degree, tuple(ntt_primes(degree, 58, 2)))
    period = Period.of(5, degree // 2)
    w = np.array([3.25, -1000.5, 0.0, 1e-4, -7.0])
    slots = period.tiled(w)
    exponents = np.array([pow(3, j, 2 * degree) for j in range(degree // 2)])
    angles = np.outer(np.arange(degree), exponents) * (np.pi / degree)
    phase = np.rint(2 / degree * scale * np.cos(angles) @ slots).astype(np.int64)
    mask = Source.fresh().uniform(ring)
    shares = [ring.add(ring.from_integers(phase), mask), ring.neg(mask)]
    words = [weight_words(ring, share, period, scale, 36) for share in shares]
    found = (words[0] + words[1]).view(np.int64) / 2.0**36
    assert np.abs(found[:5] - w).max() < 1e-7
    assert np.abs(found[5:]).max() < 1e-7
    with pytest.raises(BadSpec, match="above the scale"):
        weight_words(ring, mask, period, 2.0**100, 36)


# ---- under encryption


def test_one_owner_is_its_twin_in_known_rounds_and_bytes(run_he: Any) -> None:
    x, y = cancer()
    problem = Problem("logistic", (len(x),), 31, True, 3, momentum=0.3, l2=0.01)
    rows = [own_rows(problem, 0, x, y)]
    ran = run_he(2, program(problem, rows))
    assert ran.results[0] is None
    expected = plain_training(problem, rows)
    assert np.abs(ran.results[1] - expected).max() < 2e-5
    assert (ran.results[1] * 2**16 == np.rint(ran.results[1] * 2**16)).all(), "rounded to 16 bits"
    sent: dict[str, int] = {}
    for _, record in ran.records:
        for label, _, size, *_ in record[1:] if record[0] == "open" else ():
            sent[label] = sent.get(label, 0) + size
    parameters = training.parameters_of("logistic")
    uses = key_uses(problem, Period.of(31, 8192), 7)
    assert [use.count for use in uses] == [7, 6, 6, 3, 2, *[2] * 8]
    assert sent["he:evaluation key"] == key_bytes(parameters, uses) == 21_790_720
    assert sent["he:masked"] == 3 * 4 * 16384 * 60 // 8
    assert sent["he:refreshed"] == 2 * 16384 * 320 // 8
    assert ran.sessions[0].rounds == 2 + 2 * 2 + 1 + 5


def test_blocks_of_rows_add_up_and_tell_the_buyer_of_progress(run_he: Any) -> None:
    g = np.random.default_rng(5)
    x = np.c_[g.normal(size=(16_700, 2)), np.ones(16_700)]
    y = (x @ [1.5, -1.0, 0.3] + g.logistic(size=16_700) > 0).astype(float)
    problem = Problem("logistic", (100, 16_600), 3, True, 3, rate=1.0, l2=0.01)
    rows = [own_rows(problem, 0, x[:100], y[:100]), own_rows(problem, 1, x[100:], y[100:])]
    ran = run_he(3, program(problem, rows))
    assert np.abs(ran.results[2] - plain_training(problem, rows)).max() < 2e-5
    working = [record for _, record in ran.records if record[0] == "open" and record[1][0] == "he:working"]
    assert [record[1:] for record in working] == [(("he:working", "add", 8, 1, 2),)] * 2


@pytest.mark.parametrize(("loss", "owners"), [("logistic", 1), ("squared", 2)])
def test_one_step_needs_no_evaluation(run_he: Any, loss: str, owners: int) -> None:
    g = np.random.default_rng(6)
    x, y = g.normal(size=(40, 2)), g.integers(0, 2, 40).astype(float)
    counts = (40,) if owners == 1 else (1, 39)
    problem = Problem(loss, counts, 2, False, 1, rate=0.25, l2=0.1)
    edges = np.cumsum([0, *counts])
    rows = [own_rows(problem, i, x[a:b], y[a:b]) for i, (a, b) in enumerate(itertools.pairwise(edges))]
    ran = run_he(owners + 1, program(problem, rows))
    assert np.abs(ran.results[-1] - plain_training(problem, rows)).max() < 2e-5
    assert not any("he:evaluation key" in str(record) for _, record in ran.records)


def test_a_training_of_zeros_is_refused_at_its_owner(run_he: Any) -> None:
    problem = Problem("logistic", (20,), 3, False, 2)
    rows = [OwnRows(np.zeros((20, 3)), np.zeros((20, 3)), np.zeros(20), 0)]
    with pytest.raises(BadInput, match="transparent"):
        run_he(2, program(problem, rows))


def test_weights_stay_in_ciphertexts(run_he: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the buyer decrypts is uniform: it tells rows of ones from rows of noise no better than chance."""
    from enclave.engines.he.regression import refresh as module

    seen: list[np.ndarray] = []
    original = rlwe.phase

    def phase(secret: Any, ciphertext: np.ndarray) -> np.ndarray:
        seen.append(original(secret, ciphertext))
        return seen[-1]

    monkeypatch.setattr(module, "phase", phase)
    x, y = cancer()
    problem = Problem("squared", (500, 69), 31, True, 3, rate=0.05)
    rows = [own_rows(problem, 0, x[:500], y[:500]), own_rows(problem, 1, x[500:], y[500:])]
    run_he(3, program(problem, rows))
    low = training.parameters_of("squared").ring().lower(2)
    assert len(seen) == 3
    for v in (*seen, low.sub(seen[1], seen[0])):
        counts = np.bincount(low.to_torus(v, 6).astype(np.int64), minlength=64)
        expected = low.degree / 64
        assert abs(((counts - expected) ** 2 / expected).sum() - 63) < 6 * np.sqrt(126)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadSpec, match="MiB"):
        training.check(Problem("logistic", (1 << 20,), 500, True, 5))
    with pytest.raises(BadSpec, match="wrap once"):
        training.check(Problem("squared", (10, 10), 500, True, 100_000))
    with pytest.raises(BadSpec, match="at most 1024 weights"):
        training.check(Problem("squared", (10, 10), 5000, True, 5))
    training.check(Problem("squared", (10,), 5000, True, 5))
    problem = Problem("logistic", (32_561,), 106, True, 10)
    training.check(problem)
    assert training.wrap_bits(problem) > 45
    with pytest.raises(BadSpec, match="cross_entropy"):
        Problem("cross_entropy", (10,), 5, True, 5)

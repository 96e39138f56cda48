"""Distributions and numbering of what is drawn: tests that a reused, shortened or biased draw fails."""

import multiprocessing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import stats

from enclave.engines.he.lattice.parameters import primes_of
from enclave.engines.he.lattice.ring import Ring
from enclave.engines.he.lattice.sampling import ERROR_DEVIATION, Source
from enclave.engines.mpc.random import KeyStream
from enclave.errors import BadInput, SessionError

N = 4096
RING = Ring(N, primes_of(N, (30, 40)))
DRAWS = 40 * N
LEAST = 1e-7  # of a p-value: with the fixed key the tests never flicker, and a bias of a percent is far below


def _source(key: int = 1) -> Source:
    return Source(KeyStream(key.to_bytes(16, "big")))


def _ternary_p(values: np.ndarray) -> float:
    counts = Counter(values.tolist())
    assert set(counts) <= {-1, 0, 1}
    return float(stats.chisquare([counts[v] for v in (-1, 0, 1)]).pvalue)


def _error_p(values: np.ndarray) -> float:
    places = np.arange(-21, 22)
    expected = stats.binom.pmf(places + 21, 42, 0.5) * values.size
    counts = np.array([np.sum(values == v) for v in places])
    assert counts.sum() == values.size
    tail = np.abs(places) > 10  # too rare for a count each
    pooled = np.append(counts[~tail], counts[tail].sum()), np.append(expected[~tail], expected[tail].sum())
    return float(stats.chisquare(*pooled).pvalue)


def _uniform_p(values: np.ndarray, high: int) -> float:
    return float(stats.kstest(values.astype(np.float64) / high, "uniform").pvalue)


def test_secrets_are_uniformly_ternary() -> None:
    assert _ternary_p(_source().ternary(DRAWS)) > LEAST
    biased = _source().ternary(DRAWS)
    biased[: DRAWS // 50] = 0
    assert _ternary_p(biased) < LEAST  # two percent of zeros too many are seen


def test_secrets_are_the_remainders_of_bytes_below_255() -> None:
    data = KeyStream((1).to_bytes(16, "big")).words(1, 4096).tobytes()
    assert _source().ternary(30_000).tolist() == [b % 3 - 1 for b in data if b < 255][:30_000]


def test_errors_are_centred_binomial_and_as_wide_as_seal_has_them() -> None:
    errors = _source().error(40, N)
    assert _error_p(errors) > LEAST
    assert abs(errors.std() - 3.2404) < 0.02 and abs(errors.mean()) < 0.04
    assert abs(ERROR_DEVIATION - 3.2404) < 1e-4
    narrower = np.clip(errors, -9, 9)
    assert _error_p(narrower) < LEAST
    assert _error_p(np.round(np.random.default_rng(0).normal(size=DRAWS) * 3.0).astype(int)) < LEAST


def test_residues_are_uniform_modulo_each_prime() -> None:
    x = _source().uniform(RING, 20)
    assert x.shape == (20, 2, N)
    for row, prime in enumerate(RING.primes):
        assert int(x[:, row].max()) < prime
        assert _uniform_p(x[:, row].reshape(-1), prime) > LEAST
        low = x[:, row].reshape(-1) & np.uint64(255)
        assert stats.chisquare(np.bincount(low.astype(int), minlength=256)).pvalue > LEAST


@pytest.mark.parametrize("bits", [1, 2, 17, 48, 49, 63, 64, 65, 69])
def test_flooding_integers_are_uniform_to_the_last_bit(bits: int) -> None:
    values = RING.to_integers(_source().integers(RING, bits, 3)).reshape(-1)
    low, high = -(1 << bits - 1), 1 << bits - 1
    assert low <= values.min() and values.max() < high
    shifted = values - low
    if bits > 6:
        assert _uniform_p((shifted / 2.0**bits).astype(float), 1) > LEAST
    for bit in {0, 1, bits // 2, bits - 1}:  # the low bits are those that floating point would leave bare
        ones = sum((shifted >> min(bit, bits - 1)) & 1)
        assert stats.binomtest(int(ones), values.size).pvalue > LEAST


def test_attack_float_flooding_leaves_low_bits_bare() -> None:
    bits = 65
    floats = np.random.default_rng(0).uniform(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1), N)
    noise = np.random.default_rng(1).integers(0, 64, N)
    seen = (np.array([int(f) for f in floats], object) + noise) % 64
    assert np.mean(seen == noise) > 0.9  # read off
    ours = RING.to_integers(_source().integers(RING, bits))
    assert np.mean((ours + noise) % 64 == noise) < 0.05


def test_no_draw_is_made_twice() -> None:
    source = _source()
    draws = [
        source.ternary(N),
        source.ternary(N),
        source.error(N),
        source.error(N),
        source.uniform(RING),
        source.uniform(RING),
        source.integers(RING, 60),
        source.integers(RING, 60),
        source.words(N),
        source.words(N),
    ]
    assert len({x.tobytes() for x in draws}) == len(draws)
    for first, second in zip(draws[::2], draws[1::2], strict=True):
        a, b = (x.reshape(-1)[:N].astype(float) for x in (first, second))
        assert abs(np.corrcoef(a, b)[0, 1]) < 6 / np.sqrt(a.size)
    batch = source.uniform(RING, 2)
    assert not (batch[0] == batch[1]).any(axis=-1).all()


def test_the_numbering_depends_on_the_calls_alone() -> None:
    first, second = _source(), _source()
    first.ternary(5)
    second.ternary(50_000)  # a long draw does not run into the next one
    assert (first.error(N) == second.error(N)).all()
    assert (_source(2).error(N) != _source().error(N)).any()
    assert (Source.fresh().error(N) != Source.fresh().error(N)).any()


def test_threads_that_share_a_source_never_draw_the_same() -> None:
    source = _source()
    with ThreadPoolExecutor(8) as pool:
        draws = list(pool.map(lambda _: source.words(4).tobytes(), range(2000)))
    assert len(set(draws)) == len(draws)


def test_flooding_wider_than_the_modulus_is_refused() -> None:
    for bits in (0, 70):
        with pytest.raises(BadInput, match=f"expected 1 to 69 bits to flood with, found {bits}"):
            _source().integers(RING, bits)


def _draw(source: Source, answer: "multiprocessing.queues.SimpleQueue[str]") -> None:
    try:
        source.error(4)
    except SessionError as error:
        answer.put(str(error))
    else:
        answer.put("drew")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_cannot_draw_what_its_parent_draws() -> None:
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_draw, args=(_source(), answer))
    child.start()
    child.join(10)
    assert "forked process" in answer.get()

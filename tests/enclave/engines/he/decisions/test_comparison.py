"""Comparison without a third party: against Python integers, its rounds and bytes, and what the buyer gets to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from enclave.engines.he.decisions import zero_forms
from enclave.engines.he.decisions.comparison import bits_of, layout_of, less_than, order_forms
from enclave.engines.he.decisions.slots import DEGREE, Slots, plaintext_primes, slot_parameters, uniform_below
from enclave.engines.he.decisions.zero_forms import Draws, answered
from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.sampling import Source
from enclave.errors import BadInput, BadSpec

SLOTS = Slots(*plaintext_primes(1))
T = SLOTS.prime


def _numbers(rows: int, bits: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that differ anywhere, nowhere, by one, and at the ends of the range."""
    g = np.random.default_rng(seed)
    top = (1 << bits) - 1
    x = g.integers(0, top, rows, dtype=np.uint64, endpoint=True)
    y = g.integers(0, top, rows, dtype=np.uint64, endpoint=True)
    kind = np.arange(rows) % 6
    y = np.where(kind == 1, x, y)
    y = np.where(kind == 2, np.minimum(x, np.uint64(top - 1)) + np.uint64(1), y)
    y = np.where(kind == 3, np.maximum(x, np.uint64(1)) - np.uint64(1), y)
    x, y = np.where(kind == 4, np.uint64(0), x), np.where(kind == 4, np.uint64(top), y)
    return x, np.where(kind == 5, x ^ np.uint64(1), y)


def _program(x: np.ndarray, y: np.ndarray, bits: int, owner: int = 0) -> Callable[[Any], Any]:
    return lambda engine: engine.run(less_than(engine, owner, bits, len(x), x, y))


@pytest.mark.parametrize(
    ("rows", "bits"), [(1, 1), (2, 63), (5, 7), (300, 24), (4096, 6), (4097, 3), (2049, 12)], ids=str
)
def test_against_integers(run_he: Any, rows: int, bits: int) -> None:
    x, y = _numbers(rows, bits)
    owner, buyer = run_he(2, _program(x, y, bits)).results
    assert set(np.unique(owner)) | set(np.unique(buyer)) <= {0, 1}
    assert np.array_equal(owner ^ buyer, (x < y).astype(np.uint64))


def test_all_pairs_of_four_bits(run_he: Any) -> None:
    x, y = (v.reshape(-1).astype(np.uint64) for v in np.meshgrid(np.arange(16), np.arange(16)))
    owner, buyer = run_he(2, _program(x, y, 4)).results
    assert np.array_equal((owner ^ buyer) == 1, x < y)


def test_a_bystander_takes_no_part(run_he: Any) -> None:
    x, y = _numbers(100, 9)
    ran = run_he(3, _program(x, y, 9, owner=1))
    assert np.array_equal(ran.results[1] ^ ran.results[2], (x < y).astype(np.uint64))
    assert ran.results[0].shape == (100,) and not isinstance(ran.results[0], np.ndarray)
    assert [label for label, _ in ran.opened[0]] == ["he:public key"]


@pytest.mark.parametrize(
    ("rows", "bits", "rounds", "up", "down"),
    [
        (4096, 32, 3, 12.5 * 32 * 4096, 5.25 * 33 * 4096),
        (100, 24, 3, 12.5 * 24 * 4096, 5.25 * 4096),
        (40000, 2, 4, 12.5 * 2 * 4096 * 10, 5.25 * 3 * 4096 * 10),
    ],
)
def test_rounds_and_bytes(run_he: Any, rows: int, bits: int, rounds: int, up: float, down: float) -> None:
    x, y = _numbers(rows, bits)
    ran = run_he(2, _program(x, y, bits))
    assert ran.sessions[0].rounds == rounds
    steps = [item for _, record in ran.records for item in record[1:]]
    sizes = {label: sum(item[2] for item in steps if item[0] == label) for label in {item[0] for item in steps}}
    assert sizes == {"he:public key": 51_200, "comparison:bits": up, "comparison:forms": down}


@pytest.mark.parametrize(("rows", "bits"), [(0, 8), (3, 0), (3, 64)])
def test_what_cannot_be_compared(rows: int, bits: int) -> None:
    with pytest.raises(BadSpec, match="expected rows"):
        layout_of(rows, bits)


# ---- what the buyer sees
class _Keys:
    """A buyer's keys, and the answers it can decrypt."""

    def __init__(self) -> None:
        self.seed = PublicSeed.derived(b"test")
        ring = slot_parameters().ring()
        self.secret = SecretKey(ring, Source.fresh(), 1 << 20)
        self.public = PublicKey.generate(self.secret, ring, self.seed)
        self.used = 0

    def view(self, x: np.ndarray, y: np.ndarray, bits: int, source: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """What the buyer decrypts, places of rows [bits + 1, rows], and the owner's shares."""
        layout = layout_of(len(x), bits)
        words = SLOTS.query(self.secret, layout.spread(bits_of(x, bits)), self.seed, self.used)
        query = SLOTS.received(words, self.seed, self.used, bits)
        self.used += bits
        answer, shares = answered(
            SLOTS, layout, self.public, source or Source.fresh(), query, bits_of(y, bits), order_forms
        )
        slots = SLOTS.opened(self.secret, answer, layout.answers)
        return slots[:, : layout.copies * layout.width].reshape(-1, layout.width)[: bits + 1], shares


@pytest.fixture(scope="module")
def keys() -> Iterator[_Keys]:
    yield _Keys()


def _suspicions(values: np.ndarray) -> set[str]:
    """What a buyer could tell from the values [places, rows] of rows whose comparison is the same, if anything."""
    places, rows = values.shape
    found = set()
    zeros = (values == 0).sum(axis=0)
    if zeros.max() > 1:
        found.add("zeros")
    if abs(zeros.mean() - 0.5) > 5 * 0.5 / np.sqrt(rows):
        found.add("direction")
    hit = np.argmax(values == 0, axis=0)[zeros == 1]
    counts = np.bincount(hit, minlength=places)
    expected = len(hit) / places
    if ((counts - expected) ** 2 / expected).sum() > places - 1 + 6 * np.sqrt(2 * (places - 1)):
        found.add("place")
    units = values[values != 0]
    cells = np.bincount((units - 1) * 64 // (T - 1), minlength=64)
    if ((cells - len(units) / 64) ** 2 / (len(units) / 64)).sum() > 63 + 6 * np.sqrt(2 * 63):
        found.add("values")
    if len(np.unique(values[:, zeros == 0])) < min(units.size // 4, T // 2):
        found.add("repeats")
    return found


def _case(less: bool) -> tuple[np.ndarray, np.ndarray]:
    x = np.full(4096, 0b101100, np.uint64)
    return x, np.full(4096, 0b101110 if less else 0b101000, np.uint64)


@pytest.mark.parametrize("less", [False, True])
def test_the_buyer_sees_a_bit_and_uniform_values(keys: _Keys, less: bool) -> None:
    assert _suspicions(keys.view(*_case(less), 6)[0]) == set()


@pytest.mark.parametrize(
    ("bound", "suspicion"), [(2, "direction"), (7, "place"), (T - 1, "values")], ids=["flips", "turns", "masks"]
)
def test_each_random_choice_is_needed(keys: _Keys, monkeypatch: pytest.MonkeyPatch, bound: int, suspicion: str) -> None:
    def fixed(source: Source, below: int, *shape: int) -> np.ndarray:
        return np.zeros(shape, np.uint64) if below == bound else uniform_below(source, below, *shape)

    monkeypatch.setattr(zero_forms, "uniform_below", fixed)
    assert suspicion in _suspicions(keys.view(*_case(True), 6)[0])


def test_values_and_place_do_not_depend_on_where_numbers_differ(keys: _Keys) -> None:
    """Given its bit, the buyer's view of a difference in bit 0 and of one in bit 5 are alike."""
    x = np.zeros(4096, np.uint64)
    places = []
    for difference in (1, 32):
        values, _ = keys.view(x, np.full(4096, difference, np.uint64), 6)
        hit = values == 0
        places.append(hit.sum(axis=1) / hit.sum())
    assert np.abs(places[0] - places[1]).max() < 6 * np.sqrt(2 / 7 / 2048)


def test_rows_in_several_slots_hide_too(keys: _Keys) -> None:
    x, y = _case(True)
    assert layout_of(500, 6).copies == 7
    assert _suspicions(keys.view(x[:500], y[:500], 6)[0]) == set()


def test_equal_numbers_hide_too(keys: _Keys) -> None:
    x = np.arange(4096, dtype=np.uint64) % np.uint64(64)
    assert _suspicions(keys.view(x, x, 6)[0]) == set()


def test_answers_do_not_repeat(keys: _Keys) -> None:
    """The same question twice has unrelated answers, and unused slots are as uniform as others."""
    x, y = _numbers(10, 6)
    first, second = (keys.view(x, y, 6)[0] for _ in range(2))
    assert (first == second).mean() < 0.5


def test_noise_stays_below_its_bound(keys: _Keys) -> None:
    """The flood hides what is below 2^29; honest noise leaves a factor of 4 at least."""
    ring, bits = SLOTS.ring, 3
    x, y = np.zeros(4096, np.uint64), np.ones(4096, np.uint64)
    layout = layout_of(4096, bits)
    words = SLOTS.query(keys.secret, layout.spread(bits_of(x, bits)), keys.seed, keys.used)
    query = SLOTS.received(words, keys.seed, keys.used, bits)
    keys.used += bits
    draws = Draws.fresh(layout, T, Source.fresh())
    factors, _ = order_forms(layout, T, draws, layout.spread(bits_of(y, bits)))
    product = ring.dot(SLOTS.factors(factors(0)), query)
    secret = keys.secret.reveal(ring)
    bare = ring.intt(ring.add(product[0], ring.multiply(product[1], secret)))
    modulus = ring.modulus
    noise = [(int(v) * T + modulus // 2) % modulus - modulus // 2 for v in ring.to_integers(bare)]
    largest = max(map(abs, noise)) // T
    assert 1 << 18 < largest < 1 << 27


def test_a_query_of_another_length(keys: _Keys) -> None:
    words = SLOTS.query(keys.secret, np.zeros((1, DEGREE), np.uint64), keys.seed, keys.used)
    keys.used += 1
    with pytest.raises(BadInput, match="words of residues"):
        SLOTS.received(words[:-1], keys.seed, 0, 1)
    with pytest.raises(BadInput, match="expected"):
        SLOTS.opened(keys.secret, words, 1)


def test_answers_under_another_key_are_noise(keys: _Keys) -> None:
    other = _Keys()
    x, y = _numbers(4096, 3)
    layout = layout_of(4096, 3)
    words = SLOTS.query(keys.secret, layout.spread(bits_of(x, 3)), keys.seed, keys.used)
    query = SLOTS.received(words, keys.seed, keys.used, 3)
    keys.used += 3
    answer, _ = answered(SLOTS, layout, keys.public, Source.fresh(), query, bits_of(y, 3), order_forms)
    flipped = answer.copy()
    flipped[100] ^= np.uint64(1 << 40)
    with pytest.raises(BadInput, match="another key"):
        SLOTS.opened(other.secret, answer, layout.answers)
    with pytest.raises(BadInput, match="changed"):
        SLOTS.opened(keys.secret, flipped * np.uint64(3), layout.answers)


def test_uniform_below_is_uniform() -> None:
    source = Source.fresh()
    for bound in (1, 2, 7, 40_960):
        values = uniform_below(source, bound, 200_000)
        assert values.max() < bound and values.dtype == np.uint64
        cells = np.bincount(values.astype(np.int64) * min(bound, 16) // bound, minlength=min(bound, 16))
        sizes = np.bincount(np.arange(bound) * min(bound, 16) // bound) / bound * 200_000
        assert ((cells - sizes) ** 2 / sizes).sum() < 60

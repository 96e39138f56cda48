"""Slots: exact products modulo small primes, and what an answer shows to who knows the key and every error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from enclave.engines.he.decisions import slots as module
from enclave.engines.he.decisions.slots import DEGREE, FLOOD_BITS, HIDING_BITS, Slots, plaintext_primes, slot_parameters
from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.sampling import Source
from enclave.errors import BadInput, Refused

PRIMES = plaintext_primes(6)
SEED = PublicSeed.derived(b"test slots")


def _keys(cap: int = 1 << 10) -> tuple[SecretKey, PublicKey]:
    ring = slot_parameters().ring()
    secret = SecretKey(ring, Source.fresh(), cap)
    return secret, PublicKey.generate(secret, ring, SEED)


def _random(prime: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, prime, (*shape, DEGREE), dtype=np.uint64)


def test_the_smallest_primes() -> None:
    assert PRIMES == (40961, 65537, 114689, 147457, 163841, 188417)
    assert slot_parameters().total_bits == 100


@pytest.mark.parametrize("prime", PRIMES)
def test_products_are_exact(prime: int) -> None:
    slots, (secret, public) = Slots(prime), _keys()
    x, factors, constants = _random(prime, 3), _random(prime, 2, 3, seed=1), _random(prime, 2, seed=2)
    query = slots.query(secret, x, SEED, 0)
    assert query.shape == (slots.query_words(3),)
    encrypted = slots.received(query, SEED, 0, 3)
    sums = np.stack([slots.ring.dot(slots.factors(row), encrypted) for row in factors])
    answer = slots.answer(public, Source.fresh(), sums, constants)
    assert answer.shape == (slots.answer_words(2),)
    expected = ((factors * x).sum(axis=1) + constants) % np.uint64(prime)
    assert np.array_equal(slots.opened(secret, answer, 2), expected)


def test_sums_of_64_products_stay_exact() -> None:
    prime = PRIMES[0]
    slots, (secret, public) = Slots(prime), _keys()
    x, factors = _random(prime, 64), _random(prime, 64, seed=1)
    encrypted = slots.received(slots.query(secret, x, SEED, 0), SEED, 0, 64)
    sums = slots.ring.dot(slots.factors(factors), encrypted)[None]
    found = slots.opened(secret, slots.answer(public, Source.fresh(), sums, np.zeros((1, DEGREE), np.uint64)), 1)
    assert np.array_equal(found[0], (factors * x).sum(axis=0) % np.uint64(prime))


def test_the_flood_has_the_stated_width() -> None:
    assert FLOOD_BITS - np.log2(DEGREE) - module.NOISE_BITS == HIDING_BITS == 40


def test_a_half_is_never_used_twice() -> None:
    slots, (secret, _) = Slots(PRIMES[0]), _keys()
    slots.query(secret, _random(PRIMES[0], 2), SEED, 5)
    with pytest.raises(Refused):
        slots.query(secret, _random(PRIMES[0], 2), SEED, 6)


def test_decryptions_are_capped() -> None:
    slots, (secret, public) = Slots(PRIMES[0]), _keys(cap=1)
    zeros = np.zeros((2, 2, 2, DEGREE), np.uint64)
    answer = slots.answer(public, Source.fresh(), zeros, np.zeros((2, DEGREE), np.uint64))
    with pytest.raises(Refused, match="decryptions"):
        slots.opened(secret, answer, 2)


def test_what_is_no_answer() -> None:
    slots, (secret, _) = Slots(PRIMES[0]), _keys()
    noise = np.random.default_rng(3).integers(0, 1 << 63, slots.answer_words(1), dtype=np.uint64)
    cases: list[tuple[Any, str]] = [(noise[:-1], "words"), (noise.astype(np.int64), "words"), (noise, "noise")]
    for words, text in cases:
        with pytest.raises(BadInput, match=text):
            slots.opened(secret, words, 1)


# ---- attacks by the holder of the key
class _Answer:
    """An owner's product of one query, before it is rounded; with the guards or without one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rerandomised: bool = True, flooded: bool = True) -> None:
        self.slots, (self.secret, public) = Slots(PRIMES[0]), _keys()
        ring = self.ring = self.slots.ring
        self.query = self.slots.received(
            self.slots.query(self.secret, np.zeros((1, DEGREE), np.uint64), SEED, 0), SEED, 0, 1
        )
        self.factors = self.slots.factors(_random(PRIMES[0], 1, seed=4))[0]  # the owner's secret
        seen: list[np.ndarray] = []
        if not rerandomised:
            none = np.zeros((1, 2, *self.factors.shape), np.uint64)
            monkeypatch.setattr(module, "zero_parts", lambda *_: (none, none))
        source: Any = Source.fresh()
        if not flooded:
            source = _NoFlood(source)

        def watched(ring: Any, x: np.ndarray, bits: int) -> np.ndarray:
            seen.append(x)
            return x[..., 0, :]

        monkeypatch.setattr(type(ring), "to_torus", watched)
        products = ring.multiply(self.factors, self.query[0])[None]
        self.slots.answer(public, source, products, np.zeros((1, DEGREE), np.uint64))
        self.c0, self.c1 = (part[0] for part in seen)

    def by_division(self) -> float:
        """How much of the factor c1 / a gives back."""
        ring = self.ring
        halves = zip(self.query[0, 1], ring.primes, strict=True)
        inverse = np.stack([[pow(int(v), -1, p) for v in row] for row, p in halves])
        found = ring.multiply(ring.ntt(self.c1), inverse.astype(np.uint64))
        return float((found == self.factors).mean())

    def by_noise(self) -> float:
        """Correlation of the phase with the errors of the query times a guess of the factor: the right one."""
        ring, secret = self.ring, self.secret.reveal(self.ring)
        error = ring.add(self.query[0, 0], ring.multiply(self.query[0, 1], secret))
        expected = ring.to_integers(ring.intt(ring.multiply(error, self.factors))).astype(float)
        phase = ring.add(self.c0, ring.intt(ring.multiply(ring.ntt(self.c1), secret)))
        return float(np.corrcoef(ring.to_integers(phase).astype(float), expected)[0, 1])


class _NoFlood:
    def __init__(self, source: Source) -> None:
        self._source = source

    def integers(self, ring: Any, bits: int, *shape: int) -> np.ndarray:
        return np.zeros((*shape, len(ring.primes), ring.degree), np.uint64)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def test_division_and_noise_give_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = _Answer(monkeypatch)
    assert answer.by_division() < 0.01
    assert abs(answer.by_noise()) < 0.08  # five deviations


def test_without_a_fresh_zero_division_gives_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _Answer(monkeypatch, rerandomised=False).by_division() == 1.0


def test_without_a_flood_the_noise_gives_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _Answer(monkeypatch, flooded=False).by_noise() > 0.9

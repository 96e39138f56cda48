"""The refresh: exact, of known cost, and nothing in the buyer's view. Attacks succeed where a guard is taken out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from enclave.engines.he.lattice.parameters import Parameters, checked, primes_of
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.rlwe import phase
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.he.regression import refresh as module
from enclave.engines.he.regression.refresh import Refresh, lifted
from enclave.errors import BadInput, PeerLost, Refused

N = 4096
SMALL = 2**20  # the owners' parts lie below it


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return checked("ckks", N, primes_of(N, [30, 30, 24]))


def parts_of(owners: int, rounds: int) -> np.ndarray:
    """What each owner adds in each round: [rounds, owners, N]."""
    return np.random.default_rng(1).integers(-SMALL, SMALL, (rounds, owners, N))


class View:
    """What the buyer decrypts, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums: list[Words] = []
        monkeypatch.setattr(module, "phase", self._phase)

    def _phase(self, secret: Any, ciphertext: Words) -> Words:
        self.sums.append(phase(secret, ciphertext))
        return self.sums[-1]


def program(parameters: Parameters, parts: np.ndarray, cap: int = 10) -> Callable[[Any], Any]:
    def main(engine: Any) -> Any:
        keys = engine.run(engine.keys(parameters, decryptions=cap))
        refresh = Refresh(engine, keys, 2)
        engine.run(refresh.begin())
        found = []
        for round_ in parts[:-1]:
            found.append(engine.run(refresh.refreshed(part(engine, refresh.low, round_))))
        found.append(engine.run(refresh.shared(part(engine, refresh.low, parts[-1]))))
        return found, keys

    return main


def part(engine: Any, ring: Ring, values: np.ndarray) -> Words | None:
    """This owner's part as a ciphertext whose c1 is zero, evaluation form."""
    if engine.rank is None or engine.is_buyer:
        return None
    coded = ring.encode(values[engine.rank])
    return np.stack((coded, np.zeros_like(coded)))


@pytest.mark.parametrize("owners", [1, 3])
def test_owners_get_the_sum_and_shares_of_it(run_he: Any, parameters: Parameters, owners: int) -> None:
    parts = parts_of(owners, 3)
    ran = run_he(owners + 1, program(parameters, parts))
    top, low = parameters.ring(), parameters.ring().lower(2)
    *rest, (buyers, keys) = ran.results
    assert buyers[:-1] == [None, None]
    for round_, expected in enumerate(parts[:-1].sum(1)):
        for found, _ in rest:
            error = top.to_integers(phase(keys.secret, top.intt(found[round_]))) - expected
            assert np.abs(error).max() < 2000 * owners, "fresh noise and no more"
        assert all(np.array_equal(rest[0][0][round_], found[round_]) for found, _ in rest)
    total = low.to_integers(low.add(buyers[-1], rest[0][0][-1])) - parts[-1].sum(0)
    assert np.abs(total).max() < 2000 * owners
    assert all(found[-1] is None for found, _ in rest[1:])


@pytest.mark.parametrize(("owners", "rounds"), [(1, 1 + 2 + 1), (3, 1 + 1 + 2 + 1)])
def test_rounds_and_bytes(run_he: Any, parameters: Parameters, owners: int, rounds: int) -> None:
    ran = run_he(owners + 1, program(parameters, parts_of(owners, 2)))
    assert ran.sessions[0].rounds == rounds
    low, top = parameters.primes[:2], parameters.primes
    down = 8 * packed_words(low, (2, 2, N))
    assert down == 2 * N * 60 // 8
    opened = [item for _, record in ran.records if record[0] == "open" for item in record[1:]]
    assert sum(size for label, _, size, *_ in opened if label == "he:masked") == 2 * owners * down
    assert [size for label, _, size, *_ in opened if label == "he:refreshed"] == [8 * packed_words(top, (3, N))]


def test_decryptions_are_counted_and_capped(run_he: Any, parameters: Parameters) -> None:
    assert run_he(2, program(parameters, parts_of(1, 2))).results[1][1].secret.decryptions == 2
    with pytest.raises(Refused, match="at most 1 decryptions"):
        run_he(2, program(parameters, parts_of(1, 2), cap=1))


def test_lifting_is_exact(parameters: Parameters) -> None:
    top = parameters.ring()
    low = top.lower(2)
    x = Source.fresh().uniform(low)
    x[:, 0], x[:, 1] = 0, [p - 1 for p in low.primes]
    value = low.to_integers(x) % low.modulus
    for row, prime in zip(lifted(x, low, top), top.primes, strict=True):
        assert (row == value % prime).all()


@pytest.mark.parametrize("rank", [0, 1], ids=["owner", "buyer"])
def test_a_flipped_bit_beyond_a_prime_is_refused(
    run_he: Any, monkeypatch: pytest.MonkeyPatch, parameters: Parameters, rank: int
) -> None:
    """From either side; any other bit makes uniform garbage, which nobody can tell from a mask."""
    sizes = {0: 2 * 2, 1: 3}

    def flipped(x: Words, primes: tuple[int, ...]) -> Words:
        words = pack(x, primes)
        if x.size == sizes[rank] * N:
            words[:2] = np.iinfo(np.uint64).max
        return words

    monkeypatch.setattr(module, "pack", flipped)
    # the owner that sent the bit hears only that the buyer is gone
    with pytest.raises(PeerLost if rank == 0 else BadInput, match="p1" if rank == 0 else "expected residues below"):
        run_he(2, program(parameters, parts_of(1, 2)))


# ---- what the buyer sees


def far_from_uniform(x: Words, ring: Ring) -> float:
    """Standard deviations by which the spread of an x modulo q over 64 equal parts is off: below 6 for uniform x."""
    counts = np.bincount(ring.to_torus(x, 6).astype(np.int64), minlength=64)
    expected = x.shape[-1] / 64
    chi = float(((counts - expected) ** 2 / expected).sum())
    return float(abs(chi - 63) / np.sqrt(2 * 63))


def seen(run_he: Any, monkeypatch: pytest.MonkeyPatch, parameters: Parameters, parts: np.ndarray) -> list[Words]:
    view = View(monkeypatch)
    run_he(parts.shape[1] + 1, program(parameters, parts))
    return view.sums


@pytest.mark.parametrize("size", [0, SMALL, 2**50], ids=["zero", "small", "large"])
def test_the_view_is_uniform_whatever_the_weights(
    run_he: Any, monkeypatch: pytest.MonkeyPatch, parameters: Parameters, size: int
) -> None:
    low = parameters.ring().lower(2)
    sums = seen(run_he, monkeypatch, parameters, np.full((3, 1, N), size))
    assert all(far_from_uniform(v, low) < 6 for v in sums)
    assert all(far_from_uniform(low.sub(a, b), low) < 6 for a, b in itertools.pairwise(sums))


def test_a_shortened_mask_is_seen(run_he: Any, monkeypatch: pytest.MonkeyPatch, parameters: Parameters) -> None:
    """A mask that is not uniform over all of q leaves the message to be read."""
    low = parameters.ring().lower(2)
    monkeypatch.setattr(Refresh, "_mask", lambda self, number: low.from_integers(np.full(N, 2**29, np.int64)))
    parts = parts_of(1, 2)
    sums = seen(run_he, monkeypatch, parameters, parts)
    assert far_from_uniform(sums[0], low) > 100
    guess = low.to_integers(sums[0]) - 2**29
    assert np.corrcoef(guess.astype(float), parts[0, 0])[0, 1] > 0.999, "the weights are there to be read"


def test_a_mask_used_twice_is_seen(run_he: Any, monkeypatch: pytest.MonkeyPatch, parameters: Parameters) -> None:
    low = parameters.ring().lower(2)
    fresh = Refresh._mask
    monkeypatch.setattr(Refresh, "_mask", lambda self, number: fresh(self, 0))
    parts = parts_of(1, 2)
    first, second = seen(run_he, monkeypatch, parameters, parts)
    assert far_from_uniform(first, low) < 6
    moved = low.to_integers(low.sub(second, first)).astype(float)
    assert np.corrcoef(moved, parts[1, 0] - parts[0, 0])[0, 1] > 0.999, "how the weights moved is there to be read"


def contributions(ran: Any, parameters: Parameters) -> list[Words]:
    """What a buyer decrypts of single owners' messages, had it kept to no rule."""
    low = parameters.ring().lower(2)
    secret = ran.results[-1][1].secret
    words = [w for label, w in ran.opened[-1] if label == "he:masked"]
    shape = (2, 2, N)
    return [phase(secret, unpack(w, low.primes, shape)) for w in words]


def test_one_owners_part_is_hidden_from_the_key(run_he: Any, parameters: Parameters) -> None:
    low = parameters.ring().lower(2)
    found = contributions(run_he(4, program(parameters, parts_of(3, 1))), parameters)
    assert len(found) == 3
    assert all(far_from_uniform(v, low) < 6 for v in found)
    pairs = [low.add(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert all(far_from_uniform(v, low) < 6 for v in pairs)


def test_without_shares_of_zero_a_part_is_read(
    run_he: Any, monkeypatch: pytest.MonkeyPatch, parameters: Parameters
) -> None:
    from enclave.engines.mpc.ranks import PartySession

    monkeypatch.setattr(PartySession, "pairs", lambda self, among=None: {})
    parts = parts_of(3, 1)
    found = contributions(run_he(4, program(parameters, parts)), parameters)
    guess = parameters.ring().lower(2).to_integers(found[1]).astype(float)
    assert np.corrcoef(guess, parts[0, 1])[0, 1] > 0.999


def test_without_an_encryption_of_zero_c1_is_what_the_owner_computed(
    run_he: Any, monkeypatch: pytest.MonkeyPatch, parameters: Parameters
) -> None:
    """The division attack's foothold: c1 as the buyer made it, times rows. A fresh encryption of zero takes it away."""
    low = parameters.ring().lower(2)

    def c1() -> Words:
        ran = run_he(2, program(parameters, parts_of(1, 1)))
        (words,) = [w for label, w in ran.opened[-1] if label == "he:masked"]
        found: Words = unpack(words, low.primes, (2, 2, N))[1]
        return found

    assert far_from_uniform(c1(), low) < 6
    monkeypatch.setattr(module, "encrypt_zero", lambda key, source: np.zeros((2, 2, N), np.uint64))
    assert not c1().any(), "the part's own c1, which was zero"

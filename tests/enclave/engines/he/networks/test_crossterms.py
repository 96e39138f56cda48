"""Products as shares: exact against Python integers; what an answer shows the key holder without each protection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import checked, primes_of
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.rlwe import phase
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear.matvec import MatrixPacking
from enclave.engines.he.networks import crossterms
from enclave.engines.he.networks.crossterms import Buyer, Moduli, Owner, matmul_modulo

DEGREE = 8192
PARAMETERS = checked("bfv", DEGREE, primes_of(DEGREE, [50] * 4))
MODULI = Moduli(PARAMETERS, 2)
SEED = PublicSeed.derived(b"crossterms")


class Pair:
    """A buyer and an owner, and who looks at both shares."""

    def __init__(self) -> None:
        self.secret = SecretKey(PARAMETERS.key_ring(), Source.fresh(), 10_000)
        self.public = PublicKey.generate(self.secret, PARAMETERS.ring(), SEED)
        self.buyer = Buyer(MODULI, self.secret, SEED)
        self.owner = Owner(MODULI, self.public, SEED, Source.fresh())
        self.used = 0

    def numbers(self) -> int:
        self.used += 1000
        return self.used


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


def clear(a: Words, b: Words) -> np.ndarray:
    """The integers that two shares modulo each t_i stand for."""
    total: Any = 0
    for i, prime in enumerate(MODULI.primes):
        rest = MODULI.modulus // prime
        total = total + (a[i].astype(object) + b[i].astype(object)) % prime * (rest * pow(rest, -1, prime))
    total = total % MODULI.modulus
    return np.where(total > MODULI.modulus // 2, total - MODULI.modulus, total)


def shared(values: np.ndarray) -> tuple[Words, Words]:
    """Shares of integers, as a step before would have left them."""
    rng = np.random.default_rng(0)
    mask = np.stack([rng.integers(0, prime, values.shape, np.uint64) for prime in MODULI.primes])
    primes = np.array(MODULI.primes, np.uint64)[:, None, None]
    return mask, (MODULI.residues(values) + primes - mask) % primes


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(300, 30, 16), (7, 784, 3), (700, 2, 40)])
def test_the_first_layer_is_right_to_one_unit(pair: Pair, rows: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(rows)
    x, w = rng.integers(-(2**16), 2**16, (rows, inputs)), rng.integers(-(2**15), 2**15, (inputs, outputs))
    packing, first = MatrixPacking.cheapest(DEGREE, rows, inputs, outputs), pair.numbers()
    sent = pair.buyer.encrypt_input(w, packing, first)
    answers, own = pair.owner.answer_input(x, pair.owner.expanded(sent, first), packing)
    assert answers.shape == (packing.blocks(rows), 2, 3, DEGREE)
    theirs = pair.buyer.open_input(answers, packing, rows)
    assert np.abs(clear(own, theirs) - x @ w).max() <= 1


def test_later_layers_are_exact(pair: Pair) -> None:
    rng = np.random.default_rng(1)
    values, w = rng.integers(-(2**60), 2**60, (500, 16)).astype(object), rng.integers(-(2**15), 2**15, (16, 3))
    a, b = shared(values)
    packing, first = MatrixPacking.cheapest(DEGREE, 500, 16, 3), pair.numbers()
    residues = MODULI.residues(w)
    weights = pair.owner.expanded(pair.buyer.encrypt_matrix(residues, packing, first), first)
    own, theirs = np.empty((2, 500, 3), np.uint64), np.empty((2, 500, 3), np.uint64)
    for i, prime in enumerate(MODULI.primes):
        answers, own[i] = pair.owner.answer_matrix(i, b[i], weights[i], packing)
        alone = matmul_modulo(a[i], residues[i], prime)
        theirs[i] = (pair.buyer.open_matrix(i, answers, packing, 500) + alone) % np.uint64(prime)
    assert (clear(own, theirs) == values @ w.astype(object)).all()


def test_products_of_shares_are_exact(pair: Pair) -> None:
    rng = np.random.default_rng(2)
    u, v = (rng.integers(-(2**47), 2**47, (600, 16)).astype(object) for _ in range(2))
    (ua, ub), (va, vb), first = shared(u), shared(v), pair.numbers()
    left = pair.owner.expanded(pair.buyer.encrypt_slots(ua, first), first)
    first = pair.numbers()
    right = pair.owner.expanded(pair.buyer.encrypt_slots(va, first), first)
    own, theirs = np.empty_like(ua), np.empty_like(ua)
    for i, prime in enumerate(MODULI.primes):
        answers, mask = pair.owner.answer_slots(i, [(vb[i], left[i]), (ub[i], right[i])])
        own[i] = [
            [(int(p) * int(q) + int(r)) % prime for p, q, r in zip(*z, strict=True)]
            for z in zip(ub[i], vb[i], mask, strict=True)
        ]
        opened = pair.buyer.open_slots(i, answers, (600, 16))
        theirs[i] = [
            [(int(p) * int(q) + int(r)) % prime for p, q, r in zip(*z, strict=True)]
            for z in zip(ua[i], va[i], opened, strict=True)
        ]
    assert (clear(own, theirs) == u * v).all()


@pytest.mark.parametrize("depth", [1, 5, 70_000])
def test_products_of_residues_are_exact(depth: int) -> None:
    prime, rng = MODULI.primes[0], np.random.default_rng(depth)
    x, y = (rng.integers(prime - 1000, prime, shape, np.uint64) for shape in ((2, depth), (depth, 3)))
    expected = (x.astype(object) @ y.astype(object)) % prime
    assert (matmul_modulo(x, y, prime) == expected).all()


def test_hiding_is_far_above_forty_bits() -> None:
    assert MODULI.slot_hiding_bits(2) > 70
    assert MODULI.matrix_hiding_bits(MatrixPacking(DEGREE, 256, 10, 1)) > 60
    # what is flooded must still be readable: less than half of the message's scale
    assert MODULI.flood_bits < math.log2(PARAMETERS.modulus / MODULI.primes[0]) - 1


def test_the_sizes_of_moduli_are_checked() -> None:
    with pytest.raises(ValueError, match="1 to 3 moduli"):
        Moduli(PARAMETERS, 4)


# ---- attacks of the key holder, who knows its own errors and masks
def answered(pair: Pair, share: Words, monkeypatch: pytest.MonkeyPatch, guards: str) -> tuple[Words, Words, Words]:
    """(question, answer, errors of the question) for slots modulo t_0, all coefficient form over all primes."""
    base, first = MODULI.base, pair.numbers()
    zeros = np.zeros((2, *share.shape), np.uint64)
    question = pair.owner.expanded(pair.buyer.encrypt_slots(zeros, first), first)[0]
    errors = phase(pair.secret, base.intt(question))  # of a message of zeros
    source = Source.fresh()
    owner = Owner(MODULI, pair.public, SEED, source)
    if "flood" not in guards:
        monkeypatch.setattr(Moduli, "flood_bits", property(lambda self: 1))
    if "zero" not in guards:
        monkeypatch.setattr(
            crossterms, "protected",
            lambda public, source, sums, mask: _masked_only(sums, mask),
        )  # fmt: skip
    monkeypatch.setattr(Ring, "to_torus", lambda self, x, bits: x)  # no switch: all of the noise
    answers, _ = owner.answer_slots(0, [(share, question)])
    return base.intt(question), answers, errors


def _masked_only(sums: Words, mask: Words) -> Words:
    answers = MODULI.base.intt(sums)
    answers[..., 0, :, :] = MODULI.base.add(answers[..., 0, :, :], mask)
    return answers


def share_of(seed: int) -> Words:
    return np.random.default_rng(seed).integers(0, MODULI.primes[0], (1, DEGREE), np.uint64)


def plaintext(share: Words) -> np.ndarray:
    """The polynomial that the owner multiplies with: small integers modulo t_0, centred."""
    coefficients = MODULI.single(0).intt(share[:, None])[0, 0].view(np.int64)
    return coefficients - MODULI.primes[0] * (coefficients > MODULI.primes[0] // 2)


def noise_correlation(pair: Pair, monkeypatch: pytest.MonkeyPatch, guards: str) -> float:
    base, share = MODULI.base, share_of(3)
    _, answers, errors = answered(pair, share, monkeypatch, guards)
    phases = base.to_integers(phase(pair.secret, answers))[0]
    scale = PARAMETERS.modulus // MODULI.primes[0]
    noise = (phases + scale // 2) % scale - scale // 2
    expected = base.to_integers(base.intt(base.multiply(base.ntt(errors), base.encode(plaintext(share)[None]))))[0]
    return float(np.corrcoef(noise.astype(float), expected.astype(float))[0, 1])


def test_noise_tells_the_share_unless_it_is_flooded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        assert noise_correlation(pair, patch, "zero") > 0.99
    with monkeypatch.context() as patch:
        assert abs(noise_correlation(pair, patch, "zero flood")) < 0.06


def test_division_shows_the_share_unless_zero_is_added(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    share = share_of(4)

    def found(guards: str) -> float:
        with monkeypatch.context() as patch:
            question, answers, _ = answered(pair, share, patch, guards)
        one = MODULI.base.lower(1)
        a, c = (one.ntt(x[0, 1, :1])[0] for x in (question, answers))
        quotient = np.array(
            [int(v) * pow(int(u), -1, one.primes[0]) % one.primes[0] for u, v in zip(a, c, strict=True)]
        )
        return float((quotient == share[0].astype(object)).mean())

    assert found("flood") == 1.0  # flooded and masked, yet every element is read off
    assert found("zero flood") < 0.01


def test_what_the_buyer_opens_is_uniform(pair: Pair) -> None:
    """Whatever the rows are: the mask covers all coefficients of the first layer, outputs or not."""
    packing, w, first = MatrixPacking(DEGREE, 4, 3, 2), np.full((4, 3), 1000), pair.numbers()
    weights = pair.owner.expanded(pair.buyer.encrypt_input(w, packing, first), first)
    for x in (np.zeros((100, 4), np.int64), np.full((100, 4), 2**16)):
        answers, _ = pair.owner.answer_input(x, weights, packing)
        ring = MODULI.base.lower(3)
        opened = ring.to_torus(phase(pair.secret, answers), 64)  # all coefficients, not the outputs alone
        for bit in (63, 62, 40):
            assert abs(float((opened >> np.uint64(bit) & np.uint64(1)).mean()) - 0.5) < 0.03


def test_representations_hide_the_parties(pair: Pair) -> None:
    assert repr(pair.buyer) == "Buyer(<redacted>)" and repr(pair.owner) == "Owner(<redacted>)"


def test_words_are_what_the_integers_say() -> None:
    """The switch back from 2^64: against Python integers, at the edges too."""
    rng, prime = np.random.default_rng(7), MODULI.primes[1]
    words = rng.integers(0, 2**64, 4096, np.uint64)
    words[:5] = [0, 1, 2**63, 2**64 - 1, 2**64 - 2**13]
    rounded = [((int(word) * prime + 2**63) >> 64) % prime for word in words]
    assert (crossterms._rounded_share(words, prime) == np.array(rounded, np.uint64)).all()
    ring = MODULI.base.lower(2)
    values = np.array([int(v) * 2**13 + 5 for v in rng.integers(-(2**63), 2**63, DEGREE)], object)
    values[:4] = [0, -1, 2**76, -(2**76)]
    found = crossterms._modulo_words(ring.from_integers(values), ring.primes)
    assert (found == np.array([int(v) % 2**64 for v in values], np.uint64)).all()

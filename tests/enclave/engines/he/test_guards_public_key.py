"""A public key b that is none: what it does to answers that are flooded, and that it does nothing to those with masks.

With b = L, c0 holds L u: if L stands out of the flood, u can be read, and a u taken off c1. See `keys.PublicKey`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.engines.he.decisions.sums import HIDING
from enclave.engines.he.decisions.truncation import HIDING as TRUNCATION
from enclave.engines.he.decisions.zero_forms import hiding
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.lattice.keys import Domain, PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.products import protected
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear import shares
from enclave.engines.he.linear.gram import plan_functional
from enclave.engines.he.linear.scoring import plan_scoring
from enclave.engines.he.planner import HONEST
from tests.enclave.engines.he.linear.test_scoring import BITS

PLAN = plan_scoring(1, 1, 8192, BITS, 16.0)
RING = PLAN.query.parameters.ring()
SEED = PublicSeed.derived(b"a malicious key")
FLOOD_BITS = PLAN.work.flood_bits
LEVEL_BITS = FLOOD_BITS + 4


def constant(ring: Ring, value: int) -> Words:
    """A constant polynomial, evaluation form [k, N]."""
    found = np.zeros(ring.degree, object)
    found[0] = value
    return ring.ntt(ring.from_integers(found))


@pytest.fixture(scope="module")
def bent() -> PublicKey:
    return PublicKey(RING, constant(RING, 1 << LEVEL_BITS), SEED)


def answer(public: PublicKey, x: int, mask: Callable[[Source], Words]) -> tuple[Words, Words]:
    """What an owner with one number x makes of a weight of zero, encrypted without an error under s = 0: (0, a)."""
    a = SEED.uniform(RING, Domain.MESSAGES, 0, 1)[0]
    sums = np.stack((np.zeros_like(a), RING.multiply(RING.ntt(a), constant(RING, x))))
    source = Source.fresh()
    found = protected(public, source, sums, mask(source))
    return found[0], found[1]


def read_off(public: PublicKey, c0: Words, c1: Words, highest: int) -> list[int]:
    """All x below `highest` that explain c1, once the u that c0 shows is taken off."""
    high = [round(int(v) / (1 << LEVEL_BITS)) for v in RING.to_integers(c0)]
    u = RING.ntt(RING.from_integers(np.array([max(-1, min(1, v)) for v in high])))
    bare = RING.to_integers(RING.sub(c1, RING.intt(RING.multiply(u, public.a))))
    a = RING.to_integers(SEED.uniform(RING, Domain.MESSAGES, 0, 1)[0])[:4]
    near = []
    for x in range(highest):
        rest = [
            (int(b) - x * int(v) + RING.modulus // 2) % RING.modulus - RING.modulus // 2
            for b, v in zip(bare, a, strict=False)
        ]
        if max(abs(r) for r in rest) < 100:
            near.append(x)
    return near


def test_attack_under_flooding_a_large_b_gives_the_row(bent: PublicKey) -> None:
    """Of a whole c0, with one number unknown: why flooding is stated for honest keys alone."""
    c0, c1 = answer(bent, 1234, lambda source: source.integers(RING, FLOOD_BITS))
    assert read_off(bent, c0, c1, 4096) == [1234]


def test_an_honest_key_gives_nothing_to_the_same_attack() -> None:
    key = SecretKey(RING, Source.fresh(), 0)
    honest = PublicKey.generate(key, RING, SEED)
    c0, c1 = answer(honest, 1234, lambda source: source.integers(RING, FLOOD_BITS))
    assert read_off(honest, c0, c1, 4096) == []


def test_under_a_uniform_mask_a_large_b_gives_nothing(bent: PublicKey) -> None:
    c0, c1 = answer(bent, 1234, lambda source: source.uniform(RING))
    assert read_off(bent, c0, c1, 4096) == []
    spread = np.array([int(v) / RING.modulus for v in RING.to_integers(c0)])
    assert abs(spread.mean()) < 0.02 and abs(spread.std() - 12**-0.5) < 0.02, "c0 is uniform, whatever b is"


def test_only_the_scores_of_c0_leave() -> None:
    """So a block of few rows shows few coefficients of b u, too few to take a u off c1."""
    few = plan_scoring(30, 1, 20, BITS, 16.0)
    assert few.block_words(20) == few.c0_bits + few.packing.degree // 64 * few.c1_bits
    assert plan_functional(100, 10.0).answer_words == 1 + plan_functional(100, 10.0).parameters.degree


def test_every_statement_of_flooding_names_its_condition() -> None:
    """And none of a mask has it."""
    flooded = [PLAN.hiding, plan_functional(100, 10.0).hiding, HIDING, TRUNCATION, hiding("comparison")]
    assert all(HONEST in each.method and each.bits >= 40 for each in flooded)
    assert HONEST not in shares.hiding("scores").method and shares.hiding("scores").bits >= 40


def test_shares_send_no_c0(run_he: Any) -> None:
    """A conversion to shares keeps c0: the buyer gets c1 alone, pseudo-random whatever b is."""
    ring = shares_ring()
    bits = shares.returned_bits(ring.degree, 20)
    key = SecretKey(ring, Source.fresh(), 0)
    bent = PublicKey(ring, constant(ring, ring.modulus // 8), SEED)
    zeros = np.zeros((1, 2, len(ring.primes), ring.degree), np.uint64)

    def program(engine: HeEngine) -> Any:
        pair = shares.Pair(ring, 0, 1, bent, Source.fresh(), key if engine.is_buyer else None)
        return engine.run(shares.to_shares(engine.session, pair, lambda: [zeros], 1, bits))

    ran = run_he(2, program)
    ((label, words),) = ran.opened[1]
    assert label == "he:share" and words.size == shares.returned_words(ring, 1, bits)
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.01, "a u + e1, though the ciphertext was zeros and b a constant"
    assert abs(_ones(ran.results[0]) - 0.5) < 0.01 and abs(_ones(ran.results[1]) - 0.5) < 0.01


def shares_ring() -> Ring:
    from enclave.engines.he.linear.shared_products import parameters

    return parameters().ring()


def _ones(share: NDArray[Any]) -> float:
    return float(np.unpackbits(share.view(np.uint8)).mean())

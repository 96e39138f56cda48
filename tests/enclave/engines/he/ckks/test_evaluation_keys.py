"""Evaluation keys over a session: they work up to their level, cost what is stated, and no further."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from enclave.engines.he.ckks.evaluation_keys import KeyUse, evaluation_keys, key_bytes
from enclave.engines.he.ckks.evaluator import Evaluator
from enclave.engines.he.lattice.parameters import Parameters, checked, primes_of
from enclave.engines.he.lattice.rlwe import encrypt, expand, phase
from enclave.errors import BadInput

N, SCALE = 4096, 2.0**22
USES = (KeyUse(None, 1), KeyUse(5, 2), KeyUse(-1, 1), KeyUse(None, 2, conjugates=True))


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    (*data, special) = primes_of(N, [30, 24, 50])
    return checked("ckks", N, data, special)


@pytest.fixture
def made(run_he: Any, parameters: Parameters) -> tuple[Any, list[Evaluator], Any]:
    """A run, the evaluators of an owner and of the buyer, and the buyer's keys."""

    def program(engine: Any) -> Any:
        keys = engine.run(engine.keys(parameters))
        return engine.run(evaluation_keys(engine, keys, USES)), keys

    ran = run_he(2, program)
    (owner, _), (buyer, keys) = ran.results
    return ran, [owner, buyer], keys


def test_keys_work_up_to_their_level(made: Any, parameters: Parameters) -> None:
    _, (owner, buyer), keys = made
    keys.allow(6)
    values = np.random.default_rng(0).uniform(-1, 1, N // 2)
    ring = parameters.ring()
    coded = buyer.context.residues(buyer.encode(values, 2, SCALE).raw)
    b = encrypt(keys.secret, ring.intt(coded), keys.seed, 0)
    x = owner.encrypted(ring.ntt(expand(ring, b, keys.seed, 0)), SCALE)

    def opened(found: Any) -> np.ndarray:
        low = parameters.ring().lower(found.count)
        return buyer.decode(low.ntt(phase(keys.secret, low.intt(found.residues))), found.scale)

    low = owner.lower(x, 1)
    assert np.abs(opened(owner.rotate(x, 5)) - np.roll(values, -5)).max() < 2e-3
    assert np.abs(opened(owner.rotate(low, 5)) - np.roll(values, -5)).max() < 2e-3
    assert np.abs(opened(owner.rotate(low, -1)) - np.roll(values, 1)).max() < 2e-3
    shrunk = owner.lower(owner.encrypted(ring.ntt(expand(ring, b, keys.seed, 0)), SCALE), 1)
    assert np.abs(opened(owner.times(shrunk, 0.5)) - values / 2).max() < 2e-3
    turned = owner.multiply_plain(x, owner.encode(1j * (1.0 - 2.0 * (np.arange(N // 2) % 2)), 2, 1.0))
    assert turned.scale == x.scale, "a product with the monomial X^(N/2), exact"
    assert np.abs(opened(owner.conjugate(owner.add(x, turned))) - values).max() < 2e-3
    assert np.abs(opened(owner.add(turned, owner.conjugate(turned)))).max() < 2e-3, "an imaginary part alone"
    for call in (lambda: owner.rotate(x, -1), lambda: owner.square(x), lambda: buyer.rotate(x, 5)):
        with pytest.raises(BadInput):
            call()


def test_one_round_of_stated_bytes(made: Any, parameters: Parameters) -> None:
    ran = made[0]
    (record,) = [r for _, r in ran.records if r[0] == "open" and r[1][0] == "he:evaluation key"]
    sizes = [size for _, _, size, *_ in record[1:]]
    words = N // 64
    assert sizes == [8 * words * count for count in (1 * 80, 2 * 104, 1 * 80, 2 * 104)]
    assert sum(sizes) == key_bytes(parameters, USES)


def test_keys_differ_each_time_and_hold_no_zeros(run_he: Any, parameters: Parameters) -> None:
    def program(engine: Any) -> Any:
        return engine.run(evaluation_keys(engine, engine.run(engine.keys(parameters)), USES))

    first, second = ([w for label, w in run_he(2, program).opened[0] if "key" in label] for _ in range(2))
    assert len(first) == len(second) == 1 + len(USES)
    for a, b in zip(first, second, strict=True):
        assert (a != b).mean() > 0.99
        assert (a == 0).mean() < 0.01

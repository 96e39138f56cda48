"""Expansion: constants exactly, whatever their count, with no more key switches and no more noise than planned."""

import numpy as np
import pytest

from enclave.engines.he.lattice import expansion as module
from enclave.engines.he.lattice.expansion import Expansion, expand_constants, expansion_keys, read_keys
from enclave.engines.he.lattice.keys import PublicSeed, SecretKey
from enclave.engines.he.lattice.noise import deviations, expanded_energy, switching_variance
from enclave.engines.he.lattice.parameters import checked, primes_of
from enclave.engines.he.lattice.rlwe import decode, encrypt, expand, phase
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.switching import apply_automorphism
from enclave.engines.he.linear.packing import Packing
from enclave.engines.he.linear.weights import Query, query_phases
from enclave.errors import BadInput
from tests.enclave.engines.he.packed_values import packed_phases
from tests.enclave.engines.he.seal_referee import Referee

N = 4096
PARAMETERS = checked("bfv", N, primes_of(N, (30, 36)), primes_of(N, (43,))[0])
KEY_RING, RING = PARAMETERS.key_ring(), PARAMETERS.ring()
SEED = PublicSeed.derived(b"expansion")
BITS = 30


def _key() -> SecretKey:
    return SecretKey(KEY_RING, Source.fresh(), 10_000)


def _expanded(key: SecretKey, values: np.ndarray, bits: int, shape: Expansion) -> np.ndarray:
    packed = encrypt(key, packed_phases(RING, values, bits, shape), SEED, 0)
    assert packed.shape == (shape.ciphertexts, 2, N)
    keys = read_keys(KEY_RING, expansion_keys(key, shape, SEED, 0), SEED, 0)
    return np.concatenate(list(expand_constants(keys, expand(RING, packed, SEED, 0), shape, RING)))


@pytest.mark.parametrize(("count", "levels"), [(1, 0), (3, 0), (1, 1), (8, 3), (5, 3), (13, 2), (21, 5), (33, 6)])
def test_constants_come_out_exactly_and_alone(count: int, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    switched = 0

    def counting(key: object, x: np.ndarray, exponent: int) -> np.ndarray:
        nonlocal switched
        switched += len(x)
        return apply_automorphism(key, x, exponent)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "apply_automorphism", counting)
    key, shape = _key(), Expansion(count, levels)
    values = np.random.default_rng(0).integers(0, 1 << BITS, count, np.uint64)
    found = decode(RING, phase(key, _expanded(key, values, BITS, shape)), BITS)
    assert (found.messages[:, 0] == values).all() and not found.messages[:, 1:].any()
    assert switched == shape.switches == count - shape.ciphertexts
    assert found.margin_bits > 15


def test_signed_and_fractional_values_keep_all_their_bits() -> None:
    key, shape = _key(), Expansion(6, 3)
    values = np.array([-1.0, 0.5, -0.375, 2.0**-20, 3.0, -4.0])
    phases = phase(key, _expanded(key, values, 4, shape))
    found = RING.to_integers(phases)[:, 0].astype(float) / RING.modulus * 16
    assert np.abs((found - values + 8) % 16 - 8).max() < 2.0**-45


def test_shapes_and_splits() -> None:
    shape = Expansion(784, 7)
    assert shape.ciphertexts == 7 and shape.sizes == (112,) * 7 and shape.switches == 777
    assert Expansion(10, 2).sizes == (4, 3, 3)
    assert Expansion(3, 0).sizes == (1, 1, 1) and Expansion(3, 0).switches == 0
    # five constants: 4 shares its first two splits with nobody but 0
    assert Expansion(5, 3).splits(5).tolist() == [3, 2, 2, 2, 3]
    assert Expansion(8, 3).splits(8).tolist() == [3] * 8
    assert Expansion(8, 3).exponents(4096) == (4097, 2049, 1025)
    for count, levels in ((0, 0), (5, -1), (5, 15)):
        with pytest.raises(BadInput, match="expected a positive count"):
            Expansion(count, levels)


def test_the_noise_of_expanded_constants_is_as_planned_and_seal_agrees() -> None:
    key, shape = _key(), Expansion(64, 6)
    values = np.random.default_rng(0).integers(0, 1 << 20, 64, np.uint64)
    constants = _expanded(key, values, 20, shape)
    phases = phase(key, constants)
    noise = RING.to_integers(RING.sub(phases, RING.from_torus(decode(RING, phases, 20).messages, 20))).astype(float)
    measured = (noise**2).sum(axis=-1).mean()
    switching = switching_variance(N, PARAMETERS.primes, KEY_RING.primes[-1])
    planned = expanded_energy(shape, N, switching)
    assert 0.5 < measured / planned < 1.05
    # what a score of random rows sees, as the planner adds it up
    rows = np.random.default_rng(1).integers(-(1 << 12), 1 << 12, (64, N))
    product = RING.to_integers(
        RING.intt(RING.dot(RING.encode(rows), RING.ntt(RING.from_integers(noise.astype(np.int64)))[:, None]))
    ).astype(float)
    spread = np.sqrt(64 * planned * (1 << 12) ** 2 / 3)
    assert 0.5 < product.std() / spread < 1.1 and np.abs(product).max() < deviations(40, N) * spread
    referee = Referee(PARAMETERS, key, 1 << 20)
    message = referee.decrypt(referee.ciphertext(constants[5]))
    assert message[0] == values[5] and not message[1:].any()


def test_keys_and_ciphertexts_must_fit_the_shape() -> None:
    key, shape = _key(), Expansion(4, 2)
    keys = read_keys(KEY_RING, expansion_keys(key, shape, SEED, 0), SEED, 0)
    packed = np.zeros((1, 2, 2, N), np.uint64)
    for some, ciphertexts in ((keys[:1], packed), (keys, np.concatenate((packed, packed)))):
        with pytest.raises(BadInput, match="expected 2 keys and 1 ciphertexts"):
            next(expand_constants(some, ciphertexts, shape, RING))


def test_weights_are_packed_as_values_are_one_by_one() -> None:
    weights = np.random.default_rng(4).normal(size=(13, 2))
    query = Query(PARAMETERS, Packing(N, 13), 2, 3)
    found = query_phases(RING, query, weights, 5)
    for output in range(2):
        assert (found[output] == packed_phases(RING, weights[:, output], 5, query.expansion)).all()

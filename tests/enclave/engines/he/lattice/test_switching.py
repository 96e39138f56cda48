"""Key switching, against integers and with SEAL's own evaluator under our keys."""

import numpy as np
import pytest
import tenseal.sealapi as seal

from enclave.engines.he.lattice.keys import PublicSeed, SecretKey
from enclave.engines.he.lattice.noise import switching_variance
from enclave.engines.he.lattice.parameters import checked, primes_of
from enclave.engines.he.lattice.rlwe import decode, encrypt, expand, phase
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.switching import (
    SwitchKey,
    apply_automorphism,
    automorphism_key,
    relinearisation_key,
    switch,
    switch_key_shape,
)
from enclave.errors import BadInput, Refused
from tests.enclave.engines.he.seal_referee import Referee

N = 4096
PARAMETERS = checked("bfv", N, primes_of(N, (30, 36)), primes_of(N, (43,))[0])
KEY_RING, RING = PARAMETERS.key_ring(), PARAMETERS.ring()
SEED = PublicSeed.derived(b"switching")
BITS = 20


def _key() -> SecretKey:
    return SecretKey(KEY_RING, Source.fresh(), 100)


def _encrypted(key: SecretKey, m: np.ndarray, first: int = 0) -> np.ndarray:
    return expand(RING, encrypt(key, RING.from_torus(m, BITS), SEED, first), SEED, first)


def _messages(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1 << BITS, (*shape, N), np.uint64)


def _turned(m: np.ndarray, exponent: int, modulus: int) -> np.ndarray:
    out = np.zeros_like(m)
    for i, value in enumerate(m.tolist()):
        place = i * exponent % (2 * N)
        out[place % N] = value if place < N else (modulus - value) % modulus
    return out


@pytest.mark.parametrize("exponent", [3, N + 1, 2 * N - 1])
def test_automorphisms_of_a_batch_are_exact(exponent: int) -> None:
    key, m = _key(), _messages(2)
    switcher = SwitchKey(KEY_RING, automorphism_key(key, exponent, SEED, 0), SEED, 0)
    found = decode(RING, phase(key, apply_automorphism(switcher, _encrypted(key, m), exponent)), BITS)
    expected = [_turned(row, exponent, 1 << BITS) for row in m]
    assert (found.messages == expected).all() and found.margin_bits > 20


@pytest.mark.parametrize("sizes", [(36, 36, 36), (45, 32, 32)])  # first errors are most of the noise, then rounding
def test_the_noise_of_a_switch_is_as_planned(sizes: tuple[int, ...]) -> None:
    special, *primes = primes_of(N, sizes)
    parameters = checked("bfv", N, primes, special)
    key = SecretKey(parameters.key_ring(), Source.fresh(), 100)
    ring, key_ring = parameters.ring(), parameters.key_ring()
    switcher = SwitchKey(key_ring, automorphism_key(key, 5, SEED, 0), SEED, 0)
    x = Source.fresh().uniform(ring, 8)
    secret = ring.automorphism_ntt(key.reveal(ring), 5)
    exact = ring.intt(ring.multiply(ring.ntt(x), secret))
    noise = ring.to_integers(ring.sub(phase(key, switch(switcher, x)), exact)).astype(float)
    planned = np.sqrt(switching_variance(N, parameters.primes, special))
    assert 0.7 < noise.std() / planned < 1.03  # rounding is planned for a secret without zeros


def test_seal_turns_ciphertexts_with_our_galois_keys() -> None:
    key, m, exponent = _key(), _messages(), 5
    b = automorphism_key(key, exponent, SEED, 0)
    referee = Referee(PARAMETERS, key, 1 << BITS)
    keys = referee.switch_keys(seal.GaloisKeys(), {(exponent - 1) // 2: SwitchKey(KEY_RING, b, SEED, 0).pairs})
    ciphertext = referee.ciphertext(_encrypted(key, m))
    before = referee.budget(ciphertext)
    referee.evaluator.apply_galois_inplace(ciphertext, exponent, keys)
    assert (referee.decrypt(ciphertext) == _turned(m, exponent, 1 << BITS)).all()
    assert referee.budget(ciphertext) > before - 8


def test_seal_relinearises_products_with_our_keys() -> None:
    key, t = _key(), 1 << 8
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, t, N, np.uint64), rng.integers(0, t, N, np.uint64)
    referee = Referee(PARAMETERS, key, t)
    pairs = SwitchKey(KEY_RING, relinearisation_key(key, SEED, 0), SEED, 0).pairs
    keys = referee.switch_keys(seal.RelinKeys(), {0: pairs})
    phases = RING.from_torus(np.stack((a, b)), 8)
    x, y = expand(RING, encrypt(key, phases, SEED, 0), SEED, 0)
    product = seal.Ciphertext()
    referee.evaluator.multiply(referee.ciphertext(x), referee.ciphertext(y), product)
    before = referee.budget(product)
    referee.evaluator.relinearize_inplace(product, keys)
    assert product.size() == 2
    full = np.convolve(a.astype(np.int64), b.astype(np.int64))
    full = np.append(full, 0)
    assert (referee.decrypt(product) == (full[:N] - full[N:]) % t).all()
    assert before > 0 and referee.budget(product) >= before - 1


def test_a_key_for_another_secret_gives_garbage_and_little_margin() -> None:
    key, m = _key(), _messages()
    switcher = SwitchKey(KEY_RING, automorphism_key(_key(), 3, SEED, 0), SEED, 0)
    found = decode(RING, phase(key, apply_automorphism(switcher, _encrypted(key, m), 3)), BITS)
    assert found.margin_bits < 0.01
    with pytest.raises(BadInput, match="noise margin"):
        found.checked(1)


def test_switch_keys_are_checked_and_their_numbers_serve_once() -> None:
    key = _key()
    b = automorphism_key(key, 3, SEED, 0)
    assert b.shape == switch_key_shape(KEY_RING) == (2, 3, N)
    with pytest.raises(Refused, match="used before"):
        automorphism_key(key, 5, SEED, 1)
    automorphism_key(key, 5, SEED, 2)
    with pytest.raises(BadInput, match="expected a switch key"):
        SwitchKey(KEY_RING, b[:1], SEED, 0)
    without = SecretKey(RING.lower(1), Source.fresh(), 1)
    with pytest.raises(BadInput, match="expected a special prime"):
        relinearisation_key(without, SEED, 0)

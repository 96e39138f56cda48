"""Encryption under our own keys: what comes out, what is counted, and what is refused."""

import copy
import pickle

import numpy as np
import pytest

from enclave.engines.he.lattice.keys import Domain, PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.noise import zero_variance
from enclave.engines.he.lattice.parameters import checked, primes_of
from enclave.engines.he.lattice.ring import Ring
from enclave.engines.he.lattice.rlwe import decode, encrypt, encrypt_zero, expand, phase, signed, zero_parts
from enclave.engines.he.lattice.sampling import ERROR_DEVIATION, Source
from enclave.engines.he.lattice.switching import SwitchKey, automorphism_key, relinearisation_key
from enclave.errors import BadInput, Refused
from tests.enclave.engines.he.seal_referee import Referee, noise_bits

N = 4096
PARAMETERS = checked("bfv", N, primes_of(N, (34, 34)), primes_of(N, (40,))[0])
RING = PARAMETERS.ring()
SEED = PublicSeed.derived(b"test")
BITS = 24


def _key(cap: int = 100) -> SecretKey:
    return SecretKey(PARAMETERS.key_ring(), Source.fresh(), cap)


def _messages(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1 << BITS, (*shape, N), np.uint64)


def test_a_batch_of_messages_decrypts_exactly_and_only_b_travels() -> None:
    key, m = _key(), _messages(3, 2)
    b = encrypt(key, RING.from_torus(m, BITS), SEED, 0)
    assert b.shape == (3, 2, 2, N)
    found = decode(RING, phase(key, expand(RING, b, SEED, 0)), BITS)
    assert (found.messages == m).all()
    assert found.margin_bits >= 22  # as fine as it is measured


def _is_error(residues: np.ndarray, ring: Ring) -> bool:
    """Whether residues are small and as wide as errors are."""
    values = ring.to_integers(residues).astype(float)
    return bool(np.abs(values).max() <= 21 and abs(values.std() / ERROR_DEVIATION - 1) < 0.05)


def test_every_encryption_and_every_key_has_errors_of_its_own() -> None:
    key, key_ring = _key(), PARAMETERS.key_ring()
    phases = RING.from_torus(_messages(3), BITS)
    ciphertexts = expand(RING, encrypt(key, phases, SEED, 0), SEED, 0)
    noise = RING.sub(phase(key, ciphertexts), phases)
    assert all(_is_error(x, RING) for x in noise) and len({x.tobytes() for x in noise}) == 3
    public = PublicKey.generate(key, RING, SEED)
    assert _is_error(RING.intt(RING.add(public.b, RING.multiply(public.a, key.reveal(RING)))), RING)
    _, errors = zero_parts(public, Source.fresh())
    assert _is_error(errors[0], RING) and _is_error(errors[1], RING) and (errors[0] != errors[1]).any()
    secret, special = key.reveal(key_ring), key_ring.primes[-1]
    switches = (
        (0, relinearisation_key(key, SEED, 0), key_ring.multiply(secret, secret)),
        (2, automorphism_key(key, 3, SEED, 2), key_ring.automorphism_ntt(secret, 3)),
    )
    for first, half, target in switches:
        for digit, (b, a) in enumerate(SwitchKey(key_ring, half, SEED, first).pairs):
            left = key_ring.add(b, key_ring.multiply(a, secret))
            message = np.zeros_like(left)
            message[digit] = [x * special % key_ring.primes[digit] for x in target[digit].tolist()]
            assert _is_error(key_ring.intt(key_ring.sub(left, message)), key_ring)


@pytest.mark.parametrize("t", [2, 65537, (1 << 20) - 3, 1 << 45, (1 << 59) - 1, 1 << 59])
def test_seal_decrypts_our_ciphertexts_of_messages_modulo_any_t(t: int) -> None:
    parameters = checked("bfv", N, primes_of(N, (36, 36)), primes_of(N, (37,))[0])
    ring, key = parameters.ring(), SecretKey(parameters.key_ring(), Source.fresh(), 10)
    m = np.random.default_rng(3).integers(0, t, N)
    phases = ring.from_integers((2 * ring.modulus * m.astype(object) + t) // (2 * t))
    ciphertext = expand(ring, encrypt(key, phases, SEED, 0), SEED, 0)
    referee = Referee(parameters, key, t)
    object_ = referee.ciphertext(ciphertext)
    assert (referee.decrypt(object_) == m.astype(np.uint64)).all()
    fresh = noise_bits(ring, t, referee.budget(object_))
    assert 2 < fresh < 6  # errors of at most 21 and a rounding


def test_encryptions_of_zero_are_zero_with_the_noise_of_three_products() -> None:
    key, source = _key(), Source.fresh()
    zeros = encrypt_zero(PublicKey.generate(key, RING, SEED), source, 4)
    noise = RING.to_integers(phase(key, zeros)).astype(float)
    expected = ERROR_DEVIATION * np.sqrt(1 + 4 * N / 3)  # e u + e0 + e1 s, u and s ternary
    assert abs(noise.std() / expected - 1) < 0.05
    assert 0.5 < noise.var() / zero_variance(N) < 1  # planned for u and s without zeros
    assert len(np.unique(zeros[:, 1, 0, :8])) == 32  # c1 differs each time


def test_the_parts_of_a_zero_add_up_in_either_form() -> None:
    key, source = _key(), Source.fresh()
    products, errors = zero_parts(PublicKey.generate(key, RING, SEED), source)
    noise = RING.to_integers(phase(key, RING.add(RING.intt(products), errors)))
    assert 0 < np.abs(noise.astype(float)).max() < 2**12


def test_a_lower_modulus_decrypts_too() -> None:
    key, m = _key(), _messages() >> np.uint64(10)
    ciphertext = expand(RING, encrypt(key, RING.from_torus(m, 14), SEED, 0), SEED, 0)
    low = RING.drop(ciphertext, 1)
    found = decode(RING.lower(1), phase(key, low), 14)
    assert (found.messages == m).all()
    # rounding a is rounding noise times s: sqrt(N / 18) = 15, a tenth of 2^34 / 2^15 at ten deviations
    assert found.margin_bits > 19 - np.log2(10 * np.sqrt(N / 18))


def test_decryptions_are_counted_and_capped() -> None:
    key = _key(cap=3)
    ciphertext = expand(RING, encrypt(key, RING.from_torus(_messages(2), BITS), SEED, 0), SEED, 0)
    phase(key, ciphertext)
    assert key.decryptions == 2
    with pytest.raises(Refused, match="expected at most 3 decryptions under one key, found 4") as caught:
        phase(key, ciphertext)
    assert caught.value.code == "refused.decryptions"
    assert key.decryptions == 2
    phase(key, ciphertext[0])
    with pytest.raises(Refused):
        phase(key, ciphertext[0])


def test_a_uniform_half_serves_once() -> None:
    key, phases = _key(), RING.from_torus(_messages(3), BITS)
    encrypt(key, phases, SEED, 5)
    for first in (0, 5, 7):
        with pytest.raises(Refused, match="it was used before") as caught:
            encrypt(key, phases[0], SEED, first)
        assert caught.value.code == "refused.reuse"
    encrypt(key, phases[0], SEED, 8)
    PublicKey.generate(key, RING, SEED)
    with pytest.raises(Refused):
        PublicKey.generate(key, RING, SEED)


def test_attack_a_uniform_half_used_twice_gives_away_the_difference_of_the_messages() -> None:
    key, m = _key(), _messages(2)
    phases = RING.from_torus(m, BITS)
    first = encrypt(key, phases[0], SEED, 0)
    key._next.clear()  # what the guard prevents
    second = encrypt(key, phases[1], SEED, 0)
    stolen = decode(RING, RING.sub(first, second), BITS)  # without the key
    assert (stolen.messages == (m[0] - m[1]) % (1 << BITS)).all()
    third = encrypt(key, phases[1], SEED, 1)
    hidden = decode(RING, RING.sub(first, third), BITS)
    assert np.mean(hidden.messages == (m[0] - m[1]) % (1 << BITS)) < 0.01


def test_uniform_polynomials_depend_on_seed_domain_and_number() -> None:
    draws = [
        SEED.uniform(RING, Domain.MESSAGES, 0, 1),
        SEED.uniform(RING, Domain.MESSAGES, 1, 1),
        SEED.uniform(RING, Domain.SWITCHING, 0, 1),
        SEED.uniform(RING, Domain.PUBLIC_KEY, 0, 1),
        PublicSeed.derived(b"other").uniform(RING, Domain.MESSAGES, 0, 1),
    ]
    assert len({x.tobytes() for x in draws}) == len(draws)
    assert (SEED.uniform(RING, Domain.MESSAGES, 0, 2)[1] == draws[1][0]).all()
    assert (PublicSeed(SEED.key).uniform(RING, Domain.MESSAGES, 0, 1) == draws[0]).all()
    with pytest.raises(BadInput):
        SEED.uniform(RING, Domain.MESSAGES, 1 << 48, 1)
    with pytest.raises(BadInput, match="16 bytes"):
        PublicSeed(b"short")


def test_secrets_are_neither_printed_nor_copied() -> None:
    key = _key()
    assert repr(key) == "SecretKey(<redacted>, 0 of 100 decryptions)"
    assert repr(key.source) == "Source(<redacted>)"
    for secret in (key, key.source):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            pickle.dumps(secret)
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            copy.copy(secret)


def test_a_public_key_of_another_ring_is_refused() -> None:
    with pytest.raises(BadInput, match="expected a public key"):
        PublicKey(RING, np.zeros((1, N), np.uint64), SEED)


def test_too_little_margin_is_an_error_and_no_result() -> None:
    key = _key()
    ciphertext = expand(RING, encrypt(key, RING.from_torus(_messages(), BITS), SEED, 0), SEED, 0)
    source = Source.fresh()
    for bits, fits in ((41, True), (43, True), (44, False)):  # the step is 2^44
        flood = np.stack((source.integers(RING, bits), np.zeros((2, N), np.uint64)))
        found = decode(RING, phase(key, RING.add(ciphertext, flood)), BITS)
        assert abs(found.margin_bits - (44 - bits)) < 0.01
        if fits:
            assert (found.checked(0.9) == _messages()).all()
        else:
            with pytest.raises(BadInput, match=r"expected a noise margin of 1 bits, found 0\.0"):
                found.checked(1)


def test_messages_are_read_as_signed_integers() -> None:
    m = np.array([0, 1, (1 << 23) - 1, 1 << 23, (1 << 24) - 1], np.uint64)
    assert signed(m, 24).tolist() == [0, 1, (1 << 23) - 1, -(1 << 23), -1]

"""The bridge to SEAL and the evaluator, with keys of our own; SEAL's own objects are the referee."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import tenseal.sealapi as sealapi

from enclave.engines.he.ckks import seal
from enclave.engines.he.ckks.evaluator import Encrypted, Evaluator, galois_element
from enclave.engines.he.ckks.seal import Context
from enclave.engines.he.lattice.keys import Domain, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import checked, primes_of
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.rlwe import encrypt, expand, phase
from enclave.engines.he.lattice.sampling import Source
from enclave.errors import BadInput, EnclaveError

SEED = PublicSeed(bytes(range(16)))
SCALE = 2.0**40


def switching_key(secret_key: SecretKey, target: Words, first: int, special: int) -> Words:
    """Digits that bring `target` (evaluation form, all primes) back to the secret."""
    ring = secret_key.ring
    digits = len(ring.primes) - 1
    a = secret_key.take(SEED, Domain.SWITCHING, first, digits, ring)
    b = ring.sub(ring.ntt(secret_key.errors(ring, digits)), ring.multiply(a, secret_key.reveal(ring)))
    for i, prime in enumerate(ring.primes[:-1]):
        row = np.array([(int(word) * special + int(old)) % prime for word, old in zip(target[i], b[i, i], strict=True)])
        b[i, i] = row.astype(np.uint64)
    return np.stack((b, a), axis=1)


class Room:
    """One small parameter set with keys, made once for the file."""

    def __init__(self) -> None:
        (*data, special) = primes_of(4096, [40, 29, 40])
        self.context = Context(checked("ckks", 4096, data, special))
        ring = self.context.key_ring
        self.secret = SecretKey(ring, Source.fresh(), 1000)
        s = self.secret.reveal(ring)
        relin = switching_key(self.secret, ring.multiply(s, s), 0, special)
        element = galois_element(4096, 3)
        turned = switching_key(self.secret, ring.automorphism_ntt(s, element), 10, special)
        self.evaluator = Evaluator(self.context, relin, {element: turned})
        self.used = 0

    def encrypt(self, values: np.ndarray, scale: float = SCALE / 2**12) -> Encrypted:
        count = len(self.context.primes)
        ring = self.context.ring(count)
        coded = self.context.residues(self.evaluator.encode(values, count, scale).raw)
        b = encrypt(self.secret, ring.intt(coded), SEED, self.used)
        self.used += 1
        return self.evaluator.encrypted(ring.ntt(expand(ring, b, SEED, self.used - 1)), scale)

    def decrypt(self, x: Encrypted) -> np.ndarray:
        ring = self.context.ring(x.count)
        return self.evaluator.decode(ring.ntt(phase(self.secret, ring.intt(x.residues))), x.scale)


@pytest.fixture(scope="module")
def room() -> Room:
    return Room()


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, 2048)


def test_residues_go_to_seal_and_back(room: Room) -> None:
    ring = room.context.ring(2)
    random = Source.fresh().uniform(ring, 2)
    assert np.array_equal(room.context.residues(room.context.ciphertext(random, SCALE)), random)
    assert np.array_equal(room.context.residues(room.context.plaintext(random[0], SCALE)), random[0])
    assert room.context.ciphertext(random[:, :1], 8.0).coeff_modulus_size() == 1


def test_seal_decrypts_our_ciphertext(room: Room, values: np.ndarray) -> None:
    """Its own decryptor, given our secret in its format, agrees: roots, order and signs are SEAL's."""
    words = room.secret.reveal(room.context.key_ring)
    head = struct.pack("<4QQd", *room.context.raw.key_parms_id(), words.size, 1.0)
    secret = sealapi.SecretKey()
    with seal._loading() as path:
        seal._write(path, seal._framed([head, *seal._array(words)]))
        secret.load(room.context.raw, path)
    x = room.encrypt(values)
    found = sealapi.Plaintext()
    sealapi.Decryptor(room.context.raw, secret).decrypt(x.raw, found)
    assert np.abs(np.array(sealapi.CKKSEncoder(room.context.raw).decode_double(found)) - values).max() < 1e-4


def test_arithmetic(room: Room, values: np.ndarray) -> None:
    ev, x = room.evaluator, room.encrypt(values)
    other = values[::-1].copy()
    y = room.encrypt(other)
    plain = ev.encode(other, 2, x.scale)
    cases = {
        "add": (ev.add(x, y), values + other),
        "sub": (ev.sub(x, y), values - other),
        "negate": (ev.negate(x), -values),
        "add_plain": (ev.add_plain(x, plain), values + other),
        "multiply_plain": (ev.rescale(ev.multiply_plain(x, plain)), values * other),
        "multiply": (ev.rescale(ev.multiply(x, y)), values * other),
        "square": (ev.rescale(ev.square(x)), values**2),
        "rotate": (ev.rotate(x, 3), np.roll(values, -3)),
        "lower": (ev.lower(x, 1), values),
    }
    for name, (found, expected) in cases.items():
        assert np.abs(room.decrypt(found) - expected).max() < 2e-3, name
    halved = ev.times(x, 0.5)
    assert halved.scale == 2 * x.scale
    assert np.abs(room.decrypt(halved) - values / 2).max() < 2e-4
    near = x.scale * (1 + 2**-30)
    assert ev.at_scale(x, near).scale == near
    assert np.abs(room.decrypt(ev.add(x, ev.at_scale(y, near))) - values - other).max() < 2e-4
    assert np.abs(room.decrypt(x) - values).max() < 2e-4, "operations left their operand alone"
    assert cases["multiply"][0].scale == x.scale * y.scale / room.context.primes[1]


def test_dot_leaves_zeros_out(room: Room, values: np.ndarray) -> None:
    ev, x = room.evaluator, room.encrypt(values)
    zero, half = ev.encode(np.zeros(2048), 2, SCALE / 2**12), ev.encode(0.5, 2, SCALE / 2**12)
    found = ev.dot([(x, zero), (x, half), (x, half)])
    assert found is not None
    assert np.abs(room.decrypt(found) - values).max() < 1e-3
    assert ev.dot([(x, zero)]) is None


def refuses(code: str, *call: object) -> None:
    function, *arguments = call
    with pytest.raises(BadInput) as caught:
        function(*arguments)  # type: ignore[operator]
    assert caught.value.code == code


def test_refusals(room: Room, values: np.ndarray) -> None:
    ev, x = room.evaluator, room.encrypt(values)
    low = ev.lower(x, 1)
    refuses("input.depth", ev.rescale, low)
    refuses("input.depth", ev.square, ev.square(x))
    refuses("input.depth", ev.multiply_plain, low, ev.encode(1.0, 2, 4.0))
    refuses("input.depth", ev.lower, low, 2)
    refuses("input.depth", ev.encode, 1e9, 1, 2.0**39)
    refuses("input.scale", ev.add, x, room.encrypt(values, SCALE / 2**11))
    refuses("input.scale", ev.add_plain, x, ev.encode(1.0, 2, 2.0**27))
    refuses("input.scale", ev.at_scale, x, x.scale * (1 + 2**-20))
    refuses("input.transparent", ev.multiply_plain, x, ev.encode(0.0, 2, 4.0))
    refuses("input.transparent", ev.sub, x, x)
    refuses("input", ev.rotate, x, 1)
    refuses("input", ev.encode, math.nan, 1, 4.0)
    refuses("input", ev.encode, np.ones(2049), 1, 4.0)
    foreign = Evaluator(Context(room.context.parameters))
    refuses("input.context", foreign.add, x, x)
    refuses("input.context", foreign.multiply_plain, x, ev.encode(1.0, 2, 4.0))
    refuses("input", Evaluator(room.context).square, x)


def test_what_is_loaded_is_checked(room: Room) -> None:
    context = room.context
    good = Source.fresh().uniform(context.ring(2), 2)
    bad = good.copy()
    bad[1, 0, 7] = context.primes[0]
    refuses("input", context.ciphertext, bad, 1.0)
    refuses("input", context.ciphertext, good[:1], 1.0)
    refuses("input", context.ciphertext, good[..., :100], 1.0)
    refuses("input", context.ciphertext, good.astype(np.int64), 1.0)
    refuses("input.transparent", context.ciphertext, np.stack((good[0], np.zeros_like(good[0]))), 1.0)
    refuses("input", context.galois_keys, {4: np.zeros((2, 2, 3, 4096), np.uint64)})
    refuses("input", context.relin_keys, np.zeros((2, 2, 2, 4096), np.uint64))
    refuses("input", context.relin_keys, np.full((2, 2, 3, 4096), context.primes[0] << 2, np.uint64))
    with pytest.raises(EnclaveError):
        Context(checked("bfv", 4096, context.primes))

"""The keys that a CKKS evaluator needs, from the buyer to the owners: relinearisation and rotations.

A key need not serve all levels. One for ciphertexts of `count` primes has `count` digits over count + 1 primes, so
that its size falls with the square of the level: a rotation at the bottom costs a tenth of one at the top.

Uniform halves come from the session's public seed, numbered by key and digit; only b travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclave.engines.he.ckks.evaluator import Evaluator, conjugation, galois_element
from enclave.engines.he.ckks.seal import Context
from enclave.engines.he.engine import HeEngine, Keys, sent_by
from enclave.engines.he.lattice.keys import Domain, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import Parameters
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.mpc.session import Item, Protocol

__all__ = ["KeyUse", "evaluation_keys", "key_bytes"]

_DIGITS = 64  # numbers of uniform polynomials for each key: more digits than a chain has


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key that is needed.

    Attributes:
        steps: of a rotation to the left; None: of products, or of the conjugation.
        count: most primes of a ciphertext that it is used on.
    """

    steps: int | None
    count: int
    conjugates: bool = False

    def element(self, degree: int) -> int | None:
        """The exponent of its automorphism; None for products."""
        if self.conjugates:
            return conjugation(degree)
        return None if self.steps is None else galois_element(degree, self.steps)


def key_bytes(parameters: Parameters, uses: Sequence[KeyUse]) -> int:
    """Bytes of these keys on the wire, to one owner."""
    return sum(8 * packed_words(_ring(parameters, use).primes, _shape(parameters, use)) for use in uses)


def evaluation_keys(engine: HeEngine, keys: Keys, uses: Sequence[KeyUse]) -> Protocol[Evaluator | None]:
    """Makes the keys at the buyer and an evaluator at every rank; None in a plan.

    The buyer's evaluator has no keys: it only encodes and decodes.

    **Cost** one round, none without uses; `key_bytes` to each owner.
    **Reveals** nothing (RLWE; keys of s^2 and s(X^g) under s: circular security, as everywhere).
    """
    parameters, items = keys.parameters, []
    for index, use in enumerate(uses):
        ring, shape = _ring(parameters, use), _shape(parameters, use)
        words = packed_words(ring.primes, shape)
        value = sent_by(engine.session, engine.buyer, words, lambda i=index, u=use: _made(keys, u, i))  # type: ignore[misc]
        items.append(Item("he:evaluation key", value, sender=engine.buyer))
    received = (yield items) if items else []
    if engine.session.blank:
        return None
    context = Context(parameters)
    if engine.is_buyer:
        return Evaluator(context)
    assert keys.seed is not None
    relin: Words | None = None
    galois: dict[int, Words] = {}
    for index, (use, words) in enumerate(zip(uses, received, strict=True)):
        b = unpack(words, _ring(parameters, use).primes, _shape(parameters, use))
        digits = np.stack((b, _uniform(keys.seed, parameters, use, index)), axis=1)
        element = use.element(parameters.degree)
        if element is None:
            relin = digits
        else:
            galois[element] = digits
    return Evaluator(context, relin, galois)


def _ring(parameters: Parameters, use: KeyUse) -> Ring:
    """Of a key for `use.count` primes: these and the special one."""
    return Parameters("ckks", parameters.degree, parameters.primes[: use.count], parameters.special).key_ring()


def _shape(parameters: Parameters, use: KeyUse) -> tuple[int, int, int]:
    return use.count, use.count + 1, parameters.degree


def _uniform(seed: PublicSeed, parameters: Parameters, use: KeyUse, index: int) -> Words:
    return seed.uniform(_ring(parameters, use), Domain.SWITCHING, index * _DIGITS, use.count)


def _made(keys: Keys, use: KeyUse, index: int) -> Words:
    """The packed half b of a key, at the buyer: b + a s = e, plus P s' at row i of digit i."""
    parameters, secret_key = keys.parameters, keys.secret
    assert secret_key is not None and keys.seed is not None and parameters.special is not None
    ring = _ring(parameters, use)
    secret = _rows(secret_key, use.count)
    a = secret_key.take(keys.seed, Domain.SWITCHING, index * _DIGITS, use.count, ring)
    b = ring.sub(ring.ntt(secret_key.errors(ring, use.count)), ring.multiply(a, secret))
    element = use.element(parameters.degree)
    target = ring.multiply(secret, secret) if element is None else ring.automorphism_ntt(secret, element)
    special = np.array([[parameters.special % prime] for prime in ring.primes], np.uint64)
    scaled = ring.multiply(target, np.ascontiguousarray(np.broadcast_to(special, target.shape)))
    message = np.zeros_like(b)
    for digit in range(use.count):
        message[digit, digit] = scaled[digit]
    return pack(ring.add(b, message), ring.primes)


def _rows(secret_key: SecretKey, count: int) -> Words:
    """The secret modulo the first `count` primes and the special one."""
    whole = secret_key.reveal(secret_key.ring)
    return np.concatenate((whole[:count], whole[-1:]))

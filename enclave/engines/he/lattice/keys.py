"""Keys of lattice encryption: the secret key, the public key, and the public seed that all uniform halves come from.

The uniform half `a` of every ciphertext and key is expanded from a public seed by whoever needs it, so it never
travels, and its maker cannot choose it: an `a` of zeros would undo the re-randomisation that hides an owner's rows.
"""

from __future__ import annotations

import math
from enum import IntEnum
from threading import Lock
from typing import NoReturn

import numpy as np

from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.mpc.random import KEY_BYTES, KeyStream, derive_key
from enclave.errors import BadInput, Refused

__all__ = ["Domain", "PublicKey", "PublicSeed", "SecretKey", "leading"]


class Domain(IntEnum):
    """What a uniform polynomial of a seed is for: each purpose has numbers of its own."""

    PUBLIC_KEY = 1
    SWITCHING = 2
    MESSAGES = 3


_NUMBER_BITS = 48


class PublicSeed:
    """A public seed, and the numbered uniform polynomials that it stands for (AES-CTR, exact rejection sampling)."""

    __slots__ = ("_stream", "key")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise BadInput(f"expected a seed of {KEY_BYTES} bytes, found {len(key)}")
        self.key = key
        self._stream = KeyStream(key)

    @classmethod
    def derived(cls, context: bytes) -> PublicSeed:
        """The seed of a public context, such as a session's id: nobody chooses it."""
        return cls(derive_key(bytes(KEY_BYTES), b"/he/seed/" + context))

    def __repr__(self) -> str:
        return f"PublicSeed({self.key.hex()})"

    def uniform(self, ring: Ring, domain: Domain, first: int, count: int) -> Words:
        """Polynomials first ... first + count - 1 of a domain: [count, k, N]."""
        if first < 0 or first + count > 1 << _NUMBER_BITS:
            raise BadInput(f"expected numbers below 2^{_NUMBER_BITS}, found {first} and {count} on")
        base = int(domain) << _NUMBER_BITS
        draws = [ring.uniform(self._stream, base + number) for number in range(first, first + count)]
        found: Words = np.array(draws, np.uint64).reshape(count, len(ring.primes), ring.degree)
        return found


class SecretKey:
    """A ternary secret; counts what is decrypted under it and which uniform halves it has used.

    Make a fresh one for each job. Decryptions are capped because every decrypted answer tells its reader something
    about the noise, and the noise about the key and the rows.

    Args:
        ring: all primes, the special prime of key switching last, if there is one.
        source: of the secret and of all errors under it.
        cap: ciphertexts that may be decrypted; see `allow`.
    """

    __slots__ = ("_lock", "_next", "_secret", "cap", "decryptions", "ring", "source")

    def __init__(self, ring: Ring, source: Source, cap: int) -> None:
        self.ring = ring
        self.source = source
        self.cap = cap
        self.decryptions = 0
        self._lock = Lock()  # threads may share a key
        self._next: dict[tuple[bytes, Domain], int] = {}
        self._secret = ring.ntt(ring.from_integers(source.ternary(ring.degree)))

    def __repr__(self) -> str:
        return f"SecretKey(<redacted>, {self.decryptions} of {self.cap} decryptions)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is neither pickled nor copied: its counters would start again")

    def reveal(self, ring: Ring) -> Words:
        """The secret modulo the first primes, evaluation form [k, N]: for this party's own computations alone."""
        return self._secret[: len(ring.primes)]

    def allow(self, ciphertexts: int) -> None:
        """Raises the cap by what a protocol is going to decrypt: a number of its plan, never of a message."""
        with self._lock:
            self.cap += ciphertexts

    def count(self, ciphertexts: int) -> None:
        """Counts decryptions before they happen.

        Raises: Refused (code "refused.decryptions"): beyond the cap.
        """
        with self._lock:
            if self.decryptions + ciphertexts > self.cap:
                raise Refused(
                    f"expected at most {self.cap} decryptions under one key, found {self.decryptions + ciphertexts}",
                    code="refused.decryptions",
                    hint="a new job has a fresh key",
                )
            self.decryptions += ciphertexts

    def take(self, seed: PublicSeed, domain: Domain, first: int, count: int, ring: Ring) -> Words:
        """Uniform polynomials for new encryptions under this key: [count, k, N]. Numbers only ever rise.

        Raises: Refused (code "refused.reuse"): one was used before; two ciphertexts with one `a` give away the
            difference of their messages.
        """
        with self._lock:
            least = self._next.get((seed.key, domain), 0)
            if first < least:
                raise Refused(
                    f"expected uniform polynomials from number {least} on, found {first}: it was used before",
                    code="refused.reuse",
                )
            self._next[seed.key, domain] = first + count
        return seed.uniform(ring, domain, first, count)

    def errors(self, ring: Ring, *shape: int) -> Words:
        """Fresh errors, coefficient form [*shape, k, N]."""
        return ring.from_integers(self.source.error(*shape, ring.degree))


class PublicKey:
    """(b, a) = (-a s + e, a) over a ring, evaluation form; a is polynomial 0 of the seed's own domain.

    What a dishonest b can do depends on what hides c0 where an encryption of zero (b u + e0, a u + e1) is added:

    - c0 under a mask uniform modulo q on every coefficient that is sent, or c0 not sent at all: nothing. c0 tells
      nothing of u then, and c1 is pseudo-random (RLWE) since a is not its maker's choice.
    - one coefficient of c0 is sent: that one number, with a little of u in it, and no more.
    - c0 is only flooded: a large b makes u stand out of the flood in the coefficients that are sent. Where all are,
      a u can be taken off c1 again; what is left, sum_j x_j a_j + e1, gives the rows to a search or to lattice
      reduction if few numbers are unknown, and otherwise there is no proof that it does not.

    Flooding is therefore for a key holder whose public key is what it should be, and says so in its statements.

    Args:
        b: [k, N], evaluation form.
    """

    __slots__ = ("a", "b", "ring")

    def __init__(self, ring: Ring, b: Words, seed: PublicSeed) -> None:
        expected = (len(ring.primes), ring.degree)
        if b.dtype != np.uint64 or b.shape != expected:
            raise BadInput(f"expected a public key uint64 {expected}, found {b.dtype} {b.shape}")
        self.ring = ring
        self.b = b
        self.a: Words = seed.uniform(ring, Domain.PUBLIC_KEY, 0, 1)[0]

    @classmethod
    def generate(cls, secret_key: SecretKey, ring: Ring, seed: PublicSeed) -> PublicKey:
        """The public key of a secret key over `ring`, which has its first primes."""
        a = secret_key.take(seed, Domain.PUBLIC_KEY, 0, 1, ring)[0]
        error = ring.ntt(secret_key.errors(ring))
        return cls(ring, ring.sub(error, ring.multiply(a, secret_key.reveal(ring))), seed)


def leading(x: Words, tail: int) -> int:
    """Number of elements of `tail` axes in an array."""
    return math.prod(x.shape[: x.ndim - tail])

"""Refreshing a sum of the owners' ciphertexts: back to the top of the chain, seen by nobody.

Every owner has a ciphertext of a part at the bottom of the chain, modulo q; what goes on is the sum of the parts.

1. Owner -> buyer: its part + Enc_pk(0) + a share of zero, which the owners draw from their pairwise keys, uniform
   modulo q; the first owner adds a mask r, uniform modulo q in every coefficient.
2. The buyer adds up and decrypts v = m + r modulo q, for m the integer sum of the phases, noise and all.
3. Buyer -> owners: v as an integer in [0, q), encrypted at the top.
4. Each owner subtracts r as an integer in [0, q): what is left is an encryption of v - r = m.

What the buyer sees: of the owners' c0, words uniform modulo q, independent of everything for any m (and for any set of
colluding ranks that leaves two owners out); v, uniform as r is; c1, hidden by the encryption of zero (RLWE), whose
uniform half no one chose. Nothing depends on how large the weights or the noise are, so nothing has to be flooded, and
errors that a buyer enlarged on purpose tell it nothing. An owner sees encryptions. A buyer that colludes with an owner
can decrypt what the owner computes on: that is so in any protocol where owners compute under one buyer's key.

The price is correctness: v - r is m + q where m + r leaves [0, q), with probability |m| / q for each coefficient.

`shared` ends with shares instead: the buyer keeps v, the first owner -r.

**Cost** of a refresh: 2 rounds; 4 polynomials at the bottom from each owner, one at the top to each.

**Reference** Juvekar, Vaikuntanathan, Chandrakasan, "Gazelle" (2018), section 3, for refreshing under a mask with the
key holder's help, there modulo the plaintext's modulus.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from enclave.engines.he.engine import HeEngine, Keys
from enclave.engines.he.lattice.keys import PublicKey
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.rlwe import encrypt, encrypt_zero, expand, phase
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.mpc.random import KEY_BYTES, KeyStream, fresh_key
from enclave.engines.mpc.session import Item, Protocol, Tensor
from enclave.engines.mpc.tape import Blank

__all__ = ["Refresh", "lifted"]

_KEY_WORDS = KEY_BYTES // 8


class Refresh:
    """The refreshes of one training.

    Args:
        bottom: primes of what is refreshed; their product is q.
    """

    def __init__(self, engine: HeEngine, keys: Keys, bottom: int) -> None:
        self._engine, self._session, self._keys = engine, engine.session, keys
        self.low, self.top = keys.parameters.ring().lower(bottom), keys.parameters.ring()
        self.owners = range(engine.parties - 1)
        self._masks: KeyStream | None = None
        self._number = 0
        self._source = Source.fresh()
        self._public: PublicKey | None = None
        if keys.public is not None and keys.seed is not None and not engine.is_buyer:
            self._public = PublicKey(self.low, keys.public.b[:bottom], keys.seed)

    def begin(self) -> Protocol[None]:
        """The key of the masks, which all owners have. Cost: none with one owner, else a round of 16 bytes to each."""
        rank = self._session.rank
        key = fresh_key() if rank == 0 else bytes(KEY_BYTES)
        if len(self.owners) > 1:
            value: Tensor = np.frombuffer(key, np.uint64) if rank == 0 else Blank((_KEY_WORDS,))
            received = yield [Item("he:mask key", value, sender=0, to=owner) for owner in self.owners[1:]]
            if rank is not None and 0 < rank < len(self.owners):
                key = received[rank - 1].tobytes()
        if rank is not None and not self._engine.is_buyer:
            self._masks = KeyStream(key)

    def refreshed(self, part: Words | None) -> Protocol[Words | None]:
        """An encryption of the sum, at the top: [2, k, N] at every owner, evaluation form; None elsewhere.

        Args:
            part: this owner's ciphertext at the bottom, [2, bottom, N], evaluation form; None elsewhere.
        """
        session, top = self._session, self.top
        number = self._number
        phases = yield from self._opened(part)
        size = packed_words(top.primes, (len(top.primes), top.degree))
        value: Tensor = Blank((size,))
        if phases is not None:
            assert self._keys.secret is not None and self._keys.seed is not None
            b = encrypt(self._keys.secret, lifted(phases, self.low, top), self._keys.seed, number)
            value = pack(b, top.primes)
        (words,) = yield [Item("he:refreshed", value, sender=self._engine.buyer)]
        if session.rank is None or self._engine.is_buyer:
            return None
        assert self._keys.seed is not None
        b = unpack(words, top.primes, (len(top.primes), top.degree))
        ciphertext = expand(top, b, self._keys.seed, number)
        ciphertext[0] = top.sub(ciphertext[0], lifted(self._mask(number), self.low, top))
        return top.ntt(ciphertext)

    def shared(self, part: Words | None) -> Protocol[Words | None]:
        """Shares of the sum modulo q, [bottom, N], coefficient form, at the buyer and the first owner; None elsewhere.

        Cost: one round.
        """
        number = self._number
        phases = yield from self._opened(part)
        if self._session.rank == 0:
            return self.low.neg(self._mask(number))
        return phases

    def _opened(self, part: Words | None) -> Protocol[Words | None]:
        """v at the buyer, coefficient form [bottom, N]; None elsewhere."""
        session, engine, low = self._session, self._engine, self.low
        number, zeros = self._number, session.new_stream()
        self._number += 1
        shape = (2, len(low.primes), low.degree)
        items = []
        for owner in self.owners:
            value: Tensor = Blank((packed_words(low.primes, shape),))
            if session.rank == owner:
                assert part is not None
                value = pack(self._masked(part, number, zeros), low.primes)
            items.append(Item("he:masked", value, sender=owner, to=engine.buyer))
        received = yield items
        if not engine.is_buyer:
            return None
        total = unpack(received[0], low.primes, shape)
        for words in received[1:]:
            total = low.add(total, unpack(words, low.primes, shape))
        assert self._keys.secret is not None
        return phase(self._keys.secret, total)

    def _masked(self, part: Words, number: int, zeros: int) -> Words:
        """Step 1, coefficient form."""
        low, session = self.low, self._session
        assert self._public is not None and session.rank is not None
        masked = low.add(low.intt(part), encrypt_zero(self._public, self._source))
        pairs: dict[int, KeyStream] = cast(Any, session).pairs(self.owners)
        for peer, key in pairs.items():
            draw = low.uniform(key, zeros)
            masked[0] = low.add(masked[0], draw) if session.rank < peer else low.sub(masked[0], draw)
        if session.rank == 0:
            masked[0] = low.add(masked[0], self._mask(number))
        return masked

    def _mask(self, number: int) -> Words:
        """r, coefficient form. Safety: a number serves one refresh; 0 is not used."""
        assert self._masks is not None
        return self.low.uniform(self._masks, number + 1)


def lifted(x: Words, low: Ring, top: Ring) -> Words:
    """The integers in [0, q) that residues [2, N] modulo q = p0 p1 stand for, modulo the primes of `top`: [k, N].

    Exact: x = x0 + p0 t with t = (x1 - x0) / p0 modulo p1.
    """
    first, second = low.primes
    known = np.stack((x[0], x[0] % np.uint64(second)))
    inverse = _constants(low, [1, pow(first, -1, second)])
    t = low.multiply(low.sub(x, known), inverse)[1]
    column = np.array(top.primes, np.uint64)[:, None]
    return top.add(x[0] % column, top.multiply(t % column, _constants(top, [first] * len(top.primes))))


def _constants(ring: Ring, values: list[int]) -> Words:
    """One integer a prime, in every coefficient: [k, N]."""
    column = np.array([[value % prime] for value, prime in zip(values, ring.primes, strict=True)], np.uint64)
    return np.ascontiguousarray(np.broadcast_to(column, (len(values), ring.degree)))

"""Comparison in one round by function secret sharing, for two parties: few elements, slow networks.

Setting: two parties hold x additively; the dealer knows neither x nor what is opened.

Open c = x + r, r uniform. With c' = c - t, x >= t iff u = sign(r) ^ [c'_low < r_low] equals sign(c'). The dealer
gives keys of a distributed comparison function (`kernels.dcf_keys`), which the parties evaluate at the public c'_low
to additive shares of beta [c'_low < r_low]. With beta = 1 - 2 sign(r) that is u - sign(r), linear once c' is public;
with further words beta f for factors f of the mask it also gives u f, hence b f for b = [x >= t]. From f = r follows
b x = c b - b r; from f = r >> k and the top bit of r, a truncation behind it as in `comparison.relu`. Several
thresholds are points of one key.

A party's key is a root of 128 bits, drawn from the key stream it has in common with the dealer, and corrections that
are the same for both. The dealer speaks to the leader alone, so the leader passes the corrections on with its share
of c: that takes no round, and no second stream from the dealer with windows, acknowledgements and stocks of its own.
It costs the leader the key's bytes once more, which is the price of a round for some hundred elements.

Exact for every x in Z_2^64 with x - t in [-2^63, 2^63), when all bits are compared. A window [low, high) serves
numbers that are known to be below 2^high in magnitude, and may be wrong where |x - t| < 2^low; it shortens keys.

Cost, for l = high - low bits and p words (1: the bit; 2: and the product; 3: and its truncation):
1 round; 8 B an element from every party, and l (16 + 8 p) B from the leader; l (16 + 8 p) + 8 p B dealt, 12 B more
for a truncation: 2032 B for a ReLU over all bits. A party's work is l (1 + p / 2) AES calls a threshold.
Reveals: nothing: r is uniform and used once. A party's key is pseudorandom under the assumption below.
Assumption: AES with a public key behaves as a random permutation, which makes x -> AES(sigma(x)) ^ sigma(x) circular
correlation robust. Seeds have 127 unknown bits; an adversary that evaluates AES q times against the m nodes dealt
under one key finds a seed with probability about m q / 2^127. Each call of these protocols draws fresh AES keys, so m
counts one call's nodes, at most n l, and not those of all sessions: 2^15 for 500 elements, 112 bits are left.
Reference: Boyle et al., "Function secret sharing for mixed-mode and fixed-point secure computation" (EUROCRYPT 2021);
Guo et al., "Half-tree" (EUROCRYPT 2023); Guo, Katz, Wang, Yu, "Efficient and secure multiparty computation from
fixed-key block ciphers" (S&P 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclave.engines.mpc.kernels import AesKey, dcf_evaluate, dcf_keys
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array, Draw, MaskRef, Spec, additive, clear
from enclave.errors import BadSpec

__all__ = ["CompareByKey", "compare_by_key", "relu_by_key"]

U = np.uint64
SIGN = 63
PARTIES = 2


@dataclass(frozen=True, slots=True)
class CompareByKey:
    """Randomness for comparing n values with any number of thresholds.

    Attributes:
        hashes: two words for each public AES key; the leader's, which passes them on.
        roots: the parties' roots, (n, 2) each.
        product: whether b x is wanted, or b (x >> shift).
    """

    n: int
    hashes: MaskRef
    roots: tuple[MaskRef, MaskRef]
    product: bool = False
    shift: int = 0
    low: int = 0
    high: int = SIGN

    @property
    def kind(self) -> str:
        """Name on the wire."""
        return "compare-by-key"

    @property
    def payload(self) -> int:
        """Words that a key yields."""
        return payload_words(self.product, self.shift)

    @property
    def free(self) -> tuple[Spec, ...]:
        """r."""
        return (additive(self.n),)

    @property
    def dealt(self) -> tuple[Spec, ...]:
        """Corrections of seeds and of words; what the shares of u f start from; factors that are not linear in r."""
        levels, p = self.high - self.low, self.payload
        keys = (clear(levels, self.n, 2), clear(levels, p, self.n), additive(p, self.n))
        if not self.shift:
            return keys
        return (*keys, additive(self.n), additive(self.n, dtype="u4" if self.shift <= 32 else "u8"))

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r and the roots."""
        (r,) = free
        levels = self.high - self.low
        alpha = (r >> U(self.low)) & U((1 << levels) - 1)
        sign = (r >> U(self.high)) & U(1)
        factors = [np.ones_like(r)]
        if self.product:
            factors += [r >> U(self.shift), r >> U(SIGN)] if self.shift else [r]
        stacked = np.stack(factors)
        roots = [_root(draw.mask(ref), party) for party, ref in enumerate(self.roots)]
        seeds, words = dcf_keys(_hashes(draw.mask(self.hashes)), levels, alpha, stacked * (U(1) - sign - sign), roots)
        start = stacked * (sign ^ (alpha >> U(levels - 1)))
        if not self.shift:
            return seeds, words, start
        return seeds, words, start, factors[1], factors[2].astype(self.dealt[-1].dtype)


def payload_words(product: bool, shift: int) -> int:
    """Words that a key yields: the bit; with it times the mask; times the mask's high part and top bit."""
    return (3 if shift else 2) if product else 1


def _hashes(words: Array) -> list[AesKey]:
    return [AesKey(row.tobytes()) for row in words]


def _root(words: Array, party: int) -> Array:
    """A party's root: the lowest bit is its control bit."""
    root = words.copy()
    root[:, 0] = (root[:, 0] & ~U(1)) | U(party)
    return root


def compare_by_key(
    session: Session,
    x: Tensor,
    thresholds: Array,
    *,
    product: bool = False,
    shift: int = 0,
    low: int = 0,
    high: int = SIGN,
) -> Protocol[tuple[Tensor, Tensor | None]]:
    """Additive shares of b = [x >= t] and, if asked for, of b x or b (x >> shift), (thresholds, n) each. x: flat (n,).

    With a shift, all t must be at least 2^low and x below 2^62; the quotient is rounded stochastically, to floor plus
    0 or 1. Cost: see above.

    Raises: BadSpec: not two parties.
    """
    if session.parties != PARTIES:
        raise BadSpec(f"comparison by keys is for {PARTIES} parties, found {session.parties}")
    n, payload = x.shape[0], payload_words(product, shift)
    hashes = session.new_mask((1 + -(-payload // 2), 2), 0)
    roots = (session.new_mask((n, 2), 0), session.new_mask((n, 2), 1))
    entry = CompareByKey(n, hashes, roots, product, shift, low, high)
    r, seeds, words, start, *factors = session.deal(entry)
    c, hash_words, seeds, words = yield [
        Item("compare", session.local(lambda x, r: x + r, (n,), x, r)),
        Item("hash", session.mask_share(hashes), "xor", sender=0),
        Item("key", seeds, "xor", sender=0),
        Item("key", words, "xor", sender=0),
    ]
    shape, party = (len(thresholds), n), session.rank or 0

    def evaluate(c: Array, hash_words: Array, seeds: Array, words: Array, root: Array, start: Array) -> Array:
        keys, own = _hashes(hash_words), _root(root, party)
        points = [(c - t) >> U(low) for t in thresholds]
        return np.stack([start + dcf_evaluate(keys, party, point, own, seeds, words) for point in points])

    root = session.mask_share(roots[party])
    u = session.local(evaluate, (shape[0], payload, n), c, hash_words, seeds, words, root, start)
    signs = session.local(lambda c: np.stack([((c - t) >> U(high)) & U(1) for t in thresholds]), shape, c)
    ones = session.local(lambda c: np.full(n, U(1 if session.leader else 0)), (n,), c)
    bits = _gated(session, shape, signs, u, 0, ones)
    if not product:
        return bits, None
    if not shift:
        hidden = _gated(session, shape, signs, u, 1, r)
        return bits, session.local(lambda c, b, h: c * b - h, shape, c, bits, hidden)
    high_part, top = (_gated(session, shape, signs, u, 1 + i, factor) for i, factor in enumerate(factors))
    return bits, session.local(lambda *a: _shifted(shift, *a), shape, c, bits, high_part, top)


def _gated(session: Session, shape: tuple[int, int], signs: Tensor, u: Tensor, word: int, factor: Tensor) -> Tensor:
    """Shares of b f from those of u f and of f: u where the sign of c' is 1, 1 - u where it is 0. Local."""
    return session.local(
        lambda s, u, f: np.where(s.astype(bool), u[:, word], f.astype(U) - u[:, word]), shape, signs, u, factor
    )


def _shifted(shift: int, c: Array, bits: Array, high_part: Array, top: Array) -> Array:
    """Shares of b (x >> shift): where b = 1, c = x + r has wrapped exactly when r63 = 1 and c63 = 0."""
    wrapped = ((~c >> U(SIGN)) * top) << U(64 - shift)
    return np.asarray((c >> U(shift)) * bits - high_part + wrapped)


def relu_by_key(session: Session, x: Tensor, shift: int = 0) -> Protocol[tuple[Tensor, Tensor]]:
    """Shares of max(x, 0) / 2^shift and of [x >= 0], (n,) each; exactness as in `comparison.relu`.

    Cost: 1 round; see above. Reveals: nothing.
    """
    # As in `comparison.relu`: with a shift, what is below one unit counts as negative.
    threshold: Sequence[int] = [1 << shift if shift else 0]
    bits, products = yield from compare_by_key(session, x, np.array(threshold, U), product=True, shift=shift, low=shift)
    n = x.shape[0]
    y, b = (session.local(lambda a: a[0], (n,), a) for a in (products, bits))
    return y, b

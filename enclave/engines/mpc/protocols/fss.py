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
for a truncation: 2032 B for a ReLU over all bits; and 32 or 48 B for the keys of the hashes. A party's work is
l (1 + p / 2) AES calls a threshold.
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

from enclave.engines.mpc.kernels import AesKey, choose, dcf_evaluate, dcf_keys
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
        hashes: two words for each AES key of the hashes; public, drawn from the leader's key stream.
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
    def levels(self) -> int:
        """Bits that are compared."""
        return self.high - self.low

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
        """The key's common part; what the shares of u f start from; the factors that are not linear in r."""
        key = clear(2 * hash_count(self.payload) + self.levels * (2 + self.payload) * self.n)
        start = additive(self.payload, self.n)
        if not self.shift:
            return key, start
        return key, start, additive(self.n), additive(self.n, dtype="u4" if self.shift <= 32 else "u8")

    def values(self, free: tuple[Array, ...], draw: Draw) -> tuple[Array, ...]:
        """From r, the roots and the keys of the hashes."""
        (r,) = free
        alpha = (r >> U(self.low)) & U((1 << self.levels) - 1)
        sign = (r >> U(self.high)) & U(1)
        factors = [np.ones_like(r)]
        if self.product:
            factors += [r >> U(self.shift), r >> U(SIGN)] if self.shift else [r]
        stacked = np.stack(factors)
        hashes, roots = draw.mask(self.hashes), [_root(draw.mask(ref), party) for party, ref in enumerate(self.roots)]
        seeds, words = dcf_keys(_keys(hashes), self.levels, alpha, stacked * (U(1) - sign - sign), roots)
        key = np.concatenate([hashes.reshape(-1), seeds.reshape(-1), words.reshape(-1)])
        start = stacked * (sign ^ (alpha >> U(self.levels - 1)))
        if not self.shift:
            return key, start
        return key, start, factors[1], factors[2].astype(self.dealt[-1].dtype)

    def evaluate(self, party: int, key: Array, root: Array, start: Array, points: Sequence[Array]) -> list[Array]:
        """Shares of u f, (payload, n), at each of the points c'."""
        n, p = self.n, self.payload
        count = hash_count(p)
        hashes, seeds, words = np.split(key, [2 * count, 2 * (count + self.levels * n)])
        keys, own = _keys(hashes.reshape(count, 2)), _root(root, party)
        seeds, words = seeds.reshape(self.levels, n, 2), words.reshape(self.levels, p, n)
        return [start + dcf_evaluate(keys, party, point >> U(self.low), own, seeds, words) for point in points]


def payload_words(product: bool, shift: int) -> int:
    """Words that a key yields: the bit; with it times the mask; times the mask's high part and top bit."""
    return (3 if shift else 2) if product else 1


def hash_count(payload: int) -> int:
    """AES keys: for seeds, and for each two words of the payload."""
    return 1 + -(-payload // 2)


def _keys(words: Array) -> list[AesKey]:
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
    n, hashes = x.shape[0], hash_count(payload_words(product, shift))
    leaders = session.new_mask((hashes + n, 2), 0)
    roots = (leaders.rows(hashes, hashes + n), session.new_mask((n, 2), 1))
    entry = CompareByKey(n, leaders.rows(0, hashes), roots, product, shift, low, high)
    r, key, start, *factors = session.deal(entry)
    masked = session.local(lambda x, r: x + r, (n,), x, r)
    c, key = yield [Item("compare", masked), Item("key", key, "xor", sender=0)]
    party, spec = session.rank or 0, additive(len(thresholds), n)
    one = U(1 if session.leader else 0)

    def outcome(c: Array, key: Array, root: Array, start: Array, r: Array, *factors: Array) -> tuple[Array, ...]:
        """Shares of b f are those of u f where the sign of c' is 1, and of f - u f where it is 0."""
        points = [c - t for t in thresholds]
        bits, products = [], []
        for point, u in zip(points, entry.evaluate(party, key, root, start, points), strict=True):
            sign = ((point >> U(high)) & U(1)).astype(bool)
            b = choose(sign, u[0], one - u[0])
            bits.append(b)
            if product:
                gated = [choose(sign, u[1 + i], f - u[1 + i]) for i, f in enumerate(factors or (r,))]
                products.append(_shifted(shift, c, b, *gated) if shift else c * b - gated[0])
        return (np.stack(bits), np.stack(products)) if product else (np.stack(bits),)

    found = session.local(
        outcome, (spec, spec) if product else (spec,), c, key, session.mask_share(roots[party]), start, r, *factors
    )
    return found[0], found[1] if product else None


def _shifted(shift: int, c: Array, b: Array, high_part: Array, top: Array) -> Array:
    """Shares of b (x >> shift): where b = 1, c = x + r has wrapped exactly when r63 = 1 and c63 = 0."""
    wrapped = ((~c >> U(SIGN)) * top) << U(64 - shift)
    return np.asarray((c >> U(shift)) * b - high_part + wrapped)


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

"""Exact truncated release of additive shares, with no third party: the buyer learns floor(m / 2^s) and no more.

Who holds what: the buyer a, the owner b, words with a + b = m modulo 2^k, |m| < 2^(k-2), for every element.

Let b' = b + 2^(k-2), so that a + b' = M modulo 2^k for M = m + 2^(k-2) in [0, 2^(k-1)). Of the parts above and below s,

    floor(M / 2^s) = a_high + b'_high + c  modulo 2^(k-s),   c = [a_low + b'_low >= 2^s] = [2^s - 1 - a_low < b'_low]

1. `comparison` of 2^s - 1 - a_low (the buyer's) with b'_low (the owner's): c = f xor e, f at the owner, e at the buyer.
2. Buyer -> owner: e, encrypted in slots modulo several primes t_i. (Hidden by RLWE.)
3. At the release alone, owner -> buyer: b'_high + f + (1 - 2 f) e + 2^(k-s) r, an integer below the product of the t_i,
   for r uniform on 40 bits and more; modulo each t_i, as `Slots.answer` hides it.
4. The buyer adds a_high modulo 2^(k-s) and subtracts 2^(k-2-s).

What the buyer sees: of the comparison, uniform bits; of the answer, h + 2^(k-s) (r + w) with h = the result - a_high
modulo 2^(k-s), which the result determines, and w in {0, 1} the carry out of b'_high + c, which r hides, but for 2^-40
in a whole block of elements.
The owner sees encryptions. Nothing that depends on m leaves an owner before step 3, which needs the permit.

Several owners: each adds a share of zero and sends its words to the first, which then plays the owner; what it receives
is uniform to it, since it lacks the buyer's part.

**Cost** 3 rounds for up to 32,768 elements, + 1 with several owners, + 1 at the release; for a block of 4,096
elements: s + primes times 51,200 B up, `Layout.answers` + primes times 22 kB down.

**Reveals** floor(m / 2^s), to the buyer, at the release.

**Reference** the carry of the low parts: Catrina, Saxena, "Secure computation with fixed-point numbers" (2010).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.decisions.comparison import less_than
from enclave.engines.he.decisions.slots import DEGREE, HIDING_BITS, Slots, plaintext_primes, slot_parameters
from enclave.engines.he.decisions.zero_forms import at_rank
from enclave.engines.he.engine import HeEngine, Keys
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.planner import HONEST, Hiding
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.errors import BadSpec

__all__ = ["HIDING", "Truncated", "truncated"]

_NUMBER_BITS = 24
HIDING = Hiding("truncation", HIDING_BITS, f"flooded, re-randomised (RLWE), {HONEST}")


@lru_cache(maxsize=8)
def _slots(prime: int) -> Slots:
    return Slots(prime)


def _slots_for(bits: int) -> tuple[Slots, ...]:
    """Of the fewest primes whose product exceeds 2^bits."""
    count = next(count for count in range(1, 9) if math.prod(plaintext_primes(count)) >> bits)
    return tuple(_slots(prime) for prime in plaintext_primes(count))


@dataclass(frozen=True, slots=True)
class _Shape:
    """The public numbers of one truncation."""

    count: int
    bits: int
    shift: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 3 <= self.bits <= 64 or not 1 <= self.shift <= self.bits - 2:
            raise BadSpec(
                f"expected words of 3 to 64 bits and a shift below them by 2, found {self.bits} and {self.shift}"
            )

    @property
    def high_bits(self) -> int:
        return self.bits - self.shift

    @property
    def mask_bits(self) -> int:
        """Of r: a carry shows on an element with probability 2^-mask_bits, on any of a block's with 2^-40."""
        return HIDING_BITS + math.ceil(math.log2(min(self.count, DEGREE)))

    @property
    def most_bits(self) -> int:
        """Bits that the integer of step 3 stays below."""
        return self.high_bits + self.mask_bits + 1

    @property
    def blocks(self) -> int:
        return -(-self.count // DEGREE)

    @property
    def slots(self) -> tuple[Slots, ...]:
        return _slots_for(self.most_bits)


@dataclass(frozen=True, slots=True, repr=False)
class Truncated:
    """A sealed result: int64 [count] at the rank it is released to.

    Attributes:
        high: a_high at the buyer. answer: the words of step 3 at the owner.
    """

    shape: _Shape
    keys: Keys
    owner: int
    high: Tensor
    answer: Tensor

    def __repr__(self) -> str:
        return f"Truncated({self.shape})"

    def release(self, session: Session, name: str, to: int) -> Protocol[NDArray[np.int64] | None]:
        """Opens it to rank `to`, which is the buyer. **Cost** one round. **Reveals** floor(m / 2^s)."""
        (words,) = yield [Item(f"release:{name}"[:64], self.answer, sender=self.owner, to=to, masked=False)]
        if session.rank != to:
            return None
        assert self.keys.secret is not None
        shape, start, parts = self.shape, 0, []
        for slots in shape.slots:
            size = slots.answer_words(shape.blocks)
            part = slots.opened(self.keys.secret, words[start : start + size], shape.blocks)
            parts.append(part.reshape(-1)[: shape.count])
            start += size
        integers = _joined(parts, [slots.prime for slots in shape.slots])
        low = [value % (1 << shape.high_bits) for value in integers]
        mask = np.uint64((1 << shape.high_bits) - 1)
        whole = (np.array(low, np.uint64) + self.high) & mask
        found: NDArray[np.int64] = whole.view(np.int64) - np.int64(1 << shape.bits - 2 - shape.shift)
        return found


def truncated(engine: HeEngine, share: Tensor, count: int, bits: int, shift: int) -> Protocol[Truncated]:
    """Everything before the gate.

    Args:
        share: uint64 [count] at every rank: words modulo 2^bits that add up to m, |m| < 2^(bits - 2). shift: s.

    Raises: BadSpec: other than 3 to 64 bits, or a shift beyond them.
    """
    shape = _Shape(count, bits, shift)
    session, buyer, owner = engine.session, engine.buyer, 0
    keys = yield from engine.keys(slot_parameters(), decryptions=shape.blocks * len(shape.slots))
    engine.state(HIDING)
    word = yield from _gathered(engine, share, count)
    mask, low = np.uint64((1 << bits) - 1), np.uint64((1 << shift) - 1)
    own = at_rank(session, owner, (count,), lambda: (word + np.uint64(1 << bits - 2)) & mask)
    held = at_rank(session, buyer, (count,), lambda: word & mask)
    x = at_rank(session, buyer, (count,), lambda: low - (held & low))
    y = at_rank(session, owner, (count,), lambda: own & low)
    flags = yield from less_than(engine, owner, shift, count, x, y)
    first = session.new_stream() << _NUMBER_BITS
    size = sum(slots.query_words(shape.blocks) for slots in shape.slots)

    def encrypted() -> Words:
        assert keys.secret is not None and keys.seed is not None
        values, parts = _blocks(flags, shape), []
        for index, slots in enumerate(shape.slots):
            parts.append(slots.query(keys.secret, values, keys.seed, first + index * shape.blocks))
        return np.concatenate(parts)

    query = at_rank(session, buyer, (size,), encrypted)
    (received,) = yield [Item("truncation:bits", query, sender=buyer, to=owner)]
    back = sum(slots.answer_words(shape.blocks) for slots in shape.slots)
    answer = at_rank(
        session, owner, (back,), lambda: _answers(shape, keys, received, first, own >> np.uint64(shift), flags)
    )
    high = at_rank(session, buyer, (count,), lambda: held >> np.uint64(shift))
    return Truncated(shape, keys, owner, high, answer)


def _gathered(engine: HeEngine, share: Tensor, count: int) -> Protocol[Tensor]:
    """All owners' shares at the first one. Cost: one round, none with one owner. Reveals: nothing."""
    session, others = engine.session, range(1, engine.parties - 1)
    if not others:
        return share
    zero = session.zero_share(session.new_stream(), (count,))
    own = session.local(np.add, (count,), share, zero)
    words = yield [Item("truncation:share", own, sender=rank, to=0) for rank in others]
    if session.rank == 0:
        for word in words:
            own = own + word
    return own


def _blocks(values: Words, shape: _Shape) -> Words:
    """[count] -> [blocks, N], zeros behind."""
    out = np.zeros(shape.blocks * DEGREE, np.uint64)
    out[: shape.count] = values
    return out.reshape(shape.blocks, DEGREE)


def _answers(shape: _Shape, keys: Keys, query: Words, first: int, high: Words, flags: Words) -> Words:
    """Step 3 at the owner."""
    assert keys.public is not None and keys.seed is not None
    source = Source.fresh()
    hidden = (source.words(shape.count) >> np.uint64(64 - shape.mask_bits)).astype(object) << shape.high_bits
    constant = high.astype(object) + flags.astype(object) + hidden
    start, parts = 0, []
    for index, slots in enumerate(shape.slots):
        t = np.uint64(slots.prime)
        size = slots.query_words(shape.blocks)
        bits = slots.received(query[start : start + size], keys.seed, first + index * shape.blocks, shape.blocks)
        factors = slots.factors(_blocks(np.where(flags == 1, t - np.uint64(1), np.uint64(1)), shape))
        products = slots.ring.multiply(factors[:, None], bits)
        rest = _blocks((constant % slots.prime).astype(np.uint64), shape)
        parts.append(slots.answer(keys.public, source, products, rest))
        start += size
    return np.concatenate(parts)


def _joined(parts: Sequence[Words], primes: Sequence[int]) -> list[int]:
    """Integers below the product of the primes from their remainders: Chinese remainders."""
    whole = math.prod(primes)
    total = np.zeros(len(parts[0]), object)
    for part, prime in zip(parts, primes, strict=True):
        other = whole // prime
        total += part.astype(object) * (other * pow(other, -1, prime))
    return [int(value) % whole for value in total]

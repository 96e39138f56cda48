"""Comparison of a number of the buyer's with one of an owner's, with no third party: exclusive-or shares of [x < y].

Who holds what: the buyer x and the secret key, the owner y, row by row, both in [0, 2^l). Afterwards the owner holds a
random bit f, the buyer b = f xor [x < y].

For bit i of a row, from the most significant one down, and a direction f of the row (0: x < y, 1: x >= y), let

    c_i = 1 + s (x_i - y_i) + 3 sum_{j > i} (x_j xor y_j),   s = 1 - 2 f
    c_l = f ? 3 sum_j (x_j xor y_j) : 1

Each is at least 0 and below t. c_i is 0 only where all higher bits agree and x_i, y_i differ in the direction looked
for; c_l only where x = y and f = 1. So at most one of the l + 1 is 0, and one is if and only if f xor [x < y] = 1.

1. Buyer -> owner: encryptions of the bits x_j, a slot for each row. (Hidden by RLWE.)
2. Owner -> buyer: the l + 1 forms of every row, which are linear in the encrypted bits since
   x_j xor y_j = y_j + (1 - 2 y_j) x_j; each multiplied by a fresh mask uniform on {1, ..., t - 1}, and rotated among
   the row's l + 1 places by a fresh uniform number of places. Then `Slots.answer` hides all but the slots.
3. The buyer decrypts; b is whether one of the row's values is 0.

What the buyer sees depends on b alone, and b is uniform since f is: t is prime, so a form that is not 0 times a uniform
unit is a uniform unit, independent of everything else, and never 0; a form that is 0 stays 0, at a uniform place. With
b = 0: l + 1 independent uniform units. With b = 1: one 0 at a uniform place, l independent uniform units. The
simulator that is given b draws exactly this; `Slots.answer` adds 2^-40 a ciphertext and RLWE. The owner sees
encryptions. There is no error: the forms decide, not probabilities (but 2^-70 a slot for decryption). A buyer who
encrypts other numbers than bits learns one more linear form of the owner's bits a row: this is for semi-honest buyers.

When there are fewer than N / 2 rows, each lies in several slots, and one ciphertext answers several places.

**Cost** ceil(blocks / 8) + 1 rounds for blocks of N = 4096 rows; a row takes 12.5 l bytes up and 5.375 (l + 1) down;
a second of CPU handles some 50,000 rows of 32 bits.

**Reveals** nothing: b is the buyer's share.

**Reference** Damgard, Geisler, Kroigaard, "Homomorphic encryption and secure comparison" (2008), with its correction
(2009); the direction bit as in Nishide, Sakuma, "Privacy-preserving..." and in Veugen, "Improving the DGK comparison
protocol" (2012); rotation instead of a permutation, since at most one form is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from enclave.engines.he.engine import HeEngine, Keys
from enclave.engines.he.keys import PublicKey
from enclave.engines.he.linear import side_by_side
from enclave.engines.he.planner import Hiding
from enclave.engines.he.ring import Words
from enclave.engines.he.sampling import Source
from enclave.engines.he.slots import DEGREE, HIDING_BITS, Slots, plaintext_primes, slot_parameters, uniform_below
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Blank
from enclave.errors import BadSpec

__all__ = ["HIDING", "Layout", "at_rank", "compared", "forms", "less_than"]

MOST_BITS = 63
CHUNK_BLOCKS = 8
HIDING = Hiding(
    "comparison", HIDING_BITS, "fresh encryption of zero and integer flooding; values masked modulo a prime"
)
_NUMBER_BITS = 24  # uniform halves of one comparison
_CACHED = 4  # answers finished at once: more do not stay in the cache


@lru_cache(maxsize=1)
def _slots() -> Slots:
    return Slots(*plaintext_primes(1))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where rows and places lie in slots.

    Attributes:
        rows: of all blocks. bits: l.
    """

    rows: int
    bits: int

    def __post_init__(self) -> None:
        if self.rows < 1 or not 1 <= self.bits <= MOST_BITS:
            raise BadSpec(f"expected rows and 1 to {MOST_BITS} bits to compare, found {self.rows} and {self.bits}")

    @property
    def width(self) -> int:
        """Rows of a block."""
        return min(self.rows, DEGREE)

    @property
    def blocks(self) -> int:
        """Blocks of rows."""
        return -(-self.rows // DEGREE)

    @property
    def copies(self) -> int:
        """Slots of each row."""
        return min(self.bits + 1, DEGREE // self.width)

    @property
    def answers(self) -> int:
        """Ciphertexts that answer for a block."""
        return -(-(self.bits + 1) // self.copies)

    def spread(self, values: Words) -> Words:
        """Values of a block's rows [..., n] -> slots [..., N]; missing rows and slots are 0."""
        lead = values.shape[:-1]
        whole = np.zeros((*lead, self.copies, self.width), np.uint64)
        whole[..., : values.shape[-1]] = values[..., None, :]
        out = np.zeros((*lead, DEGREE), np.uint64)
        out[..., : self.copies * self.width] = whole.reshape(*lead, -1)
        return out

    def places(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """[answers, N]: the place that a slot answers for; from l + 1 on, none."""
        copy = np.arange(DEGREE) // self.width
        place = np.arange(self.answers)[:, None] * self.copies + copy
        found: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = np.where(copy < self.copies, place, self.bits + 1)
        return found

    def gathered(self, slots: Words, rows: int) -> Words:
        """Whether one of a row's values [answers, N] is 0: [rows], 0 or 1."""
        used = slots[:, : self.copies * self.width].reshape(-1, self.width)
        found: Words = (used == 0).any(axis=0)[:rows].astype(np.uint64)
        return found


def bits_of(values: Words, count: int) -> Words:
    """The low bits of words [n]: [count, n], least significant first."""
    bits: Words = values[None, :] >> np.arange(count, dtype=np.uint64)[:, None] & np.uint64(1)
    return bits


def forms(layout: Layout, prime: int, source: Source, y: Words) -> tuple[Callable[[int], Words], Words, Words]:
    """An owner's side of one block.

    Args:
        y: [n], the owner's numbers.

    Returns:
        factors(answer), the vectors [l, N] that multiply the encrypted bits; the constants [answers, N]; the
        directions f [n].
    """
    t, bits = np.uint64(prime), layout.bits
    direction = uniform_below(source, 2, layout.width)
    turn = layout.spread(uniform_below(source, bits + 1, layout.width)).astype(np.int64)
    masks = uniform_below(source, prime - 1, layout.answers, DEGREE) + np.uint64(1)
    flip, own = layout.spread(direction), layout.spread(bits_of(y, bits))
    places = layout.places()
    # the form at each place; -1 is c_l with f = 1, l is c_l with f = 0, which is the constant 1, as at unused places
    form = np.where(places <= bits, (places + turn) % (bits + 1), bits)
    form[(form == bits) & (flip == 1) & (places <= bits)] = -1
    higher = np.zeros((bits + 2, DEGREE), np.uint64)  # row i + 1: sum of the bits above i
    higher[:-2] = np.cumsum(own[::-1], axis=0)[::-1]
    constant = np.uint64(3) * higher
    constant[1:-1] += np.uint64(1) + np.where(flip == 1, own, t - own)
    constant[-1] = 1
    constants = np.take_along_axis(constant, form + 1, axis=0) * masks % t
    index, above = np.arange(bits, dtype=np.int8)[:, None], form.astype(np.int8)

    def factors(answer: int) -> Words:
        mask, at = masks[answer], form[answer]
        three = np.uint64(3) * mask % t
        found: Words = own * (t - np.uint64(2) * three)  # modulo 2^64: what is added makes it t - three or three
        found += three
        found *= index > above[answer]
        plain = np.flatnonzero((at >= 0) & (at < bits))
        found[at[plain], plain] = np.where(flip[plain] == 1, t - mask[plain], mask[plain])
        return found

    return factors, constants, direction[: len(y)]


def compared(
    slots: Slots, layout: Layout, public: PublicKey, source: Source, query: Words, y: Words
) -> tuple[Words, Words]:
    """An owner's answer for one block, as words on the wire, and its shares f [n].

    Args:
        query: the encrypted bits [l, 2, k, N], evaluation form. y: [n].
    """
    factors, constants, direction = forms(layout, slots.prime, source, y)
    parts = []
    for start in range(0, layout.answers, _CACHED):
        some = range(start, min(start + _CACHED, layout.answers))
        products = np.stack([slots.ring.dot(slots.factors(factors(answer)), query) for answer in some])
        parts.append(slots.answer(public, source, products, constants[start : start + _CACHED]))
    return np.concatenate(parts), direction


def at_rank(session: Session, rank: int, shape: tuple[int, ...], made: Callable[..., Words], *uses: Tensor) -> Tensor:
    """What `rank` alone computes, uint64 `shape`; a blank elsewhere."""
    return session.local(lambda *_: made() if session.rank == rank else Blank(shape), shape, *uses)


def less_than(engine: HeEngine, owner: int, layout: Layout, x: Tensor, y: Tensor) -> Protocol[Tensor]:
    """Exclusive-or shares of [x < y] between the buyer and one owner.

    Args:
        x: uint64 [rows] below 2^bits at the buyer, anything elsewhere. y: at the owner.

    Returns: this rank's bits, uint64 [rows], at the buyer and at the owner; a blank elsewhere.
    """
    keys = yield from engine.keys(slot_parameters())
    engine.state(HIDING)
    side = _Side(engine, keys, owner, layout)
    shares, answer = [], None
    for start in range(0, layout.blocks + CHUNK_BLOCKS, CHUNK_BLOCKS):
        blocks = range(start, min(start + CHUNK_BLOCKS, layout.blocks))
        items = [side.query(blocks, x)] if blocks else []
        opened = yield items + ([answer] if answer is not None else [])
        if answer is not None:
            shares.append(side.opened(range(start - CHUNK_BLOCKS, start), opened[-1]))
        answer = None
        if blocks:
            answer = side.answer(blocks, opened[0], y)
    return side.joined(shares)


class _Side:
    """What one rank does in a comparison."""

    def __init__(self, engine: HeEngine, keys: Keys, owner: int, layout: Layout) -> None:
        self._session, self._keys, self._layout = engine.session, keys, layout
        self._buyer, self._owner = engine.buyer, owner
        self._slots, self._workers = _slots(), engine.workers
        self._first = self._session.new_stream() << _NUMBER_BITS
        self._source = Source.fresh()
        self._directions: list[Words] = []

    def _rows(self, block: int) -> slice:
        return slice(block * DEGREE, min((block + 1) * DEGREE, self._layout.rows))

    def query(self, blocks: range, x: Tensor) -> Item:
        """The buyer's encrypted bits."""
        layout, slots = self._layout, self._slots
        words = slots.query_words(layout.bits) * len(blocks)

        def made() -> Words:
            assert self._keys.secret is not None and self._keys.seed is not None
            parts = []
            for block in blocks:
                values = layout.spread(bits_of(x[self._rows(block)], layout.bits))
                parts.append(slots.query(self._keys.secret, values, self._keys.seed, self._first + block * layout.bits))
            return np.concatenate(parts)

        value = at_rank(self._session, self._buyer, (words,), made)
        return Item("comparison:bits", value, sender=self._buyer, to=self._owner)

    def answer(self, blocks: range, query: Tensor, y: Tensor) -> Item:
        """The owner's masked forms."""
        layout, slots = self._layout, self._slots
        size, bits = slots.answer_words(layout.answers), layout.bits

        def block_answer(index: int) -> tuple[Words, Words]:
            assert self._keys.public is not None and self._keys.seed is not None
            block = blocks[index]
            words = query.reshape(len(blocks), -1)[index]
            encrypted = slots.received(words, self._keys.seed, self._first + block * bits, bits)
            return compared(slots, layout, self._keys.public, self._source, encrypted, y[self._rows(block)])

        def made() -> Words:
            answers, directions = zip(*side_by_side(block_answer, len(blocks), self._workers), strict=True)
            self._directions += directions
            return np.concatenate(answers)

        value = at_rank(self._session, self._owner, (size * len(blocks),), made)
        return Item("comparison:forms", value, sender=self._owner, to=self._buyer)

    def opened(self, blocks: range, words: Tensor) -> Tensor:
        """The buyer's bits."""
        layout, slots = self._layout, self._slots
        if self._session.rank != self._buyer:
            return None
        assert self._keys.secret is not None
        kept = [block for block in blocks if block < layout.blocks]
        found = []
        for block, part in zip(kept, np.split(words, len(kept)), strict=True):
            rows = self._rows(block)
            values = slots.opened(self._keys.secret, part, layout.answers)
            found.append(layout.gathered(values, rows.stop - rows.start))
        return np.concatenate(found)

    def joined(self, shares: list[Tensor]) -> Tensor:
        """This rank's bits."""
        if self._session.rank == self._buyer:
            return np.concatenate(shares)
        if self._session.rank == self._owner:
            return np.concatenate(self._directions)
        return Blank((self._layout.rows,))

"""Whether one of a row's linear forms of encrypted bits is zero, as exclusive-or shares, with no third party.

Who holds what: the buyer some bits a row and the secret key, the owner what decides the forms. Of a row's forms at most
one is zero. Afterwards the owner holds a random bit f, which its forms depend on, and the buyer whether one was zero.

1. Buyer -> owner: encryptions of its bits, a slot for each row. (Hidden by RLWE.)
2. Owner -> buyer: the forms of every row, each multiplied by a fresh mask uniform on {1, ..., t - 1}, and rotated among
   the row's places by a fresh uniform number of places. Then `Slots.answer` hides all but the slots.
3. The buyer decrypts; its share is whether one of the row's values is 0.

What the buyer sees depends on its share alone: t is prime, so a form that is not 0 times a uniform unit is a uniform
unit, independent of everything else, and never 0; a form that is 0 stays 0, at a uniform place. With share 0:
independent uniform units. With share 1: one 0 at a uniform place, independent uniform units elsewhere. The simulator
that is given the share draws exactly this; `Slots.answer` adds 2^-40 a ciphertext and RLWE. A rotation does what a
permutation would, since at most one form is 0. The owner sees encryptions. Nothing goes wrong by chance, but for
decryption with probability 2^-70 a slot. A buyer that encrypts other numbers than bits learns one more linear form of
the owner's numbers a row: this is for semi-honest buyers.

When there are fewer than N / 2 rows, each lies in several slots, and one ciphertext answers several places.

**Cost** ceil(blocks / 8) + 1 rounds for blocks of N = 4096 rows; a row takes 12.5 bytes up for each of its bits and
5.25 bytes down for each place.

**Reference** `comparison` and `conjunction`, which are made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.decisions.slots import (
    DEGREE,
    HIDING_BITS,
    Slots,
    plaintext_primes,
    slot_parameters,
    uniform_below,
)
from enclave.engines.he.engine import HeEngine, Keys
from enclave.engines.he.lattice.keys import PublicKey
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.linear.weights import side_by_side
from enclave.engines.he.planner import HONEST, Hiding
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Blank
from enclave.errors import BadSpec

__all__ = ["MOST", "BitsOf", "Draws", "Forms", "Layout", "answered", "any_zero", "at_rank", "hiding", "small_slots"]

CHUNK_BLOCKS = 8
MOST = 63  # bits of a row
_NUMBER_BITS = 24  # uniform halves of one test
_CACHED = 4  # answers finished at once: more do not stay in the cache


def hiding(label: str) -> Hiding:
    """The statement about the answers of a test."""
    method = f"slots masked modulo a prime, flooded, re-randomised (RLWE), {HONEST}"
    return Hiding(label, HIDING_BITS, method)


@lru_cache(maxsize=1)
def small_slots() -> Slots:
    """Slots modulo 40,961: what tests compute with."""
    return Slots(*plaintext_primes(1))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where rows and places lie in slots.

    Attributes:
        rows: of all blocks. inputs: encrypted bits of a row. forms: of a row, each at one place.
    """

    rows: int
    inputs: int
    forms: int

    def __post_init__(self) -> None:
        if self.rows < 1 or not 1 <= self.inputs <= MOST or not 1 <= self.forms <= MOST + 1:
            raise BadSpec(f"expected rows, 1 to {MOST} bits of each and at most one form more, found {self}")

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
        return min(self.forms, DEGREE // self.width)

    @property
    def answers(self) -> int:
        """Ciphertexts that answer for a block."""
        return -(-self.forms // self.copies)

    def spread(self, values: Words) -> Words:
        """Values of a block's rows [..., n] -> slots [..., N]; missing rows and slots are 0."""
        lead = values.shape[:-1]
        whole = np.zeros((*lead, self.copies, self.width), np.uint64)
        whole[..., : values.shape[-1]] = values[..., None, :]
        out = np.zeros((*lead, DEGREE), np.uint64)
        out[..., : self.copies * self.width] = whole.reshape(*lead, -1)
        return out

    def places(self) -> NDArray[np.int64]:
        """[answers, N]: the place that a slot answers for; `forms` where it answers for none."""
        copy = np.arange(DEGREE) // self.width
        place = np.arange(self.answers)[:, None] * self.copies + copy
        found: NDArray[np.int64] = np.where(copy < self.copies, np.minimum(place, self.forms), self.forms)
        return found

    def gathered(self, slots: Words, rows: int) -> Words:
        """Whether one of a row's values [answers, N] is 0: [rows], 0 or 1."""
        used = slots[:, : self.copies * self.width].reshape(-1, self.width)
        found: Words = (used == 0).any(axis=0)[:rows].astype(np.uint64)
        return found


@dataclass(frozen=True, slots=True, repr=False)
class Draws:
    """The owner's random choices for one block.

    Attributes:
        flips: f, slots [N]. masks: units [answers, N]. form: [answers, N], the form that is at each slot's place;
            `Layout.forms` at unused slots, where there is to be a unit that no row decides.
    """

    direction: Words
    flips: Words
    masks: Words
    form: NDArray[np.int64]

    @classmethod
    def fresh(cls, layout: Layout, prime: int, source: Source) -> Draws:
        """Flips and turns for each row, masks for each slot."""
        direction = uniform_below(source, 2, layout.width)
        turn = layout.spread(uniform_below(source, layout.forms, layout.width)).astype(np.int64)
        masks = uniform_below(source, prime - 1, layout.answers, DEGREE) + np.uint64(1)
        places = layout.places()
        form = np.where(places < layout.forms, (places + turn) % layout.forms, layout.forms)
        return cls(direction, layout.spread(direction), masks, form)


BitsOf = Callable[[slice], Words]
"""The bits of some rows, uint64 [inputs, rows], 0 or 1: made when they are needed, since they take much memory."""
Factors = Callable[[int], Words]
Forms = Callable[[Layout, int, Draws, Words], tuple[Factors, Words]]
"""What the owner makes of its bits, slots [inputs, N]: factors(answer), the vectors [inputs, N] below t that multiply
the encrypted bits, and the constants [answers, N] below t; masked already."""


def answered(
    slots: Slots, layout: Layout, public: PublicKey, source: Source, query: Words, own: Words, forms: Forms
) -> tuple[Words, Words]:
    """An owner's answer for one block, as words on the wire, and its shares f [n].

    Args:
        query: the encrypted bits [inputs, 2, k, N], evaluation form. own: the owner's bits [inputs, n].
    """
    draws = Draws.fresh(layout, slots.prime, source)
    factors, constants = forms(layout, slots.prime, draws, layout.spread(own))
    parts = []
    for start in range(0, layout.answers, _CACHED):
        some = range(start, min(start + _CACHED, layout.answers))
        products = np.stack([slots.ring.dot(slots.factors(factors(answer)), query) for answer in some])
        parts.append(slots.answer(public, source, products, constants[start : start + _CACHED]))
    return np.concatenate(parts), draws.direction[: own.shape[-1]]


def at_rank(
    session: Session, rank: int | tuple[int, ...], shape: tuple[int, ...], made: Callable[..., Words], *uses: Tensor
) -> Tensor:
    """What `rank`, or each of some ranks, computes alone, uint64 `shape`; a blank elsewhere."""
    ranks = (rank,) if isinstance(rank, int) else rank
    return session.local(lambda *_: made() if session.rank in ranks else Blank(shape), shape, *uses)


def any_zero(
    engine: HeEngine, owner: int, layout: Layout, label: str, bits: BitsOf, own: BitsOf, forms: Forms
) -> Protocol[Tensor]:
    """Shares of whether a form is 0.

    Args:
        label: of the messages, and of the statement of hiding. bits: gives the buyer's bits of some rows, and is called
            there alone. own: the owner's.

    Returns: this rank's bits, uint64 [rows], at the buyer and at the owner; a blank elsewhere.

    Several that run `together` share a key if `engine.keys(slot_parameters())` was run before.
    """
    keys = yield from engine.keys(slot_parameters(), decryptions=layout.blocks * layout.answers)
    engine.state(hiding(label))
    side = _Side(engine, keys, owner, layout, label)
    shares, answer = [], None
    for start in range(0, layout.blocks + CHUNK_BLOCKS, CHUNK_BLOCKS):
        blocks = range(start, min(start + CHUNK_BLOCKS, layout.blocks))
        items = [side.query(blocks, bits)] if blocks else []
        opened = yield items + ([answer] if answer is not None else [])
        if answer is not None:
            shares.append(side.opened(range(start - CHUNK_BLOCKS, start), opened[-1]))
        answer = None
        if blocks:
            answer = side.answer(blocks, opened[0], own, forms)
    return side.joined(shares)


class _Side:
    """What one rank does in a test."""

    def __init__(self, engine: HeEngine, keys: Keys, owner: int, layout: Layout, label: str) -> None:
        self._label = label
        self._session, self._keys, self._layout = engine.session, keys, layout
        self._buyer, self._owner = engine.buyer, owner
        self._slots, self._workers = small_slots(), engine.workers
        self._first = self._session.new_stream() << _NUMBER_BITS
        self._source = Source.fresh()
        self._directions: list[Words] = []

    def _rows(self, block: int) -> slice:
        return slice(block * DEGREE, min((block + 1) * DEGREE, self._layout.rows))

    def query(self, blocks: range, bits: BitsOf) -> Item:
        """The buyer's encrypted bits."""
        layout, slots = self._layout, self._slots
        words = slots.query_words(layout.inputs) * len(blocks)

        def made() -> Words:
            assert self._keys.secret is not None and self._keys.seed is not None
            parts = []
            for block in blocks:
                values = layout.spread(bits(self._rows(block)))
                parts.append(
                    slots.query(self._keys.secret, values, self._keys.seed, self._first + block * layout.inputs)
                )
            return np.concatenate(parts)

        value = at_rank(self._session, self._buyer, (words,), made)
        return Item(f"{self._label}:bits", value, sender=self._buyer, to=self._owner)

    def answer(self, blocks: range, query: Tensor, own: BitsOf, forms: Forms) -> Item:
        """The owner's masked forms."""
        layout, slots = self._layout, self._slots
        size, count = slots.answer_words(layout.answers), layout.inputs

        def block_answer(index: int) -> tuple[Words, Words]:
            assert self._keys.public is not None and self._keys.seed is not None
            block = blocks[index]
            words = query.reshape(len(blocks), -1)[index]
            encrypted = slots.received(words, self._keys.seed, self._first + block * count, count)
            mine = own(self._rows(block))
            return answered(slots, layout, self._keys.public, self._source, encrypted, mine, forms)

        def made() -> Words:
            answers, directions = zip(*side_by_side(block_answer, len(blocks), self._workers), strict=True)
            self._directions += directions
            return np.concatenate(answers)

        value = at_rank(self._session, self._owner, (size * len(blocks),), made)
        return Item(f"{self._label}:forms", value, sender=self._owner, to=self._buyer)

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

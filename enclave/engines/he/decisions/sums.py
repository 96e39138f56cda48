"""Sums of shared bits with an owner's integers as weights, sealed until their release.

Who holds what: of every row's bit e_r xor f_r the buyer e_r and an owner f_r; each owner integers v_r and the encrypted
polynomials sum_r e_r X^r, on a torus of 2^T counts.

1. Owner: a sum over r of v_r (e_r xor f_r) is sum_r v_r f_r + sum_r (1 - 2 f_r) v_r e_r, the coefficient 0 of the
   ciphertexts times polynomials in X^-r. It adds Enc_pk(0), floods that coefficient, adds its share of zero among the
   owners, modulo 2^64, and keeps what comes of it until the permit.
2. At the release alone, owner -> buyer: that coefficient of c0, and c1. Other coefficients of c0 are never sent. The
   buyer adds up what all owners sent, and only the sum of their counts is there to be seen.

What the buyer sees: a fresh c1 (RLWE), the sums, and noise that the flood hides by 40 bits.

**Reference** extraction of one coefficient: Huang et al., "Cheetah", USENIX Security 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.decisions.slots import DEGREE, HIDING_BITS, times_secret
from enclave.engines.he.decisions.zero_forms import at_rank
from enclave.engines.he.engine import Keys
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.rlwe import zero_parts
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack_bits, unpack_bits
from enclave.engines.he.planner import HONEST, Hiding
from enclave.engines.mpc.session import Item, Protocol, Session, together
from enclave.errors import BadInput

__all__ = ["HIDING", "Counts", "Integers", "SumWords", "Table", "padded", "torus_bits"]

Integers = NDArray[np.int64]
_LARGEST_ERROR = 21  # of a centred binomial draw
HIDING = Hiding(
    "counting",
    HIDING_BITS,
    f"one coefficient, flooded, re-randomised (RLWE), {HONEST}; owners' shares of zero",
)


def torus_bits(rows: int) -> int:
    """T: the torus holds counts from -rows to rows twice."""
    return rows.bit_length() + 2


def padded(values: NDArray[Any], blocks: int) -> NDArray[Any]:
    out = np.zeros(blocks * DEGREE, values.dtype)
    out[: len(values)] = values
    return out.reshape(blocks, DEGREE)


@dataclass(frozen=True, slots=True)
class SumWords:
    """Counts on the wire: a word of c0 and the rounded c1 for each."""

    sums: int
    torus_bits: int

    @property
    def c1_bits(self) -> int:
        """Ten deviations of rounding c1 take a quarter of half a count."""
        return self.torus_bits + 1 + 2 + math.ceil(math.log2(10 * math.sqrt(DEGREE * 2 / 3 / 12)))

    @property
    def words(self) -> int:
        return self.sums * (1 + DEGREE // 64 * self.c1_bits)

    def made(
        self, keys: Keys, encrypted: Words, factors: Integers, constants: Integers, zero: Words, rows: int
    ) -> Words:
        """An owner's words.

        Args:
            factors: [sums, rows], magnitude at most 1: of the buyer's shares. zero: [sums], its shares of zero.
        """
        assert keys.public is not None
        ring, source = keys.parameters.ring(), Source.fresh()
        reversed_rows = np.stack([_reversed(padded(row, len(encrypted)).astype(np.int64)) for row in factors])
        sums = ring.dot(ring.encode(reversed_rows), encrypted)
        evaluation, errors = zero_parts(keys.public, source, self.sums)
        fresh = ring.add(ring.intt(ring.add(sums, evaluation)), errors)
        flooded = ring.add(fresh[:, 0], source.integers(ring, _flood_bits(rows), self.sums))
        counts = constants.astype(np.uint64) << np.uint64(64 - self.torus_bits)
        c0 = ring.to_torus(flooded, 64)[:, 0] + counts + zero
        return np.concatenate((c0, pack_bits(ring.to_torus(fresh[:, 1], self.c1_bits), self.c1_bits)))

    def words_of(self, keys: Keys, words: Words) -> Words:
        """The phases of received counts, in units of 2^-64 of the torus: [sums]."""
        assert keys.secret is not None
        c1 = unpack_bits(words[self.sums :], self.c1_bits).reshape(self.sums, DEGREE)
        product = times_secret(keys.secret, c1, self.c1_bits)[:, 0].view(np.uint64)
        found: Words = words[: self.sums] + (product << np.uint64(64 - self.c1_bits))
        return found


def _reversed(rows: Integers) -> Integers:
    """[blocks, N] -> polynomials whose product with sum_r e_r X^r has sum_r e_r v_r as coefficient 0."""
    return np.concatenate((rows[:, :1], -rows[:, :0:-1]), axis=1)


def _flood_bits(rows: int) -> int:
    """40 bits above the largest noise of an honest key holder: errors times +-1, and those of the encryption of zero.

    One coefficient is sent, so no sum over coefficients is needed.
    """
    return HIDING_BITS + math.ceil(math.log2(_LARGEST_ERROR * (rows + 2 * DEGREE + 1)))


@dataclass(frozen=True, slots=True, repr=False)
class Counts:
    """Sealed counts, the sum over all owners.

    Attributes:
        answer: this owner's words; None elsewhere. finish: what the buyer makes of the counts [sums].
    """

    shape: SumWords
    keys: Keys
    owners: tuple[int, ...]
    answer: Words | None
    finish: Callable[[Integers], Integers]

    def __repr__(self) -> str:
        return f"Counts({self.shape})"

    def release(self, session: Session, name: str, to: int) -> Protocol[Integers | None]:
        """Every owner's words to the buyer. **Cost** one round. **Reveals** the sums of all owners' counts.

        Raises: BadInput: noise of more than half of what would spoil a count.
        """
        label, size = f"release:{name}"[:64], (self.shape.words,)
        values = [at_rank(session, owner, size, lambda: self._own()) for owner in self.owners]
        items = [Item(label, v, sender=o, to=to, masked=False) for o, v in zip(self.owners, values, strict=True)]
        found = yield items
        if session.rank != to:
            return None
        total = np.zeros(self.shape.sums, np.uint64)
        for words in found:
            total = total + self.shape.words_of(self.keys, words)
        drop = 64 - self.shape.torus_bits
        rounded = total + np.uint64(1 << drop - 1)
        rest = np.abs((rounded & np.uint64((1 << drop) - 1)).view(np.int64) - (1 << drop - 1))
        if int(rest.max()) > 1 << drop - 2:
            raise BadInput("expected counts under this key, found noise: they were changed, or belong to another key")
        return self.finish(rounded.view(np.int64) >> np.int64(drop))

    def _own(self) -> Words:
        assert self.answer is not None
        return self.answer


@dataclass(frozen=True, slots=True, repr=False)
class Table:
    """Sealed columns of counts: int64 [sums, columns]."""

    columns: tuple[Counts, ...]

    def __repr__(self) -> str:
        return f"Table({self.columns})"

    def release(self, session: Session, name: str, to: int) -> Protocol[Integers | None]:
        """All columns in one round. **Reveals** the sums of all owners' counts."""
        found = yield from together(*(column.release(session, name, to) for column in self.columns))
        return np.stack(found, axis=1) if session.rank == to else None

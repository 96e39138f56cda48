"""Outputs of a network as two shares modulo M, and how the buyer gets them rounded.

Both parties cut their share to `release_bits` bits, as a part of M, and the owner's goes to the buyer. The sum is the
output, rounded to `release_unit` by a threshold that the buyer's own share decides: uniform, and nobody's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.decisions.zero_forms import at_rank
from enclave.engines.he.engine import sent_by
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.wire import pack_bits, unpack_bits
from enclave.engines.he.networks.crossterms import Moduli
from enclave.engines.he.networks.plan import NetworkPlan
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor

__all__ = ["OutputSum", "Predictions"]

Floats = NDArray[np.float64]
_LANES = 64


@dataclass(frozen=True, slots=True, repr=False)
class Predictions:
    """Sealed outputs: one part for each chunk of an owner's rows, with this rank's share [m, rows, outputs] or None.

    Attributes:
        finish: what the buyer does to scores [rows, outputs] once it has them; None: nothing.
    """

    plan: NetworkPlan
    moduli: Moduli
    buyer: int
    parts: tuple[tuple[int, int, Words | None], ...]  # owner, rows, share
    finish: Callable[[Floats], Floats] | None = None

    def __repr__(self) -> str:
        return f"Predictions({sum(rows for _, rows, _ in self.parts)} rows)"

    def release(self, session: Session, name: str, to: int) -> Protocol[NDArray[Any] | None]:
        """float64 [rows, outputs] at the buyer, finished; None elsewhere.

        **Cost** one round; `release_bits` for each output. **Reveals** the outputs, to the buyer.
        """
        if to != self.buyer:
            raise ValueError("only the buyer's share can complete the outputs")
        outputs, bits = self.plan.network.output.size, self.plan.release_bits
        items = []
        for owner, rows, share in self.parts:
            value = sent_by(session, owner, -(-rows * outputs // _LANES) * bits, self._cutter(share))
            items.append(Item(f"release:{name}"[:64], value, sender=owner, to=to, masked=False))
        opened = yield items
        if session.rank != to:
            return None
        parts = [self._joined(share, words) for (_, _, share), words in zip(self.parts, opened, strict=True)]
        scores = np.concatenate(parts)
        return scores if self.finish is None else self.finish(scores)

    def words(self, session: Session) -> dict[int, Tensor]:
        """Shares modulo 2^64 of every output as a part of the torus: by owner, uint64 [outputs, rows] at it and at the
        buyer, blanks elsewhere. The unit of an output is 2^(64 - release_bits) / release_unit."""
        outputs, found = self.plan.network.output.size, dict[int, Tensor]()
        for owner in dict.fromkeys(owner for owner, _, _ in self.parts):
            parts = [(rows, share) for rank, rows, share in self.parts if rank == owner]
            shape = (outputs, sum(rows for rows, _ in parts))
            made = partial(self._words, [share for _, share in parts if share is not None])
            found[owner] = at_rank(session, (owner, self.buyer), shape, made)
        return found

    def _words(self, shares: list[Words]) -> Words:
        size = [share[0].size for share in shares]
        flat = [
            self._torus(share, 64)[:count].reshape(share.shape[1:]) for share, count in zip(shares, size, strict=True)
        ]
        return np.ascontiguousarray(np.concatenate(flat).T)

    def _cutter(self, share: Words | None) -> Callable[[], Words]:
        def cut() -> Words:
            assert share is not None
            size = -(-share[0].size // _LANES) * _LANES
            padded = np.zeros(size, np.uint64)
            padded[: share[0].size] = self._torus(share, self.plan.release_bits)[: share[0].size]
            return pack_bits(padded, self.plan.release_bits)

        return cut

    def cut(self, share: Words, bits: int) -> Words:
        """A share [m, rows, outputs] as parts of the torus, one axis."""
        return self._torus(share, bits)[: share[0].size]

    def _torus(self, share: Words, bits: int) -> Words:
        """round(2^bits (2^shift share) / M), one axis."""
        ring = self.moduli.base.lower(self.moduli.count)
        flat = np.stack([self.moduli.spread(residues) for residues in share], axis=1)
        factors = [[(1 << self.plan.release_shift) % prime] * ring.degree for prime in ring.primes]
        flat = ring.multiply(flat, np.array(factors, np.uint64))
        return ring.to_torus(flat, bits).reshape(-1)

    def _joined(self, share: Words | None, words: Words) -> Floats:
        assert share is not None
        bits, size = self.plan.release_bits, share[0].size
        total = self._torus(share, bits)[:size] + unpack_bits(words, bits)[:size]
        signed = (total << np.uint64(64 - bits)).view(np.int64) >> np.int64(64 - bits)
        values: Floats = signed.astype(np.float64) * self.plan.release_unit
        return values.reshape(share.shape[1:])


@dataclass(frozen=True, slots=True)
class OutputSum:
    """The sum of a single output over all rows of all owners, sealed."""

    predictions: Predictions

    def release(self, session: Session, name: str, to: int) -> Protocol[Floats | None]:
        """float64 [1] at the buyer, None elsewhere.

        **Cost** one round, 8 bytes of each owner. **Reveals** the sum to the buyer, and not the owners' parts of it: an
        owner adds its part of a sharing of zero among the owners.
        """
        predictions, bits = self.predictions, self.predictions.plan.release_bits
        owners = tuple(dict.fromkeys(owner for owner, _, _ in predictions.parts))
        zero = session.zero_share(session.new_stream(), (1,), owners)
        items = []
        for owner in owners:
            made = partial(self._word, owner, bits, zero)
            items.append(Item(f"he:{name}", sent_by(session, owner, 1, made), sender=owner, to=to, masked=False))
        opened = yield items
        if session.rank != to:
            return None
        total = sum((self._cut(owner, bits) + word for owner, word in zip(owners, opened, strict=True)), np.uint64(0))
        signed = (total << np.uint64(64 - bits)).view(np.int64) >> np.int64(64 - bits)
        return np.asarray(signed.astype(np.float64) * predictions.plan.release_unit)

    def _word(self, owner: int, bits: int, zero: Words) -> Words:
        return (self._cut(owner, bits) + zero) & np.uint64((1 << bits) - 1)

    def _cut(self, owner: int, bits: int) -> Words:
        """This rank's share of one owner's sum, as a part of the torus: [1]."""
        predictions, total = self.predictions, None
        primes = np.array(predictions.moduli.primes, np.uint64)[:, None, None]
        for rank, _, share in predictions.parts:
            if rank == owner:
                assert share is not None
                # a chunk has at most 2^13 rows of residues below 2^50
                part = share.sum(axis=1, keepdims=True, dtype=np.uint64) % primes
                total = part if total is None else (total + part) % primes
        assert total is not None
        return predictions.cut(total, bits)

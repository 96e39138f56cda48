"""The encrypted half of a hybrid session: keys, weights that were sent once, and products that become shares.

    buyer -> each other party    public key and weights, encrypted, once
    owner -> buyer               for each block of rows: answers, re-randomised, as `shares` says

One instance belongs to one session, and a secret key to one instance: keys are fresh in every job.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he import rlwe
from enclave.engines.he.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.linear import side_by_side
from enclave.engines.he.matvec import MatrixPacking
from enclave.engines.he.parameters import Parameters, checked, primes_of
from enclave.engines.he.ring import Ring, Words
from enclave.engines.he.sampling import ERROR_DEVIATION, Source
from enclave.engines.he.shares import Pair, returned_bits, returned_words, to_shares
from enclave.engines.he.wire import pack, packed_words, unpack
from enclave.engines.mpc import kernels
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor, together
from enclave.engines.mpc.tape import Array, Blank

__all__ = ["KnownRows", "SharedProducts", "multiply", "noise_deviation", "parameters"]

DEGREE = 4096


def parameters() -> Parameters:
    """Of encrypted weights: 100 bits, so that noise stays below what rounds the result even for large rows."""
    return checked("bfv", DEGREE, primes_of(DEGREE, (50, 50)))


@dataclass(frozen=True, slots=True)
class KnownRows:
    """Rows of one holder: a matrix (count, packing.inputs), in `pieces` of some rows each, int64, read as needed.

    `pieces` is called at the holder alone.
    """

    holder: int
    count: int
    pieces: Callable[[], Iterable[NDArray[np.int64]]]


def multiply(
    ring: Ring, packing: MatrixPacking, rows: Iterable[NDArray[np.int64]], queries: Words, workers: int = 1
) -> Iterator[Words]:
    """Ciphertexts [1, 2, k, N], coefficient form, of all products: one for each block of rows.

    Args:
        rows: pieces [any, inputs], the integers that the words stand for.
        queries: [groups, 2, k, N], evaluation form.
        workers: threads that compute.
    """
    for blocks in _blocks(rows, packing.block_rows):

        def work(index: int, blocks: Sequence[NDArray[np.int64]] = blocks) -> Words:
            columns = ring.encode_rows(_arranged(packing, blocks[index]))
            return ring.intt(ring.dot(columns, queries))[None]

        yield from side_by_side(work, len(blocks), workers)


def _blocks(pieces: Iterable[NDArray[np.int64]], size: int) -> Iterator[list[NDArray[np.int64]]]:
    """The same rows in blocks of `size`, some at a time, and a last one with what is left."""
    rest: NDArray[np.int64] | None = None
    for piece in pieces:
        rest = piece if rest is None or not len(rest) else np.concatenate((rest, piece))
        full = len(rest) // size * size
        yield [rest[start : start + size] for start in range(0, full, size)]
        rest = rest[full:]
    if rest is not None and len(rest):
        yield [rest]


def _arranged(packing: MatrixPacking, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """`packing.rows` of one block, coefficients first, [at most N, groups]: as `encode_rows` takes them."""
    n, group, groups = len(rows), packing.group, packing.groups
    padded = np.pad(rows, ((0, 0), (0, group * groups - packing.inputs))).reshape(n, groups, group)
    spaced = np.zeros((n, packing.outputs * group, groups), np.int64)
    spaced[:, :group] = padded[:, :, ::-1].swapaxes(1, 2)
    return spaced.reshape(-1, groups)


def noise_deviation(ring: Ring, packing: MatrixPacking, row_bits: float) -> float:
    """Standard deviation of a product's noise, in units of 2^-64 of the torus, where all of X is 2^row_bits large.

    It comes from the errors of the weights times the rows; those of the re-randomisation are far smaller.
    """
    return ERROR_DEVIATION * math.sqrt(packing.groups * ring.degree) * math.exp2(row_bits + 64) / ring.modulus


@dataclass(slots=True)
class _Keys:
    """Of one buyer, as one rank knows them; only its own rank has the secret key, only others the public one."""

    seed: PublicSeed | None = None
    secret_key: SecretKey | None = None
    public_key: PublicKey | None = None
    source: Source | None = None
    used: int = 0  # uniform polynomials of the seed


@dataclass(slots=True)
class _Query:
    """Weights as they were sent. `ciphertexts` [groups, 2, k, N], evaluation form, at all but their buyer."""

    packing: MatrixPacking
    ciphertexts: Words | None = None


@dataclass(slots=True)
class SharedProducts:
    """Products of rows known to owners with weights known to one rank, or shared, in a session.

    Args:
        receivers: the ranks that may have rows, and get encrypted weights.
    """

    session: Session
    frac_bits: int
    receivers: tuple[int, ...]
    parameters: Parameters = field(default_factory=parameters)
    _keys: dict[int, _Keys] = field(default_factory=dict)
    _queries: dict[tuple[Hashable, int], _Query] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """Bits of each coefficient that comes back."""
        return returned_bits(self.parameters.degree, self.frac_bits)

    @property
    def query_bytes(self) -> int:
        """Of one ciphertext of weights on the wire, to one party; a public key takes as much."""
        return 8 * self._words(())

    @property
    def answer_bytes(self) -> int:
        """Of one ciphertext that comes back."""
        return 8 * returned_words(self.parameters.ring(), 1, self.bits)

    def others(self, holder: int) -> tuple[int, ...]:
        """Who gets encrypted weights of this rank."""
        return tuple(rank for rank in self.receivers if rank != holder)

    def product(
        self, name: Hashable, packing: MatrixPacking, rows: Sequence[KnownRows], weights: Tensor, holders: Sequence[int]
    ) -> Protocol[Tensor]:
        """Shares of rows @ weights modulo 2^64, uint64 [n, outputs], not truncated.

        Args:
            name: of the weights; what was sent under it is used again, in its own packing.
            rows: matrices, stacked.
            weights: uint64 [inputs, outputs] at each of `holders`, whose sum is meant; ignored elsewhere.

        **Cost** one round, two for new weights. From each holder to each other receiver `query_bytes` for its key and
        for each ciphertext, once; from the rows' holder to each holder of weights `answer_bytes` for each answer;
        nothing where both are one. No dealer.
        **Reveals** nothing: weights are encrypted under their holder's key (RLWE); for answers see `to_shares`.
        """
        yield from together(*(self._sent((name, holder), packing, weights, holder) for holder in holders))
        pieces = yield from together(*(self._block(part, (name, h), weights, h) for part in rows for h in holders))
        n, each = sum(part.count for part in rows), len(holders)

        def stacked(*found: Array) -> Array:
            sums = [sum(found[i + 1 : i + each], found[i]) for i in range(0, len(found), each)]
            return sums[0] if len(sums) == 1 else np.concatenate(sums)

        return self.session.local(stacked, (n, packing.outputs), *pieces)

    # ---- weights
    def _sent(self, name: tuple[Hashable, int], packing: MatrixPacking, weights: Tensor, buyer: int) -> Protocol[None]:
        """Sends the public key of `buyer`, who knows the weights, and these, unless that was done before."""
        if name in self._queries:
            return
        others = self.others(buyer)
        if not others:
            self._queries[name] = _Query(packing)
            return
        fresh = buyer not in self._keys
        keys = self._keys.setdefault(buyer, _Keys())
        session, ring = self.session, self.parameters.ring()
        shape = (packing.groups,)
        first, keys.used = keys.used, keys.used + packing.groups
        if fresh:
            session.local(lambda: self._generate(keys, buyer), ())

        def encrypted() -> Tensor:
            if session.rank != buyer:
                return Blank((self._words(shape),))
            assert keys.secret_key is not None and keys.seed is not None
            phases = ring.from_torus(packing.weights(weights), 64)
            return pack(rlwe.encrypt(keys.secret_key, phases, keys.seed, first), ring.primes)

        values = [session.local(lambda: self._public(keys), (self._words(()),))] if fresh else []
        values.append(session.local(encrypted, (self._words(shape),)))
        labels = ["he:key", "he:weights"][-len(values) :]
        items = [
            Item(label, value, sender=buyer, to=rank)
            for rank in others
            for label, value in zip(labels, values, strict=True)
        ]
        opened = yield items
        query = self._queries[name] = _Query(packing)
        if session.rank in others:
            place = others.index(session.rank) * len(values)
            own = opened[place : place + len(values)]
            assert keys.seed is not None
            if fresh:
                b = unpack(own[0], ring.primes, (len(ring.primes), ring.degree))
                keys.public_key = PublicKey(ring, b, keys.seed)
            halves = unpack(own[-1], ring.primes, (*shape, len(ring.primes), ring.degree))
            query.ciphertexts = ring.ntt(rlwe.expand(ring, halves, keys.seed, first))

    def _generate(self, keys: _Keys, buyer: int) -> Array:
        # Safety: a session's own seed, so that no party chooses the uniform halves; one for each buyer.
        keys.seed = PublicSeed.derived(self.session.public_seed + b"hybrid" + bytes([buyer]))
        keys.source = Source.fresh()
        if self.session.rank == buyer:
            ring = self.parameters.ring()
            keys.secret_key = SecretKey(ring, keys.source, 0)
            keys.public_key = PublicKey.generate(keys.secret_key, ring, keys.seed)
        return np.zeros((), np.uint64)

    def _public(self, keys: _Keys) -> Tensor:
        if keys.public_key is None:
            return Blank((self._words(()),))
        return pack(keys.public_key.b, self.parameters.primes)

    def _words(self, lead: tuple[int, ...]) -> int:
        primes = self.parameters.primes
        return packed_words(primes, (*lead, len(primes), self.parameters.degree))

    # ---- rows
    def _block(self, rows: KnownRows, name: tuple[Hashable, int], weights: Tensor, buyer: int) -> Protocol[Tensor]:
        query, session = self._queries[name], self.session
        packing = query.packing
        shape = (rows.count, packing.outputs)
        if rows.holder == buyer:
            return session.local(lambda: self._own(rows, weights, shape), shape)
        ring, keys = self.parameters.ring(), self._keys[buyer]

        def answers() -> Iterator[Words]:
            assert query.ciphertexts is not None
            return multiply(ring, packing, rows.pieces(), query.ciphertexts, os.cpu_count() or 1)

        pair = Pair(ring, rows.holder, buyer, keys.public_key, keys.source, keys.secret_key)
        share = yield from to_shares(session, pair, answers, packing.blocks(rows.count), self.bits)
        return session.local(lambda s: np.ascontiguousarray(packing.products(s, rows.count)), shape, share)

    def _own(self, rows: KnownRows, weights: Tensor, shape: tuple[int, ...]) -> Array:
        """The holder's own rows with its own weights: nothing to encrypt."""
        if self.session.rank != rows.holder:
            return np.zeros(shape, np.uint64)
        return np.concatenate([kernels.matmul(piece.view(np.uint64), weights) for piece in rows.pieces()])

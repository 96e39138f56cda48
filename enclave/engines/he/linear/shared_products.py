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

from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.expansion import Expansion, expand_constants, expansion_keys, read_keys
from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.noise import expanded_energy, switching_variance
from enclave.engines.he.lattice.parameters import Parameters, checked, primes_of
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import ERROR_DEVIATION, Source
from enclave.engines.he.lattice.switching import switch_key_shape
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.he.linear.matvec import MatrixPacking
from enclave.engines.he.linear.shares import Pair, returned_bits, returned_words, to_shares
from enclave.engines.he.linear.weights import side_by_side
from enclave.engines.mpc import kernels
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor, together
from enclave.engines.mpc.tape import Array, Blank
from enclave.errors import BadSpec

__all__ = ["KnownRows", "SharedProducts", "expanding_parameters", "multiply", "noise_deviation", "parameters"]

DEGREE = 4096


def parameters() -> Parameters:
    """Of encrypted weights: 100 bits, so that noise stays below what rounds the result even for large rows."""
    return checked("bfv", DEGREE, primes_of(DEGREE, (50, 50)))


def expanding_parameters() -> Parameters:
    """Of weights that are expanded: the keys of that do not fit into the smaller degree."""
    return checked("bfv", 2 * DEGREE, primes_of(2 * DEGREE, (50, 50, 50))[:2], primes_of(2 * DEGREE, (50, 50, 50))[2])


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


def noise_deviation(ring: Ring, packing: MatrixPacking, row_bits: float, expansion: Expansion | None = None) -> float:
    """Standard deviation of a product's noise, in units of 2^-64 of the torus, where all of X is 2^row_bits large.

    It comes from the errors of the weights times the rows; those of the re-randomisation are far smaller.

    Args:
        expansion: of the weights, if they are. It makes their noise larger, about 2^9 times for 6 levels: rows of 2^9
            and more would lose the last bits of their products: `HybridEngine` expands for smaller ones alone.
    """
    energy = ring.degree * ERROR_DEVIATION**2
    if expansion is not None:
        special = expanding_parameters().special
        assert special is not None
        energy = expanded_energy(expansion, ring.degree, switching_variance(ring.degree, ring.primes, special))
    return math.sqrt(packing.groups * energy) * math.exp2(row_bits + 64) / ring.modulus


def _packed(ring: Ring, constants: Words, expansion: Expansion) -> Words:
    """Phases [count, k] of constants -> [ciphertexts, k, N], each divided by what it grows by, modulo q."""
    found = np.zeros((expansion.ciphertexts, len(ring.primes), ring.degree), np.uint64)
    start = 0
    for index, size in enumerate(expansion.sizes):
        found[index, :, :size] = constants[start : start + size].T
        start += size
    divisors = np.zeros((expansion.ciphertexts, ring.degree), np.int64)
    for index, size in enumerate(expansion.sizes):
        divisors[index, :size] = expansion.splits(size)
    halves = [[pow(pow(2, -1, p), grown, p) for grown in range(expansion.levels + 1)] for p in ring.primes]
    factors = np.array(halves, np.uint64)[:, divisors].swapaxes(0, 1)
    return ring.multiply(found, np.ascontiguousarray(factors))


@dataclass(slots=True)
class _Keys:
    """Of one buyer, as one rank knows them; only its own rank has the secret key, only others the public one."""

    seed: PublicSeed | None = None
    secret_key: SecretKey | None = None
    public_key: PublicKey | None = None
    source: Source | None = None
    used: int = 0  # uniform polynomials of the seed, for weights
    switched: int = 0  # and for keys of expansion


@dataclass(slots=True)
class _Query:
    """Weights as they were sent. `ciphertexts` [groups, 2, k, N], evaluation form, at all but their buyer."""

    packing: MatrixPacking
    expansion: Expansion
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

    def sent_bytes(self, expansion: Expansion) -> int:
        """Of weights in one product, and what comes with them, to one party that gets its first ones."""
        return self.query_bytes * (1 + expansion.ciphertexts) + 8 * self._key_words(expansion)

    @property
    def answer_bytes(self) -> int:
        """Of one ciphertext that comes back."""
        return 8 * returned_words(self.parameters.ring(), 1, self.bits)

    def others(self, holder: int) -> tuple[int, ...]:
        """Who gets encrypted weights of this rank."""
        return tuple(rank for rank in self.receivers if rank != holder)

    def product(
        self,
        name: Hashable,
        packing: MatrixPacking,
        rows: Sequence[KnownRows],
        weights: Tensor,
        holders: Sequence[int],
        levels: int = 0,
    ) -> Protocol[Tensor]:
        """Shares of rows @ weights modulo 2^64, uint64 [n, outputs], not truncated.

        Args:
            name: of the weights; what was sent under it is used again, in its own packing.
            rows: matrices, stacked.
            weights: uint64 [inputs, outputs] at each of `holders`, whose sum is meant; ignored elsewhere.
            levels: weights, constants then (one output, groups of one column), travel up to 2^levels in a ciphertext
                with as many keys, and are expanded where they arrive. For parameters with a special prime.

        **Cost** one round, two for new weights. From each holder to each other receiver `query_bytes` for its key and
        for each ciphertext, once, and the keys of an expansion; from the rows' holder to each holder of weights
        `answer_bytes` for each answer; nothing where both are one. No dealer.
        **Reveals** nothing: weights are encrypted under their holder's key (RLWE, and with an expansion that keys may
        encrypt each other, as in all key switching); for answers see `to_shares`.
        """
        yield from together(*(self._sent((name, holder), packing, levels, weights, holder) for holder in holders))
        pieces = yield from together(*(self._block(part, (name, h), weights, h) for part in rows for h in holders))
        n, each = sum(part.count for part in rows), len(holders)

        def stacked(*found: Array) -> Array:
            sums = [sum(found[i + 1 : i + each], found[i]) for i in range(0, len(found), each)]
            return sums[0] if len(sums) == 1 else np.concatenate(sums)

        return self.session.local(stacked, (n, packing.outputs), *pieces)

    # ---- weights
    def _sent(
        self, name: tuple[Hashable, int], packing: MatrixPacking, levels: int, weights: Tensor, buyer: int
    ) -> Protocol[None]:
        """Sends the public key of `buyer`, who knows the weights, and these, unless that was done before."""
        if name in self._queries:
            return
        if levels and packing.group * packing.outputs != 1:
            raise BadSpec("expansion makes constants: expected one output, in groups of one column")
        others, expansion = self.others(buyer), Expansion(packing.groups, levels)
        query = self._queries[name] = _Query(packing, expansion)
        if not others:
            return
        fresh = buyer not in self._keys
        keys = self._keys.setdefault(buyer, _Keys())
        session = self.session
        first, keys.used = keys.used, keys.used + expansion.ciphertexts
        switched, keys.switched = keys.switched, keys.switched + levels * len(self.parameters.primes)
        if fresh:
            session.local(lambda: self._generate(keys, buyer), ())
        sent = {"he:key": session.local(lambda: self._public(keys), (self._words(()),))} if fresh else {}
        size = (self._words((expansion.ciphertexts,)),)
        sent["he:weights"] = session.local(lambda: self._encrypted(keys, query, weights, first), size)
        if levels:
            size = (self._key_words(expansion),)
            sent["he:expansion keys"] = session.local(lambda: self._switches(keys, expansion, switched), size)
        opened = yield [Item(label, value, sender=buyer, to=rank) for rank in others for label, value in sent.items()]
        if session.rank in others:
            place = others.index(session.rank) * len(sent)
            own = dict(zip(sent, opened[place : place + len(sent)], strict=True))
            query.ciphertexts = self._received(keys, expansion, own, first, switched)

    def _encrypted(self, keys: _Keys, query: _Query, weights: Tensor, first: int) -> Tensor:
        """Weights as they travel, at their buyer."""
        ring, expansion = self.parameters.ring(), query.expansion
        if keys.secret_key is None:
            return Blank((self._words((expansion.ciphertexts,)),))
        assert keys.seed is not None
        phases = ring.from_torus(query.packing.weights(weights), 64)
        if expansion.levels:
            phases = _packed(ring, phases[..., 0], expansion)
        return pack(rlwe.encrypt(keys.secret_key, phases, keys.seed, first), ring.primes)

    def _switches(self, keys: _Keys, expansion: Expansion, first: int) -> Tensor:
        """The keys of an expansion as they travel, at their buyer."""
        if keys.secret_key is None:
            return Blank((self._key_words(expansion),))
        assert keys.seed is not None
        return pack(expansion_keys(keys.secret_key, expansion, keys.seed, first), self.parameters.key_primes)

    def _received(self, keys: _Keys, expansion: Expansion, words: dict[str, Words], first: int, switched: int) -> Words:
        """Weights in evaluation form, from what their buyer sent. Raises BadInput: a residue that is none."""
        ring, key_ring, seed = self.parameters.ring(), self.parameters.key_ring(), keys.seed
        assert seed is not None
        shape = (len(ring.primes), ring.degree)
        if "he:key" in words:
            keys.public_key = PublicKey(ring, unpack(words["he:key"], ring.primes, shape), seed)
        halves = unpack(words["he:weights"], ring.primes, (expansion.ciphertexts, *shape))
        packed = rlwe.expand(ring, halves, seed, first)
        if not expansion.levels:
            return ring.ntt(packed)
        b = unpack(words["he:expansion keys"], key_ring.primes, (expansion.levels, *switch_key_shape(key_ring)))
        switches = read_keys(key_ring, b, seed, switched)
        return np.concatenate(
            [ring.ntt(part) for part in expand_constants(switches, packed, expansion, ring, os.cpu_count() or 1)]
        )

    def _generate(self, keys: _Keys, buyer: int) -> Array:
        # Safety: a session's own seed, so that no party chooses the uniform halves; one for each buyer.
        keys.seed = PublicSeed.derived(
            self.session.public_seed + b"hybrid" + bytes([buyer]) + self.parameters.degree.to_bytes(4, "big")
        )
        keys.source = Source.fresh()
        if self.session.rank == buyer:
            ring = self.parameters.ring()
            keys.secret_key = SecretKey(self.parameters.key_ring(), keys.source, 0)
            keys.public_key = PublicKey.generate(keys.secret_key, ring, keys.seed)
        return np.zeros((), np.uint64)

    def _public(self, keys: _Keys) -> Tensor:
        if keys.public_key is None:
            return Blank((self._words(()),))
        return pack(keys.public_key.b, self.parameters.primes)

    def _words(self, lead: tuple[int, ...]) -> int:
        primes = self.parameters.primes
        return packed_words(primes, (*lead, len(primes), self.parameters.degree))

    def _key_words(self, expansion: Expansion) -> int:
        primes = self.parameters.key_primes
        shape = (expansion.levels, len(primes) - 1, len(primes), self.parameters.degree)
        return packed_words(primes, shape) if expansion.levels else 0

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

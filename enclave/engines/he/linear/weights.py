"""Products of an owner's plaintext rows with a buyer's encrypted weights, the common part of scoring and of shares.

    buyer:   Enc(w_j) for every column j and output, once a session     -> all owners
    owners:  sum_j x_j Enc(w_j) for each block of rows

What comes out is a ciphertext of the scores whose noise depends on the rows and whose other half is a function of
them. It is neither flooded nor re-randomised here: it must not leave the owner before it is (`scoring`, `shares`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine, Keys, sent_by
from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.expansion import Expansion, expand_constants, expansion_keys, read_keys
from enclave.engines.he.lattice.parameters import Parameters
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.switching import SwitchKey
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.he.linear.packing import Packing
from enclave.engines.mpc.session import Item, Protocol
from enclave.errors import BadInput, BadSpec

__all__ = ["EncryptedWeights", "Query", "query_phases", "send_weights", "side_by_side", "torus_phases"]

T = TypeVar("T")
Floats = NDArray[np.float64]
_MANTISSA_BITS = 53
_NUMBERS_BITS = 24  # of the uniform halves that one sending may use
_PART_BYTES = 1 << 29  # of expanded weights that an owner holds at once
_TRANSFORMED = 64  # polynomial pairs at once: enough to amortise a call, few enough to stay small


@dataclass(frozen=True, slots=True)
class Query:
    """The public shape of encrypted weights.

    Attributes:
        levels: 0: one ciphertext for each polynomial of weights. L: a ciphertext carries up to 2^L constants of one
            output, which the owner expands; the stride is 1.
    """

    parameters: Parameters
    packing: Packing
    outputs: int
    levels: int = 0

    def __post_init__(self) -> None:
        if self.outputs < 1:
            raise BadSpec(f"expected a model with outputs, found {self.outputs}")
        if self.levels and (self.packing.stride != 1 or self.parameters.special is None):
            raise BadSpec("expansion needs constants and a special prime")

    @property
    def expansion(self) -> Expansion:
        """How the polynomials of one output, constants then, are packed."""
        return Expansion(self.packing.groups, self.levels)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the halves of ciphertexts that travel: [outputs, ciphertexts, k, N]."""
        return (self.outputs, self.expansion.ciphertexts, len(self.parameters.primes), self.parameters.degree)

    @property
    def words(self) -> int:
        """64-bit words of these halves on the wire."""
        return packed_words(self.parameters.primes, self.shape)

    @property
    def key_shape(self) -> tuple[int, int, int, int]:
        """Of the halves of the keys of expansion: [levels, digits, k + 1, N]."""
        keys = len(self.parameters.key_primes)
        return (self.levels, keys - 1, keys, self.parameters.degree)

    @property
    def key_words(self) -> int:
        """64-bit words of these keys on the wire."""
        return packed_words(self.parameters.key_primes, self.key_shape) if self.levels else 0


def torus_phases(ring: Ring, values: Floats, bits: int) -> Words:
    """round(q v / 2^bits) for float64 values [..., N] -> residues [..., k, N]. Exact, whatever the size of q.

    Raises: BadInput: a value that is not finite.
    """
    if not np.isfinite(values).all():
        raise BadInput("a weight of the model is not a finite number")
    fractions, exponents = np.frexp(values)
    integers = np.ldexp(fractions, _MANTISSA_BITS).astype(np.int64)
    shifts = np.maximum(_MANTISSA_BITS + bits - exponents.astype(np.int64), 1)
    found = np.zeros(values.shape, object)
    at = np.nonzero(integers)
    found[at] = [
        (v * ring.modulus + (1 << s - 1)) >> s for v, s in zip(integers[at].tolist(), shifts[at].tolist(), strict=True)
    ]
    return ring.from_integers(found)


def query_phases(ring: Ring, query: Query, weights: Floats, bits: int) -> Words:
    """The phases of weights [columns, outputs], parts of the torus over 2^bits: `query.shape`.

    A row of integers x then has scores with the phase q sum_j x_j w_j / 2^bits. What is going to be expanded is scaled
    down by 2 for each doubling on its way.
    """
    grouped = query.packing.grouped(weights).transpose(2, 0, 1)  # [outputs, groups, stride]
    polynomials = np.zeros((*query.shape[:2], ring.degree))
    if not query.levels:
        polynomials[..., : query.packing.stride] = grouped
        return torus_phases(ring, polynomials, bits)
    start = 0
    for index, size in enumerate(query.expansion.sizes):
        constants = grouped[:, start : start + size, 0]
        polynomials[:, index, :size] = np.ldexp(constants, -query.expansion.splits(size))
        start += size
    return torus_phases(ring, polynomials, bits)


class EncryptedWeights:
    """Encrypted weights, as every rank knows them: ciphertexts at the owners, nothing to look at elsewhere.

    What was packed stays packed, and is expanded for some outputs at a time: expanded constants are large.
    """

    __slots__ = ("_packed", "_switches", "keys", "query", "ring")

    def __init__(self, query: Query, keys: Keys, packed: Words | None = None, switches: Sequence[SwitchKey] = ()):
        self.query = query
        self.keys = keys
        self.ring = query.parameters.ring()
        self._packed = packed
        self._switches = tuple(switches)

    def __repr__(self) -> str:
        return f"EncryptedWeights({self.query})"

    def parts(self, most_bytes: int = _PART_BYTES) -> Iterator[tuple[int, Words]]:
        """The weights of some outputs after the other: (first output, evaluation form [groups, outputs, 2, k, N]).

        Args:
            most_bytes: of one part, where a single output is not larger.
        """
        for first, stop in self.edges(most_bytes):
            yield first, self._loaded(first, stop)

    def edges(self, most_bytes: int = _PART_BYTES) -> tuple[tuple[int, int], ...]:
        """First output, and the one after the last, of each part."""
        one = self.query.packing.groups * 2 * len(self.ring.primes) * self.ring.degree * 8
        step, outputs = max(1, most_bytes // one), self.query.outputs
        return tuple((first, min(outputs, first + step)) for first in range(0, outputs, step))

    def dot(self, polynomials: Words, part: Words) -> Words:
        """The scores of blocks of rows, evaluation form.

        Args:
            polynomials: [..., groups, k, N], of one block or of several. part: of the weights.

        Returns: ciphertexts [..., outputs, 2, k, N], not yet fit to leave.
        """
        return self.ring.dot(polynomials, part)

    def _loaded(self, first: int, stop: int) -> Words:
        if self._packed is None:
            raise BadInput("only an owner has the encrypted weights")
        ring, query = self.ring, self.query
        groups = query.packing.groups
        out = np.empty((groups, stop - first, 2, len(ring.primes), ring.degree), np.uint64)
        for output in range(first, stop):
            packed, start = self._packed[output], 0
            pieces = expand_constants(self._switches, packed, query.expansion, ring) if query.levels else [packed]
            for piece in pieces:
                for low in range(0, len(piece), _TRANSFORMED):
                    some = piece[low : low + _TRANSFORMED]
                    out[start : start + len(some), output - first] = ring.ntt(some)
                    start += len(some)
        return out


def send_weights(
    engine: HeEngine, query: Query, phases: Callable[[Ring], Words] | None, label: str = "he:weights"
) -> Protocol[EncryptedWeights]:
    """The buyer's weights, encrypted to itself, at every owner.

    Args:
        phases: at the buyer: gives what is encrypted over a ring, of `query.shape`, such as `query_phases`.

    **Cost** one round: half a ciphertext for each polynomial of weights, or for every 2^levels of them and a key for
    each level; the public key in the same round, the first time.
    **Reveals** nothing (RLWE).
    """
    keys, announced = engine.announced(query.parameters)
    sender = _Sender(engine, query, keys, engine.session.new_stream() << _NUMBERS_BITS)
    words = yield [*sender.items(label, phases), *announced]
    if announced:
        keys.receive(words.pop())
    if engine.session.blank or engine.is_buyer:
        return EncryptedWeights(query, keys)
    return sender.received(words)


@dataclass(frozen=True, slots=True)
class _Sender:
    """One sending of weights: its uniform halves are numbered from `first` on."""

    engine: HeEngine
    query: Query
    keys: Keys
    first: int

    @property
    def ring(self) -> Ring:
        return self.query.parameters.ring()

    def items(self, label: str, phases: Callable[[Ring], Words] | None) -> list[Item]:
        session, buyer, query = self.engine.session, self.engine.buyer, self.query
        value = sent_by(session, buyer, query.words, lambda: self.encrypted(phases))
        items = [Item(label, value, sender=buyer)]
        if query.levels:
            keys = sent_by(session, buyer, query.key_words, self.expansion_keys)
            items.append(Item("he:expansion keys", keys, sender=buyer))
        return items

    def encrypted(self, phases: Callable[[Ring], Words] | None) -> Words:
        assert self.keys.secret is not None and self.keys.seed is not None
        if phases is None:
            raise BadInput("the buyer must bring the weights")
        return pack(rlwe.encrypt(self.keys.secret, phases(self.ring), self.keys.seed, self.first), self.ring.primes)

    def expansion_keys(self) -> Words:
        assert self.keys.secret is not None and self.keys.seed is not None
        keys = expansion_keys(self.keys.secret, self.query.expansion, self.keys.seed, self.first)
        return pack(keys, self.query.parameters.key_primes)

    def received(self, words: list[Words]) -> EncryptedWeights:
        """Raises BadInput: a residue that is none."""
        query, ring, seed = self.query, self.ring, self.keys.seed
        assert seed is not None
        packed = rlwe.expand(ring, unpack(words[0], ring.primes, query.shape), seed, self.first)
        if not query.levels:
            return EncryptedWeights(query, self.keys, packed)
        key_ring = query.parameters.key_ring()
        halves = unpack(words[1], key_ring.primes, query.key_shape)
        return EncryptedWeights(query, self.keys, packed, read_keys(key_ring, halves, seed, self.first))


def side_by_side(work: Callable[[int], T], count: int, workers: int) -> Iterator[T]:
    """work(0), work(1), ... in order, computed by some threads a few ahead: the kernels release the interpreter."""
    if workers <= 1 or count <= 1:
        yield from map(work, range(count))
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[T]] = deque()
        for index in range(count):
            ahead.append(pool.submit(work, index))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

"""Homomorphic encryption joined to secret sharing, and the choice of a job's engine.

`HybridEngine` is `MpcEngine`, but for products of rows that owners know in the clear with weights that one rank, the
buyer, knows in the clear: the buyer sends its weights encrypted, once, each owner multiplies its own plaintext rows
with them, and the product becomes shares (`he.shared_products`). Rows leave their owner in no form then, not even
masked, and what travels does not depend on their width. The rest, metrics included, runs on shares with the dealer.

The rule is public and follows from shapes alone, so that all parties, the plan and the dealer agree: a product is
encrypted wherever `MOST_QUERIES` and `MOST_MORE_BYTES` allow, even where masks would send less, since who asks for this
engine wants rows to stay at home. The plan lists every product of rows in `statements`: encrypted, or masked and why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.expansion import Expansion
from enclave.engines.he.linear.encodings import Encodings
from enclave.engines.he.linear.matvec import MatrixPacking
from enclave.engines.he.linear.shared_products import KnownRows, SharedProducts, expanding_parameters
from enclave.engines.he.linear.shares import hiding
from enclave.engines.he.planner import Hiding
from enclave.engines.interface import Engine
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.protocols.arithmetic import Bilinear, Conv2d, MatMul
from enclave.engines.mpc.session import Session
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import Part, RingTensor
from enclave.errors import BadSpec

__all__ = ["MOST_MORE_BYTES", "MOST_QUERIES", "HybridEngine", "engine_for"]

Shape = tuple[int, ...]
U = np.uint64

# Ciphertexts of weights in one product: 100 MB for the buyer to send to each owner, and 270 MB in an owner's memory.
MOST_QUERIES = 2048
# What an encrypted product may send more than a masked one: 1.3 s at 100 Mbit/s, about what keys and imports take
# anyway. A small job, whose one encrypted layer costs a few MB, never comes near it; a convolution over many images
# or a wide layer over few, which would send tens of times what masks do, is kept from it.
MOST_MORE_BYTES = 16 << 20
_MOST_CONSTANTS = 1024  # to expand: 270 MB in an owner's memory
_EXPANSION_GAIN = 0.75  # what expanding may still send: it takes an owner milliseconds for each constant
_EXPANSION_RANGE = 512.0  # of rows: beyond, the noise of expanded weights would reach the last bits of products
_USUAL_ROWS = 4096  # of one block
_READ_ONCE = "weights that one party knows, or rows that are read once"  # a training has neither, in no step


@dataclass(frozen=True, slots=True)
class _Matrices:
    """A product as one of matrices: rows (n, inputs) with weights (inputs, outputs)."""

    op: MatMul | Conv2d
    rows: Shape
    weights: Shape

    @property
    def matrix(self) -> tuple[int, int, int]:
        """n, inputs, outputs."""
        if isinstance(self.op, MatMul):
            return self.rows[0], self.rows[1], self.op.shape(self.rows, self.weights)[1]
        height, width = self.op.geometry(self.weights).out(self.rows[2], self.rows[3])
        return self.rows[0] * height * width, prod(self.weights[1:]), self.weights[0]

    def of_part(self, part: Part) -> KnownRows:
        """Rows of one holder."""
        count = replace(self, rows=part.shape).matrix[0]
        return KnownRows(part.holder, count, lambda: self._pieces(np.ascontiguousarray(part.plain)))

    def _pieces(self, plain: Array) -> Iterator[NDArray[np.int64]]:
        """Matrices of rows; those of a convolution are windows, of some images at a time."""
        if isinstance(self.op, MatMul):
            yield plain.view(np.int64)
            return
        windows = self.op.geometry(self.weights)
        step = windows.rows_at_once(*plain.shape[1:])
        for start in range(0, len(plain), step):
            yield windows.unfold(plain[start : start + step]).view(np.int64)

    def of_weights(self, plain: Array) -> Array:
        """(inputs, outputs)."""
        if isinstance(self.op, MatMul):
            return plain.T if self.op.transpose_y else plain
        return plain.transpose(2, 3, 1, 0).reshape(-1, plain.shape[0])

    def result(self, scores: Array) -> Array:
        """Scores (n, outputs) in the shape of the product."""
        if isinstance(self.op, MatMul):
            return scores
        n, outputs, height, width = self.op.shape(self.rows, self.weights)
        return np.ascontiguousarray(scores.reshape(n, height, width, outputs).transpose(0, 3, 1, 2))


@dataclass(frozen=True, slots=True)
class _Choice:
    """How a product is encrypted, and the bytes that it sends in the whole job. levels: of expansion."""

    packing: MatrixPacking
    levels: int
    sent: int


class HybridEngine(MpcEngine):
    """`MpcEngine`, whose products of rows known to owners with weights known to the buyer are encrypted.

    Weights that are shared are encrypted too, share by share, each under a key of its holder: such as a first layer
    into which the standardisation of several owners' rows was folded. Only where rows are read once: a training masks
    them once for all its epochs, and none of its products, nor its first, has weights that one rank knows.

    What is feasible is encrypted: at most `MOST_QUERIES` ciphertexts of weights, and at most `MOST_MORE_BYTES` more
    than masks would send in the whole job. The rest is masked, as by `MpcEngine`.

    Args:
        rows: of the whole job by the rank that holds them, when each is read once; None: not known.
        largest: magnitude of their values, by the ranges that the job declares.
        always: rows must not leave their owner: bytes do not count, and what cannot be encrypted is refused.
    """

    def __init__(
        self,
        session: Session,
        frac_bits: int,
        network: str = "lan",
        rows: Mapping[int, int] | None = None,
        *,
        largest: float = 1.0,
        always: bool = False,
    ) -> None:
        super().__init__(session, frac_bits, network)
        self._rows, self._largest, self._always = dict(rows or {}), largest, always
        receivers = tuple(sorted(self._rows)) or tuple(range(session.parties))
        self._encrypted = SharedProducts(session, frac_bits, receivers)
        self._expanded = SharedProducts(session, frac_bits, receivers, expanding_parameters())
        self._packings: dict[tuple[RingTensor, Bilinear], _Choice | str] = {}
        self._statements: dict[Hiding, None] = {}

    @property
    def statements(self) -> tuple[Hiding, ...]:
        """What hides the owners' rows in each layer that reads them: encryption, or masks and why. Equal at all ranks.

        Masks of shares hide all there is: infinitely many bits.
        """
        return tuple(self._statements)

    def _product(self, op: Bilinear, x: RingTensor, y: RingTensor, lazy: bool = False) -> RingTensor:
        y = self._operand(y)
        product = self._eligible(op, x, y)
        if product is None:
            return super()._product(op, x, y, lazy)
        packing = product if isinstance(product, str) else self._packing_of(product, x, y)
        if isinstance(product, str) or isinstance(packing, str):
            self._mask(str(packing))
            return super()._product(op, x, y, lazy)
        self._statements[hiding(self._here)] = None
        plain = y.parts[0].plain if len(y.parts) == 1 else y.share
        weights = None if plain is None or self.session.blank else product.of_weights(plain)
        parts = [product.of_part(part) for part in x.parts]
        way = self._expanded if packing.levels else self._encrypted
        share = self._run(way.product((y, op), packing.packing, parts, weights, self._holders(y), packing.levels))
        shape = op.shape(x.shape, y.shape)
        bits = x.frac_bits + y.frac_bits
        found = self._new(self.session.local(product.result, shape, share), shape, bits, pending=True)
        return found if lazy else self._operand(found)

    def _holders(self, weights: RingTensor) -> tuple[int, ...]:
        """Who knows the weights, or has a share of them."""
        return (weights.parts[0].holder,) if len(weights.parts) == 1 else tuple(range(self.session.parties))

    def _eligible(self, op: Bilinear, x: RingTensor, y: RingTensor) -> _Matrices | str | None:
        """The product as one of matrices, if each row is known to somebody, and not all there is to one.

        Or what it would take to encrypt it; None: it is no product of rows with what others have.
        """
        if not isinstance(op, MatMul | Conv2d) or not x.parts or x.frac_bits != self._frac_bits:
            return None
        if all((part.holder,) == self._holders(y) for part in x.parts):
            return None
        if len(y.parts) != 1 and not (self._rows or self._always):
            return _READ_ONCE
        if y.frac_bits != self._frac_bits:
            return f"weights of {self._frac_bits} fractional bits"
        if op.transpose_x if isinstance(op, MatMul) else op.groups != 1:
            return "rows as they are, in one group of channels"
        if any(part.holder not in self._encrypted.receivers for part in x.parts):
            return "rows of those who bring the job's rows"
        return _Matrices(op, x.shape, y.shape)

    def _mask(self, needs: str) -> None:
        """Rows are to be masked; raises BadSpec where they must not leave their owner."""
        if self._always:
            raise BadSpec(f"{self._here}: expected {needs}, to be encrypted", hint="engine hybrid or mpc would do")
        label = "every layer" if needs == _READ_ONCE else self._here
        self._statements[Hiding(label, math.inf, f"masked, because encryption takes {needs}")] = None

    @property
    def _here(self) -> str:
        return self.session.stage or "product"

    def _packing_of(self, product: _Matrices, x: RingTensor, y: RingTensor) -> _Choice | str:
        """Chosen once for all blocks: those that a plan records once and repeats must not send weights."""
        key = (y, product.op)
        if key not in self._packings:
            self._packings[key] = self._packing(product, x, y)
        return self._packings[key]

    def _packing(self, product: _Matrices, x: RingTensor, y: RingTensor) -> _Choice | str:
        """Chosen from shapes and declared ranges; or what it would take to encrypt the product."""
        holders = self._holders(y)
        encrypted, others = self._encrypted, self.session.parties - 1
        degree, (n, inputs, outputs) = encrypted.parameters.degree, product.matrix
        copies = sum(len(encrypted.others(holder)) for holder in holders)
        answers = 1 if len(holders) == 1 else others
        query, answer = encrypted.query_bytes * copies, encrypted.answer_bytes * answers
        if outputs > degree:
            return f"at most {degree} outputs, found {outputs}"
        blocks = self._blocks(x.shape[0])
        counts = tuple((rows * n // x.shape[0], count) for rows, count in blocks)
        packing = _cheapest(degree, inputs, outputs, counts, answer / query)
        if packing.groups > MOST_QUERIES:
            return f"at most {MOST_QUERIES} ciphertexts of weights, found {packing.groups}"
        # One more for the public key.
        choice = _Choice(packing, 0, (1 + packing.groups) * query + _answers(packing, counts) * answer)
        if outputs == 1 and 1 < inputs <= _MOST_CONSTANTS and self._largest <= _EXPANSION_RANGE:
            choice = min((choice, *self._expansions(inputs, counts, copies, answers, choice)), key=lambda c: c.sent)
        # Masked once each, to all others; and a dealt share of the product.
        rows = sum(rows * count for rows, count in blocks)
        masked = 8 * (others * (x.size // x.shape[0] * rows + y.size) + rows * n // x.shape[0] * outputs)
        more = choice.sent - masked
        if self._always or more <= MOST_MORE_BYTES:
            return choice
        return f"at most {MOST_MORE_BYTES >> 20} MiB more than masks, found {more / 2**20:,.0f}"

    def _expansions(
        self, inputs: int, counts: tuple[tuple[int, int], ...], copies: int, answers: int, direct: _Choice
    ) -> Iterator[_Choice]:
        """Ways that send so much less than `direct` that expanding is worth it. For one output."""
        way = self._expanded
        packing = MatrixPacking(way.parameters.degree, inputs, 1)
        back = _answers(packing, counts) * way.answer_bytes * answers
        for levels in range(1, (inputs - 1).bit_length() + 1):
            sent = way.sent_bytes(Expansion(inputs, levels)) * copies + back
            if sent <= _EXPANSION_GAIN * direct.sent:
                yield _Choice(packing, levels, sent)

    def _blocks(self, rows: int) -> tuple[tuple[int, int], ...]:
        """(rows, how many blocks of so many) that will be read in all, the first of which has `rows`.

        A first block may be all that its owner has: the others' are taken to have the usual number of rows.
        """
        if not self._rows:
            return ((rows, 1),)
        full = max(rows, _USUAL_ROWS)
        found: Counter[int] = Counter()
        for count in self._rows.values():
            found[full] += count // full
            found[count % full] += 1
        return tuple((size, count) for size, count in sorted(found.items()) if size and count)


def _answers(packing: MatrixPacking, counts: tuple[tuple[int, int], ...]) -> int:
    return sum(packing.blocks(rows) * count for rows, count in counts)


@lru_cache(maxsize=256)
def _cheapest(
    degree: int, inputs: int, outputs: int, counts: tuple[tuple[int, int], ...], price: float
) -> MatrixPacking:
    """The packing that sends least: ciphertexts of weights, and answers at `price` times as much.

    Args:
        counts: (rows, how many products with so many).
    """
    sizes = range(1, min(inputs, degree // outputs) + 1)
    found = [MatrixPacking(degree, inputs, outputs, size) for size in sizes]
    feasible = [packing for packing in found if packing.groups <= MOST_QUERIES]
    return min(feasible or found[-1:], key=lambda packing: packing.groups + price * _answers(packing, counts))


def engine_for(
    engine: str,
    session: Session,
    frac_bits: int,
    network: str = "lan",
    rows: Mapping[int, int] | None = None,
    encodings: Encodings | None = None,
    largest: float = 1.0,
) -> Engine:
    """The engine of a job, as its specification names it.

    Args:
        engine: "mpc"; "hybrid", which encrypts where rows and weights meet as far as that is feasible; "he", which
            does so always and, without a dealer, opens nothing but its outputs.
        rows, largest: of the whole job, if each row is read once, see `HybridEngine`.
        encodings: where an owner keeps encoded rows, if it does; "he" alone has a use for them.
    """
    if engine == "mpc":
        return cast(Engine, MpcEngine(session, frac_bits, network))
    if engine == "he" and not session.has_dealer:
        from enclave.engines.he.engine import HeEngine

        return cast(Engine, HeEngine(session, frac_bits, encodings=encodings))
    return cast(Engine, HybridEngine(session, frac_bits, network, rows, largest=largest, always=engine == "he"))

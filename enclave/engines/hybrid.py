"""Homomorphic encryption joined to secret sharing, and the choice of a job's engine.

`HybridEngine` is `MpcEngine`, but for products of rows that owners know in the clear with weights that one rank, the
buyer, knows in the clear: the buyer sends its weights encrypted, once, each owner multiplies its own plaintext rows
with them, and the product becomes shares (`he.shared_products`). Rows leave their owner in no form then, not even
masked, and what travels does not depend on their width. The rest, metrics included, runs on shares with the dealer.

Which products are encrypted follows from shapes alone, so that all parties, the plan and the dealer agree; the plan
lists them as `statements`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.encodings import Encodings
from enclave.engines.he.matvec import MatrixPacking
from enclave.engines.he.planner import Hiding
from enclave.engines.he.shared_products import KnownRows, SharedProducts
from enclave.engines.he.shares import hiding
from enclave.engines.interface import Engine
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.protocols.arithmetic import Bilinear, Conv2d, MatMul
from enclave.engines.mpc.session import Session
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import Part, RingTensor
from enclave.errors import BadSpec

__all__ = ["MOST_QUERIES", "HybridEngine", "engine_for"]

Shape = tuple[int, ...]
U = np.uint64

# Ciphertexts of weights in one product: 100 MB for the buyer to send to each owner, and 270 MB in an owner's memory.
MOST_QUERIES = 2048
_USUAL_ROWS = 4096  # of one block


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


class HybridEngine(MpcEngine):
    """`MpcEngine`, whose products of rows known to owners with weights known to the buyer are encrypted.

    Weights that are shared are encrypted too, share by share, each under a key of its holder: such as a first layer
    into which the standardisation of several owners' rows was folded. Only where rows are read once: a training masks
    them once for all its epochs.

    Args:
        rows: of the whole job by the rank that holds them, when each is read once; None: not known.
        always: encrypt even where masking rows would send less: rows must not leave their owner, and what cannot be
            encrypted is refused. Otherwise it is masked, as by `MpcEngine`.
    """

    def __init__(
        self,
        session: Session,
        frac_bits: int,
        network: str = "lan",
        rows: Mapping[int, int] | None = None,
        *,
        always: bool = False,
    ) -> None:
        super().__init__(session, frac_bits, network)
        self._rows, self._always = dict(rows or {}), always
        receivers = tuple(sorted(self._rows)) or tuple(range(session.parties))
        self._encrypted = SharedProducts(session, frac_bits, receivers)
        self._packings: dict[tuple[RingTensor, Bilinear], MatrixPacking | None] = {}
        self._statements: dict[Hiding, None] = {}

    @property
    def statements(self) -> tuple[Hiding, ...]:
        """What hides the owners' rows, for each layer that goes by encryption. The same at all ranks."""
        return tuple(self._statements)

    def _product(self, op: Bilinear, x: RingTensor, y: RingTensor, lazy: bool = False) -> RingTensor:
        y = self._operand(y)
        product = self._eligible(op, x, y)
        if product is None:
            return super()._product(op, x, y, lazy)
        if (y, op) not in self._packings:
            # Once for all blocks: those that a plan records once and repeats must not send weights.
            self._packings[y, op] = self._packing(product, x, y)
        packing = self._packings[y, op]
        if packing is None:
            return super()._product(op, x, y, lazy)
        self._statements[hiding(self._here)] = None
        plain = y.parts[0].plain if len(y.parts) == 1 else y.share
        weights = None if plain is None or self.session.blank else product.of_weights(plain)
        parts = [product.of_part(part) for part in x.parts]
        share = self._run(self._encrypted.product((y, op), packing, parts, weights, self._holders(y)))
        shape = op.shape(x.shape, y.shape)
        bits = x.frac_bits + y.frac_bits
        found = self._new(self.session.local(product.result, shape, share), shape, bits, pending=True)
        return found if lazy else self._operand(found)

    def _holders(self, weights: RingTensor) -> tuple[int, ...]:
        """Who knows the weights, or has a share of them."""
        return (weights.parts[0].holder,) if len(weights.parts) == 1 else tuple(range(self.session.parties))

    def _eligible(self, op: Bilinear, x: RingTensor, y: RingTensor) -> _Matrices | None:
        """The product as one of matrices, if each row is known to somebody, and not all there is to one."""
        if not isinstance(op, MatMul | Conv2d) or not x.parts or x.frac_bits != self._frac_bits:
            return None
        if y.frac_bits != self._frac_bits:
            self._mask(f"weights of {self._frac_bits} fractional bits")
        elif op.transpose_x if isinstance(op, MatMul) else op.groups != 1:
            self._mask("rows as they are, in one group of channels")
        elif len(y.parts) != 1 and not (self._rows or self._always):
            return None  # read again and again
        elif any(part.holder not in self._encrypted.receivers for part in x.parts):
            self._mask("rows of those who bring the job's rows")
        elif any((part.holder,) != self._holders(y) for part in x.parts):
            return _Matrices(op, x.shape, y.shape)
        return None

    def _mask(self, expected: str) -> None:
        """Rows are to be masked; raises BadSpec where they must not leave their owner."""
        if self._always:
            raise BadSpec(f"{self._here}: expected {expected}, to be encrypted", hint="engine hybrid or mpc would do")

    @property
    def _here(self) -> str:
        return self.session.stage or "product"

    def _packing(self, product: _Matrices, x: RingTensor, y: RingTensor) -> MatrixPacking | None:
        """Chosen from shapes alone; None: masking is better, or must do."""
        holders = self._holders(y)
        encrypted, others = self._encrypted, self.session.parties - 1
        degree, (n, inputs, outputs) = encrypted.parameters.degree, product.matrix
        query = encrypted.query_bytes * sum(len(encrypted.others(holder)) for holder in holders)
        answer = encrypted.answer_bytes * (1 if len(holders) == 1 else others)
        if outputs > degree:
            self._mask(f"at most {degree} outputs, found {outputs}")
            return None
        blocks = self._blocks(x.shape[0])
        counts = tuple((rows * n // x.shape[0], count) for rows, count in blocks)
        packing = _cheapest(degree, inputs, outputs, counts, answer / query)
        if packing.groups > MOST_QUERIES:
            self._mask(f"at most {MOST_QUERIES} ciphertexts of weights, found {packing.groups}")
            return None
        # One more for the public key.
        sent = (1 + packing.groups) * query + _answers(packing, counts) * answer
        # Masked once each, to all others; and a dealt share of the product.
        rows = sum(rows * count for rows, count in blocks)
        masked = 8 * (others * (x.size // x.shape[0] * rows + y.size) + rows * n // x.shape[0] * outputs)
        return packing if self._always or sent < masked else None

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
    found = (MatrixPacking(degree, inputs, outputs, size) for size in sizes)
    return min(found, key=lambda packing: packing.groups + price * _answers(packing, counts))


def engine_for(
    engine: str,
    session: Session,
    frac_bits: int,
    network: str = "lan",
    rows: Mapping[int, int] | None = None,
    encodings: Encodings | None = None,
) -> Engine:
    """The engine of a job, as its specification names it.

    Args:
        engine: "mpc"; "hybrid", which encrypts what is cheaper so; "he", which encrypts whatever rows and weights meet
            and, without a dealer, opens nothing but its outputs.
        rows: of the whole job by rank, if each is read once, see `HybridEngine`.
        encodings: where an owner keeps encoded rows, if it does; "he" alone has a use for them.
    """
    if engine == "mpc":
        return cast(Engine, MpcEngine(session, frac_bits, network))
    if engine == "he" and not session.has_dealer:
        from enclave.engines.he.engine import HeEngine

        return cast(Engine, HeEngine(session, frac_bits, encodings=encodings))
    return cast(Engine, HybridEngine(session, frac_bits, network, rows, always=engine == "he"))

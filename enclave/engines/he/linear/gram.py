"""One encrypted linear functional of what the owners know: sums over their rows, at a cost that no row adds to.

    buyer:   v, real numbers, in the coefficients of ciphertexts         -> all owners
    owners:  z, integers, each of its own rows;   c = sum_i v_i z_i in coefficient 0, + Enc_pk(0) + flood
    all:     the sum of the owners' answers, opened to the buyer as a sum of shares

The sum of squared errors of a linear model is such a functional, of the Gram matrix of the rows with their targets:
sum_r (w x_r + b - y_r)^2 = <u u^T, sum_r t_r t_r^T> for u = (w, b, -1) and t_r = (x_r, 1, y_r); a sum of scores is
one of the sums of columns. For that, v and z are the upper triangles, those off the diagonal doubled.

Only coefficient 0 of c0 leaves, with c1 (an LWE ciphertext), so the other coefficients, which are other functionals,
need no mask. Both are rounded to the torus modulo 2^64 and hidden by a sharing of zero among the parties: of several
owners only the sum of all answers ever exists. A buyer may send any v, such as a matrix that is no u u^T: it still
gets one number.

**Reference** Halevi, Shoup, "Algorithms in HElib" (2014), for inner products in a coefficient; Gentry (2009) for
flooding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine, Keys, sent_by
from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.parameters import Parameters
from enclave.engines.he.lattice.products import protected
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack, packed_words, unpack
from enclave.engines.he.linear.weights import torus_phases
from enclave.engines.he.planner import HePlan, Hiding, LinearWork, plan_linear
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Blank
from enclave.errors import BadData, BadInput, BadSpec, RangeExceeded

__all__ = ["Functional", "FunctionalPlan", "evaluate_functional", "plan_functional", "triangle"]

Floats = NDArray[np.float64]
FRAC_BITS = 44  # of the owners' numbers: beyond what any precision of the result needs
RANGE = 4.0  # the torus in units of the largest result that declared ranges allow


@dataclass(frozen=True, slots=True)
class FunctionalPlan:
    """The public numbers of one functional.

    Attributes:
        size: numbers in v and in z.
        frac_bits: z are integers of so many fractional bits. limit: root of the sum of their squares, at each owner.
        work: parameters, flooding and errors, in units of the largest result; each owner floods.
    """

    size: int
    frac_bits: int
    limit: float
    work: HePlan

    @property
    def parameters(self) -> Parameters:
        """Of the ciphertexts."""
        return self.work.parameters

    @property
    def hiding(self) -> Hiding:
        """What hides the rows."""
        return self.work.hiding("sums over rows")

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts that carry v."""
        return -(-self.size // self.parameters.degree)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the halves that travel."""
        return (self.ciphertexts, len(self.parameters.primes), self.parameters.degree)

    @property
    def words(self) -> int:
        """64-bit words of these halves on the wire."""
        return packed_words(self.parameters.primes, self.shape)

    @property
    def answer_words(self) -> int:
        """64-bit words of an answer: coefficient 0 of c0, then c1."""
        return 1 + self.parameters.degree


@lru_cache(maxsize=64)
def plan_functional(size: int, norm: float, frac_bits: int = FRAC_BITS) -> FunctionalPlan:
    """The plan of a functional of `size` numbers.

    Args:
        norm: the largest root of the sum of their squares.

    Raises: BadSpec: no parameters of 128 bits of security have room for it.
    """
    degree = 8192
    precision = 8 * 2.0**-frac_bits
    work = LinearWork(
        columns=size,
        row_magnitude=norm,
        row_rms=norm / math.sqrt(degree * -(-size // degree)),
        weight_magnitude=1 / math.sqrt(size),
        precision=precision,
        score_magnitude=1.0,
        stride=degree,
    )
    plan = plan_linear(work, row_bits=frac_bits)
    if plan.parameters.degree != degree:
        raise BadSpec(f"expected ciphertexts of degree {degree} for {size} sums, found {plan.parameters.degree}")
    return FunctionalPlan(size, frac_bits, norm * 2.0**frac_bits + math.sqrt(size), plan)


def triangle(matrix: Floats) -> Floats:
    """The upper triangle of a symmetric matrix, row by row: what is off the diagonal is doubled."""
    rows, columns = np.triu_indices(len(matrix))
    return matrix[rows, columns] * np.where(rows == columns, 1.0, 2.0)


@dataclass(frozen=True, slots=True, repr=False)
class Functional:
    """A sealed sum of all owners' answers. Release gives float64 [1].

    Attributes:
        share: this owner's answer on the torus modulo 2^64, [answer_words]; None elsewhere.
        range: what the torus stands for, at the buyer.
        finish: what the buyer makes of the number.
    """

    plan: FunctionalPlan
    keys: Keys
    owners: tuple[int, ...]
    share: Words | None
    range: float | None
    finish: Callable[[float], float]

    def __repr__(self) -> str:
        return f"Functional({self.plan.size} numbers)"

    def release(self, session: Session, name: str, to: int) -> Protocol[NDArray[Any] | None]:
        """The sum of the answers to the buyer.

        **Cost** one round, N + 1 words from each owner. **Reveals** the functional of the sum, to the buyer.

        Raises: RangeExceeded: a result that no rows in the declared ranges can have.
        """
        stream, shape = session.new_stream(), (self.plan.answer_words,)
        zero = session.zero_share(stream, shape)

        def hidden(share: Tensor) -> Words:
            if self.share is None:
                return np.asarray(share)
            # Safety: uniform to the buyer but for the sum, where there is more than one owner.
            return np.asarray(share + self.share)

        value = session.local(hidden, shape, zero)
        (opened,) = yield [Item(f"release:{name}"[:64], value, to=to, masked=False)]
        if opened is None or isinstance(opened, Blank):
            return None
        return np.array([self.finish(self._decrypted(opened))])

    def _decrypted(self, answer: Words) -> float:
        secret = self.keys.secret
        assert secret is not None and self.range is not None
        secret.count(1)
        ring = self.plan.parameters.ring().lower(1)
        bits = ring.intt(secret.reveal(ring))[0]
        signs = np.where(bits == ring.primes[0] - 1, np.uint64(2**64 - 1), bits)  # ternary, modulo 2^64
        # Coefficient 0 of c1 s: s_0 c_0 - sum_i s_i c_{N-i}.
        c1 = answer[1:]
        turned = np.append(signs[:1], np.uint64(0) - signs[:0:-1]) * c1
        phase = float((answer[:1] + np.sum(turned, dtype=np.uint64, keepdims=True)).view(np.int64)[0]) * 2.0**-64
        if abs(phase) * RANGE > 1.0 + 2 * self.plan.work.error:
            raise RangeExceeded("the released sum", abs(phase) * RANGE, 1.0, hint="rows or the noise left their range")
        return phase * self.range


def evaluate_functional(
    engine: HeEngine,
    plan: FunctionalPlan,
    owners: Sequence[int],
    values: Floats | None,
    numbers: Floats | None,
    limit: float | None,
    label: str,
    finish: Callable[[float], float] = lambda value: value,
) -> Protocol[Functional]:
    """sum_i values_i numbers_i, the numbers being sums over the owners' rows; sealed.

    Args:
        values: [size], at the buyer. numbers: [size], each owner's part, at that owner.
        limit: at the buyer: the largest magnitude that the result can have.

    **Cost** one round: half a ciphertext for each N numbers, and the public key the first time.
    **Reveals** nothing (RLWE).
    """
    engine.state(plan.hiding)
    session, first = engine.session, engine.session.new_stream() << 24
    keys, announced = engine.announced(plan.parameters, decryptions=1)
    ring = plan.parameters.ring()
    span = None if limit is None else RANGE * max(limit, np.finfo(np.float64).tiny)

    def encrypted() -> Words:
        assert keys.secret is not None and keys.seed is not None
        if values is None or span is None or values.shape != (plan.size,):
            raise BadInput(f"the buyer must bring {plan.size} numbers")
        padded = np.zeros(plan.ciphertexts * ring.degree)
        padded[: plan.size] = values / span
        phases = torus_phases(ring, padded.reshape(plan.ciphertexts, -1), plan.frac_bits)
        return pack(rlwe.encrypt(keys.secret, phases, keys.seed, first), ring.primes)

    value = sent_by(session, engine.buyer, plan.words, encrypted)
    words, *key_words = yield [Item(label, value, sender=engine.buyer), *announced]
    if announced:
        keys.receive(key_words[0])
    share = None
    if keys.public is not None and keys.seed is not None and numbers is not None and engine.rank in owners:
        ciphertexts = rlwe.expand(ring, unpack(words, ring.primes, plan.shape), keys.seed, first)
        sums = ring.dot(_plaintexts(ring, plan, numbers), ring.ntt(ciphertexts))
        source = Source.fresh()
        whole = protected(keys.public, source, sums, source.integers(ring, plan.work.flood_bits))
        torus = ring.to_torus(whole, 64)
        share = np.concatenate([torus[0, :1], torus[1]])
    return Functional(plan, keys, tuple(owners), share, span, finish)


def _plaintexts(ring: Ring, plan: FunctionalPlan, numbers: Floats) -> Words:
    """Polynomials with z_0 - sum_i z_i X^(N-i), whose products have <v, z> in coefficient 0: [ciphertexts, k, N]."""
    if numbers.shape != (plan.size,):
        raise BadInput(f"expected {plan.size} numbers, found {numbers.shape}")
    scaled = np.rint(np.ldexp(numbers, plan.frac_bits))
    # Safety: more than was declared would show through the noise that hides the rows.
    if not math.sqrt(float(np.square(scaled).sum())) <= plan.limit:
        raise BadData("the rows have larger sums than their columns declare, or a value is not a number")
    padded = np.zeros(plan.ciphertexts * ring.degree, np.int64)
    padded[: plan.size] = scaled.astype(np.int64)
    turned = padded.reshape(plan.ciphertexts, ring.degree)
    turned = np.concatenate([turned[:, :1], -turned[:, :0:-1]], axis=1)
    return ring.encode(turned)

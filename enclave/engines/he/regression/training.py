"""Linear and logistic regression by gradient descent on encrypted weights and the owners' plaintext rows.

The buyer has the key, the owners have the rows, and the weights exist only encrypted. A step (see `descent`) is

    z = P w         slots hold w again and again with period D, a power of two, row i of a block in slot i
    r = p(z) - y    degree 5, all rows of a block at once
    g = M^T r / n   one value for each class of slots modulo D, then folded, so that the layout reproduces itself
    w' = w - g + momentum (w - w_previous)

and then a `refresh`, which brings the sum of the owners' parts back to the top of the chain and shows it to nobody. The
first step starts from zeros, so that each owner computes its part in the clear. The squared loss needs no rows: P is
the owner's Gram matrix, and there is nothing but the first product. One owner's squared loss is solved by its first
step (`Problem.exact`), with nothing encrypted before the release.

After the last step the weights become shares modulo q, then words modulo 2^64, and `truncation` releases them rounded,
through the gate: no decryption, with its noise, is ever shown.

**Scales** All plaintext constants are chosen such that weights have scale 2^WEIGHT_BITS at top and bottom alike. The
rows are multiplied by kappa with kappa^4 = c5: the polynomial is then monic, and z stays below 1 on the interval.

**Wrapping** 2 D coefficients of a refreshed phase reach scale * max|w|, the others are noise: one refresh wraps with
probability below 2 D 2^WEIGHT_BITS max|w| / q. `wrap_bits` states it for weights below 2^MAGNITUDE_BITS.

**Error** of a weight, after a few steps on columns of magnitude 16 and less: some 2^-20, a sixteenth of the last bit
that is released. Noise depends on rows and keys; all that shows of it is where it rounded a weight the other way.

**Cost** keys: 2 rounds, 3 with several owners; 2 rounds a step, 1 for the last; the truncation. Blocks of N rows
beyond the first add a round of one word each, from the second step on. Bytes: `evaluation_keys.key_bytes`, and a step
has 4 polynomials at the bottom from each owner and one of the whole chain to each.

**Reveals** the rounded weights, to the buyer, at the release. Of several owners, that one refused the learning rate.

**Outside of the model** A buyer that returns an encryption of other weights than it decrypted has the owners descend
from those: it learns another model of the same rows, still rounded and once.

**Reference** Kim et al., "Logistic regression model training based on the approximate homomorphic encryption" (2018);
`descent` and `periods` have their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from enclave.engines.he.ckks.evaluation_keys import evaluation_keys
from enclave.engines.he.ckks.evaluator import Encrypted, Evaluator
from enclave.engines.he.decisions.truncation import Truncated, truncated
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.lattice.parameters import SECURITY_BITS, Parameters, checked, primes_of
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.planner import Hiding
from enclave.engines.he.regression.descent import Floats, OwnRows, Problem
from enclave.engines.he.regression.encrypted_steps import (
    BOTTOM,
    WEIGHT_BITS,
    GramSteps,
    RowSteps,
    Steps,
    carried,
    key_uses,
    pieces,
    resting,
)
from enclave.engines.he.regression.periods import Period, weight_words
from enclave.engines.he.regression.refresh import Refresh
from enclave.engines.mpc.random import fresh_key
from enclave.engines.mpc.session import Item, Protocol, Session, Tensor
from enclave.engines.mpc.tape import Blank
from enclave.errors import BadSpec

__all__ = [
    "MOST_MEMORY_BYTES",
    "RELEASED_BITS",
    "Trained",
    "check",
    "memory_bytes",
    "parameters_of",
    "train",
    "wrap_bits",
]

MAGNITUDE_BITS = 16
LEAST_WRAP_BITS = 40
MOST_COLUMNS = 1024  # with more, a block of rows takes too long to encode, and weights too long to come out
RELEASED_BITS = 16  # most fractional bits of a released weight; the error of a training is some 2^-20
MOST_MEMORY_BYTES = 4 << 30
_NOISE_BITS = 40  # of a coefficient, generously
_FINE_BITS = 16  # fractional bits of the shares below those that are released


@lru_cache(maxsize=2)
def parameters_of(loss: str) -> Parameters:
    """The chain of a loss: one level for a product; for the logistic loss three for the polynomial and one for the
    gradient as well."""
    degree, bits = (16384, [60, 60, 40, 40, 40, 40, 40]) if loss == "logistic" else (8192, [58, 58, 40])
    *data, special = primes_of(degree, [*bits, 60])
    return checked("ckks", degree, data, special)


def wrap_bits(problem: Problem) -> float:
    """-log2 of the chance that any refresh, or the release, wraps a coefficient, for weights below 2^MAGNITUDE_BITS."""
    parameters = parameters_of(problem.loss)
    low, period = parameters.ring().lower(BOTTOM), Period.of(problem.columns, parameters.degree // 2)
    # 2 D coefficients hold a vector of period D, the others noise alone
    sums = 2.0 * period.size * 2.0 ** (WEIGHT_BITS + MAGNITUDE_BITS) + low.degree * 2.0**_NOISE_BITS
    return math.log2(low.modulus) - math.log2(problem.steps * sums)


def memory_bytes(problem: Problem) -> int:
    """Of the encoded rows at the largest owner."""
    if problem.exact:
        return 0
    parameters = parameters_of(problem.loss)
    period = Period.of(problem.columns, parameters.degree // 2)
    if problem.loss == "squared":
        return period.size * 8 * parameters.degree * len(parameters.primes)
    blocks = max(pieces(problem, owner, period.slots) for owner in range(len(problem.rows)))
    return blocks * period.size * 8 * parameters.degree * (len(parameters.primes) + RowSteps.GRADIENT_PRIMES)


def check(problem: Problem) -> None:
    """Raises BadSpec for a training that the chain, or the memory of an owner, has no room for."""
    if problem.exact:
        return
    if problem.columns > MOST_COLUMNS:
        raise BadSpec(
            f"expected at most {MOST_COLUMNS} weights, found {problem.columns}",
            hint="fewer columns, or hybrid or mpc would do",
        )
    if memory_bytes(problem) > MOST_MEMORY_BYTES:
        raise BadSpec(
            f"the encoded rows of an owner would take {memory_bytes(problem) >> 20} MiB, at most "
            f"{MOST_MEMORY_BYTES >> 20} are kept: too many rows and columns for a training under encryption",
            hint="hybrid or mpc would do",
        )
    if wrap_bits(problem) < LEAST_WRAP_BITS:
        raise BadSpec(
            f"a training of {problem.steps} steps would wrap once in 2^{wrap_bits(problem):.1f}, expected at most once "
            f"in 2^{LEAST_WRAP_BITS}",
            hint="ask for fewer steps, or hybrid or mpc would do",
        )


@dataclass(frozen=True, slots=True, repr=False)
class Trained:
    """Sealed weights.

    Attributes:
        frac_bits: of the released weights, one for each of `columns`.
    """

    words: Truncated
    frac_bits: int
    columns: int

    def __repr__(self) -> str:
        return f"Trained({self.columns} weights)"

    @property
    def shape(self) -> tuple[int, ...]:
        """(columns,)."""
        return (self.columns,)

    @property
    def is_integer(self) -> bool:
        """Weights are numbers."""
        return False

    def release(self, session: Session, name: str, to: int) -> Protocol[Floats | None]:
        """Opens the weights, rounded to `frac_bits` fractional bits, to rank `to`, the buyer."""
        found = yield from self.words.release(session, name, to)
        if found is None:
            return None
        weights: Floats = np.ldexp(found.astype(np.float64), -self.frac_bits)
        return weights


def train(engine: HeEngine, problem: Problem, rows: OwnRows | None) -> Protocol[Trained]:
    """Everything before the gate.

    Args:
        rows: this owner's; None at the buyer and in a plan.

    Raises: BadSpec: another number of owners than the session has; too many rows and columns.
    """
    if len(problem.rows) != engine.parties - 1:
        raise BadSpec(f"expected rows of {engine.parties - 1} owners, found {len(problem.rows)}")
    check(problem)
    frac_bits = min(engine.frac_bits, RELEASED_BITS)
    shares = _solved if problem.exact else _descended
    with engine.stage("training"):
        words = yield from shares(engine, problem, rows, frac_bits + _FINE_BITS)
    with engine.stage("rounding"):
        if engine.rank == 0:
            words = words + np.uint64(1 << _FINE_BITS - 1)  # to nearest
        rounded = yield from truncated(engine, words, problem.columns, 64, _FINE_BITS)
    return Trained(rounded, frac_bits, problem.columns)


def _solved(engine: HeEngine, problem: Problem, rows: OwnRows | None, frac_bits: int) -> Protocol[Tensor]:
    """One owner's squared loss: its own solution as its share, and zeros as the buyer's. No rounds."""
    yield from ()
    if engine.session.blank:
        return Blank((problem.columns,))
    if rows is None:
        return np.zeros(problem.columns, np.uint64)
    solution = np.ldexp(rows.m.T @ rows.target / problem.total, frac_bits)
    # what has no room is shown as a number that no model has, rather than wrapped into one that it might have
    return np.rint(np.clip(solution, -(2.0**61), 2.0**61)).astype(np.int64).view(np.uint64)


def _descended(engine: HeEngine, problem: Problem, rows: OwnRows | None, frac_bits: int) -> Protocol[Tensor]:
    """Words modulo 2^64 of every rank, [columns]: shares of the weights with `frac_bits` fractional bits."""
    parameters = parameters_of(problem.loss)
    period = Period.of(problem.columns, parameters.degree // 2)
    engine.state(_hiding(problem))
    keys = yield from engine.keys(parameters, decryptions=problem.steps)
    uses = key_uses(problem, period, len(parameters.primes)) if problem.steps > 1 else ()
    evaluator = yield from evaluation_keys(engine, keys, uses)
    refresh = Refresh(engine, keys, BOTTOM)
    yield from refresh.begin()
    owner = None if rows is None or evaluator is None else _Owner(engine, evaluator, problem, rows)
    for step in range(1, problem.steps):
        with engine.stage(f"step {step} of {problem.steps}"):
            part = yield from _worked(engine, problem, owner, first=step == 1)
            fresh = yield from refresh.refreshed(part)
            if owner is not None and fresh is not None:
                owner.take(fresh)
    with engine.stage(f"step {problem.steps} of {problem.steps}"):
        part = yield from _worked(engine, problem, owner, first=problem.steps == 1)
        share = yield from refresh.shared(part)
    if engine.session.blank:
        return Blank((problem.columns,))
    if share is None:
        return np.zeros(problem.columns, np.uint64)
    return weight_words(refresh.low, share, period, 2.0**WEIGHT_BITS, frac_bits)[: problem.columns]


def _worked(engine: HeEngine, problem: Problem, owner: _Owner | None, *, first: bool) -> Protocol[Words | None]:
    """The owner's part. In between it tells the buyer that it works, who would otherwise give it up for lost.

    Cost: a round of one word for each piece of the longest work but the last. The first step has one piece.
    """
    slots = parameters_of(problem.loss).degree // 2
    counts = [1 if first else pieces(problem, index, slots) for index in range(len(problem.rows))]
    work = None if owner is None else owner.part()
    for piece in range(1, max(counts)):
        at_work = [index for index, count in enumerate(counts) if count > piece]
        if work is not None and engine.rank in at_work:
            next(work)
        word = Blank((1,)) if owner is None else np.frombuffer(fresh_key()[:8], np.uint64)
        yield [Item("he:working", word, sender=index, to=engine.buyer) for index in at_work]
    return None if work is None else next(work)


def _hiding(problem: Problem) -> Hiding:
    method = "mask uniform modulo q on every coefficient, after a fresh encryption of zero"
    return Hiding("training", SECURITY_BITS, f"{method}; wraps once in 2^{math.floor(wrap_bits(problem))} trainings")


class _Owner:
    """One owner through the steps.

    Attributes:
        steps: made when first needed: a training of one step encodes nothing.
    """

    def __init__(self, engine: HeEngine, evaluator: Evaluator, problem: Problem, rows: OwnRows) -> None:
        self._evaluator, self._problem, self._rows = evaluator, problem, rows
        self._leads = engine.rank == 0
        self._weights: Encrypted | None = None
        self._before: Encrypted | None = None
        self._steps: Steps | None = None

    def take(self, residues: Words) -> None:
        """The refreshed weights."""
        self._before, self._weights = self._weights, self._evaluator.encrypted(residues, 2.0**WEIGHT_BITS)

    def part(self) -> Iterator[Words | None]:
        """This owner's part of the next weights, [2, BOTTOM, N], evaluation form; the first's carries the old ones.

        A None comes before it for each piece of the work but the last.
        """
        ev, problem = self._evaluator, self._problem
        if self._weights is None:
            coded = ev.context.residues(resting(ev, problem, self._rows).raw)
            yield np.stack((coded, np.zeros_like(coded)))
            return
        if self._steps is None:
            self._steps = (RowSteps if problem.loss == "logistic" else GramSteps)(ev, problem, self._rows)
        for found in self._steps.part(self._weights):
            if found is None:
                yield None
            elif self._leads:
                yield ev.add(found, carried(ev, self._weights, self._before, problem.momentum)).residues
            else:
                yield found.residues

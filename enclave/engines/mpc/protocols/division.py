"""Reciprocal, inverse square root, logarithm and quotient to 2^-18 and better, in 8 to 18 rounds.

`brackets` has them to 2^-9 in 6. Here numbers are normalised by comparisons; a series starts one Newton step.

x in [2^k, 2^(k+1)) is found by comparing with all powers of two of the declared range on one mask; the one-hot of
k is linear in the bits, so the power of two that normalises x is a local sum. The series is good to 2^-14 on the
normalised interval and a Newton step squares that.

Outside the declared domain the results are bounded and meaningless; the planner and the callers keep x inside.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from enclave.engines.mpc.protocols.arithmetic import Mul, product, truncate
from enclave.engines.mpc.protocols.comparison import bit_share, compare
from enclave.engines.mpc.protocols.smooth import LOG, RECIPROCAL, RSQRT, series
from enclave.engines.mpc.session import Protocol, Session, Tensor, together
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import RingTensor

__all__ = ["inverse_sqrt", "logarithm", "quotient", "reciprocal"]

U = np.uint64
WORK_BITS = 28  # fractional bits of normalised numbers: a product of two stays below 2^60


def _multiply(session: Session, x: Tensor, y: Tensor) -> Protocol[Tensor]:
    """Shares of x * y modulo 2^64. Cost: 1 round."""
    left, right = RingTensor(session, x.shape, 0, x), RingTensor(session, y.shape, 0, y)
    return (yield from product(session, Mul(), left, right))


def _fixed(session: Session, x: Tensor, y: Tensor, bits: int) -> Protocol[Tensor]:
    """Shares of x * y / 2^bits. Cost: 2 rounds."""
    z = yield from _multiply(session, x, y)
    return (yield from truncate(session, z, bits))


def _constant(session: Session, x: Tensor, value: int) -> Tensor:
    return session.local(lambda x: x + U(value & (1 << 64) - 1) if session.leader else x, x.shape, x)


def _brackets(session: Session, x: Tensor, low: int, high: int, step: int) -> Protocol[Tensor]:
    """One-hot (count, n) of the bracket [2^(low + step j), 2^(low + step (j + 1))) that x lies in. Cost: 4 rounds."""
    thresholds = np.array([1 << k for k in range(low + step, high + 1, step)], U)
    n = x.shape[0]
    if not len(thresholds):
        return session.constant(np.ones((1, n), U))
    bits = yield from compare(session, x, thresholds)

    def one_hot(b: Array) -> Array:
        first = (U(1) if session.leader else U(0)) - b[:1]
        return np.concatenate([first, b[:-1] - b[1:], b[-1:]])

    return session.local(one_hot, (len(thresholds) + 1, n), bit_share(session, bits))


def _weighted(session: Session, hot: Tensor, weights: list[int]) -> Tensor:
    factors = np.array(weights, np.int64).view(U)[:, None]
    return session.local(lambda h: (h * factors).sum(axis=0, dtype=U), (hot.shape[1],), hot)


def _to_work(session: Session, x: Tensor, bits: int) -> Protocol[Tensor]:
    """Changes from `bits` fractional bits to WORK_BITS."""
    if bits > WORK_BITS:
        return (yield from truncate(session, x, bits - WORK_BITS))
    return session.local(lambda x: x << U(WORK_BITS - bits), x.shape, x)


def _rescale(session: Session, x: Tensor, bits: int) -> Protocol[Tensor]:
    """Divides by 2^bits, or multiplies when negative."""
    if bits > 0:
        return (yield from truncate(session, x, bits))
    return session.local(lambda x: x << U(-bits), x.shape, x)


def _newton_reciprocal(session: Session, x: Tensor) -> Protocol[Tensor]:
    """1/x for x in [1, 2) at WORK_BITS, relative error 2^-26. Cost: 6 rounds."""
    y = yield from series(session, x, RECIPROCAL, WORK_BITS)
    xy = yield from _fixed(session, x, y, WORK_BITS)
    rest = _constant(session, session.local(lambda a: U(0) - a, xy.shape, xy), 2 << WORK_BITS)
    return (yield from _fixed(session, y, rest, WORK_BITS))


def reciprocal(session: Session, x: Tensor, frac_bits: int, low: float, high: float) -> Protocol[Tensor]:
    """1/x at frac_bits for flat x at frac_bits, 0 < low <= x <= high, high / low <= 2^30.

    Cost: 14 rounds (10 when high < 2 low). Reveals: nothing.
    """
    first = int(np.floor(np.log2(low * (1 << frac_bits))))
    last = int(np.floor(np.log2(high * (1 << frac_bits))))
    hot = yield from _brackets(session, x, first, last, 1)
    factor = _weighted(session, hot, [1 << (last - k) for k in range(first, last + 1)])
    normal = yield from _multiply(session, x, factor)
    normal = yield from _to_work(session, normal, last)
    y = yield from _newton_reciprocal(session, normal)
    z = yield from _multiply(session, y, factor)
    return (yield from _rescale(session, z, WORK_BITS + last - 2 * frac_bits))


def quotient(session: Session, numerator: Tensor, denominator: Tensor, bits: int, frac_bits: int) -> Protocol[Tensor]:
    """n/d at frac_bits for flat integers 0 <= n <= d < 2^bits, bits <= 60; 0 where d is 0. Relative error 2^-20.

    Cost: 14 rounds. Reveals: nothing.
    """
    last = bits - 1
    hot = yield from _brackets(session, denominator, 0, last, 1)
    factor = _weighted(session, hot, [1 << (last - k) for k in range(bits)])
    n_scaled, d_scaled = yield from together(
        _multiply(session, numerator, factor), _multiply(session, denominator, factor)
    )
    n_work, d_work = yield from together(_to_work(session, n_scaled, last), _to_work(session, d_scaled, last))
    y = yield from _newton_reciprocal(session, d_work)
    return (yield from _fixed(session, n_work, y, 2 * WORK_BITS - frac_bits))


def inverse_sqrt(session: Session, x: Tensor, frac_bits: int, low: float, high: float) -> Protocol[Tensor]:
    """x^-1/2 at frac_bits for flat x at frac_bits, 0 < low <= x <= high.

    Cost: 18 rounds. Reveals: nothing.
    """
    last = int(np.floor(np.log2(high * (1 << frac_bits))))
    last -= (last - frac_bits) % 2
    first = int(np.floor(np.log2(low * (1 << frac_bits))))
    first -= (first - last) % 2
    count = (last - first) // 2 + 1
    hot = yield from _brackets(session, x, first, last + 1, 2)
    factor = _weighted(session, hot, [4 ** (count - 1 - j) for j in range(count)])
    root = _weighted(session, hot, [2 ** (count - 1 - j) for j in range(count)])
    normal = yield from _multiply(session, x, factor)
    normal = yield from _to_work(session, normal, last)
    y = yield from series(session, normal, RSQRT, WORK_BITS)
    square = yield from _fixed(session, y, y, WORK_BITS)
    square = yield from _fixed(session, square, normal, WORK_BITS)
    rest = _constant(session, session.local(lambda a: U(0) - a, square.shape, square), 3 << WORK_BITS)
    y = yield from _fixed(session, y, rest, WORK_BITS + 1)
    z = yield from _multiply(session, y, root)
    return (yield from _rescale(session, z, WORK_BITS + (last - frac_bits) // 2 - frac_bits))


def logarithm(session: Session, x: Tensor, frac_bits: int, low: float, high: float) -> Protocol[Tensor]:
    """Natural logarithm at frac_bits for flat x at frac_bits, 0 < low <= x <= high. Error 2e-5.

    Cost: 8 rounds. Reveals: nothing.
    """
    first = int(np.floor(np.log2(low * (1 << frac_bits))))
    last = int(np.floor(np.log2(high * (1 << frac_bits))))
    hot = yield from _brackets(session, x, first, last, 1)
    factor = _weighted(session, hot, [1 << (last - k) for k in range(first, last + 1)])
    exponents = [round((k - frac_bits) * float(np.log(2)) * (1 << WORK_BITS)) for k in range(first, last + 1)]
    whole = _weighted(session, hot, exponents)
    normal = yield from _multiply(session, x, factor)
    normal = yield from _to_work(session, normal, last)
    part = yield from series(session, normal, LOG, WORK_BITS)
    total = session.local(np.add, x.shape, part, whole)
    return cast(Tensor, (yield from truncate(session, total, WORK_BITS - frac_bits)))

"""Smooth functions of shares, each right over a stated domain and defined beyond it.

They stand for CrypTen's approximations, which return numbers of the order of 1e9 beyond domains that are stated
nowhere. Here arguments beyond a domain count as its nearest end. With f fractional bits:

    sigmoid, tanh, erf   every x with |x| < 2^(60 - f); error 6e-4, 8e-4, 5e-4
    softmax              any gaps between inputs; error 1e-3
    exp                  x <= 12; 0 below -15; error 3e-4 and 2^-18 of the value
    log                  2^-f <= x <= 2^24; error 1e-4
    reciprocal, division 2^-12 <= |x| <= 2^17; relative error 2^-20 and rounding; 1/0 is 2^12
    sqrt, inv_sqrt       2^-f <= x <= 2^28; sqrt is 0 below; relative error 2^-18 and rounding
    cos, sin             |x| <= 6000; error 1e-4

"Rounding" is that of the result to f fractional bits. Divisions carry more bits inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.series import COSINE, SINE
from enclave.engines.mpc.fence.share import Share
from enclave.engines.mpc.protocols import division, smooth
from enclave.engines.mpc.protocols.arithmetic import truncate
from enclave.engines.mpc.protocols.comparison import bit_share, compare, relu
from enclave.engines.mpc.session import Protocol, Session, Tensor, together
from enclave.errors import Unsupported

__all__ = [
    "clamped",
    "cossin",
    "erf",
    "exp",
    "inv_sqrt",
    "log",
    "log_softmax",
    "number",
    "power",
    "reciprocal",
    "sigmoid",
    "softmax",
    "sqrt",
    "tanh",
    "wide_reciprocal",
]

U = np.uint64
EXP_END = 12
_EXP_BITS = 36  # fractional bits of e^(x - 12)
LOG_END = 2.0**24
RECIPROCAL_LOW, RECIPROCAL_HIGH = 2.0**-12, 2.0**17


def number(x: Share) -> Share:
    """An integer as a number; a number of higher precision at the session's."""
    bits = current().frac_bits
    return x.raised(bits).lowered(bits)


def elementwise(x: Share, protocol: Callable[[Session, Tensor], Protocol[Tensor]], bits: int | None = None) -> Share:
    """Runs a protocol over the flattened words; the result has `bits` fractional bits (None: the session's)."""
    fence = current()
    found = fence.engine._flat(
        x.ring, lambda words: protocol(fence.session, words), fence.frac_bits if bits is None else bits
    )
    return Share.wrap(found, x.dims)


def _plus(session: Session, x: Tensor, value: int) -> Tensor:
    """Adds a public integer."""
    return session.local(lambda a: a + U(value & (1 << 64) - 1) if session.leader else a, x.shape, x)


def _times(session: Session, x: Tensor, factor: int) -> Tensor:
    return session.local(lambda a: a * U(factor & (1 << 64) - 1), x.shape, x)


def _minus(session: Session, x: Tensor, y: Tensor) -> Tensor:
    return session.local(np.subtract, x.shape, x, y)


def _clamp(session: Session, x: Tensor, low: int, high: int) -> Protocol[Tensor]:
    """x between two public integers. Cost: 4 rounds, 2 ReLUs an element."""
    n = x.shape[0]
    lower, upper = _plus(session, x, -low), _plus(session, x, -high)
    both = session.local(lambda a, b: np.concatenate([a, b]), (2 * n,), lower, upper)
    positive, _ = yield from relu(session, both)
    return _plus(session, session.local(lambda p: p[:n] - p[n:], (n,), positive), low)


def clamped(x: Share, low: float, high: float) -> Share:
    """min(max(x, low), high), exact. Cost: 4 rounds."""
    unit = 1 << x.bits
    first, last = math.floor(low * unit + 0.5), math.floor(high * unit + 0.5)
    return elementwise(x, lambda session, words: _clamp(session, words, first, last), x.bits)


def exp(x: Share) -> Share:
    """e^x. Cost: 11 rounds.

    e^x for x < 0 has one precision, e^(x - 12) for the others more; a comparison chooses.
    """
    f = current().frac_bits
    spare = 7
    factor = round(math.exp(EXP_END) * (1 << spare))

    def protocol(session: Session, words: Tensor) -> Protocol[Tensor]:
        within = yield from _clamp(session, words, -(20 << f), EXP_END << f)
        shifted = _times(session, _plus(session, within, -(EXP_END << f)), 1 << (_EXP_BITS - f))
        low, high, bits = yield from together(
            smooth.exp_of_negative(session, within, f),
            smooth.exp_of_negative(session, shifted, _EXP_BITS),
            compare(session, within, np.zeros(1, U)),
        )
        high = yield from truncate(session, _times(session, high, factor), _EXP_BITS + spare - f)
        share = bit_share(session, bits)
        positive = session.local(lambda b: b[0], words.shape, share)
        gain = yield from division._multiply(session, _minus(session, high, low), positive)
        return session.local(np.add, words.shape, low, gain)

    return elementwise(number(x), protocol)


def log(x: Share, input_in_01: bool = False) -> Share:
    """Natural logarithm. Cost: 12 rounds."""
    f = current().frac_bits
    high = 1.0 if input_in_01 else LOG_END

    def protocol(session: Session, words: Tensor) -> Protocol[Tensor]:
        within = yield from _clamp(session, words, 1, int(high * (1 << f)))
        return (yield from division.logarithm(session, within, f, 2.0**-f, high))

    return elementwise(number(x), protocol)


def _wide_bits() -> int:
    f = current().frac_bits
    return max(f, 46 - f)


def wide_reciprocal(x: Share, positive: bool = False) -> Share:
    """1/x with more fractional bits than the session's, to be multiplied by. Cost: 23 rounds, 18 when positive."""
    f, wide = current().frac_bits, _wide_bits()

    def protocol(session: Session, words: Tensor) -> Protocol[Tensor]:
        sign: Tensor = None
        if not positive:
            bits = yield from compare(session, words, np.zeros(1, U))
            share = bit_share(session, bits)
            sign = _plus(session, session.local(lambda b: U(2) * b[0], words.shape, share), -1)
            words = yield from division._multiply(session, words, sign)
        low, high = int(RECIPROCAL_LOW * (1 << f)), int(RECIPROCAL_HIGH * (1 << f))
        within = yield from _clamp(session, words, low, high)
        within = _times(session, within, 1 << (wide - f))
        found = yield from division.reciprocal(session, within, wide, RECIPROCAL_LOW, RECIPROCAL_HIGH)
        return found if sign is None else (yield from division._multiply(session, found, sign))

    return elementwise(number(x), protocol, wide)


def reciprocal(x: Share, input_in_01: bool = False) -> Share:
    """1/x. Cost: 24 rounds; 19 when the input is said to be in (0, 1]."""
    return number(wide_reciprocal(x, positive=input_in_01))


def _roots(x: Share) -> tuple[Share, Share]:
    """x within the domain, and its x^-1/2 with more fractional bits. Cost: 26 rounds."""
    f, wide = current().frac_bits, _wide_bits()
    high = 2.0 ** (58 - wide)
    within = clamped(number(x), 0.0, high)

    def protocol(session: Session, words: Tensor) -> Protocol[Tensor]:
        bits = yield from compare(session, words, np.ones(1, U))  # 0 counts as the smallest number
        share = bit_share(session, bits)
        words = _plus(session, session.local(lambda a, b: a - b[0], words.shape, words, share), 1)
        words = _times(session, words, 1 << (wide - f))
        return (yield from division.inverse_sqrt(session, words, wide, 2.0**-f, high))

    return within, elementwise(within, protocol, wide)


def inv_sqrt(x: Share) -> Share:
    """x^-1/2. Cost: 27 rounds."""
    return number(_roots(x)[1])


def sqrt(x: Share) -> Share:
    """x^1/2, 0 for x <= 0. Cost: 28 rounds."""
    within, inverse = _roots(x)
    return within.mul(inverse)


def sigmoid(x: Share) -> Share:
    """1 / (1 + e^-x). Cost: 4 rounds."""
    return Share.wrap(current().engine.sigmoid(number(x).ring), x.dims)


def tanh(x: Share) -> Share:
    """The hyperbolic tangent. Cost: 4 rounds."""
    return Share.wrap(current().engine.tanh(number(x).ring), x.dims)


def erf(x: Share) -> Share:
    """The error function. Cost: 4 rounds."""
    return Share.wrap(current().engine.erf(number(x).ring), x.dims)


def cossin(x: Share) -> tuple[Share, Share]:
    """(cos x, sin x). Cost: 4 rounds."""
    f = current().frac_bits
    spare = 46 - f
    factor = round(SINE.period / (2 * math.pi) * (1 << spare))

    def turns(session: Session, words: Tensor) -> Protocol[Tensor]:
        return (yield from truncate(session, _times(session, words, factor), spare))

    t = elementwise(number(x), turns)
    cos = elementwise(t, lambda session, words: smooth.series(session, words, COSINE, f))
    sin = elementwise(t, lambda session, words: smooth.series(session, words, SINE, f))
    return cos, sin


def _axis_last(x: Share, dim: int, function: Callable[[Share], Share]) -> Share:
    if x.dim() < 2:
        return function(x)
    axis = dim % x.dim()
    return function(x.transpose(axis, -1)).transpose(axis, -1)


def _constant_like(x: Share, value: float) -> Share:
    return Share.public(np.full(x.dims, value))


def softmax(x: Share, dim: int, **_: Any) -> Share:
    """Along an axis. Cost: that of `MpcEngine.softmax`."""
    if x.dim() == 0 or x.dims[dim] == 1 or not x.nelement():
        return _constant_like(x, 1.0)
    return _axis_last(number(x), dim, lambda a: Share.wrap(current().engine.softmax(a.ring), a.dims))


def log_softmax(x: Share, dim: int, **_: Any) -> Share:
    """Along an axis: x - max - log of the sum of e^(x - max)."""
    if x.dim() == 0 or x.dims[dim] == 1 or not x.nelement():
        return _constant_like(x, 0.0)

    def rows(a: Share) -> Share:
        engine, axis = current().engine, a.dim() - 1
        top = engine.sum(engine.mul(engine.argmax_onehot(a.ring), a.ring), axis, keepdims=True)
        gaps = engine.sub(a.ring, top)
        total = engine.sum(engine.exp_of_negative(gaps), axis, keepdims=True)
        return Share.wrap(engine.sub(gaps, engine.logarithm(total, 0.99, a.dims[-1] + 0.01)), a.dims)

    return _axis_last(number(x), dim, rows)


def power(x: Share, exponent: Any) -> Share:
    """x^p for an integer p. Cost: 2 rounds for each bit of p."""
    if isinstance(exponent, float) and exponent == int(exponent):
        exponent = int(exponent)
    if not isinstance(exponent, int) or isinstance(exponent, bool):
        raise Unsupported(f"pow({exponent!r})", "exponents are integers", hint="use pos_pow for a positive base")
    if exponent < 0:
        return power(reciprocal(x), -exponent)
    if exponent == 0:
        return _constant_like(x, 1.0)
    found: Share | None = None
    square = x
    while exponent:
        if exponent & 1:
            found = square if found is None else found.mul(square)
        exponent >>= 1
        if exponent:
            square = square.square()
    assert found is not None
    return found

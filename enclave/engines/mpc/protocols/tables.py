"""Public tables of sine, cosine and exponential, in integers, equal at every party bit for bit.

Parties multiply their shares by public function values. If two machines' mathematics libraries differed in the
last bit, the results would be garbage, so these tables are made by exact integer recurrences, not by libm.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from enclave.engines.mpc.tape import Array

__all__ = ["ONE_BITS", "TABLE_BITS", "cos_sin", "exponential", "exponential_to_16"]

ONE_BITS = 30  # a table's 1.0 is 2^30
TABLE_BITS = 12  # arguments are looked up in two digits of 12 bits
_WORK = 120  # fractional bits of the recurrences


def _exp_series(x: int) -> int:
    """e^x for |x| <= 1, at _WORK fractional bits."""
    total = term = 1 << _WORK
    k = 1
    while term:
        term = (term * x >> _WORK) // k
        total += term
        k += 1
    return total


def _arctan_inverse(n: int) -> int:
    total, term, k, sign = 0, (1 << _WORK) // n, 1, 1
    while term:
        total += sign * (term // k)
        term //= n * n
        k, sign = k + 2, -sign
    return total


def _cos_sin_series(x: int) -> tuple[int, int]:
    sums, term, k = [0, 0, 0, 0], 1 << _WORK, 0
    while term:
        sums[k & 3] += term
        k += 1
        term = (term * x >> _WORK) // k
    return sums[0] - sums[2], sums[1] - sums[3]


@lru_cache(maxsize=4)
def _turns(step_bits: int) -> tuple[Array, Array]:
    """cos and sin of j / 2^step_bits turns, j < 2^TABLE_BITS."""
    pi = 4 * (4 * _arctan_inverse(5) - _arctan_inverse(239))
    rotor = _cos_sin_series(2 * pi >> step_bits)
    c, s = 1 << _WORK, 0
    cosines, sines = [], []
    for _ in range(1 << TABLE_BITS):
        cosines.append(c >> (_WORK - ONE_BITS))
        sines.append(s >> (_WORK - ONE_BITS))
        c, s = (c * rotor[0] - s * rotor[1]) >> _WORK, (c * rotor[1] + s * rotor[0]) >> _WORK
    return np.array(cosines, np.int64), np.array(sines, np.int64)


@lru_cache(maxsize=4)
def _powers(step_bits: int) -> Array:
    """e^(j / 2^step_bits), j < 2^TABLE_BITS."""
    ratio = _exp_series((1 << _WORK) >> step_bits)
    value, values = 1 << _WORK, []
    for _ in range(1 << TABLE_BITS):
        values.append(value >> (_WORK - ONE_BITS))
        value = value * ratio >> _WORK
    return np.array(values, np.int64)


def _digits(words: Array, bits: int) -> tuple[Array, Array]:
    """The low `bits` bits of each word as a fraction of 2^bits, in two digits of TABLE_BITS bits."""
    wide = 2 * TABLE_BITS
    shift = bits - wide
    fraction = words & np.uint64((1 << bits) - 1)
    fraction = fraction >> np.uint64(shift) if shift >= 0 else fraction << np.uint64(-shift)
    return (fraction >> np.uint64(TABLE_BITS)).astype(np.int64), (fraction & np.uint64((1 << TABLE_BITS) - 1)).astype(
        np.int64
    )


def cos_sin(words: Array, bits: int, harmonics: int) -> tuple[Array, Array]:
    """cos and sin of k * 2 pi * (word mod 2^bits) / 2^bits for k = 1 .. harmonics: (harmonics, n) int64 at 2^30."""
    high, low = _digits(words, bits)
    ch, sh = (table[high] for table in _turns(TABLE_BITS))
    cl, sl = (table[low] for table in _turns(2 * TABLE_BITS))
    c, s = (ch * cl - sh * sl) >> ONE_BITS, (sh * cl + ch * sl) >> ONE_BITS
    cosines, sines = np.empty((harmonics, len(words)), np.int64), np.empty((harmonics, len(words)), np.int64)
    before_c, before_s = np.full(len(words), 1 << ONE_BITS, np.int64), np.zeros(len(words), np.int64)
    cosines[0], sines[0] = c, s
    twice = 2 * c
    for k in range(1, harmonics):  # Chebyshev: f((k + 1) t) = 2 cos(t) f(k t) - f((k - 1) t)
        cosines[k] = ((twice * cosines[k - 1]) >> ONE_BITS) - before_c
        sines[k] = ((twice * sines[k - 1]) >> ONE_BITS) - before_s
        before_c, before_s = cosines[k - 1], sines[k - 1]
    return cosines, sines


def exponential(words: Array, bits: int) -> Array:
    """e^((word mod 2^bits) / 2^bits): int64 at 2^30, in [1, e)."""
    high, low = _digits(words, bits)
    # 2^31.5 * 2^30 would pass 2^61: one factor loses its last bit.
    return ((_powers(TABLE_BITS)[high] >> 1) * _powers(2 * TABLE_BITS)[low]) >> (ONE_BITS - 1)


def exponential_to_16(words: Array, bits: int) -> Array:
    """e^((word mod 2^(bits + 4)) / 2^bits): int64 at 2^13, in [1, e^16); relative error 2^-13."""
    whole = (words >> np.uint64(bits)) & np.uint64(15)
    fraction = exponential(words, bits) >> (ONE_BITS - 24)
    return np.asarray((_integer_powers()[whole.astype(np.intp)] * fraction + (1 << 24)) >> 25)


@lru_cache(maxsize=1)
def _integer_powers() -> Array:
    """e^j at 2^14, j < 16."""
    e = _exp_series(1 << _WORK)
    values, value = [], 1 << _WORK
    for _ in range(16):
        values.append(value >> (_WORK - 14))
        value = value * e >> _WORK
    return np.array(values, np.int64)

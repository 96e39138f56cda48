"""Random values that no party knows, for CrypTen's `rand`, `bernoulli`, `randn` and dropout.

Stock draws from torch's generators (32 bits of entropy) and, in training, drops out by a mask that all parties see.
Here the bits are shared: each is the exclusive or of what every party expands from its own key.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from enclave.engines.mpc.fence import functions
from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.ordering import not_negative, shifted
from enclave.engines.mpc.fence.share import Share
from enclave.engines.mpc.protocols.selection import BitMask
from enclave.errors import BadSpec

__all__ = ["bernoulli_mask", "normal", "uniform", "warn_in_place"]

U = np.uint64


def dimensions(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """rand(2, 3), rand((2, 3)) and rand(torch.Size([2, 3])) mean the same."""
    first = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    return tuple(int(n) for n in first)


def uniform(shape: tuple[int, ...]) -> Share:
    """Uniform multiples of 2^-f in [0, 1). Cost: no rounds; 8 f B dealt an element. Reveals: nothing."""
    fence = current()
    f, n = fence.frac_bits, math.prod(shape)
    _, bits = fence.session.deal(BitMask(n * f))
    weights = U(1) << np.arange(f, dtype=U)
    return Share.of((bits.reshape(n, f) * weights).sum(axis=1, dtype=U), shape, f)


def bernoulli_mask(shape: tuple[int, ...], probability: float) -> Share:
    """Integers that are 1 with this probability, to 2^-f. Cost: 4 rounds."""
    if not 0.0 <= probability <= 1.0:
        raise BadSpec(f"a probability lies between 0 and 1, found {probability}")
    f = current().frac_bits
    # [u < p] = [p - u - unit >= 0]
    return not_negative(shifted(uniform(shape).neg(), round(probability * (1 << f)) - 1))


def warn_in_place(name: str) -> None:
    """Says, in CrypTen's words, that a tensor is left as it is."""
    logging.getLogger().warning("CrypTen %s does not support inplace computation during training.", name)


def normal(shape: tuple[int, ...]) -> Share:
    """Standard normal numbers by Box and Muller: (-2 ln u)^1/2 cos(2 pi v). Tails end at 4.7 for f = 16."""
    n = math.prod(shape)
    half = -(-n // 2)
    u, v = uniform((half,)), uniform((half,))
    radius = functions.sqrt(functions.log(shifted(u, 1), input_in_01=True).mul(-2.0))
    cos, sin = functions.cossin(v.mul(2 * math.pi))
    both = Share.cat([radius.mul(cos), radius.mul(sin)])
    return both[:n].reshape(shape)

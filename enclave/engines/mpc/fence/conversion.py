"""Between the two kinds of sharing: by sums, and bit by bit."""

from __future__ import annotations

import torch

from enclave.engines.mpc.fence import circuits
from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.binary import BinaryShare
from enclave.engines.mpc.fence.encoder import FixedPointEncoder
from enclave.engines.mpc.fence.share import Share
from enclave.errors import BadSpec

__all__ = ["as_bits", "as_sums"]


def as_bits(x: Share) -> BinaryShare:
    """The same words, shared bit by bit. Cost: 7 rounds for each party but one."""
    fence = current()
    words = fence.run(circuits.share_of_sum(fence.session, x.ring.share.reshape(x.dims)))
    return BinaryShare.of(torch.from_numpy(words.view("i8").copy()).reshape(x.dims), x.bits)


def as_sums(x: BinaryShare, precision: int | None = None, bits: int | None = None) -> Share:
    """The same words, shared by sums. Cost: 1 round.

    Args:
        precision: fractional bits of the result; None: those of x.
        bits: how many of the lowest bits count, as a positive integer; None: all.
    """
    fence, count = current(), 64 if bits is None else bits
    if not 0 < count <= 64:
        raise BadSpec(f"a word has 1 to 64 bits, found bits={bits!r}")
    words = fence.run(circuits.lifted(fence.session, x.words, count))
    digits = x.bits if precision is None else FixedPointEncoder(precision)._precision_bits
    return Share.of(words, x.dims, digits)

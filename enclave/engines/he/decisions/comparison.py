"""Comparison of a number of the buyer's with one of an owner's, with no third party: exclusive-or shares of [x < y].

Who holds what: the buyer x and the secret key, the owner y, row by row, both in [0, 2^l). Afterwards the owner holds a
random bit f, the buyer b = f xor [x < y].

For bit i of a row, from the most significant one down, and a direction f of the row (0: x < y, 1: x >= y), let

    c_i = 1 + s (x_i - y_i) + 3 sum_{j > i} (x_j xor y_j),   s = 1 - 2 f
    c_l = f ? 3 sum_j (x_j xor y_j) : 1

Each is at least 0 and below t. c_i is 0 only where all higher bits agree and x_i, y_i differ in the direction looked
for; c_l only where x = y and f = 1. So at most one of the l + 1 is 0, and one is if and only if f xor [x < y] = 1. They
are linear in the buyer's bits, since x_j xor y_j = y_j + (1 - 2 y_j) x_j: `zero_forms` does the rest, and says what is
hidden and why. b is uniform since f is.

**Cost** that of `zero_forms`: ceil(rows / 32,768) + 1 rounds; a row takes 12.5 l bytes up and 5.25 (l + 1) down, and
of both parties together some 25 us of CPU for l = 23.

**Reveals** nothing: b is the buyer's share.

**Reference** Damgard, Geisler, Kroigaard, "Homomorphic encryption and secure comparison" (2008), with its correction
(2009); shares of the result as in Veugen, "Improving the DGK comparison protocol" (2012).
"""

from __future__ import annotations

import numpy as np

from enclave.engines.he.decisions.zero_forms import Draws, Factors, Layout, any_zero
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.lattice.ring import Words
from enclave.engines.mpc.session import Protocol, Tensor

__all__ = ["bits_of", "layout_of", "less_than", "order_forms"]


def layout_of(rows: int, bits: int) -> Layout:
    """The layout of a comparison. Raises BadSpec: no rows, or other than 1 to 63 bits."""
    return Layout(rows, bits, bits + 1)


def bits_of(values: Words, count: int) -> Words:
    """The low bits of words [n]: [count, n], least significant first."""
    bits: Words = values[None, :] >> np.arange(count, dtype=np.uint64)[:, None] & np.uint64(1)
    return bits


def order_forms(layout: Layout, prime: int, draws: Draws, own: Words) -> tuple[Factors, Words]:
    """The forms c_i, masked: see `zero_forms.Forms`. `own` are the bits of y."""
    t, bits = np.uint64(prime), layout.inputs
    masks, flip = draws.masks, draws.flips
    # -1 is c_l with f = 1, l is c_l with f = 0, which is the constant 1, as at unused slots
    form = np.where(draws.form < layout.forms, draws.form, bits)
    form[(draws.form == bits) & (flip == 1)] = -1
    higher = np.zeros((bits + 2, own.shape[1]), np.uint64)  # row i + 1: sum of the bits above i
    higher[:-2] = np.cumsum(own[::-1], axis=0)[::-1]
    constant = np.uint64(3) * higher
    constant[1:-1] += np.uint64(1) + np.where(flip == 1, own, t - own)
    constant[-1] = 1
    constants: Words = np.take_along_axis(constant, form + 1, axis=0) * masks % t
    index, above = np.arange(bits, dtype=np.int8)[:, None], form.astype(np.int8)

    def factors(answer: int) -> Words:
        mask, at = masks[answer], form[answer]
        three = np.uint64(3) * mask % t
        found: Words = own * (t - np.uint64(2) * three)  # modulo 2^64: what is added makes it t - three or three
        found += three
        found *= index > above[answer]
        plain = np.flatnonzero((at >= 0) & (at < bits))
        found[at[plain], plain] = np.where(flip[plain] == 1, t - mask[plain], mask[plain])
        return found

    return factors, constants


def less_than(engine: HeEngine, owner: int, bits: int, rows: int, x: Tensor, y: Tensor) -> Protocol[Tensor]:
    """Exclusive-or shares of [x < y] between the buyer and one owner.

    Args:
        x: uint64 [rows] below 2^bits at the buyer, anything elsewhere. y: at the owner.

    Returns: this rank's bits, uint64 [rows], at the buyer and at the owner; a blank elsewhere.
    """
    layout = layout_of(rows, bits)

    def theirs(part: slice) -> Words:
        return bits_of(x[part], bits)

    def own(part: slice) -> Words:
        return bits_of(y[part], bits)

    return (yield from any_zero(engine, owner, layout, "comparison", theirs, own, order_forms))

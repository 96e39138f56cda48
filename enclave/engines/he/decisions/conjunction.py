"""Whether all of a row's shared bits are 1, with no third party: exclusive-or shares of their conjunction.

Who holds what: m bits a row as exclusive-or shares, e_k at the buyer and g_k at the owner. Afterwards the owner holds a
random bit f, the buyer f xor (all of e_k xor g_k).

With h_k = 1 - g_k the number of zeros among the bits is L = sum_k h_k + (1 - 2 h_k) e_k, linear in the buyer's bits.
The m forms of a row are

    f = 0:  L, 1, ..., 1           f = 1:  L - 1, L - 2, ..., L - m

of which one is 0 if and only if f xor [L = 0] = 1, and never two. `zero_forms` does the rest.

**Cost** that of `zero_forms`, m bits and m places a row. **Reveals** nothing.

**Reference** the count of zeros as in `comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclave.engines.he.decisions.zero_forms import Draws, Factors, Layout, any_zero
from enclave.engines.he.engine import HeEngine
from enclave.engines.he.lattice.ring import Words
from enclave.engines.mpc.session import Protocol, Tensor

__all__ = ["all_of", "count_forms"]


def count_forms(layout: Layout, prime: int, draws: Draws, own: Words) -> tuple[Factors, Words]:
    """The forms, masked: see `zero_forms.Forms`. `own` are the bits h."""
    t, masks, flip = np.uint64(prime), draws.masks, draws.flips == 1
    counting = (draws.form < layout.forms) & (flip | (draws.form == 0))
    less = np.where(flip, draws.form.astype(np.uint64) + np.uint64(1), np.uint64(0))
    constants = np.where(counting, (own.sum(axis=0) + t - less) % t * masks % t, masks)

    def factors(answer: int) -> Words:
        mask = np.where(counting[answer], masks[answer], np.uint64(0))
        found: Words = np.where(own == 1, (t - mask) % t, mask)
        return found

    return factors, constants


def all_of(engine: HeEngine, owner: int, rows: int, bits: Sequence[Tensor]) -> Protocol[Tensor]:
    """Shares of the conjunction.

    Args:
        bits: shares uint64 [rows] of 1 to 63 bits, at the buyer and at the owner, anything elsewhere.

    Returns: this rank's shares, uint64 [rows], at the buyer and at the owner; a blank elsewhere.
    """
    layout = Layout(rows, len(bits), len(bits))

    def theirs(part: slice) -> Words:
        return np.stack([share[part] for share in bits])

    def own(part: slice) -> Words:
        return theirs(part) ^ np.uint64(1)

    return (yield from any_zero(engine, owner, layout, "conjunction", theirs, own, count_forms))

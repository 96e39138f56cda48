"""Bits and ReLUs by whichever protocol is quicker: a tree of gates, or keys of a comparison function.

Both give the same results. Keys take one round and a kilobyte or two an element, which pays for few elements and on
slow networks; they serve two parties. The choice depends on shapes and on the session's network, which are public.
"""

from __future__ import annotations

import numpy as np

from enclave.engines.mpc.protocols import comparison, fss
from enclave.engines.mpc.protocols.trees import best_tree
from enclave.engines.mpc.session import Protocol, Session, Tensor
from enclave.engines.mpc.tape import Array

__all__ = ["bits", "is_positive", "keys_pay", "relu"]

_KEY_S = 1e-6  # what the dealer and a party compute for a key and a point


def keys_pay(session: Session, n: int, thresholds: int = 1, *, product: bool = False, shift: int = 0) -> bool:
    """Whether keys are quicker for n elements. A product and its truncation take longer keys."""
    if session.parties != fss.PARTIES or not session.deals_keys:
        return False
    network = session.network
    tree = best_tree(n, thresholds, shift, comparison.SIGN, network)
    dealt = 16 if shift else 8
    by_tree = (
        tree.rounds * network.round_s + n * (tree.dealt_bits(thresholds) / 8 + dealt * thresholds) * network.byte_s
    )
    key = (comparison.SIGN - shift) * (16 + 8 * fss.payload_words(product, shift))
    # The key travels from the dealer to the leader, and on to the other party while the dealer goes ahead.
    by_key = network.round_s + n * (1.5 * key * network.byte_s + thresholds * _KEY_S)
    return by_key < by_tree


def bits(session: Session, x: Tensor, thresholds: Array) -> Protocol[Tensor]:
    """Additive shares of [x >= t] for flat x (n,) and each t, (thresholds, n). Exact."""
    if keys_pay(session, x.shape[0], len(thresholds)):
        found, _ = yield from fss.compare_by_key(session, x, thresholds)
        return found
    compared = yield from comparison.compare(session, x, thresholds)
    return comparison.bit_share(session, compared)


def relu(session: Session, x: Tensor, shift: int = 0) -> Protocol[Tensor]:
    """Shares of max(x, 0) / 2^shift for flat x (n,); exact without a shift, as in `comparison.relu` with one."""
    if keys_pay(session, x.shape[0], product=True, shift=shift):
        y, _ = yield from fss.relu_by_key(session, x, shift)
        return y
    y, _ = yield from comparison.relu(session, x, shift)
    return y


def is_positive(session: Session, x: Tensor) -> Protocol[Tensor]:
    """Additive shares of [x >= 0] for flat x (n,)."""
    found = yield from bits(session, x, np.zeros(1, np.uint64))
    return session.local(lambda b: b[0], x.shape, found)

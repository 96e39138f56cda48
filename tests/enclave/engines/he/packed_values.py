"""Values packed for expansion one by one and exactly, as the vectors of `linear` are checked against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.expansion import Expansion
from enclave.engines.he.lattice.ring import Ring, Words


def packed_phases(ring: Ring, values: NDArray[Any], bits: int, expansion: Expansion) -> Words:
    """Phases to encrypt for values on a torus of 2^bits: [ciphertexts, k, N], coefficient form.

    Constant i of a ciphertext has phase q v / 2^(bits + splits), rounded, in coefficient i.

    Args:
        values: [count], integers or finite float64, each taken exactly.
    """
    numerators = np.zeros((expansion.ciphertexts, ring.degree), object)
    position = iter(values.tolist())
    for row, size in enumerate(expansion.sizes):
        for index, splits in enumerate(expansion.splits(size).tolist()):
            numerator, denominator = next(position).as_integer_ratio()
            # round(q numerator / (denominator 2^(bits + splits)))
            divisor = denominator << bits + splits + 1
            numerators[row, index] = (2 * ring.modulus * numerator + (divisor >> 1)) // divisor
    return ring.from_integers(numerators)

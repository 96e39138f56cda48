"""Did a training leave the fixed-point range? One bit at its end, for a few comparisons in all.

A product that wraps leaves a number that is uniform over +-2^(63 - 2 frac_bits) (a sum of products is truncated
after it wrapped), hundreds of times what a gradient or an output of a healthy training is. So a few public random
combinations of all gradients and all outputs of all steps are kept: with random signs, healthy ones add up to
about their Euclidean norm, and one that wrapped stands out in most combinations, wherever and whenever it was.
Adding up is local, and their truncation rides on that of the weights; only the end of the training compares.

What it is not: a proof. A number of d fractional bits that wrapped is uniform over +-2^(63 - d), and below the limit
L with probability p = L / 2^(63 - d). One that wraps alone, with nothing after it going wrong, has the same magnitude
in every combination: it is missed with probability p. A training that diverges wraps all over, in all steps that
follow; the combinations are then independent, and all of them stay small with probability p^COUNT or less. A final
sigmoid that wrapped shows in the outputs alone. Weights are looked at once an epoch (`Descent.inspect`). `check_spec`
bounds beforehand what can be bounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import Engine, Secret
from enclave.workloads.public_random import public_signs

__all__ = ["COUNT", "Watch", "watch_limit", "weight_limit"]

COUNT = 6
_CALM_STEPS = 4096


def weight_limit(frac_bits: int) -> float:
    """No trained weight may reach this: a public factor of 18 bits takes weights below 2^(44 - frac_bits) only."""
    return 2.0 ** (44 - frac_bits)


def watch_limit(frac_bits: int, largest: float) -> float:
    """A combination beyond this means that some number wrapped.

    Args:
        largest: what the first gradient can be by the declared ranges; where that is small the limit is, too.
    """
    return 2.0 ** (59 - 2 * frac_bits) * min(4.0, max(1.0, 16.0 * largest / 2.0 ** (59 - 2 * frac_bits)))


class Watch:
    """Combinations of everything that `see` is given, (COUNT,), and whether they stayed small.

    Args:
        steps: how many steps the training has.
        largest: see `watch_limit`.
    """

    def __init__(self, engine: Engine, frac_bits: int, steps: int, largest: float) -> None:
        self._engine, self._seen = engine, 0
        # Of very many steps healthy numbers add up too, and so do wrapped ones.
        self._limit = watch_limit(frac_bits, largest) * max(1.0, math.sqrt(steps / _CALM_STEPS))
        self._signs: dict[int, NDArray[np.int64]] = {}
        self._total = engine.zeros((COUNT,))
        self.noted: tuple[Secret, ...] = ()

    def see(self, *values: Secret) -> None:
        """Notes the elements of numbers, each under a random sign of its own. Local.

        What it notes may be wider than a number: it goes to `settled` with whatever else has a round to spare, and
        then to `take`.
        """
        self.noted = tuple(self._combined(value) for value in values)

    def take(self, noted: Sequence[Secret]) -> None:
        """Adds up what was noted, now settled. Local."""
        for value in noted:
            self._total = self._engine.add(self._total, value)
        self.noted = ()

    def _combined(self, value: Secret) -> Secret:
        size = math.prod(value.shape)
        if size not in self._signs:
            self._signs[size] = public_signs(0, f"watched numbers {size}", (COUNT, size))
        turn = public_signs(self._seen, "watched step", (COUNT,))
        self._seen += 1
        return self._engine.combinations(value, self._signs[size] * turn[:, None])

    def calm(self) -> Secret:
        """The bit (1,): 1 unless a combination is beyond the limit. Cost: 2 COUNT + 1 comparisons."""
        engine = self._engine
        both = engine.concat([self._total, engine.neg(self._total)], axis=0)
        sides = engine.ge_zero(engine.add(both, self._limit))
        return engine.ge_zero(engine.add(engine.sum(sides, 0, keepdims=True), -2 * COUNT))

"""What each protocol promises about its error, in one place: the planner adds these up, the tests measure them.

An absolute error is `constant + units * 2^-frac_bits`: the part that comes from an approximation, and the part that
comes from truncations, one unit each. All hold for inputs inside the range that `enclave.models.ranges` checks, and
then with certainty: no protocol here fails with a small probability.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FACTOR_BITS", "RELU", "SIGMOID", "TANH", "TRUNCATION", "Accuracy", "softmax_accuracy"]

FACTOR_BITS = 18  # significant bits of a public factor (`arithmetic.scaled`)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Worst absolute error of one protocol on an exact input."""

    constant: float = 0.0
    units: float = 0.0

    def at(self, frac_bits: int) -> float:
        """The error with `frac_bits` fractional bits."""
        return self.constant + self.units * 2.0**-frac_bits


TRUNCATION = Accuracy(units=1.0)
RELU = Accuracy(units=1.0)  # of a value that still has the digits of a product: what is below a unit may count as 0
SIGMOID = Accuracy(6.0e-4, 1.0)
TANH = Accuracy(8.0e-4, 1.0)


def softmax_accuracy(columns: int) -> Accuracy:
    """Of one output of a softmax over `columns`. Wide rows add up exponentials that are truncated one by one."""
    return Accuracy(3.0e-4, 2.0) if columns <= 16 else Accuracy(2.0**-10, 10.0 + columns)

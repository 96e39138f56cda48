"""From what is to be computed to parameters: how large the ring, which primes, how much noise hides the rows.

The circuit of all linear work is one: scores sum_j x_j w_j of an owner's integers x_j and encrypted weights w_j, with
the phase q sum_j x_j w_j / 2^torus_bits. A plan answers for three errors, each a quarter to a half of the precision
that is asked for: rounding the rows, noise (with what floods it), and the switch to the modulus that is returned.

**Hiding by flooding.** The key holder knows its own errors e_j, so the noise sum_j x_j e_j of an answer tells it the
rows. Uniform integers of F bits are added to each of N coefficients. The distance of such a sum from what does not
depend on the rows is |noise| / 2^F for each coefficient, so with |noise| <= 2^B

    F = statistical_bits + log2 N + B

makes it 2^-statistical_bits for a whole ciphertext. B holds at 8.7 standard deviations (see `noise`); distance goes
by the mean of |noise|, a tenth of it, so three more bits are there and not counted. This is for a key holder whose
public key and encryptions are honest: enlarged errors, or a public key b that is none (see `keys.PublicKey`), are not
covered. **Hiding by a mask** uniform modulo q covers both.

Reference: Asharov et al., "Multiparty computation with low communication, computation and interaction via threshold
FHE" (2012), lemma 1, for the distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from enclave.engines.he.lattice.expansion import Expansion
from enclave.engines.he.lattice.noise import (
    FRESH_VARIANCE,
    deviations,
    dropping_variance,
    expanded_energy,
    switching_variance,
    zero_variance,
)
from enclave.engines.he.lattice.parameters import MOST_BITS, SECURITY_BITS, Parameters, checked, primes_of
from enclave.engines.he.lattice.wire import packed_words
from enclave.errors import BadSpec

__all__ = ["FLOOD", "HONEST", "MASK", "HePlan", "Hiding", "LinearWork", "plan_linear"]

FLOOD, MASK = "flood", "mask"
HONEST = "for a key holder whose public key and encryptions are honest"  # the condition of all flooding
STATISTICAL_BITS = 40
_DEGREES = (4096, 8192, 16384)
_PRIME_BITS = 50  # the kernels are several times as fast below 2^50
_LEAST_PRIME_BITS = 24
_SPARE_BITS = 3  # below the table's limit: estimates of attacks on ternary secrets move by about that
_BUTTERFLY_S = 1e-9  # CPU time of one butterfly of a transform, for comparing plans only


@dataclass(frozen=True, slots=True)
class Hiding:
    """What hides an owner's rows in one kind of ciphertext that leaves it, or in masked shares of them.

    Attributes:
        bits: -log2 of the distance from what does not depend on the rows, for a whole ciphertext; for a method with
            distance 0, the bits of the assumption that the rest stands on, infinitely many for masked shares.
        method: for people.
    """

    label: str
    bits: float
    method: str

    def describe(self) -> str:
        """One line for people."""
        return f"{self.label}: {math.floor(self.bits) if self.encrypted else 'all'} bits, {self.method}"

    @property
    def encrypted(self) -> bool:
        """Not so for masked shares."""
        return math.isfinite(self.bits)


@dataclass(frozen=True, slots=True)
class LinearWork:
    """The public bounds of scores sum_j x_j w_j.

    Attributes:
        columns: d.
        row_magnitude: the largest |x_j|. row_rms: root of the mean of x_j^2, where it is known to be smaller; the
            owner checks both.
        weight_magnitude: the largest |w_j|.
        score_magnitude: the largest |score|; None: d row_magnitude weight_magnitude.
        precision: the error of a score that may be left once in 10^9 scores (six standard deviations).
        outputs: models side by side.
        stride: columns in one polynomial (see `packing`).
    """

    columns: int
    row_magnitude: float
    weight_magnitude: float
    precision: float
    score_magnitude: float | None = None
    row_rms: float | None = None
    outputs: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        numbers = (self.row_magnitude, self.weight_magnitude, self.precision, self.largest_score, self.rms)
        if min(self.columns, self.outputs, self.stride) < 1 or not all(0 < x < 2**60 for x in numbers):
            raise BadSpec(f"expected positive counts, and magnitudes and a precision in (0, 2^60), found {self}")

    @property
    def products(self) -> int:
        """Ciphertexts that are multiplied and summed for one output."""
        return -(-self.columns // self.stride)

    @property
    def largest_score(self) -> float:
        """The declared or the worst case."""
        worst = self.columns * self.row_magnitude * self.weight_magnitude
        return worst if self.score_magnitude is None else self.score_magnitude

    @property
    def rms(self) -> float:
        """Root mean square of a row's values, or their largest."""
        return self.row_magnitude if self.row_rms is None else self.row_rms

    @property
    def row_bits(self) -> int:
        """Fractional bits of rows that keep six deviations of the score's rounding error below half the precision."""
        error = 6 * self.weight_magnitude * math.sqrt(self.columns / 12)
        return max(0, math.ceil(math.log2(2 * error / self.precision)))


@dataclass(frozen=True, slots=True)
class HePlan:
    """Parameters for one piece of linear work, and what they promise.

    Attributes:
        finishing: FLOOD for scores that are released, MASK for shares.
        row_bits: rows are rounded to integers x 2^row_bits of magnitude at most `row_limit`.
        torus_bits: the score of integers x has phase q sum_j x_j w_j / 2^torus_bits.
        noise_bits: log2 of a bound on the noise of an answer, before it is flooded.
        flood_bits: F, of the uniform integers that are added; 0 for a mask.
        returned: primes of the answer that travels.
        error: bound on the error of a score; `deviation`: its expected root mean square.
        hiding_bits: statistical, for each ciphertext; 128 (of the assumption) for a mask.
        expansion: how weights travel. upload_bytes: of weights, public key and expansion keys.
        answer_bytes: of one returned ciphertext of N / stride scores.
        expansion_s: rough CPU time of expanding, for comparing plans.
    """

    work: LinearWork
    finishing: str
    parameters: Parameters
    row_bits: int
    row_limit: int
    torus_bits: int
    noise_bits: float
    flood_bits: int
    returned: int
    error: float
    deviation: float
    hiding_bits: float
    expansion: Expansion
    upload_bytes: int
    answer_bytes: int
    expansion_s: float

    def hiding(self, label: str) -> Hiding:
        """The statement about ciphertexts of this plan."""
        if self.finishing == MASK:
            method = "mask uniform modulo q on every coefficient (distance 0), re-randomised (RLWE)"
        else:
            method = (
                f"uniform integers of {self.flood_bits} bits over noise below 2^{self.noise_bits:.1f}, re-randomised "
                f"(RLWE), {HONEST}"
            )
        return Hiding(label, self.hiding_bits, method)

    def describe(self) -> str:
        """Some lines for people."""
        work = self.work
        lines = [
            f"{work.columns} columns x {work.outputs} outputs, {self.finishing}: {self.parameters.describe()}",
            f"rows with {self.row_bits} fractional bits, torus of 2^{self.torus_bits}, "
            f"{self.returned} of {len(self.parameters.primes)} primes return",
            f"error at most {self.error:.2g} (expected {self.deviation:.2g}), wanted {work.precision:.2g}",
            f"noise below 2^{self.noise_bits:.1f}, flooded with {self.flood_bits} bits"
            if self.finishing == FLOOD
            else f"noise below 2^{self.noise_bits:.1f}, under a uniform mask",
            f"hiding {self.hiding_bits:.1f} bits for each ciphertext",
            f"upload {self.upload_bytes / 1e6:.2f} MB in {self.expansion.ciphertexts} ciphertexts"
            + (f", expanded by {self.expansion.switches} key switches" if self.expansion.levels else "")
            + f"; an answer has {self.answer_bytes / 1e3:.0f} kB",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All figures, as JSON has them."""
        return asdict(self)


def plan_linear(
    work: LinearWork,
    *,
    finishing: str = FLOOD,
    statistical_bits: int = STATISTICAL_BITS,
    expansion_s: float = 0.0,
    torus_bits: int | None = None,
    row_bits: int | None = None,
) -> HePlan:
    """The plan with the least upload, and among equals the least answer.

    Args:
        finishing: FLOOD or MASK.
        expansion_s: CPU seconds that expanding may take; 0: weights travel one by one.
        torus_bits: for shares, whose torus is given by their fixed point; None: the least that holds all scores.
        row_bits: fractional bits of rows; None: by the precision.

    Raises: BadSpec: no parameters of 128 bits of security reach the precision.
    """
    if finishing not in (FLOOD, MASK) or statistical_bits < 1:
        raise BadSpec(f"expected flood or mask, and at least one bit, found {finishing!r} and {statistical_bits}")
    found = list(_candidates(work, finishing, statistical_bits, expansion_s, torus_bits, row_bits))
    if not found:
        raise BadSpec(
            f"expected a precision that 128-bit parameters reach, found {work.precision:g} for {work.columns} columns "
            f"of magnitude {work.row_magnitude:g} with {statistical_bits} bits of hiding",
            hint="ask for less precision, declare smaller ranges, or let mpc do it",
        )
    best = min(found, key=lambda plan: (plan.upload_bytes, plan.answer_bytes))
    numbers = best.parameters
    return replace(best, parameters=checked(numbers.scheme, numbers.degree, numbers.primes, numbers.special))


def _candidates(
    work: LinearWork,
    finishing: str,
    statistical_bits: int,
    expansion_s: float,
    torus_bits: int | None,
    row_bits: int | None,
) -> Iterator[HePlan]:
    row_bits = work.row_bits if row_bits is None else row_bits
    if 6 * _rounding(work, row_bits) > work.precision / 2:
        raise BadSpec(
            f"expected rows with at least {work.row_bits} fractional bits for a precision of {work.precision:g}, "
            f"found {row_bits}"
        )
    least = math.floor(math.log2(work.largest_score + work.precision) + row_bits) + 2
    if torus_bits is None:
        torus_bits = least
    elif torus_bits < least:
        raise BadSpec(f"expected a torus of at least {least} bits to hold all scores, found {torus_bits}")
    constants = work.products * work.outputs
    most_levels = (constants - 1).bit_length() if expansion_s and work.stride == 1 else 0
    for degree in _DEGREES:
        for levels in range(min(most_levels, degree.bit_length() - 1) + 1):
            shape = _Shape(
                work, finishing, statistical_bits, torus_bits, row_bits, degree, Expansion(constants, levels)
            )
            plan = shape.plan()
            if plan is not None and plan.expansion_s <= expansion_s:
                yield plan


@dataclass(frozen=True, slots=True)
class _Shape:
    """One choice of degree and expansion."""

    work: LinearWork
    finishing: str
    statistical_bits: int
    torus_bits: int
    row_bits: int
    degree: int
    expansion: Expansion

    def plan(self) -> HePlan | None:
        """The plan, or None where the degree has no room for it."""
        parameters = self._parameters()
        if parameters is None:
            return None
        noise = self._noise_bound(parameters)
        flood_bits = self._flood_bits(noise) if self.finishing == FLOOD else 0
        returned = self._returned(parameters)
        unit = 2.0 ** (self.torus_bits - self.row_bits)
        flood = 2.0 ** (flood_bits - 1) if flood_bits else 0.0
        rounding = _rounding(self.work, self.row_bits)
        last = math.prod(parameters.primes[:returned])
        dropping = math.sqrt(dropping_variance(self.degree)) / last if returned < len(parameters.primes) else 0.0
        z = deviations(self.statistical_bits, self.degree)
        error = 6 * rounding + unit * ((noise + flood) / parameters.modulus + z * dropping)
        if error > self.work.precision:
            return None
        spread = unit * math.hypot((noise / z + flood / math.sqrt(3)) / parameters.modulus, dropping)
        hiding = flood_bits - math.log2(self.degree) - math.log2(noise) if flood_bits else float(SECURITY_BITS)
        return HePlan(
            work=self.work,
            finishing=self.finishing,
            parameters=parameters,
            row_bits=self.row_bits,
            row_limit=math.ceil(self.work.row_magnitude * 2**self.row_bits),
            torus_bits=self.torus_bits,
            noise_bits=math.log2(noise),
            flood_bits=flood_bits,
            returned=returned,
            error=error,
            deviation=math.hypot(rounding, spread),
            hiding_bits=hiding,
            expansion=self.expansion,
            upload_bytes=self._upload_bytes(parameters),
            answer_bytes=8 * packed_words(parameters.primes[:returned], (2, returned, self.degree)),
            expansion_s=self._expansion_s(parameters),
        )

    def _parameters(self) -> Parameters | None:
        """The smallest primes that leave each error its share of the precision."""
        first = self._sized(self._noise_bound(None))
        if first is None or first.special is None:
            return first
        # a special prime larger than the others makes less noise than was feared
        return self._sized(self._noise_bound(first)) or first

    def _sized(self, noise: float) -> Parameters | None:
        flood = 2.0 ** (self._flood_bits(noise) - 1) if self.finishing == FLOOD else 0.0
        share = self.torus_bits - self.row_bits - math.log2(self.work.precision) + 2
        total = math.ceil(math.log2(noise + flood) + share)
        z = deviations(self.statistical_bits, self.degree)
        back = math.ceil(math.log2(z * math.sqrt(dropping_variance(self.degree))) + share)
        sizes = _sizes(total, back) if self.finishing == FLOOD else _even(total)
        special = [_PRIME_BITS] if self.expansion.levels else []
        most = MOST_BITS[self.degree] - _SPARE_BITS
        if sum(sizes) + sum(special) > most:
            special = [max(sizes)] if special else []  # more switching noise, which `plan` answers for
        if sum(sizes) + sum(special) > most:
            return None
        primes = primes_of(self.degree, [*special, *sizes])
        # of all candidates only the best is checked: SEAL takes a while
        return Parameters("bfv", self.degree, primes[len(special) :], primes[0] if special else None)

    def _noise_bound(self, parameters: Parameters | None) -> float:
        """Of the phase of an answer, before flooding; for the largest digits where parameters are not known yet."""
        energy = self.degree * FRESH_VARIANCE
        if self.expansion.levels:
            primes = (1,) * 4 if parameters is None else parameters.primes
            special = 1 if parameters is None else parameters.special
            assert special is not None
            switching = switching_variance(self.degree, primes, special)
            energy = expanded_energy(self.expansion, self.degree, switching)
        values = self.work.rms * 2.0**self.row_bits + 0.5
        variance = self.work.products * energy * values**2 + zero_variance(self.degree)
        return deviations(self.statistical_bits, self.degree) * math.sqrt(variance)

    def _flood_bits(self, noise: float) -> int:
        return math.ceil(self.statistical_bits + math.log2(self.degree) + math.log2(noise))

    def _returned(self, parameters: Parameters) -> int:
        """The least number of primes on which the switch's rounding error keeps to its share."""
        if self.finishing == MASK:
            return len(parameters.primes)
        z = deviations(self.statistical_bits, self.degree)
        error = z * math.sqrt(dropping_variance(self.degree)) * 2.0 ** (self.torus_bits - self.row_bits)
        for count in range(1, len(parameters.primes)):
            if error / math.prod(parameters.primes[:count]) <= self.work.precision / 4:
                return count
        return len(parameters.primes)

    def _upload_bytes(self, parameters: Parameters) -> int:
        primes, keys = parameters.primes, parameters.key_primes
        words = packed_words(primes, (self.expansion.ciphertexts + 1, len(primes), self.degree))
        if self.expansion.levels:
            words += packed_words(keys, (self.expansion.levels, len(primes), len(keys), self.degree))
        return 8 * words

    def _expansion_s(self, parameters: Parameters) -> float:
        """Transforms of the key switches, and passes over their residues, as butterflies."""
        keys = len(parameters.key_primes)
        transforms = (keys - 1) * keys + 2 * keys
        butterflies = transforms * self.degree / 2 * (math.log2(self.degree) + 8)
        return self.expansion.switches * butterflies * _BUTTERFLY_S


def _rounding(work: LinearWork, row_bits: int) -> float:
    """Standard deviation of a score whose rows are rounded."""
    return work.weight_magnitude * math.sqrt(work.columns / 12) * 2.0**-row_bits


def _even(bits: int, most: int = _PRIME_BITS) -> list[int]:
    """Sizes of the fewest primes with `bits` bits in all, about equal."""
    count = -(-max(bits, _LEAST_PRIME_BITS) // most)
    return [max(_LEAST_PRIME_BITS, (bits + i) // count) for i in range(count)]


def _sizes(total: int, back: int) -> list[int]:
    """Sizes of primes: first those that return, then the rest. One bit more, as a prime is a little below 2^bits."""
    returned = _even(back + 1)
    rest = total + 1 - sum(returned)
    return returned + (_even(rest) if rest > 0 else [])

"""Arithmetic on CKKS ciphertexts: SEAL's evaluator with its traps closed.

A ciphertext holds N / 2 real slots times its scale. A product multiplies the scales; `rescale` drops the last prime
and divides the scale by it. Scales are not rounded to a common value behind one's back, which would put a bias into
every result: what is added must have one scale, and `encode` takes the scale that makes it so.

Errors are BadInput with a code: `input.depth` (no prime is left to drop, or the numbers do not fit the primes that
are), `input.scale` (two scales that differ), `input.context` (values of two parameter sets), `input.transparent`
(a factor of zeros: the result would not be encrypted).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal.sealapi as sealapi
from numpy.typing import NDArray

from enclave.engines.he.ckks.seal import Context, SealCiphertext, SealPlaintext
from enclave.engines.he.lattice.ring import Words
from enclave.errors import BadInput

__all__ = ["Encrypted", "Evaluator", "Plain", "conjugation", "galois_element"]

_SAME_SCALE = 2.0**-24  # relative difference of two scales that count as one: far below the error of any product


@dataclass(frozen=True, slots=True)
class Plain:
    """An encoded vector, for ciphertexts of `count` primes. `zero`: a product with it would be transparent."""

    context: Context
    raw: SealPlaintext
    count: int
    scale: float
    zero: bool


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A ciphertext. Immutable: every operation makes a new one."""

    context: Context
    raw: SealCiphertext

    @property
    def count(self) -> int:
        """Primes that are left; `rescale` takes one."""
        return int(self.raw.coeff_modulus_size())

    @property
    def scale(self) -> float:
        """What slots are multiplied by."""
        return float(self.raw.scale)

    @property
    def residues(self) -> Words:
        """[2, k, N], evaluation form."""
        return self.context.residues(self.raw)


def galois_element(degree: int, steps: int) -> int:
    """The exponent of the automorphism that rotates the N / 2 slots to the left by `steps`."""
    return pow(3, steps % (degree // 2), 2 * degree)


def conjugation(degree: int) -> int:
    """The exponent of the automorphism that conjugates the slots."""
    return 2 * degree - 1


class Evaluator:
    """Operations of one parameter set under one buyer's keys.

    Args:
        relin: digits of the relinearisation key, for products of ciphertexts; see `Context.relin_keys`.
        galois: digits by Galois element, for rotations; see `Context.galois_keys` and `galois_element`.
    """

    def __init__(self, context: Context, relin: Words | None = None, galois: dict[int, Words] | None = None) -> None:
        self.context = context
        self._evaluator, self._encoder = sealapi.Evaluator(context.raw), sealapi.CKKSEncoder(context.raw)
        self._relin = None if relin is None else context.relin_keys(relin)
        # one object for each key: a file that holds one at a time
        self._galois = {element: context.galois_keys({element: digits}) for element, digits in (galois or {}).items()}
        # most primes of a ciphertext that each key takes; beyond, SEAL would use digits that are not there
        self._reach = {element: len(digits) for element, digits in (galois or {}).items()}
        self._products = 0 if relin is None else len(relin)

    # ---- in and out
    def encrypted(self, residues: Words, scale: float) -> Encrypted:
        """A ciphertext out of checked residues [2, k, N], evaluation form."""
        return Encrypted(self.context, self.context.ciphertext(residues, scale))

    def encode(self, values: NDArray[np.inexact] | float, count: int, scale: float) -> Plain:
        """Real or complex slots (at most N / 2; the rest are zeros), or a number for all slots, for `count` primes.

        Raises: BadInput: not finite, too many, or too large for the primes (code `input.depth`).
        """
        if isinstance(values, np.ndarray):
            if values.ndim != 1 or values.size > self.context.slots:
                raise BadInput(f"expected at most {self.context.slots} slots, found shape {values.shape}")
            content: Any = values.tolist()
        else:
            content = float(values)
        if not np.isfinite(values).all() or not (math.isfinite(scale) and scale > 0):
            raise BadInput("values and scales must be finite")
        raw, level = sealapi.Plaintext(), self.context.level(count)
        try:
            self._encoder.encode(content, level, scale, raw)
        except ValueError as error:
            raise BadInput(f"cannot encode at scale 2^{math.log2(scale):.1f}: {error}", code="input.depth") from error
        return Plain(self.context, raw, count, scale, bool(raw.is_zero()))

    def decode(self, phase: Words, scale: float) -> NDArray[np.float64]:
        """The slots of a decrypted phase [k, N], evaluation form.

        Safety: what comes out is exact to the last bit of the noise. It must not be shown to who made the ciphertext.
        """
        found: NDArray[np.float64] = np.array(self._encoder.decode_double(self.context.plaintext(phase, scale)))
        return found

    # ---- without a level
    def add(self, x: Encrypted, y: Encrypted) -> Encrypted:
        """x + y, of one scale and as many primes."""
        self._match(x, y)
        return self._made(self._evaluator.add, x.raw, self._aligned(y, x))

    def sub(self, x: Encrypted, y: Encrypted) -> Encrypted:
        """x - y, of one scale and as many primes."""
        self._match(x, y)
        return self._made(self._evaluator.sub, x.raw, self._aligned(y, x))

    def negate(self, x: Encrypted) -> Encrypted:
        """-x."""
        return self._made(self._evaluator.negate, self._own(x).raw)

    def add_plain(self, x: Encrypted, plain: Plain) -> Encrypted:
        """x + plain, of one scale."""
        self._match(x, plain)
        return self._made(self._evaluator.add_plain, self._relabelled(x, plain.scale), plain.raw)

    def rotate(self, x: Encrypted, steps: int) -> Encrypted:
        """Slots to the left by `steps`; needs the key of exactly this rotation."""
        element = galois_element(self.context.degree, steps)
        return self._own(x) if element == 1 else self._automorphism(x, element, f"a rotation by {steps}")

    def conjugate(self, x: Encrypted) -> Encrypted:
        """The complex conjugates of the slots."""
        return self._automorphism(x, conjugation(self.context.degree), "a conjugation")

    def _automorphism(self, x: Encrypted, element: int, name: str) -> Encrypted:
        if self._reach.get(element, 0) < x.count:
            raise BadInput(f"no key for {name} of {x.count} primes")
        return self._made(self._evaluator.apply_galois, self._own(x).raw, element, self._galois[element])

    def lower(self, x: Encrypted, count: int) -> Encrypted:
        """The same numbers at the same scale under the first `count` primes."""
        if count == self._own(x).count:
            return x
        if not 1 <= count < x.count:
            raise BadInput(f"cannot go from {x.count} primes to {count}", code="input.depth")
        return self._made(self._evaluator.mod_switch_to, x.raw, self.context.level(count))

    def at_scale(self, x: Encrypted, scale: float) -> Encrypted:
        """x with its scale called `scale`, from which it may differ by rounding alone."""
        if not math.isclose(self._own(x).scale, scale, rel_tol=_SAME_SCALE):
            raise BadInput(_scales(x.scale, scale), code="input.scale")
        return Encrypted(self.context, self._relabelled(x, scale))

    def times(self, x: Encrypted, factor: float) -> Encrypted:
        """x times a public positive factor: nothing is computed, the scale takes it up."""
        if not (math.isfinite(factor) and factor > 0):
            raise BadInput(f"expected a positive factor, found {factor}")
        return Encrypted(self.context, self._relabelled(x, self._own(x).scale / factor))

    # ---- products
    def multiply_plain(self, x: Encrypted, plain: Plain) -> Encrypted:
        """x * plain, slot by slot. The scale is the product of both."""
        self._same_level(x, plain)
        if plain.zero:
            raise BadInput("a product with zeros is transparent: leave it out", code="input.transparent")
        self._room(x, x.scale * plain.scale)
        return self._made(self._evaluator.multiply_plain, x.raw, plain.raw)

    def multiply(self, x: Encrypted, y: Encrypted) -> Encrypted:
        """x * y, slot by slot, relinearised. The scale is the product of both."""
        self._same_level(x, y)
        self._room(x, x.scale * y.scale)
        return self._relinearised(self._made(self._evaluator.multiply, x.raw, y.raw))

    def square(self, x: Encrypted) -> Encrypted:
        """x * x, for two thirds of the work."""
        self._room(self._own(x), x.scale * x.scale)
        return self._relinearised(self._made(self._evaluator.square, x.raw))

    def rescale(self, x: Encrypted) -> Encrypted:
        """Drops the last prime and divides the scale by it."""
        if self._own(x).count < 2:
            raise BadInput("depth exceeded: no prime is left to drop", code="input.depth")
        return self._made(self._evaluator.rescale_to_next, x.raw)

    def dot(self, pairs: Iterable[tuple[Encrypted, Plain]]) -> Encrypted | None:
        """The sum of products; those with zeros are left out. None: they all were."""
        total: Encrypted | None = None
        for x, plain in pairs:
            if plain.zero:
                continue
            product = self.multiply_plain(x, plain)
            total = product if total is None else self._add_into(total, product)
        return total

    # ---- checks
    def _add_into(self, total: Encrypted, y: Encrypted) -> Encrypted:
        """Safety: changes `total`, which only `dot` has seen."""
        self._match(total, y)
        self._evaluator.add_inplace(total.raw, self._aligned(y, total))
        return total

    def _relinearised(self, x: Encrypted) -> Encrypted:
        if self._products < x.count:
            raise BadInput(f"no relinearisation key for ciphertexts of {x.count} primes")
        return self._made(self._evaluator.relinearize, x.raw, self._relin)

    def _made(self, operation: Callable[..., None], *operands: Any) -> Encrypted:
        found = sealapi.Ciphertext()
        try:
            operation(*operands, found)
        except RuntimeError as error:
            if "transparent" in str(error):
                raise BadInput("the result is transparent: its operands cancel", code="input.transparent") from error
            raise
        return Encrypted(self.context, found)

    def _own(self, x: Encrypted) -> Encrypted:
        if x.context is not self.context:
            raise BadInput(f"a value of {x.context} in an evaluator of {self.context}", code="input.context")
        return x

    def _same_level(self, x: Encrypted, y: Encrypted | Plain) -> None:
        self._own(x)
        if y.context is not self.context:
            raise BadInput(f"a value of {y.context} in an evaluator of {self.context}", code="input.context")
        if x.count != y.count:
            raise BadInput(f"operands have {x.count} and {y.count} primes: lower one", code="input.depth")

    def _match(self, x: Encrypted, y: Encrypted | Plain) -> None:
        self._same_level(x, y)
        if not math.isclose(x.scale, y.scale, rel_tol=_SAME_SCALE):
            raise BadInput(_scales(x.scale, y.scale), code="input.scale")

    def _room(self, x: Encrypted, scale: float) -> None:
        bits = sum(math.log2(prime) for prime in self.context.primes[: x.count])
        if math.log2(scale) >= bits - 1:
            text = f"a scale of 2^{math.log2(scale):.1f} does not fit {x.count} primes of {bits:.0f} bits"
            raise BadInput(f"depth exceeded: {text}", code="input.depth")

    def _aligned(self, y: Encrypted, x: Encrypted) -> SealCiphertext:
        return self._relabelled(y, x.scale)

    def _relabelled(self, x: Encrypted, scale: float) -> SealCiphertext:
        """SEAL compares scales to the last bit, so that rounding has to be taken out of them."""
        if x.scale == scale:
            return x.raw
        found = sealapi.Ciphertext()
        self._evaluator.mod_switch_to(x.raw, self.context.level(x.count), found)  # to its own level: a copy
        found.scale = scale
        return found


def _scales(x: float, y: float) -> str:
    return f"operands of scales 2^{math.log2(x):.6f} and 2^{math.log2(y):.6f}"

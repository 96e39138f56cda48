"""From literal numbers to checked parameters of lattice encryption.

The table is the HomomorphicEncryption.org standard's for ternary secrets at 128 bits of classical security, which SEAL
enforces too: most bits of all coefficient primes together, the special prime of key switching among them. One bit more
is refused, here and by SEAL itself, which is asked as a second opinion.

Reference: Albrecht et al., "Homomorphic Encryption Security Standard" (2018), table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from types import MappingProxyType

from enclave.engines.he.lattice.ring import Ring, ntt_primes
from enclave.errors import BadInput

__all__ = ["MOST_BITS", "SECURITY_BITS", "Parameters", "checked", "primes_of"]

SECURITY_BITS = 128
MOST_BITS = MappingProxyType({1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881})
_SCHEMES = ("bfv", "ckks")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Checked parameters; made by `checked` alone.

    Attributes:
        scheme: "bfv" for exact messages on the torus, "ckks" for approximate ones.
        degree: N.
        primes: of the data, first to last; a switch of modulus drops the last.
        special: the prime of key switching, or None where no key is switched.
    """

    scheme: str
    degree: int
    primes: tuple[int, ...]
    special: int | None = None

    @property
    def key_primes(self) -> tuple[int, ...]:
        """The primes of keys: the special one last."""
        return self.primes if self.special is None else (*self.primes, self.special)

    @property
    def modulus(self) -> int:
        """The product of the data primes."""
        return prod(self.primes)

    @property
    def total_bits(self) -> int:
        """Bits of the product of all primes: what security depends on."""
        return prod(self.key_primes).bit_length()

    def key_ring(self) -> Ring:
        """The ring of keys; its `lower(len(primes))` is that of ciphertexts. Shared between calls."""
        return _ring(self.degree, self.key_primes)

    def ring(self) -> Ring:
        """The ring of ciphertexts."""
        return self.key_ring().lower(len(self.primes))

    def describe(self) -> str:
        """One line for people."""
        sizes = "+".join(str(prime.bit_length()) for prime in self.primes)
        special = "" if self.special is None else f"|{self.special.bit_length()}"
        most = MOST_BITS[self.degree]
        return f"{self.scheme} N={self.degree} [{sizes}{special}] {self.total_bits} of {most} bits"


def checked(scheme: str, degree: int, primes: Sequence[int], special: int | None = None) -> Parameters:
    """Parameters of at least 128 bits of security.

    Raises: BadInput: an unknown scheme or degree, primes that repeat or do not fit the degree, more bits than the
        table allows, or parameters that SEAL refuses.
    """
    if scheme not in _SCHEMES:
        raise BadInput(f"expected a scheme among {', '.join(_SCHEMES)}, found {scheme!r}")
    if degree not in MOST_BITS:
        raise BadInput(f"expected a degree among {', '.join(map(str, MOST_BITS))}, found {degree}")
    parameters = Parameters(scheme, degree, tuple(primes), special)
    if not primes:
        raise BadInput("expected at least one data prime, found none")
    if len(set(parameters.key_primes)) != len(parameters.key_primes):
        raise BadInput(f"expected different primes, found {parameters.key_primes}")
    for prime in parameters.key_primes:
        if prime % (2 * degree) != 1 or prime.bit_length() > 60:
            raise BadInput(f"expected primes of at most 60 bits that are 1 modulo {2 * degree}, found {prime}")
    if special is not None and special.bit_length() < max(primes).bit_length():
        raise BadInput(
            f"expected a special prime of at least {max(primes).bit_length()} bits, as the largest data prime, "
            f"found {special.bit_length()}"
        )
    if parameters.total_bits > MOST_BITS[degree]:
        raise BadInput(
            f"expected at most {MOST_BITS[degree]} bits of primes for degree {degree} at {SECURITY_BITS} bits of "
            f"security, found {parameters.total_bits}"
        )
    parameters.key_ring()  # refuses what is not prime
    verdict = _verdict(degree, parameters.key_primes)
    if verdict:
        raise BadInput(f"expected parameters that SEAL accepts, found: {verdict}")
    return parameters


def primes_of(degree: int, bits: Sequence[int]) -> tuple[int, ...]:
    """Different primes of the given numbers of bits, in that order: the largest of each size first.

    Raises: BadInput: there are not that many.
    """
    try:
        found = {size: iter(ntt_primes(degree, size, list(bits).count(size))) for size in set(bits)}
    except ValueError as error:
        raise BadInput(str(error)) from error
    return tuple(next(found[size]) for size in bits)


@lru_cache(maxsize=16)
def _ring(degree: int, primes: tuple[int, ...]) -> Ring:
    return Ring(degree, primes)


@lru_cache(maxsize=64)
def _verdict(degree: int, primes: tuple[int, ...]) -> str:
    """What SEAL has against these primes at 128 bits of security; empty if nothing."""
    import tenseal.sealapi as seal  # costs a fifth of a second, and only checks need it

    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(degree)
    literal.set_coeff_modulus([seal.Modulus(prime) for prime in primes])
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
    return "" if context.parameters_set() else str(context.parameters_error_message())

"""The bridge to Microsoft SEAL, as TenSEAL ships it: our residues into its objects, and back.

No foreign byte reaches SEAL's parser. What comes from a peer is unpacked and checked by `wire`; here, arrays that
were checked are written in SEAL's own uncompressed file format and loaded. SEAL reads files only: the file is an
anonymous one in memory, under a name that the kernel makes. SEAL checks each residue again as it loads.

Ciphertexts are in evaluation form, as CKKS has them in SEAL, in the order that `Ring` has too.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import tenseal.sealapi as sealapi

from enclave.engines.he.lattice.parameters import Parameters
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.errors import BadInput

__all__ = ["Context", "SealCiphertext", "SealPlaintext"]

Bytes: TypeAlias = bytes | memoryview
SealCiphertext: TypeAlias = Any  # the library has no types
SealPlaintext: TypeAlias = Any
_MAGIC, _HEADER_BYTES, _VERSION = 0xA15E, 16, (4, 3)


class Context:
    """One CKKS parameter set in SEAL. Immutable; building one takes a tenth of a second, so share it.

    The data primes are named bottom first: a rescale drops the last. A ciphertext has N / 2 slots.

    Raises: BadInput: another scheme, or parameters that SEAL refuses, as all below 128 bits of security.
    """

    def __init__(self, parameters: Parameters) -> None:
        if parameters.scheme != "ckks":
            raise BadInput(f"expected CKKS parameters, found {parameters.describe()}")
        self.parameters = parameters
        self.degree, self.primes, self.special = parameters.degree, parameters.primes, parameters.special
        self.slots = self.degree // 2
        literal = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        literal.set_poly_modulus_degree(self.degree)
        literal.set_coeff_modulus([sealapi.Modulus(prime) for prime in parameters.key_primes])
        self.raw = sealapi.SEALContext(literal, True, sealapi.SEC_LEVEL_TYPE.TC128)
        if not self.raw.parameters_set():
            raise BadInput(f"SEAL refuses {parameters.describe()}: {self.raw.parameters_error_message()}")
        self.key_ring = parameters.key_ring()
        self._rings = tuple(self.key_ring.lower(count) for count in range(1, len(self.primes) + 1))
        self._ids = self._levels()

    def __repr__(self) -> str:
        return f"Context({self.parameters.describe()})"

    def _levels(self) -> dict[int, list[int]]:
        """SEAL's name of each level, by the number of its primes."""
        found, data = {}, self.raw.first_context_data()
        while data is not None:
            found[len(data.parms().coeff_modulus())] = data.parms_id()
            data = data.next_context_data()
        return found

    def level(self, count: int) -> list[int]:
        """SEAL's name of the level with `count` primes."""
        if count not in self._ids:
            raise BadInput(f"expected 1 to {len(self.primes)} primes, found {count}")
        return self._ids[count]

    def ring(self, count: int) -> Ring:
        """The ring of the first `count` data primes."""
        self.level(count)
        return self._rings[count - 1]

    # ---- arrays to objects
    def ciphertext(self, residues: Words, scale: float) -> SealCiphertext:
        """A ciphertext of `residues` [2 or 3, k, N], evaluation form.

        Raises: BadInput: another shape; a residue that is not below its prime; a c1 of zeros, which hides nothing.
        """
        size, count = self._checked(residues, dims=3)
        if size not in (2, 3):
            raise BadInput(f"a ciphertext has 2 or 3 polynomials, found {size}")
        if not residues[1:].any():
            raise BadInput("the ciphertext is transparent: it holds its message in the clear", code="input.transparent")
        found = sealapi.Ciphertext()
        with _loading() as path:
            _write(path, self._ciphertext_bytes(self.level(count), residues, scale))
            _load(found, self.raw, path)
        return found

    def plaintext(self, residues: Words, scale: float) -> SealPlaintext:
        """A plaintext of `residues` [k, N], evaluation form."""
        (count,) = self._checked(residues, dims=2)
        head = struct.pack("<4Q", *self.level(count)) + struct.pack("<Qd", residues.size, scale)
        found = sealapi.Plaintext()
        with _loading() as path:
            _write(path, _framed([head, *_array(residues)]))
            _load(found, self.raw, path)
        return found

    def galois_keys(self, keys: Mapping[int, Words]) -> Any:
        """Keys of the automorphisms X -> X^element, by element; see `_switch_keys` for their digits."""
        for element in keys:
            if element % 2 == 0 or not 0 < element < 2 * self.degree:
                raise BadInput(f"a Galois element is odd and below {2 * self.degree}, found {element}")
        found = sealapi.GaloisKeys()
        self._switch_keys(found, {(element - 1) // 2: digits for element, digits in keys.items()})
        return found

    def relin_keys(self, digits: Words) -> Any:
        """The key that brings s^2 back to s; see `_switch_keys`."""
        found = sealapi.RelinKeys()
        self._switch_keys(found, {0: digits})
        return found

    def _switch_keys(self, found: Any, keys: Mapping[int, Words]) -> None:
        """Loads key switching keys, each uint64 [c, 2, c + 1, N] for ciphertexts of at most c primes: for each of them
        a (b, a), evaluation form, with b + a s = e + P s' at row i of digit i and e at all other rows; P is the special
        prime, whose row is the last."""
        if self.special is None:
            raise BadInput("the parameters have no special prime, hence no key switching")
        name = self.raw.key_parms_id()
        parts: list[Bytes] = [struct.pack("<4QQ", *name, max(keys) + 1)]
        after = 0
        for index, digits in sorted(keys.items()):
            pairs = self._all_digits(digits)
            # an absent key is a count of 0
            parts.append(bytes(8 * (index - after)) + struct.pack("<Q", len(pairs)))
            for pair in pairs:
                parts += self._ciphertext_bytes(name, pair, 1.0)
            after = index + 1
        with _loading() as path:
            _write(path, _framed(parts))
            _load(found, self.raw, path)

    def _all_digits(self, digits: Words) -> Words:
        """SEAL wants the digits and the rows of all primes: those of primes that no ciphertext has are zeros."""
        count, most = len(digits), len(self.primes)
        shape = (count, 2, count + 1, self.degree)
        if digits.dtype != np.uint64 or digits.shape != shape or not 0 < count <= most:
            raise BadInput(
                f"expected a switching key of uint64 [c, 2, c + 1, {self.degree}] for 1 to {most} primes, "
                f"found {digits.dtype} {digits.shape}"
            )
        if count == most:
            return digits
        found = np.zeros((most, 2, most + 1, self.degree), np.uint64)
        found[:count, :, :count] = digits[:, :, :-1]
        found[:count, :, -1] = digits[:, :, -1]
        return found

    def _ciphertext_bytes(self, name: list[int], residues: Words, scale: float) -> list[Bytes]:
        size, count, degree = residues.shape
        head = struct.pack("<4QBQQQdQ", *name, 1, size, degree, count, scale, 1)
        return _framed([head, *_array(residues)])

    def _checked(self, residues: Words, dims: int) -> tuple[int, ...]:
        """The leading axes of residues [..., k, N]."""
        count = residues.shape[-2] if residues.ndim == dims else 0
        if residues.dtype != np.uint64 or residues.ndim != dims or residues.shape[-1] != self.degree:
            raise BadInput(
                f"expected uint64 residues of {dims} axes, the last of {self.degree}, "
                f"found {residues.dtype} {residues.shape}"
            )
        self.level(count)
        if not (residues < np.array(self.primes[:count], np.uint64)[:, None]).all():
            raise BadInput("a residue is not below its prime")
        return residues.shape[:-1]

    # ---- objects to arrays
    def residues(self, value: SealCiphertext | SealPlaintext) -> Words:
        """The residues of a ciphertext [size, k, N] or of a plaintext [k, N], evaluation form.

        Word by word, 0.3 us each: SEAL writes files compressed only, and zstandard would be one more dependency.
        """
        if isinstance(value, sealapi.Plaintext):
            count, shape = value.coeff_count(), (value.coeff_count() // self.degree, self.degree)
            return np.fromiter(map(value.__getitem__, range(count)), np.uint64, count).reshape(shape)
        dims = (value.size(), value.coeff_modulus_size(), self.degree)
        count = dims[0] * dims[1] * dims[2]
        return np.fromiter(map(value.__getitem__, range(count)), np.uint64, count).reshape(dims)


def _header(size_bytes: int) -> bytes:
    """SEAL's header of an object of `size_bytes` in all, not compressed."""
    return struct.pack("<HBBBBHQ", _MAGIC, _HEADER_BYTES, *_VERSION, 0, 0, size_bytes)


def _framed(parts: list[Bytes]) -> list[Bytes]:
    return [_header(_HEADER_BYTES + sum(len(part) for part in parts)), *parts]


def _array(residues: Words) -> list[Bytes]:
    data = np.ascontiguousarray(residues).reshape(-1)
    return _framed([struct.pack("<Q", data.size), data.view(np.uint8).data])


@contextmanager
def _loading() -> Iterator[str]:
    """The path of an empty file in memory that no other process can name, gone afterwards."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("enclave", os.MFD_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        yield os.path.join(folder, "object")


def _write(path: str, parts: list[Bytes]) -> None:
    with open(path, "wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]


def _load(target: Any, raw: Any, path: str) -> None:
    try:
        target.load(raw, path)
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"SEAL refuses an object of ours: {error}") from error

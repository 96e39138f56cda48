"""Products of a matrix and rows in the coefficients of polynomials: many outputs of one product, and no rotation.

One side of the product is encrypted, the other is plaintext. With groups of g columns, group G of a weight matrix W
(d, h) is one polynomial, and so is the same group of the rows X (n, d) of a block:

    W_G = sum_k sum_j W[Gg + j, k] X^(kg + j)        X_G = sum_r sum_j X[r, Gg + j] X^(rgh + g-1-j)

sum_G W_G X_G has in coefficient (rh + k)g + g-1 the product (X W)[r, k]: of other columns, rows or outputs the terms
meet in other coefficients or wrap around into them, never into these. A block has N / (gh) rows. g = 1 uses every
coefficient; a large g needs few polynomials W_G. Two uses:

- *encrypted matrix, plaintext rows*: a layer of a buyer's network over an owner's rows (`polynomial`);
- *encrypted vector, plaintext matrix*: h = 1 and g = d, the vector is the only W_G, the columns of the matrix are the
  rows. One plaintext product gives N / d outputs: a 784 x 10 matrix takes a single one at N = 8192.

**Reference** Huang et al., Cheetah, USENIX Security 2022, section 3.1: products of matrices by one polynomial each;
here also with several outputs to a group, and with groups that are no power of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.products import HIDING_BITS, noise_bits, protected
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.rlwe import decode, encrypt, phase, signed
from enclave.engines.he.lattice.sampling import Source
from enclave.errors import BadInput, BadSpec

__all__ = ["MatrixPacking", "PlainMatrix", "VectorKey"]


@dataclass(frozen=True, slots=True)
class MatrixPacking:
    """Where the elements of X (n, inputs) and W (inputs, outputs) lie in polynomials of `degree` coefficients. Public.

    Raises: BadSpec: a group of columns with all its outputs does not fit into one polynomial.
    """

    degree: int
    inputs: int
    outputs: int
    group: int = 1

    def __post_init__(self) -> None:
        if min(self.inputs, self.outputs, self.group) < 1 or self.group * self.outputs > self.degree:
            raise BadSpec(
                f"groups of {self.group} columns with {self.outputs} outputs need that many coefficients, at most "
                f"{self.degree}"
            )

    @classmethod
    def cheapest(cls, degree: int, rows: int, inputs: int, outputs: int, price: float = 1.5) -> MatrixPacking:
        """The group with the least traffic: encrypted polynomials in, and `price` times as much for each one out."""
        most = max(1, min(inputs, degree // outputs))
        sizes = {most, *range(1, min(most, 64) + 1), *(-(-inputs // count) for count in range(1, 65))}
        found = (cls(degree, inputs, outputs, size) for size in sorted(sizes) if size <= most)
        return min(found, key=lambda packing: packing.groups + price * packing.blocks(rows))

    @property
    def groups(self) -> int:
        """Polynomials of the weights, and of one block of rows."""
        return -(-self.inputs // self.group)

    @property
    def block_rows(self) -> int:
        """Rows of one block."""
        return self.degree // (self.group * self.outputs)

    def blocks(self, rows: int) -> int:
        """Blocks that `rows` rows take."""
        return -(-rows // self.block_rows)

    def weights(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """[inputs, outputs] -> coefficients [groups, N], of the same element type."""
        padded = self._grouped(matrix, (self.inputs, self.outputs), axis=0)
        found = np.zeros((self.groups, self.degree), matrix.dtype)
        found[:, : self.outputs * self.group] = padded.transpose(0, 2, 1).reshape(self.groups, -1)
        return found

    def rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """[n, inputs] -> coefficients [blocks, groups, N]; rows that are missing are zeros."""
        blocks, step = self.blocks(len(rows)), self.group * self.outputs
        padded = self._grouped(rows, (len(rows), self.inputs), axis=1)[:, :, ::-1]
        full = np.zeros((blocks * self.block_rows, self.groups, self.group), rows.dtype)
        full[: len(rows)] = padded
        spread = np.zeros((blocks, self.groups, self.block_rows, step), rows.dtype)
        spread[..., : self.group] = full.reshape(blocks, self.block_rows, self.groups, self.group).swapaxes(1, 2)
        found = np.zeros((blocks, self.groups, self.degree), rows.dtype)
        found[..., : self.block_rows * step] = spread.reshape(blocks, self.groups, -1)
        return found

    def products(self, coefficients: NDArray[Any], rows: int) -> NDArray[Any]:
        """Coefficients [blocks, ..., N] of the products -> X W, [..., rows, outputs]."""
        used = coefficients[..., self.group - 1 : self.block_rows * self.outputs * self.group : self.group]
        shaped = used.reshape(*used.shape[:-1], self.block_rows, self.outputs)
        joined = np.moveaxis(shaped, 0, -3)
        return joined.reshape(*joined.shape[:-3], -1, self.outputs)[..., :rows, :]

    def places(self, values: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `products`: [..., rows, outputs] -> [blocks, ..., N], zeros where no product is."""
        blocks, lead = self.blocks(values.shape[-2]), values.shape[:-2]
        full = np.zeros((*lead, blocks * self.block_rows, self.outputs), values.dtype)
        full[..., : values.shape[-2], :] = values
        shaped = np.moveaxis(full.reshape(*lead, blocks, self.block_rows * self.outputs), -2, 0)
        found = np.zeros((blocks, *lead, self.degree), values.dtype)
        found[..., self.group - 1 : self.block_rows * self.outputs * self.group : self.group] = shaped
        return found

    def _grouped(self, values: NDArray[Any], shape: tuple[int, int], axis: int) -> NDArray[Any]:
        if values.shape != shape:
            raise BadInput(f"expected a matrix of shape {shape}, found {values.shape}")
        padding = [(0, 0), (0, 0)]
        padding[axis] = (0, self.groups * self.group - self.inputs)
        padded = np.pad(values, padding)
        return padded.reshape(*shape[:axis], self.groups, self.group, *shape[axis + 1 :])


class PlainMatrix:
    """A plaintext matrix that encrypted vectors are multiplied with, in evaluation form.

    Args:
        ring: of the ciphertexts. matrix: int64 [d, m]; y = x @ matrix.

    **Cost** m d / N products of polynomials for each encrypted vector; no key besides the vector's own.
    """

    __slots__ = ("_columns", "_largest", "_packing", "_polynomials", "_ring")

    def __init__(self, ring: Ring, matrix: NDArray[np.int64]) -> None:
        if matrix.ndim != 2:
            raise BadInput(f"expected a matrix, found shape {matrix.shape}")
        inputs, self._columns = matrix.shape
        self._ring = ring
        self._largest = int(np.abs(matrix).max(initial=1))
        self._packing = MatrixPacking(ring.degree, inputs, 1, min(inputs, ring.degree))
        self._polynomials = ring.encode(self._packing.rows(np.ascontiguousarray(matrix.T, dtype=np.int64)))

    def __repr__(self) -> str:
        return f"PlainMatrix({self._packing.inputs} x {self._columns})"

    @property
    def packing(self) -> MatrixPacking:
        """Where the vector's elements and the outputs lie."""
        return self._packing

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts of the result."""
        return self._packing.blocks(self._columns)

    def multiply(self, vector: Words) -> Words:
        """Encrypted vector [groups, 2, k, N] in evaluation form -> encrypted products [ciphertexts, 2, k, N], the same.

        Safety: the result is not fit to be returned, its c1 shows the matrix to whoever has the key; see `answer`.
        """
        return self._ring.dot(self._polynomials, vector)

    def flood_bits(self, hiding_bits: int = HIDING_BITS) -> int:
        """Bits of the integers that hide the noise of an answer."""
        terms, degree = self._packing.groups * self._packing.group, self._ring.degree
        return math.ceil(noise_bits(terms, self._largest, degree) + hiding_bits + math.log2(degree))

    def answer(self, public_key: PublicKey, source: Source, vector: Words, bits: int) -> Words:
        """Encrypted products that tell the key holder the products, modulo 2^bits, and nothing else of the matrix.

        Re-randomised; flooded by HIDING_BITS bits where outputs are, and uniform in all other coefficients, which hold
        sums of other columns and rows.

        Returns: [ciphertexts, 2, k, N], coefficient form; the last primes may be dropped.
        Raises: BadSpec: the ring has no room for messages of that many bits and the flooding.
        """
        ring, flood_bits = self._ring, self.flood_bits()
        needed, found = bits + flood_bits + 1, math.log2(ring.modulus)
        if needed > found:
            text = f"{bits} bits of a message and {flood_bits} of flooding need a modulus of {needed} bits"
            raise BadSpec(f"{text}, found {found:.0f}")
        mask = source.uniform(ring, self.ciphertexts)
        mask[..., self.places] = source.integers(ring, flood_bits, self.ciphertexts)[..., self.places]
        return protected(public_key, source, self.multiply(vector), mask)

    @property
    def places(self) -> slice:
        """The coefficients of each ciphertext that hold outputs."""
        group = self._packing.group
        return slice(group - 1, self._packing.block_rows * group, group)

    def outputs(self, coefficients: NDArray[Any]) -> NDArray[Any]:
        """Decrypted coefficients [ciphertexts, N] -> y, [m]."""
        return self._packing.products(coefficients, self._columns)[..., 0]


@dataclass(frozen=True, slots=True)
class VectorKey:
    """The key holder's half of an encrypted vector times a plaintext matrix: exact integers modulo 2^bits.

    Attributes:
        bits: the outputs must lie in [-2^(bits-1), 2^(bits-1)).
    """

    secret_key: SecretKey
    seed: PublicSeed
    bits: int

    def encrypt(self, vector: NDArray[np.int64], packing: MatrixPacking, first: int) -> Words:
        """Integers [d] -> what travels, [groups, k, N]; the receiver has the other half by `rlwe.expand`."""
        coefficients = packing.weights(vector.reshape(-1, 1)).astype(np.int64).view(np.uint64)
        messages = coefficients & np.uint64((1 << self.bits) - 1)
        return encrypt(self.secret_key, self.secret_key.ring.from_torus(messages, self.bits), self.seed, first)

    def decrypt(self, products: Words, matrix: PlainMatrix, least_margin_bits: float = 1.0) -> NDArray[np.int64]:
        """Encrypted products [ciphertexts, 2, k, N], coefficient form, also of fewer primes -> y, [m].

        Raises: BadInput: the noise came too near to the next message.
        """
        ring = self.secret_key.ring.lower(products.shape[-2])
        decoded = decode(ring, phase(self.secret_key, products), self.bits, matrix.places)
        places = np.zeros((len(products), ring.degree), np.int64)
        places[:, matrix.places] = signed(decoded.checked(least_margin_bits), self.bits)
        return matrix.outputs(places)

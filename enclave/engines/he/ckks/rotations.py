"""Products of plaintext matrices and encrypted slots with few rotations, and few keys for them.

A slot vector is a grid of `length` blocks of `width` slots, length * width = N / 2; rotations turn the blocks round. A
matrix that acts on blocks, M[o, j] for output o and block j (or M[o, j, w] if it differs from slot to slot), is Q
diagonals, where Q is the number of outputs rounded up to a power of two:

    sum_{d < Q} P_d * (x turned by d blocks),   P_d in slot (j, w) = M[j mod Q, j + d, w']

and then log2(length / Q) folds that add up the blocks of each class modulo Q, on a level less. Output o is in every
block j = o mod Q. When a vector of C elements lies in the slots again and again (S / C copies), rows are dealt out to
the copies, so that a product of R rows needs R C / S plaintext products and not R.

Baby steps and giant steps (by Horner's rule) share out the turns: 2 (sqrt(Q) - 1) rotations with two keys; the folds'
keys are powers of two, which layers share.

**Reference** Halevi, Shoup, "Algorithms in HElib", CRYPTO 2014, section 4.3 (diagonals, baby and giant steps);
Juvekar et al., "Gazelle", USENIX Security 2018, section 4.2 (fewer diagonals, then folds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.ckks.evaluator import Encrypted, Evaluator, Plain, galois_element
from enclave.engines.he.ckks.seal import Context
from enclave.engines.he.lattice.keys import PublicSeed, SecretKey
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.rlwe import encrypt, expand, phase
from enclave.engines.he.lattice.switching import SwitchKey, automorphism_key, relinearisation_key
from enclave.errors import BadSpec

__all__ = ["KeyHolder", "SlotMatrix", "power_of_two"]

Floats = NDArray[np.float64]


def power_of_two(count: int) -> int:
    """The smallest power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()


@dataclass(frozen=True, slots=True, repr=False)
class SlotMatrix:
    """A plaintext matrix as diagonals over all slots.

    Attributes:
        diagonals: [Q, S]. stride: slots of one turn. folds: rotations that finish the sums.
    """

    diagonals: Floats
    stride: int
    folds: tuple[int, ...]

    def __repr__(self) -> str:
        return f"SlotMatrix({len(self.diagonals)} diagonals, {len(self.rotations)} rotations)"

    @classmethod
    def of_blocks(cls, matrix: Floats, slots: int) -> SlotMatrix:
        """A matrix [outputs, blocks, width] on blocks; blocks * width = slots. Output o: every block o mod Q."""
        outputs, length, width = matrix.shape
        count = power_of_two(outputs)
        if length * width != slots or count > length:
            raise BadSpec(f"expected at most {length} outputs of {slots} slots, found a matrix {matrix.shape}")
        padded = np.zeros((count, length, width))
        padded[:outputs] = matrix
        block = np.arange(length)
        rows = [padded[block % count, (block + d) % length] for d in range(count)]
        folds = tuple(width * step for step in _doubling(count, length))
        return cls(np.stack(rows).reshape(count, slots), width, folds)

    @classmethod
    def of_copies(cls, matrix: Floats, slots: int) -> SlotMatrix:
        """A matrix [outputs, C] on a vector that lies in the slots S / C times. Output o: slot `slot_of(o)`."""
        outputs, columns = matrix.shape
        copies = slots // columns
        if copies * columns != slots or columns & (columns - 1):
            raise BadSpec(f"expected a power of two of columns, at most {slots}, found {columns}")
        count = power_of_two(-(-outputs // copies))
        if count > columns:
            raise BadSpec(f"expected at most {slots} outputs, found {outputs}")
        padded = np.zeros((copies * count, columns))
        padded[:outputs] = matrix
        slot = np.arange(slots)
        copy, column = slot // columns, slot % columns
        rows = [padded[copy * count + column % count, (column + d) % columns] for d in range(count)]
        return cls(np.stack(rows), 1, tuple(_doubling(count, columns)))

    @property
    def baby(self) -> int:
        """Turns of the vector itself, the smaller half: they are on the higher level."""
        return 1 << (len(self.diagonals).bit_length() - 1) // 2

    @property
    def giants(self) -> int:
        """Turns of sums."""
        return len(self.diagonals) // self.baby

    @property
    def rotations(self) -> tuple[int, ...]:
        """Steps that keys are needed for."""
        turns = [self.stride] * (self.baby > 1) + [self.stride * self.baby] * (self.giants > 1)
        return tuple(dict.fromkeys((*turns, *self.folds)))

    def encoded(self, evaluator: Evaluator, count: int, scale: float | None = None) -> list[list[Plain]]:
        """By giant and baby step, for ciphertexts of `count` primes.

        The vector of giant step G is turned back by its steps beforehand.

        Args:
            scale: None: the prime that a rescaled product drops, so that it keeps the scale.
        """
        scale = float(evaluator.context.primes[count - 1]) if scale is None else scale
        step = self.stride * self.baby
        return [
            [
                evaluator.encode(np.roll(self.diagonals[giant * self.baby + t], giant * step), count, scale)
                for t in range(self.baby)
            ]
            for giant in range(self.giants)
        ]

    def product(
        self, evaluator: Evaluator, plains: list[list[Plain]], x: Encrypted, *, rescaled: bool = True
    ) -> Encrypted:
        """The product, one level lower; or, not rescaled, at the product of both scales.

        Raises: BadInput (code `input.transparent`): a matrix of zeros.
        """
        babies = [x]
        while len(babies) < self.baby:
            babies.append(evaluator.rotate(babies[-1], self.stride))
        total: Encrypted | None = None
        for row in reversed(plains):
            turned = None if total is None else evaluator.rotate(total, self.stride * self.baby)
            inner = evaluator.dot(zip(babies, row, strict=True))
            fresh = evaluator.rescale(inner) if inner is not None and rescaled else inner
            total = turned if fresh is None else fresh if turned is None else evaluator.add(turned, fresh)
        if total is None:
            total = evaluator.multiply_plain(x, plains[0][0])  # of zeros: refused there
        for step in self.folds:
            total = evaluator.add(total, evaluator.rotate(total, step))
        return total


def _doubling(start: int, stop: int) -> Iterable[int]:
    """start, 2 start, ... below stop."""
    while start < stop:
        yield start
        start *= 2


class KeyHolder:
    """Who has the key of encrypted slots outside of a session: encrypts what is asked, decrypts what is answered."""

    def __init__(self, context: Context, secret_key: SecretKey, seed: PublicSeed) -> None:
        self._context, self._secret, self._seed, self._used = context, secret_key, seed, 0
        self._digits = 0  # uniform polynomials that keys have taken
        self._coder = Evaluator(context)

    def __repr__(self) -> str:
        return "KeyHolder(<redacted>)"

    def encrypt(self, values: Floats, scale: float) -> Encrypted:
        """Slots under all primes; on the wire it is half of that and a number."""
        count = len(self._context.primes)
        ring, first = self._context.ring(count), self._used
        self._used += 1
        phases = self._context.residues(self._coder.encode(values, count, scale).raw)
        b = encrypt(self._secret, ring.intt(phases), self._seed, first)
        return self._coder.encrypted(ring.ntt(expand(ring, b, self._seed, first)), scale)

    def decrypt(self, x: Encrypted) -> Floats:
        """All slots. Safety: they must not be shown to who made the ciphertext, and hold what its maker left there."""
        ring = self._context.ring(x.count)
        return self._coder.decode(ring.ntt(phase(self._secret, ring.intt(x.residues))), x.scale)

    def evaluator(self, rotations: Iterable[int]) -> Evaluator:
        """An evaluator with the keys for products and these rotations: what the other side holds."""
        secret, seed, degree = self._secret, self._seed, self._context.degree
        relin = self._key(partial(relinearisation_key, secret, seed))
        galois = {}
        for steps in sorted(set(rotations)):
            element = galois_element(degree, steps)
            galois[element] = self._key(partial(automorphism_key, secret, element, seed))
        return Evaluator(self._context, relin, galois)

    def _key(self, made: Callable[[int], Words]) -> Words:
        first = self._digits
        self._digits += len(self._context.primes)
        return SwitchKey(self._context.key_ring, made(first), self._seed, first).pairs

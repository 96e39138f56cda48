"""Basic operations of CKKS by this project: SEAL's evaluator through the bridge, and encryption of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.he.inputs import Arrays
from benchmarks.measurement import versions
from benchmarks.peers.serving import clocked
from enclave.engines.he.ckks.evaluator import Encrypted, Plain
from enclave.engines.he.ckks.rotations import KeyHolder
from enclave.engines.he.ckks.seal import Context
from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import checked, primes_of
from enclave.engines.he.lattice.ring import Words
from enclave.engines.he.lattice.sampling import Source

__all__ = ["Operation"]

_LEAST_S = 0.1  # CPU time that an operation is repeated for
_USES = 1 << 40  # of a key
_SCALE = 2.0**40


class Operation:
    """One operation again and again."""

    def __init__(self, name: str, degree: int, inputs: Arrays) -> None:
        self.versions = versions()
        *data, special = primes_of(degree, [int(bits) for bits in inputs["bits"]])
        context = self._context = Context(checked("ckks", degree, tuple(data), special))
        count = len(data)
        self._ring, self._count = context.ring(count), count
        seed = PublicSeed.derived(b"benchmark")
        self._secret = SecretKey(context.key_ring, Source.fresh(), _USES)
        # Two holders of one key would use a uniform polynomial twice: this one has a seed of its own.
        self._holder = KeyHolder(context, self._secret, PublicSeed.derived(b"operands"))
        self._evaluator = evaluator = self._holder.evaluator([1])
        public, source = PublicKey.generate(self._secret, self._ring, seed), Source.fresh()
        values = inputs["x"]
        plain, other = (evaluator.encode(inputs[name], count, _SCALE) for name in ("x", "y"))
        phase = context.residues(plain.raw)
        coefficients = self._ring.intt(phase)
        x, y = (self._holder.encrypt(inputs[name], _SCALE) for name in ("x", "y"))
        product, answer = evaluator.multiply(x, y), self._ring.intt(x.residues)
        self._used = 0

        def encrypt_secret() -> Words:
            self._used += 1
            b = rlwe.encrypt(self._secret, coefficients, seed, self._used)
            return self._ring.ntt(rlwe.expand(self._ring, b, seed, self._used))

        works: dict[str, Callable[[], Any]] = {
            "encode": lambda: evaluator.encode(values, count, _SCALE),
            "encrypt": lambda: self._encrypted(public, source, phase),
            "encrypt-secret": encrypt_secret,
            "decrypt": lambda: self._decrypted(answer),
            "add": lambda: evaluator.add(x, y),
            "multiply-plain": lambda: evaluator.multiply_plain(x, other),
            "multiply": lambda: evaluator.multiply(x, y),
            "rotate": lambda: evaluator.rotate(x, 1),
            "rescale": lambda: evaluator.rescale(product),
        }
        self._work = works[name]
        self._found: Any = None

    def _encrypted(self, public: PublicKey, source: Source, phase: Words) -> Words:
        """Under the public key, in evaluation form, as SEAL has its ciphertexts."""
        products, errors = rlwe.zero_parts(public, source)
        found = self._ring.add(products, self._ring.ntt(errors))
        found[0] = self._ring.add(found[0], phase)
        return found

    def _decrypted(self, ciphertext: Words) -> Any:
        """A ciphertext in coefficient form, as it arrives, to numbers."""
        phase = rlwe.phase(self._secret, ciphertext)
        return self._evaluator.decode(self._ring.ntt(phase), _SCALE)

    def run(self) -> dict[str, Any]:
        self._found, times = clocked(self._work, _LEAST_S)
        return times

    def outputs(self) -> dict[str, Any]:
        found = self._found
        if isinstance(found, Encrypted):
            return {"y": self._holder.decrypt(found)}
        if isinstance(found, Plain):
            return {"y": self._evaluator.decode(self._context.residues(found.raw), _SCALE)}
        array = np.asarray(found)
        return {"y": self._decrypted(self._ring.intt(array)) if array.dtype == np.uint64 else array}

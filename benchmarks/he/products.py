"""Encrypted vectors and images against plaintext matrices and networks, by this project."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.he.inputs import Arrays
from benchmarks.measurement import versions
from benchmarks.peers.serving import clocked
from enclave.engines.he.ckks.convolution import SCALE, EncodedNetwork, ImageNetwork, image_parameters
from enclave.engines.he.ckks.rotations import KeyHolder
from enclave.engines.he.ckks.seal import Context
from enclave.engines.he.lattice import rlwe
from enclave.engines.he.lattice.keys import PublicKey, PublicSeed, SecretKey
from enclave.engines.he.lattice.parameters import checked
from enclave.engines.he.lattice.products import HIDING_BITS, flood_hiding_bits, noise_bits, protected
from enclave.engines.he.lattice.ring import Words, ntt_primes
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import packed_words
from enclave.engines.he.linear.matvec import PlainMatrix, VectorKey

__all__ = ["Matvec", "Tutorial", "network_of"]

_DEGREE, _PRIMES, _PRIME_BITS = 8192, 3, 50
_FRAC_BITS = 20  # of both factors
_DECRYPTIONS = 1 << 20


class Matvec:
    """An encrypted vector times a plaintext matrix: exact integers, flooded, switched to two primes."""

    def __init__(self, inputs: Arrays) -> None:
        self.versions = versions()
        self._vector, self._matrix = (np.rint(inputs[n] * 2.0**_FRAC_BITS).astype(np.int64) for n in ("x", "w"))
        self._ring = checked("bfv", _DEGREE, ntt_primes(_DEGREE, _PRIME_BITS, _PRIMES)).ring()
        self._seed = PublicSeed.derived(b"benchmark")
        secret = SecretKey(self._ring, Source.fresh(), _DECRYPTIONS)
        self._public, self._source = PublicKey.generate(secret, self._ring, self._seed), Source.fresh()
        inputs_count = len(self._vector)
        most = int(np.abs(self._matrix).max()) + 1
        bits = 2 + (inputs_count * most * (int(np.abs(self._vector).max()) + 1)).bit_length()
        self._key = VectorKey(secret, self._seed, bits)
        noise = noise_bits(inputs_count, most, _DEGREE)
        self._flood_bits = next(b for b in range(200) if flood_hiding_bits(b, noise, _DEGREE) >= HIDING_BITS)
        self._sent = self._key.encrypt(self._vector, PlainMatrix(self._ring, self._matrix).packing, 0)
        self._found: Words = np.zeros(0, np.uint64)

    def run(self) -> dict[str, Any]:
        matrix = PlainMatrix(self._ring, self._matrix)
        _, product = clocked(lambda: self._answer(matrix))
        self._found, times = clocked(lambda: self._answer(PlainMatrix(self._ring, self._matrix)))
        primes = self._ring.primes
        return {
            **times,
            "received_bytes": 8 * packed_words(primes, self._sent.shape),
            "sent_bytes": 8 * packed_words(primes[: self._found.shape[-2]], self._found.shape),
            "figures": {"product_s": product["cpu_s"][0]},
        }

    def _answer(self, matrix: PlainMatrix) -> Words:
        """All that who has the matrix does with what arrived."""
        vector = self._ring.ntt(rlwe.expand(self._ring, self._sent, self._seed, 0))
        flood = self._source.integers(self._ring, self._flood_bits, matrix.ciphertexts)
        return self._ring.drop(protected(self._public, self._source, matrix.multiply(vector), flood), 1)

    def outputs(self) -> dict[str, Any]:
        found = self._key.decrypt(self._found, PlainMatrix(self._ring, self._matrix))
        return {"y": found * 2.0 ** (-2 * _FRAC_BITS)}


def network_of(inputs: Arrays) -> ImageNetwork:
    """The tutorial's network."""
    return ImageNetwork(
        (28, 28),
        3,
        inputs["kernel"],
        inputs["kernel_bias"],
        inputs["first"],
        inputs["first_bias"],
        inputs["second"],
        inputs["second_bias"],
    )


class Tutorial:
    """The packed network: the image in one ciphertext, the model encoded once."""

    def __init__(self, inputs: Arrays) -> None:
        self.versions = versions()
        self._images = inputs["images"]
        context = Context(image_parameters())
        secret = SecretKey(context.key_ring, Source.fresh(), _DECRYPTIONS)
        self._holder = KeyHolder(context, secret, PublicSeed.derived(b"benchmark"))
        self._network = EncodedNetwork(network_of(inputs), context.slots)
        self._evaluator = self._holder.evaluator(self._network.rotations)
        self._context, self._done = context, 0
        self._scores = np.full((len(self._images), len(inputs["second_bias"])), np.nan)

    def run(self) -> dict[str, Any]:
        index = self._done % len(self._images)
        self._done += 1
        image = self._holder.encrypt(self._network.slots_of(self._images[index]), SCALE)
        plains, encoding = clocked(lambda: self._network.encode(self._evaluator))
        found, times = clocked(lambda: self._network.forward(self._evaluator, plains, image))
        self._scores[index] = self._network.outputs_of(self._holder.decrypt(found))
        primes, degree = self._context.primes, self._context.degree
        return {
            **times,
            "received_bytes": 8 * packed_words(primes, (len(primes), degree)),
            "sent_bytes": 8 * packed_words(primes[: found.count], (2, found.count, degree)),
            "figures": {"encode_s": encoding["cpu_s"][0]},
        }

    def outputs(self) -> dict[str, Any]:
        return {"y": self._scores}

"""Stock TenSEAL 0.3.18: its high-level API with the parameters of its tutorials, one thread; for the suite `he`.

Operations are those of `tenseal.sealapi`, SEAL as TenSEAL ships it: the high-level API joins several into one.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tenseal as ts
import tenseal.sealapi as seal

from benchmarks.peers.serving import System, clocked, serve

__all__ = ["main"]

_LEAST_S = 0.1  # CPU time that a basic operation is repeated for
_SCALE_BITS = 40
_ROTATION = 3  # the Galois element of a rotation by one
_VERSIONS = {"tenseal": importlib.metadata.version("tenseal")}


class _Matvec:
    """An encrypted vector `mm` a plaintext matrix; N, primes and scale of the tutorials."""

    versions = _VERSIONS

    def __init__(self, inputs: dict[str, Any]) -> None:
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, _SCALE_BITS, _SCALE_BITS, 60], n_threads=1
        )
        self._context.global_scale = 2**_SCALE_BITS
        self._context.generate_galois_keys()
        self._vector = ts.ckks_vector(self._context, inputs["x"].tolist())
        self._matrix = inputs["w"].tolist()
        self._found: Any = None

    def run(self) -> dict[str, Any]:
        self._found, times = clocked(lambda: self._vector.mm(self._matrix))
        sizes = {"received_bytes": len(self._vector.serialize()), "sent_bytes": len(self._found.serialize())}
        return {**times, **sizes}

    def outputs(self) -> dict[str, Any]:
        return {"y": np.array(self._found.decrypt())}


class _Tutorial:
    """The network of the tutorial on encrypted images, as the tutorial computes it."""

    versions = _VERSIONS

    def __init__(self, inputs: dict[str, Any]) -> None:
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[31, 26, 26, 26, 26, 26, 26, 31], n_threads=1
        )
        self._context.global_scale = 2**26
        self._context.generate_galois_keys()
        self._images = inputs["images"].tolist()
        self._kernel = inputs["kernel"].tolist()
        self._layers = {name: value.tolist() for name, value in inputs.items() if name not in ("images", "kernel")}
        self._done = 0
        self._scores = np.full((len(self._images), len(self._layers["second_bias"])), np.nan)

    def run(self) -> dict[str, Any]:
        index = self._done % len(self._images)
        self._done += 1
        image, windows = ts.im2col_encoding(self._context, self._images[index], 7, 7, 3)
        found, times = clocked(lambda: self._forward(image, windows))
        self._scores[index] = found.decrypt()
        return {**times, "received_bytes": len(image.serialize()), "sent_bytes": len(found.serialize())}

    def _forward(self, image: Any, windows: int) -> Any:
        biases = self._layers["kernel_bias"]
        channels = [image.conv2d_im2col(k, windows) + b for k, b in zip(self._kernel, biases, strict=True)]
        x = ts.CKKSVector.pack_vectors(channels)
        x.square_()
        x = x.mm(self._layers["first"]) + self._layers["first_bias"]
        x.square_()
        return x.mm(self._layers["second"]) + self._layers["second_bias"]

    def outputs(self) -> dict[str, Any]:
        return {"y": self._scores}


class _Operation:
    """One operation again and again."""

    versions = _VERSIONS

    def __init__(self, name: str, degree: int, inputs: dict[str, Any]) -> None:
        literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        literal.set_poly_modulus_degree(degree)
        literal.set_coeff_modulus(seal.CoeffModulus.Create(degree, [int(bits) for bits in inputs["bits"]]))
        context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
        keys = seal.KeyGenerator(context)
        public, relin, galois = seal.PublicKey(), seal.RelinKeys(), seal.GaloisKeys()
        keys.create_public_key(public)
        keys.create_relin_keys(relin)
        keys.create_galois_keys([_ROTATION], galois)
        secret = keys.secret_key()
        self._encoder, evaluator = seal.CKKSEncoder(context), seal.Evaluator(context)
        encryptor, self._decryptor = seal.Encryptor(context, public, secret), seal.Decryptor(context, secret)
        values, scale = inputs["x"].tolist(), 2.0**_SCALE_BITS
        self._plain, other = seal.Plaintext(), seal.Plaintext()
        self._encoder.encode(values, scale, self._plain)
        self._encoder.encode(inputs["y"].tolist(), scale, other)
        x, y, product = seal.Ciphertext(), seal.Ciphertext(), seal.Ciphertext()
        encryptor.encrypt(self._plain, x)
        encryptor.encrypt(other, y)
        evaluator.multiply(x, y, product)
        evaluator.relinearize_inplace(product, relin)
        self._found: Any = seal.Ciphertext()
        self._x = x

        def multiply() -> None:
            evaluator.multiply(x, y, self._found)
            evaluator.relinearize_inplace(self._found, relin)

        works: dict[str, Callable[[], Any]] = {
            "encode": partial(self._encode, values, scale),
            "encrypt": lambda: encryptor.encrypt(self._plain, self._found),
            "encrypt-secret": lambda: encryptor.encrypt_symmetric(self._plain, self._found),
            "decrypt": self._decrypt,
            "add": lambda: evaluator.add(x, y, self._found),
            "multiply-plain": lambda: evaluator.multiply_plain(x, other, self._found),
            "multiply": multiply,
            "rotate": lambda: evaluator.rotate_vector(x, 1, galois, self._found),
            "rescale": lambda: evaluator.rescale_to_next(product, self._found),
        }
        self._work = works[name]
        self._kept = (context, public, relin, galois, secret, evaluator, encryptor, y, product, other)

    def run(self) -> dict[str, Any]:
        return clocked(self._work, _LEAST_S)[1]

    def outputs(self) -> dict[str, Any]:
        self._work()
        if isinstance(self._found, seal.Ciphertext):
            plain = seal.Plaintext()
            self._decryptor.decrypt(self._found, plain)
            return {"y": np.array(self._encoder.decode_double(plain))}
        if isinstance(self._found, seal.Plaintext):
            return {"y": np.array(self._encoder.decode_double(self._found))}
        return {"y": np.array(self._found)}

    def _encode(self, values: list[float], scale: float) -> None:
        self._found = seal.Plaintext()
        self._encoder.encode(values, scale, self._found)

    def _decrypt(self) -> None:
        plain = seal.Plaintext()
        self._decryptor.decrypt(self._x, plain)
        self._found = self._encoder.decode_double(plain)


def _make(task: dict[str, Any]) -> System:
    with np.load(task["inputs"]) as file:
        inputs = {name: file[name] for name in file.files}
    if task["kind"] == "matvec":
        return _Matvec(inputs)
    if task["kind"] == "cnn":
        return _Tutorial(inputs)
    if task["kind"] == "operation":
        return _Operation(task["name"], task["parameters"]["n"], inputs)
    raise LookupError(f"TenSEAL has no {task['kind']}")


def main(argument: str) -> int:
    """The worker: see `benchmarks.peers.serving`."""
    return serve(argument, _make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

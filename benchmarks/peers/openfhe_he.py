"""Stock OpenFHE through its Python wheel, one thread, for the suite `he`.

CKKS with the prime sizes of the others: fixed manual rescaling, hybrid key switching with one digit a prime and one
special prime, as SEAL has it, and 128 bits of security by the standard's table.
"""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import openfhe  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.peers.serving import System, clocked, serve

__all__ = ["main"]

_LEAST_S = 0.1  # CPU time that a basic operation is repeated for
_VERSIONS = {"openfhe": importlib.metadata.version("openfhe")}
_MATVEC_BITS = (50, 40, 40, 60)


def _context(degree: int, bits: tuple[int, ...]) -> Any:
    """Args: bits: of the data primes, the first one first, then of the special prime."""
    literal = openfhe.CCParamsCKKSRNS()
    literal.SetRingDim(degree)
    literal.SetBatchSize(degree // 2)
    literal.SetFirstModSize(bits[0])
    literal.SetScalingModSize(bits[1])
    literal.SetMultiplicativeDepth(len(bits) - 2)
    literal.SetScalingTechnique(openfhe.ScalingTechnique.FIXEDMANUAL)
    literal.SetKeySwitchTechnique(openfhe.KeySwitchTechnique.HYBRID)
    literal.SetNumLargeDigits(len(bits) - 1)
    literal.SetSecurityLevel(openfhe.SecurityLevel.HEStd_128_classic)
    context = openfhe.GenCryptoContext(literal)
    for feature in ("PKE", "KEYSWITCH", "LEVELEDSHE"):
        context.Enable(getattr(openfhe.PKESchemeFeature, feature))
    if context.GetRingDimension() != degree:
        raise LookupError(f"OpenFHE has no ring of degree {degree} for {bits}")
    return context


class _Matvec:
    """The matrix by its diagonals: x and each diagonal repeat with a period that is a power of two.

    With D the inputs and M the outputs rounded up to powers of two, diagonal i holds at j the weight of input
    (j + i) mod D for output j mod M; products with x turned by i add up to partial sums, which log2(D / M) turns fold.
    """

    versions = _VERSIONS

    def __init__(self, inputs: dict[str, Any]) -> None:
        weights = inputs["w"]
        self._outputs = weights.shape[1]
        self._period = 1 << (max(weights.shape) - 1).bit_length()
        self._count = 1 << (self._outputs - 1).bit_length()
        self._baby = 1 << math.ceil(math.log2(self._count) / 2)
        degree = 8192
        if self._period > degree // 2:
            raise LookupError(f"{self._period} slots do not fit into {degree // 2}")
        self._context = _context(degree, _MATVEC_BITS)
        self._keys, self._turns = self._context.KeyGen(), 2 * degree
        giants = [g * self._baby for g in range(1, self._count // self._baby)]
        self._folds = [self._count << i for i in range((self._period // self._count).bit_length() - 1)]
        steps = sorted({*range(1, self._baby), *giants, *self._folds})
        self._context.EvalRotateKeyGen(self._keys.secretKey, steps)
        self._diagonals = self._slots(weights, degree // 2)
        x = np.zeros(self._period)
        x[: len(weights)] = inputs["x"]
        tiled = np.tile(x, degree // 2 // self._period)
        plain = self._context.MakeCKKSPackedPlaintext(tiled.tolist())
        self._vector = self._context.Encrypt(self._keys.publicKey, plain)
        self._found: Any = None

    def _slots(self, weights: Any, slots: int) -> list[list[float]]:
        """Diagonals, turned back by their giant step."""
        padded = np.zeros((self._period, self._count))
        padded[: weights.shape[0], : weights.shape[1]] = weights
        j = np.arange(self._period)
        found = []
        for i in range(self._count):
            diagonal = np.tile(padded[(j + i) % self._period, j % self._count], slots // self._period)
            found.append(np.roll(diagonal, i // self._baby * self._baby).tolist())
        return found

    def run(self) -> dict[str, Any]:
        plains, encoding = clocked(self._encoded)
        self._found, product = clocked(lambda: self._product(plains))
        return {
            "cpu_s": [encoding["cpu_s"][0] + product["cpu_s"][0]],
            "wall_s": encoding["wall_s"] + product["wall_s"],
            "figures": {"product_s": product["cpu_s"][0]},
        }

    def _encoded(self) -> list[Any]:
        return [self._context.MakeCKKSPackedPlaintext(diagonal) for diagonal in self._diagonals]

    def _product(self, plains: list[Any]) -> Any:
        context, digits = self._context, self._context.EvalFastRotationPrecompute(self._vector)
        babies = [self._vector]
        babies += [context.EvalFastRotation(self._vector, b, self._turns, digits) for b in range(1, self._baby)]
        total: Any = None
        for start in range(0, self._count, self._baby):
            inner = context.EvalMult(babies[0], plains[start])
            for b in range(1, self._baby):
                inner = context.EvalAdd(inner, context.EvalMult(babies[b], plains[start + b]))
            turned = context.EvalRotate(inner, start) if start else inner
            total = turned if total is None else context.EvalAdd(total, turned)
        total = context.Rescale(total)
        for step in self._folds:
            total = context.EvalAdd(total, context.EvalRotate(total, step))
        return total

    def outputs(self) -> dict[str, Any]:
        plain = self._context.Decrypt(self._found, self._keys.secretKey)
        return {"y": np.array(plain.GetRealPackedValue()[: self._outputs])}


class _Operation:
    """One operation again and again."""

    versions = _VERSIONS

    def __init__(self, name: str, degree: int, inputs: dict[str, Any]) -> None:
        context = self._context = _context(degree, tuple(int(bits) for bits in inputs["bits"]))
        keys = self._keys = context.KeyGen()
        context.EvalMultKeyGen(keys.secretKey)
        context.EvalRotateKeyGen(keys.secretKey, [1])
        values = inputs["x"].tolist()
        plain, other = (context.MakeCKKSPackedPlaintext(v) for v in (values, inputs["y"].tolist()))
        x, y = context.Encrypt(keys.publicKey, plain), context.Encrypt(keys.publicKey, other)
        product = context.EvalMult(x, y)
        works: dict[str, Callable[[], Any]] = {
            "encode": lambda: context.MakeCKKSPackedPlaintext(values),
            "encrypt": lambda: context.Encrypt(keys.publicKey, plain),
            "encrypt-secret": lambda: context.Encrypt(keys.secretKey, plain),
            "decrypt": lambda: context.Decrypt(x, keys.secretKey),
            "add": lambda: context.EvalAdd(x, y),
            "multiply-plain": lambda: context.EvalMult(x, other),
            "multiply": lambda: context.EvalMult(x, y),
            "rotate": lambda: context.EvalRotate(x, 1),
            "rescale": lambda: context.Rescale(product),
        }
        self._work = works[name]
        self._found: Any = None

    def run(self) -> dict[str, Any]:
        self._found, times = clocked(self._work, _LEAST_S)
        return times

    def outputs(self) -> dict[str, Any]:
        found = self._found
        if not isinstance(found, openfhe.Plaintext):
            found = self._context.Decrypt(found, self._keys.secretKey)
        return {"y": np.array(found.GetRealPackedValue())}


def _make(task: dict[str, Any]) -> System:
    with np.load(task["inputs"]) as file:
        inputs = {name: file[name] for name in file.files}
    if task["kind"] == "matvec":
        return _Matvec(inputs)
    if task["kind"] == "operation":
        return _Operation(task["name"], task["parameters"]["n"], inputs)
    raise LookupError(f"OpenFHE has no {task['kind']}")


def main(argument: str) -> int:
    """The worker: see `benchmarks.peers.serving`."""
    return serve(argument, _make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

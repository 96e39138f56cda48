"""The cases of the suite `he`: names, what they measure, and what each system has to do.

| case | parameters | what is measured |
|---|---|---|
| matvec/DxM | | an encrypted vector (D) times a plaintext matrix (D, M) |
| cnn/tutorial | | TenSEAL's tutorial network (convolution 7x7 stride 3, square, 64, square, 10) on an encrypted image |
| scoring | n, d | scores of an owner's n rows of d columns under an encrypted linear model, flooded, row by row |
| rmse | n, d | the job: root mean squared error of a linear model over n rows of d columns |
| hybrid | n, d | the same product as scoring, into shares modulo 2^64; against masking the rows |
| train/NAME | epochs, 5 | the job: logistic regression of `breast-cancer` or `adult` by encrypted gradient descent |
| operation/OP | n | one operation of CKKS at ring degree n: encode, encrypt, ... (`OPERATIONS`) |

**Time** is CPU time of all threads of the process, and of all parties where a case has several: on a machine whose
cores are shared it says what the wall clock cannot. Figures ending in `_s` are CPU times too, but for `wall_s`. Every
system has one thread. The first repetition is a warm-up and not timed, but for trainings, which start cold.

**matvec** Inputs are U[-1, 1]. N = 8192 for all. Stock has the parameters of TenSEAL's tutorials, data primes of 60,
40, 40 bits and a special one of 60; OpenFHE 50, 40, 40 and 60, because beside a first prime of 60 bits its latest
release takes two special ones, and refuses that ring; ours three of 50 bits. All have 128 bits of security by the same
table. The clock is for the work of who has the matrix, its encoding included. `product_s`: with the matrix encoded
before, where a library can. Ours also expands the seed-compressed vector, floods the result (40 bits) and switches it
to two primes. OpenFHE has no such product: it is written with its rotations as the method of diagonals with baby and
giant steps.

**cnn** Stock has the tutorial's parameters: 31, 26 six times, 31 bits, N = 8192. Stock encodes the model each time;
ours does once, in `encode_s`. `equal`: the part of images whose argmax is that of float64.

**scoring** The clock is the owner's and the buyer's work of one session whose rows were encoded before. `rows_per_s`:
of the owner, from the arrival of the encrypted weights to finished answers, so with their expansion, `expansion_s`.
`encoding_rows_per_s`: the same with rows that are not encoded yet. `up_bytes`: keys and weights; `row_bytes`: of the
answer. `equal`: the part of rows whose decision (score above 0) is that of float64.

**hybrid** `bytes`, `masked_bytes`: of all links, by the plans of both. `wrong_shares`: sums of shares that are off by
more than half a unit of 2^-20; `share_error`: the largest error, in that unit.

**operation** The same prime sizes for all, `PRIME_BITS`, the last one special. Ours: SEAL through our bridge, but for
our own encryption and decryption. `tenseal`: SEAL as TenSEAL's `sealapi` gives it. encrypt takes an encoded plaintext
and the public key, encrypt-secret the secret key; decrypt gives numbers, so it decodes; multiply relinearises, and does
not rescale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LISTED", "OPERATIONS", "PRIME_BITS", "TRAININGS", "Case", "systems_of"]

OPERATIONS = (
    "encode",
    "encrypt",
    "encrypt-secret",
    "decrypt",
    "add",
    "multiply-plain",
    "multiply",
    "rotate",
    "rescale",
)
PRIME_BITS: Mapping[int, tuple[int, ...]] = {8192: (50, 40, 40, 60), 16384: (50, 40, 40, 40, 40, 40, 60)}
TRAININGS = ("breast-cancer", "adult")
_SIZES = re.compile(r"([1-9][0-9]*)x([1-9][0-9]*)")
_MATVEC_ELEMENTS = 1 << 24
_NUMBERS = {"scoring": ("n", "d"), "rmse": ("n", "d"), "hybrid": ("n", "d"), "operation": ("n",), "train": ("epochs",)}
_DEFAULTS = {"train": {"epochs": 5}}
_SYSTEMS = {
    "matvec": ("enclave", "tenseal", "openfhe", "plain"),
    "cnn": ("enclave", "tenseal", "plain"),
    "operation": ("enclave", "tenseal", "openfhe"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A parsed name. `name`: what stands between kind and parameters, empty for most."""

    kind: str
    name: str = ""
    parameters: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Case:
        """Raises ValueError saying what is wrong."""
        kind, *parts = text.split("/")
        if kind == "matvec" and len(parts) == 1:
            return cls(kind, parts[0], _sizes(parts[0], text))
        if kind == "cnn" and parts == ["tutorial"]:
            return cls(kind, parts[0])
        named = {"operation": OPERATIONS, "train": TRAININGS}
        name = ""
        if kind in named:
            name = parts.pop(0) if parts else ""
            if name not in named[kind]:
                raise ValueError(f"expected {kind}/ and one of {', '.join(named[kind])}, found {text!r}")
        elif kind not in _NUMBERS:
            raise ValueError(f"expected a case of matvec, cnn/tutorial, {', '.join(_NUMBERS)}, found {text!r}")
        values = {**_DEFAULTS.get(kind, {}), **_values(kind, parts, text)}
        missing = [key for key in _NUMBERS[kind] if key not in values]
        if missing:
            raise ValueError(f"{kind} needs {missing[0]}=NUMBER: found {text!r}")
        if kind == "operation" and values["n"] not in PRIME_BITS:
            raise ValueError(f"expected n of {', '.join(map(str, PRIME_BITS))}, found {text!r}")
        return cls(kind, name, {key: values[key] for key in _NUMBERS[kind]})

    def __str__(self) -> str:
        numbers = [] if self.kind == "matvec" else [f"{key}={value}" for key, value in self.parameters.items()]
        if self.parameters == _DEFAULTS.get(self.kind):
            numbers = []
        return "/".join(part for part in (self.kind, self.name, *numbers) if part)


def systems_of(case: Case) -> tuple[str, ...]:
    """The systems that have such an operation."""
    return _SYSTEMS.get(case.kind, ("enclave", "plain"))


def _sizes(name: str, text: str) -> Mapping[str, int]:
    found = _SIZES.fullmatch(name)
    if found is None or int(found[1]) * int(found[2]) > _MATVEC_ELEMENTS or int(found[1]) > 4096:
        raise ValueError(f"expected matvec/DxM with at most 4096 inputs, found {text!r}")
    return {"d": int(found[1]), "m": int(found[2])}


def _values(kind: str, parts: list[str], text: str) -> dict[str, int]:
    values: dict[str, int] = {}
    for part in parts:
        key, sign, value = part.partition("=")
        if not (sign and key in _NUMBERS[kind] and key not in values and value.isdecimal() and int(value) > 0):
            raise ValueError(f"{kind} takes {', '.join(_NUMBERS[kind])}: found {part!r} in {text!r}")
        values[key] = int(value)
    return values


LISTED = (
    "matvec/784x10",
    "matvec/256x64",
    "cnn/tutorial",
    "scoring/n=100000/d=30",
    "scoring/n=100000/d=784",
    "rmse/n=100000/d=30",
    "hybrid/n=100000/d=200",
    *(f"train/{name}" for name in TRAININGS),
    *(f"operation/{name}/n={degree}" for degree in PRIME_BITS for name in OPERATIONS),
)

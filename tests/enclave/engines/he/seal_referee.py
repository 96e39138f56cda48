"""SEAL as referee: our arrays in its objects, decrypted, measured and evaluated by its own code.

Written apart from `enclave.engines.he.ckks.seal`, which is checked by it.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from enclave.engines.he.lattice.keys import SecretKey
from enclave.engines.he.lattice.parameters import Parameters, primes_of
from enclave.engines.he.lattice.ring import Ring
from enclave.engines.he.lattice.sampling import Source


def _framed(body: bytes) -> bytes:
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body


def _array(x: np.ndarray) -> bytes:
    return _framed(struct.pack("<Q", x.size) + np.ascontiguousarray(x).tobytes())


class Referee:
    """BFV with plaintext modulus t at SEAL, with our secret key.

    Args:
        t: at most 60 bits; a power of two, or any.
    """

    def __init__(self, parameters: Parameters, key: SecretKey, t: int) -> None:
        # SEAL keeps the last prime for keys alone: where we have none, `key` has one more, which is no part of the
        # ciphertexts, and SEAL is not asked about security
        level = seal.SEC_LEVEL_TYPE.NONE if parameters.special is None else seal.SEC_LEVEL_TYPE.TC128
        literal = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        literal.set_poly_modulus_degree(parameters.degree)
        literal.set_coeff_modulus([seal.Modulus(prime) for prime in key.ring.primes])
        literal.set_plain_modulus(seal.Modulus(t))
        self.context = seal.SEALContext(literal, True, level)
        assert self.context.parameters_set(), self.context.parameters_error_message()
        self.degree, self.t = parameters.degree, t
        ids, data = {}, self.context.first_context_data()
        while data is not None:
            ids[len(data.parms().coeff_modulus())] = list(data.parms_id())
            data = data.next_context_data()
        self.ids = ids
        self.evaluator = seal.Evaluator(self.context)
        secret = key.reveal(key.ring)
        head = struct.pack("<4Q", *self.context.key_parms_id()) + struct.pack("<Qd", secret.size, 1.0)
        self.secret = self._loaded(seal.SecretKey(), _framed(head + _array(secret)))
        self.decryptor = seal.Decryptor(self.context, self.secret)

    def _loaded(self, target: Any, data: bytes) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "object")
            path.write_bytes(data)
            target.load(self.context, str(path))
        return target

    def ciphertext(self, x: np.ndarray) -> Any:
        """A ciphertext [2 or 3, k, N], coefficient form."""
        return self._loaded(seal.Ciphertext(), self._body(x, self.ids[x.shape[1]], 0))

    def _body(self, x: np.ndarray, name: list[int], evaluation: int) -> bytes:
        head = struct.pack("<4QBQQQdQ", *name, evaluation, x.shape[0], self.degree, x.shape[1], 1.0, 1)
        return _framed(head + _array(x))

    def decrypt(self, ciphertext: Any) -> np.ndarray:
        """Messages modulo t, [N]."""
        plain = seal.Plaintext()
        self.decryptor.decrypt(ciphertext, plain)
        out = np.zeros(self.degree, np.uint64)
        count = plain.coeff_count()
        out[:count] = [plain[i] for i in range(count)]
        return out

    def budget(self, ciphertext: Any) -> int:
        """Whole bits of room that the noise leaves."""
        return int(self.decryptor.invariant_noise_budget(ciphertext))

    def switch_keys(self, target: Any, keys: Mapping[int, np.ndarray]) -> Any:
        """RelinKeys (index 0) or GaloisKeys (index (exponent - 1) / 2) of our pairs [digits, 2, k + 1, N]."""
        name = list(self.context.key_parms_id())
        body = struct.pack("<4QQ", *name, max(keys) + 1)
        for index in range(max(keys) + 1):
            pairs = keys.get(index, ())
            body += struct.pack("<Q", len(pairs)) + b"".join(self._body(pair, name, 1) for pair in pairs)
        return self._loaded(target, _framed(body))


def key_for(parameters: Parameters, cap: int = 10_000) -> SecretKey:
    """A fresh key that the referee can take: with a prime more where the parameters have no special one."""
    if parameters.special is not None:
        return SecretKey(parameters.key_ring(), Source.fresh(), cap)
    extra = next(prime for prime in primes_of(parameters.degree, (45,) * 4) if prime not in parameters.primes)
    return SecretKey(Ring(parameters.degree, (*parameters.primes, extra)), Source.fresh(), cap)


def noise_bits(ring: Ring, t: int, budget: int) -> float:
    """log2 of the noise that leaves `budget` bits: t |noise| = q / 2^(budget + 1), to within a bit."""
    return float(ring.modulus.bit_length() - budget - 1 - np.log2(t))

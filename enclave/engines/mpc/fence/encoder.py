"""Fixed point for CrypTen: stands for `crypten.encoder`.

Stock truncates instead of rounding, loses the fraction of numpy arrays, and lets values wrap silently.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import decode, encode
from enclave.errors import BadData, RangeExceeded, Unsupported

__all__ = ["FixedPointEncoder", "nearest_integer_division", "plain_array"]

_LIMIT_BITS = 62


class FixedPointEncoder:
    """Turns numbers into ring elements and back.

    Args:
        precision_bits: fractional bits; None: those of the session.
    """

    def __init__(self, precision_bits: int | None = None) -> None:
        self._precision_bits = current().frac_bits if precision_bits is None else int(precision_bits)
        if not 0 <= self._precision_bits < _LIMIT_BITS:
            raise Unsupported(f"precision {precision_bits}", "fractional bits are 0 to 61")

    @property
    def scale(self) -> int:
        """2^precision_bits."""
        return 1 << self._precision_bits

    @property
    def _scale(self) -> int:
        return self.scale

    @_scale.setter
    def _scale(self, value: int) -> None:
        bits = int(value).bit_length() - 1
        if value <= 0 or value != 1 << bits:
            raise Unsupported(f"scale {value}", "scales are powers of two")
        self._precision_bits = bits

    def encode(self, x: Any, device: object = None) -> Any:
        """int64 torch tensor of round(x * scale); an encrypted tensor as it is.

        Raises BadData for NaN and infinity, RangeExceeded beyond 2^62.
        """
        if hasattr(x, "get_plain_text"):
            return x
        words = encode_array(plain_array(x), self._precision_bits)
        return torch.from_numpy(words.view(np.int64))

    def decode(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """float32 tensor (int64 without fraction) of the numbers that ring elements stand for."""
        if tensor is None:
            return None
        return decoded(tensor.contiguous().numpy().view(np.uint64), self._precision_bits).reshape(tensor.shape)


def plain_array(x: Any) -> Array:
    """A public operand as a numpy array: float64, or int64 for integers and booleans."""
    if isinstance(x, torch.Tensor):
        array = x.detach().cpu().numpy() if x.dtype != torch.bfloat16 else x.detach().float().numpy()
    else:
        array = np.asarray(x)
    if array.dtype.kind in "bui":
        return array.astype(np.int64)
    if array.dtype.kind != "f":
        raise Unsupported(f"a plaintext of type {array.dtype}", "numbers are real")
    return array.astype(np.float64)


def encode_array(numbers: Array, bits: int) -> Array:
    """uint64 words, a new contiguous array."""
    check_finite(numbers)
    largest = float(np.abs(numbers).max(initial=0))
    if largest and math.log2(largest) + bits >= _LIMIT_BITS:
        raise RangeExceeded("the encoder", largest, 2.0 ** (_LIMIT_BITS - bits))
    if numbers.dtype.kind == "i":
        return np.require(numbers.view(np.uint64) << np.uint64(bits), np.uint64, "C").reshape(numbers.shape)
    return np.require(encode(numbers, bits), np.uint64, "C").reshape(numbers.shape)


def check_finite(numbers: Array) -> Array:
    """The array itself; BadData when it holds what is not a number."""
    if numbers.dtype.kind == "f" and not np.all(np.isfinite(numbers)):
        raise BadData("a plaintext holds NaN or infinity")
    return numbers


def decoded(words: Array, bits: int) -> torch.Tensor:
    """float32 numbers, as CrypTen gives them; exact integers stay exact as long as float32 holds them."""
    numbers = decode(words, bits).reshape(words.shape)
    return torch.from_numpy(np.require(numbers.astype(np.int64 if bits == 0 else np.float32), None, "C"))


def nearest_integer_division(tensor: torch.Tensor, integer: int) -> torch.Tensor:
    """tensor / integer to the nearest integer, halves away from zero."""
    if integer <= 0:
        raise Unsupported("nearest_integer_division", "divisors are positive")
    half = (tensor.abs() * 2 + integer).div(2 * integer, rounding_mode="floor")
    return half * tensor.sign()

"""What every engine offers to a workload.

A workload is written once against `Engine` and runs at every party, in plaintext (`engines.plain`), on shares
(`engines.mpc`), and on shapes alone when a plan is recorded or a dealer follows the job. Hence the rules:

- Every party calls the same methods in the same order with the same shapes. Nothing may branch on a value.
- Plaintext enters through `private`: the array at the party that holds it, None at all others.
- Plaintext leaves through `open`, which needs a `Permit`. There is no other way out.
- A `Secret` carries numbers in fixed point (`is_integer` False) or exact integers (True: bits, counts, one-hot
  rows). Products of an integer and a number need no truncation; a sum of the two is a number. Shapes broadcast
  as in numpy.

Arrays that go in and come out are float64 (numbers) or int64 (integers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine", "Permit", "Secret"]

FloatArray = NDArray[np.float64]
AnyArray = NDArray[Any]


class Secret(Protocol):
    """A value that no single party knows. It has a shape, and nothing else to look at."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def is_integer(self) -> bool: ...


class Permit:
    """The right to open the named outputs of one job. Only the release gate of the worker makes one."""

    __slots__ = ("job_id", "outputs")

    def __init__(self, job_id: str, outputs: Sequence[str]) -> None:
        self.job_id = job_id
        self.outputs = frozenset(outputs)

    def __repr__(self) -> str:
        return f"Permit({self.job_id}, {sorted(self.outputs)})"


class Engine(Protocol):
    """Arithmetic on secrets. `rank` is None where only shapes are known (a plan, a dealer)."""

    @property
    def rank(self) -> int | None: ...

    @property
    def parties(self) -> int: ...

    @property
    def frac_bits(self) -> int: ...

    # ---- in and out
    def private(self, value: AnyArray | None, shape: Sequence[int], holder: int, *, integer: bool = False) -> Secret:
        """A value that party `holder` knows in the clear. Reveals: nothing. Cost: none until it is used."""
        ...

    def public(self, value: AnyArray | float, *, integer: bool = False) -> Secret:
        """A constant that everybody knows, as a secret. Cost: none."""
        ...

    def zeros(self, shape: Sequence[int], *, integer: bool = False) -> Secret: ...

    def open(self, name: str, value: Secret, to: int, permit: Permit) -> AnyArray | None:
        """The plaintext of output `name` at rank `to`, None elsewhere. Reveals: the value, to `to` only."""
        ...

    # ---- local
    def add(self, x: Secret, y: Secret | AnyArray | float) -> Secret: ...

    def sub(self, x: Secret, y: Secret | AnyArray | float) -> Secret: ...

    def neg(self, x: Secret) -> Secret: ...

    def times_integer(self, x: Secret, factor: int | NDArray[np.int64]) -> Secret:
        """Multiplies by public integers. Exact, local."""
        ...

    def scale_wide(self, x: Secret, factor: float | FloatArray, bits: int) -> Secret:
        """Multiplies by public numbers of `bits` fractional bits, which the result has more: local, not truncated.

        A factor is rounded to those bits, |x factor| must stay in the ring.
        """
        ...

    def combinations(self, x: Secret, signs: NDArray[np.int64]) -> Secret:
        """Signed sums of all elements of x, (k,) for signs (k, x.size), as wide as x. Local; what leaves the range
        wraps, as what is summed up elsewhere must not."""
        ...

    def as_integer(self, x: Secret) -> Secret:
        """The integer x * 2^frac_bits of a number x: the same ring word, read as an integer. Exact, local."""
        ...

    def sum(self, x: Secret, axis: int | None = None, *, keepdims: bool = False) -> Secret: ...

    def reshape(self, x: Secret, shape: Sequence[int]) -> Secret: ...

    def transpose(self, x: Secret, axes: Sequence[int]) -> Secret: ...

    def concat(self, xs: Sequence[Secret], axis: int) -> Secret: ...

    def broadcast(self, x: Secret, shape: Sequence[int]) -> Secret: ...

    def rows(self, x: Secret, start: int, stop: int) -> Secret:
        """x[start:stop]. A mask that was opened for x serves its row ranges too."""
        ...

    def take(self, x: Secret, indices: NDArray[np.int64], axis: int) -> Secret:
        """Public gather along `axis`."""
        ...

    def settled(self, *xs: Secret) -> tuple[Secret, ...]:
        """The same numbers with `frac_bits` fractional bits, where they have more. Cost: one round for all."""
        ...

    # ---- products
    def scale(self, x: Secret, factor: float | FloatArray) -> Secret:
        """Multiplies by public numbers (truncates). Small factors keep their relative precision (2^-18 or better)."""
        ...

    def mul(self, x: Secret, y: Secret) -> Secret: ...

    def matmul(
        self, x: Secret, y: Secret, *, transpose_x: bool = False, transpose_y: bool = False, lazy: bool = False
    ) -> Secret:
        """2-d product. What was opened for an operand in an earlier product is used again.

        Lazy: the truncation is left to what comes next, which may have it for nothing. Until then, sums with the
        result must stay within the range of a product.
        """
        ...

    def conv2d(
        self,
        x: Secret,
        weight: Secret,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> Secret:
        """x (N, C, H, W), weight (O, C/groups, KH, KW), padding (top, left, bottom, right). Lazy: as in `matmul`."""
        ...

    def conv2d_weight_gradient(
        self,
        x: Secret,
        delta: Secret,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> Secret:
        """(O, C/groups, *kernel) from images (N, C, H, W) and the gradient of what `conv2d` made of them."""
        ...

    def conv2d_input_gradient(
        self,
        delta: Secret,
        weight: Secret,
        *,
        image: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
        lazy: bool = False,
    ) -> Secret:
        """(N, C, *image) from the gradient of what `conv2d` put out, and its weight."""
        ...

    # ---- comparisons; bits are integers
    def ge_zero(self, x: Secret) -> Secret:
        """1 where x >= 0, else 0."""
        ...

    def relu(self, x: Secret) -> Secret: ...

    def relu_with_gate(self, x: Secret) -> tuple[Secret, Any]:
        """max(x, 0), and the bits x >= 0 in a form that `gated` takes."""
        ...

    def gated(self, gate: Any, x: Secret) -> Secret:
        """x where the bit of the gate is 1, 0 elsewhere. Cost: 1 round, and none for what is pending."""
        ...

    def max_pool2d(
        self, x: Secret, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
    ) -> Secret: ...

    def max_pool2d_with_gate(
        self, x: Secret, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
    ) -> tuple[Secret, Any]:
        """`max_pool2d`, and where the maxima were in a form that `max_pool2d_gradient` takes."""
        ...

    def max_pool2d_gradient(self, gate: Any, delta: Secret) -> Secret:
        """The gradient of the image: each element of delta goes to one largest element of its window."""
        ...

    def avg_pool2d(
        self,
        x: Secret,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        count_include_pad: bool,
    ) -> Secret: ...

    def avg_pool2d_gradient(
        self,
        delta: Secret,
        *,
        image: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        count_include_pad: bool,
    ) -> Secret:
        """The gradient of images (N, C, *image)."""
        ...

    def argmax_onehot(self, x: Secret) -> Secret:
        """Along the last axis: integer one-hot of the first maximum."""
        ...

    def sort_with_bit(self, keys: Secret, bits: Secret) -> tuple[Secret, Secret]:
        """1-d: keys ascending, equal keys by their bit ascending, with the bits carried along."""
        ...

    # ---- non-linear functions
    def sigmoid(self, x: Secret, *, frac_bits: int | None = None) -> Secret:
        """1 / (1 + e^-x), with as many fractional bits as are wanted."""
        ...

    def tanh(self, x: Secret) -> Secret: ...

    def softmax(self, x: Secret, *, frac_bits: int | None = None, lazy: bool = False) -> Secret:
        """Along the last axis, for any gap between its inputs, with as many fractional bits as are wanted.

        A lazy one has the many bits that it was computed with: it may be released, or subtracted from below 1.
        """
        ...

    def reciprocal(self, x: Secret, low: float, high: float) -> Secret:
        """1/x for 0 < low <= x <= high, to 2^-9 of the value; x counts as `low` below it, and as `high` above."""
        ...

    def inverse_sqrt(self, x: Secret, low: float, high: float) -> Secret:
        """x^-1/2 for 0 < low <= x <= high, to 2^-9 of the value; beyond, x counts as the nearer end."""
        ...

    def divide_integers(self, numerator: Secret, denominator: Secret, bits: int) -> Secret:
        """n/d as a number, for integers 0 <= n <= d < 2^bits, bits <= 60; 0 where d is 0. Relative error of the
        quotient at most 2^-18, besides its own rounding to frac_bits."""
        ...

    # ---- control
    def repeat(self, count: int) -> Iterator[int]:
        """range(count), for bodies whose steps are the same each time: a plan records one of them."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Names the steps inside for progress, plans and errors."""
        ...

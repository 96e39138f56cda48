"""Trigonometric sums that CrypTen programs need beside those of `protocols.smooth`, and the wire's names of all."""

from __future__ import annotations

from enclave.engines.mpc.protocols import brackets, saturating, smooth
from enclave.engines.mpc.protocols.harmonics import Series
from enclave.wire import tape_pb2 as wire

__all__ = ["COSINE", "FUNCTIONS", "SINE"]

SINE = Series("sine", 64, 0, (1 << 30,))  # sin(2 pi t / 64)
COSINE = Series("cosine", 64, 0, (0,), (1 << 30,))
# Wire number -> function.
FUNCTIONS: dict[int, Series] = {
    wire.TAPE_FUNCTION_SIGMOID: saturating.SIGMOID.series,
    wire.TAPE_FUNCTION_RECIPROCAL: smooth.RECIPROCAL,
    wire.TAPE_FUNCTION_RSQRT: smooth.RSQRT,
    wire.TAPE_FUNCTION_LOG: smooth.LOG,
    wire.TAPE_FUNCTION_SINE: SINE,
    wire.TAPE_FUNCTION_COSINE: COSINE,
    wire.TAPE_FUNCTION_ERF: saturating.ERF.series,
    wire.TAPE_FUNCTION_TANH: saturating.TANH.series,
    wire.TAPE_FUNCTION_GELU: saturating.GELU.series,
    wire.TAPE_FUNCTION_BRACKETED_RECIPROCAL: brackets.RECIPROCAL,
    wire.TAPE_FUNCTION_BRACKETED_INVERSE_ROOT: brackets.INVERSE_ROOT,
    wire.TAPE_FUNCTION_BRACKETED_LOGARITHM: brackets.LOGARITHM,
}

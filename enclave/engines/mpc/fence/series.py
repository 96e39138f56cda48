"""Trigonometric sums that CrypTen programs need beside those of `protocols.smooth`, and the wire's names of all."""

from __future__ import annotations

from enclave.engines.mpc.protocols import smooth
from enclave.engines.mpc.protocols.smooth import Series
from enclave.wire import tape_pb2 as wire

__all__ = ["COSINE", "ERF", "ERF_END", "FUNCTIONS", "SINE"]

SINE = Series("sine", 64, 0, (1 << 30,))  # sin(2 pi t / 64)
COSINE = Series("cosine", 64, 0, (0,), (1 << 30,))
# erf(x) / 2 on [-3.3, 3.3] as a function of 6 x with period 64: error 1e-5
ERF_END = 3.3
ERF = Series("erf", 64, 0, (632344142, -8409573, 112125011, -4976428, 17754585, -382764, 1182027, 199331))

# Wire number -> function.
FUNCTIONS: dict[int, Series] = {
    wire.TAPE_FUNCTION_SIGMOID: smooth.SIGMOID,
    wire.TAPE_FUNCTION_RECIPROCAL: smooth.RECIPROCAL,
    wire.TAPE_FUNCTION_RECIPROCAL_TO_10: smooth.RECIPROCAL_TO_10,
    wire.TAPE_FUNCTION_RSQRT: smooth.RSQRT,
    wire.TAPE_FUNCTION_LOG: smooth.LOG,
    wire.TAPE_FUNCTION_SINE: SINE,
    wire.TAPE_FUNCTION_COSINE: COSINE,
    wire.TAPE_FUNCTION_ERF: ERF,
}

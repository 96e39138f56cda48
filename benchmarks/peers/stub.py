"""Lets stock CrypTen 0.4.1 be imported with today's torch; nothing of CrypTen is changed.

`crypten.nn.onnx_converter` imports a name that it never uses from `torch.onnx._internal.registration`, a module that
torch has moved. An empty one in its place is enough.
"""

from __future__ import annotations

import importlib.util
import sys
import types

__all__ = ["REGISTRATION", "install"]

REGISTRATION = "torch.onnx._internal.registration"


def install() -> bool:
    """Puts the stub in place unless torch still has the module; whether it was needed."""
    if REGISTRATION in sys.modules or importlib.util.find_spec(REGISTRATION) is not None:
        return False
    stub = types.ModuleType(REGISTRATION)
    stub.registry = None  # type: ignore[attr-defined]  # the one name that CrypTen imports
    sys.modules[REGISTRATION] = stub
    return True

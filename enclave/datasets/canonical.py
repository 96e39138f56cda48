"""The text by which a value is matched against a vocabulary, whatever type it has in the file."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np

__all__ = ["canonical_text"]


def canonical_text(value: Any) -> str:
    """Strings as they are; booleans "true", "false"; whole numbers without a point ("3", also for 3.0 and -0.0
    "0"); other numbers in their shortest decimal form that reads back to the same value ("0.1")."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else format(value.normalize(), "f")
    if isinstance(value, float | np.floating):
        if np.isfinite(value) and value == np.floor(value):
            return str(int(value))
        # np.float32 has its own shortest form: 0.1, where float() of it would read 0.10000000149011612.
        return str(value)
    return str(value)

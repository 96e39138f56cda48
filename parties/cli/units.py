"""Quantities as people write them: 100Mbit, 40ms, 1h, 3.2 MB."""

from __future__ import annotations

import argparse
import re

__all__ = ["bandwidth_bps", "bytes_text", "duration_s", "endpoint", "seconds_text"]

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]*)\s*")
_BITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "b": 8.0, "kb": 8e3, "mb": 8e6, "gb": 8e9}
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def bandwidth_bps(text: str) -> float:
    """Bits a second: `100Mbit`, `1Gbit/s`, `12.5MB`; a bare number is in Mbit. Capital B and b both mean bytes."""
    number, unit = _split(text)
    unit = unit.lower().removesuffix("/s").removesuffix("ps")
    factor = _BITS.get(unit or "mbit")
    if factor is None or number <= 0:
        raise argparse.ArgumentTypeError(f"expected a bandwidth such as 100Mbit or 1Gbit, found {text!r}")
    return number * factor


def duration_s(text: str) -> float:
    """Seconds: `40ms`, `0.5s`, `10m`, `2h`; a bare number is in seconds."""
    number, unit = _split(text)
    factor = _SECONDS.get(unit.lower() or "s")
    if factor is None:
        raise argparse.ArgumentTypeError(f"expected a duration such as 40ms, 30s or 2h, found {text!r}")
    return number * factor


def endpoint(text: str) -> str:
    """HOST:PORT, checked; IPv6 hosts stand in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, found {text!r}")
    return text


def _split(text: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a number with a unit, found {text!r}")
    return float(match[1]), match[2]


def bytes_text(count: float) -> str:
    """`512 B`, `3.20 MB`: decimal units, three digits."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.5 or unit == "TB":
            break
    return f"{count:.3g} {unit}" if count >= 100 else f"{count:.2f} {unit}"


def seconds_text(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `4 min 10 s`, `3 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"

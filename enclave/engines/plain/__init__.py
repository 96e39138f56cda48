"""The oracle: the engine's interface on plain numbers in one process, with no security at all.

Tests compare other engines with it, and a quote can be tried on mock data with it. One process holds every
party's values, so `private` needs the value whoever the holder is, and `open` returns it whoever asks.
With `round_to` every number is rounded to that many fractional bits, and a product that the ring could not hold
before its truncation raises RangeExceeded: this imitates what fixed point does to a result.
"""

from enclave.engines.plain.engine import InsecurePlainEngine

__all__ = ["InsecurePlainEngine"]

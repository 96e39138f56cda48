"""Keeps the memory that a process has freed, so that the next frame of the same size finds it mapped.

By default the C library gives every block beyond some hundred kilobytes back to the system at once, and fetches fresh
pages for the next one: in a session, which moves arrays of one size again and again, the page faults cost up to half
as much as the work on the bytes. For processes that live as long as their session: a worker, not a user's program.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["hand_over_quickly", "keep_freed_memory"]

# From glibc's malloc.h. The largest threshold that it takes is 32 MiB: longer blocks stay a matter of the system.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Changes this process's allocator; False, and nothing is changed, where the C library has no such setting."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # Setting one of them also stops glibc from adjusting the other on its own.
    taken = mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES) and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    return bool(taken)


def hand_over_quickly() -> None:
    """Lets a thread that has a message to send or to take wait less for one that computes.

    By default Python's interpreter changes threads every 5 ms, unless one of them waits: a party that computes for
    longer than a round trip would keep its own messages back.
    """
    sys.setswitchinterval(2e-4)

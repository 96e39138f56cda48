"""What keeping freed memory is for: the second array of a size costs no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from enclave.channel.buffers import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    raise SystemExit(77)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 20)
before = faults()
for _ in range(20):
    np.ones(1 << 20)
print(faults() - before)
"""


def count(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_arrays_of_one_size_take_the_same_pages() -> None:
    """Twenty arrays of 8 MiB: 40,960 pages of 4 KiB, or large pages where the system gives those."""
    kept = count("keep")
    assert kept < 50 or kept * 10 < count("leave")

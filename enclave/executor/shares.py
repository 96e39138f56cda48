"""What stays shared after a job: this party's share of it, on its own disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclave.errors import StoreError
from enclave.identity.home import write_file
from enclave.messages import JobSpec

__all__ = ["keep_shares", "read_shares"]


def keep_shares(home: Path, spec: JobSpec, shares: Mapping[str, NDArray[Any]]) -> Path:
    """Writes uint64 shares to HOME/shares/JOB.safetensors, mode 0600.

    The sum of all parties' shares modulo 2^64, read as signed and divided by 2^frac_bits, is the value; any
    proper subset of them is uniform. Raises StoreError.
    """
    from safetensors.numpy import save

    folder = home / "shares"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{spec.job_id}.safetensors"
        write_file(path, save({k: np.ascontiguousarray(v) for k, v in shares.items()}, _facts(spec)), 0o600)
    except OSError as error:
        raise StoreError(f"cannot keep the shares of job {spec.job_id}: {error.strerror}") from error
    return path


def read_shares(path: Path) -> dict[str, NDArray[np.uint64]]:
    """The shares that `keep_shares` wrote."""
    from safetensors.numpy import load_file

    return {name: value.astype(np.uint64) for name, value in load_file(path).items()}


def _facts(spec: JobSpec) -> dict[str, str]:
    return {"job": spec.job_id, "frac_bits": str(spec.frac_bits), "parties": str(len(spec.compute_parties))}

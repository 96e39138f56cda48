"""What a buyer keeps of its jobs: one directory a job under HOME/jobs, readable by the buyer alone.

A job may wait for days for an owner's approval, so everything that its run needs is written before it is
proposed: the signed specification, the weights and the salt of their commitment. Files are written whole or
not at all.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enclave.errors import BadInput, StoreError
from enclave.messages import JobSpec, Signed

__all__ = ["JobFolder", "JobFolders"]

SPEC, REQUEST, WEIGHTS = "spec.pb", "request.json", "weights.safetensors"
RESULT, PREDICTIONS = "result.json", "predictions.csv"
RECEIPT, REPORT, REPORT_PAGE = "receipt.pb", "report.json", "report.html"
OUTPUTS = "outputs.json"  # what the receipt says of them: a salted digest and their names


class JobFolder:
    """The files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def job_id(self) -> str:
        return self.path.name

    def write(self, name: str, data: bytes) -> Path:
        """Writes a file with mode 0600, atomically; raises StoreError when the disk does not take it."""
        target = self.path / name
        # A unique name beside the target: two commands on one job never write into each other's file.
        scratch = self.path / f".{name}.{secrets.token_hex(4)}"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(target)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {target}: {(error.strerror or str(error)).lower()}", hint="is the disk full?"
            ) from error
        return target

    def read(self, name: str) -> bytes:
        """The file's bytes; raises StoreError when it is missing or cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {self.path / name}: {(error.strerror or str(error)).lower()}") from error

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return (self.path / name).exists()

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Writes a value of JSON types."""
        return self.write(name, json.dumps(value, indent=2).encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads what `write_json` wrote; raises StoreError when it is damaged."""
        try:
            value = json.loads(self.read(name))
        except ValueError as error:
            raise StoreError(f"{self.path / name} is damaged: {error}") from error
        if not isinstance(value, dict):
            raise StoreError(f"{self.path / name} is damaged: expected an object")
        return value

    def signed(self) -> Signed:
        """The signed specification, the bytes that were proposed."""
        return Signed.decode(self.read(SPEC))

    def spec(self) -> JobSpec:
        """The specification in `signed`."""
        return JobSpec.decode(self.signed().body)


class JobFolders:
    """All jobs of one buyer."""

    def __init__(self, home: Path) -> None:
        self._root = home / "jobs"

    def create(self, job_id: str) -> JobFolder:
        """The folder of a new job, made by its first `write`."""
        return JobFolder(self._root / job_id)

    def get(self, job_id: str) -> JobFolder:
        """The folder of the job whose id is or starts with `job_id`; raises BadInput unless there is exactly one."""
        if not job_id or not all(c in "0123456789abcdef" for c in job_id):
            raise BadInput(f"expected a job id of hex digits, found {job_id[:80]!r}", hint="see enclave buyer jobs")
        found = [folder for folder in self.all() if folder.job_id.startswith(job_id)]
        if len(found) != 1:
            count = "no job" if not found else f"{len(found)} jobs"
            raise BadInput(f"{count} of this buyer with the id {job_id}", hint="see enclave buyer jobs")
        return found[0]

    def all(self) -> list[JobFolder]:
        """Every job that was ever proposed, by id."""
        if not self._root.is_dir():
            return []
        return [JobFolder(path) for path in sorted(self._root.iterdir()) if (path / SPEC).is_file()]

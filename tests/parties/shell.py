"""`enclave` typed in this process: what it said, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parties.cli import main

__all__ = ["Shell", "enclave"]


class Shell:
    """Runs `enclave` in this process and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *words: object) -> int:
        self._capsys.readouterr()
        code = main([str(word) for word in words])
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self) -> dict[str, object]:
        """The one JSON object on stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        value = json.loads(lines[0])
        assert isinstance(value, dict)
        return value


@pytest.fixture
def enclave(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    monkeypatch.setenv("ENCLAVE_HOME", str(tmp_path / "default-home"))
    return Shell(capsys)

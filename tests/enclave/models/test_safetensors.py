"""Weights out and in again, without code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from enclave.errors import BadModel
from enclave.models import Model, dense_architecture, read_model, read_safetensors, write_safetensors
from enclave.models.safetensors_file import MAX_FILE_BYTES

ARCHITECTURE = dense_architecture(3, [2], 1)


def model() -> Model:
    rng = np.random.default_rng(0)
    return Model(ARCHITECTURE, {t.name: rng.normal(size=t.shape) for t in ARCHITECTURE.parameters})


def test_weights_survive_as_float32(tmp_path: Path) -> None:
    data = write_safetensors(model())
    assert {name: (w.dtype, w.shape) for name, w in load(data).items()} == {
        t.name: (np.float32, t.shape) for t in ARCHITECTURE.parameters
    }
    again = read_safetensors(data, ARCHITECTURE)
    for name, weight in model().weights.items():
        assert np.allclose(again.weights[name], weight, rtol=1e-7, atol=1e-7)
    (tmp_path / "m.safetensors").write_bytes(data)
    assert read_model(tmp_path / "m.safetensors", architecture=ARCHITECTURE).weights.keys() == again.weights.keys()
    with pytest.raises(BadModel, match="weights without an architecture"):
        read_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "not a safetensors file"),
        (save({"other": np.ones(1)}), "missing"),
        (save({t.name: np.ones(t.shape, dtype=np.int64) for t in ARCHITECTURE.parameters}), "floating-point"),
        (save({t.name: np.ones((*t.shape, 1)) for t in ARCHITECTURE.parameters}), "expected shape"),
        (save({t.name: np.full(t.shape, np.nan) for t in ARCHITECTURE.parameters}), "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(BadModel, match=problem):
        read_safetensors(data, ARCHITECTURE)


def test_files_over_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(BadModel, match="a model may have"):
        read_safetensors(path, ARCHITECTURE)
    with pytest.raises(BadModel, match="cannot read the model"):
        read_safetensors(tmp_path / "nowhere.safetensors", ARCHITECTURE)

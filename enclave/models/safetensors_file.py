"""Weights as safetensors: names, shapes and numbers, and no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from enclave.errors import BadModel
from enclave.messages import Architecture
from enclave.models.graph import parameter_shapes, shapes
from enclave.models.model import Model

__all__ = ["read_safetensors", "write_safetensors"]

MAX_FILE_BYTES = 512 << 20


def write_safetensors(model: Model) -> bytes:
    """The weights as float32 under their parameter names; the architecture is not part of the file."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(w, dtype=np.float32) for name, w in model.weights.items()}))


def read_safetensors(source: Path | bytes, architecture: Architecture) -> Model:
    """The model of `architecture` with the weights of a safetensors file.

    Raises: BadModel when the file is too large or malformed, or holds other names, shapes or types.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    shapes(architecture)
    data = source if isinstance(source, bytes) else _read(Path(source))
    try:
        tensors: dict[str, Any] = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadModel("not a safetensors file, or one with types other than float") from error
    for name, shape in parameter_shapes(architecture).items():
        if name in tensors and tensors[name].dtype.kind != "f":
            raise BadModel(f"weight {name!r} must be floating-point numbers of shape {shape}")
    return Model(architecture, tensors)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BadModel(f"{path.name}: a model may have {MAX_FILE_BYTES} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise BadModel(f"cannot read the model {path.name}: {error.strerror}") from error

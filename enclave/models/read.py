"""One door for all the forms in which a buyer may bring a model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from enclave.errors import BadModel
from enclave.messages import Architecture
from enclave.models.model import Model

__all__ = ["read_model"]


def read_model(
    source: Any,
    *,
    input_shape: Sequence[int] | None = None,
    architecture: Architecture | None = None,
    class_order: Callable[[Sequence[Any]], Sequence[int]] | None = None,
) -> Model:
    """The model of a file or an object in memory.

    Args:
      source: a path to .onnx or .safetensors, the bytes of an ONNX file, a `Model`, a torch.nn.Module, or a fitted
        scikit-learn estimator or pipeline.
      input_shape: of one row, for a torch module (its first Linear decides where it is left out and that works).
      architecture: for safetensors, which hold weights alone.
      class_order: given the class labels of a scikit-learn classifier, the order (indices into them) that the outputs
        shall have; no other form of a model knows its labels. Left out, the estimator's own order stays.
    Raises: BadModel saying what cannot be run.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, bytes):
        from enclave.models.onnx_reader import read_onnx

        return read_onnx(source)
    if isinstance(source, str | Path):
        return _read_file(Path(source), architecture)
    # An object of a library can only exist when the library is imported; asking for it must not import it.
    torch, sklearn = sys.modules.get("torch"), sys.modules.get("sklearn.base")
    if torch is not None and isinstance(source, torch.nn.Module):
        from enclave.models.torch_reader import read_torch

        return read_torch(source, input_shape or _first_width(source, torch))
    if sklearn is not None and isinstance(source, sklearn.BaseEstimator):
        from enclave.models.sklearn_reader import read_sklearn

        return read_sklearn(source, class_order)
    raise BadModel(
        f"a model must be an ONNX file, a torch module or a scikit-learn estimator, found {type(source).__name__}"
    )


def _read_file(path: Path, architecture: Architecture | None) -> Model:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from enclave.models.onnx_reader import read_onnx

        return read_onnx(path)
    if suffix == ".safetensors":
        from enclave.models.safetensors_file import read_safetensors

        if architecture is None:
            raise BadModel(
                f"{path.name} holds weights without an architecture", hint="export the model as ONNX, or give both"
            )
        return read_safetensors(path, architecture)
    raise BadModel(
        f"cannot read {path.name}: expected .onnx or .safetensors",
        hint="files that run code when they are read (.pt, .pkl, .joblib) are never opened; export the model as ONNX",
    )


def _first_width(module: Any, torch: Any) -> tuple[int, ...]:
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            return (int(part.in_features),)
        if isinstance(part, torch.nn.Conv2d):
            break
    raise BadModel("the shape of one input row is needed for this torch module", hint="pass input_shape=(...)")

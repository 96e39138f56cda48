"""`crypten.nn.from_onnx`: an ONNX file to a CrypTen graph, read by the project's own reader.

All parties call it with files of the same architecture; `encrypt(src=...)` then takes the weights of one. What the
reader refuses, and why, it says with the name of the node.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from enclave.errors import BadModel, Unsupported
from enclave.messages import Layer
from enclave.models.graph import INPUT
from enclave.models.onnx_reader import read_onnx

__all__ = ["from_onnx", "step_class"]

Values = Sequence[Any]


def step_class() -> Any:
    """The CrypTen module that applies a function to the list of its inputs."""
    cnn = importlib.import_module("crypten.nn")

    class Step(cnn.Module):  # type: ignore[misc, name-defined]
        """A function of earlier results."""

        SUPPORTS_PLAINTEXT_INPUTS = True

        def __init__(self, call: Callable[[list[Any]], Any]) -> None:
            super().__init__()
            self.call = call

        def forward(self, x: Any) -> Any:
            return self.call(x if isinstance(x, list) else [x])

    return Step


def from_onnx(onnx_string_or_file: Any) -> Any:
    """A `crypten.nn.Graph` of an ONNX model, not encrypted: bytes, a path, or an open binary file.

    Raises BadModel naming the node that has no counterpart.
    """
    source = onnx_string_or_file
    if hasattr(source, "read"):
        source = source.read()
    if not isinstance(source, bytes | str | Path):
        raise Unsupported(f"from_onnx of a {type(source).__name__}", "a model is bytes, a path or a binary file")
    model = read_onnx(source if isinstance(source, bytes) else Path(source))
    cnn = importlib.import_module("crypten.nn")
    step, layers = step_class(), model.architecture.layers
    graph = cnn.Graph([INPUT], [layers[-1].name])
    for name, weight in model.weights.items():
        graph.add_module(f"{name}.weight", cnn.Parameter(torch.tensor(weight, dtype=torch.float32)), [])
    for layer in layers:
        if layer.op not in _FORWARD:
            raise BadModel(f"layer {layer.name}: {layer.op} has no counterpart in CrypTen")
        _check_padding(layer)
        inputs = [*layer.inputs, *(f"{name}.weight" for name in layer.parameters)]
        graph.add_module(layer.name, step(_applied(layer)), inputs)
    return graph


def _applied(layer: Layer) -> Callable[[list[Any]], Any]:
    forward, count = _FORWARD[layer.op], len(layer.inputs)
    return lambda values: forward(layer.ints, values[:count], values[count:])


def _check_padding(layer: Layer) -> None:
    if layer.op in ("max_pool2d", "avg_pool2d"):
        top, left, bottom, right = layer.ints[4:8]
        padded = any(layer.ints[4:8])
        if (top, left) != (bottom, right) or (layer.op == "avg_pool2d" and padded and not layer.ints[8]):
            raise BadModel(f"layer {layer.name}: padding that CrypTen's pooling does not have")


def _linear(ints: Sequence[int], xs: Values, ws: Values) -> Any:
    found = xs[0].matmul(ws[0])
    return found.add(ws[1]) if len(ws) == 2 else found


def _conv2d(ints: Sequence[int], xs: Values, ws: Values) -> Any:
    sh, sw, top, left, bottom, right, dh, dw, groups = ints
    x = xs[0].pad((left, right, top, bottom)) if any((top, left, bottom, right)) else xs[0]
    found = x.conv2d(ws[0], stride=(sh, sw), dilation=(dh, dw), groups=groups)
    return found.add(ws[1].reshape(1, -1, 1, 1)) if len(ws) == 2 else found


def _affine(ints: Sequence[int], xs: Values, ws: Values) -> Any:
    shape = (1, -1, *(1 for _ in range(xs[0].dim() - 2)))
    return xs[0].mul(ws[0].reshape(*shape)).add(ws[1].reshape(*shape))


def _cat(ints: Sequence[int], xs: Values, ws: Values) -> Any:
    return importlib.import_module("crypten").cat(list(xs), dim=ints[0] + 1)


_FORWARD: dict[str, Callable[[Sequence[int], Values, Values], Any]] = {
    "add": lambda ints, xs, ws: xs[0].add([*xs, *ws][1]),
    "affine": _affine,
    "avg_pool2d": lambda ints, xs, ws: xs[0].avg_pool2d(ints[:2], stride=ints[2:4], padding=ints[4:6]),
    "concat": _cat,
    "conv2d": _conv2d,
    "flatten": lambda ints, xs, ws: xs[0].flatten(1),
    "linear": _linear,
    "max_pool2d": lambda ints, xs, ws: xs[0].max_pool2d(ints[:2], stride=ints[2:4], padding=ints[4:6]),
    "mul": lambda ints, xs, ws: xs[0].mul([*xs, *ws][1]),
    "relu": lambda ints, xs, ws: xs[0].relu(),
    "reshape": lambda ints, xs, ws: xs[0].reshape(xs[0].size(0), *ints),
    "sigmoid": lambda ints, xs, ws: xs[0].sigmoid(),
    "softmax": lambda ints, xs, ws: xs[0].softmax(-1),
    "tanh": lambda ints, xs, ws: xs[0].tanh(),
}

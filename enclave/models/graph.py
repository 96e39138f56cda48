"""The one small graph that every model becomes, and what each operator means.

An `Architecture` is a list of layers in the order of execution; the last layer is the output. It comes from a
buyer over the wire, so nothing else in the project touches it before `shapes` has accepted it. Shapes are those
of one row, without the batch axis. There is no control flow, no dynamic shape and no integer tensor: a network
is then a fixed sequence of secret-shared steps, and its plan follows from the public specification.

    op          inputs  parameters    ints
    linear      1       W[, b]        none; W (in, out), b (out,): y = x @ W + b on the last axis
    conv2d      1       W[, b]        sh sw pt pl pb pr dh dw groups; W (O, C/groups, KH, KW), row (C, H, W)
    relu, sigmoid, tanh   1   none    none
    softmax     1       none          none; along the last axis of a row
    max_pool2d  1       none          kh kw sh sw pt pl pb pr; padding never wins
    avg_pool2d  1       none          kh kw sh sw pt pl pb pr count_include_pad
    flatten     1       none          none; row-major to one axis
    reshape     1       none          the new shape of one row
    affine      1       scale, shift  none; both (C,), along axis 0 of a row
    add, mul    2 or 1  none or 1     none; two inputs of one rank, or one input and a parameter of at most its rank
    concat      2..     none          axis of a row, >= 0

Broadcasting is numpy's, restricted so that a row never gains an axis: with the batch axis in front, an operand
of lower rank would otherwise be matched against the batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from enclave.errors import BadModel
from enclave.messages import Architecture, Layer

__all__ = [
    "INPUT",
    "MAX_PARAMETERS",
    "OPERATORS",
    "Operator",
    "Shape",
    "clean_name",
    "layer_shape",
    "output_shape",
    "parameter_shapes",
    "shapes",
    "window_shape",
]

Shape = tuple[int, ...]

INPUT = "input"
MAX_LAYERS = 1024
MAX_RANK = 6
MAX_ROW_ELEMENTS = 1 << 24
MAX_PARAMETERS = 1 << 26  # elements of all weight tensors together: 512 MB as float64
MAX_WINDOW_ELEMENTS = 1 << 26  # elements of all windows of a row; VGG-16 has 2.9e7
MAX_PADDED = 256  # times the image it is around
MAX_PRODUCTS = 1 << 32  # multiplications of one layer for one row; the largest of VGG-16 has 1.85e9
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")
_UNCLEAN = re.compile(r"[^A-Za-z0-9_./-]+")


@dataclass(frozen=True, slots=True)
class Operator:
    """Arity of one operator and the function that checks it and gives the shape of its output row."""

    inputs: tuple[int, int]
    parameters: tuple[int, ...]
    ints: tuple[int, int]
    shape: Callable[[Layer, Sequence[Shape], Sequence[Shape]], Shape]


def shapes(architecture: Architecture) -> dict[str, Shape]:
    """Checks the whole architecture and infers shapes.

    Returns: the shape of one row at every layer by name, in the order of execution, and at "input".
    Raises: BadModel naming the layer and the operator.
    """
    _check_shape("the input", architecture.input_shape)
    if not architecture.layers:
        raise BadModel("a model needs at least one layer")
    if len(architecture.layers) > MAX_LAYERS:
        raise BadModel(f"at most {MAX_LAYERS} layers, found {len(architecture.layers)}")
    declared = parameter_shapes(architecture)
    found: dict[str, Shape] = {INPUT: tuple(architecture.input_shape)}
    used: set[str] = set()
    for layer in architecture.layers:
        _check_name("layer", layer.name)
        if layer.name in found:
            raise BadModel(f"two layers are called {layer.name!r}")
        found[layer.name] = layer_shape(layer, found, declared)
        used.update(layer.inputs)
        used.update(layer.parameters)
    last = architecture.layers[-1].name
    for name in found:
        if name not in used and name != last:
            raise BadModel(f"nothing uses the output of {name!r}")
    for name in declared:
        if name not in used:
            raise BadModel(f"no layer uses the parameter {name!r}")
    return found


def output_shape(architecture: Architecture) -> Shape:
    """The shape of one output row; raises BadModel as `shapes`."""
    return shapes(architecture)[architecture.layers[-1].name]


def parameter_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Declared shapes of the weight tensors by name; raises BadModel when a name or size is not allowed."""
    declared: dict[str, Shape] = {}
    total = 0
    for tensor in architecture.parameters:
        _check_name("parameter", tensor.name)
        if tensor.name in declared:
            raise BadModel(f"two parameters are called {tensor.name!r}")
        _check_shape(f"parameter {tensor.name!r}", tensor.shape, limit=MAX_PARAMETERS)
        declared[tensor.name] = tuple(tensor.shape)
        total += math.prod(tensor.shape)
    if total > MAX_PARAMETERS:
        raise BadModel(f"at most {MAX_PARAMETERS} weights, found {total}")
    return declared


def clean_name(raw: str, taken: set[str], fallback: str) -> str:
    """A layer or parameter name made of `raw` that is allowed and not in `taken`; adds it to `taken`."""
    stem = _UNCLEAN.sub("_", raw).strip("/.-")[:100] or fallback
    name, count = stem, 1
    while name in taken or name == INPUT:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def window_shape(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Positions of a sliding window along one axis; may be below 1 when the window does not fit."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name) or name == INPUT:
        raise BadModel(f"{what} name {name[:80]!r} is not allowed: letters, digits, _ . / - and not {INPUT!r}")


def _check_shape(what: str, shape: Sequence[int], limit: int = MAX_ROW_ELEMENTS) -> None:
    if not 1 <= len(shape) <= MAX_RANK:
        raise BadModel(f"{what} must have 1 to {MAX_RANK} axes, found shape {tuple(shape)}")
    if any(n < 1 for n in shape):
        raise BadModel(f"{what} has an empty axis: shape {tuple(shape)}")
    if math.prod(shape) > limit:
        raise BadModel(f"{what} is too large: at most {limit} elements, found shape {tuple(shape)}")


def layer_shape(layer: Layer, known: Mapping[str, Shape], declared: Mapping[str, Shape]) -> Shape:
    """The shape of one output row of `layer`; raises BadModel when it does not fit what it is given."""
    operator = OPERATORS.get(layer.op)
    if operator is None:
        raise BadModel(
            f"layer {layer.name!r}: operator {layer.op[:40]!r} is not supported", hint=f"supported: {sorted(OPERATORS)}"
        )
    where = f"layer {layer.name!r} ({layer.op})"
    _check_count(where, "inputs", len(layer.inputs), operator.inputs)
    _check_count(where, "ints", len(layer.ints), operator.ints)
    if len(layer.parameters) not in operator.parameters:
        raise BadModel(f"{where}: expected {operator.parameters} parameters, found {len(layer.parameters)}")
    for name in layer.inputs:
        if name not in known:
            raise BadModel(f"{where}: input {name[:80]!r} is not the output of an earlier layer")
    for name in layer.parameters:
        if name not in declared:
            raise BadModel(f"{where}: parameter {name[:80]!r} is not declared")
    rows = [known[name] for name in layer.inputs]
    shape = operator.shape(layer, rows, [declared[name] for name in layer.parameters])
    _check_shape(where, shape)
    return shape


def _check_count(where: str, what: str, found: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= found <= high:
        expected = str(low) if low == high else f"{low} to {high}"
        raise BadModel(f"{where}: expected {expected} {what}, found {found}")


def _fail(layer: Layer, text: str) -> BadModel:
    return BadModel(f"layer {layer.name!r} ({layer.op}): {text}")


def _check_products(layer: Layer, count: int) -> None:
    if count > MAX_PRODUCTS:
        raise _fail(layer, f"at most {MAX_PRODUCTS} multiplications a row, found {count}")


def _same(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    return rows[0]


def _linear(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    weight = params[0]
    if len(weight) != 2 or weight[0] != rows[0][-1]:
        raise _fail(layer, f"weight must be ({rows[0][-1]}, out), found {weight}")
    if len(params) == 2 and params[1] != (weight[1],):
        raise _fail(layer, f"bias must be ({weight[1]},), found {params[1]}")
    _check_products(layer, math.prod(rows[0]) * weight[1])
    return (*rows[0][:-1], weight[1])


def _image(layer: Layer, row: Shape) -> tuple[int, int, int]:
    if len(row) != 3:
        raise _fail(layer, f"a row must be (channels, height, width), found {row}")
    return row[0], row[1], row[2]


def _window(layer: Layer, row: Shape, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    """Output height and width; the layer's stride and padding stand where every windowed operator has them."""
    channels, height, width = _image(layer, row)
    at = 0 if layer.op == "conv2d" else 2
    sh, sw, top, left, bottom, right = layer.ints[at : at + 6]
    if min(*kernel, *dilation, sh, sw) < 1 or max(*kernel, *dilation, sh, sw) > 1 << 16:
        raise _fail(layer, "kernel, stride and dilation must be positive")
    if min(top, left, bottom, right) < 0 or max(top, left, bottom, right) > 1 << 16:
        raise _fail(layer, f"padding must not be negative, found {(top, left, bottom, right)}")
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if layer.op != "conv2d" and (max(top, bottom) >= extent[0] or max(left, right) >= extent[1]):
        raise _fail(layer, "padding must be smaller than the kernel")
    if max(top, bottom) > extent[0] or max(left, right) > extent[1]:
        raise _fail(layer, f"padding must not be larger than the kernel, {tuple(extent)} with its dilation")
    out = (
        window_shape(height, kernel[0], sh, dilation[0], top, bottom),
        window_shape(width, kernel[1], sw, dilation[1], left, right),
    )
    if min(out) < 1:
        raise _fail(layer, f"the kernel {tuple(kernel)} does not fit into a row of shape {row}")
    # Padding and windows are arrays at the parties that no tensor of the plan is as large as.
    padded = channels * (height + top + bottom) * (width + left + right)
    limit = min(MAX_ROW_ELEMENTS, MAX_PADDED * channels * height * width)
    if padded > limit:
        raise _fail(layer, f"at most {limit} elements of a padded row, found {padded}")
    looked_at = channels * math.prod(out) * math.prod(kernel)
    if looked_at > MAX_WINDOW_ELEMENTS:
        raise _fail(layer, f"at most {MAX_WINDOW_ELEMENTS} elements in all windows of a row, found {looked_at}")
    return out


def _conv2d(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    channels, _, _ = _image(layer, rows[0])
    weight, groups = params[0], layer.ints[8]
    if groups < 1 or channels % groups:
        raise _fail(layer, f"{channels} channels do not divide into {groups} groups")
    if len(weight) != 4 or weight[1] != channels // groups or weight[0] % groups:
        raise _fail(layer, f"weight must be (out, {channels // groups}, kh, kw) for {groups} groups, found {weight}")
    if len(params) == 2 and params[1] != (weight[0],):
        raise _fail(layer, f"bias must be ({weight[0]},), found {params[1]}")
    out = _window(layer, rows[0], weight[2:], layer.ints[6:8])
    _check_products(layer, math.prod(out) * math.prod(weight))
    return (weight[0], *out)


def _pool(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    if layer.op == "avg_pool2d" and layer.ints[8] not in (0, 1):
        raise _fail(layer, f"count_include_pad must be 0 or 1, found {layer.ints[8]}")
    return (rows[0][0], *_window(layer, rows[0], layer.ints[:2], (1, 1)))


def _flatten(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    return (math.prod(rows[0]),)


def _reshape(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    if any(n < 1 for n in layer.ints) or math.prod(layer.ints) != math.prod(rows[0]):
        raise _fail(layer, f"cannot reshape a row of shape {rows[0]} to {layer.ints}")
    return tuple(layer.ints)


def _affine(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    if any(shape != (rows[0][0],) for shape in params):
        raise _fail(layer, f"scale and shift must be ({rows[0][0]},), found {params[0]} and {params[1]}")
    return rows[0]


def _broadcast(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    if len(rows) + len(params) != 2:
        raise _fail(layer, "expected two inputs, or one input and one parameter")
    left, right = rows[0], (*rows, *params)[1]
    if len(right) > len(left) or (len(rows) == 2 and len(right) != len(left)):
        raise _fail(layer, f"shapes {left} and {right} do not broadcast row by row")
    right = (1,) * (len(left) - len(right)) + right
    if any(a != b and 1 not in (a, b) for a, b in zip(left, right, strict=True)):
        raise _fail(layer, f"shapes {left} and {right} do not broadcast")
    return tuple(max(a, b) for a, b in zip(left, right, strict=True))


def _concat(layer: Layer, rows: Sequence[Shape], params: Sequence[Shape]) -> Shape:
    axis, first = layer.ints[0], rows[0]
    if not 0 <= axis < len(first):
        raise _fail(layer, f"axis {axis} does not exist in a row of shape {first}")
    for row in rows[1:]:
        if len(row) != len(first) or any(a != b for i, (a, b) in enumerate(zip(first, row, strict=True)) if i != axis):
            raise _fail(layer, f"shapes {first} and {row} do not join along axis {axis}")
    return (*first[:axis], sum(row[axis] for row in rows), *first[axis + 1 :])


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "linear": Operator((1, 1), (1, 2), (0, 0), _linear),
        "conv2d": Operator((1, 1), (1, 2), (9, 9), _conv2d),
        "relu": Operator((1, 1), (0,), (0, 0), _same),
        "sigmoid": Operator((1, 1), (0,), (0, 0), _same),
        "tanh": Operator((1, 1), (0,), (0, 0), _same),
        "softmax": Operator((1, 1), (0,), (0, 0), _same),
        "max_pool2d": Operator((1, 1), (0,), (8, 8), _pool),
        "avg_pool2d": Operator((1, 1), (0,), (9, 9), _pool),
        "flatten": Operator((1, 1), (0,), (0, 0), _flatten),
        "reshape": Operator((1, 1), (0,), (1, MAX_RANK), _reshape),
        "affine": Operator((1, 1), (2,), (0, 0), _affine),
        "add": Operator((1, 2), (0, 1), (0, 0), _broadcast),
        "mul": Operator((1, 2), (0, 1), (0, 0), _broadcast),
        "concat": Operator((2, 256), (0,), (1, 1), _concat),
    }
)

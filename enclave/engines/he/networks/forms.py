"""A polynomial network as linear forms of products: what each party computes, found from the public architecture.

Every layer that is no product of two layers is affine, so a value of the network is a linear form of *atoms* with
coefficients that the buyer multiplies out alone, in the clear: atom 0 is the row, and every product of two values is
an atom more. A square is a product of a value with itself; a z^2 + b z + c is a form of the atoms z^2 and z.

    x -> z = W1 x + b1 -> z^2 -> W2 z^2 + b2      atoms: x, z * z; forms: z of x, the output of z * z

Forms are found layer by layer, by pushing unit vectors through the layer (`reference.apply_layer`), so a convolution,
a mean over a window or a change of shape is just another matrix. Without weights, as an owner, a plan and a check know
the network, a form has the same atoms and shape and no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from enclave.errors import BadModel
from enclave.messages import Architecture, Layer
from enclave.models.graph import INPUT, Shape, shapes
from enclave.models.reference import apply_layer

__all__ = ["AFFINE_OPERATORS", "FINAL_OPERATORS", "Form", "Patches", "PolynomialNetwork", "Product", "read_network"]

Floats = NDArray[np.float64]
AFFINE_OPERATORS = ("linear", "conv2d", "affine", "add", "mul", "avg_pool2d", "flatten", "reshape", "concat")
FINAL_OPERATORS = ("sigmoid", "softmax", "tanh")
MAX_ATOM = 1 << 14  # elements of an atom: forms of it are dense matrices
MAX_PLACES = 1 << 16  # pixels of all windows of a convolution that is computed window by window
MAX_FORM = 1 << 26  # elements of these matrices


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """A form of the row that is a convolution: one small matrix for all its windows (im2col).

    Attributes:
        places: [windows, pixels], what each window reads of a row; -1 reads a zero.
        kernel: [pixels, channels], None where there are no weights. The form's elements are channel-major.
    """

    places: NDArray[np.int64] = field(repr=False)
    channels: int
    kernel: Floats | None = field(repr=False)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n, inputs] -> [n windows, pixels]."""
        padded = np.concatenate([rows, np.zeros((len(rows), 1), rows.dtype)], axis=1)
        return padded[:, self.places].reshape(-1, self.places.shape[1])

    def joined(self, products: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """[..., n windows, channels] -> [..., n, channels windows]."""
        shaped = products.reshape(*products.shape[:-2], -1, len(self.places), self.channels)
        return shaped.swapaxes(-1, -2).reshape(*products.shape[:-2], -1, self.channels * len(self.places))


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """bias + sum_a atom_a @ part_a.

    Attributes:
        layer: its name, for errors.
        atoms: indices of the atoms it is made of, ascending.
        parts: by atom, [atom's size, size]; None where there are no weights.
        bias: [size].
        alias: the atom that this form is, element by element, or None.
        patches: how it is computed if it is a convolution of the row.
    """

    layer: str
    size: int
    atoms: tuple[int, ...]
    parts: Mapping[int, Floats] | None = field(repr=False)
    bias: Floats | None = field(repr=False)
    alias: int | None = None
    patches: Patches | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """An atom: the product, element by element, of two forms (indices into `PolynomialNetwork.forms`)."""

    left: int
    right: int
    size: int


@dataclass(frozen=True, slots=True)
class PolynomialNetwork:
    """What is to be computed, in order.

    Attributes:
        forms: each made of the input and of earlier products; the last one is the output.
        products: product i is atom i + 1.
        output_shape: of the architecture; the output form of a softmax has one element less on the last axis.
        final: the function that the buyer applies to what it has received, or "".
    """

    inputs: int
    forms: tuple[Form, ...]
    products: tuple[Product, ...]
    output_shape: Shape
    final: str

    @property
    def output(self) -> Form:
        """The form that is released."""
        return self.forms[-1]

    def atom_size(self, atom: int) -> int:
        """Elements of an atom for one row."""
        return self.inputs if atom == 0 else self.products[atom - 1].size

    def stages(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """(forms, products) that can be computed together, stage by stage: a form needs the products before it."""
        form_stage: dict[int, int] = {}
        atom_stage = {0: 0}
        waiting = list(enumerate(self.products))
        for index, form in enumerate(self.forms):
            while waiting and max(waiting[0][1].left, waiting[0][1].right) < index:
                at, product = waiting.pop(0)
                atom_stage[at + 1] = max(form_stage[product.left], form_stage[product.right]) + 1
            form_stage[index] = max((atom_stage[atom] for atom in form.atoms), default=0)
        count = max(form_stage.values()) + 1
        forms = [tuple(i for i, at in form_stage.items() if at == stage) for stage in range(count)]
        products = [
            tuple(i for i in range(len(self.products)) if atom_stage[i + 1] == stage + 1) for stage in range(count)
        ]
        return tuple(zip(forms, products, strict=True))


def read_network(
    architecture: Architecture, weights: Mapping[str, Floats] | None = None, units: Floats | None = None
) -> PolynomialNetwork:
    """The forms and products of an architecture, with their numbers if there are weights.

    A final sigmoid, softmax or tanh is left to the buyer, who can invert it; of a softmax the output is the logits less
    the last one, which is all that the softmax tells.

    Args:
        units: the columns of the rows that will be scored are those of the architecture times these; [inputs]; public.

    Raises: BadModel: a layer that is no polynomial of its inputs, naming it; or one that is too large for this engine.
    """
    return _Reader(architecture, weights, units).read()


class _Value:
    """A value of the network while it is being read: parts [atom's size, *shape] and a bias [*shape]."""

    __slots__ = ("alias", "atoms", "bias", "parts", "patches", "shape")

    def __init__(
        self,
        shape: Shape,
        atoms: frozenset[int],
        parts: dict[int, Floats] | None,
        bias: Any,
        alias: int | None = None,
        patches: Patches | None = None,
    ) -> None:
        self.shape, self.atoms, self.parts, self.bias = shape, atoms, parts, bias
        self.alias, self.patches = alias, patches


class _Reader:
    def __init__(self, architecture: Architecture, weights: Mapping[str, Floats] | None, units: Floats | None) -> None:
        self._architecture, self._weights, self._units = architecture, weights, units
        self._shapes = shapes(architecture)
        self._forms: list[Form] = []
        self._known: dict[str, int] = {}  # forms by the layer that they are values of
        self._products: list[Product] = []
        self._sizes = [math.prod(architecture.input_shape)]

    def read(self) -> PolynomialNetwork:
        layers, final = list(self._architecture.layers), ""
        if len(layers) > 1 and layers[-1].op in FINAL_OPERATORS and layers[-1].inputs == (layers[-2].name,):
            final = layers.pop().op
        values = {INPUT: self._input()}
        for layer in layers:
            if layer.op not in AFFINE_OPERATORS:
                raise BadModel(
                    f"layer {layer.name!r} ({layer.op}) is no polynomial, and engine he computes nothing else",
                    hint="hybrid or mpc would do: --engine hybrid, or --engine mpc",
                )
            values[layer.name] = self._layer(layer, values)
        last = layers[-1].name
        if final == "softmax" and self._shapes[last][-1] == 1:
            raise BadModel(f"layer {self._architecture.layers[-1].name!r} (softmax) of one output is always 1")
        output = self._form(last, _differences(values[last]) if final == "softmax" else values[last])
        if output != len(self._forms) - 1:
            self._forms.append(self._forms[output])
        return PolynomialNetwork(self._sizes[0], tuple(self._forms), tuple(self._products), self._shapes[last], final)

    def _input(self) -> _Value:
        value = self._atom(0, tuple(self._architecture.input_shape), "the input")
        value.alias = None
        if value.parts is not None and self._units is not None:
            value.parts[0] = value.parts[0] / self._units.reshape(-1, *(1,) * len(value.shape))
        return value

    def _atom(self, atom: int, shape: Shape, layer: str) -> _Value:
        size = math.prod(shape)
        if size > MAX_ATOM:
            raise BadModel(
                f"{layer} has {size} elements a row, engine he takes at most {MAX_ATOM}",
                hint="hybrid or mpc would do: --engine hybrid, or --engine mpc",
            )
        if self._weights is None:
            return _Value(shape, frozenset((atom,)), None, None, atom)
        return _Value(shape, frozenset((atom,)), {atom: np.eye(size).reshape(size, *shape)}, np.zeros(shape), atom)

    def _layer(self, layer: Layer, values: Mapping[str, _Value]) -> _Value:
        inputs, shape = [values[name] for name in layer.inputs], self._shapes[layer.name]
        if layer.op == "mul" and len(inputs) == 2:
            return self._product(layer, inputs, shape)
        atoms = frozenset().union(*(value.atoms for value in inputs))
        largest = sum(self._sizes[atom] for atom in atoms) * math.prod(shape)
        if largest > MAX_FORM:
            raise BadModel(
                f"layer {layer.name!r} ({layer.op}) is a matrix of {largest} numbers, engine he takes {MAX_FORM}",
                hint="hybrid or mpc would do: --engine hybrid, or --engine mpc",
            )
        same = layer.op in ("flatten", "reshape")
        alias, patches = (inputs[0].alias, inputs[0].patches) if same else (None, self._patches(layer))
        if self._weights is None:
            return _Value(shape, atoms, None, None, alias, patches)
        weights = [self._weights[name] for name in layer.parameters]
        zeros = apply_layer(layer, [np.zeros((1, *value.shape)) for value in inputs], weights)
        parts: dict[int, Floats] = {}
        for atom in sorted(atoms):
            absent = self._sizes[atom]
            units = [
                value.parts[atom]
                if value.parts is not None and atom in value.parts
                else np.zeros((absent, *value.shape))
                for value in inputs
            ]
            parts[atom] = apply_layer(layer, units, weights) - zeros
        bias = apply_layer(layer, [value.bias[None] for value in inputs], weights)[0]
        return _Value(shape, atoms, parts, bias, alias, patches)

    def _patches(self, layer: Layer) -> Patches | None:
        """How a convolution of the row reads it, if all of its columns have one unit."""
        units = np.ones(1) if self._units is None else self._units
        if layer.op != "conv2d" or layer.inputs != (INPUT,) or layer.ints[8] != 1 or (units != units[0]).any():
            return None
        weight = next(t.shape for t in self._architecture.parameters if t.name == layer.parameters[0])
        if math.prod(self._shapes[layer.name][1:]) * math.prod(weight[1:]) > MAX_PLACES:
            return None
        places = window_places(self._shapes[INPUT], (weight[2], weight[3]), layer.ints)
        if self._weights is None:
            return Patches(places, weight[0], None)
        return Patches(places, weight[0], self._weights[layer.parameters[0]].reshape(weight[0], -1).T / units[0])

    def _product(self, layer: Layer, inputs: list[_Value], shape: Shape) -> _Value:
        names = layer.inputs
        spread = [value if value.shape == shape else _broadcast(value, shape) for value in inputs]
        places = [
            self._form(name if value is plain else f"{name}:{layer.name}", value)
            for name, value, plain in zip(names, spread, inputs, strict=True)
        ]
        self._products.append(Product(places[0], places[1], math.prod(shape)))
        self._sizes.append(math.prod(shape))
        return self._atom(len(self._products), shape, f"layer {layer.name!r} ({layer.op})")

    def _form(self, name: str, value: _Value) -> int:
        if name not in self._known:
            size = math.prod(value.shape)
            parts = (
                None if value.parts is None else {atom: part.reshape(-1, size) for atom, part in value.parts.items()}
            )
            bias = None if value.bias is None else value.bias.reshape(size)
            form = Form(name, size, tuple(sorted(value.atoms)), parts, bias, value.alias, value.patches)
            self._known[name] = len(self._forms)
            self._forms.append(form)
        return self._known[name]


def window_places(image: Shape, kernel: tuple[int, int], ints: Sequence[int]) -> NDArray[np.int64]:
    """Elements of an image (C, H, W), counted row-major, under each window: [windows, C KH KW]; -1 in the padding.

    Args:
        ints: sh sw pt pl pb pr dh dw, as a conv2d has them.
    """
    sh, sw, top, left, bottom, right, dh, dw = ints[:8]
    places = np.arange(math.prod(image), dtype=np.int64).reshape(image)
    padded = np.pad(places, ((0, 0), (top, bottom), (left, right)), constant_values=-1)
    span = (dh * (kernel[0] - 1) + 1, dw * (kernel[1] - 1) + 1)
    views = sliding_window_view(padded, span, axis=(1, 2))[:, ::sh, ::sw, ::dh, ::dw]
    return views.transpose(1, 2, 0, 3, 4).reshape(-1, image[0] * math.prod(kernel))


def _differences(value: _Value) -> _Value:
    """Each element less the last one of its axis, and without that."""
    shape = (*value.shape[:-1], value.shape[-1] - 1)
    if value.parts is None:
        return _Value(shape, value.atoms, None, None)
    parts = {atom: part[..., :-1] - part[..., -1:] for atom, part in value.parts.items()}
    return _Value(shape, value.atoms, parts, value.bias[..., :-1] - value.bias[..., -1:])


def _broadcast(value: _Value, shape: Shape) -> _Value:
    if value.parts is None:
        return _Value(shape, value.atoms, None, None)
    parts = {
        atom: np.broadcast_to(
            part.reshape(len(part), *(1,) * (len(shape) - len(value.shape)), *value.shape), (len(part), *shape)
        )
        for atom, part in value.parts.items()
    }
    return _Value(shape, value.atoms, parts, np.broadcast_to(value.bias, shape))

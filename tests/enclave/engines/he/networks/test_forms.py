"""Networks read as forms and products, evaluated in float64 and compared with the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from enclave.engines.he.networks.forms import PolynomialNetwork, read_network, window_places
from enclave.errors import BadModel
from enclave.messages import Architecture, Layer
from enclave.models.builder import GraphBuilder
from enclave.models.model import Model
from enclave.models.reference import forward_float
from tests.enclave.engines.he.network_models import convolutional, dense, power, quadratic, residual, square


def evaluated(network: PolynomialNetwork, x: np.ndarray) -> np.ndarray:
    atoms, forms = [x], {}
    for indices, products in network.stages():
        for index in indices:
            form = network.forms[index]
            assert form.parts is not None
            forms[index] = form.bias + sum(atoms[atom] @ form.parts[atom] for atom in form.atoms)
        for index in products:
            assert len(atoms) == index + 1
            product = network.products[index]
            atoms.append(forms[product.left] * forms[product.right])
    return forms[len(network.forms) - 1]


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        (dense([5, 4, 3]), 2),
        (dense([5, 4, 3, 2]), 3),
        (quadratic(5, 4, 2), 2),
        (convolutional(), 3),
        (power(), 3),
        (residual(), 3),
    ],
    ids=["square", "two squares", "quadratic", "convolutional", "power", "residual"],
)
def test_forms_are_the_network(model: Model, stages: int) -> None:
    x = np.random.default_rng(1).normal(size=(7, math.prod(model.architecture.input_shape)))
    network, public = read_network(model.architecture, model.weights), read_network(model.architecture)
    expected = forward_float(model, x).reshape(7, -1)
    assert np.abs(evaluated(network, x) - expected).max() < 1e-9 * max(1.0, np.abs(expected).max())
    assert len(network.stages()) == stages
    # without weights the same steps are found, and nothing else
    assert network.stages() == public.stages() and network.products == public.products
    for ours, theirs in zip(network.forms, public.forms, strict=True):
        assert (ours.atoms, ours.size, ours.alias, ours.layer) == (
            theirs.atoms,
            theirs.size,
            theirs.alias,
            theirs.layer,
        )
        assert (ours.patches is None) == (theirs.patches is None)
        assert theirs.parts is None and theirs.bias is None


def test_units_of_columns_are_divided_out() -> None:
    model, units = dense([5, 4, 3]), np.array([1.0, 2.0, 0.5, 8.0, 4.0])
    x = np.random.default_rng(2).normal(size=(7, 5))
    network = read_network(model.architecture, model.weights, units)
    assert np.abs(evaluated(network, x * units) - forward_float(model, x)).max() < 1e-9


def test_a_softmax_leaves_the_differences_of_logits() -> None:
    model = dense([5, 4, 3])
    last = Layer("softmax", "final", (model.architecture.layers[-1].name,))
    architecture = Architecture((5,), (*model.architecture.layers, last), model.architecture.parameters)
    x = np.random.default_rng(3).normal(size=(7, 5))
    network = read_network(architecture, model.weights)
    logits = forward_float(model, x)
    assert network.final == "softmax" and network.output.size == 2
    assert np.abs(evaluated(network, x) - (logits[:, :-1] - logits[:, -1:])).max() < 1e-9


@pytest.mark.parametrize("op", ["relu", "sigmoid", "tanh"])
def test_other_activations_are_refused_by_name(op: str) -> None:
    model = dense([5, 4, 3])
    last = model.architecture.layers[-1]
    middle = (Layer(op, "activation", last.inputs), Layer("linear", "z", ("activation",), last.parameters))
    architecture = Architecture((5,), (*model.architecture.layers[:-1], *middle), model.architecture.parameters)
    with pytest.raises(BadModel, match=rf"layer 'activation' \({op}\)") as caught:
        read_network(architecture)
    assert "hybrid or mpc" in caught.value.hint


def test_a_wide_input_is_refused() -> None:
    builder = GraphBuilder((20_000,))
    model = builder.build(square(builder, builder.linear("thin", "input", np.ones((20_000, 1)), None)))
    with pytest.raises(BadModel, match="the input has 20000 elements"):
        read_network(model.architecture)


def test_windows_of_a_padded_and_dilated_image() -> None:
    image = np.arange(2 * 5 * 4).reshape(2, 5, 4)
    places = window_places((2, 5, 4), (2, 3), (2, 1, 1, 0, 0, 1, 2, 1))
    padded = np.pad(image, ((0, 0), (1, 0), (0, 1)), constant_values=-1)
    first = padded[:, 0:4:2, 0:3].reshape(-1)
    assert places.shape == (2 * 3, 2 * 2 * 3)
    assert (places[0] == first).all()
    assert (places[-1] == padded[:, 2:6:2, 2:5].reshape(-1)).all()


def test_no_weight_is_shown() -> None:
    shown = repr(read_network(dense([5, 4, 3]).architecture, dense([5, 4, 3]).weights))
    assert "array" not in shown and "." not in shown.replace("...", "")

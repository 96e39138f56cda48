"""What each engine can be asked for: who needs a dealer, and which layer stands in the way of encryption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enclave.errors import BadModel, BadSpec
from enclave.messages import Architecture, JobSpec, Layer, TensorType, Training
from enclave.models import dense_architecture
from enclave.workloads import check_spec
from tests.enclave.workloads.made_jobs import classes, job

X = np.linspace(-1, 1, 30).reshape(10, 3)


def dealt(architecture: Architecture, *outputs: str, **rest: Any) -> JobSpec:
    """A job of engine he with a dealer."""
    return replace(job(X, classes(2), architecture, outputs or ("accuracy",), **rest), engine="he")


def square() -> Architecture:
    layers = (
        Layer("linear", "first", ("input",), ("a",)),
        Layer("mul", "square", ("first", "first")),
        Layer("linear", "second", ("square",), ("b",)),
        Layer("sigmoid", "probability", ("second",)),
    )
    return Architecture((3,), layers, (TensorType("a", (3, 4)), TensorType("b", (4, 1))))


def test_polynomial_networks_with_a_dealer_pass() -> None:
    check_spec(dealt(dense_architecture(3, [], 1), "accuracy", "auc", "confusion"))
    check_spec(dealt(square(), "accuracy", "brier"))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_layer_that_is_no_polynomial_is_named(activation: str) -> None:
    architecture = dense_architecture(3, [4], 1, activation)
    layer = architecture.layers[1].name
    with pytest.raises(BadModel, match=f"layer {layer}: .* found {activation}") as caught:
        check_spec(dealt(architecture))
    assert "hybrid or mpc would do" in str(caught.value.hint)
    check_spec(replace(dealt(architecture), engine="hybrid"))


def test_a_sigmoid_between_layers_is_no_polynomial() -> None:
    first, second, *rest = square().layers
    layers = (first, Layer("sigmoid", second.name, ("first",)), *rest)
    with pytest.raises(BadModel, match=r"layer square: .* found sigmoid"):
        check_spec(dealt(Architecture((3,), layers, square().parameters)))


def test_an_encrypted_training_takes_no_dealer() -> None:
    training = Training("logistic", 1, 5, 0.1)
    with pytest.raises(BadSpec, match="takes no dealer"):
        check_spec(dealt(dense_architecture(3, [], 1), "model", training=training))


def test_rows_meet_weights_first() -> None:
    layers = (Layer("mul", "square", ("input", "input")), Layer("linear", "last", ("square",), ("a",)))
    with pytest.raises(BadModel, match="layer square: engine he multiplies rows with weights first, found mul"):
        check_spec(dealt(Architecture((3,), layers, (TensorType("a", (3, 1)),))))
    flat = (Layer("flatten", "flat", ("input",)), Layer("linear", "last", ("flat",), ("a",)))
    check_spec(dealt(Architecture((3,), flat, (TensorType("a", (3, 1)),))))


def test_rows_of_several_owners_are_standardised_in_a_linear_layer_alone() -> None:
    check_spec(dealt(dense_architecture(3, [], 1), owners=(4, 6), standardise=True))
    twice = (
        Layer("linear", "one", ("input",), ("a",)),
        Layer("linear", "two", ("input",), ("a",)),
        Layer("add", "last", ("one", "two")),
    )
    network = Architecture((3,), twice, (TensorType("a", (3, 1)),))
    with pytest.raises(BadModel, match="standardises rows of several parties in one first linear layer alone"):
        check_spec(dealt(network, owners=(4, 6), standardise=True))
    check_spec(dealt(network, standardise=True))

"""The public plan of a network under encryption, and what the buyer checks before it starts."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.he.networks.crossterms import Moduli
from enclave.engines.he.networks.forms import read_network
from enclave.engines.he.networks.plan import accuracy, check_range, plan_network
from enclave.errors import BadModel, RangeExceeded
from enclave.models.builder import GraphBuilder
from enclave.models.model import Model
from enclave.models.reference import forward_float
from tests.enclave.engines.he.network_models import convolutional, dense, square


@pytest.mark.parametrize(
    ("widths", "degree", "primes", "moduli"),
    [
        ([5, 4, 3], 8192, 4, 2),
        ([5, 4, 3, 2], 16384, 5, 4),
        ([5, 4, 3, 2, 1], 32768, 9, 8),
        ([5, 4, 3, 2, 2, 1], 32768, 17, 16),
    ],
)
def test_depth_costs_moduli(widths: list[int], degree: int, primes: int, moduli: int) -> None:
    plan = plan_network(read_network(dense(widths).architecture))
    assert (plan.parameters.degree, len(plan.parameters.primes), plan.moduli) == (degree, primes, moduli)
    assert plan.row_bits == 14 and plan.weight_bits >= 14
    assert plan.form_bits[0] == plan.row_bits + plan.weight_bits
    assert max(plan.form_bits) + 20 < plan.modulus_bits
    assert 2.0**-21 < plan.release_unit <= 2.0**-19 and plan.release_bits <= 60
    hiding = plan.hiding(Moduli(plan.parameters, plan.moduli), 1000)
    assert min(statement.bits for statement in hiding) > 60


def test_too_deep_and_too_wide_are_refused_by_name() -> None:
    with pytest.raises(BadModel, match=r"layer 'dense\d' is too deep: it needs numbers of \d+ bits") as caught:
        plan_network(read_network(dense([2, 2, 2, 2, 2, 2, 2]).architecture))
    assert "hybrid or mpc" in caught.value.hint
    builder = GraphBuilder((2,))
    wide = square(builder, builder.linear("wide", "input", np.ones((2, 9000)), None))
    deep = square(builder, builder.linear("next", wide, np.ones((9000, 2)), None))
    plan = plan_network(read_network(builder.build(deep).architecture))
    assert plan.parameters.degree == 16384  # wide layers take a larger ring


def test_the_stated_error_holds_and_is_not_idle() -> None:
    """Rounding rows and weights as the protocol does moves the outputs by less than is stated, and not by nothing."""
    model, rng = dense([8, 4, 2]), np.random.default_rng(0)
    plan = plan_network(read_network(model.architecture, model.weights))
    x = rng.uniform(-2, 2, (200, 8))
    rounded = Model(
        model.architecture,
        {k: np.rint(w * 2.0**plan.weight_bits) / 2.0**plan.weight_bits for k, w in model.weights.items()},
    )
    moved = np.abs(
        forward_float(rounded, np.rint(x * 2.0**plan.row_bits) / 2.0**plan.row_bits) - forward_float(model, x)
    ).max()
    stated = accuracy(plan, np.full(8, 2.0))
    assert 0 < moved < stated.error < 100 * moved
    assert (np.abs(forward_float(model, x)) <= stated.bounds[-1]).all()


def test_values_beyond_the_moduli_are_refused() -> None:
    model = dense([8, 4, 2])
    large = {name: weight * 2.0**12 for name, weight in model.weights.items()}
    plan = plan_network(read_network(model.architecture, model.weights))
    check_range(plan, np.full(8, 16.0))
    with pytest.raises(RangeExceeded, match="dense1"):
        check_range(plan_network(read_network(model.architecture, large)), np.full(8, 16.0))


def test_an_output_beyond_what_is_released_is_refused() -> None:
    """The moduli of two squares have room for more than 2^39, the released word has not."""
    model = dense([8, 4, 3, 2])
    large = {name: weight * (2.0**40 if name.startswith("dense2") else 1.0) for name, weight in model.weights.items()}
    with pytest.raises(RangeExceeded, match="dense2"):
        check_range(plan_network(read_network(model.architecture, large)), np.full(8, 2.0))


def test_large_rows_take_more_moduli() -> None:
    network = read_network(dense([5, 4, 3]).architecture)
    assert [plan_network(network, magnitude).moduli for magnitude in (2.0, 8.0, 180.0, 1000.0)] == [2, 2, 3, 3]


def test_a_plan_describes_itself() -> None:
    said = plan_network(read_network(dense([5, 4, 3]).architecture)).describe()
    assert said == (
        "5 -> 4 -> 3, 1 products: bfv N=8192 [50+50+50+50] 200 of 218 bits, numbers of 100 bits, rows to 2^-14, "
        "weights to 2^-14, outputs to 2^-20"
    )


def test_rows_are_taken_in_chunks_that_fit_in_memory() -> None:
    assert plan_network(read_network(dense([30, 16, 1]).architecture)).chunk_rows == 8192
    assert plan_network(read_network(convolutional(28, 4, 7, 3).architecture)).chunk_rows == (1 << 20) // (64 * 49)

"""The oracle itself: against numpy, torch and its own refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from enclave.engines.interface import Engine, Permit, Secret
from enclave.engines.plain import InsecurePlainEngine
from enclave.errors import BadSpec, PolicyRefused, RangeExceeded

RNG = np.random.default_rng(0)


def enter(engine: Engine, value: np.ndarray, *, integer: bool = False) -> Secret:
    array = np.asarray(value)
    return engine.private(array, array.shape, 0, integer=integer)


def clear(engine: Engine, x: Secret) -> np.ndarray:
    opened = engine.open("x", x, 0, Permit("job", ["x"]))
    assert opened is not None
    return opened


@pytest.fixture
def engine() -> InsecurePlainEngine:
    return InsecurePlainEngine()


def test_it_satisfies_the_protocol(engine: InsecurePlainEngine) -> None:
    def takes(one: Engine) -> int:
        return one.frac_bits

    assert takes(engine) == 20


def test_integers_and_numbers_mix_as_declared(engine: InsecurePlainEngine) -> None:
    number, integer = enter(engine, np.array([0.5])), enter(engine, np.array([2]), integer=True)
    assert not engine.add(number, integer).is_integer
    assert not engine.mul(number, integer).is_integer
    assert engine.mul(integer, integer).is_integer
    assert engine.ge_zero(number).is_integer
    assert engine.times_integer(integer, 3).is_integer
    assert not engine.scale(integer, 0.5).is_integer
    assert clear(engine, engine.as_integer(number)).tolist() == [1 << 19]


def test_a_secret_shows_nothing(engine: InsecurePlainEngine) -> None:
    assert repr(enter(engine, np.array([123.25]))) == "<secret number (1,)>"


def test_opened_arrays_are_copies(engine: InsecurePlainEngine) -> None:
    secret = enter(engine, np.array([1.0]))
    clear(engine, secret)[0] = 9
    assert clear(engine, secret).tolist() == [1.0]


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 0, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2)])
def test_convolution_and_pools_equal_torch(
    engine: InsecurePlainEngine, padding: tuple[int, int, int, int], stride: tuple[int, int]
) -> None:
    x, w = RNG.normal(size=(2, 4, 7, 6)), RNG.normal(size=(6, 2, 3, 2))
    top, left, bottom, right = padding
    edges = (left, right, top, bottom)
    pad, t = torch.nn.functional.pad, torch.from_numpy(x)
    found = engine.conv2d(enter(engine, x), enter(engine, w), stride=stride, padding=padding, dilation=(2, 1), groups=2)
    expected = torch.nn.functional.conv2d(pad(t, edges), torch.from_numpy(w), stride=stride, dilation=(2, 1), groups=2)
    np.testing.assert_allclose(clear(engine, found), expected.numpy(), atol=1e-12)
    found = engine.max_pool2d(enter(engine, x), kernel=(2, 3), stride=stride, padding=padding)
    expected = torch.nn.functional.max_pool2d(pad(t, edges, value=-torch.inf), (2, 3), stride)
    np.testing.assert_allclose(clear(engine, found), expected.numpy())
    for counted in (True, False):
        found = engine.avg_pool2d(
            enter(engine, x), kernel=(2, 3), stride=stride, padding=padding, count_include_pad=counted
        )
        sums = torch.nn.functional.avg_pool2d(pad(t, edges), (2, 3), stride)
        part = torch.nn.functional.avg_pool2d(pad(torch.ones_like(t), edges), (2, 3), stride)
        np.testing.assert_allclose(clear(engine, found), (sums if counted else sums / part).numpy(), atol=1e-12)


def test_functions(engine: InsecurePlainEngine) -> None:
    x = np.array([[-800.0, 0.0, 3.0], [700.0, 700.0, -1.0]])
    secret = enter(engine, x)
    np.testing.assert_allclose(clear(engine, engine.softmax(secret)).sum(axis=1), 1.0)
    assert clear(engine, engine.argmax_onehot(secret)).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert clear(engine, engine.ge_zero(secret)).tolist() == [[0, 1, 1], [1, 1, 0]]
    np.testing.assert_allclose(clear(engine, engine.sigmoid(secret)), torch.sigmoid(torch.from_numpy(x)), atol=1e-15)
    np.testing.assert_allclose(clear(engine, engine.inverse_sqrt(enter(engine, np.array([4.0])), 1, 4)), [0.5])
    n, d = np.array([0, 3, 0]), np.array([5, 4, 0])
    quotient = engine.divide_integers(enter(engine, n, integer=True), enter(engine, d, integer=True), 3)
    assert clear(engine, quotient).tolist() == [0.0, 0.75, 0.0]


def test_sort_breaks_ties_by_the_bit(engine: InsecurePlainEngine) -> None:
    keys, bits = np.array([2.0, 1.0, 2.0, 1.0]), np.array([1, 1, 0, 0])
    k, b = engine.sort_with_bit(enter(engine, keys), enter(engine, bits, integer=True))
    assert clear(engine, k).tolist() == [1, 1, 2, 2]
    assert clear(engine, b).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "act",
    [
        lambda e, x: e.matmul(x, x),
        lambda e, x: e.add(x, np.zeros(2)),
        lambda e, x: e.mul(x, e.zeros((4, 3))),
        lambda e, x: e.reshape(x, (7,)),
        lambda e, x: e.transpose(x, (0, 0)),
        lambda e, x: e.concat([x, e.zeros((2, 2))], axis=0),
        lambda e, x: e.concat([x, e.zeros((2, 3), integer=True)], axis=0),
        lambda e, x: e.concat([], axis=0),
        lambda e, x: e.broadcast(x, (3,)),
        lambda e, x: e.rows(x, 1, 3),
        lambda e, x: e.take(x, np.array([3]), axis=1),
        lambda e, x: e.times_integer(x, 0.5),
        lambda e, x: e.sum(x, axis=2),
        lambda e, x: e.sort_with_bit(x, x),
        lambda e, x: e.sigmoid(e.ge_zero(x)),
        lambda e, x: e.as_integer(e.ge_zero(x)),
        lambda e, x: e.conv2d(x, x, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1),
        lambda e, x: e.max_pool2d(e.reshape(x, (1, 1, 2, 3)), kernel=(3, 1), stride=(1, 1), padding=(0, 0, 0, 0)),
        lambda e, x: e.max_pool2d(e.reshape(x, (1, 1, 2, 3)), kernel=(1, 1), stride=(1, 1), padding=(1, 0, 0, 0)),
        lambda e, x: e.private(None, (2,), 0),
        lambda e, x: e.private(np.zeros(3), (2,), 0),
        lambda e, x: e.private(np.zeros(2), (2,), 2),
        lambda e, x: e.private(np.array([np.nan]), (1,), 0),
        lambda e, x: e.private(np.array([0.5]), (1,), 0, integer=True),
        lambda e, x: e.private(np.array(["1"]), (1,), 0),
    ],
)
def test_shapes_and_types_are_checked(
    engine: InsecurePlainEngine, act: Callable[[InsecurePlainEngine, Secret], object]
) -> None:
    with pytest.raises(BadSpec):
        act(engine, engine.zeros((2, 3)))


def test_nothing_opens_without_a_permit(engine: InsecurePlainEngine) -> None:
    with pytest.raises(PolicyRefused):
        engine.open("predictions", engine.zeros((1,)), 0, Permit("job", ["accuracy"]))


@pytest.mark.parametrize("value", [0.1, 9.0])
def test_ranges_of_functions_are_checked(engine: InsecurePlainEngine, value: float) -> None:
    for function in (engine.reciprocal, engine.inverse_sqrt):
        with pytest.raises(RangeExceeded):
            function(enter(engine, np.array([value])), 0.5, 4.0)


def test_division_refuses_what_does_not_fit(engine: InsecurePlainEngine) -> None:
    with pytest.raises(RangeExceeded):
        engine.divide_integers(
            enter(engine, np.array([1]), integer=True), enter(engine, np.array([8]), integer=True), 3
        )


def test_rounding_imitates_fixed_point() -> None:
    engine = InsecurePlainEngine(4, round_to=4)
    assert clear(engine, enter(engine, np.array([0.3]))).tolist() == [0.3125]
    assert clear(engine, engine.mul(enter(engine, np.array([0.5])), enter(engine, np.array([0.0625])))).tolist() == [
        0.0
    ]


def test_rounding_finds_a_product_that_the_ring_cannot_hold() -> None:
    engine = InsecurePlainEngine(20, round_to=20)
    big = enter(engine, np.array([[3000.0]]))
    with pytest.raises(RangeExceeded, match="matmul"):
        engine.matmul(big, big)
    engine.mul(big, engine.ge_zero(big))  # by an integer: nothing is truncated


def test_repeat_counts(engine: InsecurePlainEngine) -> None:
    with engine.stage("anything"):
        assert list(engine.repeat(3)) == [0, 1, 2]

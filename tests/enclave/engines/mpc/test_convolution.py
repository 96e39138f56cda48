"""Convolution and its two gradients as matrix products: exact in the ring, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from enclave.engines.interface import Permit
from enclave.engines.mpc import windows
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.protocols.arithmetic import Conv2d, ConvInputGradient, ConvWeightGradient
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.plain import InsecurePlainEngine

CASES = [
    # conv, images, weight
    (Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 1), (3, 1, 6, 5), (4, 1, 3, 3)),
    (Conv2d((2, 1), (1, 0, 2, 1), (1, 2), 2), (2, 4, 7, 6), (6, 2, 3, 2)),
    (Conv2d((3, 2), (2, 2, 2, 2), (1, 1), 1), (2, 3, 8, 9), (2, 3, 5, 4)),
    (Conv2d((1, 1), (1, 1, 1, 1), (1, 1), 3), (1, 3, 4, 4), (3, 1, 3, 3)),
]


def made(conv: Conv2d, image: tuple[int, ...], weight: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    out = conv.shape(image, weight)
    return tuple(rng.integers(-99, 99, shape).astype(np.float64) for shape in (image, weight, out))  # type: ignore[return-value]


def by_torch(
    conv: Conv2d, x: np.ndarray, w: np.ndarray, delta: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    top, left, bottom, right = conv.padding
    image, weight = torch.from_numpy(x).requires_grad_(), torch.from_numpy(w).requires_grad_()
    padded = torch.nn.functional.pad(image, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, weight, stride=conv.stride, dilation=conv.dilation, groups=conv.groups)
    y.backward(torch.from_numpy(delta))
    assert image.grad is not None and weight.grad is not None
    return y.detach().numpy(), weight.grad.numpy(), image.grad.numpy()


def words(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int64).view(np.uint64)


@pytest.mark.parametrize("at_once", [1, 1 << 22])
@pytest.mark.parametrize(("conv", "image", "weight"), CASES)
def test_operators_are_exact(
    conv: Conv2d, image: tuple[int, ...], weight: tuple[int, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_MATRIX_WORDS", at_once)
    x, w, delta = made(conv, image, weight)
    y, dw, dx = by_torch(conv, x, w, delta)
    on_weight, on_image = ConvWeightGradient(conv, weight[2:]), ConvInputGradient(conv, image[2:])
    np.testing.assert_array_equal(conv.apply(words(x), words(w)).view(np.int64), y)
    np.testing.assert_array_equal(on_weight.apply(words(x), words(delta)).view(np.int64), dw)
    np.testing.assert_array_equal(on_image.apply(words(delta), words(w)).view(np.int64), dx)
    assert conv.shape(image, weight) == y.shape
    assert on_weight.shape(image, delta.shape) == weight and on_image.shape(delta.shape, weight) == image


def test_products_wrap_as_the_ring_does() -> None:
    conv, image, weight = CASES[1]
    rng = np.random.default_rng(1)
    x, w = (rng.integers(0, 1 << 64, shape, dtype=np.uint64) for shape in (image, weight))
    low = [[a & np.uint64(0xFFFFFFFF), a >> np.uint64(32)] for a in (x, w)]
    expected = conv.apply(low[0][0], low[1][0])
    for i, j in ((0, 1), (1, 0)):
        expected = expected + (conv.apply(low[0][i], low[1][j]) << np.uint64(32))
    np.testing.assert_array_equal(conv.apply(x, w), expected)


@pytest.mark.parametrize(("conv", "image", "weight"), CASES[:2])
def test_gradients_on_shares_open_each_operand_once(
    conv: Conv2d,
    image: tuple[int, ...],
    weight: tuple[int, ...],
    parties: int,
    run: Callable[..., object],
    evaluate: Callable[..., np.ndarray],
) -> None:
    x, w, delta = (a / 64 for a in made(conv, image, weight))
    _, dw, dx = by_torch(conv, x, w, delta)
    settings = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
    }

    def program(engine: MpcEngine, x: object, w: object, delta: object) -> object:
        engine.conv2d(x, w, **settings)
        on_weight = engine.conv2d_weight_gradient(x, delta, kernel=weight[2:], **settings)
        on_image = engine.conv2d_input_gradient(delta, w, image=image[2:], **settings)
        return engine.concat([engine.reshape(a, (int(np.prod(a.shape)),)) for a in (on_weight, on_image)], axis=0)

    found = evaluate(parties, program, x, w, delta)
    np.testing.assert_allclose(found, np.concatenate([dw.reshape(-1), dx.reshape(-1)]), atol=2.0**-19)
    plan = Recorder(parties)
    engine = MpcEngine(plan, 20)
    program(engine, *(engine.private(None, a.shape, 0) for a in (x, w, delta)))
    masked = [item for _, record in plan.records if record[0] == "open" for item in record[1:] if item[0] == "mask"]
    assert [item[2] for item in masked] == [8 * x.size, 8 * w.size, 8 * delta.size]


POOLS = [((2, 2), (2, 2), (0, 0, 0, 0)), ((3, 2), (2, 1), (1, 0, 1, 1)), ((3, 3), (1, 2), (2, 1, 0, 1))]


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_gradients_of_pooling(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    parties: int,
    evaluate: Callable[..., np.ndarray],
) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 3, 6, 5))
    top, left, bottom, right = padding
    image = torch.from_numpy(x).requires_grad_()
    padded = torch.nn.functional.pad(image, (left, right, top, bottom), value=-1e9)
    y = torch.nn.functional.max_pool2d(padded, kernel, stride)
    delta = rng.normal(size=tuple(y.shape))
    (largest,) = torch.autograd.grad(y, image, torch.from_numpy(delta))
    padded = torch.nn.functional.pad(image, (left, right, top, bottom))
    (mean,) = torch.autograd.grad(
        torch.nn.functional.avg_pool2d(padded, kernel, stride), image, torch.from_numpy(delta)
    )
    window = {"kernel": kernel, "stride": stride, "padding": padding}

    def program(engine: Any, x: Any, delta: Any) -> Any:
        pooled, gate = engine.max_pool2d_with_gate(x, **window)
        parts = (
            pooled,
            engine.max_pool2d_gradient(gate, delta),
            engine.avg_pool2d_gradient(delta, image=x.shape[2:], count_include_pad=True, **window),
        )
        return engine.concat([engine.reshape(part, (int(np.prod(part.shape)),)) for part in parts], axis=0)

    expected = np.concatenate([a.detach().numpy().reshape(-1) for a in (y, largest, mean)])
    np.testing.assert_allclose(evaluate(parties, program, x, delta), expected, atol=1e-4)
    plain = InsecurePlainEngine()
    found = program(plain, plain.private(x, x.shape, 0), plain.private(delta, delta.shape, 0))
    np.testing.assert_allclose(plain.open("y", found, 0, Permit("job", ["y"])), expected, atol=1e-12)


def test_of_equal_elements_one_gets_the_gradient(evaluate: Callable[..., np.ndarray]) -> None:
    """The same one on shares as in the clear, or a training would leave its twin."""
    x = np.array([0.0, 1, 1, 1, 2, 2, 2, 0, 5, 5, 5, 5, 0, 0, 3, 3, 1, 0, 1, 0]).reshape(5, 1, 2, 2)
    delta = np.arange(1.0, 6).reshape(5, 1, 1, 1)
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}

    def program(engine: Any, x: Any, delta: Any) -> Any:
        return engine.max_pool2d_gradient(engine.max_pool2d_with_gate(x, **window)[1], delta)

    found = evaluate(2, program, x, delta)
    assert (np.count_nonzero(found, axis=(1, 2, 3)) == 1).all() and (found.sum(axis=(2, 3)) == delta[:, :, 0, 0]).all()
    assert (x[found != 0] == x.max(axis=(2, 3)).reshape(-1)).all()
    plain = InsecurePlainEngine()
    clear = program(plain, plain.private(x, x.shape, 0), plain.private(delta, delta.shape, 0))
    np.testing.assert_array_equal(plain.open("y", clear, 0, Permit("job", ["y"])), found)

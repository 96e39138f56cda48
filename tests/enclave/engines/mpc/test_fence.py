"""CrypTen programs on our sessions agree with plain torch: functions, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.enclave.engines.mpc.fence_parties import crypten, run

G = torch.Generator().manual_seed(1)


def rand(*shape: int, low: float = -2.0, high: float = 2.0) -> torch.Tensor:
    return torch.rand(*shape, generator=G) * (high - low) + low


@dataclass
class Case:
    """`ours` of encrypted tensors (CrypTen's dialect) must equal `theirs` of plain ones.

    Attributes:
        gradient: whether the gradients of all inputs must agree too.
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    inputs: tuple[torch.Tensor, ...]
    tolerance: float = 1e-3
    gradient: bool = True


X, Y, W = rand(4, 6), rand(4, 6), rand(6, 3)
POSITIVE = rand(4, 6, low=0.05, high=6.0)
BATCH = rand(2, 4, 6)
IMAGE, KERNEL = rand(2, 4, 7, 6), rand(6, 4, 3, 3, low=-1, high=1)
SIGNAL, TAPS = rand(2, 4, 9), rand(6, 2, 3)
ONEHOT = F.one_hot(torch.tensor([0, 2, 5, 1]), 6).float()
BITS = (Y > 0).float()
INDEX = torch.tensor([2, 0, 1])
PLACES = torch.tensor([[0, 1, 2, 0, 3, 1]])


def same(function: Callable[..., Any], *inputs: torch.Tensor, **settings: Any) -> Case:
    return Case(function, function, inputs, **settings)


CASES: dict[str, Case] = {
    # arithmetic, with public operands on either side
    "add": same(lambda x, y: x + y, X, Y),
    "add float": same(lambda x: x + 0.37, X),
    "add tensor": same(lambda x: x + Y, X),
    "tensor add": same(lambda x: Y + x, X, gradient=False),
    "sub": same(lambda x, y: x - y, X, Y),
    "float sub": same(lambda x: 1.5 - x, X),
    "tensor sub": same(lambda x: Y - x, X, gradient=False),
    "neg": same(lambda x: -x, X),
    "mul": same(lambda x, y: x * y, X, Y),
    "mul itself": same(lambda x: x * x, X),
    "mul broadcast": same(lambda x, y: x * y, X, Y[:, :1]),
    "mul float": same(lambda x: x * 0.3, X),
    "mul small float": same(lambda x: x * 1e-4, X * 1000),
    "float mul": same(lambda x: 3 * x, X),
    "mul tensor": same(lambda x: x * Y, X),
    "div float": same(lambda x: x / 3, X),
    "div tensor": same(lambda x: x / POSITIVE, X, tolerance=5e-3),
    "div": same(lambda x, y: x / y, X, POSITIVE, tolerance=2e-2),
    "float div": same(lambda x: 2.0 / x, POSITIVE + 0.3, tolerance=5e-3),
    "matmul": same(lambda x, w: x @ w, X, W),
    "matmul public": same(lambda x: x @ W, X),
    "public matmul": same(lambda w: X @ w, W, gradient=False),
    "matmul vector": same(lambda x, w: x.matmul(w), X, W[:, 0]),
    "vector matmul": same(lambda x, w: x.matmul(w), X[0], W),
    "batch matmul": same(lambda x, w: x.matmul(w), BATCH, W),
    "batch matmul batch": same(lambda x, w: x.matmul(w), BATCH, rand(2, 6, 3)),
    "dot": same(lambda x, y: x.dot(y), X[0], Y[0]),
    "ger": same(lambda x, y: x.ger(y), X[0], Y[1]),
    "square": same(lambda x: x.square(), X),
    "conv2d": Case(
        lambda x, k: x.conv2d(k, stride=2, padding=1), lambda x, k: F.conv2d(x, k, stride=2, padding=1), (IMAGE, KERNEL)
    ),
    "conv2d oblong": Case(
        lambda x, k: x.conv2d(k, stride=(1, 2), padding=(0, 1), dilation=(2, 1)),
        lambda x, k: F.conv2d(x, k, stride=(1, 2), padding=(0, 1), dilation=(2, 1)),
        (IMAGE, KERNEL),
    ),
    "conv2d groups": Case(
        lambda x, k: x.conv2d(k, groups=2), lambda x, k: F.conv2d(x, k, groups=2), (IMAGE, KERNEL[:, :2])
    ),
    "conv2d public": Case(lambda x: x.conv2d(KERNEL), lambda x: F.conv2d(x, KERNEL), (IMAGE,), gradient=False),
    "conv1d": Case(
        lambda x, k: x.conv1d(k, groups=2, padding=1, stride=2),
        lambda x, k: F.conv1d(x, k, groups=2, padding=1, stride=2),
        (SIGNAL, TAPS),
    ),
    "conv_transpose2d": Case(
        lambda x, k: x.conv_transpose2d(k, stride=2, padding=1, output_padding=1),
        lambda x, k: F.conv_transpose2d(x, k, stride=2, padding=1, output_padding=1),
        (IMAGE, rand(4, 3, 3, 3)),
        gradient=False,
    ),
    "conv_transpose1d": Case(
        lambda x, k: x.conv_transpose1d(k, dilation=2),
        lambda x, k: F.conv_transpose1d(x, k, dilation=2),
        (SIGNAL, rand(4, 3, 3)),
        gradient=False,
    ),
    # shapes and places
    "getitem": same(lambda x: x[1:3, 2], X),
    "getitem list": same(lambda x: x[[0, 2, 2]], X),
    "view": same(lambda x: x.view(2, 12), X),
    "reshape": same(lambda x: x.reshape(-1), X),
    "flatten": same(lambda x: x.flatten(start_dim=1), IMAGE),
    "transpose": same(lambda x: x.transpose(0, 1) * 2, X),
    "t": same(lambda x: x.t() @ Y, X),
    "permute": same(lambda x: x.permute((2, 0, 1)), BATCH),
    "flip": same(lambda x: x.flip(0), X),
    "roll": same(lambda x: x.roll(1, 0), X),
    "squeeze": same(lambda x: x[:, :1].squeeze(1), X),
    "unsqueeze": same(lambda x: x.unsqueeze(1), X),
    "narrow": same(lambda x: x.narrow(1, 1, 3), X),
    "expand": same(lambda x: x[:, :1].expand(4, 5), X),
    "repeat": same(lambda x: x.repeat(2, 1), X),
    "unfold": same(lambda x: x.unfold(1, 3, 2), X),
    "gather": same(lambda x: x.gather(0, PLACES), X),
    "index_select": same(lambda x: x.index_select(0, INDEX), X),
    "take": same(lambda x: x.take(INDEX), X),
    "scatter": same(lambda x, y: x.scatter(0, PLACES, y[:1]), X, Y),
    "pad": Case(lambda x: x.pad((1, 2), value=0.5), lambda x: F.pad(x, (1, 2), value=0.5), (X,)),
    "split": same(lambda x: x.split(4, dim=1)[1], X),
    "unbind": same(lambda x: x.unbind(dim=1)[2], X),
    "cat": Case(lambda x, y: crypten.cat([x, y], dim=1), lambda x, y: torch.cat([x, y], 1), (X, Y)),
    "torch.cat": Case(lambda x, y: torch.cat([x, y], dim=1), lambda x, y: torch.cat([x, y], 1), (X, Y), gradient=False),
    "stack": Case(lambda x, y: crypten.stack([x, y]), lambda x, y: torch.stack([x, y]), (X, Y)),
    "index_add": same(lambda x, y: x.index_add(0, INDEX, y[:3]), X, Y, gradient=False),
    "scatter_add": same(lambda x, y: x.scatter_add(0, PLACES, y[:1]), X, Y, gradient=False),
    "cumsum": same(lambda x: x.cumsum(1), X),
    "trace": same(lambda x: x.trace(), X[:4, :4]),
    # reductions
    "sum": same(lambda x: x.sum(), X),
    "sum dim": same(lambda x: x.sum(1, keepdim=True) * 2, X),
    "sum dims": same(lambda x: x.sum([0, 2]), BATCH),
    "mean": same(lambda x: x.mean(), X),
    "mean dim": same(lambda x: x.mean(0), X),
    "var": same(lambda x: x.var(), X),
    "var biased": same(lambda x: x.var(0, unbiased=False), X),
    "var unbiased": same(lambda x: x.var(1, unbiased=True), X),
    "prod": same(lambda x: x.prod(1), X, gradient=False, tolerance=5e-3),
    "norm": Case(lambda x: x.norm(), lambda x: x.norm(), (X,)),
    "norm dim": Case(lambda x: x.norm(p=2, dim=1), lambda x: x.norm(p=2, dim=1), (X,)),
    "norm 1": Case(lambda x: x.norm(p=1), lambda x: x.abs().sum(), (X,)),
    "norm inf": Case(lambda x: x.norm(p=float("inf"), dim=0), lambda x: x.abs().max(0)[0], (X,)),
    "max": same(lambda x: x.max(), X),
    "max dim": same(lambda x: x.max(dim=1)[0], X),
    "min": same(lambda x: x.min(dim=0)[0], X),
    "argmax": Case(lambda x: x.argmax(dim=1, one_hot=False), lambda x: x.argmax(1), (X,), gradient=False),
    "argmin": Case(lambda x: x.argmin(one_hot=False), lambda x: x.argmin(), (X,), gradient=False),
    "max wide": same(lambda x: x.max(dim=1)[0], rand(3, 40)),
    # comparisons; their results are integers that meet fractions
    "gt": Case(lambda x, y: (x > y) * 0.5, lambda x, y: (x > y) * 0.5, (X, Y), gradient=False),
    "ge": Case(lambda x: (x >= 0.25) + 0.25, lambda x: (x >= 0.25) + 0.25, (X,), gradient=False),
    "lt": Case(lambda x: 1.5 - (x < 0), lambda x: 1.5 - (x < 0).float(), (X,), gradient=False),
    "le": Case(lambda x, y: (x <= y).mean(), lambda x, y: (x <= y).float().mean(), (X, Y), gradient=False),
    "eq": Case(lambda x: x.eq(x[:, :1]), lambda x: (x == x[:, :1]).float(), (X.round(),), gradient=False),
    "ne": Case(lambda x, y: x != y, lambda x, y: (x != y).float(), (X.round(), Y.round()), gradient=False),
    "where": Case(lambda x, y: crypten.where(x > 0, x, y), lambda x, y: torch.where(x > 0, x, y), (X, Y)),
    "where public": Case(lambda x, y: x.where(Y > 0, y), lambda x, y: torch.where(Y > 0, x, y), (X, Y)),
    # piecewise linear
    "relu": same(lambda x: x.relu(), X),
    "relu of zeros": same(lambda x: x.relu(), X.round()),
    "abs": same(lambda x: x.abs(), X),
    "sign": same(lambda x: x.sign(), X),
    "hardtanh": Case(lambda x: x.hardtanh(-0.5, 0.75), lambda x: F.hardtanh(x, -0.5, 0.75), (X,)),
    "relu6": Case(lambda x: (x * 5).relu6(), lambda x: F.relu6(x * 5), (X,)),
    # smooth
    "sigmoid": same(lambda x: x.sigmoid(), X * 3),
    "tanh": same(lambda x: x.tanh(), X),
    "erf": same(lambda x: x.erf(), X),
    "exp": same(lambda x: x.exp(), X),
    "log": same(lambda x: x.log(), POSITIVE, tolerance=5e-3),
    "reciprocal": same(lambda x: x.reciprocal(), POSITIVE + 0.2, tolerance=5e-3),
    "reciprocal of negatives": same(lambda x: x.reciprocal(), -POSITIVE - 0.2, tolerance=5e-3),
    "sqrt": same(lambda x: x.sqrt(), POSITIVE, tolerance=2e-3),
    "inv_sqrt": Case(lambda x: x.inv_sqrt(), lambda x: x.rsqrt(), (POSITIVE + 0.2,), tolerance=5e-3),
    "cos": same(lambda x: x.cos(), X),
    "sin": same(lambda x: x.sin(), X * 5, tolerance=2e-3),
    "softmax": same(lambda x: x.softmax(1), X),
    "softmax dim 0": same(lambda x: x.softmax(0), X),
    "log_softmax": same(lambda x: x.log_softmax(1), X),
    "pow 3": same(lambda x: x.pow(3), X, tolerance=5e-3),
    "pow 5": same(lambda x: x**5, X / 1.5, tolerance=5e-3),
    "pow -2": same(lambda x: x.pow(-2), POSITIVE + 0.5, tolerance=2e-2),
    "pos_pow": Case(lambda x: x.pos_pow(1.5), lambda x: x**1.5, (POSITIVE,), tolerance=2e-2),
    "polynomial": Case(
        lambda x: x.polynomial([0.5, -1.0, 0.25]), lambda x: 0.5 * x - x**2 + 0.25 * x**3, (X,), tolerance=5e-3
    ),
    "cosine_similarity": Case(
        lambda x, y: x.cosine_similarity(y, 1), lambda x, y: F.cosine_similarity(x, y, 1), (X, Y), tolerance=5e-3
    ),
    # layers
    "max_pool2d": same(lambda x: F.max_pool2d(x, 2) if torch.is_tensor(x) else x.max_pool2d(2), IMAGE),
    "max_pool2d padded": Case(
        lambda x: x.max_pool2d(3, stride=2, padding=1), lambda x: F.max_pool2d(x, 3, 2, 1), (IMAGE - 3,)
    ),
    "max_pool2d ceil": Case(
        lambda x: x.max_pool2d((3, 2), stride=2, ceil_mode=True),
        lambda x: F.max_pool2d(x, (3, 2), 2, ceil_mode=True),
        (IMAGE,),
    ),
    "max_pool2d large": Case(lambda x: x.max_pool2d(5), lambda x: F.max_pool2d(x, 5), (IMAGE,)),
    "avg_pool2d": Case(lambda x: x.avg_pool2d(3, stride=2, padding=1), lambda x: F.avg_pool2d(x, 3, 2, 1), (IMAGE,)),
    "adaptive_avg_pool2d": Case(
        lambda x: x.adaptive_avg_pool2d((3, 4)), lambda x: F.adaptive_avg_pool2d(x, (3, 4)), (IMAGE,)
    ),
    "adaptive_max_pool2d": Case(
        lambda x: x.adaptive_max_pool2d((3, 4)), lambda x: F.adaptive_max_pool2d(x, (3, 4)), (IMAGE,)
    ),
    "dropout off": Case(lambda x: x.dropout(0.5, training=False), lambda x: x, (X,)),
    # losses
    "cross_entropy": Case(
        lambda x: crypten.nn.CrossEntropyLoss()(x, crypten.cryptensor(ONEHOT)),
        lambda x: F.cross_entropy(x, ONEHOT),
        (X,),
    ),
    "bce": Case(
        lambda x: crypten.nn.BCELoss()(x, crypten.cryptensor(BITS)),
        lambda x: F.binary_cross_entropy(x, BITS),
        (POSITIVE / 6.5,),
        5e-3,
    ),
    "bce with logits": Case(
        lambda x: crypten.nn.BCEWithLogitsLoss()(x, crypten.cryptensor(BITS)),
        lambda x: F.binary_cross_entropy_with_logits(x, BITS),
        (X,),
    ),
    "rappor": Case(
        lambda x: crypten.nn.loss.RAPPORLoss(0.4)(x, crypten.cryptensor(BITS)),
        lambda x: F.binary_cross_entropy(0.4 * x.sigmoid() + 0.6 * (1 - x.sigmoid()), BITS),
        (X,),
        5e-3,
    ),
    "mse": Case(lambda x, y: crypten.nn.MSELoss()(x, y), F.mse_loss, (X, Y)),
    "l1": Case(lambda x, y: crypten.nn.L1Loss()(x, y), F.l1_loss, (X, Y)),
}


def _forward(case: Case) -> torch.Tensor:
    return case.ours(*(crypten.cryptensor(x, src=k % 2) for k, x in enumerate(case.inputs))).get_plain_text()


def _gradients(case: Case) -> tuple[torch.Tensor, list[torch.Tensor]]:
    inputs = [crypten.cryptensor(x, src=k % 2, requires_grad=True) for k, x in enumerate(case.inputs)]
    found = case.ours(*inputs)
    plain = found.detach().get_plain_text()
    found.mul(crypten.cryptensor(_weights(found.size()))).sum().backward()
    return plain, [x.grad.get_plain_text() for x in inputs]


def _weights(shape: Any) -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel() or 1).reshape(shape) + 0.3


@pytest.fixture(scope="module", params=[2, 3])
def outcome(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Case -> (result, gradients) at rank 0, all in one session: two parties with autograd, three without."""

    def program(rank: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, case in CASES.items():
            if case.gradient and request.param == 2:
                found[name] = _gradients(case)
            else:
                found[name] = _forward(case), None
        return found

    return run(request.param, program, deadline_s=120).result


@pytest.mark.parametrize("name", CASES)
def test_a_function_agrees_with_torch(name: str, outcome: dict[str, Any]) -> None:
    case = CASES[name]
    found, gradients = outcome[name]
    inputs = [x.clone().requires_grad_(case.gradient) for x in case.inputs]
    expected = case.theirs(*inputs)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < case.tolerance
    if gradients is not None:
        (expected * _weights(expected.shape)).sum().backward()
        for ours, x in zip(gradients, inputs, strict=True):
            assert ours.shape == x.shape
            assert (ours - x.grad).abs().max() < max(2e-3, 2 * case.tolerance) * max(1.0, x.grad.abs().max())

"""torch modules compute the same once they are read, and what cannot be read is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as fn

from enclave.errors import BadModel
from enclave.models import forward_float, read_model

IMAGE = (2, 6, 8)


class Function(nn.Module):
    """A module made of one function, with a parameter and a layer at hand."""

    def __init__(self, function: Callable[[Function, torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.bias = nn.Parameter(torch.randn(3))
        self.register_buffer("mean", torch.randn(4))
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def same(module: nn.Module, row: tuple[int, ...]) -> list[str]:
    """Reads the module, compares it with itself, returns the operators."""
    torch.manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                if part.weight is not None:
                    part.weight.normal_()
                    part.bias.normal_()
    training = module.training
    model = read_model(module, input_shape=row)
    assert module.training is training, "reading must not change the module"
    x = torch.randn(5, *row, dtype=torch.float64)
    with torch.no_grad():
        expected = module.double().eval()(x).numpy()
    found = forward_float(model, x.numpy())
    assert np.allclose(found.reshape(expected.shape), expected, atol=1e-6)
    return [layer.op for layer in model.architecture.layers]


@pytest.mark.parametrize(
    ("module", "row"),
    [
        (nn.Linear(4, 3), (4,)),
        (nn.Linear(4, 3, bias=False), (2, 4)),
        (nn.Conv2d(2, 4, 3), IMAGE),
        (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False), IMAGE),
        (nn.Conv2d(2, 3, (5, 3), dilation=(1, 2), padding="same"), IMAGE),
        (nn.Conv2d(2, 3, 2, padding="valid"), IMAGE),
        (nn.ReLU(inplace=True), (4,)),
        (nn.Sigmoid(), (4,)),
        (nn.Tanh(), (4,)),
        (nn.Softmax(dim=1), (4,)),
        (nn.Softmax(dim=-1), (2, 4)),
        (nn.MaxPool2d(2), IMAGE),
        (nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 1)), IMAGE),
        (nn.MaxPool2d(2, ceil_mode=True), IMAGE),
        (nn.AvgPool2d(2, padding=1), IMAGE),
        (nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), IMAGE),
        (nn.AdaptiveAvgPool2d(1), IMAGE),
        (nn.AdaptiveAvgPool2d((1, 1)), IMAGE),
        (nn.BatchNorm1d(4), (4,)),
        (nn.BatchNorm1d(2), (2, 4)),
        (nn.BatchNorm2d(2, affine=False), IMAGE),
        (nn.Sequential(nn.Flatten(), nn.Linear(96, 2)), IMAGE),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Tanh()), (4,)),
        (nn.Sequential(nn.Identity(), nn.Dropout(), nn.Linear(4, 1), nn.Dropout1d()), (4,)),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2)), (4,)),
    ],
)
def test_modules(module: nn.Module, row: tuple[int, ...]) -> None:
    same(module, row)


@pytest.mark.parametrize(
    ("function", "row"),
    [
        (lambda m, x: torch.relu(x) + fn.relu(x) * 2, (4,)),
        (lambda m, x: x.relu().sigmoid().tanh(), (4,)),
        (lambda m, x: torch.tanh(torch.sigmoid(x)), (4,)),
        (lambda m, x: fn.softmax(x, dim=1), (4,)),
        (lambda m, x: x.softmax(-1), (4,)),
        (lambda m, x: torch.softmax(x, 1), (4,)),
        (lambda m, x: fn.linear(x, m.weight, m.bias), (4,)),
        (lambda m, x: x @ m.weight.t(), (4,)),
        (lambda m, x: torch.matmul(x, m.weight.T), (4,)),
        (lambda m, x: m.linear(x - m.mean) / 2, (4,)),
        (lambda m, x: 1 - x, (4,)),
        (lambda m, x: m.linear(x) ** 2 + torch.square(x) * 0.5 + x.square(), (4,)),
        (lambda m, x: x.pow(3) - torch.pow(x, 5) + x**1, (4,)),
        (lambda m, x: x - m.linear(x), (4,)),
        (lambda m, x: torch.sub(x, m.linear(x)), (4,)),
        (lambda m, x: torch.mul(x, m.linear(x)).add(1), (4,)),
        (lambda m, x: torch.cat([x, m.linear(x)], dim=1), (4,)),
        (lambda m, x: torch.cat((x, torch.relu(x)), -1), (2, 4)),
        (lambda m, x: m.linear(x.view(x.size(0), -1)), (2, 2)),
        (lambda m, x: m.linear(x.reshape(-1, 4)), (2, 2)),
        (lambda m, x: m.linear(x.view(x.shape[0], 4)), (2, 2)),
        (lambda m, x: m.linear(torch.flatten(x, 1)), (2, 2)),
        (lambda m, x: m.linear(x.flatten(start_dim=1)), (2, 2)),
        (lambda m, x: m.linear(x)[:, :] if False else m.linear(x).unsqueeze(1).squeeze(1), (4,)),
        (lambda m, x: torch.relu(x).squeeze(-1), (1,)),
        (lambda m, x: torch.unsqueeze(torch.squeeze(x, 1), -1), (1,)),
        (lambda m, x: fn.max_pool2d(x, 2), IMAGE),
        (lambda m, x: fn.max_pool2d(x, kernel_size=3, stride=1, padding=1), IMAGE),
        (lambda m, x: fn.avg_pool2d(x, 2), IMAGE),
        (lambda m, x: fn.adaptive_avg_pool2d(x, 1).flatten(1), IMAGE),
        (lambda m, x: m.linear(fn.dropout(x, 0.5, m.training)), (4,)),
        (lambda m, x: x.contiguous().view(-1, 8).tanh(), (2, 4)),
    ],
)
def test_functions_and_methods(function: Callable[..., Any], row: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    same(Function(function), row)


def test_a_network_is_folded() -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(48, 8),
        nn.BatchNorm1d(8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )
    assert same(network, IMAGE) == ["conv2d", "relu", "max_pool2d", "flatten", "linear", "tanh", "linear"]


def test_a_residual_block() -> None:
    assert same(Function(lambda m, x: torch.relu(x + m.linear(x))), (4,)) == ["linear", "add", "relu"]


def test_the_shape_of_a_dense_network_needs_no_telling() -> None:
    model = read_model(nn.Sequential(nn.Linear(7, 2), nn.ReLU()))
    assert model.architecture.input_shape == (7,)
    with pytest.raises(BadModel, match="shape of one input row is needed"):
        read_model(nn.Conv2d(1, 1, 1))
    with pytest.raises(BadModel, match="shape of one input row is needed"):
        read_model(nn.ReLU())


@pytest.mark.parametrize(
    ("module", "row", "problem"),
    [
        (nn.GELU(), (4,), r"\(GELU\) is not supported"),
        (nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU()), (4,), r"'_1' \(LeakyReLU\) is not supported"),
        (nn.LSTM(4, 4), (4,), r"\(LSTM\) is not supported"),
        (nn.Linear(4, 3), (5,), r"weight must be \(5, out\)"),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), IMAGE, "padding mode 'reflect'"),
        (nn.MaxPool2d(2, dilation=2), IMAGE, "dilation"),
        (nn.MaxPool2d(3, ceil_mode=True), IMAGE, "ceil_mode"),
        (nn.AvgPool2d(2, divisor_override=3), IMAGE, "divisor_override"),
        (nn.AdaptiveAvgPool2d(2), IMAGE, "adaptive pooling is supported to size 1"),
        (nn.BatchNorm1d(4, track_running_stats=False), (4,), "depends on the other rows"),
        (nn.Softmax(dim=1), (2, 4), "along the last axis, found dim 1 of 3"),
        (nn.Softmax(dim=0), (4,), "along the last axis, found dim 0"),
        (nn.Flatten(0), (4,), "flatten must keep the batch"),
        (Function(lambda m, x: x if x.sum() > 0 else -x), (4,), "cannot trace Function"),
        (Function(lambda m, x: torch.exp(x)), (4,), r"\(exp\) is not supported"),
        (Function(lambda m, x: x.transpose(0, 1)), (4,), r"\(transpose\) is not supported"),
        (Function(lambda m, x: x / x), (4,), "division is supported by constants"),
        (Function(lambda m, x: x / 0), (4,), "division is supported by constants"),
        (Function(lambda m, x: torch.add(x, x, alpha=2)), (4,), "alpha is not supported"),
        (Function(lambda m, x: x.view(-1)), (4,), "would mix rows"),
        (Function(lambda m, x: x.view(4, -1)), (4,), "the first size must be the batch"),
        (Function(lambda m, x: torch.cat([x, x])), (4,), "would mix rows"),
        (Function(lambda m, x: x[0]), (4,), "indexing is supported for sizes only"),
        (Function(lambda m, x: x * x.size(0)), (4,), "expected a number or a tensor"),
        (Function(lambda m, x: fn.dropout(x)), (4,), "must follow the module's mode"),
        (Function(lambda m, x: m.weight @ x), (4,), "a parameter of two axes on the right"),
        (Function(lambda m, x: m.weight * m.bias), (4,), "not supported|on weights alone"),
        (Function(lambda m, x: (x, x)), (4,), "must return one tensor"),
        (Function(lambda m, x: x), (4,), "its output is its input"),
        (Function(lambda m, x: x.T), (4,), "only parameters of two axes"),
        (Function(lambda m, x: x.requires_grad), (4,), "'requires_grad' is not supported"),
        (Function(lambda m, x: torch.cat([x, x], dim=1, out=x)), (4,), "called in a way that is not supported"),
    ],
)
def test_what_cannot_be_run_is_named(module: nn.Module, row: tuple[int, ...], problem: str) -> None:
    with pytest.raises(BadModel, match=problem):
        read_model(module, input_shape=row)


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(BadModel, match="one input, found a second one, 'y'"):
        read_model(Two(), input_shape=(4,))


def test_nan_weights_are_refused() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    with pytest.raises(BadModel, match=r"'0.weight' holds NaN"):
        read_model(layer)


def test_other_objects_are_refused() -> None:
    with pytest.raises(BadModel, match="found int"):
        read_model(3)

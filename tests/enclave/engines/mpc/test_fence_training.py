"""Models of crypten.nn, their training with crypten.optim.SGD, and the converter, against plain torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from enclave.errors import BadModel, Unsupported
from tests.enclave.engines.mpc.fence_parties import crypten, run

cnn = crypten.nn


def seeded(make: Any) -> Any:
    torch.manual_seed(4)
    return make()


class Small(nn.Module):
    """A CNN with what the converter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.dense = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.norm(self.conv(x))))
        return self.dense(torch.flatten(x, 1)) + x.mean([1, 2, 3]).unsqueeze(1)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def data(shape: tuple[int, ...], classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(16, *shape, generator=generator) * 2 - 1
    return x, F.one_hot(torch.arange(16) % classes, classes).float()


def plainly(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, **settings: Any) -> list[float]:
    optimizer, losses = torch.optim.SGD(model.parameters(), **settings), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def privately(model: Any, x: torch.Tensor, y: torch.Tensor, steps: int, **settings: Any) -> list[float]:
    """Rows at rank 0, labels at rank 1, the model's initial weights at rank 1."""
    model.encrypt(src=1)
    model.train()
    rows, labels = crypten.cryptensor(x, src=0), crypten.cryptensor(y, src=1)
    optimizer, criterion, losses = crypten.optim.SGD(model.parameters(), **settings), cnn.CrossEntropyLoss(), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(model(rows), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.get_plain_text()))
    return losses


SGD = {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}


@pytest.mark.parametrize("parties", [2, 3])
def test_an_mlp_trains_as_in_torch(parties: int) -> None:
    plain = seeded(mlp)
    start = copy.deepcopy(plain)
    x, y = data((6,))
    expected = plainly(plain, x, y, 4, **SGD)

    def program(rank: int) -> Any:
        net = cnn.Sequential(cnn.Linear(6, 8), cnn.ReLU(), cnn.Linear(8, 3))
        if rank == 1:  # the others keep whatever they drew: it must not matter
            for (_, ours), (_, theirs) in zip(net.named_parameters(), start.named_parameters(), strict=True):
                ours.data.copy_(theirs)
        losses = privately(net, x, y, 4, **SGD)
        return losses, [p.get_plain_text() for p in net.parameters()]

    losses, weights = run(parties, program).result
    assert losses == pytest.approx(expected, abs=2e-3)
    for ours, theirs in zip(weights, plain.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 3e-3


def test_a_converted_cnn_trains_as_in_torch() -> None:
    plain = seeded(Small)
    start = copy.deepcopy(plain)
    x, y = data((1, 6, 6))
    expected = plainly(plain, x, y, 3, lr=0.1)
    plain.eval()

    nets = [cnn.from_pytorch(copy.deepcopy(start), torch.empty(1, 1, 6, 6)) for _ in range(2)]

    def program(rank: int) -> Any:
        net = nets[rank]
        losses = privately(net, x, y, 3, lr=0.1)
        net.eval()
        logits = net(crypten.cryptensor(x, src=0)).get_plain_text()
        state = {name: value.get_plain_text() for name, value in net.state_dict().items()}
        return losses, logits, state

    losses, logits, state = run(2, program).result
    assert losses == pytest.approx(expected, abs=3e-3)
    assert (logits - plain(x)).abs().max() < 1e-2
    for name, value in plain.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert (state[name] - value).abs().max() < 5e-3, name


@pytest.mark.parametrize("order", ["encrypt eval", "eval encrypt"])
def test_batch_normalisation_does_not_depend_on_the_order_of_calls(order: str) -> None:
    """Stock freezes 1/sqrt(variance) in the clear at eval(): off by 4e9 when encrypt() comes after it."""
    plain = nn.BatchNorm2d(3)
    plain.running_var[:], plain.running_mean[:] = 4.0, 0.5
    plain.eval()
    x = data((3, 4, 4))[0]

    def program(rank: int) -> Any:
        ours = cnn.BatchNorm2d(3)
        if rank == 0:
            ours.set_buffer("running_var", plain.running_var.clone())
            ours.set_buffer("running_mean", plain.running_mean.clone())
        for call in order.split():
            ours = ours.encrypt(src=0) if call == "encrypt" else ours.eval()
        return ours(crypten.cryptensor(x)).get_plain_text()

    assert (run(2, program).result - plain(x)).abs().max() < 1e-3


def test_a_state_holds_buffers() -> None:
    """Stock's load_state_dict leaves running statistics behind."""

    def program(rank: int) -> Any:
        first, second = cnn.BatchNorm1d(3), cnn.BatchNorm1d(3)
        first.running_var.fill_(9.0)
        second.load_state_dict(first.state_dict())
        plain = second.running_var.clone()
        third = cnn.BatchNorm1d(3).encrypt()
        third.load_state_dict(first.encrypt().state_dict())
        return plain, third.running_var.get_plain_text()

    for found in run(2, program).result:
        assert torch.allclose(found, torch.full((3,), 9.0), atol=1e-4)


def test_a_plain_gradient_step_zeroes_nothing() -> None:
    """Stock's update_parameters drops gradients beyond 100 by default."""

    def program(rank: int) -> Any:
        net = cnn.Linear(1, 1, bias=False).encrypt()
        net.weight.copy_(crypten.cryptensor(torch.zeros(1, 1)))
        net(crypten.cryptensor(torch.full((1, 1), 500.0))).backward()
        net.update_parameters(0.001)
        return net.weight.get_plain_text()

    assert run(2, program).result.item() == pytest.approx(-0.5, abs=1e-3)


def test_dropout_is_random_private_and_right() -> None:
    x = torch.ones(2000)

    def program(rank: int) -> Any:
        layer = cnn.Dropout(0.25).encrypt()
        value = crypten.cryptensor(x, requires_grad=True)
        dropped = layer(value)
        dropped.sum().backward()
        again = layer(value.detach())
        return dropped.get_plain_text(), value.grad.get_plain_text(), again.get_plain_text()

    dropped, gradient, again = run(2, program).result
    kept = dropped > 0
    assert 0.7 < kept.float().mean() < 0.8
    assert torch.allclose(dropped[kept], torch.full_like(dropped[kept], 4 / 3), atol=1e-3)
    assert torch.allclose(dropped, gradient, atol=1e-3)
    assert not torch.equal(kept, again > 0)


def test_random_tensors_have_their_distribution() -> None:
    def program(rank: int) -> Any:
        half = crypten.cryptensor(torch.full((4000,), 0.3))
        return [t.get_plain_text() for t in (crypten.rand(4000), crypten.randn(2000, 2), half.bernoulli())]

    uniform, normal, bits = run(2, program).result
    assert 0 <= uniform.min() and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.03 and abs(uniform.var() - 1 / 12) < 0.01
    assert normal.shape == (2000, 2) and abs(normal.mean()) < 0.08 and abs(normal.var() - 1) < 0.12
    assert set(bits.tolist()) == {0, 1} and abs(bits.float().mean() - 0.3) < 0.05


def test_a_weighted_choice_is_one_of_the_weighted() -> None:
    weights = torch.tensor([[0.0, 3.0, 0.0, 1.0]] * 300)

    def program(rank: int) -> Any:
        sample, hot = crypten.cryptensor(weights).weighted_sample(1)
        return sample.get_plain_text(), hot.get_plain_text()

    sample, hot = run(2, program).result
    assert torch.equal(hot.sum(1), torch.ones(300, dtype=torch.int64))
    assert 0.65 < hot[:, 1].float().mean() < 0.85 and hot[:, [0, 2]].sum() == 0
    assert torch.allclose(sample, (hot * weights).sum(1), atol=1e-3)


class Fourier(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Fourier(), "no counterpart"),
        (Branching(), "cannot trace"),
        (nn.Sequential(nn.LSTM(3, 3)), "LSTM"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), "padded"),
        (nn.Sequential(nn.MaxPool2d(2, dilation=2)), "dilation"),
        (nn.Sequential(nn.Softmax()), "dim"),
        (nn.Sequential(nn.BatchNorm1d(3, affine=False)), "weights"),
    ],
)
def test_a_model_without_a_counterpart_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(BadModel, match=words):
        cnn.from_pytorch(model)


@pytest.mark.parametrize(
    "make", [lambda: cnn.GroupNorm(1, 1), lambda: cnn.from_onnx(7), lambda: cnn.from_tensorflow("x")]
)
def test_what_crypten_cannot_do_is_refused(make: Any) -> None:
    with pytest.raises((Unsupported, NotImplementedError)):
        make()


def test_a_lost_gradient_is_an_error() -> None:
    """Stock returns a tensor without history from these, and trains on without it."""

    def program(rank: int) -> Any:
        x = crypten.cryptensor(torch.ones(3, 3), requires_grad=True)
        return x.index_add(0, torch.tensor([0]), crypten.cryptensor(torch.ones(1, 3)))

    with pytest.raises(Unsupported, match="index_add"):
        run(2, program)

"""Models in and out: ONNX files as graphs, graphs as torch modules; files of tensors; the program's own messages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from enclave.errors import BadData, BadModel, PolicyRefused, Unsupported
from enclave.models.onnx_writer import write_onnx
from enclave.models.read import read_model
from enclave.models.reference import forward_float
from tests.enclave.engines.mpc.fence_parties import attempt, crypten, run

cnn, comm = crypten.nn, crypten.communicator


class Net(torch.nn.Module):
    """A small network with convolution, pooling and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(3)
        self.pool = torch.nn.MaxPool2d(2)
        self.head = torch.nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.pool(self.norm(self.conv(x))))
        return torch.softmax(self.head(torch.flatten(x, 1)), dim=1)


def test_an_onnx_model_runs_as_a_graph() -> None:
    torch.manual_seed(3)
    model = read_model(Net().eval(), input_shape=(1, 8, 8))
    rows = torch.rand(4, 1, 8, 8)
    wanted = forward_float(model, rows.numpy().astype(np.float64))

    def program(rank: int) -> Any:
        graph = cnn.from_onnx(io.BytesIO(write_onnx(model))).encrypt(src=1)
        return graph(crypten.cryptensor(rows, src=0)).get_plain_text().numpy()

    assert np.abs(run(2, program).result - wanted).max() < 2e-3


@pytest.mark.parametrize(("source", "error"), [(b"nonsense", BadModel), (7, Unsupported)])
def test_what_is_no_onnx_model(source: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        cnn.from_onnx(source)


def test_a_graph_becomes_a_torch_module_again() -> None:
    torch.manual_seed(4)
    model = Net().eval()
    rows = torch.rand(2, 1, 8, 8)
    graphs = [cnn.from_pytorch(model, rows) for _ in range(2)]  # torch.fx traces one at a time

    def program(rank: int) -> Any:
        graph = graphs[rank].encrypt(src=0)
        with pytest.raises(RuntimeError, match="plaintext"):
            graph.to_pytorch()
        return graph.decrypt().to_pytorch()

    with torch.no_grad():
        for made in run(2, program).results[:2]:
            assert torch.allclose(made(rows), model(rows), atol=2e-3)


def test_a_graph_keeps_no_plaintext_weights() -> None:
    graph = cnn.from_pytorch(Net(), torch.rand(2, 1, 8, 8))
    assert all(not tensor.any() for tensor in (*graph.form.module.parameters(), *graph.form.module.buffers()))


@pytest.mark.parametrize("parties", [2, 3])
def test_a_program_s_own_tensors_travel_bit_by_bit(parties: int) -> None:
    def program(rank: int) -> Any:
        c = comm.get()
        odd = torch.tensor([2.0**-40, 3.0e30, -0.0]) if rank == 1 else torch.zeros(3)
        c.broadcast(odd, 1)
        mine = [torch.tensor([10 * r, rank]) for r in range(parties)]
        got = c.scatter(mine if rank == 0 else [], 0, size=(2,))
        near = c.gather(torch.tensor([rank + 0.5]), parties - 1)
        all_of = c.all_gather(torch.tensor(rank))
        around = torch.tensor([rank])
        if rank == 0:
            c.send(around, 1)
        elif rank == 1:
            around = c.recv(around, 0)
        empty = c.broadcast(torch.empty(0), 0)
        return odd.tolist(), got.tolist(), near, all_of, around.tolist(), empty.shape

    for rank, (odd, got, near, all_of, around, empty) in enumerate(run(parties, program).results[:parties]):
        assert odd == torch.tensor([2.0**-40, 3.0e30, -0.0]).tolist() and got == [10 * rank, 0]
        assert [t.item() for t in all_of] == list(range(parties)) and empty == (0,)
        assert around == ([0] if rank < 2 else [rank])
        last = rank == parties - 1
        assert near == [torch.tensor([r + 0.5]) for r in range(parties)] if last else near == [None] * parties


@pytest.mark.parametrize("name", ["scatter", "gather", "send", "broadcast"])
def test_a_job_sends_nothing_of_its_own(name: str) -> None:
    calls = {
        "scatter": lambda: comm.get().scatter([torch.ones(1)] * 2, 0, size=(1,)),
        "gather": lambda: comm.get().gather(torch.ones(1), 0),
        "send": lambda: comm.get().send(torch.ones(1), 1),
        "broadcast": lambda: comm.get().broadcast(torch.ones(1), 0),
    }
    ran = attempt(2, lambda rank: calls[name](), allow_open=False, deadline_s=5)
    assert any(isinstance(error, PolicyRefused) for error in ran.errors[:2])


def test_tensors_come_from_a_party_s_file(tmp_path: Path) -> None:
    def program(rank: int) -> Any:
        crypten.save_from_party(torch.tensor([1.5, 2.5]), str(tmp_path / "plain"), src=1)
        crypten.save_from_party(torch.tensor([3.5]), tmp_path / "own", src=0, save_closure=lambda t, f: f.touch())
        first = crypten.load_from_party(str(tmp_path / "plain"), src=1)
        second = crypten.load_from_party("anything", src=0, load_closure=lambda f: torch.tensor([len(f)]))
        with pytest.raises(TypeError):
            crypten.load_from_party("anything", src=0, load_closure=lambda f: None)
        return first.get_plain_text().tolist(), second.get_plain_text().tolist()

    assert run(2, program).result == ([1.5, 2.5], [8.0])


def test_a_file_of_another_format_names_the_way(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"PK")
    ran = attempt(2, lambda rank: crypten.load_from_party(str(tmp_path / "x.pth"), src=0), deadline_s=5)
    error = ran.errors[0]
    assert isinstance(error, BadData) and "load_closure" in error.hint


def test_tensors_without_axes_and_without_elements_keep_their_shapes() -> None:
    def program(rank: int) -> None:
        one, none = crypten.cryptensor(torch.tensor(2.5)), crypten.cryptensor(torch.ones(4, 3))[2:2]
        for x, shape in ((one, ()), (none, (0, 3))):
            results = [x.relu(), x.sigmoid(), x.exp(), x.reciprocal(), x.sqrt(), x.log(), x.abs(), x * x, x + 1, x > 0]
            results += [x.softmax(0), x.to(crypten.mpc.binary).to(crypten.mpc.arithmetic)]
            assert [tuple(r.get_plain_text().shape) for r in results] == [shape] * len(results)
        assert none.softmax(1).size() == (0, 3) and none.argmax(1).size() == (0, 3)
        assert none.matmul(crypten.cryptensor(torch.ones(3, 2))).size() == (0, 2)

    run(2, program)


@pytest.mark.parametrize("parties", [2, 3])
def test_saved_shares_come_back_in_another_session(tmp_path: Path, parties: int) -> None:
    torch.manual_seed(5)
    start = torch.nn.Linear(3, 2)

    def write(rank: int) -> Any:
        model = cnn.Linear(3, 2)
        model.set_parameter("weight", start.weight)
        model.set_parameter("bias", start.bias)
        model.encrypt(src=0)
        crypten.save(model.state_dict(), str(tmp_path / f"model{rank}"))
        x = crypten.cryptensor(torch.tensor([[1.5, -2.0]]), src=1)
        crypten.save(x, tmp_path / f"x{rank}")
        crypten.save(x.to(crypten.mpc.binary), tmp_path / f"bits{rank}")
        return x.share.clone()

    def read(rank: int) -> Any:
        model = cnn.Linear(3, 2).encrypt()
        model.load_state_dict(crypten.load(str(tmp_path / f"model{rank}")))
        x, bits = crypten.load(tmp_path / f"x{rank}"), crypten.load(tmp_path / f"bits{rank}")
        assert bits.ptype is crypten.mpc.binary
        return model.weight.get_plain_text(), x.get_plain_text().tolist(), bits.get_plain_text().tolist(), x.share

    before = run(parties, write).results
    for (weight, x, bits, share), held in zip(run(parties, read).results[:parties], before[:parties], strict=True):
        assert torch.allclose(weight, start.weight, atol=2**-16)
        assert x == bits == [[1.5, -2.0]]
        assert not torch.equal(share, held)  # drawn anew for the file
    assert (tmp_path / "x0").stat().st_mode & 0o777 == 0o600
    assert b"pickle" not in (tmp_path / "model0").read_bytes()


def test_shares_that_do_not_belong_together(tmp_path: Path) -> None:
    def write(rank: int) -> None:
        for name in "ab":
            crypten.save(crypten.cryptensor(torch.ones(2)), tmp_path / f"{name}{rank}")

    run(2, write)
    (tmp_path / "junk").write_bytes(b"no zip")
    wrong = [("a0", "b1", "different saves"), ("a1", "a1", "expected rank 0"), ("junk", "junk", "does not hold")]
    for first, second, text in wrong:
        ran = attempt(2, lambda rank, names=(first, second): crypten.load(tmp_path / names[rank]), deadline_s=5)
        assert any(isinstance(error, BadData) and text in str(error) for error in ran.errors[:2]), ran.errors


@pytest.mark.parametrize(
    "call", [lambda: crypten.save(torch.nn.Linear(2, 2), io.BytesIO()), lambda: crypten.load("x", load_closure=print)]
)
def test_objects_are_not_pickled(call: Any) -> None:
    ran = attempt(2, lambda rank: call(), deadline_s=5)
    assert any(isinstance(error, Unsupported) for error in ran.errors[:2])


def test_norms_of_any_order_and_their_gradients() -> None:
    torch.manual_seed(6)
    x = (torch.rand(3, 4) + 0.2) * torch.tensor([1.0, -1.0, 1.0, -1.0])

    def program(rank: int) -> Any:
        found = []
        for p in (1.5, 3):
            y = crypten.cryptensor(x, requires_grad=True)
            norm = y.norm(p=p, dim=1)
            norm.sum().backward()
            found.append((norm.get_plain_text(), y.grad.get_plain_text()))
        return found

    for p, (norm, gradient) in zip((1.5, 3), run(2, program).result, strict=True):
        plain = x.clone().requires_grad_()
        wanted = plain.norm(p=p, dim=1)
        wanted.sum().backward()
        assert plain.grad is not None
        assert torch.allclose(norm, wanted, atol=0.02) and torch.allclose(gradient, plain.grad, atol=0.03)


def test_dropout_in_place_warns_and_drops(caplog: pytest.LogCaptureFixture) -> None:
    def program(rank: int) -> Any:
        with crypten.no_grad():
            x = crypten.cryptensor(torch.ones(400))
            y = x.dropout(0.5, inplace=True)
            return x.get_plain_text(), y.get_plain_text()

    x, y = run(2, program).result
    assert torch.equal(x, y) and set(x.tolist()) == {0.0, 2.0}
    assert "CrypTen dropout does not support inplace computation during training." in caplog.text

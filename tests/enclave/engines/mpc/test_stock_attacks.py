"""Known attacks on stock CrypTen, and numbers that it gets wrong: they work there and fail behind the fence.

Stock runs once, in a process of its own (`stock_crypten.py`).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.entries import TapeEntry
from enclave.engines.mpc.random import KeyStream, fresh_key
from enclave.errors import BadSpec, NotReady, PolicyRefused
from tests.enclave.engines.mpc.fence_parties import attempt, crypten, run

SCRIPT = Path(__file__).with_name("stock_crypten.py")
SECRET = [1.5, -2.25, 3.0]
WORDS = (np.array(SECRET) * 65536).astype(np.int64).view(np.uint64)


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    """What the attacks gain on stock CrypTen."""
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_rank_0_cannot_unmask_what_is_opened(stock: dict[str, Any]) -> None:
    """Stock's default provider lets rank 0 draw the masks."""
    assert stock["first_party"] == pytest.approx(SECRET)

    def program(rank: int) -> Any:
        x = crypten.cryptensor(torch.tensor(SECRET), src=1)
        x * x
        return [current().session._dealt.words(stream, len(SECRET)) for stream in range(1, 12)]

    ran = run(2, program)
    opened = [words for label, words in ran.opened if label == "mask"]
    assert opened, "nothing was opened: the attack has nothing to work on"
    for words in opened:
        for own in (np.zeros(len(SECRET), np.uint64), *ran.results[0]):
            assert not np.array_equal(words + own, WORDS)
            assert not np.array_equal(words - own, WORDS)


def test_the_dealer_calls_nothing_that_a_party_names(stock: dict[str, Any]) -> None:
    """Stock's dealer calls the method that a pickled request names."""
    assert stock["dealer_calls"] == pytest.approx(SECRET)
    named = b"\x82\x01\x13_get_additive_PRSS\x00"  # a well-formed field that the message does not have
    for body in (named, b"\x80\x04\x95pickle", b"_get_additive_PRSS", b"\xff" * 64):
        with pytest.raises(BadSpec):
            TapeEntry.decode(body)


@pytest.mark.parametrize("parties", [2, 3])
def test_a_reveal_to_one_party_sends_nothing_to_the_others(stock: dict[str, Any], parties: int) -> None:
    """Stock's reduction leaves 1/n of the plaintext in the buffers of parties that are not to learn it."""
    assert stock["reduction"][str(parties)] == pytest.approx(1 / parties, abs=0.01)
    secret = torch.full((600,), 42.0)

    def program(rank: int) -> Any:
        x = crypten.cryptensor(secret, src=0) + crypten.cryptensor(secret, src=1)
        channel, received = current().session.channel, []
        original = channel.receive

        def spy(frm: int, step: int, label: str, size: int) -> Any:
            data = original(frm, step, label, size)
            received.append(np.frombuffer(data, np.uint64).copy())
            return data

        channel.receive = spy
        try:
            found = x.get_plain_text(dst=0)
        finally:
            del channel.receive
        return found, received

    ran = run(parties, program)
    found, received = ran.results[0]
    assert torch.equal(found, 2 * secret) and len(received) == parties - 1
    assert all(len(np.unique(words)) == 600 for words in received), "a share showed its value"
    for rank in range(1, parties):
        assert ran.results[rank] == (None, [])


def test_keys_have_more_than_32_bits(stock: dict[str, Any]) -> None:
    """Every stream of stock's is torch's mt19937, seeded by the low 32 bits of its seed."""
    assert stock["seeds"] is True
    key = fresh_key()
    streams = {KeyStream(key).words(1, 4).tobytes()}
    for byte in range(len(key)):
        changed = bytearray(key)
        changed[byte] ^= 0x80
        streams.add(KeyStream(bytes(changed)).words(1, 4).tobytes())
    assert len(streams) == len(key) + 1


def test_no_predictable_generator_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a predictable generator was drawn from")

    def program(rank: int) -> Any:
        x = crypten.cryptensor(torch.ones(4, 3), requires_grad=True)
        y = (x @ crypten.cryptensor(torch.ones(3, 2), src=1)).relu().dropout(0.5).sigmoid()
        y.sum().backward()
        crypten.rand(4).add(crypten.randn(4))
        return crypten.cryptensor(torch.ones(4)).share

    for name in ("rand", "randn", "randint", "randperm", "bernoulli", "normal", "Generator", "manual_seed"):
        monkeypatch.setattr(torch, name, forbidden)
    for name in ("rand", "randn", "randint", "random", "seed", "default_rng"):
        monkeypatch.setattr(np.random, name, forbidden)
    monkeypatch.setattr(random, "random", forbidden)
    monkeypatch.setattr(random, "choice", forbidden)
    first, second = run(2, program), run(2, program)
    assert not torch.equal(first.results[0], second.results[0])
    assert torch.equal(first.results[0] + first.results[1], torch.full((4,), 65536))


def test_a_loaded_module_does_not_travel(stock: dict[str, Any]) -> None:
    """Stock broadcasts a pickled module with its parameters zeroed and its buffers not."""
    assert stock["buffers"] == [11.0, 22.0, 33.0]
    module = torch.nn.BatchNorm1d(3)
    ran = attempt(2, lambda rank: crypten.load_from_party(preloaded=module if rank == 0 else None, src=0))
    assert isinstance(ran.errors[0], BadSpec)


def test_a_loaded_tensor_travels_as_shares(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    np.save(tmp_path / "x.npy", values.numpy())

    def program(rank: int) -> Any:
        x = crypten.load_from_party(str(tmp_path / "x.npy") if rank == 1 else None, src=1)
        return x.size(), x.get_plain_text()

    for size, found in run(2, program).results[:2]:
        assert size == (2, 2) and torch.equal(found, values)


def test_a_job_reveals_nothing() -> None:
    """In a job a value leaves through the release gate alone, whatever the program calls."""
    calls = {
        "get_plain_text": lambda x: x.get_plain_text(),
        "to one": lambda x: x.get_plain_text(dst=0),
        "reveal": lambda x: x.reveal(),
        "batch": lambda x: crypten.mpc.primitives.ArithmeticSharedTensor.reveal_batch([x._tensor]),
        "decrypt": lambda x: crypten.nn.Linear(2, 2).encrypt().decrypt(),
        "all_reduce": lambda x: crypten.communicator.get().all_reduce(x.share),
        "reduce": lambda x: crypten.communicator.get().reduce(x.share, 0),
        "broadcast": lambda x: crypten.communicator.get().broadcast(x.share, 0),
    }

    def program(rank: int) -> Any:
        x, found = crypten.cryptensor(torch.ones(3)), {}
        for name, call in calls.items():
            with pytest.raises(PolicyRefused) as caught:
                call(x)
            found[name] = caught.value.rules
        return found, repr(x), str(x._tensor)

    for found, text, share in run(2, program, allow_open=False).results[:2]:
        assert set(found) == set(calls) and set(found.values()) == {("release.permit",)}
        assert "redacted" in text and "redacted" in share


def _tensors() -> dict[str, Any]:
    """The numbers that stock gets wrong, as a program asks for them."""

    def encrypt(values: Any, **settings: Any) -> Any:
        return crypten.cryptensor(torch.tensor(values), **settings)

    v, many = encrypt([-1.0, 2.0, 3.0]), crypten.cryptensor(torch.full((20_000,), 2.0**12))
    return {
        "pow 5": encrypt([1.5, -1.2]).pow(5),
        "erf": encrypt([-0.9, 0.9]).erf(),
        "comparison times float": (v > 0) * 0.5,
        "comparison plus float": (v > 0) + 0.25,
        "float minus comparison": 1.5 - (v > 0),
        "mean of a comparison": (v > 0).mean(),
        "var": encrypt([1.0, 2.0, 3.0, 6.0]).var(unbiased=True),
        "hardtanh": encrypt([-0.9, 0.2, 0.9], requires_grad=True).hardtanh(-0.5, 0.5),
        "numpy": crypten.cryptensor(np.array([0.5, 1.7])),
        "sigmoid of 600": encrypt([600.0]).sigmoid(),
        "reciprocal of 300": encrypt([300.0]).reciprocal(),
        "log of 300": encrypt([300.0]).log(),
        "sqrt of 400": encrypt([400.0]).sqrt(),
        "softmax": encrypt([[0.0, 600.0, 10.0]]).softmax(1),
        "stack": crypten.stack([v > 0, v]),
        "truncation": many * many - 2.0**24,
    }


def test_numbers_that_stock_gets_wrong_are_right(stock: dict[str, Any]) -> None:
    def program(rank: int) -> Any:
        indexed = crypten.cryptensor(torch.tensor([1.0, 2.0]), requires_grad=True)
        found = {name: t.get_plain_text().reshape(-1) for name, t in _tensors().items()}
        return {**found, "gradient through an index": torch.tensor([float(indexed[0].requires_grad)])}

    ours = run(2, program).result
    assert set(ours) == set(stock["wrong"])
    for name, (theirs, right) in stock["wrong"].items():
        assert max(abs(a - b) for a, b in zip(theirs, right, strict=True)) > 0.05, f"stock is right about {name}"
        found = ours[name].double()
        assert (found - torch.tensor(right).double()).abs().max() < 1e-3, name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sigmoid", [-1e6, -600.0, 0.0, 600.0, 1e6]),
        ("tanh", [-1e6, -30.0, 30.0, 1e6]),
        ("erf", [-1e6, -9.0, 9.0, 1e6]),
        ("exp", [-1e6, -20.0, -1.0, 0.0, 5.0, 12.0]),
        ("log", [2.0**-16, 0.01, 1.0, 1e3, 1e6, 1.6e7]),
        ("reciprocal", [-1e5, -300.0, -0.001, 0.001, 3.0, 1e5]),
        ("sqrt", [-5.0, 0.0, 2.0**-16, 1e-3, 400.0, 1e6, 2e8]),
        ("cos", [-5000.0, 0.0, 3.0, 5000.0]),
        ("softmax", [-1e6, 0.0, 1.0, 2.0]),
    ],
)
def test_functions_are_right_over_their_domain(name: str, values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)

    def call(t: Any) -> Any:
        methods = {n: getattr(t, n) for n in ("sigmoid", "tanh", "erf", "exp", "log", "reciprocal", "sqrt", "cos")}
        return t.softmax(0) if name == "softmax" else methods[name]()

    found = run(2, lambda rank: call(crypten.cryptensor(x)).get_plain_text()).result.double()
    expected = call(torch.round(x * 65536) / 65536).nan_to_num(0.0)
    assert ((found - expected).abs() / expected.abs().clamp(min=1.0)).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "value", "end"), [("exp", 40.0, 162754.8), ("log", 0.0, -11.09), ("log", -3.0, -11.09)]
)
def test_beyond_a_domain_the_nearest_end_counts(name: str, value: float, end: float) -> None:
    x = torch.full((3,), value)
    found = run(2, lambda rank: getattr(crypten.cryptensor(x), name)().get_plain_text()).result
    assert found.tolist() == pytest.approx([end] * 3, rel=1e-3)


def test_a_session_belongs_to_its_thread() -> None:
    """Another party's session in the same process cannot be reached."""
    ran = run(2, lambda rank: (id(current().session), crypten.communicator.get().get_rank()))
    assert ran.results[0][1] == 0 and ran.results[1][1] == 1 and ran.results[0][0] != ran.results[1][0]
    assert not crypten.is_initialized()
    with pytest.raises(NotReady):
        crypten.cryptensor(torch.ones(2))

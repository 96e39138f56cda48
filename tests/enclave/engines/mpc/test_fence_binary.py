"""Shares bit by bit: circuits against Python's integers, exact rounds, and what is opened."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
import torch

from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.binary import BinaryShare
from enclave.errors import BadSpec, PolicyRefused
from tests.enclave.engines.mpc.fence_parties import attempt, crypten, run

EDGES = [0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63), 12345, -54321]
X = torch.tensor([a for a in EDGES for _ in EDGES])
Y = torch.tensor(EDGES * len(EDGES))


def opened(value: Any) -> list[int]:
    return value.reveal().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("parties", [2, 3, 4])
@pytest.mark.parametrize("secret", [True, False])
def test_circuits_agree_with_integers_over_the_whole_ring(parties: int, secret: bool) -> None:
    names = ["__and__", "__or__", "__xor__", "add", "sub", "lt", "le", "gt", "ge", "eq", "ne"]

    def program(rank: int) -> dict[str, list[int]]:
        x = BinaryShare(X, src=0)
        y = BinaryShare(Y, src=parties - 1) if secret else Y
        return {name: opened(getattr(x, name)(y)) for name in names}

    found = run(parties, program).results[:parties]
    assert all(other == found[0] for other in found)
    for name in names:
        function = getattr(operator, name)
        for a, b, c in zip(X.tolist(), Y.tolist(), found[0][name], strict=True):
            assert (c - int(function(a, b))) % 2**64 == 0, (name, a, b)


ROUNDS = {"__and__": 1, "add": 7, "sub": 7, "lt": 7, "gt": 7, "eq": 6, "__xor__": 0, "__invert__": 0}


@pytest.mark.parametrize(("name", "rounds"), ROUNDS.items())
def test_rounds(name: str, rounds: int) -> None:
    def program(rank: int) -> int:
        x, y = BinaryShare(X, src=0), BinaryShare(Y, src=1)
        before = current().session.rounds
        getattr(x, name)(*([] if name == "__invert__" else [y]))
        return current().session.rounds - before

    assert run(2, program).results[:2] == [rounds, rounds]


def test_bytes_of_an_and() -> None:
    def program(rank: int) -> tuple[int, int]:
        x, y = BinaryShare(X, src=0), BinaryShare(Y, src=1)
        session = current().session
        before = [link.sent_bytes for link in session.channel.stats()]
        _ = x & y
        sent = [link.sent_bytes - b for link, b in zip(session.channel.stats(), before, strict=True)]
        return sent[0], session.rounds

    ran = run(2, program)
    assert ran.results[0][0] == ran.results[1][0] == 2 * 8 * len(X)
    assert ran.sessions[2].dealt_bytes == 8 * len(X)


@pytest.mark.parametrize("parties", [2, 3])
def test_conversion_there_and_back(parties: int) -> None:
    numbers = torch.tensor([0.0, 1.5, -2.25, 30000.0, -30000.5])

    def program(rank: int) -> Any:
        x = crypten.cryptensor(numbers, src=parties - 1)
        bits = x.to(crypten.mpc.binary)
        back = bits.to(crypten.mpc.arithmetic)
        sign = (bits._tensor.rshift(63)) & 1
        both = (bits & bits) ^ bits
        assert bits.ptype is crypten.mpc.binary and back.ptype is crypten.mpc.arithmetic
        return (
            bits.get_plain_text().tolist(),
            back.get_plain_text().tolist(),
            opened(sign),
            both.get_plain_text().tolist(),
            bits.relu().get_plain_text().tolist(),
            bits.add(x).get_plain_text().tolist(),
        )

    bits, back, sign, nothing, relu, twice = run(parties, program).result
    assert bits == back == numbers.tolist()
    assert sign == [0, 0, 1, 0, 1] and nothing == [0.0] * 5
    assert relu == numbers.clamp(min=0).tolist() and twice == (2 * numbers).tolist()


def test_some_bits_become_a_number() -> None:
    def program(rank: int) -> Any:
        x = crypten.mpc.MPCTensor(torch.tensor([5, 11, -1]), ptype=crypten.mpc.binary)
        return x.to(crypten.mpc.arithmetic, bits=2).get_plain_text().tolist()

    assert run(2, program).result == [1, 3, 3]


def test_where_and_sums() -> None:
    def program(rank: int) -> Any:
        x, y = BinaryShare(torch.arange(9).reshape(3, 3), src=0), BinaryShare(-torch.arange(9).reshape(3, 3), src=1)
        condition = BinaryShare(torch.tensor([[1, 0, 1]]), src=1)
        public = torch.tensor([[True, False, True]])
        return [opened(t) for t in (x.where(condition, y), x.where(public, y), x.sum(), x.sum(0), x.sum(1))]

    first, second, everything, columns, rows = run(2, program).result
    wanted = torch.arange(9).reshape(3, 3) * torch.tensor([1, -1, 1])
    assert first == second == wanted.tolist()
    assert everything == 36 and columns == [9, 12, 15] and rows == [3, 12, 21]


def test_what_is_opened_is_uniform() -> None:
    """Fails when a mask of AND is dropped, shortened, or used twice."""

    def program(rank: int) -> None:
        x, y = BinaryShare(torch.zeros(4000, dtype=torch.int64), src=0), BinaryShare(torch.ones(4000).long(), src=1)
        _ = x & y
        _ = x & y
        crypten.mpc.MPCTensor(torch.zeros(500)).to(crypten.mpc.binary).to(crypten.mpc.arithmetic)

    ran = run(2, program)
    for label in ("and", "lift"):
        words = np.concatenate([w for name, w in ran.opened if label in name])
        bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1)
        deviation = np.abs(bits.mean(axis=0) - 0.5) * 2 * np.sqrt(len(bits))
        assert deviation.max() < 5.5, label
    words = [w for name, w in ran.opened if name == "and"][:4]
    assert len(np.unique(np.concatenate(words))) == sum(map(len, words))


def test_no_share_of_a_secret_is_the_secret() -> None:
    def program(rank: int) -> Any:
        return BinaryShare(torch.arange(1000), src=0).share.tolist()

    first, second = run(2, program).results[:2]
    assert all(sum(a == k for k, a in enumerate(share)) == 0 for share in (first, second))
    assert [a ^ b for a, b in zip(first, second, strict=True)] == list(range(1000))


def test_a_job_does_not_reveal_bits() -> None:
    ran = attempt(2, lambda rank: BinaryShare(torch.tensor([1])).get_plain_text(), allow_open=False, deadline_s=5)
    refused = next(error for error in ran.errors if isinstance(error, PolicyRefused))
    assert refused.rules == ("release.permit",)


@pytest.mark.parametrize(
    "call",
    [
        lambda: BinaryShare(torch.tensor([1]), src=2),
        lambda: BinaryShare(torch.tensor([1]), src=None),  # type: ignore[arg-type]
        lambda: BinaryShare(None),
        lambda: BinaryShare(torch.tensor([1])) & "1",
        lambda: BinaryShare(torch.tensor([1])).lshift(64),
        lambda: BinaryShare(torch.tensor([1])).where("x", torch.tensor([1])),
        lambda: crypten.cryptensor(torch.tensor([1.0])) & 1,
    ],
)
def test_wrong_arguments(call: Any) -> None:
    def program(rank: int) -> str:
        with pytest.raises(BadSpec) as caught:
            call()
        return type(caught.value).__name__

    run(2, program)

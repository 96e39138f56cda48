"""CrypTen programs on our sessions agree with plain torch."""

from __future__ import annotations

import pytest
import torch

from tests.enclave.engines.mpc.fence_parties import crypten, run


def test_first_slice():
    x, y = torch.rand(8, 6) * 4 - 2, torch.rand(6, 3)

    def program(rank):
        a, b = crypten.cryptensor(x, src=0), crypten.cryptensor(y, src=1)
        return [t.get_plain_text() for t in (a + 1.5, a * a, a @ b, a.relu())]

    for found, expected in zip(run(2, program).result, (x + 1.5, x * x, x @ y, x.relu()), strict=True):
        assert (found - expected).abs().max() < 1e-3


@pytest.mark.parametrize("parties", [2, 3])
def test_a_value_is_revealed_to_its_receiver_alone(parties):
    x = torch.arange(5.0)
    ran = run(parties, lambda rank: crypten.cryptensor(x, src=0).get_plain_text(dst=1))
    assert [r is not None for r in ran.results[:parties]] == [rank == 1 for rank in range(parties)]
    assert torch.equal(ran.results[1], x)

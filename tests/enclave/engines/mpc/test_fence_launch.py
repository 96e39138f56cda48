"""Whole programs: a script for stock CrypTen by real processes over mutual TLS, and functions between threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclave.channel.memory import memory_network
from enclave.engines.mpc.fence.launch import run_program, serve_program
from enclave.errors import EnclaveError, PeerLost, PlanMismatch
from tests.enclave.channel.parties import make_parties

SCRIPT = """
import json, sys
import crypten
import torch

crypten.init()
rank = crypten.communicator.get().get_rank()
torch.manual_seed(0)
x, y = torch.rand(20, 4), torch.rand(20, 1)
model = crypten.nn.Linear(4, 1).encrypt(src=0)
model.train()
rows, targets = crypten.cryptensor(x, src=0), crypten.cryptensor(y, src=1)
optimizer, criterion = crypten.optim.SGD(model.parameters(), lr=0.3), crypten.nn.MSELoss()
losses = []
for _ in range(5):
    optimizer.zero_grad()
    loss = criterion(model(rows), targets)
    loss.backward()
    optimizer.step()
    losses.append(loss.get_plain_text().item())
mine = model.weight.get_plain_text(dst=1)
print(json.dumps([rank, losses, mine is not None, torch.distributed.is_initialized()]))
"""


def test_a_script_runs_by_processes_over_tls(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    make_parties(tmp_path / "homes")
    peers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.enclave.engines.mpc.fence_peer",
                str(tmp_path / "homes"),
                str(rank),
                str(script),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(3)
    ]
    try:
        addresses = []
        for peer in peers:
            assert peer.stdout is not None
            addresses.append(json.loads(peer.stdout.readline()))
        for peer in peers:  # all of them, before waiting for one
            assert peer.stdin is not None
            peer.stdin.write(json.dumps(addresses) + "\n")
            peer.stdin.flush()
        found = [peer.communicate(timeout=120) for peer in peers]
    finally:
        for peer in peers:
            if peer.poll() is None:
                peer.kill()
                peer.communicate()
    assert [peer.returncode for peer in peers] == [0, 0, 0], found
    first, second = (json.loads(out) for out, _ in found[:2])
    assert (first[0], second[0]) == (0, 1) and first[1] == second[1]
    assert first[1][-1] < first[1][0] / 2
    assert (first[2], second[2]) == (False, True)
    assert not first[3] and not second[3]


def together(*mains: Callable[[], Any]) -> list[Any]:
    """Results or errors of one thread each."""
    found: list[Any] = [None] * len(mains)

    def call(k: int) -> None:
        try:
            found[k] = mains[k]()
        except Exception as error:
            found[k] = error

    threads = [threading.Thread(target=call, args=(k,)) for k in range(len(mains))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def both(program: Callable[[], Any], sources: tuple[bytes, ...] = (b"a", b"a", b"a")) -> list[Any]:
    network = memory_network(["p0", "p1", "dealer"], deadline_s=20)
    return together(
        lambda: run_program(network[0], 2, program, source=sources[0]),
        lambda: run_program(network[1], 2, program, source=sources[1]),
        lambda: serve_program(network[2], 2, sources[2]),
    )


def test_a_function_runs_as_a_program() -> None:
    def program() -> Any:
        import crypten
        import torch

        return crypten.cryptensor(torch.tensor([1.5, -2.0]), src=1).relu().get_plain_text().tolist()

    assert both(program) == [[1.5, 0.0], [1.5, 0.0], None]


@pytest.mark.parametrize("sources", [(b"a", b"b", b"a"), (b"a", b"a", b"b")])
def test_other_sources_do_not_start(sources: tuple[bytes, ...]) -> None:
    found = both(lambda: None, sources)
    assert all(isinstance(error, EnclaveError) for error in found)
    assert any(isinstance(error, PlanMismatch) for error in found)


def test_a_program_that_fails_ends_at_all_ranks() -> None:
    def program() -> Any:
        import crypten

        if crypten.communicator.get().get_rank() == 1:
            raise ZeroDivisionError("a program's own mistake")
        return crypten.cryptensor([1.0], src=1).get_plain_text()

    leader, other, dealer = both(program)
    assert isinstance(other, ZeroDivisionError)
    assert isinstance(leader, PeerLost) and isinstance(dealer, PeerLost) and leader.who == dealer.who == "p1"
    assert "mistake" not in str(leader)

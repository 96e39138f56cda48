"""Real processes that die, stop, or stay silent: the others name them within 10 s."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.enclave.channel.parties import NAMES, make_parties


class Session:
    """Three peers under way, each a process."""

    def __init__(self, homes: Path, deadline_s: float, size: int, transport: str) -> None:
        arguments = [str(deadline_s), str(size), transport]
        self.peers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.enclave.channel.peer", str(homes), str(rank), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(3)
        ]
        addresses = [self.hear(rank)["address"] for rank in range(3)]
        for peer in self.peers:
            assert peer.stdin is not None
            peer.stdin.write(json.dumps(addresses) + "\n")
            peer.stdin.flush()
        assert [self.hear(rank) for rank in range(3)] == [{"ready": True}] * 3

    def hear(self, rank: int) -> dict[str, Any]:
        out = self.peers[rank].stdout
        assert out is not None
        line = out.readline()
        assert line, f"{NAMES[rank]} ended: {self.complaints(rank)}"
        found: dict[str, Any] = json.loads(line)
        return found

    def complaints(self, rank: int) -> str:
        err = self.peers[rank].stderr
        return err.read() if err is not None else ""

    def end(self) -> None:
        for peer in self.peers:
            if peer.poll() is None:
                peer.kill()
            peer.wait()
            for stream in (peer.stdin, peer.stdout, peer.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Path(tmp_path_factory.mktemp("homes"))
    make_parties(home)
    return home


@pytest.fixture
def session(homes: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    made = Session(homes, *request.param)
    yield made
    made.end()


SMALL, BULK = (30.0, 64, "grpc"), (30.0, 12 << 20, "grpc")
SMALL_SOCKET, BULK_SOCKET = (30.0, 64, "socket"), (30.0, 12 << 20, "socket")


@pytest.mark.parametrize(
    ("session", "victim", "blow", "within_s"),
    [
        (SMALL, 0, signal.SIGKILL, 3),
        (BULK, 2, signal.SIGKILL, 5),
        (SMALL, 1, signal.SIGSTOP, 10),
        (BULK, 0, signal.SIGSTOP, 10),
        (SMALL_SOCKET, 0, signal.SIGKILL, 3),
        (BULK_SOCKET, 2, signal.SIGKILL, 5),
        (SMALL_SOCKET, 1, signal.SIGSTOP, 10),
        (BULK_SOCKET, 0, signal.SIGSTOP, 10),
    ],
    indirect=["session"],
)
def test_the_others_name_the_victim(session: Session, victim: int, blow: signal.Signals, within_s: float) -> None:
    begin = time.time()
    session.peers[victim].send_signal(blow)
    for rank in set(range(3)) - {victim}:
        found = session.hear(rank)
        assert found["who"] == NAMES[victim], found
        assert found["at"] - begin < within_s
        assert session.peers[rank].wait(10) == 0
        assert session.complaints(rank) == ""

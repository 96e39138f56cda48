"""Memory while dealing and while using what was dealt does not grow with the tape."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave.channel import LinkStats
from enclave.engines.mpc.ahead import Binding, Shelf, deal_ahead, keep_ahead
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.ranks import DealerSession
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.sealed import CHUNK_BYTES
from enclave.errors import EnclaveError

N, ONCE, OFTEN = 20_000, 2, 20
MIB = 1 << 20


class Void:
    """A channel whose other ranks agree with everything and take everything; `give` is what they send besides."""

    def __init__(self, rank: int, ranks: int, give: Callable[[int, int, str, int], bytes] | None = None) -> None:
        self.rank = rank
        self.names = tuple(f"p{i}" for i in range(ranks))
        self.sent_bytes = 0
        self._give = give
        self._said: dict[str, bytes] = {}

    def send(self, to: int, step: int, label: str, parts: Sequence[bytes | memoryview]) -> None:
        if label in ("hello", "kept"):
            self._said[label] = b"".join(parts)
            return
        self.sent_bytes += sum(memoryview(part).nbytes for part in parts)

    def receive(self, frm: int, step: int, label: str, size_bytes: int) -> memoryview:
        if label == "hello":
            key = bytes(16) if frm < self.rank else b"k" * 16
            return memoryview(self._said["hello"][:-16] + key)
        if label == "kept":
            return memoryview(self._said["kept"])
        assert self._give is not None
        return memoryview(self._give(frm, step, label, size_bytes))

    def stats(self) -> tuple[LinkStats, ...]:
        return ()

    def close(self, error: EnclaveError | None = None) -> None:
        pass


def tape(times: int) -> Callable[[Any], None]:
    """ReLU of N numbers, again and again."""

    def workload(session: Any) -> None:
        engine = MpcEngine(session, 20)
        for _ in range(times):
            engine.relu(engine.zeros((N,)))

    return workload


def plan(times: int) -> tuple[bytes, int]:
    recorder = Recorder(2)
    tape(times)(recorder)
    return recorder.digest, sum(record[2] for _, record in recorder.records if record[0] == "deal")


def peak_bytes(action: Callable[[], object]) -> int:
    """The most that `action` held at a time, beyond what was there before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ahead", [False, True])
def test_a_dealer_s_memory_is_that_of_its_largest_entry(ahead: bool) -> None:
    peaks = []
    for times in (ONCE, OFTEN):
        digest, dealt = plan(times)
        channel = Void(2, 3)

        def action(times: int = times, channel: Void = channel, digest: bytes = digest, dealt: int = dealt) -> None:
            if ahead:
                deal_ahead(channel, Binding("job", 2, 2, digest, bytes(32), dealt), tape(times))
            else:
                tape(times)(DealerSession(channel, 2, digest))

        peaks.append(peak_bytes(action))
        assert channel.sent_bytes >= dealt
    assert dealt > 8 * MIB
    assert peaks[1] < 1.1 * peaks[0] + 100_000, peaks


def dealt_stock(home: Path, size_bytes: int) -> tuple[Shelf, Binding]:
    """A stock of random bytes at rank 0, written by the party's own half of the dealing phase."""
    binding = Binding("job", 2, 0, b"p" * 32, bytes(32), size_bytes)
    shelf = Shelf(home)
    channel = Void(0, 3, lambda frm, step, label, size: os.urandom(size))
    keep_ahead(channel, binding, shelf)
    return shelf, binding


def test_a_party_holds_few_chunks_while_it_is_dealt_to_and_while_it_uses_them(tmp_path: Path) -> None:
    """Cost: what is received, sealed and written at a time; then one chunk in use, eight ready, one being opened."""
    size = 20 * MIB + 12
    writing = peak_bytes(lambda: dealt_stock(tmp_path, size))
    assert writing < 5 * MIB, writing
    shelf, binding = dealt_stock(tmp_path, size)
    sums = []

    def use() -> None:
        with shelf.find(binding) as stock:
            stock.use()
            left = size
            while left:
                step = min(left, 100_004)
                sums.append(int(np.frombuffer(stock.take(step), np.uint8)[:4].sum()))
                left -= step

    reading = peak_bytes(use)
    assert len(sums) > 200 and reading < 12 * CHUNK_BYTES, reading


def test_space_is_given_back_while_a_stock_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sealed", "shelf", "stock"):
        monkeypatch.setattr(f"enclave.engines.mpc.{module}.PART_CHUNKS", 2)
    shelf, binding = dealt_stock(tmp_path, 8 * MIB)
    folder = tmp_path / "stock" / "dealt" / "job"
    with shelf.find(binding) as stock:
        assert len(list(folder.glob("*.part"))) == 4
        stock.use()
        for _ in range(5):
            stock.take(MIB)
        # Of four parts the first two are read and gone.
        assert not {"00000.part", "00001.part"} & {path.name for path in folder.iterdir()}
    assert not folder.exists()

"""The audit on real openings: of the engine as it is, and of the engine with its masks spoiled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.channel.memory import memory_network
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.random import KeyStream
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.leakage.audit import AuditResult, OpeningAudit

Words = NDArray[np.uint64]
ROWS = 300


def program(engine: MpcEngine) -> None:
    """Four passes of a small network over constant inputs: whatever structure shows in an opening is a mask's."""
    for _ in range(4):
        x = engine.private(np.ones((ROWS, 4)) if engine.rank == 0 else None, (ROWS, 4), 0)
        w = engine.private(np.ones((4, 3)) if engine.rank == 1 else None, (4, 3), 1)
        engine.argmax_onehot(engine.sigmoid(engine.relu(engine.matmul(x, w))))


def audited() -> AuditResult:
    """What rank 1 of three (the last one deals) finds."""
    recorder = Recorder(2)
    program(MpcEngine(recorder, 20))
    audit, errors = OpeningAudit(), []
    channels = memory_network(["owner", "buyer", "dealer"], deadline_s=20.0)

    def main(rank: int) -> None:
        session: Any
        try:
            if rank == 2:
                session = DealerSession(channels[rank], 2, recorder.digest)
            else:
                observer = audit.observe if rank == 1 else None
                session = PartySession(channels[rank], 2, recorder.digest, observer=observer)
            program(MpcEngine(session, 20))
        except Exception as error:
            errors.append(error)
        channels[rank].close()

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return audit.result()


def test_the_engine_passes() -> None:
    found = audited()
    assert found.ok, found
    assert found.openings > 30 and found.sampled_words > 5000 and len(found.labels) >= 4


Spoil = Callable[[Callable[..., Words]], Callable[..., Words]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda words: lambda self, stream, count, offset=0: words(self, stream, count, offset) * np.uint64(0),
        lambda words: lambda self, stream, count, offset=0: words(self, stream, count, offset) >> np.uint64(1),
        lambda words: lambda self, stream, count, offset=0: words(self, stream, count, offset) >> np.uint64(16),
        lambda words: lambda self, stream, count, offset=0: words(self, 1, count, 0),
        lambda words: lambda self, stream, count, offset=0: words(self, stream % 9, count, 0),
    ],
    ids=["no masks", "63 bits", "48 bits", "one mask for all", "a pool of 9 streams"],
)
def test_spoiled_masks_are_found(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    monkeypatch.setattr(KeyStream, "words", spoil(KeyStream.words))
    assert not audited().ok

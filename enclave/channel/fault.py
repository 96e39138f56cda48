"""A channel that misbehaves at a chosen step, so that tests can watch the other parties. For tests only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Literal

from enclave.channel import LinkStats
from enclave.channel.linked import LinkedChannel
from enclave.errors import EnclaveError, PeerLost

__all__ = ["Fault", "FaultyChannel"]

# drop: the frame is not sent; delay: 0.3 s late; corrupt: one bit of the payload is flipped; relabel: under another
# label; shorten: a byte is missing; repeat: sent twice; sever: the links break without a word; kill and stop: the
# signals, to this process; hang: this and every later call waits for ever, as a deadlocked program would.
Fault = Literal["drop", "delay", "corrupt", "relabel", "shorten", "repeat", "sever", "kill", "stop", "hang"]


class FaultyChannel:
    """Passes everything on to `inner`, except that the first `send` at step s suffers `faults[s]`."""

    def __init__(self, inner: LinkedChannel, faults: Mapping[int, Fault]) -> None:
        self._inner = inner
        self._faults = dict(faults)

    @property
    def rank(self) -> int:
        """See `Channel`."""
        return self._inner.rank

    @property
    def names(self) -> tuple[str, ...]:
        """See `Channel`."""
        return self._inner.names

    def send(self, to: int, step: int, label: str, parts: Sequence[bytes | memoryview]) -> None:
        """See `Channel`; not thread-safe."""
        fault = self._faults.pop(step, None)
        data = b"".join(parts)
        if fault == "drop":
            return
        if fault == "delay":
            time.sleep(0.3)
        elif fault == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        elif fault == "relabel":
            label = f"not {label}"
        elif fault == "shorten":
            data = data[:-1]
        elif fault == "repeat":
            self._inner.send(to, step, label, [data])
        elif fault == "sever":
            self._inner.sever()
            raise PeerLost(self.names[self.rank], step, why="its links were severed")
        elif fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault == "hang":
            while True:
                time.sleep(3600)
        self._inner.send(to, step, label, [data])

    def receive(self, frm: int, step: int, label: str, size_bytes: int) -> memoryview:
        """See `Channel`."""
        return self._inner.receive(frm, step, label, size_bytes)

    def stats(self) -> tuple[LinkStats, ...]:
        """See `Channel`."""
        return self._inner.stats()

    def close(self, error: EnclaveError | None = None) -> None:
        """See `Channel`."""
        self._inner.close(error)

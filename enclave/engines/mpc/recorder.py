"""A session that writes down what a workload would do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from enclave.engines.mpc.protocols.arithmetic import ProductOfMasks
from enclave.engines.mpc.session import Item, Record, Session, Tensor
from enclave.engines.mpc.tape import Blank, Entry
from enclave.errors import BadSpec

__all__ = ["Recorder"]


class Recorder(Session):
    """Writes down what a workload would do.

    A specification may come from a hostile buyer, so a plan may not grow without bound: BadSpec ends it.
    """

    MAX_STEPS = 5_000_000

    def __init__(self, parties: int) -> None:
        super().__init__(parties, None)
        self.records: list[tuple[str, Record]] = []
        self.uses_torch = False

    def _note(self, record: Record) -> None:
        self.records.append((self.stage, record))
        self._check_steps(len(self.records))

    def _deal(self, stream: int, entry: Entry) -> tuple[Tensor, ...]:
        if isinstance(entry, ProductOfMasks):
            self.uses_torch = self.uses_torch or entry.op.uses_torch(entry.x.shape, entry.y.shape)
        return super()._deal(stream, entry)

    def _check_steps(self, steps: int) -> None:
        if steps > self.MAX_STEPS:
            raise BadSpec(
                f"the job has {steps} steps or more, at most {self.MAX_STEPS} can be planned: use larger blocks"
            )

    def repeat(self, count: int) -> Iterator[int]:
        """Runs the body once and writes it down `count` times: bodies must not depend on the index."""
        if count <= 0:
            return
        start = len(self.records)
        yield 0
        body = self.records[start:]
        self._check_steps(len(self.records) + (count - 1) * len(body))
        for _ in range(count - 1):
            self.records.extend(body)

    def _exchange(self, items: list[Item]) -> list[Tensor]:
        return [Blank(item.value.shape, item.value.dtype) for item in items]

    @property
    def digest(self) -> bytes:
        """The digest that a run of this plan must reach."""
        state = hashlib.sha256()
        encoded: dict[Record, bytes] = {}
        for _, record in self.records:
            data = encoded.get(record)
            if data is None:
                data = encoded[record] = repr(record).encode()
            state.update(data)
        return state.digest()

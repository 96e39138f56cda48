"""A session that writes down what a workload would do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from enclave.engines.mpc.protocols.arithmetic import ProductOfMasks
from enclave.engines.mpc.session import Item, Record, Session, Shape, Tensor
from enclave.engines.mpc.tape import Blank, Entry, MaskRef
from enclave.errors import BadSpec

__all__ = ["Recorder"]


class Recorder(Session):
    """Writes down what a workload would do.

    A specification may come from a hostile buyer, so a plan may not grow without bound: BadSpec ends it.
    """

    MAX_STEPS = 5_000_000
    MAX_TENSOR_BYTES = 1 << 31

    def __init__(self, parties: int, *, has_dealer: bool = True) -> None:
        super().__init__(parties, None)
        self.has_dealer = has_dealer
        self.records: list[tuple[str, Record]] = []
        self.uses_torch = False
        self.largest_tensor_bytes = 0
        self._iterations = 0  # a body without steps takes time too

    def _note(self, record: Record) -> None:
        self.records.append((self.stage, record))
        self._check_steps(len(self.records))

    def local(self, function: Callable[..., Any], out: Any, *tensors: Tensor) -> Any:
        """Blanks of the shape that the parties' own work will have; its size is bounded."""
        found = super().local(function, out, *tensors)
        self._check_size(max(blank.nbytes for blank in (found if isinstance(found, tuple) else (found,))))
        return found

    def new_mask(self, shape: Shape, holder: int | None) -> MaskRef:
        """See `Session.new_mask`; the dealer will have to expand all of it at once."""
        self._check_size(Blank(shape).nbytes)
        return super().new_mask(shape, holder)

    def _check_size(self, size_bytes: int) -> None:
        self.largest_tensor_bytes = max(self.largest_tensor_bytes, size_bytes)
        if size_bytes > self.MAX_TENSOR_BYTES:
            text = f"one step of the job would handle {size_bytes} bytes at once, at most {self.MAX_TENSOR_BYTES}"
            raise BadSpec(text, hint="use smaller blocks of rows, or a smaller model")

    def _deal(self, stream: int, entry: Entry) -> tuple[Tensor, ...]:
        if isinstance(entry, ProductOfMasks):
            self.uses_torch = self.uses_torch or entry.op.uses_torch(entry.x.shape, entry.y.shape)
        self._check_size(sum(spec.nbytes for spec in (*entry.free, *entry.dealt)))
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
        self._iterations += count * max(1, len(body))
        self._check_steps(max(self._iterations, len(self.records) + (count - 1) * len(body)))
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

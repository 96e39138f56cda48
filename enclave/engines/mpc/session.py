"""One run of a protocol at one rank: who sends what, and where randomness comes from.

A protocol is a generator. It asks for correlated randomness with `session.deal`, computes on its own shares with
`session.local`, and yields what is to be opened as a list of `Item`; it is resumed with the opened values. Control
flow depends on shapes alone, so the same generators run

- at a party (`ranks.PartySession`): shares are numpy arrays, a yield is one coalesced message to every peer;
- at the dealer (`ranks.DealerSession`): shares are `Blank`, openings cost nothing, each `deal` streams a correction;
- in a plan (`recorder.Recorder`): everything is `Blank`, and what would be sent is written down.

`together` runs several protocols in the same rounds.

Numpy arrays are used rather than torch's meta tensors, with which the design began: an operation on a meta tensor
costs 100 us and importing torch costs seconds, where a `Blank` costs nothing; and unsigned words shift logically.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.mpc.tape import Array, Blank, Entry, MaskRef, Segment, Spec, layout
from enclave.errors import BadSpec

__all__ = ["Item", "Network", "Protocol", "Record", "Session", "Shape", "Tensor", "together"]

T = TypeVar("T")
Tensor = Any  # an Array at a party, a Blank elsewhere
Observer = Callable[[str, NDArray[np.uint64]], None]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """What a round and a dealt byte cost, as far as protocols are chosen by it. Public, and equal at all parties."""

    round_s: float = 5.5e-4
    byte_s: float = 2.5e-9

    @classmethod
    def named(cls, name: str) -> Network:
        """The network of a job: "lan" as measured between processes of one machine, "wan" 40 ms and 100 Mbit/s."""
        return {"lan": cls(), "wan": cls(round_s=4e-2, byte_s=8e-8)}[name]


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor to open: the sum (or exclusive or) of the shares.

    Attributes:
        sender: the only rank that sends, when it alone holds the value; None: every party sends.
        to: the only rank that learns it; None: all parties.
        masked: whether the opened value is uniform by design; what is not must be a release.
    """

    label: str
    value: Tensor
    op: str = "add"
    sender: int | None = None
    to: int | None = None
    masked: bool = True

    @property
    def signature(self) -> tuple[str, str, int, int | None, int | None]:
        """What a plan knows of this item."""
        return (self.label, self.op, self.value.nbytes, self.sender, self.to)


Protocol = Generator[list[Item], list[Tensor], T]
Record = tuple[Any, ...]


def together(*protocols: Protocol[Any]) -> Protocol[list[Any]]:
    """Runs protocols side by side, so that their rounds coincide. Cost: the longest one's rounds."""
    results: list[Any] = [None] * len(protocols)
    waiting: dict[int, list[Item]] = {}

    def advance(index: int, opened: list[Tensor] | None) -> None:
        try:
            waiting[index] = protocols[index].send(cast(list[Tensor], opened))
        except StopIteration as stop:
            waiting.pop(index, None)
            results[index] = stop.value

    for index in range(len(protocols)):
        advance(index, None)
    while waiting:
        counts = [(index, len(items)) for index, items in waiting.items()]
        opened = yield [item for items in waiting.values() for item in items]
        start = 0
        for index, count in counts:
            advance(index, opened[start : start + count])
            start += count
    return results


class Session(ABC):
    """What protocols see. `rank` is None where there is no share.

    A session without a dealer has the same openings and zero sharings; what asks for dealt randomness is refused
    with BadSpec, in its plan already.
    """

    def __init__(self, parties: int, rank: int | None) -> None:
        self.parties = parties
        self.rank = rank
        self.rounds = 0
        self.stage = ""
        self.has_dealer = True
        self.public_seed = b""  # equal at all parties of a session, and chosen by none
        self.network = Network()
        self.deals_keys = True  # of comparison functions: see `protocols.signs`
        self._streams = 1  # stream 0 is never used, so that a forgotten number shows
        self._hash = hashlib.sha256()

    @property
    def leader(self) -> bool:
        """The rank that adds public constants."""
        return self.rank == 0

    @property
    def blank(self) -> bool:
        """Whether tensors are shapes only."""
        return self.rank is None

    # ---- protocols
    def run(self, protocol: Protocol[T]) -> T:
        """Drives a protocol to its end."""
        try:
            items = next(protocol)
            while True:
                items = protocol.send(self.open(items))
        except StopIteration as stop:
            return cast(T, stop.value)

    def open(self, items: list[Item]) -> list[Tensor]:
        """One round."""
        record = ("open", *(item.signature for item in items))
        self.rounds += 1
        self._note(record)
        return self._exchange(items)

    def local(self, function: Callable[..., Any], out: Any, *tensors: Tensor) -> Any:
        """Computes on own shares; where there are none, gives blanks: `out` is a shape, a Spec, or a tuple of Specs."""
        if self.rank is not None:
            return function(*tensors)
        if isinstance(out, Spec):
            return Blank(out.shape, out.dtype)
        if out and isinstance(out[0], Spec):
            return tuple(Blank(spec.shape, spec.dtype) for spec in out)
        return Blank(out)

    def constant(self, value: Array) -> Tensor:
        """A public array as this rank's share: the leader holds it, the others zeros."""
        if self.rank is None:
            return Blank(value.shape)
        return value if self.rank == 0 else np.zeros(value.shape, np.uint64)

    # ---- randomness
    def deal(self, entry: Entry) -> tuple[Tensor, ...]:
        """This rank's shares of the entry's free tensors, then of its dealt ones."""
        self._check_dealer(entry.kind)
        stream = self._streams
        self._streams += 1
        self._note(("deal", entry.kind, sum(spec.nbytes for spec in layout(entry)[1])))
        return self._deal(stream, entry)

    @property
    def last_stream(self) -> int:
        """The number of the entry that was dealt last."""
        return self._streams - 1

    def new_mask(self, shape: Shape, holder: int | None) -> MaskRef:
        """A fresh uniform mask: known to `holder` alone, or shared by all."""
        self._check_dealer("mask")
        stream = self._streams
        self._streams += 1
        self._note(("mask", shape, holder))
        rows = shape or (1,)
        return MaskRef((Segment(stream, rows, 0, rows[0], holder),), shape)

    def new_stream(self) -> int:
        """A number for a key stream shared by pairs of parties."""
        self._streams += 1
        return self._streams - 1

    def _check_dealer(self, step: str) -> None:
        if not self.has_dealer:
            raise BadSpec(
                f"this step needs a dealer: {step}, in a job without one",
                hint="name a dealer, and use the engine hybrid or mpc",
            )

    def zero_share(self, stream: int, shape: Shape, among: Sequence[int] | None = None) -> Tensor:
        """This rank's share of zeros: uniform to any set of other parties that leaves two out.

        Args:
            among: the ranks that have shares of it; the others have zeros. None: all.
        """
        return Blank(shape)

    def mask_share(self, ref: MaskRef) -> Tensor:
        """This rank's share of a mask; zeros for segments that another rank holds."""
        return Blank(ref.shape)

    # ---- bookkeeping
    @property
    def digest(self) -> bytes:
        """SHA-256 over every step so far."""
        return self._hash.digest()

    def _note(self, record: Record) -> None:
        self._hash.update(repr(record).encode())

    def repeat(self, count: int) -> Iterator[int]:
        """range(count)."""
        return iter(range(count))

    @contextmanager
    def named(self, stage: str) -> Iterator[None]:
        """Steps inside belong to `stage`."""
        before, self.stage = self.stage, stage
        try:
            yield
        finally:
            self.stage = before

    @abstractmethod
    def _exchange(self, items: list[Item]) -> list[Tensor]: ...

    def _deal(self, stream: int, entry: Entry) -> tuple[Tensor, ...]:
        free, dealt = layout(entry)
        return tuple(Blank(spec.shape, spec.dtype) for spec in (*free, *dealt))

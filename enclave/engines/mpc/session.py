"""One run of a protocol at one rank: who sends what, and where randomness comes from.

A protocol is a generator. It asks for correlated randomness with `session.deal`, computes on its own shares with
`session.local`, and yields what is to be opened as a list of `Item`; it is resumed with the opened values. Control
flow depends on shapes alone, so the same generators run

- at a party (`PartySession`): shares are numpy arrays, a yield is one coalesced message to every peer;
- at the dealer (`DealerSession`): shares are `Blank`, openings cost nothing, each `deal` streams a correction;
- in a plan (`Recorder`): everything is `Blank`, and what would be sent is written down.

`together` runs several protocols in the same rounds.

Numpy arrays are used rather than torch's meta tensors, with which the design began: an operation on a meta tensor
costs 100 us and importing torch costs seconds, where a `Blank` costs nothing; and unsigned words shift logically.
"""

from __future__ import annotations

import hashlib
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from enclave.channel import Channel
from enclave.engines.mpc.random import KEY_BYTES, KeyStream, fresh_key
from enclave.engines.mpc.tape import Array, Blank, Entry, MaskRef, Segment, Spec
from enclave.errors import BadSpec, PlanMismatch

__all__ = ["DealerSession", "Item", "PartySession", "Protocol", "Recorder", "Session", "Tensor", "together"]

T = TypeVar("T")
Tensor = Any  # an Array at a party, a Blank elsewhere
Observer = Callable[[str, NDArray[np.uint64]], None]
Shape = tuple[int, ...]


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
    """What protocols see. `rank` is None where there is no share."""

    def __init__(self, parties: int, rank: int | None) -> None:
        self.parties = parties
        self.rank = rank
        self.rounds = 0
        self.stage = ""
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
        stream = self._streams
        self._streams += 1
        self._note(("deal", entry.kind, sum(spec.nbytes for spec in entry.dealt)))
        return self._deal(stream, entry)

    def new_mask(self, shape: Shape, holder: int | None) -> MaskRef:
        """A fresh uniform mask: known to `holder` alone, or shared by all."""
        stream = self._streams
        self._streams += 1
        self._note(("mask", shape, holder))
        rows = shape or (1,)
        return MaskRef((Segment(stream, rows, 0, rows[0], holder),), shape)

    def new_stream(self) -> int:
        """A number for a key stream shared by pairs of parties."""
        self._streams += 1
        return self._streams - 1

    def zero_share(self, stream: int, shape: Shape) -> Tensor:
        """This rank's share of zeros: uniform to any set of other parties that leaves two out."""
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
        return tuple(Blank(spec.shape, spec.dtype) for spec in (*entry.free, *entry.dealt))


class Recorder(Session):
    """Writes down what a workload would do.

    A specification may come from a hostile buyer, so a plan may not grow without bound: BadSpec ends it.
    """

    MAX_STEPS = 5_000_000

    def __init__(self, parties: int) -> None:
        super().__init__(parties, None)
        self.records: list[tuple[str, Record]] = []

    def _note(self, record: Record) -> None:
        self.records.append((self.stage, record))
        self._check_steps(len(self.records))

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


class _Linked(Session):
    """A session with a channel: the opening handshake, deadlines and counters."""

    def __init__(
        self, channel: Channel, parties: int, rank: int | None, progress: Callable[[int, str], None] | None
    ) -> None:
        super().__init__(parties, rank)
        self.channel = channel
        self._progress = progress
        self._started_s = time.monotonic()

    def handshake(self, plan_digest: bytes) -> dict[int, bytes]:
        """Round 0: every rank tells every other its plan digest, and the key they will have in common.

        Of two ranks the higher one draws the key, hence the dealer draws all of its keys. Raises PlanMismatch.
        """
        me, keys = self.channel.rank, {}
        others = [rank for rank in range(self.parties + 1) if rank != me]
        for peer in others:
            keys[peer] = fresh_key() if me > peer else bytes(KEY_BYTES)
            self.channel.send(peer, 0, "hello", [plan_digest + keys[peer]])
        for peer in others:
            hello = bytes(self.channel.receive(peer, 0, "hello", len(plan_digest) + KEY_BYTES))
            if hello[: len(plan_digest)] != plan_digest:
                raise PlanMismatch(plan_digest, hello[: len(plan_digest)], who=self.channel.names[peer])
            if peer > me:
                keys[peer] = hello[len(plan_digest) :]
        return keys

    def _note(self, record: Record) -> None:
        super()._note(record)
        if self._progress is not None:
            self._progress(self.rounds, self.stage)

    @property
    def wall_s(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._started_s

    @property
    def peak_rss_bytes(self) -> int:
        """The process's largest resident memory so far."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PartySession(_Linked):
    """A rank that holds shares."""

    def __init__(
        self,
        channel: Channel,
        parties: int,
        plan_digest: bytes,
        *,
        observer: Observer | None = None,
        progress: Callable[[int, str], None] | None = None,
    ) -> None:
        super().__init__(channel, parties, channel.rank, progress)
        self._observer = observer
        keys = self.handshake(plan_digest)
        self._dealt = KeyStream(keys.pop(parties))
        self._pairs = {peer: KeyStream(key) for peer, key in keys.items()}
        self._peers = sorted(self._pairs)
        self.openings = 0
        self.opened_words = 0

    def _exchange(self, items: list[Item]) -> list[Tensor]:
        me, step = cast(int, self.rank), self.rounds
        label = items[0].label if len(items) == 1 else "+".join(dict.fromkeys(i.label for i in items))[:64]
        values: list[Any] = [i.value if isinstance(i.value, Blank) else np.ascontiguousarray(i.value) for i in items]
        for peer in self._peers:
            parts = [
                values[k].reshape(-1).view(np.uint8).data
                for k, item in enumerate(items)
                if item.sender in (None, me) and item.to in (None, peer) and values[k].nbytes
            ]
            if parts:
                self.channel.send(peer, step, label, parts)
        opened: list[Tensor] = [values[k] if item.sender in (None, me) else None for k, item in enumerate(items)]
        owned = [False] * len(items)
        for peer in self._peers:
            wanted = [
                k
                for k, item in enumerate(items)
                if item.sender in (None, peer) and item.to in (None, me) and values[k].nbytes
            ]
            size = sum(values[k].nbytes for k in wanted)
            if not size:
                continue
            data, start = self.channel.receive(peer, step, label, size), 0
            for k in wanted:
                theirs = np.frombuffer(data, values[k].dtype, values[k].size, start).reshape(values[k].shape)
                start += values[k].nbytes
                if opened[k] is None:
                    opened[k] = theirs
                    continue
                combine = np.add if items[k].op == "add" else np.bitwise_xor
                # Safety: never in place before the sum is a new array; the channel may still hold the sent one.
                opened[k] = combine(opened[k], theirs, out=opened[k] if owned[k] else None)
                owned[k] = True
        for k, item in enumerate(items):
            if item.to not in (None, me):
                opened[k] = None
            elif item.masked:
                self.openings += 1
                self.opened_words += values[k].nbytes // 8
                if self._observer is not None and values[k].dtype == np.uint64:
                    self._observer(item.label, opened[k].reshape(-1))
        return opened

    def _deal(self, stream: int, entry: Entry) -> tuple[Tensor, ...]:
        specs = entry.free if self.rank == 0 else (*entry.free, *entry.dealt)
        shares = _split(specs, self._dealt.words(stream, sum(spec.words for spec in specs)))
        if self.rank == 0 and entry.dealt:
            size = sum(spec.nbytes for spec in entry.dealt)
            data, start = self.channel.receive(self.parties, stream, entry.kind, size), 0
            for spec in entry.dealt:
                shares.append(np.frombuffer(data, spec.dtype, spec.size, start).reshape(spec.shape))
                start += spec.nbytes
        return tuple(shares)

    def zero_share(self, stream: int, shape: Shape) -> Tensor:
        """Pairwise key streams that cancel: the lower rank adds, the higher subtracts."""
        me, count = cast(int, self.rank), int(np.prod(shape, dtype=np.int64))
        total = np.zeros(count, np.uint64)
        for peer in self._peers:
            words = self._pairs[peer].words(stream, count)
            total = total + words if me < peer else total - words
        return total.reshape(shape)

    def mask_share(self, ref: MaskRef) -> Tensor:
        """Expanded from the key in common with the dealer."""
        return _arrange(ref, [self._segment(segment) for segment in ref.segments])

    def _segment(self, segment: Segment) -> Array:
        shape = (segment.stop - segment.start, *segment.shape[1:])
        if segment.holder not in (None, self.rank):
            return np.zeros(shape, np.uint64)
        row = segment.row_words
        return self._dealt.words(segment.stream, shape[0] * row, segment.start * row).reshape(shape)


class DealerSession(_Linked):
    """Follows the workload on shapes and streams the leader's corrections, in order, as far ahead as the channel's
    back-pressure lets it. Its memory is that of the largest single entry."""

    def __init__(
        self,
        channel: Channel,
        parties: int,
        plan_digest: bytes,
        *,
        progress: Callable[[int, str], None] | None = None,
    ) -> None:
        super().__init__(channel, parties, None, progress)
        keys = self.handshake(plan_digest)
        self._keys = [KeyStream(keys[rank]) for rank in range(parties)]
        self.dealt_bytes = 0

    def _exchange(self, items: list[Item]) -> list[Tensor]:
        return [Blank(item.value.shape, item.value.dtype) for item in items]

    def _deal(self, stream: int, entry: Entry) -> tuple[Tensor, ...]:
        if entry.dealt:
            free: list[Array] = []
            others: list[Array] = []
            for rank, key in enumerate(self._keys):
                specs = entry.free if rank == 0 else (*entry.free, *entry.dealt)
                shares = _split(specs, key.words(stream, sum(spec.words for spec in specs)))
                free = _combine(entry.free, free, shares[: len(entry.free)])
                if rank:
                    others = _combine(entry.dealt, others, shares[len(entry.free) :])
            parts = []
            for spec, value, other in zip(entry.dealt, entry.values(tuple(free), self), others, strict=True):
                fixed = value - other if spec.sharing == "add" else value ^ other
                if fixed.shape != spec.shape or fixed.dtype != np.dtype(spec.dtype):
                    raise ValueError(f"{entry.kind} must deal {spec}, found {fixed.dtype} {fixed.shape}")
                parts.append(np.ascontiguousarray(fixed).reshape(-1).view(np.uint8).data)
                self.dealt_bytes += spec.nbytes
            self.channel.send(0, stream, entry.kind, parts)
        return super()._deal(stream, entry)

    def mask(self, ref: MaskRef) -> Array:
        """The clear value of a mask drawn earlier, expanded again: no mask is kept."""
        pieces = []
        for segment in ref.segments:
            shape = (segment.stop - segment.start, *segment.shape[1:])
            count, offset = shape[0] * segment.row_words, segment.start * segment.row_words
            ranks = range(self.parties) if segment.holder is None else [segment.holder]
            total = sum((self._keys[rank].words(segment.stream, count, offset) for rank in ranks), np.uint64(0))
            pieces.append(cast(Array, total).reshape(shape))
        return _arrange(ref, pieces)


def _split(specs: Sequence[Spec], words: NDArray[np.uint64]) -> list[Array]:
    shares, start = [], 0
    for spec in specs:
        part = words[start : start + spec.words].view(spec.dtype)[: spec.size]
        shares.append(part.reshape(spec.shape))
        start += spec.words
    return shares


def _combine(specs: Sequence[Spec], total: list[Array], shares: list[Array]) -> list[Array]:
    if not total:
        return list(shares)
    return [a + b if spec.sharing == "add" else a ^ b for spec, a, b in zip(specs, total, shares, strict=True)]


def _arrange(ref: MaskRef, pieces: list[Array]) -> Array:
    return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(ref.shape)

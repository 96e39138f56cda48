"""Sessions with a channel: a party that holds shares, and the dealer."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from enclave.channel import Channel
from enclave.engines.mpc.kernels import Operation, from_planes
from enclave.engines.mpc.random import KEY_BYTES, KeyStream, derive_key, fresh_key
from enclave.engines.mpc.session import Item, Record, Session, Shape, Tensor
from enclave.engines.mpc.stock import Stock
from enclave.engines.mpc.tape import Array, BitRef, Blank, Entry, MaskRef, Segment, Spec, layout
from enclave.errors import PlanMismatch, SessionError, Untrusted

__all__ = ["ONLINE", "DealerSession", "Linked", "Observer", "PartySession"]

Observer = Callable[[str, NDArray[np.uint64]], None]
ONLINE = bytes(32)  # how a session is dealt: while it runs; otherwise the id of the stock that it consumes


class Linked(Session):
    """A session with a channel: the opening handshake, deadlines and counters."""

    dealing = ONLINE

    def __init__(
        self, channel: Channel, parties: int, rank: int | None, progress: Callable[[int, str], None] | None
    ) -> None:
        super().__init__(parties, rank)
        self.channel = channel
        self._progress = progress
        self._started_s = time.monotonic()

    def handshake(self, plan_digest: bytes, spec_digest: bytes) -> dict[int, KeyStream]:
        """Round 0: every rank tells every other what it is about to run, and the key they will have in common.

        Of two ranks the higher one draws the key, hence the dealer draws all of its keys. A plan knows sizes and
        steps only, so the specification is compared too, and the stock of a session that was dealt ahead; all of them
        go into the keys, so that parties which were told different things could at worst make uniform garbage.

        Raises: PlanMismatch; Untrusted when a peer was given another specification, or reflects this hello;
            SessionError (code `session.stock`) when a peer has another stock, or none.
        """
        me, keys, streams = self.channel.rank, {}, {}
        agreed = plan_digest + spec_digest + self.dealing
        others = [rank for rank in range(len(self.channel.names)) if rank != me]
        for peer in others:
            keys[peer] = fresh_key() if me > peer else bytes(KEY_BYTES)
            self.channel.send(peer, 0, "hello", [agreed + keys[peer]])
        for peer in others:
            hello = bytes(self.channel.receive(peer, 0, "hello", len(agreed) + KEY_BYTES))
            who, found, key = self.channel.names[peer], hello[: len(agreed)], hello[len(agreed) :]
            if found[:32] != plan_digest:
                raise PlanMismatch(plan_digest, found[:32], who=who)
            if found[32:64] != spec_digest:
                raise Untrusted(
                    f"{who} was given another specification: expected {spec_digest.hex()[:16]}, "
                    f"found {found[32:64].hex()[:16]}",
                    hint="whoever proposed the job told the parties different things",
                    code="untrusted.spec",
                )
            if found != agreed:
                raise SessionError(
                    f"{who} is dealt to otherwise: expected {_dealing(self.dealing)}, found {_dealing(found[64:])}",
                    hint="deal the job again, or run it online",
                    code="session.stock",
                )
            if (key == bytes(KEY_BYTES)) == (peer > me):
                raise Untrusted(f"{who} sends no key where one is due, or one where none is", code="untrusted.key")
            pair = bytes(sorted((me, peer)))
            streams[peer] = KeyStream(derive_key(key if peer > me else keys[peer], agreed + pair))
        return streams

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
        try:
            with open("/proc/self/status", "rb") as file:
                return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"VmHWM:"))
        except (OSError, StopIteration):
            # Elsewhere than on Linux. There, it would count what a large parent had before it started this program.
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PartySession(Linked):
    """A rank that holds shares. Rank `parties` of the channel is the dealer; a channel without it has none.

    Args:
        stock: what was dealt ahead for this session; it is used up once all peers have shown the same. None: the
            dealer is a peer and deals while the session runs.
    """

    def __init__(
        self,
        channel: Channel,
        parties: int,
        plan_digest: bytes,
        spec_digest: bytes = bytes(32),
        *,
        observer: Observer | None = None,
        progress: Callable[[int, str], None] | None = None,
        stock: Stock | None = None,
    ) -> None:
        super().__init__(channel, parties, channel.rank, progress)
        self._observer = observer
        self._stock = stock
        if stock is not None:
            self.dealing = stock.id
        self._pairs = self.handshake(plan_digest, spec_digest)
        dealer = self._pairs.pop(parties, None)  # a witness only, where a stock was dealt ahead
        # Safety: the stock is destroyed on the disk here, before any message that depends on it.
        dealt = dealer if stock is None else stock.use()
        self.has_dealer = dealt is not None
        if dealt is not None:
            self._dealt = dealt
        # Of what every party was told, and none alone chose: a hash of the plan and of the specification.
        self.public_seed = derive_key(bytes(KEY_BYTES), b"public" + plan_digest + spec_digest)
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
                    # What is kept for later products must not keep a whole message with it.
                    opened[k] = theirs if theirs.nbytes == size else theirs.copy()
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
                if self._observer is not None and values[k].dtype in (np.uint64, np.uint32):
                    whole = opened[k].reshape(-1).view(np.uint8)
                    self._observer(item.label, whole[: len(whole) // 8 * 8].view(np.uint64))
        return opened

    def _deal(self, stream: int, entry: Entry) -> tuple[Tensor, ...]:
        free, dealt = layout(entry)
        specs = free if self.rank == 0 else (*free, *dealt)
        shares = _split(specs, self._dealt.words(stream, sum(spec.words for spec in specs)))
        if self.rank == 0 and dealt:
            data, start = self._corrections(stream, entry.kind, sum(spec.nbytes for spec in dealt)), 0
            for spec in dealt:
                shares.append(np.frombuffer(data, spec.dtype, spec.size, start).reshape(spec.shape))
                start += spec.nbytes
        return tuple(shares)

    def _corrections(self, stream: int, kind: str, size_bytes: int) -> memoryview:
        if self._stock is not None:
            return self._stock.take(size_bytes)
        return self.channel.receive(self.parties, stream, kind, size_bytes)

    def zero_share(self, stream: int, shape: Shape, among: Sequence[int] | None = None) -> Tensor:
        """Pairwise key streams that cancel: the lower rank adds, the higher subtracts."""
        me, count = cast(int, self.rank), int(np.prod(shape, dtype=np.int64))
        total = np.zeros(count, np.uint64)
        for peer, key in self.pairs(among).items():
            words = key.words(stream, count)
            total = total + words if me < peer else total - words
        return total.reshape(shape)

    def pairs(self, among: Sequence[int] | None = None) -> dict[int, KeyStream]:
        """The key streams in common with each other rank of `among`, which no third party knows; all: None.

        Empty at a rank outside `among`. Safety: number what is drawn with `new_stream`, as for a zero sharing.
        """
        if among is not None and self.rank not in among:
            return {}
        return {peer: self._pairs[peer] for peer in self._peers if among is None or peer in among}

    def mask_share(self, ref: MaskRef) -> Tensor:
        """Expanded from the key in common with the dealer."""
        return _arrange(ref, [self._segment(segment) for segment in ref.segments])

    def _segment(self, segment: Segment) -> Array:
        shape = (segment.stop - segment.start, *segment.shape[1:])
        if segment.holder not in (None, self.rank):
            return np.zeros(shape, np.uint64)
        row = segment.row_words
        return self._dealt.words(segment.stream, shape[0] * row, segment.start * row).reshape(shape)


class DealerSession(Linked):
    """Follows the workload on shapes and streams the leader's corrections, in order, as far ahead as the channel's
    back-pressure lets it. Its memory is that of the largest single entry."""

    def __init__(
        self,
        channel: Channel,
        parties: int,
        plan_digest: bytes,
        spec_digest: bytes = bytes(32),
        *,
        progress: Callable[[int, str], None] | None = None,
    ) -> None:
        super().__init__(channel, parties, None, progress)
        self.openings = self.opened_words = 0  # a dealer sees none
        streams = self.handshake(plan_digest, spec_digest)
        self._keys = [streams[rank] for rank in range(parties)]
        self.dealt_bytes = 0

    def _exchange(self, items: list[Item]) -> list[Tensor]:
        return [Blank(item.value.shape, item.value.dtype) for item in items]

    def _deal(self, stream: int, entry: Entry) -> tuple[Tensor, ...]:
        free, dealt = layout(entry)
        if dealt:
            values = entry.values(tuple(self._expanded(stream, free)), self)
            offset = sum(spec.words for spec in free)
            parts = []
            for spec, value in zip(dealt, values, strict=True):
                if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
                    raise ValueError(f"{entry.kind} must deal {spec}, found {value.dtype} {value.shape}")
                correction = self._less_the_others(stream, offset, spec, value)
                parts.append(correction.reshape(-1).view(np.uint8).data)
                offset += spec.words
                self.dealt_bytes += spec.nbytes
            self._send(stream, entry.kind, parts)
        return super()._deal(stream, entry)

    def _expanded(self, stream: int, specs: Sequence[Spec]) -> list[Array]:
        """The clear values of free tensors: what all parties' shares combine to."""
        found, offset = [], 0
        for spec in specs:
            words = self._keys[0].words(stream, spec.words, offset)
            for key in self._keys[1:]:
                self._combine(words, key, stream, offset, spec, Operation.ADD)
            found.append(words.view(spec.dtype)[: spec.size].reshape(spec.shape))
            offset += spec.words
        return found

    def _less_the_others(self, stream: int, offset: int, spec: Spec, value: Array) -> Array:
        """`value` without the shares that all parties but the leader expand."""
        if spec.sharing == "clear":
            return np.ascontiguousarray(value)
        if value.base is not None or not value.flags.c_contiguous or spec.nbytes % 8:
            words = np.zeros(spec.words, np.uint64)
            words.view(spec.dtype)[: spec.size] = value.reshape(-1)
        else:
            words = value.reshape(-1).view(np.uint64)
        for key in self._keys[1:]:
            self._combine(words, key, stream, offset, spec, Operation.SUBTRACT)
        return words.view(spec.dtype)[: spec.size]

    @staticmethod
    def _combine(
        words: NDArray[np.uint64], key: KeyStream, stream: int, offset: int, spec: Spec, operation: Operation
    ) -> None:
        if spec.sharing == "xor":
            key.into(words, stream, offset, Operation.XOR)
        elif spec.words == spec.size:
            key.into(words, stream, offset, operation)
        else:  # several elements a word
            a, b = words.view(spec.dtype), key.words(stream, spec.words, offset).view(spec.dtype)
            (np.add if operation is Operation.ADD else np.subtract)(a, b, out=a)

    def _send(self, stream: int, kind: str, parts: list[memoryview]) -> None:
        self.channel.send(0, stream, kind, parts)

    def mask(self, ref: MaskRef) -> Array:
        """The clear value of a mask drawn earlier, expanded again: no mask is kept."""
        pieces = []
        for segment in ref.segments:
            shape = (segment.stop - segment.start, *segment.shape[1:])
            count, offset = shape[0] * segment.row_words, segment.start * segment.row_words
            first, *rest = self._keys if segment.holder is None else [self._keys[segment.holder]]
            total = first.words(segment.stream, count, offset)
            for key in rest:
                key.into(total, segment.stream, offset, Operation.ADD)
            pieces.append(total.reshape(shape))
        return _arrange(ref, pieces)

    def bits(self, ref: BitRef) -> Array:
        """The clear values of packed bits drawn earlier."""
        width = -(-ref.n // 64)
        shares = [key.words(ref.stream, ref.rows * width, ref.offset) for key in self._keys]
        planes = reduce(np.bitwise_xor, shares).reshape(ref.rows, width)
        return from_planes(planes, ref.n).astype(np.uint64)


def _dealing(stock_id: bytes) -> str:
    return "online" if stock_id == ONLINE else f"stock {stock_id.hex()[:16]}"


def _split(specs: Sequence[Spec], words: NDArray[np.uint64]) -> list[Array]:
    shares, start = [], 0
    for spec in specs:
        if spec.sharing == "clear":
            shares.append(np.zeros(spec.shape, spec.dtype))
            continue
        part = words[start : start + spec.words].view(spec.dtype)[: spec.size]
        shares.append(part.reshape(spec.shape))
        start += spec.words
    return shares


def _arrange(ref: MaskRef, pieces: list[Array]) -> Array:
    return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(ref.shape)

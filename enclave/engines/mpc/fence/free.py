"""Sessions of free-running programs: the tape is written while the program runs.

A job has a plan, and its dealer follows the plan. A CrypTen program has none: nobody can know what a script will do
next. So every party tells the dealer each entry of the tape when it needs it, as a typed message (`entries`). The
leader sends the message and waits for its correction; the other ranks send a digest and go on at once, because
what they are dealt they expand from their key. The dealer serves an entry when all ranks have said the same.

Discussion: the dealer could serve the leader first and compare digests later, which would save the slowest rank's
delay. But then a leader could get two corrections for one key stream, whose difference is not masked. Ranks run in
lock step anyway: an opening waits for all of them.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

from enclave.channel import Channel
from enclave.engines.mpc.fence.entries import MAX_MESSAGE_BYTES, TapeEntry
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.session import Tensor
from enclave.engines.mpc.tape import Entry
from enclave.errors import BadSpec, Desynchronised, PolicyRefused

__all__ = ["DealerLimits", "FreeDealer", "FreeSession", "program_digest"]

_HEAD = struct.Struct(">Q32s")  # length of the message (0: the program has ended), SHA-256 of it


def program_digest(parties: int, program: bytes = b"") -> bytes:
    """What all ranks of a free-running session must agree on before they start: their number and the program."""
    state = hashlib.sha256(b"enclave free-running program 1")
    state.update(struct.pack(">QQ", parties, len(program)))
    state.update(program)
    return state.digest()


@dataclass(frozen=True, slots=True)
class DealerLimits:
    """What a dealer is ready to do for one program.

    Attributes:
        entry_bytes: of one entry: what is dealt, what it is made from, the masks it draws again, and room to convolve.
        total_bytes: dealt in all.
        entries: in all.
    """

    entry_bytes: int = 1 << 30
    total_bytes: int = 1 << 36
    entries: int = 10_000_000


class FreeSession(PartySession):
    """A rank of a program that has no plan."""

    def __init__(
        self,
        channel: Channel,
        parties: int,
        digest: bytes,
        *,
        observer: Callable[..., None] | None = None,
        progress: Callable[[int, str], None] | None = None,
    ) -> None:
        super().__init__(channel, parties, digest, observer=observer, progress=progress)
        self.deals_keys = False
        self._told = 0
        self.dealt_bytes = 0  # sent by the dealer, to the leader

    def _deal(self, stream: int, entry: Entry) -> tuple[Tensor, ...]:
        if entry.dealt:
            self._tell(TapeEntry(stream, entry).encode())
            self.dealt_bytes += sum(spec.nbytes for spec in entry.dealt)
        return super()._deal(stream, entry)

    def finish(self) -> None:
        """Tells the dealer that the program has ended."""
        self._tell(b"")

    def _tell(self, message: bytes) -> None:
        self._told += 1
        head = _HEAD.pack(len(message), hashlib.sha256(message).digest())
        self.channel.send(self.parties, self._told, "entry", [head])
        if message and self.rank == 0:
            self.channel.send(self.parties, self._told, "entry:body", [message])


class FreeDealer(DealerSession):
    """Deals what a program's parties ask for, when they all ask for the same."""

    def __init__(
        self,
        channel: Channel,
        parties: int,
        digest: bytes,
        limits: DealerLimits | None = None,
        *,
        progress: Callable[[int, str], None] | None = None,
    ) -> None:
        super().__init__(channel, parties, digest, progress=progress)
        self.limits = limits or DealerLimits()
        self.entries = 0

    def serve(self) -> None:
        """Serves entries until all parties say that the program has ended.

        Raises:
            Desynchronised: two ranks want different entries, or the streams are out of order.
            BadSpec: an entry that is malformed.
            PolicyRefused: dealer.entry_bytes, dealer.total_bytes or dealer.entries.
        """
        while (message := self._next()) is not None:
            self.entries += 1
            if self.entries > self.limits.entries:
                raise PolicyRefused(f"more than {self.limits.entries} entries", rules=("dealer.entries",))
            entry = message.entry
            self._check(message, entry)
            self._streams = message.stream + 1
            self._note(("deal", entry.kind, sum(spec.nbytes for spec in entry.dealt)))
            self._deal(message.stream, entry)

    def _next(self) -> TapeEntry | None:
        step, names = self.entries + 1, self.channel.names
        heads = [bytes(self.channel.receive(rank, step, "entry", _HEAD.size)) for rank in range(self.parties)]
        size, digest = _HEAD.unpack(heads[0])
        for rank, head in enumerate(heads):
            if head != heads[0]:
                expected, found = (f"entry {step}, digest {h[8:16].hex()}" for h in (heads[0], head))
                raise Desynchronised(f"{expected} as at {names[0]}", found, who=names[rank])
        if not size:
            return None
        if size > MAX_MESSAGE_BYTES:
            raise BadSpec(f"tape entry too long: at most {MAX_MESSAGE_BYTES} bytes, found {size}")
        body = bytes(self.channel.receive(0, step, "entry:body", size))
        if hashlib.sha256(body).digest() != digest:
            raise Desynchronised(f"entry {step} as announced", "another one", who=names[0])
        message = TapeEntry.decode(body)
        if message.stream < self._streams:
            raise Desynchronised(f"a stream from {self._streams} on", f"stream {message.stream}", who=names[0])
        return message

    def _check(self, message: TapeEntry, entry: Entry) -> None:
        """Raises before anything large is allocated."""
        words = sum(spec.words for spec in (*entry.free, *entry.dealt)) + message.scratch_words()
        for mask in message.masks():
            words += math.prod(mask.shape)
            for segment in mask.segments:
                if segment.stream >= message.stream or (segment.holder or 0) >= self.parties:
                    raise BadSpec(f"entry on stream {message.stream} names a mask of stream {segment.stream}")
        for bits in message.bits():
            words += bits.rows * -(-bits.n // 64)
            if bits.stream >= message.stream:
                raise BadSpec(f"entry on stream {message.stream} names bits of stream {bits.stream}")
        dealt = sum(spec.nbytes for spec in entry.dealt)
        if 8 * words > self.limits.entry_bytes:
            raise PolicyRefused(
                f"an entry of {8 * words} bytes, at most {self.limits.entry_bytes} are served",
                rules=("dealer.entry_bytes",),
            )
        if self.dealt_bytes + dealt > self.limits.total_bytes:
            raise PolicyRefused(f"more than {self.limits.total_bytes} bytes in all", rules=("dealer.total_bytes",))

"""Dealing ahead: a session's correlated randomness is dealt to the parties' disks before the session begins.

The dealer's whole output for a session is one seed for each party and the leader's stream of corrections. Both are
functions of the tape, which the plan fixes, and of the keys; neither depends on data. So they can be dealt at any
time after the plan is known:

    dealing phase   dealer and parties meet, compare plan and specification, and the dealer streams; the leader keeps
                    the corrections, the others their seeds, all sealed on their disks (see `stock`). When everybody
                    has said that it is durable, the phase is over and the dealer's process ends.
    session         each party opens its stock and deals to itself. Nobody needs the dealer.

Who holds what: the leader's corrections are uniform to it without the others' seeds, exactly as when they are dealt
online; the others' disks hold 16 secret bytes each. The dealer keeps nothing but the stock's public id.

Binding: a stock is bound to the session's name (a job's id), its plan, its specification, the parties' number, the
rank and an expiry. Its id is a hash over all of these and a nonce of the dealer's, the same at all parties of one
dealing, and the session's hello compares it, like the plan: parties with stocks of two dealings, or of which one is
dealt to online, never exchange a step. Keys between pairs of parties are not dealt; they are fresh in every session.

Never twice: see `stock`. A session that stops after its hello has used its stock up, however little it took of it.
A stock whose session fails before that (a peer does not come, or shows another one) stays whole: no message that
depends on it has left.

Cost: the leader's disk keeps the plan's dealer bytes and 16 bytes for each MiB of them; the session's dealer bytes
on the network are 0. Memory: ten chunks of 1 MiB at the leader, the largest entry of the tape at the dealer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from enclave.channel import Channel
from enclave.engines.mpc.random import KEY_BYTES, KeyStream, fresh_key
from enclave.engines.mpc.ranks import DealerSession, Linked
from enclave.engines.mpc.sealed import CHUNK_BYTES, Binding
from enclave.engines.mpc.session import Item, Session, Tensor
from enclave.engines.mpc.shelf import Shelf, StockWriter
from enclave.engines.mpc.stock import Stock
from enclave.engines.mpc.tape import Blank
from enclave.errors import PlanMismatch, SessionError

__all__ = ["Binding", "Shelf", "Stock", "Witness", "deal_ahead", "keep_ahead"]

_NONCE_BYTES = 2 * KEY_BYTES
Progress = Callable[[int, int], None]


class _Phase:
    """What both sides of a dealing phase have in common: the steps after the hello."""

    dealing = hashlib.sha256(b"enclave/v1/dealing phase").digest()


class _AheadDealer(_Phase, DealerSession):
    """Streams the corrections as chunks, one after the other, whatever entries they belong to."""

    def __init__(self, channel: Channel, binding: Binding, progress: Progress | None) -> None:
        super().__init__(channel, binding.parties, binding.plan_digest, binding.spec_digest)
        self._binding, self._told = binding, progress
        self._buffer, self._filled, self._chunks = memoryview(bytearray(CHUNK_BYTES)), 0, 0
        nonce = fresh_key() + fresh_key()
        self.id = binding.stock_id(nonce)
        seeds = [fresh_key() for _ in range(binding.parties)]
        self._keys = [KeyStream(seed) for seed in seeds]
        for rank, seed in enumerate(seeds):
            channel.send(rank, 0, "stock", [nonce, seed])

    def _send(self, stream: int, kind: str, parts: list[memoryview]) -> None:
        for part in parts:
            while part:
                step = min(len(part), CHUNK_BYTES - self._filled)
                self._buffer[self._filled : self._filled + step] = part[:step]
                part, self._filled = part[step:], self._filled + step
                if self._filled == CHUNK_BYTES:
                    self._flush()

    def _flush(self) -> None:
        self._chunks += 1
        self.channel.send(0, self._chunks, "dealt", [self._buffer[: self._filled]])
        self._filled = 0
        for rank in range(1, self.parties):
            # The others have nothing to receive, but a peer that is silent for long is taken for lost.
            self.channel.send(rank, self._chunks, "dealt", [])
        if self._told is not None:
            self._told(min(self._chunks * CHUNK_BYTES, self._binding.dealt_bytes), self._binding.dealt_bytes)

    def finish(self) -> None:
        """Sends the rest; raises PlanMismatch when the workload was not the plan's."""
        if self.digest != self._binding.plan_digest or self.dealt_bytes != self._binding.dealt_bytes:
            raise PlanMismatch(self._binding.plan_digest, self.digest, who=self.channel.names[self.channel.rank])
        if self._filled:
            self._flush()


class _Keeper(_Phase, Linked):
    """A party in the dealing phase: it computes nothing."""

    def _exchange(self, items: list[Item]) -> list[Tensor]:
        raise NotImplementedError("nothing is opened while a stock is dealt")


def deal_ahead(
    channel: Channel,
    binding: Binding,
    workload: Callable[[Session], Any],
    *,
    shelf: Shelf | None = None,
    progress: Progress | None = None,
) -> bytes:
    """The dealing phase at the dealer; returns the stock's id once all parties have it on their disks.

    Args:
        channel: to all parties, as of a session; not closed here.
        binding: with the dealer's rank.
        workload: what the plan was made of; run on shapes.
        shelf: where the id is kept, for a `Witness`; None: the dealer forgets the stock.
        progress: called with the bytes dealt so far, and in all.

    Raises: PlanMismatch, Untrusted, PeerLost, Desynchronised; PolicyRefused or StoreError of its own shelf.
    """
    session = _AheadDealer(channel, binding, progress)
    writer = shelf.writer(binding, session.id) if shelf is not None else None
    try:
        workload(session)
        session.finish()
        if writer is not None:
            writer.finish(bytes(KEY_BYTES))
        _everybody_has(channel, binding, session.id)
    except BaseException:
        _discard(writer)
        raise
    return session.id


def keep_ahead(channel: Channel, binding: Binding, shelf: Shelf, *, progress: Progress | None = None) -> bytes:
    """The dealing phase at a party; returns the stock's id once all parties have it on their disks.

    Args:
        channel: to all parties and the dealer, as of a session; not closed here.
        binding: with this party's rank.
        progress: called with the bytes dealt so far, and in all.

    Raises: PlanMismatch, Untrusted, PeerLost, Desynchronised; PolicyRefused when the shelf's limit is too low;
        StoreError when the disk is full or refuses. Nothing is left on the disk then.
    """
    session = _Keeper(channel, binding.parties, None, None)
    session.handshake(binding.plan_digest, binding.spec_digest)
    dealer, total = binding.parties, binding.dealt_bytes
    said = bytes(channel.receive(dealer, 0, "stock", _NONCE_BYTES + KEY_BYTES))
    nonce, seed = said[:_NONCE_BYTES], said[_NONCE_BYTES:]
    stock_id = binding.stock_id(nonce)
    writer = shelf.writer(binding, stock_id)
    try:
        for index in range(-(-total // CHUNK_BYTES)):
            size = min(CHUNK_BYTES, total - index * CHUNK_BYTES)
            chunk = channel.receive(dealer, index + 1, "dealt", size if binding.rank == 0 else 0)
            if binding.rank == 0:
                writer.append(chunk)
            if progress is not None:
                progress(index * CHUNK_BYTES + size, total)
        writer.finish(seed)
        _everybody_has(channel, binding, stock_id)
    except BaseException:
        _discard(writer)
        raise
    return stock_id


def _everybody_has(channel: Channel, binding: Binding, stock_id: bytes) -> None:
    """Says that this rank's stock is durable, and waits until everybody has said so of the same one."""
    step = -(-binding.dealt_bytes // CHUNK_BYTES) + 1
    others = [rank for rank in range(binding.parties + 1) if rank != channel.rank]
    for peer in others:
        channel.send(peer, step, "kept", [stock_id])
    for peer in others:
        found = bytes(channel.receive(peer, step, "kept", len(stock_id)))
        if found != stock_id:
            text = f"{channel.names[peer]} keeps stock {found.hex()[:16]}, expected {stock_id.hex()[:16]}"
            raise SessionError(text, code="session.stock")


def _discard(writer: StockWriter | None) -> None:
    if writer is not None:
        writer.discard()


class Witness(Linked):
    """The dealer in a session that it has dealt ahead: follows the workload on shapes, holds and sends nothing.

    A session needs no such rank. A job has one, because its dealer countersigns how it ended.
    """

    def __init__(
        self,
        channel: Channel,
        parties: int,
        plan_digest: bytes,
        spec_digest: bytes,
        stock: Stock,
        *,
        progress: Callable[[int, str], None] | None = None,
    ) -> None:
        super().__init__(channel, parties, None, progress)
        self.openings = self.opened_words = self.dealt_bytes = 0
        self.dealing = stock.id
        self.handshake(plan_digest, spec_digest)
        stock.use()

    def _exchange(self, items: list[Item]) -> list[Tensor]:
        return [Blank(item.value.shape, item.value.dtype) for item in items]

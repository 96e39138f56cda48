"""CrypTen's communicator on a session: stands for `crypten.communicator`'s classes.

What stock sends through it is gone: no torch.distributed, no pickled object, no reduction by a ring that leaves parts
of the plaintext with parties that are not to learn it. A program may still ask who it is, wait for the others, and
add up or hand out its own public tensors, if it may reveal values at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from enclave.engines.mpc.fence.active import Fence, current, current_or_none, refuse
from enclave.engines.mpc.fence.encoder import decoded, encode_array, plain_array
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import RingTensor
from enclave.errors import PolicyRefused, Unsupported

__all__ = ["Communicator", "DistributedCommunicator", "InProcessCommunicator"]

_BITS = 20  # fractional bits of a program's own plaintexts on their way
_PICKLE = "objects do not travel"
_LOOSE = "frames of a session are labelled and in order; shares move inside protocols alone"


def _may_open(fence: Fence, name: str) -> None:
    if not fence.allow_open:
        raise PolicyRefused(f"{name} is refused inside a job", rules=("release.permit",))


class Communicator:
    """The base that programs may test for."""

    BYTES_PER_ELEMENT = 8


class DistributedCommunicator(Communicator):
    """The communicator of the session that the calling thread runs on. It has no state of its own."""

    @classmethod
    def is_initialized(cls) -> bool:
        """Whether this thread has a session."""
        return current_or_none() is not None

    @classmethod
    def get(cls) -> DistributedCommunicator:
        """The communicator; NotReady without a session."""
        current()
        return cls()

    @classmethod
    def initialize(cls, rank: int = 0, world_size: int = 1, init_ttp: bool = False) -> None:
        """Nothing: whoever started the program opened the session. NotReady when nobody did."""
        if init_ttp:
            raise Unsupported("the TTP provider", "the session has a dealer of its own")
        current()

    @classmethod
    def shutdown(cls) -> None:
        """Nothing: whoever opened the session closes it."""

    def get_rank(self) -> int:
        """This party's rank."""
        return current().rank

    def get_world_size(self) -> int:
        """Ranks that hold shares."""
        return current().parties

    def set_name(self, name: str) -> None:
        """A name for this party's own logs."""
        current().party_name = str(name)

    def get_name(self) -> str:
        """The name for this party's own logs."""
        return current().party_name

    def barrier(self) -> None:
        """Waits for all parties. Cost: one round of a public word."""
        current().publish(None, (1,), 0)

    def all_reduce(self, input: Any, op: Any = None, batched: bool = False) -> Any:
        """The sum of the parties' tensors, at all of them."""
        return self._sum(input, None, op, batched)

    def reduce(self, input: Any, dst: int, op: Any = None, batched: bool = False) -> Any:
        """The sum of the parties' tensors, at `dst` alone."""
        return self._sum(input, current().check_rank(dst, "dst"), op, batched)

    def _sum(self, value: Any, to: int | None, op: Any, batched: bool) -> Any:
        if op is not None and op != torch.distributed.ReduceOp.SUM:
            raise Unsupported(f"reduce({op})", "tensors of a program are added")
        fence = current()
        _may_open(fence, "reduce")
        tensors = list(value) if batched else [value]
        bits = [0 if not t.is_floating_point() else _BITS for t in tensors]
        rings = []
        for tensor, digits in zip(tensors, bits, strict=True):
            words = encode_array(plain_array(tensor), digits)
            rings.append(RingTensor(fence.session, words.shape or (1,), digits, words.reshape(words.shape or (1,))))
        found = [
            None if words is None else decoded(words, digits).reshape(tensor.shape).to(tensor.dtype)
            for words, digits, tensor in zip(fence.reveal(rings, to), bits, tensors, strict=True)
        ]
        if to not in (None, fence.rank):
            return None
        return found if batched else found[0]

    def broadcast(self, input: Any, src: int, group: None = None, batched: bool = False) -> Any:
        """The tensor of rank `src`, in place, as stock does it."""
        fence = current()
        fence.check_rank(src, "src")
        _may_open(fence, "broadcast")
        for tensor in input if batched else [input]:
            digits = _BITS if tensor.is_floating_point() else 0
            shape = tuple(tensor.shape) or (1,)
            words: Array | None = None
            if fence.rank == src:
                words = encode_array(plain_array(tensor), digits).reshape(shape)
            found = np.asarray(fence.publish(words, shape, src))
            tensor.data.copy_(decoded(found, digits).reshape(tensor.shape))
        return input

    send = refuse("communicator.send", _LOOSE)
    recv = refuse("communicator.recv", _LOOSE)
    isend = refuse("communicator.isend", _LOOSE)
    irecv = refuse("communicator.irecv", _LOOSE)
    scatter = refuse("communicator.scatter", _LOOSE)
    gather = refuse("communicator.gather", _LOOSE)
    all_gather = refuse("communicator.all_gather", _LOOSE)
    send_obj = refuse("communicator.send_obj", _PICKLE)
    recv_obj = refuse("communicator.recv_obj", _PICKLE)
    broadcast_obj = refuse("communicator.broadcast_obj", _PICKLE)
    get_ttp_rank = refuse("communicator.get_ttp_rank", "the dealer is not a rank of programs")
    get_distributed_backend = refuse("communicator.get_distributed_backend", "there is no torch.distributed")

    def reset_communication_stats(self) -> None:
        """Nothing: the session counts from its start."""

    def get_communication_stats(self) -> dict[str, float]:
        """Rounds, payload bytes sent and received with the other ranks and the dealer, and seconds."""
        session = current().session
        moved = sum(link.sent_bytes + link.received_bytes for link in session.channel.stats())
        return {"rounds": session.rounds, "bytes": moved, "time": session.wall_s}

    def print_communication_stats(self) -> None:
        """Nothing: `get_communication_stats` has the numbers."""


class InProcessCommunicator(Communicator):
    """Parties as threads of one process share CrypTen's globals: refused."""

    __init__ = refuse("InProcessCommunicator", "a party is a session of its own")
    initialize = classmethod(refuse("InProcessCommunicator", "a party is a session of its own"))
    is_initialized = classmethod(refuse("InProcessCommunicator", "a party is a session of its own"))
    get = classmethod(refuse("InProcessCommunicator", "a party is a session of its own"))
    shutdown = classmethod(refuse("InProcessCommunicator", "a party is a session of its own"))

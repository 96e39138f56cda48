"""CrypTen's communicator on a session: stands for `crypten.communicator`'s classes.

What stock sends through it is gone: no torch.distributed, no pickled object, no reduction by a ring that leaves parts
of the plaintext with parties that are not to learn it. A program may still ask who it is, wait for the others, and
add up or hand out its own public tensors, if it may reveal values at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from enclave.engines.mpc.fence.active import Fence, current, current_or_none, refuse
from enclave.engines.mpc.fence.encoder import decoded, encode_array, plain_array
from enclave.engines.mpc.fence.mistakes import BadArgument
from enclave.engines.mpc.session import Item
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import RingTensor
from enclave.errors import PolicyRefused, Unsupported

__all__ = ["Communicator", "DistributedCommunicator", "InProcessCommunicator"]

_BITS = 20  # fractional bits of a program's own plaintexts on their way
_PICKLE = "objects do not travel"
_LOOSE = "frames of a session are labelled and in order"


def bits_of(tensor: torch.Tensor) -> Array:
    """The bits of a plaintext tensor as words."""
    data = tensor.detach().cpu().contiguous().numpy().tobytes()
    return np.frombuffer(data + bytes(-len(data) % 8), np.uint64)


def tensor_of(words: Array, like: torch.Tensor) -> torch.Tensor:
    """A tensor of the shape and type of `like` from its bits."""
    if not like.nelement():
        return like.clone()
    count = like.nelement() * like.element_size()
    data = torch.from_numpy(np.ascontiguousarray(words).view(np.uint8)[:count].copy())
    return data.view(like.dtype).reshape(like.shape)


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
        """The tensor of rank `src`, in place, as stock does it. Cost: 1 round for each tensor."""
        fence = current()
        fence.check_rank(src, "src")
        _may_open(fence, "broadcast")
        for tensor in input if batched else [input]:
            found = fence.publish(bits_of(tensor) if fence.rank == src else None, bits_of(tensor).shape, src)
            tensor.data.copy_(tensor_of(found, tensor))
        return input

    def scatter(self, scatter_list: Sequence[Any], src: int, size: Any = None, device: object = None) -> Any:
        """The tensor that rank `src` has for this rank. Cost: 1 round.

        Args:
            size: the shape at other ranks than `src`, which may give tensors of that shape instead.
        """
        fence = current()
        fence.check_rank(src, "src")
        _may_open(fence, "scatter")
        if fence.rank == src:
            if len(scatter_list) != fence.parties:
                raise BadArgument(f"scatter needs {fence.parties} tensors, found {len(scatter_list)}")
            like = scatter_list[0]
        else:
            like = torch.empty(size, dtype=torch.int64) if size is not None else scatter_list[fence.rank]
        others = [rank for rank in range(fence.parties) if rank != src]
        values = [bits_of(scatter_list[rank] if fence.rank == src else like) for rank in others]
        items = [Item("scatter", v, sender=src, to=r, masked=False) for v, r in zip(values, others, strict=True)]
        found = fence.session.open(items)
        return scatter_list[src].clone() if fence.rank == src else tensor_of(found[others.index(fence.rank)], like)

    def gather(self, tensor: Any, dst: int) -> list[Any]:
        """The tensors of all ranks at `dst`, as a list; a list of None elsewhere. Cost: 1 round."""
        return self._gather(tensor, current().check_rank(dst, "dst"))

    def all_gather(self, tensor: Any) -> list[Any]:
        """The tensors of all ranks, as a list, at each. Cost: 1 round."""
        return self._gather(tensor, None)

    def _gather(self, tensor: Any, to: int | None) -> list[Any]:
        fence = current()
        _may_open(fence, "gather")
        words = bits_of(tensor)
        senders = [rank for rank in range(fence.parties) if rank != to]
        found = fence.session.open([Item("gather", words, sender=rank, to=to, masked=False) for rank in senders])
        if to not in (None, fence.rank):
            return [None] * fence.parties
        theirs = {rank: tensor_of(value, tensor) for rank, value in zip(senders, found, strict=True)}
        return [theirs[rank] if rank in theirs else tensor.clone() for rank in range(fence.parties)]

    def send(self, tensor: Any, dst: int) -> None:
        """One tensor to one rank, which must receive it in the same place of the program."""
        fence = current()
        fence.check_rank(dst, "dst")
        _may_open(fence, "send")
        words = bits_of(tensor)
        if words.size:
            fence.session.channel.send(dst, fence.session.rounds, "send", [words.view(np.uint8).data])

    def recv(self, tensor: Any, src: int | None = None) -> Any:
        """The tensor that rank `src` sends, of the shape and type of `tensor`, which stays as it is."""
        fence = current()
        _may_open(fence, "recv")
        sender = fence.check_rank(src, "src")
        words = bits_of(tensor)
        if not words.size:
            return tensor.clone()
        data = fence.session.channel.receive(sender, fence.session.rounds, "send", words.nbytes)
        return tensor_of(np.frombuffer(data, np.uint64), tensor)

    isend = refuse("communicator.isend", _LOOSE, hint="use send")
    irecv = refuse("communicator.irecv", _LOOSE, hint="use recv")
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

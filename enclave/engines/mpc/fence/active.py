"""The fence that a thread of a program runs behind: its session, and what it may open.

CrypTen keeps its state in module globals, one party a process. Here the state hangs on a `Fence`, and a fence is
bound to a thread, so that a process may hold several parties (tests do) and none can reach another's session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.fence.circuits import zero_sharing
from enclave.engines.mpc.fence.mistakes import BadArgument
from enclave.engines.mpc.ranks import PartySession
from enclave.engines.mpc.session import Item, Protocol
from enclave.engines.mpc.tape import Array
from enclave.engines.mpc.tensor import RingTensor
from enclave.errors import BadSpec, NotReady, PolicyRefused, Unsupported

__all__ = ["DEFAULT_FRAC_BITS", "Fence", "behind", "current", "current_or_none"]

T = TypeVar("T")
DEFAULT_FRAC_BITS = 16  # CrypTen's own default: programs are written for its range
_MIN_FRAC_BITS, _MAX_FRAC_BITS = 8, 24
_MAX_AXES = 16


class Fence:
    """One party of a CrypTen program.

    Args:
        session: the party's end of the session.
        allow_open: whether the program may reveal values. True only where the program itself is what all parties
            agreed to compute (a free-running session); in a job values leave through `MpcEngine.open` alone.
        frac_bits: fractional bits of numbers, until the program sets `cfg.encoder.precision_bits`.
    """

    def __init__(self, session: PartySession, *, allow_open: bool = False, frac_bits: int = DEFAULT_FRAC_BITS) -> None:
        self.session = session
        self.allow_open = allow_open
        self.grad_enabled = True
        self.party_name = f"rank{session.rank}"
        self.settings: dict[str, Any] = {}  # what the program changed of CrypTen's configuration
        self._engine = MpcEngine(session, _bits(frac_bits))

    def __repr__(self) -> str:
        return f"Fence(rank={self.rank}, parties={self.parties}, allow_open={self.allow_open})"

    @property
    def rank(self) -> int:
        """This party's rank."""
        return int(self.session.rank or 0)

    @property
    def parties(self) -> int:
        """Ranks that hold shares."""
        return self.session.parties

    @property
    def engine(self) -> MpcEngine:
        """The session's engine."""
        return self._engine

    @property
    def frac_bits(self) -> int:
        """Fractional bits of numbers."""
        return self._engine.frac_bits

    @frac_bits.setter
    def frac_bits(self, value: int) -> None:
        self._engine = MpcEngine(self.session, _bits(value))

    def run(self, protocol: Protocol[T]) -> T:
        """Drives a protocol to its end."""
        return self.session.run(protocol)

    def check_rank(self, rank: object, what: str) -> int:
        """`rank` as a party of this session; BadSpec when there is none."""
        if not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank < self.parties:
            raise BadArgument(f"{what} must be a rank in 0..{self.parties - 1}, found {rank!r}")
        return rank

    def is_source(self, src: int, plaintext: Any, device: object, *, sized: bool) -> bool:
        """Whether this rank brings the plaintext of a new encrypted tensor.

        Args:
            sized: whether ranks without the plaintext know its size.

        Raises: BadArgument, Unsupported: nobody could bring it, or not from there.
        """
        self.check_rank(src, "src")
        if str(device or "cpu") != "cpu":
            raise Unsupported(f"device {device}", "shares live on the CPU")
        if self.rank == src and plaintext is None:
            raise BadArgument("the source of an encrypted tensor must bring its plaintext")
        if plaintext is None and not sized:
            raise BadArgument("an encrypted tensor needs a plaintext or a size at every rank")
        owner = getattr(plaintext, "src", src)
        if owner != src:
            raise BadArgument(f"the plaintext belongs to rank {owner}, found src={src}")
        return self.rank == src

    # ---- what leaves
    def reveal(self, values: Sequence[RingTensor], to: int | None) -> list[Array | None]:
        """Ring words at rank `to` (None: at all), None elsewhere. One round.

        Each share is hidden by a fresh sharing of zero and sent to its receivers directly, so that a receiver
        learns the sums alone and nobody else receives anything. Raises PolicyRefused unless `allow_open`.
        """
        self._may_reveal()
        if to is not None:
            self.check_rank(to, "the receiver of a value")
        session, items = self.session, []
        for value in values:
            zero = session.zero_share(session.new_stream(), value.shape)
            items.append(Item("release:reveal", value.share + zero, to=to, masked=False))
        return list(session.open(items))

    def reveal_bits(self, values: Sequence[Array], to: int | None) -> list[Array | None]:
        """The same for words that are shared by exclusive or."""
        self._may_reveal()
        if to is not None:
            self.check_rank(to, "the receiver of a value")
        items = [
            Item("release:reveal", value ^ zero_sharing(self.session, value.shape), "xor", to=to, masked=False)
            for value in values
        ]
        return list(self.session.open(items))

    def _may_reveal(self) -> None:
        if not self.allow_open:
            raise PolicyRefused(
                "a program inside a job must not reveal values",
                rules=("release.permit",),
                hint="return the encrypted result; the job's release gate opens it",
            )

    def publish(self, words: Array | None, shape: tuple[int, ...], source: int) -> Array:
        """Public words that rank `source` chooses, at all ranks: sizes, and what a program broadcasts."""
        value = np.zeros(shape, np.uint64) if words is None else np.ascontiguousarray(words)
        if not value.size:
            return value
        (found,) = self.session.open([Item("public", value, sender=source, masked=False)])
        return np.asarray(found)

    def publish_shape(self, shape: Sequence[int] | None, source: int) -> tuple[int, ...]:
        """The shape of a tensor that only rank `source` has seen. Cost: one round. Reveals: the shape, to all."""
        words = np.zeros(_MAX_AXES + 1, np.uint64)
        if self.rank == source:
            if shape is None or len(shape) > _MAX_AXES:
                raise BadSpec(f"rank {source} must bring a tensor of at most {_MAX_AXES} axes")
            words[0], words[1 : len(shape) + 1] = len(shape), np.asarray(shape, np.uint64)
        found = self.publish(words, words.shape, source)
        if found[0] > _MAX_AXES or any(int(n) > 1 << 40 for n in found):
            raise BadSpec(f"rank {source} announced an impossible shape")
        return tuple(int(n) for n in found[1 : int(found[0]) + 1])


def _bits(value: int) -> int:
    if not isinstance(value, int) or not _MIN_FRAC_BITS <= value <= _MAX_FRAC_BITS:
        raise Unsupported(f"precision_bits = {value}", f"numbers have {_MIN_FRAC_BITS} to {_MAX_FRAC_BITS}")
    return value


_ACTIVE: ContextVar[Fence | None] = ContextVar("enclave_fence", default=None)


@contextmanager
def behind(fence: Fence) -> Iterator[Fence]:
    """Inside, this thread's CrypTen calls go to `fence`."""
    token = _ACTIVE.set(fence)
    try:
        yield fence
    finally:
        _ACTIVE.reset(token)


def current() -> Fence:
    """The fence of this thread; NotReady outside of a session."""
    fence = _ACTIVE.get()
    if fence is None:
        raise NotReady(
            "this thread has no session for CrypTen to run on",
            hint="run the program behind enclave.engines.mpc.fence; a thread that a program starts has no session",
        )
    return fence


def current_or_none() -> Fence | None:
    """The fence of this thread, if any."""
    return _ACTIVE.get()


def refuse(name: str, why: str, *, hint: str = "") -> Callable[..., Any]:
    """A function that refuses to be called."""

    def refused(*args: object, **kwargs: object) -> Any:
        raise Unsupported(name, why, hint=hint)

    refused.__name__ = refused.__qualname__ = name.rsplit(".", 1)[-1]
    refused.__doc__ = f"Refused: {why}."
    return refused

"""Long local work cut into steps, with a sign of life after each: a frame has a deadline of seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from enclave.engines.he.engine import sent_by
from enclave.engines.mpc.random import KeyStream, fresh_key
from enclave.engines.mpc.session import Item, Protocol, Session

__all__ = ["at_work"]


def at_work(session: Session, steps: Mapping[int, int], advance: Callable[[int, int], None] | None) -> Protocol[None]:
    """Does the work of each rank in its number of steps, side by side.

    Args:
        steps: of each rank that works; public.
        advance: called with (step, steps) at a rank that works; None elsewhere.

    **Cost** one round and one uniform word less than there are steps; none for a single one.
    **Reveals** nothing.
    """
    own = 0 if session.rank is None else steps.get(session.rank, 0)
    for step in range(max(steps.values(), default=0)):
        if advance is not None and step < own:
            advance(step, own)
        busy = [rank for rank, count in steps.items() if step + 1 < count]
        if busy:
            yield [_sign(session, rank) for rank in busy]


def _sign(session: Session, rank: int) -> Item:
    """A uniform word, as all that is opened before a release."""
    word = sent_by(session, rank, 1, lambda: KeyStream(fresh_key()).words(1, 1))
    return Item("he:at work", word, sender=rank)

"""Sessions of parties that trust no dealer: openings and zero sharings work, dealt randomness is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from enclave.channel.memory import memory_network
from enclave.engines.interface import Permit
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.ranks import PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.engines.mpc.session import Item
from enclave.engines.mpc.tape import Blank
from enclave.errors import BadSpec, EnclaveError

SHAPE = (3, 5)


def _everywhere(parties: int, program: Callable[[Any], Any]) -> list[Any]:
    """The program at every rank of a session without a dealer; its plan must be met."""
    recorder = Recorder(parties, has_dealer=False)
    program(recorder)
    channels = memory_network([f"p{rank}" for rank in range(parties)], deadline_s=20.0)
    results: list[Any] = [None] * parties
    sessions: list[Any] = [None] * parties

    def main(rank: int) -> None:
        try:
            sessions[rank] = PartySession(channels[rank], parties, recorder.digest)
            results[rank] = program(sessions[rank])
            channels[rank].close()
        except Exception as error:
            results[rank] = error
            channels[rank].close(error if isinstance(error, EnclaveError) else None)

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in (r for r in results if isinstance(r, Exception)):
        raise error
    assert {session.digest for session in sessions} == {recorder.digest}
    return results


@pytest.mark.parametrize("parties", [2, 3, 4])
def test_sums_and_releases_need_no_dealer(parties: int) -> None:
    values = [np.arange(15, dtype=np.float64).reshape(SHAPE) * (rank + 1) for rank in range(parties)]

    def program(session: Any) -> Any:
        engine = MpcEngine(session, 20)
        xs = [engine.private(values[k] if session.rank == k else None, SHAPE, k) for k in range(parties)]
        total = xs[0]
        for x in xs[1:]:
            total = engine.add(total, x)
        return engine.open("total", total, parties - 1, Permit("test", ["total"]))

    *others, found = _everywhere(parties, program)
    assert others == [None] * (parties - 1)
    assert np.array_equal(found, sum(values))


@pytest.mark.parametrize("among", [None, (0, 1), (0, 1, 2), (1, 3), ()])
def test_zero_sharing_among_some_ranks(among: tuple[int, ...] | None) -> None:
    shares = _everywhere(4, lambda s: s.zero_share(s.new_stream(), SHAPE, among))
    if shares[0] is not None:
        assert not np.sum(shares, axis=0, dtype=np.uint64).any()
    for rank, share in enumerate(shares):
        inside = among is None or rank in among
        assert inside == bool(share.any()), "only ranks inside have something to hide, and all of them do"


def test_pair_keys_are_known_to_two() -> None:
    def program(session: Any) -> Any:
        number = session.new_stream()
        if session.rank is None:
            return None
        return {peer: key.words(number, 4).tolist() for peer, key in session.pairs((0, 1, 2)).items()}

    found = _everywhere(4, program)
    assert [sorted(f) for f in found] == [[1, 2], [0, 2], [0, 1], []]
    assert found[0][1] == found[1][0] and found[0][2] == found[2][0] and found[1][2] == found[2][1]
    assert len({tuple(w) for f in found for w in f.values()}) == 3


def test_the_public_seed_is_everybodys() -> None:
    found = _everywhere(3, lambda session: None if session.rank is None else session.public_seed)
    assert len(found[0]) == 16 and found[0] == found[1] == found[2]


def test_an_item_from_one_rank_to_one_rank() -> None:
    def program(session: Any) -> Any:
        words = np.arange(7, dtype=np.uint64) if session.rank == 2 else Blank((7,))
        (found,) = session.open([Item("he", words, sender=2, to=0)])
        return None if session.rank is None else found

    found = _everywhere(3, program)
    assert found[0].tolist() == list(range(7)) and found[1] is None and found[2] is None


STEPS: dict[str, Callable[[MpcEngine, Any], Any]] = {
    "product": lambda engine, x: engine.mul(x, x),
    "comparison": lambda engine, x: engine.ge_zero(x),
    "truncation": lambda engine, x: engine.scale(x, 0.3),
    "sigmoid": lambda engine, x: engine.sigmoid(x),
}


@pytest.mark.parametrize("step", STEPS)
def test_dealt_randomness_is_refused_in_the_plan(step: str) -> None:
    engine = MpcEngine(Recorder(2, has_dealer=False), 20)
    with pytest.raises(BadSpec, match="this step needs a dealer") as caught:
        STEPS[step](engine, engine.private(None, SHAPE, 0))
    assert "dealer" in (caught.value.hint or "")
    STEPS[step](MpcEngine(Recorder(2), 20), MpcEngine(Recorder(2), 20).private(None, SHAPE, 0))


def test_dealt_randomness_is_refused_at_a_party() -> None:
    channels = memory_network(["p0", "p1"], deadline_s=5.0)
    refused: list[Any] = []

    def main(rank: int) -> None:
        engine = MpcEngine(PartySession(channels[rank], 2, bytes(32)), 20)
        try:
            engine.mul(*(engine.private(np.ones(3) if rank == k else None, (3,), k) for k in range(2)))
        except BadSpec as error:
            refused.append(error)

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 2

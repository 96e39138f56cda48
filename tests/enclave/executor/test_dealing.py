"""A job that is dealt ahead: the dealing phase at every rank, then a session in which the dealer only countersigns."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from enclave.channel.grpc_link import Listener
from enclave.errors import EnclaveError, PolicyRefused, SessionError, StoreError
from enclave.executor.assignment import read_job
from enclave.executor.dealing import dealing_session_id, run_dealing, shelf_of, stock_bytes
from enclave.executor.session import SessionResult, plan_job
from enclave.identity import Identity, TrustStore
from enclave.workloads import finish
from tests.enclave.executor.session_room import LONG_S, Room

MakeRoom = Callable[..., Room]


@pytest.fixture
def make_room(new_party: Callable[..., Identity], acquaint: Callable[..., tuple[TrustStore, ...]]) -> MakeRoom:
    def make(owners: int = 1, engine: str = "mpc", **changes: Any) -> Room:
        ids = [new_party("owner", f"owner{i}") for i in range(owners)]
        ids += [new_party("buyer", "buyer"), new_party("dealer", "dealer")]
        trusts = dict(zip((i.name for i in ids), acquaint(*ids), strict=True))
        return Room(ids, trusts, {"deal_ahead": True, "expires_unix_s": 1 << 33, **changes}, engine)

    return make


def deal(room: Room, **overrides: Any) -> dict[str, EnclaveError | None]:
    """The dealing phase at every rank; what it ended with. `overrides` as in `owner0_stock_bytes_limit`."""
    session_id, found = dealing_session_id(room.spec.job_id), {}
    listeners = {
        i.name: Listener(
            i,
            room.trusts[i.name],
            session_id,
            "127.0.0.1",
            range(1),
            read_job(room.signed, i, room.trusts[i.name]).peers,
        )
        for i in room.ids
        if i.role != "buyer"
    }

    def one(identity: Identity) -> None:
        name = identity.name
        arguments: dict[str, Any] = {
            "locate": lambda rank: listeners[room.spec.parties[rank].name].address,
            "listener": listeners.get(name),
            "connect_s": LONG_S,
            "deadline_s": LONG_S,
        }
        for key, value in overrides.items():
            who, _, argument = key.partition("_")
            if who == name:
                arguments[argument] = value
        try:
            run_dealing(room.signed, identity=identity, trust=room.trusts[name], **arguments)
            found[name] = None
        except EnclaveError as error:
            found[name] = error

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in room.ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for listener in listeners.values():
        listener.close()
    assert len(found) == len(room.ids), "still running"
    return found


def ready(room: Room) -> set[str]:
    return {i.name for i in room.ids if shelf_of(i.home).ready(room.spec.job_id)}


@pytest.mark.parametrize(("owners", "engine"), [(1, "mpc"), (2, "mpc"), (2, "he")])
def test_a_job_that_was_dealt_ahead_gets_nothing_from_its_dealer(make_room: MakeRoom, owners: int, engine: str) -> None:
    room = make_room(owners, engine)
    assert set(deal(room).values()) == {None}
    assert ready(room) == {i.name for i in room.ids}
    plan = plan_job(room.spec)
    for rank, identity in enumerate(room.ids):
        assert shelf_of(identity.home).reserved_bytes == stock_bytes(room.spec, rank, plan.dealer_bytes)
    results = room.run()
    for name, result in results.items():
        assert isinstance(result, SessionResult), (name, result)
        assert result.transcript.equals_plan and result.transcript.digest == room.spec.plan_digest
        report = json.loads(result.report)
        assert report["findings"] == []
        for link in result.transcript.links:
            if "dealer" in (name, link.peer):
                assert (link.sent_bytes, link.received_bytes) == (0, 0)
    bought = results["buyer"]
    assert isinstance(bought, SessionResult) and bought.opened is not None
    x = np.concatenate([t.x for t in room.tables.values()])
    y = np.concatenate([t.y for t in room.tables.values()])
    weights = list(room.model.weights.values())
    assert finish(room.spec, bought.opened).accuracy == np.mean((x @ weights[0] + weights[1]).argmax(1) == y)
    assert ready(room) == set()
    room.results.clear()
    room.run()  # the same job again: what was dealt to it is gone
    assert {error.code for error in room.errors().values()} <= {"session.stock", "session.peer_lost"}


def test_it_does_not_run_before_it_was_dealt(make_room: MakeRoom) -> None:
    room = make_room()
    room.run()
    for error in room.errors().values():
        assert isinstance(error, SessionError) and error.code == "session.stock"
    assert room.channels == {} and room.commits == []


def test_parties_of_two_dealings_never_exchange_a_step(make_room: MakeRoom, tmp_path: Any) -> None:
    import shutil

    room = make_room()
    deal(room)
    owner = room.ids[0]
    shutil.copytree(owner.home, tmp_path / "backup")
    deal(room)
    shutil.rmtree(owner.home)
    shutil.copytree(tmp_path / "backup", owner.home)
    room.run()
    assert any("dealt to otherwise" in error.public for error in room.errors().values())
    assert room.commits == [] and room.sealings == {}


def test_an_online_job_is_not_dealt_ahead(make_room: MakeRoom) -> None:
    assert all(error is not None for error in deal(make_room(deal_ahead=False)).values())


def test_no_room_at_one_party_leaves_nothing_at_any(make_room: MakeRoom) -> None:
    room = make_room()
    errors = deal(room, owner0_stock_bytes_limit=1000)
    refused = errors["owner0"]
    assert isinstance(refused, PolicyRefused) and refused.rules == ("node.stock",)
    for name in ("buyer", "dealer"):
        error = errors[name]
        assert error is not None and "owner0" in error.public and "at most 1000 here" in error.public
    assert ready(room) == set()
    assert set(deal(room).values()) == {None}


def test_a_full_disk_names_no_path_to_the_peers(make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    room = make_room()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
        errors = deal(room)
    assert any(isinstance(e, StoreError) and e.code == "store.full" for e in errors.values())
    for error in errors.values():
        assert error is not None
        assert isinstance(error, StoreError) or str(room.ids[0].home.parent) not in error.public
    assert ready(room) == set()


def test_a_dealer_s_limit_holds(make_room: MakeRoom) -> None:
    errors = deal(make_room(), dealer_dealer_bytes_limit=1, owner0_connect_s=2.0, buyer_connect_s=2.0)
    refused = errors["dealer"]
    assert isinstance(refused, PolicyRefused) and refused.rules == ("dealer.bytes",)

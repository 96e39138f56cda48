"""Whole sessions, every rank a thread, over loopback with mutual TLS."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave.clock import SystemClock
from enclave.errors import EnclaveError, PeerLost, PlanMismatch, PolicyRefused, SessionError, StoreError, Untrusted
from enclave.executor.assignment import read_job
from enclave.executor.meeting import Seal
from enclave.executor.session import Progress, SessionResult, plan_job
from enclave.executor.shares import read_shares
from enclave.identity import Identity, TrustStore
from enclave.messages import (
    JobSpec,
    PartyRef,
    Signed,
    Training,
)
from enclave.models import dense_architecture
from enclave.workloads import finish
from tests.enclave.executor.session_room import MakeRoom, Room, make_room

__all__ = ["make_room"]


@pytest.mark.parametrize(
    ("owners", "engine"), [(1, "mpc"), (2, "mpc"), (3, "mpc"), (1, "hybrid"), (1, "he"), (3, "he")]
)
def test_a_session_opens_the_right_result_to_the_buyer_alone(make_room: MakeRoom, owners: int, engine: str) -> None:
    room = make_room(owners, engine)
    results = room.run()
    for name, result in results.items():
        assert isinstance(result, SessionResult), (name, result)
        assert (result.opened is not None) == (name == "buyer")
        assert result.transcript.equals_plan
        assert result.transcript.digest == room.spec.plan_digest
        report = json.loads(result.report)
        assert report["findings"] == []
        assert report["state"] == "RELEASED"
    x = np.concatenate([t.x for t in room.tables.values()])
    y = np.concatenate([t.y for t in room.tables.values()])
    weights = list(room.model.weights.values())
    bought = results["buyer"]
    assert isinstance(bought, SessionResult) and bought.opened is not None
    assert finish(room.spec, bought.opened).accuracy == np.mean((x @ weights[0] + weights[1]).argmax(1) == y)
    assert sorted(room.commits) == sorted(results)
    _check_traffic({i.name: results[i.name] for i in room.ids})
    assert {s.rows for s in room.sealings.values()} == {room.spec.rows}
    assert all(s.transcript.equals_plan for s in room.sealings.values())


def test_encrypted_rows_need_no_dealer(make_room: MakeRoom) -> None:
    room = make_room(2, "he", ("predictions",), ("buyer",))
    results = room.run()
    for name, result in results.items():
        assert isinstance(result, SessionResult), (name, result)
        assert (result.opened is not None) == (name == "buyer")
        assert result.transcript.equals_plan
        assert result.plan.dealer_bytes == 0
    x = np.concatenate([t.x for t in room.tables.values()])
    weights = list(room.model.weights.values())
    bought = results["buyer"]
    assert isinstance(bought, SessionResult) and bought.opened is not None
    found = finish(room.spec, bought.opened).predictions
    assert found is not None
    np.testing.assert_allclose(found, x @ weights[0] + weights[1], atol=1e-3)
    assert sorted(room.commits) == sorted(results)
    _check_traffic({i.name: results[i.name] for i in room.ids})


def _check_traffic(results: dict[str, SessionResult | EnclaveError]) -> None:
    """Both ends of a link say the same, and what the plan says."""
    names = list(results)
    for a, here in results.items():
        assert isinstance(here, SessionResult)
        for link in here.transcript.links:
            there = results[link.peer]
            assert isinstance(there, SessionResult)
            back = next(x for x in there.transcript.links if x.peer == a)
            assert (link.sent_bytes, link.received_bytes) == (back.received_bytes, back.sent_bytes)
            planned = here.plan.link_bytes.get((names.index(a), names.index(link.peer)), 0)
            assert link.sent_bytes == planned


def test_one_gate_that_refuses_stops_every_commit(make_room: MakeRoom) -> None:
    room = make_room(2)

    def refuse(sealing: Any) -> tuple[str, ...]:
        time.sleep(0.3)  # the others have all agreed by now
        raise PolicyRefused("too few rows", rules=("policy.rows.minimum",))

    room.run(owner1_gate=refuse)
    errors = room.errors()
    assert room.commits == []
    assert isinstance(errors["owner1"], PolicyRefused)
    for name in ("owner0", "buyer", "dealer"):
        error = errors[name]
        assert isinstance(error, PeerLost) and error.who == "owner1"
        assert "too few rows" in error.public


def test_a_commit_that_fails_keeps_the_share(make_room: MakeRoom) -> None:
    room = make_room(1)

    def fail() -> None:
        raise StoreError("cannot write /home/ann: disk full")

    room.run(owner0_commit=fail)
    errors = {name: r for name, r in room.results.items() if isinstance(r, EnclaveError)}
    assert isinstance(errors["owner0"], StoreError)
    assert isinstance(errors["buyer"], PeerLost)
    assert "storage failed" in errors["buyer"].public
    assert "/home" not in errors["buyer"].public


def test_a_permit_for_less_than_the_job_opens_nothing(make_room: MakeRoom) -> None:
    room = make_room(1)
    room.run(owner0_gate=lambda sealing: ())
    assert isinstance(room.results["owner0"], PolicyRefused)
    assert isinstance(room.results["buyer"], PeerLost)


def test_another_plan_is_refused_before_anybody_connects(make_room: MakeRoom) -> None:
    room = make_room(1, plan_digest=b"x" * 32)
    room.run()
    for error in room.errors().values():
        assert isinstance(error, PlanMismatch)
        assert error.expected == b"x" * 32
    assert room.channels == {}


def test_parties_with_different_plans_do_not_compute(make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests cross in the hello: a party that runs other code is found out whatever it checked itself."""
    from enclave.executor import session

    room = make_room(1)
    real, lock, lied = session.sealed_plan, threading.Lock(), []

    def plan(spec: JobSpec) -> Any:
        seal = real(spec)
        with lock:
            if not lied:
                lied.append(seal)
                return Seal(replace(seal.plan, digest=spec.plan_digest), b"another seal" + b"." * 20)
        return seal

    monkeypatch.setattr(session, "sealed_plan", plan)
    room.run()
    assert all(isinstance(e, EnclaveError) for e in room.errors().values())
    assert room.commits == []


def test_a_dealer_refuses_more_than_its_limit(make_room: MakeRoom) -> None:
    room = make_room(1)
    needed = plan_job(room.spec).dealer_bytes
    room.run(dealer_dealer_bytes_limit=needed - 1, owner0_connect_s=2.0, buyer_connect_s=2.0)
    errors = room.errors()
    assert isinstance(errors["dealer"], PolicyRefused)
    assert errors["dealer"].rules == ("dealer.bytes",)
    for name in ("owner0", "buyer"):
        assert isinstance(errors[name], EnclaveError)
        assert "dealer" in errors[name].public


def test_a_cancelled_party_ends_the_session_for_all_and_says_why(make_room: MakeRoom) -> None:
    room = make_room(2)
    started = threading.Event()

    def wait(sealing: Any) -> tuple[str, ...]:
        started.set()
        time.sleep(0.5)
        return tuple(sealing.outputs)

    def cancel() -> None:
        started.wait(30)
        room.channels["owner0"].close(SessionError("withdrawn by its operator"))

    thread = threading.Thread(target=cancel, daemon=True)
    thread.start()
    begun = time.monotonic()
    room.run(buyer_gate=wait)
    errors = room.errors()
    assert room.commits == []
    assert time.monotonic() - begun < 15
    for name in ("owner1", "buyer", "dealer"):
        error = errors[name]
        assert isinstance(error, PeerLost) and error.who == "owner0"
        assert "withdrawn by its operator" in error.public


def test_a_party_that_dies_is_named_by_all_within_ten_seconds(make_room: MakeRoom) -> None:
    room = make_room(2)

    def die(sealing: Any) -> tuple[str, ...]:
        room.channels["owner1"].sever()
        raise SessionError("dead")

    begun = time.monotonic()
    room.run(owner1_gate=die)
    assert time.monotonic() - begun < 10
    errors = room.errors()
    for name in ("owner0", "buyer", "dealer"):
        error = errors[name]
        assert isinstance(error, PeerLost) and error.who == "owner1", (name, error)
    assert room.evidence["owner0"].transcript is not None
    assert room.evidence["owner0"].report(room.signed, room.spec, "owner0", "FAILED")


def test_progress_reaches_the_plan_s_last_round(make_room: MakeRoom) -> None:
    room, seen = make_room(1), list[Progress]()
    room.run(buyer_progress=seen.append)
    assert seen[-1].steps_done == seen[-1].steps_total == plan_job(room.spec).rounds
    assert seen[-1].stage == "release"
    assert [p.steps_done for p in seen] == sorted(p.steps_done for p in seen)


# ---- what a party reads in a job before it does anything


def _resign(room: Room, spec: JobSpec, signer: Identity | None = None) -> Signed:
    return (signer or room.buyer).sign("job", spec.encode())


def test_only_the_job_s_buyer_can_sign_it(make_room: MakeRoom) -> None:
    room = make_room(1)
    owner = room.ids[0]
    with pytest.raises(Untrusted, match="cannot sign jobs"):
        read_job(_resign(room, room.spec, owner), owner, room.trusts["owner0"])


def test_a_changed_spec_is_refused(make_room: MakeRoom) -> None:
    room = make_room(1)
    changed = replace(room.signed, body=replace(room.spec, outputs=("predictions",)).encode())
    with pytest.raises(Untrusted, match="does not hold"):
        read_job(changed, room.ids[0], room.trusts["owner0"])
    other_domain = room.buyer.sign("withdraw", room.spec.encode())
    with pytest.raises(Untrusted, match="does not hold"):
        read_job(other_domain, room.ids[0], room.trusts["owner0"])


def test_a_dealer_of_the_buyer_s_own_making_is_refused(make_room: MakeRoom, new_party: Callable[..., Identity]) -> None:
    room = make_room(1)
    fake = new_party("dealer", "dealer2")
    parties = (*room.spec.parties[:-1], PartyRef("dealer", "dealer", fake.key_id))
    with pytest.raises(
        Untrusted, match=r"owner0 does not trust dealer dealer with key .*, a party of the job"
    ) as caught:
        read_job(_resign(room, replace(room.spec, parties=parties)), room.ids[0], room.trusts["owner0"])
    assert "owner0 must run `enclave trust CARD` with the card of dealer" in caught.value.hint


def test_a_known_key_under_another_name_or_role_is_refused(
    make_room: MakeRoom, new_party: Callable[..., Identity], acquaint: Callable[..., Any]
) -> None:
    room = make_room(2)
    owner0, owner1 = room.ids[0], room.ids[1]
    renamed = (room.spec.parties[0], replace(room.spec.parties[1], name="owner9"), *room.spec.parties[2:])
    datasets = (room.spec.datasets[0], replace(room.spec.datasets[1], owner="owner9"))
    with pytest.raises(Untrusted, match="belongs to owner owner1"):
        read_job(_resign(room, replace(room.spec, parties=renamed, datasets=datasets)), owner0, room.trusts["owner0"])
    dealer = PartyRef("dealer", "dealer", owner1.key_id)
    parties = (room.spec.parties[0], room.spec.parties[2], dealer)
    spec = replace(room.spec, parties=parties, datasets=room.spec.datasets[:1])
    with pytest.raises(Untrusted, match="key of dealer dealer belongs to owner owner1"):
        read_job(_resign(room, spec), owner0, room.trusts["owner0"])


def test_a_party_that_is_not_in_the_job_has_no_rank(
    make_room: MakeRoom, new_party: Callable[..., Identity], tmp_path: Path
) -> None:
    room = make_room(1)
    stranger = new_party("owner", "stranger")
    trust = TrustStore(stranger.home, SystemClock())
    for identity in room.ids:
        trust.add(identity.card.encoded)
    with pytest.raises(Untrusted, match="stranger is not a party"):
        read_job(room.signed, stranger, trust)


def test_a_model_that_stays_shared_is_kept_in_shares(make_room: MakeRoom) -> None:
    weights = {}
    for deliver in ("buyer", "shared"):
        room = make_room(2)
        spec = replace(
            room.spec,
            kind="train",
            architecture=dense_architecture(3, (), 1),
            outputs=("accuracy", "model"),
            training=Training("logistic", 2, 16, 0.5, deliver=deliver),
        )
        room.spec = replace(spec, plan_digest=plan_job(spec).digest)
        room.signed = room.buyer.sign("job", room.spec.encode())
        results = room.run()
        bought = results["buyer"]
        assert isinstance(bought, SessionResult) and bought.opened is not None
        assert ("model" in bought.opened) == (deliver == "buyer")
        paths = {i.name: i.home / "shares" / f"{spec.job_id}.safetensors" for i in room.ids}
        assert {name for name, path in paths.items() if path.exists()} == (
            {"owner0", "owner1", "buyer"} if deliver == "shared" else set()
        )
        if deliver == "buyer":
            weights[deliver] = bought.opened["model"]
            for i in room.ids:
                shutil.rmtree(i.home)
            continue
        shares = [read_shares(paths[name])["model"] for name in ("owner0", "owner1", "buyer")]
        weights[deliver] = sum(shares, np.uint64(0)).view(np.int64) / 2.0**spec.frac_bits
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths.values() if path.exists())
        assert np.abs(shares[0].view(np.int64)).max() > 2**40  # no share is near the value
    assert np.abs(weights["buyer"] - weights["shared"]).max() < 1e-3

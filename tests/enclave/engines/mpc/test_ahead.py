"""Dealing ahead: the same results without a dealer, and no stock is ever good for anything but one session."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave.clock import ManualClock
from enclave.engines.interface import Permit
from enclave.engines.mpc import shelf as shelves
from enclave.engines.mpc import stock as stocks
from enclave.engines.mpc.ahead import Shelf, Witness, deal_ahead, keep_ahead
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.ranks import DealerSession, PartySession
from enclave.engines.mpc.sealed import CHUNK_BYTES
from enclave.errors import EnclaveError, PlanMismatch, SessionError, StoreError, Untrusted
from tests.enclave.engines.mpc.ahead_room import FRAC_BITS, LARGE, Room, X, everyone, files, large, small


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path, 2, small)


@pytest.fixture
def large_room(tmp_path: Path) -> Room:
    found = Room(tmp_path, 2, large)
    assert found.dealt_bytes > 2 * CHUNK_BYTES
    return found


# ---- it works


@pytest.mark.parametrize("parties", [2, 3, 4])
def test_a_session_needs_no_dealer_once_it_was_dealt_ahead(tmp_path: Path, parties: int) -> None:
    room = Room(tmp_path, parties, small)
    room.deal()
    assert np.abs(room.run()[0] - np.maximum(X * X[::-1], 0)).max() < 1e-4
    assert np.abs(room.run_online()[0] - np.maximum(X * X[::-1], 0)).max() < 1e-4


def _secret(e: MpcEngine, values: np.ndarray) -> Any:
    return e.private(values if e.rank == 0 else None, values.shape, 0)


def _opened(e: MpcEngine, value: Any) -> object:
    return e.open("value", value, 0, Permit("t", ["value"]))


def _conv(e: MpcEngine) -> object:
    x, w = _secret(e, np.ones((1, 2, 5, 5))), _secret(e, np.full((3, 2, 3, 3), 0.5))
    y = e.conv2d(x, w, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    return _opened(e, e.relu(y))


def _reused(e: MpcEngine) -> object:
    x, w = _secret(e, np.ones((6, 5))), _secret(e, np.full((5, 3), 0.5))
    return _opened(e, e.add(e.matmul(x, w), e.matmul(e.rows(x, 0, 6), w)))


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("a single one", lambda e: _opened(e, e.relu(_secret(e, np.array([-1.5]))))),
        ("odd sizes", lambda e: _opened(e, e.ge_zero(_secret(e, np.linspace(-1, 1, 13))))),
        ("sigmoid", lambda e: _opened(e, e.sigmoid(_secret(e, X)))),
        ("softmax", lambda e: _opened(e, e.softmax(_secret(e, X.reshape(20, 10))))),
        ("argmax", lambda e: _opened(e, e.argmax_onehot(_secret(e, X.reshape(20, 10))))),
        ("reciprocal", lambda e: _opened(e, e.reciprocal(_secret(e, X + 4), 0.5, 8.0))),
        ("logarithm", lambda e: _opened(e, e.logarithm(_secret(e, X + 4), 0.5, 8.0))),
        ("products", _reused),
        ("convolution", _conv),
    ],
)
def test_every_kind_of_entry_is_read_as_it_was_dealt(tmp_path: Path, name: str, program: Any) -> None:
    """Sizes that are no multiple of a word, masks that are expanded again, bits: the order and alignment must hold."""
    room = Room(tmp_path, 2, program)
    room.deal()
    assert np.abs(np.asarray(room.run()[0], float) - np.asarray(room.run_online()[0], float)).max() < 1e-3, name


def test_keys_for_function_secret_sharing_are_dealt_ahead_too(tmp_path: Path) -> None:
    """What a slow network's plan chooses for some hundred elements: its entries are bytes as well as words."""
    room = Room(tmp_path, 2, lambda e: _opened(e, e.relu(_secret(e, X))), network="wan")
    assert room.digest != Room(tmp_path, 2, room.program).digest
    room.deal()
    assert np.abs(room.run()[0] - np.maximum(X, 0)).max() < 1e-4


def test_a_tape_of_many_chunks_and_parts(large_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (shelves, stocks):
        monkeypatch.setattr(module, "PART_CHUNKS", 1)
    monkeypatch.setattr("enclave.engines.mpc.sealed.PART_CHUNKS", 1)
    large_room.deal()
    assert len(list(large_room.folder().glob("*.part"))) == -(-large_room.dealt_bytes // CHUNK_BYTES) >= 3
    assert np.abs(large_room.run()[0] - np.maximum(np.linspace(-3, 3, LARGE), 0)).max() < 1e-5
    assert not large_room.folder().exists()


def test_what_is_on_the_disk_is_what_the_plan_says(large_room: Room) -> None:
    room = large_room
    room.deal()
    head = 8 + 2 + 2 + 8 + 8 + 32 + 32 + 32 + 16 + 2 + len(room.session) + (32 + 16) + (16 + 16)
    chunks = -(-room.dealt_bytes // (1 << 20))
    for rank, expected in ((0, head + room.dealt_bytes + 16 * chunks), (1, head)):
        assert sum(path.stat().st_size for path in files(room.folder(rank))) == expected
        assert room.binding(rank).disk_bytes == expected
        assert room.shelf(rank).reserved_bytes == expected


def test_nobody_else_may_read_it(room: Room) -> None:
    room.deal()
    for rank in (0, 1):
        home = room.root / room.names[rank]
        assert files(home)
        for path in files(home):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        for path in (home / "stock", room.folder(rank)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert "seed" not in repr(room.find(0))


def test_the_parts_are_ciphertext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without masks the corrections are clear bits, which would show."""
    from enclave.engines.mpc.random import KeyStream

    room = Room(tmp_path, 2, large)
    with monkeypatch.context() as patch:
        patch.setattr(KeyStream, "words", lambda self, stream, count, offset=0: np.zeros(count, np.uint64))
        room.deal()
    data = np.frombuffer((room.folder() / "00000.part").read_bytes(), np.uint8)
    counts = np.bincount(data, minlength=256)
    expected = len(data) / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 8 * np.sqrt(2 * 255)


# ---- another session, plan, specification, party


@pytest.mark.parametrize(
    "change", [{"plan_digest": b"x" * 32}, {"spec_digest": b"x" * 32}, {"rank": 1}, {"parties": 3}, {"dealt_bytes": 8}]
)
def test_a_stock_is_for_one_session_only(room: Room, change: dict[str, object]) -> None:
    room.deal()
    with pytest.raises(SessionError, match=f"bound to another {next(iter(change))}"):
        room.shelf(0).find(replace(room.binding(0), **change))
    assert room.find(0)


def test_a_stock_moved_to_another_session_is_refused(room: Room) -> None:
    room.deal()
    room.folder(0).rename(room.folder(0).with_name("job-2"))
    with pytest.raises(SessionError, match="bound to another session"):
        room.shelf(0).find(room.binding(0, session="job-2"))


def test_a_head_that_was_rewritten_is_refused(room: Room) -> None:
    """The public part says another session now; what is sealed is bound to what it said."""
    room.deal()
    folder = room.folder(0).rename(room.folder(0).with_name("job-2"))
    head = folder / "head"
    head.write_bytes(head.read_bytes().replace(b"job-1", b"job-2"))
    stock = room.shelf(0).find(room.binding(0, session="job-2"))
    with pytest.raises(StoreError, match="damaged") as info:
        stock.use()
    assert info.value.code == "store.stock"


def test_an_expired_stock_is_refused(room: Room) -> None:
    clock = ManualClock(1000)
    shelf = Shelf(room.root / "p0", clock=clock)
    binding = room.binding(0, expires_unix_s=1010, dealt_bytes=0)
    writer = shelf.writer(binding, b"i" * 32)
    writer.finish(bytes(16))
    assert shelf.find(binding)
    clock.advance(11)
    with pytest.raises(SessionError, match="expired"):
        shelf.find(binding)


def test_online_and_ahead_do_not_mix(room: Room) -> None:
    room.deal()

    def main(channel: object) -> object:
        stock = room.find(0) if channel.rank == 0 else None  # type: ignore[attr-defined]
        if channel.rank == 2:  # type: ignore[attr-defined]
            return DealerSession(channel, 2, room.digest)  # type: ignore[arg-type]
        return PartySession(channel, 2, room.digest, stock=stock)  # type: ignore[arg-type]

    with pytest.raises(SessionError, match=r"expected (online|stock).*found (online|stock)") as info:
        everyone(room.names, main)
    assert info.value.code == "session.stock"
    assert room.find(0)


def test_a_dealing_phase_is_no_session(room: Room) -> None:
    def main(channel: object) -> object:
        if channel.rank == 2:  # type: ignore[attr-defined]
            return DealerSession(channel, 2, room.digest)  # type: ignore[arg-type]
        return keep_ahead(channel, room.binding(channel.rank), room.shelf(channel.rank))  # type: ignore

    with pytest.raises(SessionError, match="dealt to otherwise"):
        everyone(room.names, main)


@pytest.mark.parametrize(("field", "error"), [("plan_digest", PlanMismatch), ("spec_digest", Untrusted)])
def test_parties_that_were_told_different_things_are_dealt_nothing(
    room: Room, field: str, error: type[Exception]
) -> None:
    def main(channel: object) -> object:
        rank = channel.rank  # type: ignore[attr-defined]
        binding = room.binding(rank, **({field: b"x" * 32} if rank == 1 else {}))
        if rank == 2:
            return deal_ahead(channel, binding, lambda s: small(MpcEngine(s, FRAC_BITS)))  # type: ignore[arg-type]
        return keep_ahead(channel, binding, room.shelf(rank))  # type: ignore[arg-type]

    with pytest.raises(error):
        everyone(room.names, main)
    assert room.shelf(0).names() == room.shelf(1).names() == ()


def test_a_dealer_whose_workload_is_not_the_plan_s(room: Room) -> None:
    room.program = lambda e: e.relu(e.private(None, (200,), 0))
    with pytest.raises(EnclaveError):
        room.deal()
    assert room.shelf(0).names() == ()


# ---- a dealer that countersigns


def test_a_witness_holds_the_same_stock_and_deals_nothing(room: Room) -> None:
    room.deal(shelf=room.shelf(2))
    assert room.folder(2).is_dir()

    def main(channel: object) -> object:
        rank = channel.rank  # type: ignore[attr-defined]
        with room.find(rank) as stock:
            if rank == 2:
                session = Witness(channel, 2, room.digest, bytes(32), stock)  # type: ignore[arg-type]
            else:
                session = PartySession(channel, 2, room.digest, stock=stock)  # type: ignore[arg-type]
            small(MpcEngine(session, FRAC_BITS))
            assert session.digest == room.digest
            return [link.sent_bytes for link in channel.stats()]  # type: ignore[attr-defined]

    hello = 3 * 32 + 16
    assert everyone(room.names, main)[2] == [hello, hello]
    with pytest.raises(SessionError, match="nothing was dealt"):
        room.find(2)

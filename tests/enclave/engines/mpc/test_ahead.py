"""Dealing ahead: the same results without a dealer, and no stock is ever good for anything but one session."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
from enclave.errors import EnclaveError, PlanMismatch, PolicyRefused, SessionError, StoreError, Untrusted
from tests.enclave.engines.mpc.ahead_room import FRAC_BITS, Room, everyone

X = np.linspace(-3.0, 3.0, 200)
LARGE = 60_000  # more than two chunks of corrections


def small(e: MpcEngine) -> object:
    x = e.private(X if e.rank == 0 else None, X.shape, 0)
    y = e.private(X[::-1].copy() if e.rank == 1 else None, X.shape, 1)
    return e.open("value", e.relu(e.mul(x, y)), 0, Permit("t", ["value"]))


def large(e: MpcEngine) -> object:
    x = e.private(np.linspace(-3.0, 3.0, LARGE) if e.rank == 0 else None, (LARGE,), 0)
    return e.open("value", e.relu(x), 0, Permit("t", ["value"]))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path, 2, small)


@pytest.fixture
def large_room(tmp_path: Path) -> Room:
    found = Room(tmp_path, 2, large)
    assert found.dealt_bytes > 2 * CHUNK_BYTES
    return found


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---- it works


@pytest.mark.parametrize("parties", [2, 3, 4])
def test_a_session_needs_no_dealer_once_it_was_dealt_ahead(tmp_path: Path, parties: int) -> None:
    room = Room(tmp_path, parties, small)
    room.deal()
    assert np.abs(room.run()[0] - np.maximum(X * X[::-1], 0)).max() < 1e-4
    assert np.abs(room.run_online()[0] - np.maximum(X * X[::-1], 0)).max() < 1e-4


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


# ---- never twice


def test_a_second_use_is_refused(room: Room) -> None:
    room.deal()
    kept = [room.find(rank) for rank in (0, 1)]
    room.run()
    with pytest.raises(SessionError, match="nothing was dealt ahead") as info:
        room.find(0)
    assert info.value.code == "session.stock"
    with pytest.raises(SessionError, match="used already"):
        kept[0].use()


def test_a_copy_put_back_is_refused(room: Room, tmp_path: Path) -> None:
    room.deal()
    for rank in (0, 1):
        shutil.copytree(room.folder(rank), tmp_path / f"copy{rank}")
    room.run()
    for rank in (0, 1):
        shutil.copytree(tmp_path / f"copy{rank}", room.folder(rank))
        with pytest.raises(SessionError, match="used already"):
            room.find(rank)


def test_a_whole_home_put_back_meets_the_peers(room: Room, tmp_path: Path) -> None:
    """One party rolls everything back, marks included; the other has a newer stock of the same session."""
    room.deal()
    home = room.root / "p0"
    shutil.copytree(home, tmp_path / "snapshot")
    room.run()
    room.deal()
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "snapshot", home)
    with pytest.raises(SessionError, match="dealt to otherwise") as info:
        room.run()
    assert info.value.code == "session.stock"
    assert room.find(1), "a hello that fails uses nothing up"


def test_of_two_users_at_once_one_fails(room: Room) -> None:
    room.deal()
    first, second = room.find(0), room.find(0)
    first.use()
    with pytest.raises(SessionError, match="used already"):
        second.use()
    first.close()


@pytest.mark.parametrize("crash", ["erase", "Secrets", "KeyStream"])
def test_a_crash_between_opening_and_use_leaves_nothing_usable(
    room: Room, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    room.deal()
    stock = room.find(0)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stocks, crash, dies if crash != "Secrets" else type("S", (), {"open": staticmethod(dies)}))
        with pytest.raises(KeyboardInterrupt):
            stock.use()
    with pytest.raises(SessionError) as info:
        room.find(0)
    assert info.value.code == "session.stock"
    with pytest.raises(SessionError, match="used already"):
        stock.use()
    assert room.shelf(0).sweep(()) == (room.session,)
    room.deal()
    room.run()


CRASH = """
import os, signal, sys
from pathlib import Path
from enclave.engines.mpc import stock as stocks
from enclave.engines.mpc.ahead import Binding, Shelf
stocks.{point} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
home, digest, size = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
Shelf(home).find(Binding("job-1", 2, 0, digest, bytes(32), size)).use().words(1, 1)
"""


@pytest.mark.parametrize("point", ["erase", "_Reader"])
def test_a_process_that_is_killed_leaves_nothing_usable(room: Room, point: str) -> None:
    room.deal()
    arguments = [str(room.root / "p0"), room.digest.hex(), str(room.dealt_bytes)]
    died = subprocess.run([sys.executable, "-c", CRASH.format(point=point), *arguments], check=False)
    assert died.returncode == -signal.SIGKILL
    assert (room.folder(0) / "head").exists() == (point == "erase")
    with pytest.raises(SessionError) as info:
        room.find(0)
    assert info.value.code == "session.stock"


def test_a_key_that_others_may_read_is_refused(room: Room) -> None:
    room.deal()
    key = room.root / "p0" / "stock" / "key"
    key.chmod(0o640)
    with pytest.raises(StoreError, match="mode 0640"):
        room.run()


def test_a_crash_while_dealing_leaves_no_stock(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise StoreError("the plug was pulled")

    with monkeypatch.context() as patch:
        patch.setattr(shelves, "write_file", dies)
        with pytest.raises(EnclaveError):
            room.deal()
    assert [room.shelf(rank).ready(room.session) for rank in (0, 1)] == [False, False]
    room.deal()
    room.run()


def test_the_head_is_destroyed_before_a_key_comes_out(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.deal()
    stock, seen = room.find(1), []
    original = stocks.Secrets.open

    def spy(*arguments: object) -> object:
        seen.append(sorted(path.name for path in files(room.folder(1)) if path.stat().st_size))
        return original(*arguments)

    monkeypatch.setattr(stocks.Secrets, "open", spy)
    stock.use()
    stock.close()
    assert seen == [[]] and stock.mark.exists()


def test_erasing_overwrites_before_it_unlinks(tmp_path: Path) -> None:
    from enclave.engines.mpc.sealed import erase

    secret = tmp_path / "secret"
    secret.write_bytes(b"key" * 10)
    os.link(secret, tmp_path / "same-blocks")
    erase(secret)
    assert not secret.exists() and (tmp_path / "same-blocks").read_bytes() == bytes(30)


def test_two_dealings_of_one_plan_have_nothing_in_common(room: Room) -> None:
    first = room.deal()
    data = [(room.folder(rank) / "head").read_bytes() for rank in (0, 1)]
    corrections = (room.folder(0) / "00000.part").read_bytes()
    assert room.deal() != first
    assert (room.folder(0) / "00000.part").read_bytes() != corrections
    assert [(room.folder(rank) / "head").read_bytes() for rank in (0, 1)] != data


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


# ---- a disk that is not as it was written


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("where", ["first", "last", "tag", "cut", "empty", "exchanged", "gone", "longer-first"])
def test_a_part_that_was_changed_is_noticed(large_room: Room, where: str) -> None:
    room = large_room
    room.deal()
    part = room.folder(0) / "00000.part"
    sealed, data = CHUNK_BYTES + 16, part.read_bytes()
    match where:
        case "first":
            flip(part, 0)
        case "last":
            flip(part, len(data) - 17)
        case "tag":
            flip(part, len(data) - 1)
        case "cut":
            part.write_bytes(data[:-1])
        case "empty":
            part.write_bytes(data[: 2 * sealed])
        case "exchanged":
            part.write_bytes(data[sealed : 2 * sealed] + data[:sealed] + data[2 * sealed :])
        case "gone":
            part.unlink()
        case "longer-first":
            part.write_bytes(data[:10] + data)
    with pytest.raises(StoreError):
        room.run()
    assert not room.folder(0).exists()


def test_a_chunk_of_an_older_stock_is_noticed(large_room: Room) -> None:
    room = large_room
    room.deal()
    old = (room.folder(0) / "00000.part").read_bytes()
    room.deal()
    (room.folder(0) / "00000.part").write_bytes(old)
    with pytest.raises(StoreError, match="chunk 0 was changed"):
        room.run()


def test_a_head_cut_short_is_noticed(room: Room) -> None:
    room.deal()
    head = room.folder(0) / "head"
    data = head.read_bytes()
    for wrong in (b"", data[:40], data[:-1], b"X" + data[1:]):
        head.write_bytes(wrong)
        with pytest.raises(StoreError, match="damaged"):
            room.find(0)
    for position in (len(data) - 1, len(data) - 40, 120):  # the seed, the file key, the salt
        head.write_bytes(data)
        flip(head, position)
        stock = room.find(0)
        with pytest.raises(StoreError, match="the head was changed"):
            stock.use()
        stock.mark.unlink()


# ---- limits


def test_a_stock_beyond_the_limit_is_refused(room: Room) -> None:
    room.limit_bytes = room.dealt_bytes
    with pytest.raises(PolicyRefused, match=f"{room.binding(0).disk_bytes} bytes of disk beside 0") as info:
        room.deal()
    assert info.value.rules == ("node.stock",)
    assert room.shelf(0).names() == ()
    room.limit_bytes = room.binding(0).disk_bytes
    room.deal()
    room.session = "job-2"
    with pytest.raises(PolicyRefused, match=r"at most \d+ here"):
        room.deal()
    room.session = "job-1"
    room.run()


def test_a_full_disk_is_said_and_a_session_still_runs_online(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(room.root)._replace(free=100)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(StoreError, match="100 are free") as info:
            room.deal()
    assert info.value.code == "store.full"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space") as info:
            room.deal()
    assert info.value.code == "store.full"
    assert room.shelf(0).names() == ()
    room.run_online()


def test_sweeping(room: Room) -> None:
    room.deal()
    shelf = room.shelf(0)
    (room.folder(0).parent / "unfinished").mkdir()
    assert shelf.names() == ("job-1", "unfinished")
    assert shelf.sweep({"job-1", "unfinished"}) == ()
    assert shelf.sweep({"job-1", "unfinished"}, unfinished=True) == ("unfinished",)
    room.run()
    (mark,) = (room.root / "p0" / "stock" / "spent").iterdir()
    shelf.sweep(())
    assert mark.exists()
    Shelf(room.root / "p0", clock=ManualClock(1 << 41)).sweep(())
    assert not mark.exists()


def test_a_session_name_is_no_path(room: Room) -> None:
    for name in ("../x", "", "a/b", ".hidden", "x" * 65):
        with pytest.raises(ValueError, match="name"):
            room.binding(0, session=name)


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

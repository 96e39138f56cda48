"""A stock on the disk: used once at most, whatever crashes or is put back, and noticed when it was changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.clock import ManualClock
from enclave.engines.mpc import shelf as shelves
from enclave.engines.mpc import stock as stocks
from enclave.engines.mpc.ahead import Binding, Shelf, Witness
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.ranks import PartySession
from enclave.engines.mpc.sealed import CHUNK_BYTES
from enclave.errors import EnclaveError, PolicyRefused, SessionError, StoreError
from tests.enclave.engines.mpc.ahead_room import FRAC_BITS, Room, everyone, files, large, small


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path, 2, small)


@pytest.fixture
def large_room(tmp_path: Path) -> Room:
    found = Room(tmp_path, 2, large)
    assert found.dealt_bytes > 2 * CHUNK_BYTES
    return found


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


def test_all_parties_put_back_at_once_meet_the_dealer(room: Room, tmp_path_factory: Any) -> None:
    """The attack that parties alone cannot see, and why a job has a witness: the same masks for two inputs."""

    def session(channel: Any) -> None:
        with room.find(channel.rank) as stock:
            if channel.rank == 2:
                witness = Witness(channel, 2, room.digest, bytes(32), stock)
                room.program(MpcEngine(witness, FRAC_BITS))
                return
            watch = (lambda _, words: opened.append(words.copy())) if channel.rank == 0 else None
            mpc = PartySession(channel, 2, room.digest, stock=stock, observer=watch)
            room.program(MpcEngine(mpc, FRAC_BITS))

    room.deal(shelf=room.shelf(2))
    snapshot = tmp_path_factory.mktemp("snapshot") / "all"
    shutil.copytree(room.root, snapshot)
    opened: list[np.ndarray] = []
    everyone(room.names, session)
    first, opened = opened, []
    for name in room.names[:-1]:
        shutil.rmtree(room.root / name)
        shutil.copytree(snapshot / name, room.root / name)
    with pytest.raises(SessionError, match="nothing was dealt ahead"):
        everyone(room.names, session)
    assert first and not opened
    room.run()  # without the dealer nobody can tell: both homes are as they were


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


# ---- what is read is what was written


@settings(max_examples=8, deadline=None)  # each syncs its files
@given(data=st.data(), size=st.integers(0, 5000))
def test_bytes_come_back_in_order_and_aligned(data: st.DataObject, size: int, tmp_path_factory: Any) -> None:
    """Chunks of 1 KiB and parts of two chunks, taken in pieces of any size."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("sealed", "shelf", "stock"):
            patch.setattr(f"enclave.engines.mpc.{module}.CHUNK_BYTES", 1024)
            patch.setattr(f"enclave.engines.mpc.{module}.PART_CHUNKS", 2)
        written = np.random.default_rng(size).bytes(size)
        shelf = Shelf(tmp_path_factory.mktemp("home"))
        binding = Binding("job", 2, 0, bytes(32), bytes(32), size)
        writer = shelf.writer(binding, b"i" * 32)
        for start in range(0, size, 1024):
            writer.append(written[start : start + 1024])
        writer.finish(b"s" * 16)
        pieces: list[memoryview] = []
        with shelf.find(binding) as stock:
            stock.use()
            while stock.left_bytes:
                pieces.append(stock.take(data.draw(st.integers(0, stock.left_bytes))))
            with pytest.raises(StoreError, match="expected 1 bytes more, found 0"):
                stock.take(1)
        assert b"".join(pieces) == written
        assert all(np.frombuffer(piece, np.uint8).ctypes.data % 8 == 0 for piece in pieces)


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

"""Rows in coefficients, and what is kept of them."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from enclave.engines.he.lattice.parameters import primes_of
from enclave.engines.he.lattice.ring import Ring
from enclave.engines.he.linear.encodings import Encodings
from enclave.engines.he.linear.packing import EncodedRows, Packing
from enclave.errors import BadData, BadSpec

N = 256
RING = Ring(N, primes_of(4096, (40, 41)))
RNG = np.random.default_rng(1)


class Source:
    """Rows in memory that count how often they are read."""

    def __init__(self, x: NDArray[np.float64]) -> None:
        self.x, self.reads = x, 0
        self.rows, self.columns = x.shape

    def block(self, start: int, stop: int) -> NDArray[np.float64]:
        self.reads += 1
        return self.x[start:stop]


def encoded(source: Source, packing: Packing, encodings: Encodings | None = None, *key: bytes) -> EncodedRows:
    return EncodedRows(RING, packing, source, 8, 16 << 8, encodings, key)


def schoolbook(x: NDArray[np.object_], y: NDArray[np.object_]) -> NDArray[np.object_]:
    """x y modulo X^N + 1, over the integers."""
    full = np.convolve(x, y)
    out = full[:N].copy()
    out[: len(full) - N] -= full[N:]
    return out


@pytest.mark.parametrize(("columns", "stride"), [(3, 1), (5, 1), (4, 4), (7, 4), (1, 2), (9, 16)])
def test_scores_stand_where_the_packing_says(columns: int, stride: int) -> None:
    packing = Packing(N, columns, stride)
    rows = packing.block_rows - 3
    x = RNG.integers(-16, 17, (rows, columns)).astype(np.float64)
    w = RNG.integers(-50, 50, columns)
    block = encoded(Source(x), packing).block(0)
    plain = RING.to_integers(RING.intt(block.polynomials))
    grouped = packing.grouped(w.astype(object))
    total = np.zeros(N, object)
    for polynomial, weights in zip(plain, grouped, strict=True):
        total += schoolbook(polynomial, np.concatenate([weights, np.zeros(N - stride, object)]))
    expected = (x @ w).astype(np.int64) << 8
    assert np.array_equal(total[packing.places(rows)].astype(np.int64), expected)


def test_few_rows_take_the_largest_stride_that_fits() -> None:
    assert Packing.fitting(8192, 30, 100_000).stride == 1
    assert Packing.fitting(8192, 30, 4097).stride == 1
    assert Packing.fitting(8192, 30, 4096).stride == 2
    assert Packing.fitting(8192, 30, 1).stride == 32
    assert Packing.fitting(8192, 784, 8).stride == 1024


@pytest.mark.parametrize(("columns", "stride"), [(0, 1), (3, 0), (3, 3), (3, 512)])
def test_a_packing_that_does_not_fit_is_refused(columns: int, stride: int) -> None:
    with pytest.raises(BadSpec):
        Packing(N, columns, stride)


def test_blocks_cover_all_rows_and_the_rest_is_zeros() -> None:
    x = RNG.normal(size=(6 * N + 5, 2)).clip(-8, 8)
    rows = encoded(Source(x), Packing(N, 2))
    assert len(rows) == 7 and [block.rows for block in rows] == [N] * 6 + [5]
    last = RING.to_integers(RING.intt(rows.block(6).polynomials)).astype(np.int64)
    assert np.array_equal(last[:, :5].T, np.rint(x[-5:] * 256).astype(np.int64)) and not last[:, 5:].any()


@pytest.mark.parametrize("bad", [16.01, -16.01, np.nan, np.inf, -np.inf])
def test_what_is_larger_than_declared_never_reaches_a_product(bad: float) -> None:
    """The flood is sized for the declared magnitude: a larger value would show through it."""
    x = np.zeros((10, 2))
    x[7, 1] = bad
    with pytest.raises(BadData):
        encoded(Source(x), Packing(N, 2)).block(0)


def test_encodings_are_reused_between_models_in_memory() -> None:
    encodings, source = Encodings(), Source(RNG.normal(size=(3 * N, 2)))
    first = [b.polynomials.copy() for b in encoded(source, Packing(N, 2), encodings, b"rows", b"v1")]
    reads = source.reads
    second = [b.polynomials for b in encoded(source, Packing(N, 2), encodings, b"rows", b"v1")]
    assert source.reads == reads == 3 and all(map(np.array_equal, first, second))


def test_memory_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    encodings = Encodings(memory_bytes=1000)
    two, one, three = (encodings.opened((name,), blocks, (50,)) for name, blocks in ((b"a", 2), (b"b", 1), (b"c", 3)))
    for kept, blocks in ((two, 2), (one, 1), (three, 3)):
        for i in range(blocks):
            kept.put(i, np.zeros((1, 50), np.uint64))
    assert two.get(0, 1) is None and two.get(1, 1) is not None and one.get(0, 1) is not None
    assert all(three.get(i, 1) is None for i in range(3)), "what does not fit is not kept by halves"


def test_room_is_used_where_nothing_is_kept() -> None:
    source = Source(RNG.normal(size=(3 * N, 2)))
    for encodings in (None, Encodings(0), Encodings()):
        rows = encoded(source, Packing(N, 2), encodings)
        room = np.empty(rows.room_shape, np.uint64)
        found = rows.batch(0, room).polynomials
        kept = encodings is not None and encodings.memory_bytes > 0
        assert np.shares_memory(found, room) != kept, "what is kept must not be overwritten"


def test_files_are_the_owners_alone_and_serve_the_next_process(tmp_path: Path) -> None:
    folder, source = tmp_path / "rows", Source(RNG.normal(size=(5 * N + 3, 2)))
    first = [b.polynomials for b in encoded(source, Packing(N, 2), Encodings(0, folder), b"rows", b"v1")]
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    other = Source(np.zeros_like(source.x))
    second = [b.polynomials for b in encoded(other, Packing(N, 2), Encodings(0, folder), b"rows", b"v1")]
    assert other.reads == 0 and all(map(np.array_equal, first, second))


@pytest.mark.parametrize("key", [(b"rows", b"v2"), (b"rows", b"v1", b"other encoding")])
def test_another_version_or_encoding_is_encoded_anew(tmp_path: Path, key: tuple[bytes, ...]) -> None:
    source = Source(RNG.normal(size=(N, 2)))
    list(encoded(source, Packing(N, 2), Encodings(0, tmp_path), b"rows", b"v1"))
    before = {path.name for path in tmp_path.iterdir()}
    list(encoded(source, Packing(N, 2), Encodings(0, tmp_path), *key))
    after = {path.name for path in tmp_path.iterdir()}
    assert source.reads == 2
    assert len(after - before) == 1
    assert before.isdisjoint(after) == (key[1] == b"v2"), "files of another version of the data set go, others stay"


@pytest.mark.parametrize("damage", ["shorter", "longer", "header"])
def test_a_damaged_file_is_encoded_anew(tmp_path: Path, damage: str) -> None:
    source = Source(RNG.normal(size=(N, 2)))
    list(encoded(source, Packing(N, 2), Encodings(0, tmp_path), b"rows", b"v1"))
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes({"shorter": data[:-8], "longer": data + b"12345678", "header": b"x" + data[1:]}[damage])
    again = [b.polynomials for b in encoded(source, Packing(N, 2), Encodings(0, tmp_path), b"rows", b"v1")]
    assert source.reads == 2
    assert np.array_equal(again[0], encoded(source, Packing(N, 2)).block(0).polynomials)


def test_the_folder_is_bounded_and_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    size = 8 * 2 * 2 * N + 64
    encodings = Encodings(0, tmp_path, folder_bytes=2 * size + 1)
    for name in (b"a", b"b", b"c"):
        list(encoded(Source(RNG.normal(size=(N, 2))), Packing(N, 2), encodings, name, b"v1"))
        for path in tmp_path.iterdir():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    assert len(list(tmp_path.iterdir())) == 2
    rows = encoded(Source(RNG.normal(size=(5 * N, 2))), Packing(N, 2), Encodings(0, tmp_path), b"d", b"v1")
    rows.block(0)
    assert len(list(tmp_path.iterdir())) == 3
    del rows
    assert len(list(tmp_path.iterdir())) == 2


def test_a_withdrawn_data_set_is_forgotten(tmp_path: Path) -> None:
    encodings = Encodings(1 << 20, tmp_path)
    source = Source(RNG.normal(size=(N, 2)))
    list(encoded(source, Packing(N, 2), encodings, b"rows", b"v1"))
    encodings.forget(b"rows")
    assert not list(tmp_path.iterdir())
    list(encoded(source, Packing(N, 2), encodings, b"rows", b"v1"))
    assert source.reads == 2


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    source = Source(RNG.normal(size=(N, 2)))
    assert len(list(encoded(source, Packing(N, 2), Encodings(0, blocked / "rows"), b"rows", b"v1"))) == 1


def test_what_a_killed_process_left_goes_with_the_next_run(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    left, running = (tmp_path / f"a-b-c.rows.{process}-00" for process in (gone.pid, os.getpid()))
    for path in (left, running):
        path.write_bytes(b"rows")
    Encodings(0, tmp_path).opened((b"rows", b"v1"), 1, (8,))
    assert not left.exists() and running.exists()

"""Tape entries on the wire: all that may travel comes back, and nothing else is taken."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from typing import Any

import pytest

from enclave.engines.mpc import protocols
from enclave.engines.mpc.fence import series
from enclave.engines.mpc.fence.binary_masks import AndTriple
from enclave.engines.mpc.fence.entries import TapeEntry, catalogue
from enclave.engines.mpc.fence.operations import BatchMatMul, Convolution
from enclave.engines.mpc.protocols import smooth
from enclave.engines.mpc.protocols.arithmetic import Conv2d, MatMul, Mul, ProductOfMasks, Truncation
from enclave.engines.mpc.protocols.comparison import Comparison, Gate, Gating, Relu
from enclave.engines.mpc.protocols.fss import CompareByKey
from enclave.engines.mpc.protocols.harmonics import Series
from enclave.engines.mpc.protocols.selection import BitMask, OneHotOfMask
from enclave.engines.mpc.protocols.smooth import SeriesTable
from enclave.engines.mpc.protocols.trees import best_tree
from enclave.engines.mpc.session import Network
from enclave.engines.mpc.tape import BitRef, MaskRef, Segment
from enclave.errors import BadSpec
from enclave.wire import tape_pb2 as wire


def mask(*shape: int, stream: int = 3, holder: int | None = None) -> MaskRef:
    return MaskRef((Segment(stream, shape, 0, shape[0], holder),), shape)


TWO_PARTS = MaskRef((Segment(3, (4, 5), 1, 3, 0), Segment(4, (9, 5), 0, 1, None)), (3, 5))
IMAGE, KERNEL = mask(2, 4, 8, 8), mask(6, 2, 3, 3)
ENTRIES: list[Any] = [
    ProductOfMasks(Mul(), mask(3, 1), mask(4)),
    ProductOfMasks(MatMul(transpose_x=True), TWO_PARTS, mask(3, 2)),
    ProductOfMasks(Conv2d((2, 1), (1, 0, 1, 2), (1, 1), 2), IMAGE, KERNEL),
    ProductOfMasks(BatchMatMul(), mask(2, 3, 4), mask(4, 5)),  # type: ignore[arg-type]
    ProductOfMasks(Convolution((1, 2), (1, 0), (1, 1), (0, 0), 2, False), IMAGE, KERNEL),  # type: ignore[arg-type]
    ProductOfMasks(Convolution((2,), (1,), (1,), (1,), 1, True), mask(2, 4, 8), mask(4, 3, 3)),  # type: ignore[arg-type]
    Truncation((3, 4), 16),
    Comparison(70, best_tree(70, 1, 0, 63, Network())),
    Comparison(5, best_tree(5, 3, 20, 40, Network()), 3, "u1"),
    Relu(Comparison(70, best_tree(70, 1, 20, 63, Network())), Gating(70, 20)),
    Gate(BitRef(3, 64, 1, 70), Gating(70, 0)),
    SeriesTable(9, smooth.RECIPROCAL, 30),
    SeriesTable(9, series.SINE, 22),
    OneHotOfMask(9, 5),
    BitMask(100),
    AndTriple((3, 1), (4,)),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}")
def test_an_entry_comes_back_from_the_wire(entry: Any) -> None:
    message = TapeEntry(11, entry)
    back = TapeEntry.decode(message.encode())
    assert back == message and back.stream == 11
    assert back.entry == entry
    assert [s.shape for s in back.entry.dealt] == [s.shape for s in entry.dealt]


def test_every_function_has_a_number() -> None:
    """Fails when a series is added to the protocols and not to the wire."""
    known = list(series.FUNCTIONS.values())
    for module in (smooth, series):
        assert all(value in known for value in vars(module).values() if isinstance(value, Series))
    assert set(series.FUNCTIONS) == set(wire.TapeFunction.values()) - {wire.TAPE_FUNCTION_UNSPECIFIED}


def entry_classes() -> set[type]:
    """Every class of the protocols that has the form of an entry."""
    found = set()
    for info in pkgutil.iter_modules(protocols.__path__, f"{protocols.__name__}."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, type) and {"kind", "free", "dealt", "values"} <= set(dir(value)):
                found.add(value)
    return found


def test_every_entry_of_the_protocols_may_travel() -> None:
    """Fails when an entry is added to the protocols and not to the wire."""
    kept_out = {CompareByKey}  # a free-running dealer deals no keys: `deals_keys` of its sessions
    assert entry_classes() - kept_out <= set(catalogue().kinds.values())
    assert set(catalogue().kinds) == set(wire.TapeKind.values()) - {wire.TAPE_KIND_UNSPECIFIED}


def _message(entry: Any) -> bytes:
    """The message of an entry, whatever is wrong with it."""
    return wire.TapeEntry(stream=9, entry=catalogue().to_wire(entry)).SerializeToString()


def _product(x: tuple[int, ...], y: tuple[int, ...], op: Any) -> Any:
    return ProductOfMasks(op, mask(*x), mask(*y, stream=2))


TREE = best_tree(5, 1, 0, 63, Network())


@pytest.mark.parametrize(
    "entry",
    [
        Truncation((4,), 63),
        Truncation((4,), 0),
        Truncation((1 << 40, 1 << 40), 3),
        Truncation((1,) * 17, 3),
        Comparison(5, TREE, 0),
        Comparison(5, TREE, 1000),
        Comparison(5, replace(TREE, high=64)),
        Comparison(5, replace(TREE, leaves=(40, 23), levels=((2,),))),
        Comparison(5, replace(TREE, leaves=(5, *TREE.leaves))),
        Comparison(5, replace(TREE, levels=())),
        Comparison(5, replace(TREE, levels=((1,), *TREE.levels))),
        Relu(Comparison(5, TREE), Gating(6, 0)),
        Relu(Comparison(5, TREE), Gating(5, 63)),
        Gate(BitRef(3, 0, 1, 6), Gating(5, 0)),
        SeriesTable(5, smooth.LOG, 61),
        OneHotOfMask(5, 17),
        _product((3, 4), (5, 6), MatMul()),
        _product((3,), (3,), MatMul()),
        _product((3,), (4,), Mul()),
        _product((2, 3, 4), (5, 6), BatchMatMul()),
        _product((1, 2, 8, 8), (3, 2, 3, 3), Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 0)),
        _product((1, 2, 8, 8), (3, 1, 3, 3), Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 1)),
        _product((1, 2, 2, 2), (3, 2, 5, 5), Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 1)),
        _product((1, 2, 8), (3, 2, 3), Convolution((0,), (0,), (0,), (0,), 1, False)),
        _product((1, 2, 8), (3, 2, 3), Convolution((), (), (), (), 1, False)),
        ProductOfMasks(Mul(), MaskRef((), (3,)), mask(3)),
        ProductOfMasks(Mul(), MaskRef((Segment(1, (3,), 0, 4, None),), (4,)), mask(4)),
        AndTriple((3,), (4,)),
    ],
    ids=str,
)
def test_a_malformed_entry_is_refused(entry: Any) -> None:
    with pytest.raises(BadSpec):
        TapeEntry.decode(_message(entry))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: None,
        lambda m: m.entry.SetInParent(),
        lambda m: m.entry.MergeFrom(wire.TapeRecord(kind=wire.TAPE_KIND_MUL)),
        lambda m: m.entry.MergeFrom(wire.TapeRecord(kind=wire.TAPE_KIND_BITS)),
        lambda m: m.entry.MergeFrom(wire.TapeRecord(kind=wire.TAPE_KIND_BITS, fields=[wire.TapeField(flag=True)])),
        lambda m: m.entry.MergeFrom(wire.TapeRecord(kind=wire.TAPE_KIND_BITS, fields=[wire.TapeField(number=1 << 50)])),
        lambda m: m.entry.MergeFrom(wire.TapeRecord(kind=wire.TAPE_KIND_BITS, fields=[wire.TapeField(number=1)] * 2)),
    ],
)
def test_a_malformed_message_is_refused(change: Any) -> None:
    message = wire.TapeEntry(stream=9)
    change(message)
    with pytest.raises(BadSpec):
        TapeEntry.decode(message.SerializeToString())


@pytest.mark.parametrize("body", [b"\xff" * 40, b"\x00", bytes(2 << 20)])
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(BadSpec):
        TapeEntry.decode(body)

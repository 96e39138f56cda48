"""Free-running sessions: the tape goes to the dealer as typed messages, in order, the same from all ranks."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from enclave.channel.memory import memory_network
from enclave.engines.mpc.fence import series
from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.entries import TapeEntry
from enclave.engines.mpc.fence.free import DealerLimits, FreeDealer, FreeSession, program_digest
from enclave.engines.mpc.fence.operations import BatchMatMul, Convolution
from enclave.engines.mpc.protocols import smooth
from enclave.engines.mpc.protocols.arithmetic import Conv2d, MatMul, Mul, ProductOfMasks, Truncation
from enclave.engines.mpc.protocols.comparison import Comparison
from enclave.engines.mpc.protocols.selection import BitMask, OneHotOfMask
from enclave.engines.mpc.protocols.smooth import Gated, Series, SeriesTable
from enclave.engines.mpc.tape import MaskRef, Segment
from enclave.errors import BadSpec, Desynchronised, EnclaveError, PeerLost, PlanMismatch, PolicyRefused
from enclave.wire import tape_pb2 as wire
from tests.enclave.engines.mpc.fence_parties import attempt, crypten, run


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
    Comparison(70),
    Comparison(5, 3, True),
    SeriesTable(9, smooth.RECIPROCAL, 30),
    SeriesTable(9, series.SINE, 22),
    Gated(Comparison(9, 2), smooth.SIGMOID, 16),
    Gated(Comparison(9), None, 36),
    OneHotOfMask(9, 5),
    BitMask(100),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}")
def test_an_entry_comes_back_from_the_wire(entry: Any) -> None:
    message = TapeEntry.of(11, entry)
    back = TapeEntry.decode(message.encode())
    assert back == message and back.stream == 11
    assert back.entry() == entry
    assert [s.shape for s in back.entry().dealt] == [s.shape for s in entry.dealt]


def test_every_function_has_a_number() -> None:
    """Fails when a series is added to the protocols and not to the wire."""
    known = [f for f in series.FUNCTIONS.values() if f is not None]
    for module in (smooth, series):
        assert all(value in known for value in vars(module).values() if isinstance(value, Series))
    assert set(series.FUNCTIONS) == set(wire.TapeFunction.values()) - {wire.TAPE_FUNCTION_UNSPECIFIED}


def _broken(change: Any) -> bytes:
    message = wire.TapeEntry(stream=9)
    change(message)
    return message.SerializeToString()


def _product(x: tuple[int, ...], y: tuple[int, ...], op: str, **settings: Any) -> Any:
    def change(m: Any) -> None:
        for side, shape in ((m.product.x, x), (m.product.y, y)):
            side.shape.extend(shape)
            side.segments.add(stream=1, shape=shape, start=0, stop=shape[0])
        getattr(m.product, op).SetInParent()
        for name, value in settings.items():
            field = getattr(getattr(m.product, op), name)
            if isinstance(value, tuple):
                field.extend(value)
            else:
                setattr(getattr(m.product, op), name, value)

    return change


CONV = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: None,
        lambda m: m.product.SetInParent(),
        lambda m: m.truncation.SetInParent(),
        lambda m: m.truncation.MergeFrom(wire.TapeTruncation(shape=[4], bits=63)),
        lambda m: m.truncation.MergeFrom(wire.TapeTruncation(shape=[1 << 63, 1 << 63], bits=3)),
        lambda m: m.truncation.MergeFrom(wire.TapeTruncation(shape=[1] * 17, bits=3)),
        lambda m: m.comparison.MergeFrom(wire.TapeComparison(n=5)),
        lambda m: m.comparison.MergeFrom(wire.TapeComparison(n=1 << 50, thresholds=1)),
        lambda m: m.comparison.MergeFrom(wire.TapeComparison(n=5, thresholds=1000)),
        lambda m: m.series.MergeFrom(wire.TapeSeries(n=5, bits=20)),
        lambda m: m.series.MergeFrom(wire.TapeSeries(n=5, bits=20, function=wire.TAPE_FUNCTION_EXP)),
        lambda m: m.series.MergeFrom(wire.TapeSeries(n=5, bits=64, function=wire.TAPE_FUNCTION_LOG)),
        lambda m: m.one_hot.MergeFrom(wire.TapeOneHot(n=5, bits=17)),
        lambda m: m.gated.MergeFrom(wire.TapeGated(function=wire.TAPE_FUNCTION_EXP, frac_bits=20)),
        _product((3, 4), (5, 6), "matmul"),
        _product((3,), (3,), "matmul"),
        _product((3,), (4,), "mul"),
        _product((2, 3, 4), (5, 6), "batch_matmul"),
        _product((1, 2, 8, 8), (3, 2, 3, 3), "conv2d", **CONV),
        _product((1, 2, 8, 8), (3, 1, 3, 3), "conv2d", groups=1, **CONV),
        _product((1, 2, 2, 2), (3, 2, 5, 5), "conv2d", groups=1, **CONV),
        _product((1, 2, 8), (3, 2, 3), "convolution", stride=(0,), padding=(0,), dilation=(1,), output_padding=(0,)),
        _product((1, 2, 8), (3, 2, 3), "convolution", groups=1),
    ],
)
def test_a_malformed_entry_is_refused(change: Any) -> None:
    with pytest.raises(BadSpec):
        TapeEntry.decode(_broken(change)).entry()


@pytest.mark.parametrize("body", [b"\xff" * 40, b"\x00", bytes(2 << 20)])
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(BadSpec):
        TapeEntry.decode(body).entry()


def product(rank: int) -> None:
    x = crypten.cryptensor(torch.ones(100), src=0)
    x * crypten.cryptensor(torch.ones(100), src=1)


def test_ranks_that_want_different_entries_are_stopped() -> None:
    """Before anything is dealt: the dealer compares first."""

    def program(rank: int) -> None:
        product(rank)
        current().session.deal(Truncation((50 + (rank == 1),), 16))

    ran = attempt(2, program, deadline_s=5)
    assert isinstance(ran.errors[2], Desynchronised) and ran.errors[2].who == "p1"
    assert all(isinstance(error, PeerLost) for error in ran.errors[:2] if error is not None)
    assert isinstance(ran.errors[0], PeerLost)


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (DealerLimits(entry_bytes=2000), "dealer.entry_bytes"),
        (DealerLimits(total_bytes=1500), "dealer.total_bytes"),
        (DealerLimits(entries=1), "dealer.entries"),
    ],
)
def test_a_dealer_keeps_its_limits(limits: DealerLimits, rule: str) -> None:
    ran = attempt(2, lambda rank: [product(rank), product(rank)], limits=limits, deadline_s=5)
    assert isinstance(ran.errors[2], PolicyRefused) and ran.errors[2].rules == (rule,)
    assert isinstance(ran.errors[0], PeerLost) and ran.errors[0].who == "dealer"
    assert ran.sessions[2].dealt_bytes <= 1600


WIDE = 1 << 18
LARGE: list[Any] = [
    Truncation((1 << 36,), 16),
    Comparison(1 << 30, 60),
    OneHotOfMask(1 << 20, 16),
    ProductOfMasks(Mul(), mask(1 << 20, 1, stream=1), mask(1 << 20, stream=1)),
    # small operands and a small result, and terabytes of padding between them
    ProductOfMasks(
        Conv2d((WIDE, WIDE), (WIDE,) * 4, (1, 1), 1), mask(1, 1, 2, 2, stream=1), mask(1, 1, 2, 2, stream=1)
    ),
    ProductOfMasks(
        Convolution((WIDE,) * 2, (WIDE,) * 2, (1, 1), (0, 0), 1, False),  # type: ignore[arg-type]
        mask(1, 1, 2, 2, stream=1),
        mask(1, 1, 2, 2, stream=1),
    ),
]


@pytest.mark.parametrize("entry", LARGE, ids=lambda entry: entry.kind)
def test_a_large_entry_is_refused_before_it_is_made(entry: Any) -> None:
    """A message of some bytes must not make the dealer allocate terabytes."""

    def program(rank: int) -> None:
        current().session.new_stream()
        current().session._tell(TapeEntry.of(4, entry).encode())
        current().publish(None, (1,), 1 - rank)

    ran = attempt(2, program, deadline_s=5)
    assert isinstance(ran.errors[2], PolicyRefused) and ran.errors[2].rules == ("dealer.entry_bytes",)


def test_streams_do_not_go_back() -> None:
    """A second correction on one key stream would show the difference of two dealt values."""

    def program(rank: int) -> None:
        product(rank)
        current().session._streams = 2
        current().session.deal(Truncation((5,), 16))

    ran = attempt(2, program, deadline_s=5)
    assert isinstance(ran.errors[2], Desynchronised) and "stream" in ran.errors[2].public


def test_a_mask_of_the_future_or_of_a_stranger_is_refused() -> None:
    for ref in (mask(4, stream=99), mask(4, stream=1, holder=7)):

        def program(rank: int, ref: MaskRef = ref) -> None:
            current().session.deal(ProductOfMasks(Mul(), ref, ref))

        assert isinstance(attempt(2, program, deadline_s=5).errors[2], BadSpec)


def test_different_programs_do_not_start() -> None:
    ran = attempt(2, lambda rank: None, digests=lambda rank: program_digest(2, bytes([rank == 1])), deadline_s=5)
    assert any(isinstance(error, PlanMismatch) for error in ran.errors)
    assert all(isinstance(error, EnclaveError) for error in ran.errors)
    assert program_digest(2, b"a") != program_digest(3, b"a")


def test_a_party_that_leaves_ends_the_program_for_all() -> None:
    def program(rank: int) -> None:
        product(rank)
        if rank == 1:
            raise BadSpec("gone")
        product(rank)

    ran = attempt(3, program, deadline_s=5)
    assert [type(error) for error in ran.errors] == [PeerLost, BadSpec, PeerLost, PeerLost]
    assert all(error.who == "p1" for error in ran.errors if isinstance(error, PeerLost))


def test_a_leader_that_lies_about_an_entry_is_stopped() -> None:
    """The body must be what all ranks announced."""
    channels = memory_network(["p0", "p1", "dealer"], deadline_s=5)
    errors: list[BaseException | None] = [None] * 3

    def party(rank: int) -> None:
        try:
            session = FreeSession(channels[rank], 2, program_digest(2))
            head = b"".join([(5).to_bytes(8, "big"), bytes(32)])
            session.channel.send(2, 1, "entry", [head])
            if rank == 0:
                session.channel.send(2, 1, "entry:body", [b"other"])
            session.channel.receive(2, 9, "never", 8)
        except EnclaveError as error:
            errors[rank] = error
            channels[rank].close(error)

    def dealer() -> None:
        try:
            FreeDealer(channels[2], 2, program_digest(2)).serve()
        except EnclaveError as error:
            errors[2] = error
            channels[2].close(error)

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(2)]
    threads.append(threading.Thread(target=dealer))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(errors[2], Desynchronised) and "announced" in errors[2].expected


@pytest.mark.parametrize("parties", [2, 3])
def test_only_the_leader_waits_for_the_dealer(parties: int) -> None:
    """The others send 40 bytes an entry and receive nothing from the dealer after its key."""
    ran = run(parties, lambda rank: [crypten.cryptensor(torch.ones(64)).relu() for _ in range(5)] and None)
    dealer = {rank: ran.channels[rank].stats()[-1] for rank in range(parties)}
    entries = ran.sessions[parties].entries
    assert entries == 5
    for rank in range(1, parties):
        assert dealer[rank].received_frames == 1 and dealer[rank].sent_frames == 1 + entries + 1
        hello = dealer[rank].received_bytes
        assert dealer[rank].sent_bytes == hello + 40 * (entries + 1)
    assert dealer[0].received_bytes == hello + ran.sessions[parties].dealt_bytes


def test_a_value_is_opened_once_and_a_changed_one_anew() -> None:
    """A mask belongs to one value: what was opened serves products, transposes and copies, and no later value."""

    def program(rank: int) -> list[int]:
        counts = []
        w = crypten.cryptensor(torch.ones(5, 4), src=0)
        x = crypten.cryptensor(torch.ones(3, 5), src=1)

        def opened(call: Any) -> None:
            before = current().session.openings
            call()
            counts.append(current().session.openings - before)

        opened(lambda: x @ w)  # x, w, and the truncation
        opened(lambda: x @ w)
        opened(lambda: w.t() @ x.transpose(0, 1))
        opened(lambda: x.clone() @ w.shallow_copy())
        w.add_(1.0)
        opened(lambda: x @ w)
        w._tensor.share[0, 0] += 1  # the program writes into the raw share
        opened(lambda: x @ w)
        opened(lambda: x @ w)  # and might again: nothing is kept
        return counts

    assert run(2, program).result == [3, 1, 1, 1, 2, 2, 2]


def test_what_is_opened_is_uniform() -> None:
    n = 20_000

    def program(rank: int) -> None:
        x = crypten.cryptensor(torch.ones(n), src=0)
        (x * crypten.cryptensor(torch.ones(n), src=1)).relu().exp()

    full = [words for label, words in run(2, program).opened if len(words) in (n, 2 * n) and "gate" not in label]
    assert len(full) >= 6
    for words in full:
        octets = words.view(np.uint8).reshape(-1, 8)
        for column in octets.T:
            counts, expected = np.bincount(column, minlength=256), len(column) / 256
            assert ((counts - expected) ** 2 / expected).sum() < 255 + 7 * np.sqrt(510)
    assert len({words[0] for words in full}) == len(full)


def test_a_communicator_adds_and_hands_out_public_tensors() -> None:
    def program(rank: int) -> Any:
        c = crypten.communicator.get()
        c.barrier()
        total = c.all_reduce(torch.tensor([rank + 1, 10]))
        at_one = c.reduce(torch.tensor([0.25 * (rank + 1)]), 1)
        text = torch.tensor([3.5 if rank == 1 else 0.0, 1.0])
        c.broadcast(text, 1)
        stats = c.get_communication_stats()
        return total.tolist(), None if at_one is None else at_one.tolist(), text.tolist(), stats["rounds"], c.get_name()

    ran = run(3, program)
    for rank in range(3):
        total, at_one, text, rounds, name = ran.results[rank]
        assert total == [6, 30] and text == [3.5, 1.0] and rounds == 4 and name == f"rank{rank}"
        assert at_one == ([1.5] if rank == 1 else None)


def test_a_script_for_stock_crypten_runs_unmodified() -> None:
    """The launcher's decorator, init, ranks, printing and configuration, as tutorials use them."""

    def program(rank: int) -> Any:
        import crypten as ct
        import crypten.communicator as comm
        import crypten.mpc as mpc

        @mpc.run_multiprocess(world_size=2)
        def main(scale: float) -> Any:
            ct.init()
            ct.cfg.encoder.precision_bits = 20
            with ct.cfg.temp_override({"functions.exp_iterations": 9}):
                assert ct.cfg.functions.exp_iterations == 9
            x = ct.cryptensor([1.0, 2.0, 3.0], ptype=ct.mpc.arithmetic, src=0)
            with ct.no_grad():
                y = (x * scale).exp()
            ct.print("rank", comm.get().get_rank(), dst=[])
            assert ct.is_encrypted_tensor(y) and ct.get_cryptensor_type(y) == "mpc"
            return comm.get().get_world_size(), ct.cfg["encoder.precision_bits"], y.get_plain_text().tolist()

        return main(0.5)

    ran = run(2, program)
    for rank in range(2):
        assert ran.results[rank][1 - rank] is None
        size, bits, values = ran.results[rank][rank]
        assert (size, bits) == (2, 20) and values == pytest.approx([1.6487, 2.7183, 4.4817], abs=1e-3)

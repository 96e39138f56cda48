"""Free-running sessions: the tape goes to the dealer as typed messages, in order, the same from all ranks."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from enclave.channel.memory import memory_network
from enclave.engines.mpc.fence.active import current
from enclave.engines.mpc.fence.entries import TapeEntry
from enclave.engines.mpc.fence.free import DealerLimits, FreeDealer, FreeSession, program_digest
from enclave.engines.mpc.fence.operations import Convolution
from enclave.engines.mpc.protocols.arithmetic import Conv2d, Mul, ProductOfMasks, Truncation
from enclave.engines.mpc.protocols.comparison import Comparison
from enclave.engines.mpc.protocols.selection import OneHotOfMask
from enclave.engines.mpc.protocols.trees import best_tree
from enclave.engines.mpc.session import Network
from enclave.engines.mpc.tape import MaskRef, Segment
from enclave.errors import BadSpec, Desynchronised, EnclaveError, PeerLost, PlanMismatch, PolicyRefused
from tests.enclave.engines.mpc.fence_parties import attempt, crypten, run


def mask(*shape: int, stream: int = 3, holder: int | None = None) -> MaskRef:
    return MaskRef((Segment(stream, shape, 0, shape[0], holder),), shape)


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
    Comparison(1 << 30, best_tree(70, 60, 0, 63, Network()), 60),
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
        current().session._tell(TapeEntry(4, entry).encode())
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

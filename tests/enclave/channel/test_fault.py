"""What the others see when one party's frames go wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from enclave.channel import Channel
from enclave.channel.fault import Fault, FaultyChannel
from enclave.channel.memory import memory_network
from enclave.errors import Desynchronised, EnclaveError, PeerLost
from tests.enclave.channel.contract import NAMES, together

FAULTS: tuple[Fault, ...] = ("drop", "relabel", "shorten", "repeat", "sever")


def exchange(channel: Channel, rounds: int = 4) -> list[bytes]:
    """All send to all, round after round, and close as a worker does."""
    peers = [r for r in range(len(channel.names)) if r != channel.rank]
    found = []
    try:
        for step in range(rounds):
            for peer in peers:
                channel.send(peer, step, "open", [bytes([channel.rank]) * 8])
            found += [bytes(channel.receive(peer, step, "open", 8)) for peer in peers]
        channel.close()
    except EnclaveError as error:
        channel.close(error)
        raise
    return found


def run(fault: Fault) -> tuple[list[object], float]:
    a, b, c = memory_network(NAMES, 1.0)
    tasks: list[Callable[[], object]] = [
        lambda: exchange(FaultyChannel(a, {})),
        lambda: exchange(FaultyChannel(b, {2: fault})),
        lambda: exchange(c),
    ]
    begin = time.monotonic()
    return together(*tasks), time.monotonic() - begin


def test_without_a_fault_all_agree() -> None:
    channels = memory_network(NAMES, 1.0)
    found = together(*(lambda c=c: exchange(FaultyChannel(c, {})) for c in channels))
    assert found[0] == [b"\x01" * 8, b"\x02" * 8] * 4


def test_a_late_frame_is_no_fault() -> None:
    found, seconds = run("delay")
    assert all(isinstance(f, list) for f in found)
    assert seconds >= 0.3


def test_a_corrupted_payload_passes_the_channel() -> None:
    """Integrity on the way is TLS's; what a party chooses to send is the protocol's business."""
    found, _ = run("corrupt")
    assert found[0] == [b"\x01" * 8, b"\x02" * 8] * 2 + [b"\x00" + b"\x01" * 7, b"\x02" * 8, b"\x01" * 8, b"\x02" * 8]


@pytest.mark.parametrize("fault", ["drop", "relabel", "shorten", "repeat"])
def test_a_wrong_frame_ends_the_session_everywhere(fault: Fault) -> None:
    found, seconds = run(fault)
    assert isinstance(found[0], Desynchronised)
    assert found[0].who == "bob"
    for error in found[1:]:
        assert isinstance(error, PeerLost)
        assert error.who == "bob"
    assert seconds < 5


def test_severed_links_name_the_party() -> None:
    found, seconds = run("sever")
    assert [e.who for e in found if isinstance(e, PeerLost)] == ["bob"] * 3
    assert seconds < 3


@pytest.mark.parametrize("seed", range(12))
def test_whatever_goes_wrong_all_end_soon_and_name_one_party(seed: int) -> None:
    """Any fault, at any party, among two to five parties.

    Not in the last two steps: whoever has all its frames by then has ended, and rightly believes its part is done.
    """
    draw = np.random.default_rng(seed)
    count, step = int(draw.integers(2, 6)), int(draw.integers(4))
    culprit, rounds = int(draw.integers(count)), step + 3
    fault = FAULTS[seed % len(FAULTS)]
    names = [f"party{rank}" for rank in range(count)]
    channels = memory_network(names, 2.0)
    tasks = [
        lambda c=c: exchange(FaultyChannel(c, {step: fault} if c.rank == culprit else {}), rounds) for c in channels
    ]
    begin = time.monotonic()
    found = together(*tasks)
    assert time.monotonic() - begin < 8
    errors = [e for e in found if isinstance(e, EnclaveError)]
    assert len(errors) == count
    assert {e.who for e in errors if isinstance(e, PeerLost | Desynchronised)} == {names[culprit]}

"""A shaped channel against arithmetic: never faster than the profile, and hardly slower."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from enclave.channel import Channel
from enclave.channel.memory import memory_network
from enclave.channel.shaped import shape
from enclave.errors import BadData, Desynchronised, PeerLost
from tests.enclave.channel.contract import NAMES, together

# What a busy machine may add to a measured time: only ever more, never less.
SLACK_S = 0.25


def pair(latency_s: float, bandwidth_bps: float) -> tuple[Channel, ...]:
    return tuple(shape(c, latency_s, bandwidth_bps) for c in memory_network(("ada", "bob"), 5.0))


@pytest.fixture
def wan() -> Iterator[tuple[Channel, ...]]:
    made = pair(0.05, 100e6)
    yield made
    together(*(lambda c=c: c.close(BadData("the test is over")) for c in made))


def seconds(task: Callable[[], object]) -> float:
    begin = time.monotonic()
    task()
    return time.monotonic() - begin


def ping_pong(a: Channel, b: Channel, rounds: int, size: int) -> None:
    def play(me: Channel) -> None:
        peer = 1 - me.rank
        for step in range(rounds):
            if me.rank == 0:
                me.send(peer, step, "ping", [bytes(size)])
            me.receive(peer, step, "ping", size)
            if me.rank == 1:
                me.send(peer, step, "ping", [bytes(size)])

    together(lambda: play(a), lambda: play(b))


def test_a_round_trip_takes_two_latencies(wan: tuple[Channel, ...]) -> None:
    a, b = wan
    found = seconds(lambda: ping_pong(a, b, 4, 64))
    assert 4 * 2 * 0.05 <= found < 4 * 2 * 0.05 + SLACK_S


def test_both_directions_at_once_cost_one_latency_a_round(wan: tuple[Channel, ...]) -> None:
    def play(me: Channel) -> None:
        for step in range(4):
            me.send(1 - me.rank, step, "open", [bytes(8)])
            me.receive(1 - me.rank, step, "open", 8)

    found = seconds(lambda: together(*(lambda c=c: play(c) for c in wan)))
    assert 4 * 0.05 <= found < 4 * 0.05 + SLACK_S


def test_bytes_take_their_time_on_the_wire(wan: tuple[Channel, ...]) -> None:
    a, b = wan
    size = 5_000_000  # 0.4 s at 100 Mbit/s

    def send() -> float:
        return seconds(lambda: a.send(1, 0, "x", [bytes(size)]))

    begin = time.monotonic()
    sending, _ = together(send, lambda: b.receive(0, 0, "x", size))
    found = time.monotonic() - begin
    assert isinstance(sending, float)
    assert sending < 0.2, "the sender does not wait for its own bytes"
    assert 0.45 <= found < 0.45 + SLACK_S


def test_frames_queue_up_behind_each_other_and_pay_the_latency_once(wan: tuple[Channel, ...]) -> None:
    a, b = wan
    arrivals = []
    begin = time.monotonic()
    for step in range(5):
        a.send(1, step, "x", [step.to_bytes(1, "little") * 1_250_000])  # 0.1 s each
    for step in range(5):
        assert b.receive(0, step, "x", 1_250_000)[-1] == step
        arrivals.append(time.monotonic() - begin)
    for step, arrival in enumerate(arrivals):
        assert 0.05 + 0.1 * (step + 1) <= arrival < 0.05 + 0.1 * (step + 1) + SLACK_S


def test_a_sender_waits_beyond_its_buffer() -> None:
    a, b = pair(0.0, 400e6)  # 50 MB/s

    def send() -> float:
        return seconds(lambda: [a.send(1, step, "x", [bytes(1 << 22)]) for step in range(10)])

    found, _ = together(send, lambda: [b.receive(0, step, "x", 1 << 22) for step in range(10)])
    assert isinstance(found, float)
    # Ten frames of 84 ms: the last is taken when five are gone, none of them before its turn.
    assert 4 * 0.08 <= found < 0.9


def test_an_empty_profile_is_the_channel_itself() -> None:
    (a, _) = memory_network(("ada", "bob"))
    assert shape(a, 0.0, float("inf")) is a
    for profile in ((-1.0, 1e6), (0.0, 0.0), (0.0, -1.0), (0.0, float("nan"))):
        with pytest.raises(ValueError, match="bandwidth"):
            shape(a, *profile)


def test_counts_what_its_user_sent(wan: tuple[Channel, ...]) -> None:
    a, b = wan
    a.send(1, 0, "x", [bytes(100), memoryview(bytes(24))])
    a.send(1, 1, "x", [])
    assert (a.stats()[0].sent_bytes, a.stats()[0].sent_frames) == (124, 2)
    b.receive(0, 0, "x", 124)
    b.receive(0, 1, "x", 0)
    assert (b.stats()[0].received_bytes, b.stats()[0].received_frames) == (124, 2)
    assert (b.rank, b.names) == (1, ("ada", "bob"))


def test_an_orderly_end_delivers_what_is_held_back() -> None:
    a, b = pair(0.2, 1e9)
    a.send(1, 0, "x", [b"last"])

    def consume() -> bytes:
        last = bytes(b.receive(0, 0, "x", 4))
        b.close()
        return last

    assert together(a.close, consume) == [None, b"last"]


def test_an_error_overtakes_what_is_held_back() -> None:
    channels = tuple(shape(c, 3.0, 1e9) for c in memory_network(NAMES, 10.0))
    channels[0].send(1, 0, "x", [bytes(8)])
    begin = time.monotonic()
    found = together(
        lambda: channels[0].close(BadData("no")),
        lambda: channels[1].receive(0, 0, "x", 8),
        lambda: channels[2].receive(1, 0, "x", 8),
    )
    assert [e.who for e in found if isinstance(e, PeerLost)] == ["ada", "ada"]
    assert time.monotonic() - begin < 3
    with pytest.raises(PeerLost):
        for step in range(100):
            channels[1].send(2, step, "y", [])
            time.sleep(0.05)


def test_one_end_alone_is_noticed() -> None:
    a, b = memory_network(("ada", "bob"), 5.0)
    shape(a, 0.001, 1e9).send(1, 0, "x", [bytes(8)])
    with pytest.raises(Desynchronised, match="of 16 bytes"):
        b.receive(0, 0, "x", 8)

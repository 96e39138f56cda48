"""One end of a stream on its own: windows, order and bounds, without a transport."""

from __future__ import annotations

import tracemalloc
from queue import Empty

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.channel import frames
from enclave.channel.link import Failure, Link, Outbox
from enclave.errors import Desynchronised


def drain(outbox: Outbox) -> list[int]:
    return [frames.parse(m).kind for m in iter(outbox.poll, None)]


def test_control_overtakes_data_and_the_end_does_not() -> None:
    outbox = Outbox()
    outbox.put(frames.messages(0, "x", [b"data"], 4), 0)
    outbox.end(frames.control(frames.END))
    outbox.control(frames.control(frames.WAITING))
    assert drain(outbox) == [frames.WAITING, frames.FRAME, frames.END]


def test_data_waits_for_the_window_and_control_does_not() -> None:
    outbox = Outbox(window_bytes=1500)
    for step in range(3):
        assert outbox.put(frames.messages(step, "x", [bytes(700)], 700), 0)
    assert drain(outbox) == [frames.FRAME]
    outbox.control(frames.control(frames.ACK))
    assert drain(outbox) == [frames.ACK]
    assert outbox.grant(988)
    assert drain(outbox) == [frames.FRAME]
    assert not outbox.grant(5000)


def test_a_put_that_finds_no_space_gives_up_in_time() -> None:
    outbox = Outbox(window_bytes=1000)
    assert outbox.put([bytes(900), bytes(900)], 0)
    assert not outbox.put([bytes(1)], 0.05)


def test_the_last_word_replaces_what_is_queued() -> None:
    outbox = Outbox()
    outbox.put(frames.messages(0, "x", [b"data"], 4), 0)
    outbox.finish(last=frames.control(frames.ABORT))
    outbox.control(frames.control(frames.ACK))
    outbox.put(frames.messages(1, "x", [b"data"], 4), 0)
    assert drain(outbox) == [frames.ABORT]
    assert outbox.finished
    assert outbox.next() is None


def failures(link: Link) -> list[Failure]:
    found: list[Failure] = []
    link.attach(found.append)
    return found


def test_a_flood_of_empty_frames_is_bounded() -> None:
    link = Link(1, "bob", window_bytes=100_000)
    found = failures(link)
    head = frames.frame_head(0, "x", 0)
    for _ in range(1000):
        link.deliver(head)
    assert len(found) == 1
    assert isinstance(found[0].error, Desynchronised)
    taken = 0
    with pytest.raises(Empty):
        while True:
            link.take(0)
            taken += 1
    assert 200 < taken < 100_000 // 256 + 2


def test_a_frame_in_a_large_batch_keeps_no_more_than_itself() -> None:
    link = Link(1, "bob")
    found = failures(link)
    filler = [frames.control(frames.CREDIT)] * 10_000
    tracemalloc.start()
    try:
        for step in range(20):
            link.deliver(frames.batch([frames.frame_head(step, "x", 0), *filler]))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not found
    assert kept < 20 * 2 * 256 + 20_000


def test_answers_to_repeated_ends_and_aborts_are_bounded() -> None:
    for kind in (frames.END, frames.ABORT):
        link = Link(1, "bob")
        for _ in range(1000):
            link.deliver(frames.control(kind))
        assert drain(link.outbox) == [frames.ACK]


def test_nothing_comes_after_the_end() -> None:
    link = Link(1, "bob")
    found = failures(link)
    link.deliver(frames.control(frames.END))
    assert link.settled.is_set()
    link.deliver(frames.frame_head(0, "x", 0))
    assert str(found[0].as_error(("ada", "bob"), 3)) == (
        "unexpected frame from bob: expected nothing after the end, found a frame"
    )


def test_a_stream_that_ends_early_is_a_failure_and_after_the_end_is_not() -> None:
    early, late = Link(1, "bob"), Link(1, "bob")
    early.closed("its connection broke")
    assert str(failures(early)[0].as_error(("ada", "bob"), 3)) == "lost bob at step 3: its connection broke"
    late.deliver(frames.control(frames.END))
    late.closed("its connection broke")
    assert not failures(late)


@given(st.lists(st.binary(max_size=80), max_size=30))
def test_no_bytes_raise_or_grow_without_bound(messages: list[bytes]) -> None:
    link = Link(1, "bob", window_bytes=4000)
    for message in messages:
        link.deliver(message)
        link.deliver(b"EN\x02" + message)
    assert len(drain(link.outbox)) <= 2


@given(
    step=st.integers(0, 2**63 - 1),
    label=st.text(max_size=16),
    parts=st.lists(st.binary(max_size=300), max_size=8),
)
def test_frames_come_apart_as_they_were_put_together(step: int, label: str, parts: list[bytes]) -> None:
    data = b"".join(parts)
    (message,) = frames.messages(step, label, list(parts), len(data))
    head = frames.parse(message)
    assert (head.kind, head.step, head.value) == (frames.FRAME, step, len(data))
    assert head.label == "".join(c if c.isprintable() else "?" for c in label)
    size = len(frames.frame_head(step, label, len(data)))
    assert size % 16 == 0
    assert message[size:] == data


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=6))
def test_every_message_of_a_long_frame_has_its_length(sizes: list[int]) -> None:
    total = sum(sizes)
    found = frames.messages(1, "x", [bytes(size) for size in sizes], total)
    head = len(frames.frame_head(1, "x", total))
    payloads = [len(found[0]) - head, *(len(m) - frames.HEAD_BYTES for m in found[1:])]
    assert sum(payloads) == total
    assert all(size == frames.CHUNK_BYTES for size in payloads[:-1])
    assert all(len(m) <= frames.MAX_MESSAGE_BYTES for m in found)
    lefts = [frames.parse(m).value for m in found]
    assert lefts == [total - n * frames.CHUNK_BYTES for n in range(len(found))]


def test_the_format_is_fixed() -> None:
    """Golden bytes: parties of different versions must agree on them, or the version byte must change."""
    assert frames.frame_head(258, "open", 772).hex() == (
        "454e0203" + "04000000" + "0201000000000000" + "0403000000000000" + b"open".hex() + "00" * 4
    )
    assert frames.control(frames.HELLO, 1, 2, "job").hex() == (
        "454e0201" + "00000000" + "0100000000000000" + "0200000000000000" + b"job".hex()
    )


@pytest.mark.parametrize("text", ["", "EN", "EN\x02\x63" + "\0" * 20, "EN\x01\x03" + "\0" * 20])
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="message"):
        frames.parse(text.encode("latin-1"))


def test_a_peer_cannot_write_lines_into_a_log() -> None:
    link = Link(1, "bob")
    link.deliver(frames.control(frames.ABORT, 3, 1, "gone\n2026-01-01 admitted eve\x1b[2J"))
    (failure,) = failures(link)
    assert str(failure.as_error(("ada", "bob"), 3)) == "lost bob at step 3: gone?2026-01-01 admitted eve?[2J"


def test_short_messages_that_wait_travel_together() -> None:
    """Known answer: one message for a hundred frames, and a long frame travels alone."""
    outbox, link = Outbox(), Link(1, "bob")
    sent = [frames.messages(step, "x", [bytes([step]) * step], step)[0] for step in range(100)]
    long = frames.messages(100, "x", [bytes(frames.BATCH_BYTES)], frames.BATCH_BYTES)[0]
    assert outbox.put([*sent, long], 0)
    whole = outbox.next()
    assert whole is not None
    assert frames.parse(whole).kind == frames.BATCH
    assert outbox.next() == long
    link.deliver(whole)
    found = [link.take(0) for _ in sent]
    assert [bytes(m) for m in found if m is not None] == sent
    assert not failures(link)
    # Safety of numpy's views: every payload begins at a multiple of 8 bytes.
    offsets = [np.frombuffer(m, np.uint8).ctypes.data % 8 for m in found if m is not None]
    assert offsets == [0] * 100


def test_a_batch_is_bounded_by_bytes_and_by_the_window() -> None:
    outbox = Outbox(window_bytes=5000)
    assert outbox.put([bytes(1000)] * 3 + [bytes(1500)] * 3, 0)
    whole = outbox.next()
    assert whole is not None
    assert len(list(frames.unbatch(whole))) == 3  # each costs 256 bytes more than its length
    big = Outbox()
    assert big.put([bytes(10_000)] * 20, 0)
    first = big.next()
    assert first is not None
    assert frames.BATCH_BYTES - 10_000 < len(first) < frames.BATCH_BYTES


@pytest.mark.parametrize(
    "body",
    [
        b"\x01",
        bytes(8),
        (24).to_bytes(8, "little") + bytes(23),
        (1 << 63).to_bytes(8, "little") + bytes(24),
        (24).to_bytes(8, "little") + frames.control(frames.BATCH),
        (24).to_bytes(8, "little") + frames.control(99),
    ],
)
def test_a_batch_that_lies_ends_the_session(body: bytes) -> None:
    link = Link(1, "bob")
    link.deliver(frames.control(frames.BATCH) + body)
    (failure,) = failures(link)
    assert isinstance(failure.error, Desynchronised)


@given(st.lists(st.binary(min_size=frames.HEAD_BYTES, max_size=200), max_size=20))
def test_batches_come_apart_as_they_were_put_together(messages: list[bytes]) -> None:
    sound = [m for m in messages if m[3] != frames.BATCH]
    assert [bytes(m) for m in frames.unbatch(frames.batch(sound))] == sound

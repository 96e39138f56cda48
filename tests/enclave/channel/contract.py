"""What every `Channel` must do, whatever carries it. Subclasses give `network`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from enclave.channel.frames import CHUNK_BYTES
from enclave.channel.linked import LinkedChannel
from enclave.errors import BadData, Desynchronised, EnclaveError, PeerLost

NAMES = ("ada", "bob", "cyd")
Channels = tuple[LinkedChannel, ...]


def together(*tasks: Callable[[], object]) -> list[object]:
    """Runs the tasks at once; returns what each returned, or the exception it raised."""

    def run(task: Callable[[], object]) -> object:
        try:
            return task()
        except EnclaveError as error:
            return error

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


def payload(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


class ChannelContract:
    """Three ranks. `network(deadline_s)` gives connected channels, closed after the test."""

    @pytest.fixture
    def network(self) -> Iterator[Callable[[float], Channels]]:
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 15, 4096, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 20_000_001])
    def test_delivers_every_size(self, network: Callable[[float], Channels], size: int) -> None:
        a, b, _ = network(10)
        data = payload(size)
        third = size // 3
        parts = [data[:third], memoryview(data)[third:]]
        _, found = together(lambda: a.send(1, 7, "x", parts), lambda: bytes(b.receive(0, 7, "x", size)))
        assert found == data

    def test_takes_arrays_of_any_type_and_shape(self, network: Callable[[float], Channels]) -> None:
        a, b, _ = network(10)
        words = np.arange(24, dtype=np.uint64).reshape(2, 3, 4)
        big = np.arange(600_000, dtype=np.uint64).reshape(2, -1)
        none = np.zeros((0, 3))
        a.send(1, 0, "small", [words.data, none.data, b"tail"])
        a.send(1, 1, "big", [words.data, none.data, big.data])
        small = b.receive(0, 0, "small", words.nbytes + 4)
        assert bytes(small) == words.tobytes() + b"tail"
        assert np.frombuffer(small[:192], np.uint64).flags.aligned
        assert bytes(b.receive(0, 1, "big", words.nbytes + big.nbytes)) == words.tobytes() + big.tobytes()

    def test_sender_may_reuse_its_buffer(self, network: Callable[[float], Channels]) -> None:
        a, _, c = network(10)
        for size in (8, 3 * CHUNK_BYTES):
            buffer = bytearray(b"\x01" * size)
            a.send(2, size, "x", [memoryview(buffer)])
            buffer[:] = b"\x02" * size
            assert bytes(c.receive(0, size, "x", size)) == b"\x01" * size

    def test_frames_keep_their_order(self, network: Callable[[float], Channels]) -> None:
        a, b, _ = network(10)

        def send() -> None:
            for step in range(300):
                a.send(1, step, "x", [step.to_bytes(4, "little") * (step + 1)])

        def receive() -> list[int]:
            return [int.from_bytes(b.receive(0, s, "x", 4 * s + 4)[:4], "little") for s in range(300)]

        assert together(send, receive)[1] == list(range(300))

    def test_all_pairs_exchange_at_once(self, network: Callable[[float], Channels]) -> None:
        channels = network(10)
        size = 9 * CHUNK_BYTES  # more than a window each way: nobody may wait for the other to read first

        def run(me: LinkedChannel) -> bool:
            peers = [r for r in range(3) if r != me.rank]
            for step in range(2):
                for peer in peers:
                    me.send(peer, step, "open", [payload(size, me.rank)])
                if not all(bytes(me.receive(p, step, "open", size)) == payload(size, p) for p in peers):
                    return False
            return True

        assert together(*(lambda c=c: run(c) for c in channels)) == [True] * 3

    @pytest.mark.parametrize(("step", "label", "size"), [(4, "x", 8), (3, "y", 8), (3, "x", 9), (3, "x", 0)])
    def test_another_frame_is_refused(
        self, network: Callable[[float], Channels], step: int, label: str, size: int
    ) -> None:
        a, b, _ = network(10)
        a.send(1, 3, "x", [bytes(8)])
        with pytest.raises(Desynchronised) as caught:
            b.receive(0, step, label, size)
        assert caught.value.found == "step 3 'x' of 8 bytes"
        assert caught.value.expected == f"step {step} {label!r} of {size} bytes"
        assert caught.value.who == "ada"
        with pytest.raises(Desynchronised):
            b.send(2, 0, "z", [])

    def test_long_label_is_a_mistake_of_the_caller(self, network: Callable[[float], Channels]) -> None:
        a, _, _ = network(10)
        with pytest.raises(ValueError, match="64"):
            a.send(1, 0, "x" * 65, [])

    def test_counts_payload(self, network: Callable[[float], Channels]) -> None:
        a, b, _ = network(10)
        a.send(1, 0, "x", [bytes(100)])
        a.send(1, 1, "x", [bytes(CHUNK_BYTES + 5)])
        b.receive(0, 0, "x", 100)
        b.receive(0, 1, "x", CHUNK_BYTES + 5)
        sent, received = a.stats()[0], b.stats()[0]
        assert (sent.peer, sent.rank, sent.sent_bytes, sent.sent_frames) == ("bob", 1, CHUNK_BYTES + 105, 2)
        assert (received.peer, received.received_bytes, received.received_frames) == ("ada", CHUNK_BYTES + 105, 2)
        assert [s.peer for s in b.stats()] == ["ada", "cyd"]
        assert a.stats()[1].sent_bytes == 0

    def test_a_silent_peer_is_lost_at_the_deadline(self, network: Callable[[float], Channels]) -> None:
        a, _, _ = network(0.4)
        begin = time.monotonic()
        with pytest.raises(PeerLost, match=r"no 'x' within 0\.4 s") as caught:
            a.receive(1, 12, "x", 8)
        assert (caught.value.who, caught.value.step) == ("bob", 12)
        assert 0.3 < time.monotonic() - begin < 3

    def test_the_one_that_waits_is_not_blamed(self, network: Callable[[float], Channels]) -> None:
        a, b, c = network(2.0)

        def wait(me: LinkedChannel, peer: int) -> object:
            try:
                return bytes(me.receive(peer, 5, "x", 8))
            except PeerLost as error:
                me.close(error)
                raise

        def slow() -> object:
            time.sleep(0.2)
            return wait(b, 2)

        found = together(lambda: wait(a, 1), slow)
        assert [type(e) for e in found] == [PeerLost, PeerLost]
        assert [e.who for e in found if isinstance(e, PeerLost)] == ["cyd", "cyd"]
        with pytest.raises(PeerLost) as caught:
            c.receive(0, 5, "x", 8)
        assert caught.value.who == "cyd"

    def test_a_circle_of_waits_has_one_name(self, network: Callable[[float], Channels]) -> None:
        channels = network(2.0)

        def wait(me: LinkedChannel) -> None:
            me.receive((me.rank + 1) % 3, 1, "x", 8)

        found = together(*(lambda c=c: wait(c) for c in channels))
        assert [e.who for e in found if isinstance(e, PeerLost)] == ["ada"] * 3
        assert any("circle" in str(e) for e in found)

    def test_an_error_reaches_everybody(self, network: Callable[[float], Channels]) -> None:
        a, b, c = network(10)
        error = BadData("column age holds text")
        begin = time.monotonic()
        found = together(lambda: a.receive(1, 9, "x", 8), lambda: c.receive(1, 9, "x", 8), lambda: b.close(error))
        assert time.monotonic() - begin < 5
        for e in found[:2]:
            assert isinstance(e, PeerLost)
            assert (e.who, str(e)) == ("bob", "lost bob at step 0: column age holds text")

    def test_an_abort_names_the_culprit_not_the_messenger(self, network: Callable[[float], Channels]) -> None:
        a, b, c = network(10)
        error = PeerLost("cyd", 4, why="no 'x' within 1 s")
        found = together(lambda: a.receive(1, 3, "x", 8), lambda: c.receive(1, 3, "x", 8), lambda: b.close(error))
        for e in found[:2]:
            assert isinstance(e, PeerLost)
            assert (e.who, e.step) == ("cyd", 4)
            assert str(e) == "lost cyd at step 4: no 'x' within 1 s, says bob"

    def test_an_abort_overtakes_a_full_inbox(self, network: Callable[[float], Channels]) -> None:
        a, _, c = network(10)
        for step in range(12):
            c.send(0, step, "tape", [bytes(CHUNK_BYTES)])
        time.sleep(0.3)
        c.close(BadData("no"))
        with pytest.raises(PeerLost) as caught:
            a.receive(1, 0, "x", 8)
        assert caught.value.who == "cyd"

    def test_a_sender_is_held_back_and_then_goes_on(self, network: Callable[[float], Channels]) -> None:
        a, _, c = network(10)
        sent: list[int] = []

        def deal() -> None:
            for step in range(40):
                c.send(0, step, "tape", [bytes(CHUNK_BYTES)])
                sent.append(step)

        def consume() -> int:
            time.sleep(0.7)
            ahead = len(sent)
            for step in range(40):
                a.receive(2, step, "tape", CHUNK_BYTES)
            return ahead

        _, ahead = together(deal, consume)
        assert isinstance(ahead, int)
        assert ahead <= 20
        assert len(sent) == 40

    def test_a_held_back_sender_hears_of_a_failure(self, network: Callable[[float], Channels]) -> None:
        _, b, c = network(10)

        def deal() -> None:
            for step in range(40):
                c.send(0, step, "tape", [bytes(CHUNK_BYTES)])

        def fail() -> None:
            time.sleep(0.5)
            b.close(BadData("no"))

        begin = time.monotonic()
        found = together(deal, fail)
        assert isinstance(found[0], PeerLost)
        assert found[0].who == "bob"
        assert time.monotonic() - begin < 5

    def test_an_orderly_end_delivers_everything(self, network: Callable[[float], Channels]) -> None:
        a, b, c = network(10)
        size = 30 * CHUNK_BYTES

        def deal() -> None:
            c.send(0, 0, "tape", [bytes(size)])
            c.close()

        def consume() -> int:
            time.sleep(0.5)
            return len(a.receive(2, 0, "tape", size))

        found = together(deal, consume)
        assert found == [None, size]
        a.send(1, 0, "x", [b"go"])
        assert bytes(b.receive(0, 0, "x", 2)) == b"go"
        assert together(a.close, b.close) == [None, None]

    def test_a_frame_that_the_end_precludes(self, network: Callable[[float], Channels]) -> None:
        a, b, c = network(10)
        closing = threading.Thread(target=c.close)
        closing.start()
        with pytest.raises(Desynchronised, match="the end of the session") as caught:
            a.receive(2, 0, "x", 8)
        assert caught.value.who == "cyd"
        a.close(caught.value)
        with pytest.raises(PeerLost):
            b.receive(0, 0, "x", 8)
        b.close()
        closing.join(10)
        assert not closing.is_alive()

    def test_a_severed_peer_is_lost_at_once(self, network: Callable[[float], Channels]) -> None:
        a, b, c = network(10)
        begin = time.monotonic()
        found = together(lambda: a.receive(1, 2, "x", 8), lambda: b.receive(2, 2, "x", 8), c.sever)
        assert [e.who for e in found[:2] if isinstance(e, PeerLost)] == ["cyd"] * 2
        assert time.monotonic() - begin < 5

    def test_nothing_works_after_the_end(self, network: Callable[[float], Channels]) -> None:
        channels = network(10)
        together(*(c.close for c in channels))
        for call in (lambda: channels[0].send(1, 0, "x", []), lambda: channels[0].receive(1, 0, "x", 0)):
            with pytest.raises(EnclaveError, match="closed"):
                call()
        channels[0].close()
        channels[0].close(BadData("too late"))


def close_all(channels: Sequence[LinkedChannel]) -> None:
    together(*(lambda c=c: c.close(EnclaveError("the test is over")) for c in channels))

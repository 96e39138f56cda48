"""What is opened tells nothing, and would tell if a mask were dropped, shortened or used twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from enclave.engines.interface import Permit
from enclave.engines.mpc import ranks
from enclave.engines.mpc.engine import MpcEngine
from enclave.engines.mpc.kernels import AesKey
from enclave.engines.mpc.random import KeyStream, derive_key, fresh_key
from enclave.engines.mpc.ranks import PartySession
from enclave.engines.mpc.recorder import Recorder
from enclave.errors import EnclaveError, PlanMismatch, PolicyRefused, Untrusted

N = 312 * 64


def _program(e):
    """Constant inputs: any structure that shows in an opening comes from a mask."""
    x = e.private(np.ones(N) if e.rank == 0 else None, (N,), 0)
    w = e.private(np.ones(N) if e.rank == 1 else None, (N,), 1)
    e.sigmoid(e.relu(e.mul(x, w)))
    rows = e.reshape(x, (N, 1))
    z, gate = e.relu_with_gate(e.matmul(rows, e.rows(w, 0, 1).reshaped((1, 1)), lazy=True))
    e.gated(gate, z)
    e.softmax(e.reshape(z, (N // 4, 4)))


def _uniform(words):
    """Largest deviation, in standard deviations, of any byte position's chi-square from its mean."""
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)
    worst = 0.0
    for column in octets.T:
        counts = np.bincount(column, minlength=256)
        expected = len(column) / 256
        chi = ((counts - expected) ** 2 / expected).sum()
        worst = max(worst, abs(chi - 255) / np.sqrt(2 * 255))
    return worst


def _full_words(opened):
    """What was opened, cut to one length; bits, which are packed, have none to spare for N a multiple of 64."""
    return [words[: N // 8] for _, words in opened if len(words) >= N // 8]


def test_everything_opened_is_uniform_and_fresh(run):
    first, second = (_full_words(run(2, _program).opened) for _ in range(2))
    assert len(first) >= 20
    for words in first:
        assert _uniform(words) < 6
    for k, words in enumerate(first):
        for other in (*first[k + 1 :], second[k]):
            assert _uniform(words - other) < 6  # two openings under one mask would differ by the values alone


def test_the_check_sees_a_mask_that_was_dropped(run, monkeypatch):
    monkeypatch.setattr(KeyStream, "words", lambda self, stream, count, offset=0: np.zeros(count, np.uint64))
    assert max(_uniform(words) for words in _full_words(run(2, _program).opened)) > 100


def test_the_check_sees_a_mask_that_was_shortened(run, monkeypatch):
    original = KeyStream.words

    def short(self, stream, count, offset=0):
        return original(self, stream, count, offset) >> np.uint64(1)

    monkeypatch.setattr(KeyStream, "words", short)
    assert max(_uniform(words) for words in _full_words(run(2, _program).opened)) > 20


def test_the_check_sees_a_mask_that_was_used_twice(run, monkeypatch):
    original = AesKey.ctr
    monkeypatch.setattr(AesKey, "ctr", lambda self, stream, *rest: original(self, 1, *rest))
    opened = _full_words(run(2, _program).opened)
    assert max(_uniform(a - b) for a, b in itertools.pairwise(opened)) > 20


def test_streams_are_random_access_and_distinct():
    stream = KeyStream(fresh_key())
    whole = stream.words(3, 1001)
    for offset, count in ((0, 1001), (1, 10), (500, 501), (999, 2), (7, 0)):
        assert np.array_equal(stream.words(3, count, offset), whole[offset : offset + count])
    assert not np.array_equal(stream.words(4, 1001), whole)
    assert not np.array_equal(KeyStream(fresh_key()).words(3, 1001), whole)
    assert len({stream.words(s, 1)[0] for s in range(500)}) == 500


def test_a_stream_is_aes_ctr():
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(16))
    counter = (5).to_bytes(8, "big") + bytes(8)
    expected = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(80))
    assert KeyStream(key).words(5, 10).tobytes() == expected
    assert "redacted" in repr(KeyStream(key))
    with pytest.raises(ValueError, match="16 bytes"):
        KeyStream(b"short")


def test_a_release_needs_its_permit(run):
    def program(e):
        return e.open("auc", e.zeros((1,)), 0, Permit("job", ["accuracy"]))

    with pytest.raises(PolicyRefused, match="auc"):
        program(MpcEngine(Recorder(2), 20))


def test_a_release_shows_the_receiver_the_sum_alone(run, monkeypatch):
    """With three parties the receiver gets two shares; only their sum may depend on the secret.

    The attack: rank 1's own input is its whole share when inputs are not re-shared. It reads it on stock-like
    sharing (zero shares off) and sees noise here.
    """
    secret = np.full(1000, 42, np.int64)
    received = []
    original = PartySession._exchange

    def spy(self, items):
        if self.rank == 0 and items[0].label.startswith("release"):
            channel_receive = self.channel.receive

            def receive(frm, *args):
                data = channel_receive(frm, *args)
                received.append((frm, np.frombuffer(data, np.int64).copy()))
                return data

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self.channel, "receive", receive)
                return original(self, items)
        return original(self, items)

    monkeypatch.setattr(PartySession, "_exchange", spy)

    def program(e):
        a = e.private(secret if e.rank == 1 else None, (1000,), 1, integer=True)
        b = e.private(secret if e.rank == 2 else None, (1000,), 2, integer=True)
        return e.open("sum", e.add(a, b), 0, Permit("job", ["sum"]))

    assert np.array_equal(run(3, program).results[0], 2 * secret)
    assert not any(np.array_equal(words, secret) for _, words in received)
    assert all(len(set(words.tolist())) == 1000 for _, words in received)

    received.clear()
    monkeypatch.setattr(PartySession, "zero_share", lambda self, stream, shape: np.zeros(shape, np.uint64))
    run(3, program)
    assert any(np.array_equal(words, secret) for _, words in received)


def test_shares_and_keys_do_not_print():
    engine = MpcEngine(Recorder(2), 20)
    assert "redacted" in repr(engine.zeros((3,)))


def test_different_plans_are_refused_before_anything_moves(run, monkeypatch):
    calls = iter(range(100))

    class Other(Recorder):
        @property
        def digest(self):
            return super().digest

    def program(e):
        length = 5 + (next(calls) % 2 if e.rank is not None else 0)
        e.relu(e.zeros((length,)))

    monkeypatch.setattr(
        ranks.Linked,
        "handshake",
        lambda self, plan, spec, original=ranks.Linked.handshake: original(self, bytes([self.channel.rank]) * 32, spec),
    )
    with pytest.raises(PlanMismatch, match="digests differ"):
        run(2, program)


def test_a_party_that_leaves_the_plan_is_stopped(run):
    def program(e):
        e.relu(e.zeros((64 if e.rank != 1 else 128,)))

    with pytest.raises(EnclaveError):
        run(2, program)


def test_parties_told_different_things_do_not_begin(run, monkeypatch):
    """Plans know sizes only; an equivocating buyer would show each party another specification of one shape."""
    monkeypatch.setattr(
        ranks.Linked,
        "handshake",
        lambda self, plan, spec, original=ranks.Linked.handshake: original(self, plan, bytes([self.channel.rank]) * 32),
    )
    with pytest.raises(Untrusted, match="another specification"):
        run(2, lambda e: e.relu(e.zeros((5,))))


def test_a_reflected_hello_is_refused(run, monkeypatch):
    monkeypatch.setattr(ranks, "fresh_key", lambda: bytes(16))
    with pytest.raises(EnclaveError, match="no key"):
        run(2, lambda e: e.relu(e.zeros((5,))))


def test_keys_depend_on_what_was_agreed():
    key = fresh_key()
    assert derive_key(key, b"a") != derive_key(key, b"b")
    assert derive_key(key, b"a") == derive_key(key, b"a")


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**43, -(2.0**60)])
def test_a_value_beyond_the_ring_is_refused_where_it_is_known(run, value):
    def program(e):
        x = np.array([1.0, value])
        e.mul(e.private(x if e.rank == 0 else None, (2,), 0), e.zeros((2,)))

    with pytest.raises(EnclaveError):
        run(2, program)

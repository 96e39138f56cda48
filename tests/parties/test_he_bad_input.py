"""A buyer that sends what it should not under engine he: refused by name, and the owner's node goes on serving.

The node is a process of its own; the buyer's half is bent here, in its own process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from enclave.channel.linked import LinkedChannel
from enclave.engines.he import engine as he_engine
from enclave.engines.he.engine import HeEngine, Keys
from enclave.engines.he.lattice.keys import SecretKey
from enclave.engines.he.lattice.ring import Ring, Words
from enclave.engines.he.lattice.sampling import Source
from enclave.engines.he.lattice.wire import pack
from enclave.engines.he.linear.packing import EncodedRows
from enclave.engines.he.linear.scoring import Scores, plan_scoring
from enclave.engines.he.linear.weights import _Sender
from enclave.engines.mpc.recorder import Recorder
from enclave.errors import BadInput, EnclaveError, RangeExceeded
from enclave.messages import Decision, JobSpec
from enclave.models import dense_architecture
from tests.enclave.engines.he.linear.test_scoring import BITS, Party, Rows, made
from tests.enclave.engines.he.network_models import dense
from tests.parties.fleet import Fleet, table

MUTATIONS = int(os.environ.get("ENCLAVE_MUTATIONS", "1500"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    found = Fleet(tmp_path_factory.mktemp("fleet"), engines=("he",), outputs=("predictions",))
    try:
        yield found.up("owner0")
    finally:
        found.down()


def spec_of(fleet: Fleet, **changes: Any) -> JobSpec:
    """Row predictions of two scores, without a dealer."""
    parties = (fleet.party("owner0"), fleet.party("buyer"))
    return fleet.spec(**{"engine": "he", "outputs": ("predictions",), "parties": parties, **changes})


def proposed(fleet: Fleet, spec: JobSpec) -> Decision:
    with fleet.client("owner0") as client:
        return client.propose(fleet.sign(spec))


def attempt(fleet: Fleet, spec: JobSpec | None = None) -> Any:
    """A whole job of this process's buyer, as it is bent at the moment."""
    spec = spec or spec_of(fleet)
    with fleet.client("owner0") as client:
        assert client.propose(fleet.sign(spec)).state == "ADMITTED"
        return fleet.join(fleet.sign(spec), spec, [client])[1]


def served(fleet: Fleet) -> None:
    """An honest job right afterwards, with the right result."""
    x, _ = table(fleet.rows, 1)
    weights = list(fleet.model().weights.values())
    np.testing.assert_allclose(attempt(fleet).predictions, x @ weights[0] + weights[1], atol=1e-4)


def sending(monkeypatch: pytest.MonkeyPatch, label: str, change: Callable[[bytearray], bytes | bytearray]) -> None:
    """Changes every message of this process whose label holds `label`. The tests share a node: the last ones find it
    serving all the same."""
    send = LinkedChannel.send

    def bent(self: LinkedChannel, rank: int, step: int, name: str, parts: Sequence[Any]) -> None:
        if label in name:
            parts = [memoryview(change(bytearray(b"".join(bytes(part) for part in parts))))]
        send(self, rank, step, name, parts)

    monkeypatch.setattr(LinkedChannel, "send", bent)


def flipped(message: bytearray) -> bytearray:
    message[0] ^= 1  # the lowest bit of the first residue, modulo one prime of several: far away modulo all
    return message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda message: message[:-8], "expected step 1 .* of 353280 bytes"),
        (lambda message: message + bytes(8), "expected step 1 .* of 353280 bytes"),
        (lambda message: bytes(1 << 22), "expected step 1 .* of 353280 bytes"),
        (lambda message: b"\xff" * len(message), "expected residues below"),
    ],
    ids=["truncated", "a word more", "oversized", "residues that are none"],
)
def test_a_ciphertext_that_is_none_is_refused(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytearray], bytes], text: str
) -> None:
    with monkeypatch.context() as bent:
        sending(bent, "he:weights", change)
        with pytest.raises(EnclaveError, match=text):
            attempt(fleet)


def test_a_flipped_bit_is_noise_to_who_flipped_it(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any residues are a ciphertext of something: the owner answers as always, and the buyer finds noise."""
    told: list[str] = []
    close = LinkedChannel.close

    def heard(self: LinkedChannel, error: EnclaveError | None = None) -> None:
        told.append(repr(vars(error)) if error is not None else "")
        close(self, error)

    with monkeypatch.context() as bent:
        sending(bent, "he:weights", flipped)
        bent.setattr(LinkedChannel, "close", heard)
        with pytest.raises(RangeExceeded, match="released scores") as caught:
            attempt(fleet)
    # What the buyer decrypted stays with it: an owner that sends crafted answers would read weights from it.
    assert caught.value.bound > 1.0 and f"{caught.value.bound:.6g}" in str(caught.value)
    assert "released scores" in told[-1] and f"{caught.value.bound:.4g}" not in told[-1] and "bound" not in told[-1]


def test_a_key_of_another_job_opens_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buyer that keeps using the public key of an earlier job, or one of another buyer."""
    other = SecretKey(plan_of(fleet), Source.fresh(), 0)

    class Stale(Keys):
        __slots__ = ()

        def packed(self) -> Words:
            assert self.seed is not None
            stale = he_engine.PublicKey.generate(other, self.parameters.ring(), self.seed)
            return he_engine.pack(stale.b, self.parameters.primes)

    with monkeypatch.context() as bent:
        bent.setattr(he_engine, "Keys", Stale)
        with pytest.raises(RangeExceeded, match="released scores"):
            attempt(fleet)
    served(fleet)


def plan_of(fleet: Fleet) -> Any:
    """The ring of keys of `spec_of`'s only encryption."""
    from enclave.workloads.encrypted.evaluation import _Job

    return _Job.of(spec_of(fleet)).scoring().query.parameters.key_ring()


# ---- before anything runs
def test_what_cannot_be_computed_is_refused_by_name(fleet: Fleet) -> None:
    """Depth, precision, parameters and policy: each refusal names the layer, the range or the rule."""
    deep = dense([3, 4, 4, 4, 4, 4, 4, 2]).architecture
    cases = {
        "deep": ({"architecture": deep, "plan_digest": bytes(32)}, "layer .* too deep"),
        "relu": ({"architecture": dense_architecture(3, (4,), 2), "plan_digest": bytes(32)}, "layer act0.*relu"),
        "parameters": ({"frac_bits": 12, "plan_digest": bytes(32)}, "plan"),
        "policy": ({"outputs": ("confusion",)}, "confusion"),
    }
    for name, (changes, pattern) in cases.items():
        decision = proposed(fleet, spec_of(fleet, **changes))
        said = "; ".join(f"{reason.rule}: {reason.text}" for reason in decision.reasons)
        assert decision.state == "REFUSED" and re.search(pattern, said), (name, said)
    served(fleet)


# ---- in numbers
def mutated(words: Words, rng: np.random.Generator) -> Words:
    """One of many ways to spoil a message."""
    found, way = words.copy(), rng.integers(6)
    if way == 0:
        places = rng.integers(0, found.size, rng.integers(1, 40))
        found[places] ^= np.uint64(1) << rng.integers(0, 64, len(places), dtype=np.uint64)
    elif way == 1:
        return found[: rng.integers(0, found.size)]
    elif way == 2:
        return np.concatenate((found, found[: rng.integers(1, 64)]))
    elif way == 3:
        start = int(rng.integers(0, found.size))
        found[start : start + 64] = rng.choice(np.array([0, 2**64 - 1], np.uint64))
    elif way == 4:
        found[:] = rng.integers(0, 2**63, found.size, dtype=np.uint64) * np.uint64(2)
    else:
        first, second = (int(v) for v in rng.integers(0, found.size, 2))
        found[[first, second]] = found[[second, first]]
    return found


def test_mutated_ciphertexts_are_refused_or_computed_with(fleet: Fleet) -> None:
    """An owner's answer, a buyer's result, or a typed error, for each; ENCLAVE_MUTATIONS sets how many."""
    plan, rng = plan_scoring(3, 1, 10, BITS, 16.0), np.random.default_rng(0)
    x, w = made(10, 3)
    party = Party(plan, w)
    ring, query = party.ring, plan.query
    engine = HeEngine(Recorder(2, has_dealer=False))
    keys = Keys(query.parameters, party.seed, None, party.public)
    polynomials = EncodedRows(ring, plan.packing, Rows(x), BITS, plan.work.row_limit).block(0).polynomials
    sender, source = _Sender(engine, query, keys, 0), Source.fresh()
    weights, public = pack(party.b, ring.primes), party.weights.keys.packed()
    ((_, part),) = party.weights.parts()
    answer = party.answer.finish(party.public, source, party.weights.dot(polynomials, part)[0], 10)
    opened = Scores(plan, party.weights.keys, ((0, 10),), None, np.ones(1), lambda scores: scores)
    outcomes = {"refused": 0, "computed": 0}
    for number in range(MUTATIONS):
        try:
            if number % 3 == 0:
                fresh = Keys(query.parameters, party.seed)
                fresh.receive(mutated(public, rng))
                assert fresh.public is not None and (fresh.public.b < primes(ring)).all()
            elif number % 3 == 1:
                received = sender.received([mutated(weights, rng)])
                ((_, changed),) = received.parts()
                sums = received.dot(polynomials, changed)[0]
                assert len(party.answer.finish(party.public, source, sums, 10)) == len(answer)
            else:
                party.secret.allow(1)
                words = mutated(answer, rng)
                if words.shape == answer.shape:  # the channel has looked
                    assert np.isfinite(opened._opened(words, 10)).all()
            outcomes["computed"] += 1
        except (BadInput, RangeExceeded):
            outcomes["refused"] += 1
    assert min(outcomes.values()) > MUTATIONS // 10
    served(fleet)


def primes(ring: Ring) -> Words:
    return np.array(ring.primes, np.uint64)[:, None]

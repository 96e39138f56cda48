"""Exact truncated release: against Python integers, rounds and bytes, nothing before the gate, nothing of low bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from enclave.engines.he.decisions import truncation
from enclave.engines.he.decisions.truncation import truncated
from enclave.engines.interface import Permit
from enclave.errors import BadSpec, PolicyRefused


def _shares(values: list[int], bits: int, parties: int, seed: int = 0) -> list[np.ndarray]:
    """Words modulo 2^bits that add up to the values."""
    g = np.random.default_rng(seed)
    shares = [[int(v) % (1 << bits) for v in g.integers(0, 1 << 63, len(values))] for _ in range(parties - 1)]
    last = [(v - sum(column)) % (1 << bits) for v, *column in zip(values, *shares, strict=True)]
    return [np.array(share, np.uint64) for share in (*shares, last)]


def _edges(bits: int, shift: int) -> list[int]:
    top = (1 << bits - 2) - 1
    near = [0, 1, -1, top, -top, (1 << shift) - 1, 1 << shift, -(1 << shift), -(1 << shift) - 1, 1 - (1 << shift)]
    return [max(-top, min(top, v)) for v in near]


def _program(shares: list[np.ndarray], bits: int, shift: int) -> Any:
    def program(engine: Any) -> Any:
        count = len(shares[0])
        share = shares[engine.rank or 0]
        sealed = engine.run(truncated(engine, share, count, bits, shift))
        return engine.open("model", sealed, engine.buyer, Permit("job", ["model"]))

    return program


@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize(
    ("bits", "shift"), [(64, 24), (64, 12), (48, 1), (64, 2), (40, 20), (3, 1), (64, 62), (64, 5)], ids=str
)
def test_against_integers(run_he: Any, bits: int, shift: int, parties: int) -> None:
    g = np.random.default_rng(bits)
    top = (1 << bits - 2) - 1
    values = _edges(bits, shift) + [int(v) for v in g.integers(-top, top, 30, endpoint=True)]
    ran = run_he(parties, _program(_shares(values, bits, parties), bits, shift))
    assert ran.results[:-1] == [None] * (parties - 1)
    assert ran.results[-1].tolist() == [v >> shift for v in values]


def test_more_than_one_block(run_he: Any) -> None:
    values = list(range(-2500, 2500))
    ran = run_he(2, _program(_shares(values, 32, 2), 32, 3))
    assert ran.results[1].tolist() == [v >> 3 for v in values]


@pytest.mark.parametrize(("parties", "rounds"), [(2, 5), (3, 6)])
def test_rounds_and_bytes(run_he: Any, parties: int, rounds: int) -> None:
    ran = run_he(parties, _program(_shares(list(range(31)), 64, parties), 64, 24))
    assert ran.sessions[0].rounds == rounds
    steps = {item[0]: item[2] for _, record in ran.records for item in record[1:]}
    expected = {
        "he:public key": 51_200,
        "comparison:bits": 24 * 51_200,
        "comparison:forms": 21_504,
        "truncation:bits": 6 * 51_200,
        "release:model": 139_264,
    }
    assert steps == expected | ({"truncation:share": 31 * 8} if parties > 2 else {})


def test_nothing_leaves_before_the_permit(run_he: Any) -> None:
    shares = _shares([5, -7], 64, 2)

    def program(engine: Any) -> Any:
        sealed = engine.run(truncated(engine, shares[engine.rank or 0], 2, 64, 8))
        assert "share" not in repr(sealed)
        with pytest.raises(PolicyRefused):
            engine.open("model", sealed, engine.buyer, Permit("job", ["accuracy"]))
        return engine.session.rounds

    ran = run_he(2, program)
    assert ran.results == [4, 4]
    assert not any(label.startswith("release") for opened in ran.opened for label, _ in opened)


def test_the_answer_shows_no_carry(run_he: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The integer of the answer, with its mask, does not tell whether high part and carry went over the top."""
    seen: list[list[int]] = []
    joined = truncation._joined

    def spy(parts: Any, primes: Any) -> list[int]:
        seen.append(joined(parts, primes))
        return seen[-1]

    monkeypatch.setattr(truncation, "_joined", spy)
    count, bits, shift = 2000, 8, 2
    own = np.full(count, (1 << bits) - 1 - (1 << bits - 2), np.uint64)  # its high part is all ones
    words = np.full(count, 3, np.uint64)
    ran = run_he(2, _program([own, words], bits, shift))
    assert set(ran.results[1].tolist()) == {(int(own[0]) + 3 - 256) >> shift}
    masks = np.array([value >> bits - shift for value in seen[0]], np.uint64)
    # The carry moves a mask by one: that shows at the ends of its range alone, so over all elements with 2^-40.
    assert len(np.unique(masks)) == count and masks.max() > 1 << 50, "51 bits of mask above the carry"


@pytest.mark.parametrize(("bits", "shift"), [(65, 3), (2, 1), (16, 0), (16, 15)])
def test_what_cannot_be_truncated(run_he: Any, bits: int, shift: int) -> None:
    with pytest.raises(BadSpec):
        run_he(2, _program([np.zeros(2, np.uint64)] * 2, bits, shift))

"""All that functions open is uniform, bytes and single bits too; a mask that is left out shows in what it masked."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.engines.mpc.protocols import brackets, saturating, selection
from enclave.engines.mpc.protocols.brackets import Bracketed
from enclave.engines.mpc.protocols.exponential import Exponential, exponential
from enclave.engines.mpc.protocols.pairs import Pairs
from enclave.engines.mpc.protocols.saturating import Saturating
from enclave.engines.mpc.protocols.softmax import Softmax, softmax
from enclave.engines.mpc.ranks import PartySession

N = 4096
_ONE = 1 << 20


def _rows(e, x):
    return e.session.local(lambda a: a.reshape(-1, 4), (N // 4, 4), x)


PROTOCOLS = {
    "curve": (Saturating, lambda e, x: saturating.gelu(e.session, x, 20, 20)),
    "exponential": (Exponential, lambda e, x: exponential(e.session, x, 20, 20)),
    "bracketed": (Bracketed, lambda e, x: brackets.reciprocal(e.session, x, 20, 20, 0.1, 50.0)),
    "argmax": (Pairs, lambda e, x: selection.argmax_onehot(e.session, _rows(e, x))),
    "softmax": (Softmax, lambda e, x: softmax(e.session, _rows(e, x), 20)),
}
_NIBBLES, _SINGLE = ("count", "onehot"), ("near",)  # opened modulo 16, as one bit


def _opened(run, monkeypatch, protocol, dropped=None):
    """(label, symbols, alphabet) of every opening for inputs that are all the same."""
    found = []
    exchange, deal = PartySession._exchange, PartySession._deal

    def watch(self, items):
        opened = exchange(self, items)
        if self.rank == 0:
            found.extend((item.label, np.array(value)) for item, value in zip(items, opened, strict=True))
        return opened

    def drop(self, stream, entry):
        shares = list(deal(self, stream, entry))
        if dropped is not None and isinstance(entry, dropped[0]):
            index = dropped[1] % len(entry.free)
            shares[index] = np.zeros_like(shares[index])
        return tuple(shares)

    monkeypatch.setattr(PartySession, "_exchange", watch)
    monkeypatch.setattr(PartySession, "_deal", drop)
    words = np.full(N, _ONE, np.int64)

    def program(e):
        x = e.private(words if e.rank == 1 else None, (N,), 1, integer=True)
        e._run(protocol(e, x.share))

    run(2, program)
    monkeypatch.undo()
    return found


def _deviation(label, value):
    """Standard deviations by which the chi-square of a byte position is off, the worst of all positions."""
    if label in _SINGLE:
        columns, size = [value.reshape(-1) & 1], 2
    elif label in _NIBBLES and value.itemsize == 1:
        low = 4 if label == "onehot" else 16
        columns, size = [value.reshape(-1) & (low - 1)], low
    else:
        columns, size = list(np.ascontiguousarray(value).reshape(-1).view(np.uint8).reshape(-1, value.itemsize).T), 256
    worst = 0.0
    for column in columns:
        expected = len(column) / size
        chi = ((np.bincount(column, minlength=size) - expected) ** 2 / expected).sum()
        worst = max(worst, (chi - size + 1) / np.sqrt(2 * (size - 1)))
    return worst


@pytest.mark.parametrize("name", PROTOCOLS)
def test_openings_are_uniform(run, monkeypatch, name):
    found = _opened(run, monkeypatch, PROTOCOLS[name][1])
    assert len(found) >= 4
    for label, value in found:
        assert _deviation(label, value) < 12, label


# The masks of each entry, by their place among its free tensors.
MASKS = [
    *((name, place) for name in ("curve", "exponential", "bracketed") for place in (0, 1, 3, -1)),
    ("argmax", 0),
    ("argmax", 3),
    *(("softmax", place) for place in (0, 1, 3, -5, -4, -3, -2, -1)),
]


@pytest.mark.parametrize(("name", "place"), MASKS)
def test_a_mask_that_is_left_out_shows(run, monkeypatch, name, place):
    entry, protocol = PROTOCOLS[name]
    found = _opened(run, monkeypatch, protocol, (entry, place))
    assert max(_deviation(label, value) for label, value in found) > 100

"""Shared fixtures: parties with real keys and certificates in temporary homes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from enclave.channel.tls import require_tls13
from enclave.identity import Identity, TrustStore

require_tls13()  # gRPC reads the setting when it is imported, which test modules do


@pytest.fixture
def new_party(tmp_path: Path) -> Callable[..., Identity]:
    """`new_party(role, name, address="", clock=None)` makes a party in its own temporary home."""

    def make(role: str, name: str, address: str = "", clock: object = None) -> Identity:
        return Identity.create(tmp_path / "homes" / name, role, name, address, clock)  # type: ignore[arg-type]

    return make


@pytest.fixture
def acquaint() -> Callable[..., tuple[TrustStore, ...]]:
    """`acquaint(a, b, ...)` makes the parties trust each other; returns their trust stores in the same order."""

    def introduce(*parties: Identity) -> tuple[TrustStore, ...]:
        stores = tuple(TrustStore(party.home) for party in parties)
        for store, party in zip(stores, parties, strict=True):
            for other in parties:
                if other is not party:
                    store.add(other.card.encoded)
        return stores

    return introduce

"""What a node dials on behalf of a job."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from enclave.errors import PeerLost, SessionError
from parties.node import peers


def _peers(card_address: str = "") -> peers.NodePeers:
    trust: Any = SimpleNamespace(by_key_id=lambda _: SimpleNamespace(name="acme", address=card_address))
    return peers.NodePeers(SimpleNamespace(key_id=b"me"), trust)  # type: ignore[arg-type]


def _spec(address: str) -> Any:
    return SimpleNamespace(job_id="ab" * 16, parties=[SimpleNamespace(name="acme", key_id=b"k", address=address)])


@pytest.mark.parametrize("address", ["unix:/run/some.sock", "dns:///inside.example", "host", "host:0", "host:70000"])
def test_what_is_no_address_is_not_dialled(address: str) -> None:
    with pytest.raises(SessionError, match="not host:port"):
        _peers().locate(_spec(address), 0, lambda: True)


def test_a_worker_s_address_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lying:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Lying:
            return self

        def __exit__(self, *_: object) -> None: ...

        def locate(self, *_: object, **__: object) -> str:
            return "unix:/run/some.sock"

    monkeypatch.setattr(peers, "NodeClient", Lying)
    with pytest.raises(PeerLost, match="not host:port"):
        _peers("127.0.0.1:7000").locate(_spec(""), 0, lambda: True)

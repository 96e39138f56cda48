"""What a worker says of its ports, and what is not believed."""

from __future__ import annotations

import pytest

from enclave.channel.addresses import Offer
from enclave.errors import SessionError


@pytest.mark.parametrize(
    ("text", "offer"),
    [
        ("127.0.0.1:7000", Offer("127.0.0.1", 7000)),
        ("node.example:7000,tls://node.example:7001", Offer("node.example", 7000, 7001)),
        ("[::1]:7000,tls://[::1]:7001", Offer("[::1]", 7000, 7001)),
    ],
)
def test_what_is_written_is_read(text: str, offer: Offer) -> None:
    assert Offer.parse(text, "ada") == offer
    assert str(offer) == text


def test_the_node_puts_in_the_name_by_which_others_reach_it() -> None:
    assert str(Offer("0.0.0.0", 1, 2).at("ada.example")) == "ada.example:1,tls://ada.example:2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:/run/some.sock",
        "dns:///inside.example",
        "host",
        "host:0",
        "host:70000",
        "tls://host:7000",
        ",tls://host:7000",
        "host:7000,tls://",
        "host:7000,tls://host",
        "host:7000,tls://host:0",
        "host:7000,tls://elsewhere.example:7001",
        "host:7000,tls://host:7001,tls://host:7002",
        "host:7000,host:7001",
    ],
)
def test_anything_else_is_not_dialled(text: str) -> None:
    with pytest.raises(SessionError, match="worker of ada is not host:port"):
        Offer.parse(text, "ada")

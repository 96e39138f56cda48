"""Nodes that offer links without gRPC: used where both ends offer them, and stated."""

from __future__ import annotations

from pathlib import Path

import pytest

from enclave.channel.addresses import Offer
from enclave.messages import Signed, Statement
from tests.parties.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, owners=1, settings='transport = "socket"\n')


def test_a_job_over_sockets_ends_as_one_over_grpc(fleet: Fleet) -> None:
    fleet.up()
    try:
        spec = fleet.spec(outputs=("accuracy", "confusion"))
        _, found = fleet.run(spec)
        assert found.accuracy == fleet.expected()
        for name in fleet.node_names:
            with fleet.client(name) as client:
                statement = Statement.decode(Signed.decode(client.fetch(spec.job_id)["statement"]).body)
            assert "node.transport=TLS socket where the peer offers it, else gRPC" in statement.claims
            assert any(line.startswith("transport=mutual TLS 1.3, every peer pinned") for line in statement.claims)
    finally:
        fleet.down()


def test_a_worker_s_two_ports_are_announced_under_the_node_s_own_name() -> None:
    offer = Offer.parse("0.0.0.0:7001,tls://0.0.0.0:7002", "this node")
    assert str(offer.at("node.example")) == "node.example:7001,tls://node.example:7002"

"""Who runs the dealer is said on cards, stated in receipts, and decides in the production profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from enclave.errors import Untrusted
from enclave.messages import Signed, Statement
from parties.node import open_node
from tests.parties.fleet import Fleet

SHARED = {"dealer": "Acme Trust", "buyer": "ACME  trust"}


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], Fleet]:
    def make(profile: str) -> Fleet:
        fleet = Fleet(tmp_path, settings="shutdown_s = 0\n", organisations=SHARED)
        for name in fleet.node_names:
            toml = tmp_path / name / "node.toml"
            toml.write_text(toml.read_text().replace("development", profile))
        return fleet

    return make


@pytest.mark.parametrize("name", ["owner0", "dealer"])
def test_a_production_node_refuses_a_dealer_of_a_party_that_computes(made: Callable[[str], Fleet], name: str) -> None:
    fleet = made("production")
    node = open_node(fleet.root / name)
    try:
        with fleet.client(name) as client:
            assert client.describe().organisation == ("Acme Trust" if name == "dealer" else "owner0")
            decision = client.propose(fleet.sign(fleet.spec()))
    finally:
        node.close()
    assert (decision.state, [r.rule for r in decision.reasons]) == ("REFUSED", ["node.dealer.organisation"])
    assert "Acme Trust runs the dealer dealer and buyer" in decision.reasons[0].text


def test_a_development_node_takes_the_job_and_says_so(made: Callable[[str], Fleet]) -> None:
    fleet = made("development")
    node = open_node(fleet.root / "owner0")
    try:
        spec = fleet.spec()
        with fleet.client("owner0") as client:
            assert client.propose(fleet.sign(spec)).state == "ADMITTED"
            client.withdraw(spec.job_id)
            said = Statement.decode(Signed.decode(client.fetch(spec.job_id)["statement"]).body)
            assert "dealer.independent=no" in said.claims
            # A job cannot call the dealer somebody else's: what counts is the card that the node trusts.
            parties = (*spec.parties[:-1], replace(spec.dealer, organisation="Somebody Else"))
            with pytest.raises(
                Untrusted, match="dealer is run by Acme Trust, as its card here says; the job says Some"
            ):
                client.propose(fleet.sign(fleet.spec(parties=parties)))
    finally:
        node.close()

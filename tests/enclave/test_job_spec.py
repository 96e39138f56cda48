"""Who takes part under which engine, and what a job without a dealer says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enclave.errors import BadSpec
from enclave.executor.claims import job_claims, untrue
from enclave.leakage.declared import party_views
from enclave.messages import (
    ENGINES,
    Architecture,
    Category,
    ClassTarget,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    Layer,
    NumericFeature,
    PartyRef,
    Target,
    TensorType,
)

OWNERS = (PartyRef("clinic", "owner", b"o" * 32), PartyRef("hospital", "owner", b"h" * 32))
BUYER = PartyRef("acme", "buyer", b"b" * 32)
DEALER = PartyRef("dealer", "dealer", b"d" * 32, organisation="acme")
TARGET = Target("sick", classes=ClassTarget((Category(("no",)), Category(("yes",)))))
SPEC = JobSpec(
    job_id="0" * 32,
    kind="evaluate",
    created_unix_s=1,
    expires_unix_s=2,
    parties=(*OWNERS, BUYER, DEALER),
    datasets=(DatasetRef("clinic", "hearts", b"v" * 32, 80), DatasetRef("hospital", "beats", b"w" * 32, 900)),
    encoding=Encoding((Feature("age", NumericFeature()),), TARGET),
    architecture=Architecture((1,), (Layer("linear", "y", ("input",), ("w",)),), (TensorType("w", (1, 1)),)),
    outputs=("accuracy",),
)


def without_dealer(**changes: Any) -> JobSpec:
    return replace(SPEC, **({"parties": SPEC.parties[:-1], "engine": "he"} | changes))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_takes_a_dealer(engine: str) -> None:
    spec = replace(SPEC, engine=engine)
    assert spec.has_dealer and spec.dealer == DEALER
    assert spec.buyer == BUYER and spec.compute_parties == (*OWNERS, BUYER)
    assert spec.rank("dealer") == len(spec.compute_parties)
    assert JobSpec.decode(spec.encode()) == spec


def test_he_needs_no_dealer() -> None:
    spec = without_dealer()
    assert not spec.has_dealer and spec.dealer is None and spec.dealer_kin == ()
    assert spec.buyer == BUYER and spec.compute_parties == spec.parties == (*OWNERS, BUYER)
    assert JobSpec.decode(spec.encode()) == spec


@pytest.mark.parametrize("engine", ["mpc", "hybrid"])
def test_shares_need_a_dealer(engine: str) -> None:
    with pytest.raises(BadSpec, match="owners, buyer, dealer in this order"):
        without_dealer(engine=engine)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"engine": "ckks"}, "engine must be one of mpc, hybrid, he"),
        ({"deal_ahead": True}, "without a dealer"),
        ({"parties": (*OWNERS, DEALER)}, "in this order"),
        ({"parties": OWNERS}, "in this order"),
        ({"parties": (*OWNERS, BUYER, BUYER)}, "in this order"),
        ({"parties": (*OWNERS, DEALER, BUYER)}, "in this order"),
    ],
)
def test_wrong_parties_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(BadSpec, match=text):
        without_dealer(**changes)


def test_claims_say_who_deals() -> None:
    spec = without_dealer()
    claims = dict(line.split("=", 1) for line in job_claims(spec))
    assert claims["dealer"] == "no dealer" and "no dealer" in claims["protocol"]
    assert not {"dealer.independent", "dealer_computes", "dealing"} & set(claims)
    assert untrue(spec) == ()
    dealt = dict(line.split("=", 1) for line in job_claims(replace(SPEC, engine="he")))
    assert dealt["dealer"].startswith("dealer ") and dealt["dealer.independent"] == "no"
    assert "encryption" in dealt["protocol"] and "one dealer" in dealt["protocol"]
    assert [view.role for view in party_views(spec)] == ["owner", "owner", "buyer", "observer"]

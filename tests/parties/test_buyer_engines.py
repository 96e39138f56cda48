"""Which engine a buyer's job runs on: what each needs, what `auto` compares and why. Nobody is contacted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave.errors import BadInput, BadModel, PolicyRefused
from enclave.identity import Card, Identity, TrustStore
from enclave.messages import (
    Architecture,
    Category,
    ClassTarget,
    DatasetInfo,
    DatasetRef,
    Encoding,
    Feature,
    Layer,
    NumericFeature,
    Target,
)
from enclave.models import Model, dense_architecture
from enclave.workloads.numeric import output_errors
from parties.buyer import Buyer, Schedule
from parties.buyer.engines import compare, drafted, evaluating
from parties.buyer.preparing import Parties, imagined
from parties.buyer.specs import Offer, Terms
from parties.cli.quoting import quote_text

GIVEN: dict[str, Any] = {"data": ["a/x"], "rows": [4000]}


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Buyer]:
    """A buyer who trusts nobody."""
    Identity.create(tmp_path / "lab", "buyer", "lab")
    with Buyer(tmp_path / "lab") as buyer:
        yield buyer


@pytest.fixture
def backed(tmp_path: Path) -> Iterator[Buyer]:
    """A buyer who trusts one dealer."""
    Identity.create(tmp_path / "lab", "buyer", "lab")
    dealer = Identity.create(tmp_path / "third", "dealer", "third", "127.0.0.1:1")
    TrustStore(tmp_path / "lab").add(dealer.card.encoded)
    with Buyer(tmp_path / "lab") as buyer:
        yield buyer


def encoding(count: int, width: int = 4) -> Encoding:
    feature = Feature("v", numeric=NumericFeature(low=-1.0, high=1.0, width=width))
    return Encoding((feature,), Target("y", classes=ClassTarget(tuple(Category((str(i),)) for i in range(count)))))


def linear(outputs: int = 1) -> Model:
    network = dense_architecture(4, [], outputs)
    if outputs == 1:
        head = Layer("sigmoid", "probability", (network.layers[-1].name,))
        network = Architecture(network.input_shape, (*network.layers, head), network.parameters)
    return Model(network, {"dense0.weight": np.full((4, outputs), 0.5), "dense0.bias": np.zeros(outputs)})


def perceptron() -> Model:
    rng = np.random.default_rng(0)
    network = dense_architecture(4, [3], 1, "relu")
    return Model(network, {p.name: rng.normal(size=p.shape) for p in network.parameters})


def test_he_needs_nobody_else(lonely: Buyer) -> None:
    found = lonely.quote_evaluate(linear(), encoding=encoding(2), metrics=(), predictions=True, engine="he", **GIVEN)
    assert found.engine == "he" and found.dealer == "" and found.dealer_bytes == 0
    assert found.parties == ("a", "lab") and found.hiding
    assert all(hidden.bits is None or hidden.bits >= 40 for hidden in found.hiding)


def square() -> Model:
    """w2 (w1 x)^2, in two linear layers."""
    network = dense_architecture(4, [3], 1, "relu")
    first, _, last = network.layers
    product = Layer("mul", "square", (first.name, first.name))
    layers = (first, product, replace(last, inputs=("square",)))
    rng = np.random.default_rng(0)
    weights = {p.name: rng.normal(size=p.shape) for p in network.parameters}
    return Model(replace(network, layers=layers), weights)


def test_the_error_of_an_encrypted_network_is_its_own(lonely: Buyer) -> None:
    asked: dict[str, Any] = {"encoding": encoding(2), "metrics": (), "predictions": True, "engine": "he", **GIVEN}
    model = square()
    quote = lonely.quote_evaluate(model, **asked)
    found = quote.numbers.output_error
    shared = output_errors(model, asked["encoding"], quote.numbers.frac_bits, rows=40)
    assert found is not None and float(max(errors.max() for errors in shared.values())) < found < 0.1
    assert f"error of an output: at most {found:.2g}" in quote_text(quote)


def test_auto_without_a_dealer_is_he_or_a_clear_refusal(lonely: Buyer) -> None:
    found = lonely.quote_evaluate(linear(), encoding=encoding(2), metrics=(), predictions=True, engine="auto", **GIVEN)
    assert found.engine == "he" and found.why.startswith("he needs no dealer")
    assert [option.engine for option in found.options if option.quote is None] == ["mpc", "hybrid"]
    with pytest.raises(BadInput, match=r"no engine can do this job: mpc: .*dealer.*he: layer .*found relu") as caught:
        lonely.quote_evaluate(perceptron(), encoding=encoding(2), engine="auto", **GIVEN)
    assert caught.value.hint


def test_he_takes_a_dealer_only_where_it_must(backed: Buyer) -> None:
    alone = backed.quote_evaluate(linear(), encoding=encoding(2), metrics=(), predictions=True, engine="he", **GIVEN)
    assert alone.dealer == ""
    dealt = backed.quote_evaluate(linear(), encoding=encoding(2), metrics=("auc",), engine="he", **GIVEN)
    assert dealt.dealer == "third" and dealt.parties == ("a", "lab", "third")


def test_an_auc_without_a_dealer_is_refused(lonely: Buyer) -> None:
    with pytest.raises(BadInput, match="auc needs sorting") as caught:
        lonely.quote_evaluate(linear(), encoding=encoding(2), metrics=("auc",), engine="he", **GIVEN)
    assert "dealer" in caught.value.hint


def test_a_layer_that_he_cannot_compute_is_named(backed: Buyer) -> None:
    with pytest.raises(BadModel, match=r"layer act0: .* found relu") as caught:
        backed.quote_evaluate(perceptron(), encoding=encoding(2), engine="he", **GIVEN)
    assert "hybrid or mpc would do" in caught.value.hint
    found = backed.quote_evaluate(perceptron(), encoding=encoding(2), engine="auto", **GIVEN)
    assert found.engine in ("hybrid", "mpc")
    he = next(option for option in found.options if option.engine == "he")
    assert he.quote is None and "found relu" in he.obstacle and "he cannot" in found.why


def test_a_comparison_as_json(backed: Buyer) -> None:
    found = backed.quote_evaluate(linear(), encoding=encoding(2), beside=True, **GIVEN).to_json()
    assert found["engine"] == "mpc" and found["why"] == "asked for" and found["dealer"] == "third"
    engines = {entry["engine"]: entry for entry in found["engines"]}
    assert list(engines) == ["mpc", "hybrid", "he"]
    mpc = engines["mpc"]
    assert mpc["possible"] and mpc["bytes"] == found["bytes"] and mpc["bytes_of_10_models"] == 10 * mpc["bytes"]
    assert mpc["dealer"] == "third" and mpc["seconds"] == found["seconds"] and mpc["rounds"] == found["rounds"]


def offered(*engines: str) -> Parties:
    """Parties whose one owner's policy allows these engines."""
    made = imagined([("a", "x")], [4000], buyer_card(), "third")
    info = DatasetInfo(DatasetRef("a", "x", bytes(32), 4000), "", (), engines=engines)
    return replace(made, offers=(Offer(made.owners[0], info, ""),))


def buyer_card() -> Card:
    return Card("lab", "buyer", "", bytes(range(32)), (), 0, b"")


@pytest.mark.parametrize("engine", ["mpc", "hybrid"])
def test_auto_keeps_to_what_owners_allow(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr("parties.buyer.preparing._check_columns", lambda parties, encoding: None)
    make = evaluating(encoding(2), linear(), ("accuracy",), False)
    found = compare(make, offered(engine), Terms(0, engine="auto"))
    assert found.quote.engine == engine
    assert sum("policy.engine: a/x allows" in option.obstacle for option in found.options) == 2


def test_auto_refuses_by_rule_when_owners_allow_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parties.buyer.preparing._check_columns", lambda parties, encoding: None)
    make = evaluating(encoding(2), linear(), ("accuracy",), False)
    with pytest.raises(PolicyRefused, match="allows no engine") as caught:
        compare(make, offered(), Terms(0, engine="auto"))
    assert caught.value.rules == ("policy.engine",)


def test_mpc_without_a_dealer_says_what_would_do(lonely: Buyer) -> None:
    with pytest.raises(BadInput, match="expected one trusted dealer, found none") as caught:
        lonely.evaluate(linear(), data=["a/x"], encoding=encoding(2))
    assert "--engine he" in caught.value.hint


def test_an_unknown_engine_is_refused(lonely: Buyer) -> None:
    with pytest.raises(BadInput, match="engine must be one of mpc, hybrid, he, auto"):
        lonely.quote_evaluate(linear(), encoding=encoding(2), engine="sgx", **GIVEN)


def test_nothing_is_dealt_ahead_without_a_dealer() -> None:
    parties = imagined([("a", "x")], [4000], buyer_card(), "")
    make = evaluating(encoding(2), linear(), (), True)
    with pytest.raises(BadInput, match="without a dealer"):
        drafted(make, parties, Terms(0, engine="he", deal_ahead=True))


def test_trainings_are_compared_too(backed: Buyer) -> None:
    schedule = Schedule("logistic", epochs=2, batch_rows=500, momentum=0.0)
    found = backed.quote_train(schedule, encoding=encoding(2), engine="auto", **GIVEN)
    assert {option.engine for option in found.options} == {"mpc", "hybrid", "he"}

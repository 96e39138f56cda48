"""Bounds in bits, and what each party is said to see."""

from __future__ import annotations

import itertools
import math

import pytest

from enclave.errors import BadSpec
from enclave.leakage.declared import declared_outputs, party_views, public_facts, view_of
from enclave.messages import Category, ClassTarget, DatasetRef, Encoding, Feature, NumericFeature, Target, Training
from tests.enclave.leakage.sample import NAMES, make_spec, training_spec

ROWS = 303 + 294


def test_accuracy_has_n_plus_one_values() -> None:
    (output,) = declared_outputs(make_spec(outputs=("accuracy",)))
    assert output.bits == math.log2(ROWS + 1) and output.to == "acme"
    assert "597 rows" in output.type and output.values == "598 counts"


@pytest.mark.parametrize(("rows", "classes"), [(5, 2), (4, 3)])
def test_confusion_counts_compositions(rows: int, classes: int) -> None:
    target = Target("y", classes=ClassTarget(tuple(Category((str(i),)) for i in range(classes))))
    spec = make_spec(
        outputs=("confusion",),
        datasets=(DatasetRef("charite", "a", bytes(32), rows - 1), DatasetRef("uniklinik", "b", bytes(32), 1)),
        encoding=Encoding((Feature("x", numeric=NumericFeature(width=13)),), target),
    )
    (output,) = declared_outputs(spec)
    counted = sum(1 for cells in itertools.product(range(rows + 1), repeat=classes**2) if sum(cells) == rows)
    assert math.isclose(2**output.bits, counted, rel_tol=1e-9)


@pytest.mark.parametrize("frac_bits", [8, 20, 26])
def test_auc_is_bounded_by_precision_and_by_rows(frac_bits: int) -> None:
    (output,) = declared_outputs(make_spec(outputs=("auc",), frac_bits=frac_bits))
    assert output.bits <= frac_bits + 0.02
    few = make_spec(
        outputs=("auc",),
        frac_bits=frac_bits,
        datasets=(DatasetRef("charite", "a", bytes(32), 2), DatasetRef("uniklinik", "b", bytes(32), 1)),
    )
    # Three rows: one class only, or 1 against 2 whose doubled statistic is 0..4; counted per number of positives.
    assert declared_outputs(few)[0].bits == pytest.approx(math.log2(3 * 8 // 3 + 3 + 1))


def test_other_bounds() -> None:
    bits = {o.name: o.bits for o in declared_outputs(make_spec(outputs=("rmse", "r2", "predictions")))}
    assert bits == {"rmse": 63.0, "r2": 21.0, "predictions": ROWS * 64.0}
    (model,) = declared_outputs(training_spec())
    assert model.bits == 64 * (13 * 16 + 16 + 16 + 1) and model.to == "acme"


def test_a_shared_model_tells_nothing() -> None:
    spec = training_spec(training=Training("logistic", 5, 64, 0.1, deliver="shared"))
    (model,) = declared_outputs(spec)
    assert model.bits == 0 and model.to == "nobody"
    buyer = view_of(spec, "acme")
    assert not any("released outputs, of those" in line for line in buyer.sees)
    assert "the trained model: it stays shared" in buyer.hidden


def test_every_party_has_a_view() -> None:
    views = party_views(make_spec())
    assert [v.name for v in views] == [*NAMES, "anyone on the network"]
    assert [v.role for v in views] == ["owner", "owner", "buyer", "dealer", "observer"]
    assert all(v.sees and v.hidden for v in views)


def test_owner_view() -> None:
    view = view_of(make_spec(), "charite")
    assert "its own data set heart, 303 rows" in view.sees
    assert "the rows of uniklinik" in view.hidden and "the model's weights" in view.hidden
    assert not any("charite" in line for line in view.hidden)
    assert any("accuracy, confusion, auc" in line for line in view.hidden)


def test_training_views() -> None:
    spec = training_spec()
    assert "the rows of acme" in view_of(spec, "charite").hidden
    assert "the model that is trained" in view_of(spec, "charite").hidden
    buyer = view_of(spec, "acme")
    assert "its own 100 rows" in buyer.sees and "its own model" not in buyer.sees


def test_dealer_sees_no_share_and_strangers_have_no_view() -> None:
    dealer = view_of(make_spec(), "dealer")
    assert not any("share" in line for line in dealer.sees)
    assert "every share" in dealer.hidden[0]
    with pytest.raises(BadSpec, match="no party"):
        view_of(make_spec(), "eve")


def test_public_facts() -> None:
    facts = "\n".join(public_facts(training_spec()))
    for part in ("c0, c1", "and 1 more", "target column: sick", "rows that the buyer brings: 100", "5 epochs"):
        assert part in facts
    assert "linear → relu → linear" in facts and "241 parameters" in facts
    assert "stated purpose: external validation" in facts
    assert "schedule" not in "\n".join(public_facts(make_spec()))

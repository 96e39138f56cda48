"""What a quote says of a job's numbers, and of networks for images; nobody is contacted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave.errors import BadInput, BadModel, RangeExceeded
from enclave.identity import Identity
from enclave.messages import Category, ClassTarget, Encoding, Feature, NumericFeature, Target
from enclave.models import Model, dense_architecture
from parties.buyer import Buyer, Schedule

GIVEN = {"data": ["a/x"], "rows": [40]}


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Buyer]:
    """A buyer who trusts nobody, so that nobody can be asked."""
    Identity.create(tmp_path / "lab", "buyer", "lab")
    with Buyer(tmp_path / "lab") as buyer:
        yield buyer


def pixels(width: int) -> Encoding:
    feature = Feature("pixels", numeric=NumericFeature(low=0.0, high=1.0, width=width))
    return Encoding((feature,), Target("digit", classes=ClassTarget(tuple(Category((str(i),)) for i in range(3)))))


def schedule(**rest: Any) -> Schedule:
    return Schedule(**{"kind": "lenet", "epochs": 1, "batch_rows": 20, **rest})


def test_a_lenet_takes_the_size_of_its_images(lonely: Buyer) -> None:
    plain = lonely.quote_train(schedule(), encoding=pixels(256), **GIVEN)
    assert plain.plan_digest == lonely.quote_train(schedule(image=(16, 16)), encoding=pixels(256), **GIVEN).plan_digest
    lonely.quote_train(schedule(image=(2, 16, 18)), encoding=pixels(576), **GIVEN)
    with pytest.raises(BadInput, match="yields 576 numbers a row, an image of 1x16x18 has 288"):
        lonely.quote_train(schedule(image=(16, 18)), encoding=pixels(576), **GIVEN)
    with pytest.raises(BadModel, match="at least 16 by 16"):
        lonely.quote_train(schedule(image=(8, 32)), encoding=pixels(256), **GIVEN)
    with pytest.raises(BadInput, match="an image belongs to kind lenet"):
        lonely.quote_train(schedule(kind="softmax", image=(16, 16)), encoding=pixels(256), **GIVEN)
    with pytest.raises(BadInput, match="hidden layers belong to kind mlp"):
        lonely.quote_train(schedule(hidden=(8,)), encoding=pixels(256), **GIVEN)


def test_a_quote_says_how_far_numbers_go(lonely: Buyer) -> None:
    weights = {"dense0.weight": np.full((4, 3), 100.0), "dense0.bias": np.zeros(3)}
    small = Model(dense_architecture(4, [], 3), weights)
    numbers = lonely.quote_evaluate(small, encoding=pixels(4), **GIVEN).numbers
    assert numbers.frac_bits == 20 and numbers.steps[-1].bound == 400.0 and numbers.failure == 0.0
    assert numbers.output_error is not None and 1e-6 < numbers.output_error < 1e-3


def test_fewer_fractional_bits_make_room_unless_they_are_fixed(lonely: Buyer) -> None:
    weights = {"dense0.weight": np.full((4, 3), 100.0 * 2**17), "dense0.bias": np.zeros(3)}
    big = Model(dense_architecture(4, [], 3), weights)
    assert lonely.quote_evaluate(big, encoding=pixels(4), **GIVEN).numbers.frac_bits == 17
    with pytest.raises(RangeExceeded, match=r"values at dense0 can reach 5\.24288e\+07") as caught:
        lonely.quote_evaluate(big, encoding=pixels(4), frac_bits=20, **GIVEN)
    assert "--frac-bits 17" in caught.value.hint


def test_a_quote_of_a_training_says_what_is_watched(lonely: Buyer) -> None:
    found = lonely.quote_train(Schedule("softmax"), encoding=pixels(4), **GIVEN).to_json()["numbers"]
    steps = {step["name"]: step for step in found["steps"]}
    assert found["failure"] > 0 and steps["weights"]["bound"] is None and steps["first gradient"]["bound"] == 40.0

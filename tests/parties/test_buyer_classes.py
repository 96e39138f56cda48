"""The classes of a classifier are matched with those of the encoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from enclave.errors import BadModel
from enclave.messages import Category, ClassTarget, Encoding, Feature, NumericFeature, Target
from enclave.models import forward_float, read_model
from parties.buyer.classes import class_order


def encoding(*classes: Category | str) -> Encoding:
    made = tuple(c if isinstance(c, Category) else Category((c,)) for c in classes)
    features = (Feature("a", numeric=NumericFeature(low=-9, high=9)),)
    return Encoding(features, Target("outcome", classes=ClassTarget(made)))


@pytest.mark.parametrize(
    ("labels", "classes", "order"),
    [
        (["home", "ward"], ["home", "ward"], (0, 1)),
        (["home", "ward"], ["ward", "home"], (1, 0)),
        (["long", "mid", "short"], ["short", "mid", "long"], (2, 1, 0)),
        (np.array(["a", "b", "c"]), ["b", "c", "a"], (1, 2, 0)),
        (np.array([0, 1]), ["1", "0"], (1, 0)),
        (np.array([1.0, 2.0]), ["2", "1"], (1, 0)),
        (np.array([False, True]), ["true", "false"], (1, 0)),
        (np.array([0, 1]), ["ward", "home"], (0, 1)),
        (np.array([False, True]), ["ward", "home"], (0, 1)),
        ([0, 1], [Category(("ward",)), Category(other=True)], (0, 1)),
        (["home", "ward"], [Category(("ward",)), Category(other=True)], (1, 0)),
        (["x", "z"], [Category(("z", "y")), Category(("x",))], (1, 0)),
    ],
)
def test_the_order(labels: Any, classes: list[Any], order: tuple[int, ...]) -> None:
    assert class_order(list(labels), encoding(*classes)) == order


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["home", "icu"], ["home", "ward"]),
        (["home", "icu", "ward"], ["home", "ward"]),
        (["home", "ward"], ["home", "icu", "ward"]),
        (["a", "b"], [Category(("a", "b")), Category(("c",))]),
        (["a", "b", "c"], [Category(("a", "b")), Category(("c",))]),
        ([0, 1], ["1", "2"]),
        ([1, 2], ["home", "ward"]),
        ([0, 1], ["home", "icu", "ward"]),
        (["a", "b"], [Category(("c",)), Category(other=True)]),
    ],
)
def test_classes_that_do_not_match_are_refused_with_both_orders(labels: list[Any], classes: list[Any]) -> None:
    with pytest.raises(BadModel, match="classes are not those of target 'outcome'") as caught:
        class_order(labels, encoding(*classes))
    for label in labels:
        assert repr(str(label)) in caught.value.public.partition("found")[2]


def test_nothing_is_matched_without_a_class_target() -> None:
    features = encoding("a", "b").features
    assert class_order(["x", "y"], Encoding(features)) == (0, 1)
    assert class_order(["x", "y"], Encoding(features, Target("n", numeric=NumericFeature()))) == (0, 1)


@pytest.mark.parametrize("classes", [["ward", "home"], ["home", "ward"], ["icu", "ward", "home"]])
def test_a_classifier_fitted_with_text_scores_as_scikit_learn_says(classes: list[str]) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(90, 3))
    codes = np.digitize(x[:, 0] + 0.3 * rng.normal(size=90), [-0.4, 0.4][: len(classes) - 1])
    y = np.array(sorted(classes))[codes]
    fitted = LogisticRegression().fit(x, y)
    model = read_model(fitted, class_order=lambda labels: class_order(labels, encoding(*classes)))
    found = forward_float(model, x)
    chosen = (found[:, 0] > 0.5).astype(int) if found.shape[1] == 1 else found.argmax(axis=1)
    assert (np.array(classes)[chosen] == fitted.predict(x)).all()

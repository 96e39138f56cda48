"""Fitted encodings fit the rows they were fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from enclave.datasets import RowSource, fit_encoding
from enclave.errors import BadData

ROWS = {
    "age": [20.0, 40.0, None, 60.0],
    "code": np.array([1, 2, 2, 10]),
    "ward": ["A", "B", "A", None],
    "same": [7.0, 7.0, 7.0, 7.0],
    "pair": np.arange(8).reshape(4, 2),
    "sick": ["yes", "no", "no", "yes"],
}


def test_the_fitted_rows_are_standardised() -> None:
    encoding = fit_encoding(ROWS, features=["age", "same", "pair"], target="sick")
    source = RowSource(ROWS, encoding)
    source.check()
    x = source.features(0, 4)
    assert np.allclose(x[[0, 1, 3], 0].std(), 1.0)
    assert x[2, 0] == 0.0
    assert (x[:, 1] == 0).all()
    assert np.isclose(x[:, 2:].mean(), 0.0)
    assert np.isclose(x[:, 2:].std(), 1.0)
    assert source.targets(0, 4).tolist() == [1, 0, 0, 1]


def test_categories_by_frequency_with_a_place_for_the_rest() -> None:
    encoding = fit_encoding(ROWS, features=["ward", "code"], categorical=["code"], max_categories=3)
    ward, code = (f.one_hot for f in encoding.features)
    assert ward is not None
    assert code is not None
    assert [(c.values, c.missing, c.other) for c in ward.categories] == [
        (("A",), False, False),
        (("B",), False, False),
        ((), True, True),
    ]
    assert [c.values for c in code.categories] == [("1",), ("2",), ()]
    assert RowSource(ROWS, encoding).features(3, 4).tolist() == [[0, 0, 1, 0, 0, 1]]


def test_default_features_and_numeric_classes_in_order() -> None:
    encoding = fit_encoding(ROWS, target="code")
    assert [f.column for f in encoding.features] == ["age", "ward", "same", "pair", "sick"]
    assert encoding.target is not None
    assert encoding.target.classes is not None
    assert [c.values for c in encoding.target.classes.classes] == [("1",), ("2",), ("10",)]


def test_regression_targets_are_not_clipped() -> None:
    encoding = fit_encoding(ROWS, features=["code"], target="same", regression=True)
    assert encoding.target is not None
    assert encoding.target.numeric is not None
    assert not encoding.target.numeric.clip


def test_what_cannot_be_fitted_is_named() -> None:
    with pytest.raises(BadData, match="no column 'height'"):
        fit_encoding(ROWS, features=["height"])
    with pytest.raises(BadData, match="'x' has no present values"):
        fit_encoding({"x": np.array([np.nan])})
    with pytest.raises(BadData, match="'ward' needs 2 to 1024 classes and no missing value"):
        fit_encoding(ROWS, target="ward")
    with pytest.raises(BadData, match="found 1 classes"):
        fit_encoding(ROWS, target="same")

"""A published model on public data: encoding and graph together give the published figure.

Needs the project's data folder in ENCLAVE_DATA.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from enclave.datasets import RowSource, open_dataset
from enclave.messages import (
    Architecture,
    Category,
    ClassTarget,
    Encoding,
    Feature,
    Layer,
    NumericFeature,
    OneHotFeature,
    Target,
    TensorType,
)
from enclave.models import Model, check_ranges, forward_float, read_model, write_onnx

pytestmark = pytest.mark.skipif("ENCLAVE_DATA" not in os.environ, reason="ENCLAVE_DATA is not set")


def one_hot(column: str, *categories: Category) -> Feature:
    return Feature(column, one_hot=OneHotFeature(categories))


def of(*values: str, missing: bool = False) -> Category:
    return Category(values, missing=missing)


ENCODING = Encoding(
    (
        Feature("age", numeric=NumericFeature(shift=17, scale=73, low=17, high=90)),
        Feature("hours_per_week", numeric=NumericFeature(shift=1, scale=98, low=1, high=99)),
        one_hot(
            "workclass",
            of("Federal-gov", "State-gov", "Local-gov"),
            of("Without-pay", "Never-worked", missing=True),
            of("Private"),
            of("Self-emp-inc", "Self-emp-not-inc"),
        ),
        one_hot(
            "education",
            of("Assoc-voc", "Assoc-acdm"),
            of("Bachelors"),
            of("Doctorate"),
            of("HS-grad"),
            of("Masters"),
            of("Prof-school"),
            of("Preschool", "1st-4th", "5th-6th", "7th-8th", "9th", "10th", "11th", "12th"),
            of("Some-college"),
        ),
        one_hot(
            "marital_status",
            of("Divorced"),
            of("Married-civ-spouse", "Married-AF-spouse", "Married-spouse-absent"),
            of("Separated"),
            of("Never-married"),
            of("Widowed"),
        ),
        one_hot(
            "occupation",
            of("Craft-repair", "Farming-fishing", "Handlers-cleaners", "Machine-op-inspct", "Transport-moving"),
            of("Armed-Forces", missing=True),
            of("Prof-specialty"),
            of("Sales"),
            of("Other-service", "Priv-house-serv", "Protective-serv", "Tech-support"),
            of("Adm-clerical", "Exec-managerial"),
        ),
        one_hot("race", Category(other=True), of("White")),
        one_hot("sex", of("Female"), of("Male")),
    ),
    Target("income", classes=ClassTarget((of("<=50K"), of(">50K")))),
)


@pytest.fixture(scope="module")
def data() -> Path:
    return Path(os.environ["ENCLAVE_DATA"])


@pytest.fixture(scope="module")
def model(data: Path) -> Model:
    with np.load(data / "models" / "dice_adult.npz") as arrays:
        weights = {
            "w1": arrays["0.weight"].T,
            "b1": arrays["0.bias"],
            "w2": arrays["2.weight"].T,
            "b2": arrays["2.bias"],
        }
    layers = (
        Layer("linear", "hidden", ("input",), ("w1", "b1")),
        Layer("relu", "relu", ("hidden",)),
        Layer("linear", "logit", ("relu",), ("w2", "b2")),
        Layer("sigmoid", "probability", ("logit",)),
    )
    tensors = tuple(TensorType(name, value.shape) for name, value in weights.items())
    return Model(Architecture((29,), layers, tensors), weights)


def test_the_published_figure(data: Path, model: Model) -> None:
    source = RowSource(data / "adult" / "adult_test.parquet", ENCODING)
    source.check()
    assert (source.rows, source.width) == (16_281, 29)
    probabilities, targets = [], []
    for start in range(0, source.rows, 4096):
        stop = min(source.rows, start + 4096)
        features = source.features(start, stop)
        # Six of the 27 indicators are 1 in every row.
        assert (features[:, 2:].sum(axis=1) == 6).all()
        probabilities.append(forward_float(model, features)[:, 0])
        targets.append(source.targets(start, stop))
    found, labels = np.concatenate(probabilities), np.concatenate(targets)
    assert int(((found > 0.5) == labels).sum()) == 13_379
    assert found[:5] == pytest.approx([0.000005, 0.378722, 0.241742, 0.540943, 0.000007], abs=1e-6)
    assert (found > 0.5).mean() == pytest.approx(0.2633, abs=5e-5)


def test_the_same_model_through_onnx_and_its_ranges(data: Path, model: Model) -> None:
    source = RowSource(data / "adult" / "adult_test.parquet", ENCODING)
    features = source.features(0, 500)
    again = read_model(write_onnx(model))
    assert np.allclose(forward_float(again, features), forward_float(model, features), atol=1e-5)
    bounds = check_ranges(model, ENCODING, 20)
    assert 16.7 < bounds["logit"] < 100  # the logits of the test file reach from -16.7 to 6.2


def test_an_owner_of_the_file_can_offer_it(data: Path, tmp_path: Path) -> None:
    path = data / "adult" / "adult_train.parquet"
    (tmp_path / "adult.toml").write_text(
        f'[dataset]\nname = "adult"\npath = "{path}"\n[columns.age]\nlow = 17\nhigh = 90\n'
    )
    dataset = open_dataset(tmp_path / "adult.toml")
    dataset.check()
    nullable = {c.name for c in dataset.columns if c.nullable}
    assert nullable == {"workclass", "occupation", "native_country"}
    RowSource(dataset, ENCODING).check()

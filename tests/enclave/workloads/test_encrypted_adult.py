"""A training under encryption on the adult data set: the accuracy of scikit-learn, and what it costs.

Needs the project's data folder in ENCLAVE_DATA.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from enclave.datasets import RowSource, fit_encoding
from enclave.messages import Encoding, Feature, Training
from enclave.models import dense_architecture
from enclave.workloads.encrypted.training import plain_weights
from enclave.workloads.standardise import column_units
from tests.enclave.workloads.encrypted_jobs import encrypted_job, run_job
from tests.enclave.workloads.made_jobs import classes, holders

pytestmark = pytest.mark.skipif("ENCLAVE_DATA" not in os.environ, reason="ENCLAVE_DATA is not set")


def narrowed(feature: Feature) -> Feature:
    """Clipped at 4 standard deviations: a polynomial sigmoid does not saturate, so long tails are cut, for all uses."""
    numeric = feature.numeric
    if numeric is None:
        return feature
    low, high = numeric.shift - 4 * numeric.scale, numeric.shift + 4 * numeric.scale
    return replace(feature, numeric=replace(numeric, low=max(low, numeric.low), high=min(high, numeric.high)))


def rows(path: Path, encoding: Encoding) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    source = RowSource(path, encoding)
    return source.features(0, source.rows), source.targets(0, source.rows)


def test_within_three_tenths_of_a_point_of_scikit_learn() -> None:
    folder = Path(os.environ["ENCLAVE_DATA"]) / "adult"
    fitted = fit_encoding(folder / "adult_train.parquet", target="income")
    encoding = replace(fitted, features=tuple(narrowed(feature) for feature in fitted.features))
    x, y = rows(folder / "adult_train.parquet", encoding)
    test, labels = rows(folder / "adult_test.parquet", encoding)
    schedule = Training("logistic", 5, len(x), 1.0, momentum=0.3)
    spec = encrypted_job(
        x, classes(2), dense_architecture(x.shape[1], [], 1), ["model"], training=schedule, standardise=True
    )
    ran = run_job(spec, x, y, {})
    assert ran.result.weights is not None
    weight, bias = ran.result.weights.values()
    decided = test @ weight[:, 0] + bias[0] > 0
    twin = plain_weights(spec, holders(spec, x, y))
    assert (decided == (test @ (twin[:-1] * column_units(spec)) + twin[-1] > 0)).mean() > 0.9999
    scale = np.where(x.std(0) > 0, x.std(0), 1.0)
    theirs = LogisticRegression(max_iter=1000).fit(x / scale, y).score(test / scale, labels)
    assert np.mean(decided == labels) > theirs - 0.003
    sent = sum(item[2] for _, record in ran.records if record[0] == "open" for item in record[1:])
    assert sent < 40e6

"""The public mock twin of a data set: rows of the same schema, made from the public description alone.

A buyer tries encoding and model on it before proposing a job. No row, statistic or random state of the owner goes
into it: the numbers come from a hash of the data set's and the column's name, so that everybody can compute the
twin from the description and see that nothing else is in it. A column without declared range or vocabulary gets
the standard one: numbers in [0, 1], texts "a", "b", "c".
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enclave.datasets.dataset import Dataset
from enclave.datasets.description import ColumnRule
from enclave.messages import ColumnInfo

__all__ = ["mock_twin"]

_STANDARD_TEXTS = ("a", "b", "c")
_MISSING_SHARE = 0.05


def mock_twin(dataset: Dataset, rows: int = 200) -> bytes:
    """Parquet bytes with `rows` rows of every public column.

    Numbers are uniform in the declared range, whole where it was written in whole numbers; 5 % of the values of a
    nullable column are missing.
    """
    arrays = {info.name: _column(dataset, info, rows) for info in dataset.columns}
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink, compression="zstd")
    return sink.getvalue()


def _column(dataset: Dataset, info: ColumnInfo, rows: int) -> Any:
    rule = dataset.rules.get(info.name, ColumnRule())
    label = f"{dataset.name}/{info.name}"
    draws = _uniform(label, rows * info.width)
    missing = (_uniform(f"{label}/missing", rows) < _MISSING_SHARE) if info.nullable else np.zeros(rows, dtype=bool)
    if info.type == "text":
        return pa.array(_choices(rule.values or _STANDARD_TEXTS, draws), pa.string(), mask=missing)
    numbers = _numbers(rule, draws)
    if info.type == "number":
        return pa.array(numbers, mask=missing)
    offsets = np.arange(0, rows * info.width + 1, info.width)
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32(), mask=np.append(missing, False)), pa.array(numbers))
    return lists.cast(pa.list_(lists.type.value_type, info.width))


def _numbers(rule: ColumnRule, draws: NDArray[np.float64]) -> NDArray[Any]:
    if rule.values is not None:
        chosen = np.array([float(v) for v in _choices(rule.values, draws)])
        return chosen.astype(np.int64) if rule.integral else chosen
    low, high = rule.low, rule.high
    if low is None:
        low = 0.0 if high is None else min(0.0, high - 1.0)
    if high is None:
        high = max(1.0, low + 1.0)
    if rule.integral:
        return (math.ceil(low) + np.floor(draws * (math.floor(high) - math.ceil(low) + 1))).astype(np.int64)
    return low + draws * (high - low)


def _choices(values: Sequence[str], draws: NDArray[np.float64]) -> list[str]:
    return [values[int(i)] for i in np.floor(draws * len(values))]


def _uniform(label: str, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) that depend on the label alone."""
    stream = hashlib.shake_256(b"enclave mock twin/" + label.encode()).digest(4 * count)
    return np.frombuffer(stream, dtype="<u4") / 2.0**32

"""The mock twin says nothing that the public description does not say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from enclave.datasets import RowSource, mock_twin, open_dataset
from enclave.messages import Encoding, Feature, NumericFeature

BODY = """[dataset]
name = "clinic"
path = "rows.parquet"
[columns.age]
low = 17
high = 19
[columns.score]
low = -1.0
high = 1.0
[columns.grade]
values = [1, 2]
[columns.ward]
values = ["A", "B"]
nullable = true
[columns.secret]
hidden = true
"""


def twin(folder: Path, shift: int = 0) -> tuple[bytes, dict[str, list[Any]]]:
    table = {
        "age": [17 + shift, 19],
        "score": [0.5, shift / 10],
        "grade": [1, 2],
        "ward": ["A", None if shift else "B"],
        "note": ["private words", "more"],
        "free": [1e6, 2e6],
        "vector": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float64(), 2)),
        "secret": ["a", "b"],
    }
    pq.write_table(pa.table(table), folder / "rows.parquet")
    (folder / "clinic.toml").write_text(BODY)
    data = mock_twin(open_dataset(folder / "clinic.toml"))
    return data, pq.read_table(io.BytesIO(data)).to_pydict()


def test_values_come_from_the_description(tmp_path: Path) -> None:
    data, columns = twin(tmp_path)
    assert list(columns) == ["age", "score", "grade", "ward", "note", "free", "vector"]
    assert set(columns["age"]) == {17, 18, 19}
    assert all(-1 <= v < 1 for v in columns["score"])
    assert set(columns["grade"]) == {1, 2}
    assert set(columns["ward"]) == {"A", "B", None}
    assert 0 < columns["ward"].count(None) < 30
    assert set(columns["note"]) == {"a", "b", "c"}
    assert all(0 <= v < 1 for v in columns["free"])
    assert all(len(v) == 2 for v in columns["vector"])
    assert len(columns["age"]) == 200
    assert len(data) < 20_000


def test_other_rows_have_the_same_twin(tmp_path: Path) -> None:
    assert twin(tmp_path)[0] == twin(tmp_path, shift=1)[0]


def test_a_twin_is_a_source_of_rows(tmp_path: Path) -> None:
    data, _ = twin(tmp_path)
    encoding = Encoding((Feature("vector", numeric=NumericFeature(width=2)), Feature("age", numeric=NumericFeature())))
    source = RowSource(pq.read_table(io.BytesIO(data)), encoding)
    source.check()
    assert source.features(0, 3).shape == (3, 3)

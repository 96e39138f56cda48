"""Opening a data set: the owner's description, the inferred schema, versions, promises, CSV import."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enclave.datasets import Dataset, RowSource, open_dataset
from enclave.datasets.csv_import import import_csv
from enclave.errors import BadData, StoreError
from enclave.messages import (
    Category,
    ClassTarget,
    ColumnInfo,
    Encoding,
    Feature,
    NumericFeature,
    OneHotFeature,
    Target,
)

HEAD = '[dataset]\nname = "clinic"\npath = "{file}"\n'


def describe(folder: Path, body: str = "", file: str = "rows.parquet") -> Path:
    toml = folder / "clinic.toml"
    toml.write_text(HEAD.format(file=file) + body)
    return toml


def parquet(folder: Path, columns: dict[str, Any], **options: Any) -> None:
    pq.write_table(pa.table(columns), folder / "rows.parquet", **options)


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    parquet(tmp_path, {"age": [20, 40, 60], "ward": ["A", None, "B"], "name": ["x", "y", "z"]})
    return describe(
        tmp_path,
        'description = "Visits"\n[columns.age]\ntype = "number"\nlow = 17\nhigh = 90\n'
        '[columns.ward]\nvalues = ["A", "B"]\n[columns.name]\nhidden = true\n[policy]\nbuyers = []\n',
    )


def test_the_schema_is_inferred_declared_or_hidden(clinic: Path) -> None:
    dataset = open_dataset(clinic)
    assert (dataset.name, dataset.description, dataset.rows) == ("clinic", "Visits", 3)
    assert dataset.columns == (ColumnInfo("age", "number"), ColumnInfo("ward", "text", nullable=True))
    dataset.check()


def test_a_hidden_column_cannot_be_asked_for(clinic: Path) -> None:
    named = Encoding((Feature("name", one_hot=OneHotFeature((Category(("x",)),))),))
    with pytest.raises(BadData, match="no column 'name'") as caught:
        RowSource(open_dataset(clinic), named)
    assert caught.value.hint == "its columns: age, ward"


def test_the_repr_of_a_data_set_shows_no_path(clinic: Path) -> None:
    assert repr(open_dataset(clinic)) == "Dataset('clinic', 3 rows, 2 columns)"


def test_columns_of_every_type(tmp_path: Path) -> None:
    parquet(
        tmp_path,
        {
            "small": pa.array([1], pa.int8()),
            "half": pa.array(np.array([1], dtype=np.float16)),
            "flag": [True],
            "text": pa.array(["a"], pa.large_string()),
            "coded": pa.array(["a"]).dictionary_encode(),
            "pair": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
            "open": pa.array([[1, 2, 3]]),
            "when": pa.array([datetime.date(2024, 1, 1)]),
            "raw": pa.array([b"x"]),
            "empty": pa.nulls(1),
        },
    )
    dataset = open_dataset(describe(tmp_path, "[columns.open]\nwidth = 3\n"))
    assert [(c.name, c.type, c.width, c.nullable) for c in dataset.columns] == [
        ("small", "number", 1, False),
        ("half", "number", 1, False),
        ("flag", "text", 1, False),
        ("text", "text", 1, False),
        ("coded", "text", 1, False),
        ("pair", "list", 2, False),
        ("open", "list", 3, False),
        ("empty", "text", 1, True),
    ]
    wide = Encoding((Feature("open", numeric=NumericFeature(width=3)),))
    assert RowSource(dataset, wide).features(0, 1).tolist() == [[1, 2, 3]]


def test_a_list_column_of_any_length_needs_a_width(tmp_path: Path) -> None:
    parquet(tmp_path, {"open": pa.array([[1, 2, 3]])})
    with pytest.raises(BadData, match="lists of any length") as caught:
        open_dataset(describe(tmp_path))
    assert "[columns.open]" in caught.value.hint
    parquet(tmp_path, {"open": pa.array([[1, 2, 3], [1, 2]])})
    dataset = open_dataset(describe(tmp_path, "[columns.open]\nwidth = 3\n"))
    with pytest.raises(BadData, match="'open' holds lists of a length other than 3") as caught:
        dataset.check()
    assert "1 rows" in caught.value.detail


def test_nulls_are_found_without_statistics(tmp_path: Path) -> None:
    parquet(tmp_path, {"a": [1.0, None], "b": [1.0, 2.0]}, write_statistics=False)
    assert [c.nullable for c in open_dataset(describe(tmp_path)).columns] == [True, False]


@pytest.mark.parametrize(
    ("columns", "body", "problem"),
    [
        ({"age": [16]}, "[columns.age]\nlow = 17\n", "'age' has values outside the declared range"),
        ({"age": [91]}, "[columns.age]\nhigh = 90\n", "'age' has values outside the declared range"),
        ({"ward": ["C"]}, '[columns.ward]\nvalues = ["A"]\n', "'ward' holds values of no declared class"),
        ({"age": [None, 1.0]}, "[columns.age]\nnullable = false\n", "'age' has missing values"),
        ({"age": [float("nan"), 1.0]}, "", "'age' has missing values and is not declared nullable"),
        ({"age": [float("inf")]}, "", "'age' holds infinite values"),
    ],
)
def test_an_owner_is_held_to_the_description(tmp_path: Path, columns: dict[str, Any], body: str, problem: str) -> None:
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), tmp_path / "rows.parquet")
    dataset = open_dataset(describe(tmp_path, body))
    with pytest.raises(BadData, match=problem):
        dataset.check()


def ask(dataset: Dataset, feature: Feature, target: Target | None = None) -> RowSource:
    return RowSource(dataset, Encoding((feature,), target))


def test_a_declared_range_decides_without_a_look_at_the_rows(clinic: Path) -> None:
    dataset = open_dataset(clinic)
    # No row is above 60, and still the answer for a range that ends at 70 is no: it says nothing about the rows.
    with pytest.raises(BadData, match="declared to lie in") as caught:
        ask(dataset, Feature("age", numeric=NumericFeature(low=0, high=70)))
    assert caught.value.detail == ""
    ask(dataset, Feature("age", numeric=NumericFeature(low=0, high=70, clip=True))).check()
    ask(dataset, Feature("age", numeric=NumericFeature(low=17, high=90))).check()


def test_a_declared_vocabulary_decides_for_class_targets(tmp_path: Path) -> None:
    parquet(tmp_path, {"x": [1.0, 2.0], "y": ["A", "A"]})
    dataset = open_dataset(describe(tmp_path, '[columns.y]\nvalues = ["A", "B", "C"]\n'))
    feature = Feature("x", numeric=NumericFeature(low=0, high=9))
    with pytest.raises(BadData, match=r"may hold \['C'\], which no class takes"):
        ask(dataset, feature, Target("y", classes=ClassTarget((Category(("A",)), Category(("B",))))))
    ask(dataset, feature, Target("y", classes=ClassTarget((Category(("A",)), Category(other=True))))).check()


def test_versions_depend_on_salt_schema_and_content(clinic: Path, tmp_path: Path) -> None:
    salt = b"s" * 32
    first = open_dataset(clinic).version(salt)
    assert len(first) == 32
    assert open_dataset(clinic).version(salt) == first
    assert open_dataset(clinic).version(b"t" * 32) != first
    text = clinic.read_text()
    clinic.write_text(text.replace("hidden = true", "hidden = false"))
    assert open_dataset(clinic).version(salt) != first
    clinic.write_text(text)
    parquet(tmp_path, {"age": [20, 40, 61], "ward": ["A", None, "B"], "name": ["x", "y", "z"]})
    assert open_dataset(clinic).version(salt) != first


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("nme = 1\n", "unknown key 'nme'"),
        ("[colums.age]\n", "unknown key 'colums'"),
        ("[columns.age]\nlwo = 1\n", "unknown key 'lwo'"),
        ('[columns.age]\ntype = "int"\n', "type must be number, text or list, found 'int'"),
        ("[columns.age]\nlow = 2\nhigh = 1\n", "low must be below high"),
        ('[columns.age]\ntype = "text"\nlow = 2\n', "low and high belong to numbers, and type is text"),
        ('[columns.age]\ntype = "text"\nlow = 0\nhigh = 9\n', "low and high belong to numbers"),
        ("[columns.age]\nlow = nan\n", "low must be a finite number"),
        ("[columns.age]\nlow = true\n", "low must be a finite number"),
        ("[columns.age]\nvalues = []\n", "values must be a list of 1 to 4096"),
        ("[columns.age]\nvalues = [[1]]\n", "values must be strings"),
        ("[columns.age]\nwidth = 0\n", "width must be a whole number"),
        ("[columns.age]\nhidden = 1\n", "hidden must be true or false"),
        ("[columns]\nage = 3\n", r"one table per column"),
        ('delimiter = ";;"\n', "one character"),
        ("missing = 3\n", "missing must be a list of strings"),
        ("[columns.height]\nlow = 1\n", "'height' is declared, but the file has no such column"),
        ('[columns.age]\ntype = "text"\n', "'age' is declared text, the file holds number"),
        ("[columns.age]\nwidth = 3\n", "declared 3 wide, the file holds 1"),
        ("[columns.age]\nhidden = true\n[columns.ward]\nhidden = true\n", "no usable columns"),
        ("this is no toml", "not valid TOML"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, body: str, problem: str) -> None:
    parquet(tmp_path, {"age": [1], "ward": ["A"]})
    with pytest.raises(BadData, match=problem):
        open_dataset(describe(tmp_path, body))


def test_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"cannot read clinic.toml"):
        open_dataset(tmp_path / "clinic.toml")
    (tmp_path / "clinic.toml").write_text("[other]\n")
    with pytest.raises(BadData, match="unknown key 'other'"):
        open_dataset(tmp_path / "clinic.toml")
    (tmp_path / "clinic.toml").write_text("[policy]\n")
    with pytest.raises(BadData, match=r"expected a \[dataset\] section"):
        open_dataset(tmp_path / "clinic.toml")
    with pytest.raises(BadData, match=r"rows.parquet does not exist"):
        open_dataset(describe(tmp_path))
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    with pytest.raises(BadData, match=r"cannot read rows.parquet as Parquet"):
        open_dataset(describe(tmp_path))
    (tmp_path / "rows.pkl").write_bytes(b"x")
    with pytest.raises(BadData, match=r"must be .parquet or .csv, found rows.pkl"):
        open_dataset(describe(tmp_path, file="rows.pkl"))
    parquet(tmp_path, {"a": pa.array([], pa.int64())})
    with pytest.raises(BadData, match="'clinic' has no rows"):
        open_dataset(describe(tmp_path))


def test_a_truncated_file_is_damaged_and_not_a_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parquet(tmp_path, {"a": rng.normal(size=20_000)}, use_dictionary=False, compression="none")
    path = tmp_path / "rows.parquet"
    dataset = open_dataset(describe(tmp_path))
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(2000) + data[2004:])
    with pytest.raises(BadData, match="damaged"):
        dataset.check()


# ---- CSV


def write_csv(folder: Path, text: str) -> Path:
    (folder / "rows.csv").write_text(text)
    return folder


def test_csv_types_are_found_over_the_whole_file(tmp_path: Path) -> None:
    late = "\n".join(["1,1.5,a,007,9"] * 400_000)
    write_csv(tmp_path, f"whole,real,text,post,late\n{late}\n-2, .5e3 ,b,008,x\n")
    dataset = open_dataset(describe(tmp_path, file="rows.csv"))
    assert [(c.name, c.type) for c in dataset.columns] == [
        ("whole", "number"),
        ("real", "number"),
        ("text", "text"),
        ("post", "text"),
        ("late", "text"),
    ]
    assert dataset.rows == 400_001
    last = RowSource(dataset, Encoding((Feature("real", numeric=NumericFeature(low=-9, high=999)),)))
    assert last.features(400_000, 400_001).tolist() == [[500.0]]


def test_csv_missing_values_declared_types_and_delimiter(tmp_path: Path) -> None:
    write_csv(tmp_path, 'a;b;c\n+1;01;x\n?;02;?\n3;03;"?"\n')
    body = 'delimiter = ";"\nmissing = ["?"]\n[columns.b]\ntype = "number"\n'
    dataset = open_dataset(describe(tmp_path, body, file="rows.csv"))
    assert [(c.name, c.type, c.nullable) for c in dataset.columns] == [
        ("a", "text", True),  # "+1" is no number unless it is declared one
        ("b", "number", False),
        ("c", "text", True),
    ]
    kinds = OneHotFeature((Category(("?",)), Category(missing=True)))
    encoding = Encoding((Feature("b", numeric=NumericFeature(low=0, high=9)), Feature("c", one_hot=kinds)))
    assert RowSource(dataset, encoding).features(0, 3).tolist() == [[1, 0, 0], [2, 0, 1], [3, 1, 0]]


def test_text_in_a_declared_number_is_named_with_its_rows(tmp_path: Path) -> None:
    write_csv(tmp_path, "age,b\n1,1\nelderly,2\nelderly,3\n")
    with pytest.raises(BadData, match="'age' is declared a number and holds text") as caught:
        open_dataset(describe(tmp_path, '[columns.age]\ntype = "number"\n', file="rows.csv"))
    assert caught.value.detail == "rows of 'age' that hold text: 2, the first is row 2"
    assert "elderly" not in str(caught.value)


def test_csv_is_imported_once_per_content_and_privately(tmp_path: Path) -> None:
    write_csv(tmp_path, "a\n1\n")
    toml, scratch = describe(tmp_path, file="rows.csv"), tmp_path / "scratch"
    open_dataset(toml, scratch)
    (first,) = scratch.iterdir()
    assert first.stat().st_mode & 0o777 == 0o600
    assert scratch.stat().st_mode & 0o777 == 0o700
    stamp = first.stat().st_mtime_ns
    assert open_dataset(toml, scratch).rows == 1
    assert first.stat().st_mtime_ns == stamp
    write_csv(tmp_path, "a\n1\n2\n")
    assert open_dataset(toml, scratch).rows == 2
    assert len(list(scratch.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "cannot read rows.csv as CSV"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "one name per column"),
        ("a,b\n1,2\n1,2,3\n", "cannot read rows.csv as CSV"),
    ],
)
def test_bad_csv_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    write_csv(tmp_path, text)
    with pytest.raises(BadData, match=problem) as caught:
        open_dataset(describe(tmp_path, file="rows.csv"))
    assert "1,2,3" not in caught.value.public


@pytest.mark.parametrize("data", [b"a\n\xff\xfe\n", b"age\xff,b\n1,2\n"])
def test_csv_that_is_not_utf8_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.csv").write_bytes(data)
    with pytest.raises(BadData, match=r"cannot read rows.csv as CSV with a header: it is not UTF-8"):
        open_dataset(describe(tmp_path, file="rows.csv"))


@pytest.mark.parametrize("rule", ["low = 0\n", "high = 120\n", 'type = "number"\n', "low = 0\nhigh = 120\n"])
def test_text_in_a_column_of_numbers_is_refused(tmp_path: Path, rule: str) -> None:
    write_csv(tmp_path, "age,b\n1,x\n,x\nold,x\n4,x\nNaN?,x\n")
    with pytest.raises(BadData, match="column 'age' is declared a number and holds text") as caught:
        open_dataset(describe(tmp_path, f"[columns.age]\n{rule}", file="rows.csv"))
    assert caught.value.detail == "rows of 'age' that hold text: 2, the first is row 3"
    assert "row 3" not in caught.value.public


def test_text_in_parquet_under_a_declared_range_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path, {"age": ["1", "old"]})
    with pytest.raises(BadData, match="'age' is declared with low or high, and the file holds text"):
        open_dataset(describe(tmp_path, "[columns.age]\nlow = 0\n"))
    parquet(tmp_path, {"age": [[1.0, 2.0], [3.0, 4.0]]})
    open_dataset(describe(tmp_path, "[columns.age]\nlow = 0\nwidth = 2\n")).check()


def test_a_declared_list_or_column_that_a_csv_lacks(tmp_path: Path) -> None:
    write_csv(tmp_path, "a\n1\n")
    with pytest.raises(BadData, match="no list columns"):
        open_dataset(describe(tmp_path, '[columns.a]\ntype = "list"\n', file="rows.csv"))
    with pytest.raises(BadData, match=r"'b' is declared, but rows.csv does not have it"):
        open_dataset(describe(tmp_path, '[columns.b]\ntype = "text"\n', file="rows.csv"))


def test_an_import_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    write_csv(tmp_path, "a\n1\n")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        import_csv(tmp_path / "rows.csv", tmp_path / "file" / "x.parquet", types={}, missing=())
    with pytest.raises(BadData):
        write_csv(tmp_path, "a\nx\n")
        import_csv(tmp_path / "rows.csv", tmp_path / "x.parquet", types={"a": "number"}, missing=())
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("x.parquet"))

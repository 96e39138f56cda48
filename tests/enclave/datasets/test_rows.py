"""Encoded rows: what every rule makes of every kind of value, and what is refused."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.datasets import RowSource, canonical_text
from enclave.errors import BadData
from enclave.messages import Category, ClassTarget, Encoding, Feature, NumericFeature, OneHotFeature, Target

NUMBER = NumericFeature(shift=10, scale=5, low=0, high=100)


def one(column: str = "x", **kind: Any) -> Encoding:
    return Encoding((Feature(column, **kind),))


def encode(values: Any, **kind: Any) -> list[Any]:
    source = RowSource({"x": values}, one(**kind))
    return source.features(0, source.rows).tolist()


def with_target(target: Target, values: Any) -> RowSource:
    return RowSource({"x": [1.0] * len(values), "y": values}, Encoding((Feature("x", numeric=NUMBER),), target))


@pytest.mark.parametrize(
    "values",
    [
        np.array([20, 10]),
        np.array([20, 10], dtype=np.uint8),
        np.array([20.0, 10.0], dtype=np.float32),
        pa.array([Decimal("20.00"), Decimal("10.00")]),
        pa.array([20, 10]).dictionary_encode(),
    ],
)
def test_numbers_of_every_type_are_shifted_and_scaled(values: Any) -> None:
    assert encode(values, numeric=NUMBER) == [[2.0], [0.0]]


def test_booleans_are_numbers_and_texts() -> None:
    values = np.array([True, False])
    assert encode(values, numeric=NumericFeature(low=0, high=1)) == [[1.0], [0.0]]
    kinds = OneHotFeature((Category(("false",)), Category(("true",))))
    assert encode(values, one_hot=kinds) == [[0, 1], [1, 0]]


def test_missing_numbers_take_the_fill_in_raw_units() -> None:
    filled = NumericFeature(shift=10, scale=5, low=0, high=100, fill=15)
    assert encode([20.0, None, float("nan")], numeric=filled) == [[2.0], [1.0], [1.0]]
    assert encode(pa.array([20, None]), numeric=filled) == [[2.0], [1.0]]
    assert encode(pa.nulls(2), numeric=filled) == [[1.0], [1.0]]


def test_clipping_brings_values_into_the_range() -> None:
    clipped = NumericFeature(shift=0, scale=1, low=0, high=100, clip=True)
    assert encode([-5.0, 50.0, 1e30], numeric=clipped) == [[0.0], [50.0], [100.0]]


@pytest.mark.parametrize(
    ("values", "kind", "problem", "rows"),
    [
        ([1.0, -1.0, 101.0], {"numeric": NUMBER}, "outside the declared range", 2),
        ([1.0, float("inf")], {"numeric": NUMBER}, "infinite", 1),
        ([1.0, float("-inf")], {"numeric": NumericFeature(low=0, high=1, clip=True)}, "infinite", 1),
        (["1", "x", "3"], {"numeric": NUMBER}, "text where numbers are expected", 3),
    ],
)
def test_rows_that_do_not_fit_are_named_but_not_counted_in_public(
    values: Any, kind: dict[str, Any], problem: str, rows: int
) -> None:
    with pytest.raises(BadData) as caught:
        RowSource({"x": values}, one(**kind)).check()
    assert "'x'" in caught.value.public
    assert problem in caught.value.public
    assert f"{rows} rows of 'x'" in caught.value.detail
    # The public text can reach a buyer who chose the range: a count would answer its query.
    assert f"{rows} rows" not in caught.value.public + caught.value.hint


def test_a_null_without_fill_is_refused_before_any_row_is_read() -> None:
    with pytest.raises(BadData, match="'x' may have missing values and the encoding gives no fill"):
        RowSource({"x": [1.0, None]}, one(numeric=NUMBER))
    with pytest.raises(BadData, match="missing values"):
        RowSource({"x": [1.0, float("nan")]}, one(numeric=NUMBER))


def test_one_hot_groups_values_and_has_places_for_missing_and_other() -> None:
    groups = OneHotFeature((Category(("a", "b")), Category(("c",), missing=True), Category(other=True)))
    assert encode(["a", "b", "c", None, "z"], one_hot=groups) == [
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert encode(pa.array(["a", None, "z"]).dictionary_encode(), one_hot=groups) == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_without_such_a_place_a_value_encodes_as_zeros() -> None:
    strict = OneHotFeature((Category(("a",)), Category(("b",))))
    assert encode(["z", None, "b"], one_hot=strict) == [[0, 0], [0, 0], [0, 1]]
    assert encode(pa.nulls(1), one_hot=strict) == [[0, 0]]


@pytest.mark.parametrize(
    "values", [np.array([3, 0]), np.array([3.0, -0.0]), np.array([3, 0], dtype=np.float32), pa.array([3, 0], pa.int8())]
)
def test_whole_numbers_match_without_a_point(values: Any) -> None:
    digits = OneHotFeature((Category(("0",)), Category(("3",)), Category(("3.0",))))
    assert encode(values, one_hot=digits) == [[0, 1, 0], [1, 0, 0]]


def test_fractions_match_in_their_shortest_form() -> None:
    tenth = OneHotFeature((Category(("0.1",)),))
    assert encode(np.array([0.1]), one_hot=tenth) == [[1]]
    assert encode(np.array([0.1], dtype=np.float32), one_hot=tenth) == [[1]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("3.0", "3.0"),
        (3, "3"),
        (3.0, "3"),
        (-0.0, "0"),
        (np.int8(-3), "-3"),
        (np.float32(0.1), "0.1"),
        (0.1, "0.1"),
        (True, "true"),
        (np.bool_(False), "false"),
        (Decimal("2.50"), "2.5"),
        (Decimal("2.00"), "2"),
        (1e20, "100000000000000000000"),
    ],
)
def test_canonical_text(value: Any, text: str) -> None:
    assert canonical_text(value) == text


def test_class_targets_are_indices() -> None:
    classes = ClassTarget((Category(("no", "0")), Category(("yes",)), Category(missing=True, other=True)))
    source = with_target(Target("y", classes=classes), ["yes", "no", "0", None, "perhaps"])
    targets = source.targets(0, 5)
    assert targets.dtype == np.int64
    assert targets.tolist() == [1, 0, 0, 2, 2]


def test_unknown_classes_are_refused() -> None:
    classes = ClassTarget((Category(("no",)), Category(("yes",))))
    source = with_target(Target("y", classes=classes), ["yes", "perhaps", "never"])
    with pytest.raises(BadData, match="'y' holds values of no declared class") as caught:
        source.check()
    assert caught.value.detail == "2 rows of 'y' holds values of no declared class"
    with pytest.raises(BadData, match="no declared class"):
        source.targets(0, 3)
    assert source.targets(0, 1).tolist() == [1]
    with pytest.raises(BadData, match="may have missing values and no class takes them"):
        with_target(Target("y", classes=classes), ["yes", None])


def test_numeric_targets_are_numbers() -> None:
    source = with_target(Target("y", numeric=NumericFeature(shift=1, scale=2, low=0, high=9)), [1, 5])
    assert source.targets(0, 2).tolist() == [0.0, 2.0]


def test_targets_need_a_target() -> None:
    with pytest.raises(BadData, match="names no target"):
        RowSource({"x": [1.0]}, one(numeric=NUMBER)).targets(0, 1)


def test_lists_are_encoded_element_by_element() -> None:
    wide = NumericFeature(shift=0, scale=255, low=0, high=255, width=4)
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    expected = (np.arange(8).reshape(2, 4) / 255).tolist()
    assert encode(images, numeric=wide) == expected
    variable = pa.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    with pytest.raises(BadData, match="is 0 wide, the encoding expects 4"):
        encode(variable, numeric=wide)
    assert encode(variable.cast(pa.list_(pa.int64(), 4)), numeric=wide) == expected


def test_missing_lists_and_elements_take_the_fill() -> None:
    wide = NumericFeature(low=0, high=9, fill=7, width=2)
    values = pa.array([[1.0, None], None, [3.0, 4.0]], pa.list_(pa.float64(), 2))
    assert encode(values, numeric=wide) == [[1, 7], [7, 7], [3, 4]]


def test_the_width_of_lists_must_fit() -> None:
    values = pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))
    with pytest.raises(BadData, match="'x' is 2 wide, the encoding expects 3"):
        RowSource({"x": values}, one(numeric=NumericFeature(width=3)))
    with pytest.raises(BadData, match="lists and cannot be encoded one-hot"):
        RowSource({"x": values}, one(one_hot=OneHotFeature((Category(("1",)),))))
    with pytest.raises(BadData, match="cannot be a target"):
        RowSource(
            {"x": [1.0], "y": values},
            Encoding((Feature("x", numeric=NUMBER),), Target("y", numeric=NumericFeature(width=2))),
        )


def test_columns_that_are_not_there_are_named_with_those_that_are() -> None:
    with pytest.raises(BadData, match="no column 'age'") as caught:
        RowSource({"x": [1.0]}, one("age", numeric=NUMBER))
    assert "x" in caught.value.hint


def test_empty_data_is_refused() -> None:
    with pytest.raises(BadData, match="no rows"):
        RowSource({"x": np.zeros(0)}, one(numeric=NUMBER))


def test_one_error_names_all_columns() -> None:
    encoding = Encoding((Feature("a", numeric=NUMBER), Feature("b", numeric=NUMBER)))
    with pytest.raises(BadData) as caught:
        RowSource({"a": [1.0, 200.0], "b": ["x", "y"]}, encoding).check()
    assert "'a'" in caught.value.public
    assert "'b'" in caught.value.public


def test_rows_outside_the_table_are_a_mistake_of_the_caller() -> None:
    source = RowSource({"x": [1.0, 2.0]}, one(numeric=NUMBER))
    assert source.features(1, 1).shape == (0, 1)
    for start, stop in ((-1, 1), (0, 3), (2, 1)):
        with pytest.raises(ValueError, match="do not lie in"):
            source.features(start, stop)


def test_ragged_mappings_and_unknown_sources_are_refused() -> None:
    with pytest.raises(BadData, match="different lengths"):
        RowSource({"x": [1.0], "y": [1.0, 2.0]}, one(numeric=NUMBER))
    with pytest.raises(BadData, match="found int"):
        RowSource(3, one(numeric=NUMBER))
    with pytest.raises(BadData, match="does not exist"):
        RowSource("nowhere.parquet", one(numeric=NUMBER))


class Exported:
    """Any library's table."""

    def __arrow_c_stream__(self, requested: object = None) -> object:
        return pa.table({"x": [20, 10]}).__arrow_c_stream__(requested)


def test_a_data_frame_and_files_are_sources_too(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"x": [20, 10]})
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for source in (frame, Exported(), tmp_path / "rows.parquet", str(tmp_path / "rows.csv")):
        assert RowSource(source, one(numeric=NUMBER)).features(0, 2).tolist() == [[2.0], [0.0]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "large.parquet"
    count = 50_000
    table = pa.table({"i": np.arange(count), "t": [str(i % 7) for i in range(count)]})
    pq.write_table(table, path, row_group_size=20_011)
    return path


def large_source(path: Path) -> RowSource:
    digits = OneHotFeature(tuple(Category((str(d),)) for d in range(7)))
    number = NumericFeature(low=0, high=1e6)
    return RowSource(path, Encoding((Feature("t", one_hot=digits),), Target("i", numeric=number)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 9000)), min_size=1, max_size=6))
def test_any_block_is_what_its_rows_are(large: Path, blocks: list[tuple[int, int]]) -> None:
    source = large_source(large)
    for start, size in blocks:
        stop = min(50_000, start + size)
        expected = np.arange(start, stop)
        assert np.array_equal(source.targets(start, stop), expected)
        assert np.array_equal(source.features(start, stop).argmax(axis=1), expected % 7)


def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    # One row group of 40 MB: a reader that takes a whole group, or the file, is found out.
    path, columns, count = tmp_path / "wide.parquet", 8, 600_000
    names = [f"c{i}" for i in range(columns)]
    values = np.random.default_rng(0).normal(size=count)
    pq.write_table(pa.table({n: values + i for i, n in enumerate(names)}), path, use_dictionary=False)
    source = RowSource(path, Encoding(tuple(Feature(n, numeric=NumericFeature(low=-99, high=99)) for n in names)))
    tracemalloc.start()
    before, most, total = pa.total_allocated_bytes(), 0, 0.0
    for start in range(0, count, 4096):
        total += float(source.features(start, min(count, start + 4096)).sum())
        most = max(most, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isclose(total, (values[:, None] + np.arange(columns)).sum())
    assert peak < 4 << 20, "numpy held more than a few blocks"
    assert most < 16 << 20, "arrow held more than some pages of every column"


def test_wide_rows_are_encoded_in_little_more_memory_than_they_need() -> None:
    """A training asks for all rows at once, and a check for many: neither may take several times their size."""
    pixels = np.random.default_rng(0).integers(0, 256, (12_000, 500)).astype(np.uint8)
    source = RowSource({"x": pixels}, one(numeric=NumericFeature(low=0, high=255, scale=255, width=500)))
    tracemalloc.start()
    source.check()
    _, checking = tracemalloc.get_traced_memory()
    encoded = source.features(0, source.rows)
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(encoded, pixels / 255)
    assert checking < 64 << 20
    assert reading < encoded.nbytes + (64 << 20)

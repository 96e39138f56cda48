"""Raw columns to numbers, by the public encoding of the job. Pure functions of one block of one column.

Numeric: encoded = (value - shift) / scale, after clipping to [low, high] where the feature says so. A null or NaN
is missing and becomes `fill`. An infinite value is never accepted.
One-hot and classes: a value is matched by its canonical text (`canonical.py`); a missing value belongs to the
category with `missing`, a value that no category names to the one with `other`. Without such a category a
feature encodes as zeros, and a class target is an error.

What does not fit is counted in a `Faults`, so that one pass names every problem with the number of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from enclave.datasets.canonical import canonical_text
from enclave.errors import BadData
from enclave.messages import Category, ClassTarget, Feature, NumericFeature, OneHotFeature, Target

__all__ = ["Faults", "distinct", "encode_classes", "encode_feature", "encode_target"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Faults:
    """Rows that do not fit, by (column, problem)."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], int] = {}

    def add(self, column: str, problem: str, rows: int) -> None:
        """Counts `rows` more rows with `problem`; nothing when it is 0."""
        if rows:
            key = (column, problem)
            self._rows[key] = self._rows.get(key, 0) + int(rows)

    def raise_any(self) -> None:
        """Raises BadData naming columns and problems; the row counts are in its `detail`."""
        if not self._rows:
            return
        public = "; ".join(f"column {column!r} {problem}" for column, problem in self._rows)
        detail = "; ".join(f"{rows} rows of {column!r} {problem}" for (column, problem), rows in self._rows.items())
        raise BadData(
            public,
            hint="let the encoding clip, fill or take other values, or correct the rows",
            detail=detail,
        )


def encode_feature(feature: Feature, column: Any, faults: Faults) -> FloatArray:
    """One block of one Arrow column as float64 (rows, feature.width)."""
    if feature.numeric is not None:
        return _numeric(feature.column, feature.numeric, _joined(column), faults)
    assert feature.one_hot is not None
    return _one_hot(feature.one_hot, _joined(column))


def encode_target(target: Target, column: Any, faults: Faults) -> FloatArray | IntArray:
    """One block of the target column: float64 (rows,), or int64 class indices (rows,)."""
    if target.numeric is not None:
        return _numeric(target.column, target.numeric, _joined(column), faults)[:, 0]
    assert target.classes is not None
    return encode_classes(target.column, target.classes, _joined(column), faults)


def encode_classes(name: str, target: ClassTarget, column: Any, faults: Faults) -> IntArray:
    """Class indices; rows that no class takes are counted, and hold -1."""
    codes = _codes(target.classes, column)
    missing = np.asarray(_null_mask(column), dtype=bool)
    faults.add(name, "is missing where a class is needed", int(((codes < 0) & missing).sum()))
    faults.add(name, "holds values of no declared class", int(((codes < 0) & ~missing).sum()))
    return codes


def _numeric(name: str, rule: NumericFeature, column: Any, faults: Faults) -> FloatArray:
    width = max(1, rule.width)
    raw = _list_values(name, width, column, faults) if _is_list(column.type) else _numbers(name, column, faults)
    if raw.shape[1] != width:
        faults.add(name, f"holds {raw.shape[1]} numbers a row, the encoding expects {width}", len(raw))
        return np.zeros((len(raw), width))
    missing = np.isnan(raw)
    infinite = np.isinf(raw)
    faults.add(name, "holds infinite values", int(infinite.any(axis=1).sum()))
    if rule.fill is None:
        faults.add(name, "has missing values and the encoding gives no fill", int(missing.any(axis=1).sum()))
    raw = np.where(missing, 0.0 if rule.fill is None else rule.fill, raw)
    if rule.clip:
        raw = np.clip(raw, rule.low, rule.high)
    else:
        outside = ((raw < rule.low) | (raw > rule.high)) & ~missing & ~infinite
        problem = f"has values outside the declared range [{rule.low:g}, {rule.high:g}]"
        faults.add(name, problem, int(outside.any(axis=1).sum()))
    encoded: FloatArray = (raw - rule.shift) / rule.scale
    return encoded


def _one_hot(feature: OneHotFeature, column: Any) -> FloatArray:
    codes = _codes(feature.categories, column)
    encoded = np.zeros((len(codes), len(feature.categories)))
    known = np.flatnonzero(codes >= 0)
    encoded[known, codes[known]] = 1.0
    return encoded


def _codes(categories: Sequence[Category], column: Any) -> IntArray:
    """Index of the category of every row, -1 where there is none."""
    lookup = {value: i for i, category in enumerate(categories) for value in category.values}
    missing = next((i for i, category in enumerate(categories) if category.missing), -1)
    other = next((i for i, category in enumerate(categories) if category.other), -1)
    indices, texts = distinct(column)
    table = np.array([*(lookup.get(text, other) for text in texts), missing], dtype=np.int64)
    codes: IntArray = table[indices]
    return codes


def distinct(column: Any) -> tuple[IntArray, list[str]]:
    """The canonical texts of an Arrow column and the index of every row's; missing rows have index len(texts).

    Two values may share a text (0.0 and -0.0), and then stand in the list twice.
    """
    column = _joined(column)
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.int64), []
    nothing = pa.scalar(None, column.type)
    encoded = pc.dictionary_encode(pc.if_else(_null_mask(column), nothing, column))
    # Floats go through numpy, which keeps float32's own shortest text.
    values = encoded.dictionary
    raw = values.to_numpy(zero_copy_only=False) if pa.types.is_floating(values.type) else values.to_pylist()
    indices: IntArray = pc.fill_null(pc.cast(encoded.indices, pa.int64()), len(values)).to_numpy(zero_copy_only=False)
    return indices, [canonical_text(v) for v in raw]


def _null_mask(column: Any) -> Any:
    """Arrow booleans: null, or NaN."""
    return pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))


def _numbers(name: str, column: Any, faults: Faults) -> FloatArray:
    """A flat column as float64 (rows, 1), missing as NaN."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full((len(column), 1), np.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or _is_bool(kind)):
        faults.add(name, "holds text where numbers are expected", len(column))
        return np.zeros((len(column), 1))
    if _is_bool(kind):
        column = pc.cast(column, pa.int8())
    # Safety: an integer beyond 2^53 is rounded, by less than a relative 2^-53.
    numbers = pc.cast(column, pa.float64(), safe=False)
    return np.asarray(pc.fill_null(numbers, float("nan")), dtype=np.float64).reshape(-1, 1)


def _list_values(name: str, width: int, column: Any, faults: Faults) -> FloatArray:
    """A list column as float64 (rows, width); a null list is a row of NaN."""
    lengths = pc.list_value_length(column)
    present = np.asarray(pc.is_valid(column), dtype=bool)
    wrong = np.asarray(pc.fill_null(pc.not_equal(lengths, width), False), dtype=bool)
    out = np.full((len(column), width), np.nan)
    if wrong.any():
        faults.add(name, f"holds lists of a length other than {width}", int(wrong.sum()))
        return np.zeros((len(column), width))
    out[present] = _numbers(name, pc.list_flatten(column), faults).reshape(-1, width)
    return out


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_bool(kind: Any) -> bool:
    return bool(pa.types.is_boolean(kind))


def _joined(column: Any) -> Any:
    """One Arrow array of a chunked column, dictionary types decoded."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

"""What an owner declares against what a buyer asks for, and against the rows themselves.

`cover` compares two public things and looks at no row: a refusal by it tells nobody anything. It is therefore the
first check of a job. Where an owner declares neither range nor vocabulary, only the rows can tell whether they fit,
and a refusal is one bit about them; owners who mind declare them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from enclave.datasets.description import ColumnRule
from enclave.datasets.encode import Faults, encode_classes, encode_feature
from enclave.datasets.table import Table, has_missing
from enclave.errors import BadData
from enclave.messages import Category, ClassTarget, ColumnInfo, Encoding, Feature, NumericFeature

__all__ = ["cover", "hold_promises"]

_BLOCK_ROWS = 16_384
_ANYTHING = 1e17


def cover(encoding: Encoding, columns: Mapping[str, ColumnInfo], rules: Mapping[str, ColumnRule]) -> None:
    """Checks that the encoding accepts everything that the public description allows; raises BadData."""
    for feature in encoding.features:
        info = _column(feature.column, columns)
        if feature.numeric is not None:
            _cover_numeric(feature.numeric, info, rules.get(feature.column, ColumnRule()))
        elif info.type == "list":
            raise BadData(f"column {info.name!r} holds lists and cannot be encoded one-hot")
    target = encoding.target
    if target is None:
        return
    info, rule = _column(target.column, columns), rules.get(target.column, ColumnRule())
    if target.numeric is not None:
        _cover_numeric(target.numeric, info, rule)
    if info.type == "list":
        raise BadData(f"column {info.name!r} holds lists and cannot be a target")
    if target.classes is not None:
        _cover_classes(target.classes.classes, info, rule)


def _column(name: str, columns: Mapping[str, ColumnInfo]) -> ColumnInfo:
    info = columns.get(name)
    if info is None:
        raise BadData(f"the data set has no column {name!r}", hint=f"its columns: {', '.join(list(columns)[:40])}")
    return info


def _cover_numeric(feature: NumericFeature, info: ColumnInfo, rule: ColumnRule) -> None:
    # Booleans are text in the schema and numbers 0 and 1 here; text that is none is found in the rows.
    width = max(1, feature.width)
    if info.width != width:
        raise BadData(f"column {info.name!r} is {info.width} wide, the encoding expects {width}")
    if info.nullable and feature.fill is None:
        raise BadData(
            f"column {info.name!r} may have missing values and the encoding gives no fill", hint="set fill for it"
        )
    low, high = rule.low, rule.high
    if feature.clip or (low is None and high is None):
        return
    if (low is not None and low < feature.low) or (high is not None and high > feature.high):
        raise BadData(
            f"column {info.name!r} is declared to lie in [{low}, {high}], "
            f"the encoding accepts [{feature.low:g}, {feature.high:g}] without clipping",
            hint="widen low and high of the feature, or set clip",
        )


def _cover_classes(classes: Sequence[Category], info: ColumnInfo, rule: ColumnRule) -> None:
    if info.nullable and not any(c.missing for c in classes):
        raise BadData(f"target column {info.name!r} may have missing values and no class takes them")
    if rule.values is None or any(c.other for c in classes):
        return
    left_out = sorted(set(rule.values) - {value for c in classes for value in c.values})
    if left_out:
        raise BadData(f"target column {info.name!r} may hold {left_out[:8]}, which no class takes")


def hold_promises(
    table: Table, columns: Sequence[ColumnInfo], rules: Mapping[str, ColumnRule], rows: int, faults: Faults
) -> None:
    """Counts in `faults` the rows that break the owner's own description."""
    reader = table.reader([c.name for c in columns])
    for start in range(0, rows, _BLOCK_ROWS):
        block = reader.read(start, min(rows, start + _BLOCK_ROWS))
        for info in columns:
            column, rule = block.column(info.name), rules.get(info.name, ColumnRule())
            if not info.nullable and has_missing(column):
                faults.add(info.name, "has missing values and is not declared nullable", _missing(column))
            if info.type in ("number", "list"):
                low = -_ANYTHING if rule.low is None else rule.low
                high = _ANYTHING if rule.high is None else rule.high
                fill = min(max(0.0, low), high)
                numeric = NumericFeature(low=low, high=high, fill=fill, width=info.width)
                encode_feature(Feature(info.name, numeric=numeric), column, faults)
            if rule.values is not None and info.type != "list":
                # A second class, never used, makes one vocabulary a valid target.
                known = ClassTarget((Category(rule.values, missing=True), Category(("\0",))))
                encode_classes(info.name, known, column.combine_chunks(), faults)


def _missing(column: object) -> int:
    return int(np.count_nonzero(np.asarray(column.is_null(nan_is_null=True))))  # type: ignore[attr-defined]

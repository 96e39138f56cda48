"""A first encoding from rows that the caller may look at: the buyer's own, or a mock twin.

The result is public and part of a job, so every statistic in it is told to all parties: fit it on rows that may be
known, and edit it as needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from enclave.datasets.encode import Faults, distinct, encode_feature
from enclave.datasets.rows import as_table
from enclave.datasets.table import Table
from enclave.errors import BadData
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

__all__ = ["fit_encoding"]

_BLOCK_ROWS = 16_384
_ANY = 1e17


def fit_encoding(
    source: Any,
    *,
    features: Sequence[str] | None = None,
    target: str | None = None,
    categorical: Sequence[str] = (),
    regression: bool = False,
    max_categories: int = 64,
) -> Encoding:
    """An encoding fitted on `source`, which is whatever `as_table` takes.

    Numbers get their mean and standard deviation as shift and scale, their extremes as a range to which other rows
    are clipped, and their mean as fill. Text columns, and those named in `categorical`, become one indicator for
    each of their most frequent values, the rest and missing values sharing a last one. The target is a class per
    value, in sorted order (numbers numerically), or a number when `regression` is set.

    Args: features: columns in order; by default all but the target.
    Raises: BadData for an unknown column, one without present values, and a target with fewer than 2 classes.
    """
    table = as_table(source)
    names = [n for n in table.columns if n != target] if features is None else list(features)
    for name in (*names, *([target] if target is not None else []), *categorical):
        if name not in table.columns:
            raise BadData(f"there is no column {name!r}", hint=f"columns: {', '.join(list(table.columns)[:40])}")
    encoded = tuple(
        _one_hot(table, name, max_categories)
        if name in categorical or table.columns[name].type == "text"
        else Feature(name, numeric=_numeric(table, table.columns[name], clip=True))
        for name in names
    )
    return Encoding(encoded, None if target is None else _target(table, target, regression))


def _numeric(table: Table, info: ColumnInfo, *, clip: bool) -> NumericFeature:
    width = max(1, info.width)
    wide = NumericFeature(low=-_ANY, high=_ANY, fill=_ANY, width=width)
    count, total, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    for column in _blocks(table, info.name):
        faults = Faults()
        values = encode_feature(Feature(info.name, numeric=wide), column, faults)
        faults.raise_any()
        present = values[values != _ANY]
        if present.size:
            count += present.size
            low, high = min(low, float(present.min())), max(high, float(present.max()))
            total, squares = total + float(present.sum()), squares + float((present**2).sum())
    if not count:
        raise BadData(f"column {info.name!r} has no present values")
    mean = float(np.clip(total / count, low, high))
    deviation = float(np.sqrt(max(0.0, squares / count - mean**2)))
    # A constant column has no spread: it encodes as 0 and its range is opened so that it is one.
    scale = deviation if deviation > 1e-9 * max(1.0, abs(mean)) else 1.0
    high = high if high > low else low + scale
    return NumericFeature(mean, scale, low, high, fill=mean if info.nullable else None, clip=clip, width=width)


def _one_hot(table: Table, name: str, limit: int) -> Feature:
    counts = _counts(table, name)
    missing = counts.pop(None, 0) > 0
    ranked = sorted(counts, key=lambda v: (-counts[v], str(v)))
    kept = sorted(str(v) for v in ranked[: limit - 1])
    categories = [Category((value,)) for value in kept]
    categories.append(Category(missing=missing or table.columns[name].nullable, other=True))
    return Feature(name, one_hot=OneHotFeature(tuple(categories)))


def _target(table: Table, name: str, regression: bool) -> Target:
    info = table.columns[name]
    if regression:
        return Target(name, numeric=_numeric(table, info, clip=False))
    counts = _counts(table, name)
    values = [str(v) for v in counts if v is not None]
    values.sort(key=(lambda v: (float(v), v)) if info.type == "number" else (lambda v: (0.0, v)))
    if not 2 <= len(values) <= 1024 or None in counts:
        raise BadData(f"target {name!r} needs 2 to 1024 classes and no missing value, found {len(values)} classes")
    return Target(name, classes=ClassTarget(tuple(Category((v,)) for v in values)))


def _counts(table: Table, name: str) -> Counter[str | None]:
    """Rows per canonical value; None stands for missing."""
    counts: Counter[str | None] = Counter()
    for column in _blocks(table, name):
        indices, texts = distinct(column)
        rows = np.bincount(indices, minlength=len(texts) + 1).tolist()
        for text, count in zip([*texts, None], rows, strict=True):
            if count:
                counts[text] += count
    return counts


def _blocks(table: Table, name: str) -> Any:
    reader = table.reader([name])
    for start in range(0, table.rows, _BLOCK_ROWS):
        yield reader.read(start, min(table.rows, start + _BLOCK_ROWS)).column(name)

"""Encodings fitted on training rows, as the plaintext references have them.

Numbers: the training rows' median for missing values, then mean 0 and variance 1 by the training rows. Text: one
indicator per value, missing being a value of its own; values seen fewer than 20 times in training share one
indicator, and values not seen there get none. These constants are public: here they are taken from the pooled
training rows, so that the figures can be compared with those of one table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from enclave.messages import Category, ClassTarget, Encoding, Feature, NumericFeature, OneHotFeature, Target

__all__ = ["classes", "encoding_toml", "fitted", "joint"]

_RARE = 20


def fitted(table: Any, training: Any, target: Target, columns: Sequence[str]) -> Encoding:
    """The encoding of `columns` of a table.

    Args:
        table: all rows; the declared range of a number spans what occurs in them.
        training: indices of the rows from which everything else is taken.
    """
    import pyarrow as pa

    rows = table.take(pa.array(training))
    features = []
    for name in columns:
        if pa.types.is_string(table.schema.field(name).type) or pa.types.is_large_string(table.schema.field(name).type):
            features.append(Feature(name, one_hot=_indicators(rows.column(name).to_pylist())))
        else:
            features.append(Feature(name, numeric=_standardised(_floats(rows, name), _floats(table, name))))
    return Encoding(tuple(features), target)


def joint(encoding: Encoding) -> Encoding:
    """The same columns in raw units: the parties standardise them together, and nobody's moments are public."""
    raw = tuple(
        feature if feature.numeric is None else replace(feature, numeric=replace(feature.numeric, shift=0.0, scale=1.0))
        for feature in encoding.features
    )
    return replace(encoding, features=raw, standardise=True)


def classes(column: str, *groups: str) -> Target:
    """A target with one raw value per class."""
    return Target(column, classes=ClassTarget(tuple(Category((value,)) for value in groups)))


def _floats(table: Any, name: str) -> Any:
    return table.column(name).to_numpy().astype(np.float64)


def _standardised(training: Any, every: Any) -> NumericFeature:
    fill = float(np.nanmedian(training))
    filled = np.where(np.isnan(training), fill, training)
    mean, deviation = float(filled.mean()), float(filled.std())
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    missing = fill if np.isnan(every).any() else None
    return NumericFeature(mean, deviation or 1.0, low, high if high > low else low + 1.0, fill=missing)


def _indicators(values: Sequence[str | None]) -> OneHotFeature:
    counts = Counter(values)
    often = sorted(value for value, n in counts.items() if value is not None and n >= _RARE)
    rare = sorted(value for value, n in counts.items() if value is not None and n < _RARE)
    categories = [Category((value,)) for value in often]
    if counts[None] >= _RARE:
        categories.append(Category(missing=True))
    if rare or 0 < counts[None] < _RARE:
        categories.append(Category(tuple(rare), missing=0 < counts[None] < _RARE))
    return OneHotFeature(tuple(categories))


def encoding_toml(encoding: Encoding) -> str:
    """The encoding as the file that a buyer's command reads."""
    lines = ["standardise = true"] if encoding.standardise else []
    for feature in encoding.features:
        lines += ["[[features]]", f"column = {json.dumps(feature.column)}"]
        lines += _number_lines(feature.numeric) if feature.numeric is not None else []
        lines += [f"categories = {_groups(feature.one_hot.categories)}"] if feature.one_hot is not None else []
    if encoding.target is not None:
        lines += ["[target]", f"column = {json.dumps(encoding.target.column)}"]
        numeric, groups = encoding.target.numeric, encoding.target.classes
        lines += [line for line in _number_lines(numeric) if not line.startswith("width")] if numeric else []
        lines += [f"classes = {_groups(groups.classes)}"] if groups is not None else []
    return "\n".join(lines) + "\n"


def _number_lines(numeric: NumericFeature) -> list[str]:
    lines = [f"{key} = {value!r}" for key, value in (("shift", numeric.shift), ("scale", numeric.scale))]
    lines += [f"low = {float(numeric.low)!r}", f"high = {float(numeric.high)!r}"]
    if numeric.fill is not None:
        lines.append(f"fill = {float(numeric.fill)!r}")
    if numeric.clip:
        lines.append("clip = true")
    if numeric.width > 1:
        lines.append(f"width = {numeric.width}")
    return lines


def _groups(categories: Sequence[Category]) -> str:
    return "[" + ", ".join(_group(category) for category in categories) + "]"


def _group(category: Category) -> str:
    flags = [f"{name} = true" for name, on in (("missing", category.missing), ("other", category.other)) if on]
    values = [f"values = {json.dumps(list(category.values))}"]
    return "{" + ", ".join(values + flags) + "}"

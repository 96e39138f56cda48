"""The buyer's encoding file: TOML that says how every owner turns its own rows into numbers.

It is public and part of the job, so it holds constants only: no statistic of anybody's data is read here. The
format is described in docs/datasets.md. Unknown keys are refused: a misspelt `fill` must not become "no fill".
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enclave.errors import BadData, BadSpec
from enclave.messages import Category, ClassTarget, Encoding, Feature, NumericFeature, OneHotFeature, Target

__all__ = ["parse_encoding", "read_encoding"]

_NUMERIC = {"shift", "scale", "low", "high", "fill", "clip", "width"}
_HINT = "docs/datasets.md describes the encoding file"


def read_encoding(path: Path) -> Encoding:
    """The encoding in the TOML file at `path`; raises BadData naming the place that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not a text file", hint=_HINT) from error
    except OSError as error:
        raise BadData(f"cannot read the encoding {path}: {(error.strerror or str(error)).lower()}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadData(f"{path} is not valid TOML: {error}", hint=_HINT) from error
    return parse_encoding(table)


def parse_encoding(table: Mapping[str, Any]) -> Encoding:
    """The encoding that a parsed TOML table describes; raises BadData naming the place that is wrong."""
    _only(table, {"features", "target", "standardise"}, "the encoding")
    listed = table.get("features")
    if not isinstance(listed, list) or not listed:
        raise BadData("the encoding needs at least one [[features]] table", hint=_HINT)
    try:
        features = tuple(f for i, entry in enumerate(listed, 1) for f in _features(entry, f"feature {i}"))
        target = _target(table["target"]) if "target" in table else None
        return Encoding(features=features, target=target, standardise=_flag(table, "standardise", "the encoding"))
    except BadSpec as error:
        raise BadData(error.public, hint=_HINT) from error


def _features(entry: object, where: str) -> list[Feature]:
    table = _table(entry, where)
    columns = table.get("columns", [table["column"]] if "column" in table else [])
    if ("columns" in table) == ("column" in table) or not _are_texts(columns):
        raise BadData(f"{where} needs either column = NAME or columns = [NAMES]", hint=_HINT)
    where = f"{where} ({columns[0]})"
    if "categories" in table:
        _only(table, {"column", "columns", "categories"}, where)
        one_hot = OneHotFeature(categories=_categories(table["categories"], where))
        return [Feature(column=name, one_hot=one_hot) for name in columns]
    _only(table, {"column", "columns", *_NUMERIC}, where)
    numeric = _numeric(table, where)
    return [Feature(column=name, numeric=numeric) for name in columns]


def _target(entry: object) -> Target:
    table = _table(entry, "the target")
    column = table.get("column")
    if not isinstance(column, str):
        raise BadData("the target needs column = NAME", hint=_HINT)
    where = f"the target ({column})"
    if "classes" in table:
        _only(table, {"column", "classes"}, where)
        return Target(column=column, classes=ClassTarget(classes=_categories(table["classes"], where)))
    _only(table, {"column", *(_NUMERIC - {"width"})}, where)
    return Target(column=column, numeric=_numeric(table, where))


def _numeric(table: Mapping[str, Any], where: str) -> NumericFeature:
    given: dict[str, Any] = {}
    for key in ("shift", "scale", "low", "high", "fill"):
        if key in table:
            given[key] = _number(table[key], f"{key} of {where}")
    if "width" in table:
        width = table["width"]
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise BadData(f"width of {where} must be a whole number above 0, found {width!r}", hint=_HINT)
        given["width"] = width
    if "low" not in given or "high" not in given:
        raise BadData(f"{where} needs its declared range: low = NUMBER and high = NUMBER", hint=_HINT)
    return NumericFeature(clip=_flag(table, "clip", where), **given)


def _categories(entry: object, where: str) -> tuple[Category, ...]:
    if not isinstance(entry, list) or not entry:
        raise BadData(f"{where} needs a list of categories", hint=_HINT)
    return tuple(_category(item, where) for item in entry)


def _category(item: object, where: str) -> Category:
    """ "x" | 3 | ["x", "y"] | {values = ["x"], missing = true, other = true}"""
    if isinstance(item, Mapping):
        _only(item, {"values", "missing", "other"}, f"a category of {where}")
        values = item.get("values", [])
        if not isinstance(values, list):
            raise BadData(f"values of a category of {where} must be a list, found {values!r}", hint=_HINT)
        return Category(
            values=tuple(_raw(v, where) for v in values),
            missing=_flag(item, "missing", where),
            other=_flag(item, "other", where),
        )
    members: Sequence[object] = item if isinstance(item, list) else [item]
    return Category(values=tuple(_raw(v, where) for v in members))


def _raw(value: object, where: str) -> str:
    # The rule of `enclave.datasets.canonical_text`, which is not imported because it would bring pyarrow with it.
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    raise BadData(f"a category of {where} must be text, a number or a boolean, found {value!r}", hint=_HINT)


def _table(entry: object, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise BadData(f"{where} must be a table, found {entry!r}", hint=_HINT)
    return entry


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadData(f"{where} must be a number, found {value!r}", hint=_HINT)
    return float(value)


def _flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise BadData(f"{key} of {where} must be true or false, found {value!r}", hint=_HINT)
    return value


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, str) for v in values)


def _only(table: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for key in table:
        if key not in allowed:
            raise BadData(f"{where} has an unknown key {key!r}: expected {', '.join(sorted(allowed))}", hint=_HINT)

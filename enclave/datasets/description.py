"""What an owner declares about a data set, in TOML. All of it is public except the path.

    [dataset]
    name = "clinic"
    path = "clinic.parquet"        # or .csv; relative to this file
    description = "Visits of 2024"
    missing = ["", "?"]            # CSV only: what stands for a missing value
    delimiter = ";"                # CSV only

    [columns.age]                  # optional: what is left out is inferred from the file
    type = "number"                # number | text | list
    low = 17
    high = 90

    [columns.ward]
    values = ["A", "B"]
    nullable = true

    [columns.patient_name]
    hidden = true                  # not part of the data set that others see

    [policy]                       # read by `enclave.policy`

A declared range or vocabulary is a promise: `Dataset.check` holds the rows against it, the mock twin is drawn
from it, and a job whose encoding does not cover it is refused without a look at the rows.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from enclave.datasets.canonical import canonical_text
from enclave.errors import BadData

__all__ = ["ColumnRule", "Description", "read_description"]

DEFAULT_MISSING = ("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL")
MAX_TOML_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What the owner declares of one column; None where it is left to the file."""

    type: str | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] | None = None
    nullable: bool | None = None
    width: int | None = None
    hidden: bool = False
    integral: bool = False  # low and high, or all values, were written as whole numbers


@dataclass(frozen=True, slots=True)
class Description:
    """The parsed description; `path` is absolute."""

    name: str
    path: Path
    description: str = ""
    missing: tuple[str, ...] = DEFAULT_MISSING
    delimiter: str = ","
    columns: Mapping[str, ColumnRule] = field(default_factory=dict)


def read_description(path: Path) -> Description:
    """Parses the TOML at `path`; raises BadData naming the key that is wrong. [policy] is left to its reader."""
    try:
        data = path.read_bytes()
        if len(data) > MAX_TOML_BYTES:
            raise BadData(f"{path.name} is too long: at most {MAX_TOML_BYTES} bytes, found {len(data)}")
        document = tomllib.loads(data.decode())
    except OSError as error:
        raise BadData(f"cannot read {path.name}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadData(f"{path.name} is not valid TOML: {error}") from error
    _refuse_unknown(path.name, document, ("dataset", "columns", "policy"))
    head = _table(document, "dataset")
    _refuse_unknown("[dataset]", head, ("name", "path", "description", "missing", "delimiter"))
    name = _text(head, "[dataset]", "name")
    if not _NAME.fullmatch(name):
        raise BadData(f"[dataset] name {name[:80]!r} is not a plain name: letters, digits, _ . -, at most 64")
    delimiter = _text(head, "[dataset]", "delimiter", ",")
    if len(delimiter) != 1:
        raise BadData(f"[dataset] delimiter must be one character, found {delimiter!r}")
    missing = head.get("missing", list(DEFAULT_MISSING))
    if not isinstance(missing, list) or not all(isinstance(m, str) for m in missing):
        raise BadData("[dataset] missing must be a list of strings")
    columns = document.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(rule, dict) for rule in columns.values()):
        raise BadData("[columns] must hold one table per column, as in [columns.age]")
    return Description(
        name=name,
        path=path.parent.resolve() / _text(head, "[dataset]", "path"),
        description=_text(head, "[dataset]", "description", ""),
        missing=tuple(missing),
        delimiter=delimiter,
        columns=MappingProxyType({column: _rule(column, rule) for column, rule in columns.items()}),
    )


def _rule(column: str, rule: Mapping[str, Any]) -> ColumnRule:
    where = f"[columns.{column}]"
    _refuse_unknown(where, rule, ("type", "low", "high", "values", "nullable", "width", "hidden"))
    kind = rule.get("type")
    if kind not in (None, "number", "text", "list"):
        raise BadData(f"{where} type must be number, text or list, found {kind!r}")
    for key in ("nullable", "hidden"):
        if not isinstance(rule.get(key, False), bool):
            raise BadData(f"{where} {key} must be true or false")
    width = rule.get("width")
    if width is not None and (isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= 1 << 20):
        raise BadData(f"{where} width must be a whole number from 1 to {1 << 20}, found {width!r}")
    low, high = _number(where, rule, "low"), _number(where, rule, "high")
    if low is not None and high is not None and low >= high:
        raise BadData(f"{where} low must be below high, found [{low}, {high}]")
    if kind == "text" and (low is not None or high is not None):
        hint = 'leave out type if the column holds numbers, or say which texts there are with values = ["...", ...]'
        raise BadData(f"{where} low and high belong to numbers, and type is text", hint=hint)
    values = rule.get("values")
    if values is not None:
        if not isinstance(values, list) or not 1 <= len(values) <= 4096:
            raise BadData(f"{where} values must be a list of 1 to 4096 values")
        if not all(isinstance(v, str | int | float) for v in values):
            raise BadData(f"{where} values must be strings, numbers or booleans")
    bounds: Sequence[Any] = [b for b in (rule.get("low"), rule.get("high")) if b is not None]
    return ColumnRule(
        type=kind,
        low=low,
        high=high,
        values=None if values is None else tuple(dict.fromkeys(canonical_text(v) for v in values)),
        nullable=rule.get("nullable"),
        width=width,
        hidden=rule.get("hidden", False),
        integral=bool(values or bounds) and all(isinstance(v, int) for v in (values or bounds)),
    )


def _number(where: str, rule: Mapping[str, Any], key: str) -> float | None:
    value = rule.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadData(f"{where} {key} must be a finite number, found {value!r}")
    return float(value)


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = document.get(key)
    if not isinstance(table, dict):
        raise BadData(f"expected a [{key}] section, found none")
    return table


def _text(table: Mapping[str, Any], where: str, key: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise BadData(f"{where} needs {key} as a string, found {value!r}")
    return value


def _refuse_unknown(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise BadData(f"{where}: unknown key {unknown[0]!r}", hint=f"known keys: {', '.join(known)}")

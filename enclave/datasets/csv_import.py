"""CSV to Parquet, once, in blocks: so that everything behind works on one typed format with random access.

A file is read twice. The first pass reads every field as text and finds out which columns hold numbers only;
the second writes them. Types inferred from a first block, as CSV readers do, would fail at the first row that
does not fit, deep in a job. A column is a number when every present value is written as one; whole numbers with
a leading zero are text, since a postcode is no number. Numbers that would not survive (integers of 16 and more
digits) are text too. The owner's declared types override this.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from enclave.errors import BadData, StoreError

__all__ = ["import_csv"]

_WHOLE = r"^-?(0|[1-9][0-9]{0,14})$"
_NUMBER = r"^-?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_DECLARED_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_BLOCK_BYTES = 4 << 20
_GROUP_ROWS = 65_536


def import_csv(
    source: Path, target: Path, *, types: Mapping[str, str], missing: Sequence[str], delimiter: str = ","
) -> None:
    """Writes `source` as Parquet to `target` (mode 0600), at once and whole or not at all.

    Args: types: declared types ("number" or "text") by column. missing: fields that stand for a missing value.
    Raises: BadData naming the column where text stands in a column declared a number, and for a file that is no
    CSV with a header; StoreError when the target cannot be written.
    """
    names = _header(source, delimiter)
    unknown = sorted(set(types) - set(names))
    if unknown:
        raise BadData(f"column {unknown[0]!r} is declared, but {source.name} does not have it")
    columns = _infer(source, names, types, missing, delimiter)
    schema = pa.schema([(name, columns[name]) for name in names])
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            for batch in _batches(source, names, missing, delimiter):
                arrays = [_typed(batch.column(i), schema.field(i).type) for i in range(len(names))]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema), row_group_size=_GROUP_ROWS)
        os.replace(partial, target)
    except OSError as error:
        raise StoreError(f"cannot write {target.name}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _header(source: Path, delimiter: str) -> list[str]:
    try:
        names = [str(name) for name in _reader(source, delimiter, None).schema.names]
    except UnicodeDecodeError as error:
        raise _malformed(source, error) from error
    if len(set(names)) != len(names) or not all(names):
        raise BadData(f"{source.name} needs a header with one name per column, found {names[:12]}")
    return names


def _infer(
    source: Path, names: Sequence[str], types: Mapping[str, str], missing: Sequence[str], delimiter: str
) -> dict[str, Any]:
    """The Arrow type of every column: int64, float64 or string."""
    whole = dict.fromkeys(names, True)
    number = dict.fromkeys(names, True)
    present = dict.fromkeys(names, 0)
    wrong = dict.fromkeys(names, 0)
    first: dict[str, int] = {}
    seen = 0
    for batch in _batches(source, names, missing, delimiter):
        for i, name in enumerate(names):
            column = pc.utf8_trim_whitespace(batch.column(i))
            present[name] += len(column) - column.null_count
            if types.get(name) == "number":
                text = len(column) - column.null_count - _matching(column, _DECLARED_NUMBER)
                wrong[name] += text
                if text and name not in first:
                    fits = pc.match_substring_regex(column, _DECLARED_NUMBER)
                    first[name] = seen + 1 + int(pc.index(fits, False).as_py())
            if whole[name]:
                whole[name] = _matching(column, _WHOLE) == len(column) - column.null_count
            if number[name] and not whole[name]:
                number[name] = _matching(column, _NUMBER) == len(column) - column.null_count
        seen += batch.num_rows
    faulty = [name for name in names if wrong[name]]
    if faulty:
        raise BadData(
            f"column {faulty[0]!r} is declared a number and holds text",
            hint="correct the rows, or list what stands for a missing value under [dataset] missing",
            detail="; ".join(
                f"rows of {name!r} that hold text: {wrong[name]}, the first is row {first[name]}" for name in faulty
            ),
        )
    found: dict[str, Any] = {}
    for name in names:
        declared = types.get(name)
        if declared == "text" or (declared is None and (present[name] == 0 or not number[name])):
            found[name] = pa.string()
        else:
            found[name] = pa.int64() if whole[name] and present[name] else pa.float64()
    return found


def _matching(column: Any, pattern: str) -> int:
    return int(pc.sum(pc.match_substring_regex(column, pattern)).as_py() or 0)


def _typed(column: Any, kind: Any) -> Any:
    if pa.types.is_string(kind):
        return column
    trimmed = pc.utf8_ltrim(pc.utf8_trim_whitespace(column), characters="+")
    return pc.cast(trimmed, kind)


def _batches(source: Path, names: Sequence[str], missing: Sequence[str], delimiter: str) -> Iterator[Any]:
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=list(missing),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    reader = _reader(source, delimiter, convert)
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            raise _malformed(source, error) from error
        yield batch


def _reader(source: Path, delimiter: str, convert: Any) -> Any:
    try:
        return csv.open_csv(
            source,
            read_options=csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=convert,
        )
    except (pa.ArrowException, OSError) as error:
        raise _malformed(source, error) from error


def _malformed(source: Path, error: Exception) -> BadData:
    # The parser's words quote the offending row, so they stay with the operator.
    if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
        return BadData(
            f"cannot read {source.name} as CSV with a header: it is not UTF-8 text",
            hint="save it as UTF-8; files of older systems are often Latin-1 or Windows-1252",
            detail=str(error),
        )
    return BadData(f"cannot read {source.name} as CSV with a header", detail=str(error))

"""Rows in blocks: Parquet on disk or an Arrow table in memory, behind one small protocol.

Everything here is lazy: a block costs its own rows and one Parquet page per column, whatever the size of the
file. Columns of a type that no encoding can use (times, binary, structs) are not offered.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enclave.errors import BadData
from enclave.messages import ColumnInfo

__all__ = ["BlockReader", "MemoryTable", "ParquetTable", "Table"]

_BATCH_ROWS = 8192


class BlockReader(Protocol):
    """Reads ranges of rows; consecutive ranges cost what they return, a jump costs one row group."""

    def read(self, start: int, stop: int) -> Any:
        """A pyarrow.Table of rows start..stop, 0 <= start <= stop <= rows."""
        ...


class Table(Protocol):
    """Typed columns of a known number of rows."""

    @property
    def columns(self) -> Mapping[str, ColumnInfo]: ...

    @property
    def rows(self) -> int: ...

    def reader(self, columns: Sequence[str]) -> BlockReader:
        """A reader of some columns, independent of all other readers."""
        ...


def column_type(kind: Any) -> tuple[str, int] | None:
    """("number" | "text" | "list", width) of an Arrow type, width 0 where the type leaves it open; else None.

    Booleans are text ("true", "false"), which is what a CSV file makes of them.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number", 1
    text = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_boolean,
        pa.types.is_null,
    )
    if any(test(kind) for test in text):
        return "text", 1
    if pa.types.is_fixed_size_list(kind) and column_type(kind.value_type) == ("number", 1):
        return "list", int(kind.list_size)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and column_type(kind.value_type) == ("number", 1):
        return "list", 0
    return None


class MemoryTable:
    """An Arrow table in memory."""

    def __init__(self, table: Any) -> None:
        _check_names(table.schema.names)
        self._table = table
        self.rows = int(table.num_rows)
        found: dict[str, ColumnInfo] = {}
        for field in table.schema:
            kind = column_type(field.type)
            if kind is not None:
                column = table.column(field.name)
                found[field.name] = ColumnInfo(field.name, kind[0], has_missing(column), kind[1])
        self.columns: Mapping[str, ColumnInfo] = MappingProxyType(found)

    @classmethod
    def from_mapping(cls, columns: Mapping[str, Any]) -> MemoryTable:
        """Arrays, lists, or 2-d arrays (one fixed-size list per row) by column name."""
        arrays = {}
        for name, values in columns.items():
            array = np.asarray(values) if isinstance(values, np.ndarray) else values
            if isinstance(array, np.ndarray) and array.ndim > 1:
                flat = array.reshape(len(array), -1)
                arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
            else:
                arrays[name] = pa.array(array, from_pandas=True)
        if len({len(a) for a in arrays.values()}) > 1:
            raise BadData(f"columns have different lengths: { {n: len(a) for n, a in arrays.items()} }")
        return cls(pa.table(arrays))

    def reader(self, columns: Sequence[str]) -> BlockReader:
        return _MemoryReader(self._table.select(list(columns)))


class _MemoryReader:
    def __init__(self, table: Any) -> None:
        self._table = table

    def read(self, start: int, stop: int) -> Any:
        return self._table.slice(start, stop - start)


class ParquetTable:
    """A Parquet file. Raises BadData when it cannot be read as one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _open(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            _check_names(schema.names)
            self.rows = int(metadata.num_rows)
            found: dict[str, ColumnInfo] = {}
            for field in schema:
                kind = column_type(field.type)
                if kind is not None:
                    nullable = field.nullable and _nulls(file, field.name) > 0
                    found[field.name] = ColumnInfo(field.name, kind[0], nullable, kind[1])
        self.columns: Mapping[str, ColumnInfo] = MappingProxyType(found)

    def reader(self, columns: Sequence[str]) -> BlockReader:
        return _ParquetReader(self.path, columns)


class _ParquetReader:
    """Keeps one iterator open; a read that does not continue the last one reopens it at its row group."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path, self._columns = path, list(columns)
        self._file = _open(path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._at = -1
        self._batches: Iterator[Any] = iter(())
        self._held: Any = None

    def read(self, start: int, stop: int) -> Any:
        if start != self._at:
            self._seek(start)
        pieces = list(self._take(stop - start))
        self._at = stop
        if not pieces:
            return self._file.schema_arrow.empty_table().select(self._columns)
        return pa.Table.from_batches(pieces)

    def _seek(self, start: int) -> None:
        group = max(0, bisect.bisect_right(self._starts, start) - 1)
        groups = range(group, len(self._starts) - 1)
        self._batches = self._file.iter_batches(
            batch_size=_BATCH_ROWS, row_groups=list(groups), columns=self._columns, use_threads=False
        )
        self._held = None
        for _ in self._take(start - self._starts[group]):
            pass

    def _take(self, count: int) -> Iterator[Any]:
        while count > 0:
            if self._held is None or self._held.num_rows == 0:
                self._held = self._next()
            part = self._held.slice(0, count)
            self._held = self._held.slice(part.num_rows)
            count -= part.num_rows
            yield part

    def _next(self) -> Any:
        try:
            return next(self._batches)
        except StopIteration:
            raise BadData(f"{self._path.name} ended early: it was changed while it was read") from None
        except (pa.ArrowException, OSError) as error:
            raise BadData(f"{self._path.name} is damaged", detail=str(error)) from error


def has_missing(column: Any) -> bool:
    """Whether an Arrow column holds a null or a NaN."""
    if column.null_count:
        return True
    return bool(pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py())


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"cannot read {path.name} as Parquet", detail=str(error)) from error


def _nulls(file: Any, name: str) -> int:
    """Nulls in a column, from the file's statistics, or by reading the column where there are none."""
    metadata, total = file.metadata, 0
    for group in range(metadata.num_row_groups):
        leaves = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        statistics = [leaf.statistics for leaf in leaves if leaf.path_in_schema == name]
        if not statistics or statistics[0] is None or not statistics[0].has_null_count:
            return sum(batch.column(0).null_count for batch in file.iter_batches(_BATCH_ROWS, columns=[name]))
        total += statistics[0].null_count
    return total


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise BadData("two columns have one name")

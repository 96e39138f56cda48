"""Rows as an engine takes them: float64 features and targets, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from enclave.datasets.csv_import import import_csv
from enclave.datasets.dataset import Dataset
from enclave.datasets.description import DEFAULT_MISSING
from enclave.datasets.encode import Faults, encode_feature, encode_target
from enclave.datasets.promises import cover
from enclave.datasets.table import BlockReader, MemoryTable, ParquetTable, Table
from enclave.errors import BadData
from enclave.messages import Encoding

__all__ = ["RowSource", "as_table"]

_STEP_ROWS, _STEP_VALUES = 8192, 1 << 20  # encoded at a time: encoding takes several times what it returns


class RowSource:
    """Encodes rows lazily. Blocks read one after another cost what they return; any start is allowed.

    Args: source: a `Dataset`, or for a buyer's own rows whatever `as_table` takes. encoding: the job's.
    Raises: BadData at once when the columns do not fit the encoding; `check` looks at the rows too.
    """

    def __init__(self, source: Any, encoding: Encoding) -> None:
        if isinstance(source, Dataset):
            table, columns, rules = source.table, {c.name: c for c in source.columns}, source.rules
        else:
            table = as_table(source)
            columns, rules = dict(table.columns), {}
        if table.rows == 0:
            raise BadData("the data have no rows")
        cover(encoding, columns, rules)
        self.encoding = encoding
        self.rows = table.rows
        names = [f.column for f in encoding.features]
        # Two readers, so that asking for the features and then the targets of a block stays sequential for both.
        self._features: BlockReader = table.reader(names)
        self._targets: BlockReader | None = table.reader([encoding.target.column]) if encoding.target else None

    @property
    def width(self) -> int:
        """Encoded columns of one row."""
        return self.encoding.width

    def features(self, start: int, stop: int) -> NDArray[np.float64]:
        """Encoded features of rows start..stop, float64 (stop - start, width). Raises BadData."""
        self._in_range(start, stop)
        faults = Faults()
        encoded = np.empty((stop - start, self.width))
        for first, last in self._steps(start, stop):
            encoded[first - start : last - start] = self._encode(first, last, faults)
        faults.raise_any()
        return encoded

    def targets(self, start: int, stop: int) -> NDArray[Any]:
        """Targets of rows start..stop, (stop - start,): float64 numbers or int64 class indices. Raises BadData."""
        faults = Faults()
        encoded = self._encode_target(start, stop, faults)
        faults.raise_any()
        return encoded

    def check(self) -> None:
        """Encodes every row once, in blocks, and raises one BadData that names all columns that do not fit.

        It is meant to run before any session, so that no peer waits for rows that cannot come.
        """
        faults = Faults()
        for start, stop in self._steps(0, self.rows):
            self._encode(start, stop, faults)
            if self._targets is not None:
                self._encode_target(start, stop, faults)
        faults.raise_any()

    def _steps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        step = max(1, min(_STEP_ROWS, _STEP_VALUES // self.width))
        for first in range(start, stop, step):
            yield first, min(stop, first + step)

    def _encode(self, start: int, stop: int, faults: Faults) -> NDArray[np.float64]:
        block = self._features.read(start, stop)
        parts = [encode_feature(f, block.column(f.column), faults) for f in self.encoding.features]
        return np.concatenate(parts, axis=1)

    def _encode_target(self, start: int, stop: int, faults: Faults) -> NDArray[Any]:
        self._in_range(start, stop)
        target = self.encoding.target
        if target is None or self._targets is None:
            raise BadData("the encoding names no target")
        return encode_target(target, self._targets.read(start, stop).column(target.column), faults)

    def _in_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start}..{stop} do not lie in 0..{self.rows}")

    def __repr__(self) -> str:
        return f"RowSource({self.rows} rows, {self.width} wide)"


def as_table(source: Any) -> Table:
    """Columns of a person's own rows.

    Args: source: a path to .parquet or .csv (which is read into memory), a pyarrow.Table, a data frame of pandas or
    of another library that speaks Arrow, or a mapping of column names to arrays, where an array of more than one
    axis is a list column.
    """
    if isinstance(source, MemoryTable | ParquetTable):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise BadData(f"the data file {path.name} does not exist")
        return _read_csv(path) if path.suffix.lower() == ".csv" else ParquetTable(path)
    if isinstance(source, pa.Table):
        return MemoryTable(source)
    if isinstance(source, Mapping):
        return MemoryTable.from_mapping(source)
    if type(source).__module__.partition(".")[0] == "pandas":
        return MemoryTable(pa.Table.from_pandas(source, preserve_index=False))
    if hasattr(source, "__arrow_c_stream__"):
        return MemoryTable(pa.table(source))
    raise BadData(f"rows must be a path, a table, a data frame or a mapping, found {type(source).__name__}")


def _read_csv(path: Path) -> Table:
    import tempfile

    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "rows.parquet"
        import_csv(path, target, types={}, missing=DEFAULT_MISSING)
        return MemoryTable(pq.read_table(target))

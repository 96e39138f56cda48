"""Columns of a person's own program into a Parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from enclave.datasets.table import MemoryTable

__all__ = ["write_parquet"]


def write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    """Writes arrays, lists, or 2-d arrays (one fixed-size list per row) by column name, all of one length."""
    table = MemoryTable.from_mapping(columns)
    pq.write_table(table.reader(list(columns)).read(0, table.rows), path)

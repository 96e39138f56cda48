"""Data sets: Parquet and CSV to typed columns, a public schema, and encoded rows in blocks."""

from enclave.datasets.dataset import Dataset, open_dataset
from enclave.datasets.rows import RowSource, as_table

__all__ = ["Dataset", "RowSource", "as_table", "open_dataset"]

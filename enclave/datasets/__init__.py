"""Data sets: Parquet and CSV to typed columns, a public schema, and encoded rows in blocks."""

from enclave.datasets.canonical import canonical_text
from enclave.datasets.dataset import Dataset, open_dataset
from enclave.datasets.fit import fit_encoding
from enclave.datasets.mock import mock_twin
from enclave.datasets.rows import RowSource, as_table

__all__ = ["Dataset", "RowSource", "as_table", "canonical_text", "fit_encoding", "mock_twin", "open_dataset"]

"""An owner's data set: a public description, typed columns, and the rows behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enclave.datasets.csv_import import import_csv
from enclave.datasets.description import ColumnRule, Description, read_description
from enclave.datasets.encode import Faults
from enclave.datasets.promises import hold_promises
from enclave.datasets.table import ParquetTable, Table
from enclave.errors import BadData
from enclave.messages import ColumnInfo, sha256

__all__ = ["Dataset", "open_dataset"]

_HASH_BLOCK_BYTES = 1 << 20
_IMPORT_VERSION = b"csv-1"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Dataset:
    """Opened by `open_dataset`. Everything but `source`, `table` and the rows is public."""

    name: str
    description: str
    columns: tuple[ColumnInfo, ...]
    rows: int
    rules: Mapping[str, ColumnRule]
    source: Path
    table: Table

    def version(self, salt: bytes) -> bytes:
        """SHA-256 over the salt, the public schema and the bytes of the file, 32 bytes.

        With a secret salt it commits to the rows without helping anyone to guess them. Cost: one read of the file.
        """
        schema = b"".join(sha256(column.encode()) for column in self.columns)
        return sha256(b"enclave data set", salt, self.name.encode(), schema, file_digest(self.source))

    def check(self) -> None:
        """Holds every row against the declared ranges, vocabularies and nullability, in blocks.

        Raises: BadData naming the columns; the row counts are in its `detail`.
        """
        faults = Faults()
        hold_promises(self.table, self.columns, self.rules, self.rows, faults)
        faults.raise_any()

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {self.rows} rows, {len(self.columns)} columns)"


def open_dataset(toml_path: Path, scratch: Path | None = None) -> Dataset:
    """Opens the data set that the TOML at `toml_path` describes.

    A CSV file is imported into Parquet first: into `scratch`, by default `.enclave` beside the TOML, under the
    digest of its content, so that a changed file is imported anew and an unchanged one never again.
    Raises: BadData for a description or file that is wrong, and for data without rows or columns.
    """
    description = read_description(Path(toml_path))
    source = description.path
    if not source.is_file():
        raise BadData(f"the data file {source.name} does not exist")
    suffix = source.suffix.lower()
    if suffix == ".csv":
        table = ParquetTable(_imported(description, scratch or Path(toml_path).parent / ".enclave"))
    elif suffix in (".parquet", ".pq"):
        table = ParquetTable(source)
    else:
        raise BadData(f"a data file must be .parquet or .csv, found {source.name}")
    if table.rows == 0:
        raise BadData(f"data set {description.name!r} has no rows")
    return Dataset(
        name=description.name,
        description=description.description,
        columns=_columns(description, table),
        rows=table.rows,
        rules=description.columns,
        source=source,
        table=table,
    )


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes, read in blocks."""
    state = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                state.update(block)
    except OSError as error:
        raise BadData(f"cannot read {path.name}: {error.strerror}") from error
    return state.digest()


def _imported(description: Description, scratch: Path) -> Path:
    kinds = {name: _declared_type(rule) for name, rule in description.columns.items()}
    types = {name: kind for name, kind in kinds.items() if kind is not None}
    if "list" in types.values():
        raise BadData("a CSV file has no list columns", hint="store lists in Parquet")
    settings = repr((sorted(types.items()), description.missing, description.delimiter)).encode()
    key = sha256(_IMPORT_VERSION, settings, file_digest(description.path)).hex()[:32]
    target = scratch / f"{description.name}-{key}.parquet"
    if not target.is_file():
        import_csv(description.path, target, types=types, missing=description.missing, delimiter=description.delimiter)
    return target


def _declared_type(rule: ColumnRule) -> str | None:
    """A range is a promise about numbers: who gives one declares them, even without `type`."""
    return "number" if rule.type is None and (rule.low is not None or rule.high is not None) else rule.type


def _columns(description: Description, table: Table) -> tuple[ColumnInfo, ...]:
    """The public schema: the file's own, with the owner's declarations in their place."""
    for name, rule in description.columns.items():
        found = table.columns.get(name)
        if found is None and not rule.hidden:
            raise BadData(f"column {name!r} is declared, but the file has no such column of a usable type")
        if found is not None and rule.type not in (None, found.type):
            raise BadData(f"column {name!r} is declared {rule.type}, the file holds {found.type}")
        if found is not None and found.type == "text" and _declared_type(rule) == "number":
            raise BadData(
                f"column {name!r} is declared with low or high, and the file holds text",
                hint="store the column as numbers, or leave low and high out",
            )
    columns: list[ColumnInfo] = []
    for name, info in table.columns.items():
        rule = description.columns.get(name, ColumnRule())
        if rule.hidden:
            continue
        width = rule.width or info.width
        if width == 0:
            raise BadData(f"column {name!r} holds lists of any length", hint=f"declare width under [columns.{name}]")
        if info.width not in (0, width):
            raise BadData(f"column {name!r} is declared {width} wide, the file holds {info.width}")
        columns.append(ColumnInfo(name, info.type, info.nullable if rule.nullable is None else rule.nullable, width))
    if not columns:
        raise BadData(f"data set {description.name!r} has no usable columns")
    return tuple(columns)

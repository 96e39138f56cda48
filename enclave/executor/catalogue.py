"""The data sets that an owner has registered: what is promised in public, and how a worker finds the rows.

    HOME/datasets/NAME/
      dataset.toml   a copy of the owner's description; the policy in force is the one in here
      origin         the absolute path of the description that was registered, for finding the data
      salt           32 random bytes, mode 0600; keeps the data set's version from confirming guesses of its rows
      info           DatasetInfo: schema, row count, version and mock twin at the time of registration

A node answers from `info` and never opens the data. A worker opens the data, and refuses when description or rows
are no longer those that were registered: a version must mean one content, and a new one is one command away.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enclave.errors import BadData, BadInput, BadSpec, StoreError
from enclave.messages import DatasetInfo, DatasetRef, Encoding, is_name

if TYPE_CHECKING:
    from enclave.datasets import RowSource

__all__ = ["Catalogue", "Registered", "encodings_folder"]

_MAX_INFO_BYTES = 8 << 20
_SALT_BYTES = 32


def encodings_folder(home: Path) -> Path:
    """Where an owner keeps rows that were encoded for encrypted products: plaintext in another form."""
    return home / "encodings"


@dataclass(frozen=True, slots=True)
class Registered:
    """One registered data set. `description` is the TOML text in force."""

    info: DatasetInfo
    description: str
    folder: Path

    def cover(self, encoding: Encoding) -> None:
        """Checks an encoding against the public description; raises BadData. Opens no data."""
        from enclave.datasets.description import read_description
        from enclave.datasets.promises import cover

        rules = read_description(self.folder / "dataset.toml").columns
        cover(encoding, {column.name: column for column in self.info.columns}, rules)


class Catalogue:
    """The registered data sets of the party whose home is `home`. Reads the directory anew at every call."""

    def __init__(self, home: Path, owner: str) -> None:
        self._folder = home / "datasets"
        self._encodings = encodings_folder(home)
        self._owner = owner

    def add(self, toml_path: Path, *, replace: bool = False) -> Registered:
        """Registers the data set that a TOML file describes. Reads and checks all rows once.

        Raises:
            BadData: the description or the rows are wrong.
            BadInput: the name is taken, and `replace` is False.
            StoreError: the disk refuses.
        """
        from enclave.datasets import open_dataset
        from enclave.datasets.mock import mock_twin

        origin = Path(toml_path).resolve()
        dataset = open_dataset(origin, scratch=self._scratch())
        target = self._folder / dataset.name
        if target.exists() and not replace:
            raise BadInput(
                f"a data set called {dataset.name} is registered already",
                hint="replace it with --replace; open jobs on the old version will be refused",
                code="input.exists",
            )
        dataset.check()
        salt = secrets.token_bytes(_SALT_BYTES)
        ref = DatasetRef(self._owner, dataset.name, dataset.version(salt), dataset.rows)
        info = DatasetInfo(ref, dataset.description, dataset.columns, mock_parquet=mock_twin(dataset))
        fresh = self._folder / f".{dataset.name}.{secrets.token_hex(8)}"
        try:
            fresh.mkdir(mode=0o700, parents=True)
            _write(fresh / "dataset.toml", origin.read_bytes())
            _write(fresh / "origin", os.fsencode(origin))
            _write(fresh / "salt", salt)
            _write(fresh / "info", info.encode())
            if target.exists():
                old = fresh.with_name(fresh.name + ".old")
                target.rename(old)
                fresh.rename(target)
                shutil.rmtree(old)
            else:
                fresh.rename(target)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise StoreError(f"cannot register {dataset.name}: {error.strerror}") from error
        self._forget_rows(dataset.name)
        return self.get(dataset.name)

    def remove(self, name: str) -> None:
        """Forgets a registration and its encoded rows; the data itself stays. Raises BadInput when there is none."""
        self.get(name)
        shutil.rmtree(self._folder / name)
        self._forget_rows(name)

    def _forget_rows(self, name: str) -> None:
        from enclave.engines.he.linear.encodings import Encodings

        Encodings(folder=self._encodings).forget(name.encode())

    def get(self, name: str) -> Registered:
        """The registered data set called `name`; raises BadInput when there is none, StoreError when it is damaged."""
        folder = self._folder / name
        if not is_name(name) or not (folder / "info").is_file():
            raise BadInput(f"no data set called {name[:80]!r} is registered", code="input.dataset")
        try:
            info = DatasetInfo.decode((folder / "info").read_bytes(), limit_bytes=_MAX_INFO_BYTES)
            return Registered(info, (folder / "dataset.toml").read_text(), folder)
        except (BadSpec, OSError, UnicodeDecodeError) as error:
            raise StoreError(
                f"the registration of {name} is damaged", hint="register it again with `enclave owner add`"
            ) from error

    def all(self) -> tuple[Registered, ...]:
        """All registered data sets, by name."""
        names = sorted(p.parent.name for p in self._folder.glob("*/info") if is_name(p.parent.name))
        return tuple(self.get(name) for name in names)

    def rows(self, ref: DatasetRef, encoding: Encoding) -> RowSource:
        """Opens the rows for a session: a RowSource, checked.

        Raises:
            BadData: the description or the rows changed since they were registered, or do not fit the encoding.
        """
        from enclave.datasets import RowSource, open_dataset

        registered = self.get(ref.name)
        origin = Path(os.fsdecode((registered.folder / "origin").read_bytes()))
        again = "register it again with `enclave owner add --replace`; buyers then propose with the new version"
        try:
            current = origin.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise BadData(f"the description of data set {ref.name} is gone", hint=again) from error
        if current != registered.description:
            raise BadData(f"the description of data set {ref.name} changed since it was registered", hint=again)
        dataset = open_dataset(origin, scratch=self._scratch())
        if dataset.version((registered.folder / "salt").read_bytes()) != ref.version:
            raise BadData(f"data set {ref.name} is not the version that the job names", hint=again)
        source = RowSource(dataset, encoding)
        source.check()
        return source

    def _scratch(self) -> Path:
        return self._folder / ".imported"


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

"""Registered data sets: what a worker refuses to open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enclave.engines.he.linear.encodings import Encodings
from enclave.errors import BadData, BadInput, StoreError
from enclave.executor.catalogue import Catalogue, Registered, encodings_folder
from enclave.messages import Category, ClassTarget, Encoding, Feature, NumericFeature, Target

TOML = """
[dataset]
name = 'points'
path = 'points.csv'
[columns.a]
low = 0
high = 10
[columns.y]
values = ['no', 'yes']
"""
ENCODING = Encoding(
    (Feature("a", NumericFeature(low=0.0, high=10.0)),),
    Target("y", classes=ClassTarget((Category(("no",)), Category(("yes",))))),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "points.csv").write_text("a,y\n" + "1,no\n9.5,yes\n" * 20)
    (folder / "points.toml").write_text(TOML)
    return folder


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path / "home", "acme")


@pytest.fixture
def registered(catalogue: Catalogue, data: Path) -> Registered:
    return catalogue.add(data / "points.toml")


def test_what_was_registered_is_what_is_opened(catalogue: Catalogue, registered: Registered) -> None:
    ref = registered.info.ref
    assert (ref.owner, ref.name, ref.rows, len(ref.version)) == ("acme", "points", 40, 32)
    rows = catalogue.rows(ref, ENCODING)
    assert rows.rows == 40
    assert rows.features(0, 2).tolist() == [[1.0], [9.5]]
    assert rows.targets(0, 2).tolist() == [0, 1]
    assert [r.info for r in catalogue.all()] == [registered.info]
    registered.cover(ENCODING)


def test_files_are_the_owner_s_alone(registered: Registered) -> None:
    assert registered.folder.stat().st_mode & 0o077 == 0
    assert {p.name: p.stat().st_mode & 0o777 for p in registered.folder.iterdir()} == {
        name: 0o600 for name in ("dataset.toml", "origin", "salt", "info")
    }


def test_a_version_says_nothing_without_its_salt(catalogue: Catalogue, registered: Registered, data: Path) -> None:
    again = catalogue.add(data / "points.toml", replace=True)
    assert again.info.ref.version != registered.info.ref.version


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("points.csv", "a,y\n" + "1,no\n9.5,yes\n" * 19 + "1,no\n9.4,yes\n", "not the version"),
        ("points.csv", "a,y\n" + "1,no\n9.5,yes\n" * 21, "not the version"),
        ("points.toml", TOML.replace("high = 10", "high = 20"), "description of data set points changed"),
        ("points.toml", TOML + "[policy]\nkinds = ['train']\n", "description of data set points changed"),
    ],
)
def test_changed_data_is_not_opened(
    catalogue: Catalogue, registered: Registered, data: Path, name: str, text: str, message: str
) -> None:
    (data / name).write_text(text)
    with pytest.raises(BadData, match=message) as caught:
        catalogue.rows(registered.info.ref, ENCODING)
    assert "owner add" in caught.value.hint


@pytest.mark.parametrize("name", ["points.csv", "points.toml"])
def test_missing_data_is_said(catalogue: Catalogue, registered: Registered, data: Path, name: str) -> None:
    (data / name).unlink()
    with pytest.raises(BadData) as caught:
        catalogue.rows(registered.info.ref, ENCODING)
    assert str(data) not in caught.value.public


def test_an_encoding_that_does_not_fit_is_refused_without_the_rows(registered: Registered) -> None:
    for column in (Feature("b", NumericFeature()), Feature("a", NumericFeature(low=0.0, high=5.0))):
        with pytest.raises(BadData):
            registered.cover(Encoding((column,), ENCODING.target))


@pytest.mark.parametrize("name", ["nothing", "../home", "", ".imported", "a/b"])
def test_no_other_folder_can_be_named(catalogue: Catalogue, registered: Registered, name: str) -> None:
    with pytest.raises(BadInput, match="no data set"):
        catalogue.get(name)


def test_a_damaged_registration_is_said(catalogue: Catalogue, registered: Registered) -> None:
    (registered.folder / "info").write_bytes(b"\xff\xff\xff")
    with pytest.raises(StoreError, match="damaged"):
        catalogue.get("points")


def test_a_failed_registration_leaves_the_old_one(catalogue: Catalogue, registered: Registered, data: Path) -> None:
    (data / "points.csv").write_text("a,y\n1,no\n11,yes\n")
    with pytest.raises(BadData):
        catalogue.add(data / "points.toml", replace=True)
    assert catalogue.get("points").info == registered.info
    assert [p.name for p in registered.folder.parent.iterdir() if not p.name.startswith(".")] == ["points"]


def test_no_registrations_are_no_error(catalogue: Catalogue) -> None:
    assert catalogue.all() == ()
    with pytest.raises(BadInput):
        catalogue.remove("points")


@pytest.mark.parametrize("replaced", [False, True])
def test_encoded_rows_go_with_their_registration(
    catalogue: Catalogue, registered: Registered, data: Path, tmp_path: Path, replaced: bool
) -> None:
    folder = encodings_folder(tmp_path / "home")
    for name in (b"points", b"others"):
        Encodings(0, folder).opened((name, registered.info.ref.version), 1, (8,)).put(0, np.ones((1, 8), np.uint64))
    assert len(list(folder.iterdir())) == 2
    if replaced:
        catalogue.add(data / "points.toml", replace=True)
    else:
        catalogue.remove("points")
    assert len(list(folder.iterdir())) == 1, "those of the other data set stay"

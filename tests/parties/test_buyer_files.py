"""What a buyer reads and keeps on disk: encodings, and the folders of its jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enclave.datasets import canonical_text
from enclave.errors import BadData, BadInput, EnclaveError, StoreError
from enclave.messages import Reason
from parties.buyer import Cost
from parties.buyer.encodings import parse_encoding, read_encoding
from parties.buyer.records import JobFolders

# ---- files


def test_costs_survive_json() -> None:
    cost = Cost(7, {("a", "b"): 5, ("b", "a"): 6})
    assert Cost.from_json(json.loads(json.dumps(cost.to_json()))) == cost
    assert cost.total_bytes == 11 and cost.sent_by("b") == 6


def test_a_damaged_folder_is_said_to_be_damaged(tmp_path: Path) -> None:
    folder = JobFolders(tmp_path).create("ab" * 16)
    folder.write("result.json", b"{")
    with pytest.raises(StoreError, match=r"result\.json is damaged"):
        folder.read_json("result.json")
    with pytest.raises(StoreError, match=r"cannot read .*spec\.pb: no such file"):
        folder.spec()
    assert JobFolders(tmp_path).all() == [], "a folder without a specification is no job"


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = JobFolders(tmp_path).create("ab" * 16)
    folder.write("result.json", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="no space left on device"):
        folder.write("result.json", b"new")
    assert folder.read("result.json") == b"old"
    assert [path.name for path in folder.path.iterdir()] == ["result.json"]


# ---- encodings

EVERY_KIND = """
standardise = true

[[features]]
column = "age"
shift = 40
scale = 12.5
low = 0
high = 120
fill = 38
clip = true

[[features]]
column = "pixels"
low = 0
high = 255
scale = 255
width = 784

[[features]]
column = "ward"
categories = ["A", ["B", "C"], 3, { values = ["D"], missing = true }, { other = true }]

[target]
column = "cost"
low = 0
high = 1e4
"""


def test_an_encoding_file_says_every_kind_of_column(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(EVERY_KIND)
    encoding = read_encoding(tmp_path / "e.toml")
    assert encoding.standardise and encoding.width == 1 + 784 + 5
    age, pixels, ward = encoding.features
    assert age.numeric is not None and (age.numeric.fill, age.numeric.clip, age.numeric.high) == (38, True, 120)
    assert pixels.numeric is not None and pixels.numeric.width == 784
    assert ward.one_hot is not None
    assert [c.values for c in ward.one_hot.categories] == [("A",), ("B", "C"), ("3",), ("D",), ()]
    assert ward.one_hot.categories[3].missing and ward.one_hot.categories[4].other
    assert encoding.target is not None and encoding.target.numeric is not None


@pytest.mark.parametrize("value", [3, 3.0, 0.1, -0.0, True, 1e30, "x", 1e-7])
def test_categories_are_written_as_data_sets_write_them(value: object) -> None:
    table = {"features": [{"column": "c", "categories": [value, "other thing"]}]}
    one_hot = parse_encoding(table).features[0].one_hot
    assert one_hot is not None and one_hot.categories[0].values == (canonical_text(value),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("standardise = true", "standardize = true"), "unknown key 'standardize'"),
        (("fill = 38", "fil = 38"), r"feature 1 \(age\) has an unknown key 'fil'"),
        (("fill = 38", "fill = 200"), "fill lies outside the declared range"),
        (("fill = 38", 'fill = "x"'), r"fill of feature 1 \(age\) must be a number, found 'x'"),
        (("clip = true", "clip = 1"), "clip of feature 1"),
        (("high = 120", ""), r"feature 1 \(age\) needs its declared range"),
        (("high = 120", "high = -1"), "declared range is empty"),
        (("high = 120", "high = inf"), "constants must be finite"),
        (("scale = 12.5", "scale = 0"), "scale must be positive"),
        (("width = 784", "width = 0"), "width of feature 2"),
        (('column = "pixels"', 'column = "age"'), "a column is encoded twice"),
        (('column = "age"', ""), "feature 1 needs either column"),
        (('categories = ["A",', 'categories = ["A", "A",'), "a value stands in two categories"),
        (("missing = true", "absent = true"), "unknown key 'absent'"),
        (("[target]", "[aim]"), "unknown key 'aim'"),
        (('column = "cost"', 'column = "age"'), "the target is also a feature"),
        (("[target]", "[target"), "is not valid TOML"),
    ],
)
def test_a_wrong_encoding_says_where(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "e.toml"
    path.write_text(EVERY_KIND.replace(change[0], change[1], 1))
    with pytest.raises(BadData, match=message):
        read_encoding(path)


def test_an_encoding_that_cannot_be_read_is_an_error_of_this_project(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(EnclaveError, match="cannot read the encoding"):
            read_encoding(path)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadData, match="is not a text file"):
        read_encoding(tmp_path / "b.toml")


def test_a_wide_network_is_evaluated_in_smaller_blocks() -> None:
    from enclave.models import dense_architecture
    from parties.buyer.preparing import fitting_block

    assert fitting_block(dense_architecture(30, (), 1), 4096) == 4096
    assert fitting_block(dense_architecture(10, (1 << 14,), 2), 4096) == 256
    assert fitting_block(dense_architecture(10, (1 << 14,), 2), 100) == 100


def test_what_python_callers_mix_up_is_said() -> None:
    from parties.buyer import Schedule
    from parties.buyer.specs import split_data

    with pytest.raises(BadInput, match="expected a list of OWNER/DATASET, found the text 'clinic/clinic'"):
        split_data("clinic/clinic")
    with pytest.raises(BadInput, match=r"kind must be one of .*, found 'foo'"):
        Schedule(kind="foo")


def test_a_refusal_because_of_the_encoding_says_to_change_the_encoding() -> None:
    from parties.buyer.watching import refused_by

    column, buyer = Reason("encoding.column", "no fill"), Reason("policy.buyer", "not you")
    assert "change the encoding" in refused_by({"clinic": [column]}).hint
    assert "change the encoding" not in refused_by({"clinic": [column], "ward": [buyer]}).hint
    assert "change the encoding" not in refused_by({"clinic": []}).hint

"""What the auditor's commands do, with files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.errors import BadInput
from enclave.leakage.audit import OpeningAudit
from enclave.leakage.report import LeakageReport, PlanFigures, PlannedLink, build_report
from enclave.receipts import digest
from parties.auditor import read_report, report, summary, verify
from tests.enclave.receipt_room import NAMES, SENT, Room


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    yield Room(tmp_path_factory.mktemp("parties"))


@pytest.fixture
def receipt(room: Room, tmp_path: Path) -> Path:
    path = tmp_path / "receipt"
    path.write_bytes(signed_receipt(room, own_report(room).to_json().encode()))
    return path


def signed_receipt(room: Room, report: bytes) -> bytes:
    """A receipt whose first party states the digest of `report`."""
    return room.lie(NAMES[0], report_digest=digest(report))


def own_report(room: Room, **changes: Any) -> LeakageReport:
    said = room.statements[0]
    assert said.transcript is not None
    planned = tuple(PlannedLink(a, b, size) for (a, b), size in SENT.items())
    made = build_report(
        room.spec,
        digest(room.signed_spec.body),
        said,
        plan=PlanFigures(said.transcript.rounds, planned, said.transcript.openings, 0),
        audit=dataclasses.replace(OpeningAudit().result(), openings=12, words=4000),
        claims=[line for line in said.claims if not line.startswith("node.")],
    )
    return dataclasses.replace(made, **changes)


def test_verify(room: Room, receipt: Path) -> None:
    assert verify(receipt).ok and verify(receipt).mode == "consistent"
    assert verify(receipt, room.cards).ok and verify(receipt, room.cards).mode == "authenticated"
    assert not verify(receipt, room.cards[:1]).ok


def test_summary_is_json(room: Room, receipt: Path, tmp_path: Path) -> None:
    found = json.loads(json.dumps(summary(verify(receipt))))
    assert found["ok"] and found["job_id"] == room.spec.job_id and found["released"] == ["accuracy"]
    assert [p["name"] for p in found["parties"]] == list(NAMES)
    assert all(set(c) == {"name", "ok", "subject", "expected", "found"} for c in found["checks"])
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\xff" + receipt.read_bytes()[1:])
    found = json.loads(json.dumps(summary(verify(damaged))))
    assert not found["ok"] and found["job_id"] is None and found["state"] is None and found["parties"] == []


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match="cannot read"):
            verify(path)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(BadInput, match="too long"):
        verify(huge)


def test_a_report_that_belongs_to_the_receipt(room: Room, receipt: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(own_report(room).to_json())
    verified = verify(receipt, report_path=path)
    assert verified.ok, verified.failures
    assert {"report.party", "report.digest", "report.fields"} <= {c.name for c in verified.checks}


def test_a_check_that_passed_tells_of_no_failure(room: Room, receipt: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(own_report(room).to_json())
    for check in summary(verify(receipt, room.cards, path))["checks"]:
        assert check["ok"] and check["found"] == check["expected"], check


# No receipt holds the figures of a plan: that they were changed is seen by the digest alone.
PLANNED = ("planned_rounds", "planned_openings", "links", "dealer_bytes", "stages", "hiding")


def forged(value: Any) -> Any:
    """Another value of the same JSON type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return value[:-1] if value else None
    return value | {key: forged(item) for key, item in list(value.items())[:1]}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(LeakageReport)])
def test_no_field_of_a_report_can_be_changed(room: Room, receipt: Path, tmp_path: Path, field: str) -> None:
    path = tmp_path / "report.json"
    data = json.loads(own_report(room).to_json())
    fresh: dict[str, Any] = {"findings": [{"check": "a", "text": "b"}], "reasons": [{"rule": "a", "text": "b"}]}
    fresh["stages"] = [{"name": "a", "rounds": 1, "bytes": 2}]
    fresh["hiding"] = [{"label": "a", "bits": 40.0, "method": "b"}]
    data[field] = fresh.get(field) or forged(data[field])
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    failures = {check.name: check for check in verify(receipt, report_path=path).failures}
    assert failures and set(failures) <= {"report.party", "report.digest", "report.fields"}
    if field == "party":
        assert set(failures) == {"report.party"}
        return
    assert "report.digest" in failures
    if field not in PLANNED:
        assert field in failures["report.fields"].found.removeprefix("other ").split(", ")


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 5},
        {"buyer": "evil"},
        {"rounds": 200, "planned_rounds": 200},
        {"openings": 3},
        {"outputs": ()},
        {"links": ()},
        {"limits": ()},
        {"state": "FAILED"},
        {"claims": ("engine=mpc", "proved=everything")},
        {"audit": dataclasses.replace(OpeningAudit().result(), openings=12, words=4000, duplicate_words=1)},
    ],
)
def test_a_signed_report_must_not_contradict_its_statement(room: Room, tmp_path: Path, change: dict[str, Any]) -> None:
    """A party that signs the digest of a false report is caught where the receipt knows better."""
    path, receipt = tmp_path / "report.json", tmp_path / "receipt"
    path.write_text(own_report(room, **change).to_json())
    receipt.write_bytes(signed_receipt(room, path.read_bytes()))
    (failure,) = verify(receipt, report_path=path).failures
    assert failure.name == "report.fields"
    assert next(iter(change)) in failure.found


def test_a_report_that_nobody_signed(room: Room, tmp_path: Path) -> None:
    path, receipt = tmp_path / "report.json", tmp_path / "receipt"
    path.write_text(own_report(room).to_json())
    receipt.write_bytes(room.receipt())
    (failure,) = verify(receipt, report_path=path).failures
    assert (failure.name, failure.expected) == ("report.digest", "nothing")


def test_report_becomes_a_page(room: Room, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(own_report(room).to_json())
    assert read_report(path) == own_report(room)
    assert report(path) == tmp_path / "report.html"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "north/heart" in page
    assert report(path, tmp_path / "other.html").read_text(encoding="utf-8") == page


def test_report_errors(room: Room, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(own_report(room).to_json())
    with pytest.raises(BadInput, match="would replace"):
        report(path)
    with pytest.raises(BadInput, match="cannot write"):
        report(path, tmp_path / "no" / "page.html")
    path.write_text("{}")
    with pytest.raises(BadInput, match="not a leakage report"):
        report(path, tmp_path / "page.html")

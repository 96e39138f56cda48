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
from enclave.leakage.report import LeakageReport, PlanFigures, build_report
from enclave.receipts import digest
from parties.auditor import read_report, report, summary, verify
from tests.enclave.receipt_room import NAMES, Room


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    yield Room(tmp_path_factory.mktemp("parties"))


@pytest.fixture
def receipt(room: Room, tmp_path: Path) -> Path:
    path = tmp_path / "receipt"
    path.write_bytes(room.receipt())
    return path


def own_report(room: Room, **changes: Any) -> LeakageReport:
    said = room.statements[0]
    assert said.transcript is not None
    made = build_report(
        room.spec,
        digest(room.signed_spec.body),
        said,
        plan=PlanFigures(41, (), said.transcript.openings, 0),
        audit=OpeningAudit().result(),
        claims=said.claims,
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
    assert verified.ok
    assert {"report.spec", "report.transcript", "report.claims"} <= {c.name for c in verified.checks}


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"party": "eve"}, "report.party"),
        ({"job_id": "cd" * 16}, "report.job"),
        ({"spec_digest": "00" * 32}, "report.spec"),
        ({"plan_digest": ""}, "report.plan"),
        ({"transcript_digest": "11" * 32}, "report.transcript"),
        ({"openings": 3}, "report.openings"),
        ({"claims": ("engine=mpc", "proved=everything")}, "report.claims"),
    ],
)
def test_a_report_of_something_else(
    room: Room, receipt: Path, tmp_path: Path, change: dict[str, Any], check: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(own_report(room, **change).to_json())
    assert [c.name for c in verify(receipt, report_path=path).failures] == [check]


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

"""The report's figures, its findings, and its JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from enclave.errors import BadInput
from enclave.leakage.audit import OpeningAudit
from enclave.leakage.report import SCHEMA, HiddenCiphertexts, LeakageReport
from enclave.messages import LinkTraffic, Reason
from tests.enclave.leakage.sample import LINKS, PLAN, make_report, make_spec, make_statement, training_spec


@pytest.fixture(scope="module")
def honest() -> LeakageReport:
    return make_report()


def found(report: LeakageReport) -> list[str]:
    return [finding.check for finding in report.findings]


def test_honest_report(honest: LeakageReport) -> None:
    assert honest.findings == () and honest.verdict == "Nothing undeclared was found in 6 checks."
    assert "safe" not in honest.to_json().lower().replace("safety", "")
    assert honest.bits == sum(o.bits for o in honest.outputs) > 50
    assert [v.name for v in honest.views][:4] == ["charite", "uniklinik", "acme", "dealer"]
    assert honest.audit.ok and honest.openings == honest.planned_openings == 48
    assert any("membership" in line for line in honest.limits)


def test_links_are_measured_where_this_party_is_one_end(honest: LeakageReport) -> None:
    by_pair = {(link.sender, link.receiver): link for link in honest.links}
    assert set(by_pair) == set(LINKS)
    for pair, link in by_pair.items():
        assert link.planned_bytes == LINKS[pair]
        assert link.measured_bytes == (LINKS[pair] if "charite" in pair else None)


def test_unplanned_traffic_is_a_finding() -> None:
    statement = make_statement()
    assert statement.transcript is not None
    links = (*statement.transcript.links[:2], LinkTraffic("dealer", 5, LINKS["dealer", "charite"]))
    report = make_report(statement=make_statement(links=links))
    assert found(report) == ["transcript.bytes"]
    assert "charite sent dealer 5 bytes, planned 0" in report.findings[0].text


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"equals_plan": False}, "transcript.steps"),
        ({"rounds": 60}, "transcript.rounds"),
        ({"openings": 49}, "transcript.openings"),
    ],
)
def test_transcript_findings(change: dict[str, Any], check: str) -> None:
    report = make_report(statement=make_statement(**change))
    assert found(report) == [check] and report.verdict.startswith("1 finding: ")


def test_audit_findings() -> None:
    rng = np.random.default_rng(1)
    audit = OpeningAudit()
    mask = rng.integers(0, 2**64, size=500, dtype=np.uint64)
    audit.observe("a", mask)
    audit.observe("a", mask + np.uint64(7))
    audit.observe("b", mask[:100] >> np.uint64(9))
    report = make_report(audit=audit.result())
    assert found(report) == ["openings.uniform", "openings.fresh"]
    assert report.verdict.startswith("2 findings: ") and "after a" in report.findings[1].text


def test_a_job_that_failed_cannot_equal_its_plan() -> None:
    statement = dataclasses.replace(make_statement(state="FAILED"), transcript=None)
    report = make_report(statement=statement, reasons=(Reason("session.peer_lost", "lost acme at step 3"),))
    assert report.findings == () and len(report.checks) == 2
    assert report.verdict.startswith("The job ended without a result (failed)")
    assert report.reasons[0].rule == "session.peer_lost"


def test_the_dealer_reports_too() -> None:
    statement = make_statement(party="dealer", rounds=0, openings=0)
    report = make_report(statement=statement, audit=OpeningAudit().result())
    assert report.findings == () and report.role == "dealer"


def test_limits_depend_on_the_outputs() -> None:
    assert any("remember single rows" in line for line in make_report(spec=training_spec()).limits)
    assert any("every single row" in line for line in make_report(spec=make_spec(outputs=("predictions",))).limits)


def test_json_round_trip_and_key_order(honest: LeakageReport) -> None:
    text = honest.to_json()
    assert LeakageReport.from_json(text) == honest
    assert LeakageReport.from_json(text.encode()).to_json() == text
    keys = list(json.loads(text))
    assert keys[0] == "schema" and keys[1:] == [f.name for f in dataclasses.fields(LeakageReport)]
    assert json.loads(text)["schema"] == SCHEMA == "enclave.report/2"


def test_a_job_without_a_dealer_speaks_of_ciphertexts() -> None:
    parties = make_spec().parties[:-1]
    hidden = (HiddenCiphertexts("scores", 41.5, "flooding"), HiddenCiphertexts("shares", None, "uniform modulo q"))
    plan = dataclasses.replace(PLAN, hiding=hidden, dealer_bytes=0)
    report = make_report(spec=make_spec(engine="he", parties=parties), plan=plan)
    assert report.hiding == hidden and LeakageReport.from_json(report.to_json()) == report
    assert not any("dealer" in line for line in report.limits) and any(
        "ring learning" in line for line in report.limits
    )
    assert [view.role for view in report.views] == ["owner", "owner", "buyer", "observer"]
    page = report.to_html()
    assert "What hid the rows" in page and "uniform modulo q" in page and "no dealer" in page
    assert "What hid the rows" not in make_report().to_html()


def test_json_of_everything_optional() -> None:
    statement = dataclasses.replace(make_statement(state="REFUSED"), transcript=None)
    report = make_report(statement=statement, plan=dataclasses.replace(PLAN, stages=()), claims=())
    assert LeakageReport.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        "{}",
        '{"schema": "enclave.report/2"}',
        '{"schema": "enclave.report/2"}',
        b"\xff\xfe",
        " " * (9 << 20),
    ],
)
def test_what_is_not_a_report_is_refused(text: str | bytes) -> None:
    with pytest.raises(BadInput, match="report"):
        LeakageReport.from_json(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rows",), "597"),
        (("rows",), True),
        (("rows",), 1.5),
        (("wall_s",), "NaN"),
        (("transcript_equals_plan",), 1),
        (("claims",), "engine=mpc"),
        (("claims",), [1]),
        (("audit",), None),
        (("outputs",), [{"name": "x"}]),
        (("links",), [{}] * 10_001),
    ],
)
def test_wrong_types_are_refused_with_their_place(honest: LeakageReport, path: tuple[str, ...], value: Any) -> None:
    data = json.loads(honest.to_json())
    data[path[0]] = value
    with pytest.raises(BadInput, match=rf"report\.{path[0]}"):
        LeakageReport.from_json(json.dumps(data))


def test_extra_and_infinite_values_are_refused(honest: LeakageReport) -> None:
    data = json.loads(honest.to_json())
    with pytest.raises(BadInput, match="needs the fields"):
        LeakageReport.from_json(json.dumps(data | {"extra": 1}))
    with pytest.raises(BadInput, match="wall_s"):
        LeakageReport.from_json(json.dumps(data | {"wall_s": float("inf")}))


def test_a_ciphertext_that_hides_too_little_is_a_finding() -> None:
    weak = dataclasses.replace(PLAN, hiding=(HiddenCiphertexts("scores", 39.9, "flooding"),), dealer_bytes=0)
    report = make_report(plan=weak)
    assert [f.text for f in report.findings if f.check == "ciphertexts.hidden"] == [
        "ciphertexts 'scores' hide their rows with 39 bits alone"
    ]
    assert "ciphertexts.hidden" in report.checks and "ciphertexts.hidden" not in make_report().checks


def test_limits_of_encrypted_jobs_name_dishonest_keys() -> None:
    said = " ".join(make_report(spec=make_spec(engine="hybrid")).limits)
    assert "public key" in said and "one bit" in said and "public key" not in " ".join(make_report().limits)

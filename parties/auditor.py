"""The auditor: checks receipts offline, and turns reports into pages. It has no access to data, models or shares."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enclave import __version__
from enclave.errors import BadInput, EnclaveError
from enclave.identity import Card
from enclave.leakage.report import MAX_REPORT_BYTES, LeakageReport, PlanFigures, PlannedLink, build_report
from enclave.messages import JobSpec, Reason, Statement, Transcript
from enclave.receipts import MAX_RECEIPT_BYTES, OWN_CLAIMS, Check, Checks, Verified, digest, verify_receipt

__all__ = ["read_report", "report", "summary", "verify"]


def verify(path: Path, trusted: Sequence[Card] | None = None, report_path: Path | None = None) -> Verified:
    """Checks the receipt at `path`; needs neither network nor keys.

    Args:
        trusted: the cards that the auditor knows from elsewhere. Without them the outcome says that the receipt is
            "consistent", with them that it is "authenticated".
        report_path: a leakage report (JSON) that is said to belong to the receipt; what it repeats of the signed
            statement of its party is compared, and its SHA-256, which the party signed with the statement.

    Raises:
        BadInput: a file cannot be read, or the report is none. A receipt that is wrong is an answer, not an error.
    """
    verified = verify_receipt(_read(path, MAX_RECEIPT_BYTES), trusted)
    if report_path is None:
        return verified
    checks = _compare(verified, _read(report_path, MAX_REPORT_BYTES))
    return dataclasses.replace(verified, checks=verified.checks + checks)


def read_report(path: Path) -> LeakageReport:
    """The leakage report (JSON) at `path`; raises BadInput when it is none."""
    return LeakageReport.from_json(_read(path, MAX_REPORT_BYTES))


def report(path: Path, out: Path | None = None) -> Path:
    """Writes the report at `path` (JSON) as one HTML page; returns where: `out`, or beside it with suffix .html.

    Raises:
        BadInput: the file is not a leakage report, or the page would take its place, or cannot be written.
    """
    target = out if out is not None else path.with_suffix(".html")
    if target.resolve() == path.resolve():
        raise BadInput(f"the page would replace the report {path}", hint="name another file")
    page = read_report(path).to_html()
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {target}: {(error.strerror or str(error)).lower()}") from error
    return target


def summary(verified: Verified) -> dict[str, Any]:
    """The outcome of `verify` in JSON types."""
    spec, body = verified.spec, verified.body
    return {
        "ok": verified.ok,
        "mode": verified.mode,
        "receipt_digest": verified.receipt_digest.hex(),
        "job_id": spec.job_id if spec else None,
        "kind": spec.kind if spec else None,
        "state": verified.state or None,
        "parties": [
            {"name": p.name, "role": p.role, "key_id": p.key_id.hex(), "organisation": p.run_by}
            for p in (spec.parties if spec else ())
        ],
        "released": list(body.released) if body else [],
        "ends": [
            {"party": s.party, "state": s.state, "reasons": [{"rule": r.rule, "text": r.text} for r in s.reasons]}
            for s in verified.statements
        ],
        "checks": [dataclasses.asdict(check) for check in verified.checks],
    }


# What follows from the specification by this version's wording; another version may have worded it otherwise.
_WORDING = ("checks", "findings", "outputs", "views", "public", "limits")


def _compare(verified: Verified, data: bytes) -> tuple[Check, ...]:
    """Whether the report is bit for bit the one that its party signed, and says what the receipt says.

    The digest notices every change; the fields say which one, and that a party's own report contradicts its statement.
    """
    found = LeakageReport.from_json(data)
    checks, spec, body = Checks(), verified.spec, verified.body
    said = None
    if spec is not None and found.party in (party.name for party in spec.parties):
        said = next((s for s in verified.statements if s.party == found.party), None)
    present = said is not None
    checks.that("report.party", present, "a party with a statement in the receipt", found.party[:80], found.party[:80])
    if said is None or spec is None or body is None:
        return tuple(checks.made)
    checks.equal("report.digest", said.report_digest, digest(data), found.party)
    fields = [field.name for field in dataclasses.fields(LeakageReport)]
    if spec.code_version not in ("", __version__):
        fields = [name for name in fields if name not in _WORDING]
    try:
        derived, written = _values(_derived(found, spec, digest(body.spec), said)), _values(found)
    except (EnclaveError, ArithmeticError, ValueError):
        # A receipt is a stranger's file: its figures need not be any that a job can have.
        derived, written = {}, dict.fromkeys(fields)
    differ = [name for name in fields if name not in derived or derived[name] != written[name]]
    checks.that("report.fields", not differ, "what the receipt says", f"other {', '.join(differ)}", found.party)
    return tuple(checks.made)


def _values(report: LeakageReport) -> dict[str, Any]:
    """The fields in JSON types; floats as nine digits, since libraries differ in the last bits of a logarithm."""
    values: dict[str, Any] = json.loads(report.to_json(), parse_float=lambda text: f"{float(text):.9g}")
    return values


def _derived(found: LeakageReport, spec: JobSpec, spec_digest: bytes, said: Statement) -> LeakageReport:
    """The report that the receipt leads to; only what no receipt holds (plan, details of the audit) is as `found`."""
    seen = said.transcript or Transcript(0, (), b"", False)
    audit = dataclasses.replace(
        found.audit, openings=seen.openings, words=seen.opened_words, uniformity_p=seen.uniformity_p
    )
    plan = PlanFigures(
        rounds=found.planned_rounds,
        links=tuple(PlannedLink(link.sender, link.receiver, link.planned_bytes) for link in found.links),
        openings=found.planned_openings,
        dealer_bytes=found.dealer_bytes,
        stages=found.stages,
        hiding=found.hiding,
    )
    if audit.reused_masks != seen.reused_masks:
        audit = dataclasses.replace(audit, duplicate_words=seen.reused_masks, reused_pairs=0, repeated_starts=0)
    # Where a job ended early, the node and its worker may each have their own word for how: both are signed.
    early = "RELEASED" not in (said.state, found.state)
    return build_report(
        spec,
        spec_digest,
        dataclasses.replace(said, state=found.state) if early else said,
        plan=plan,
        audit=audit,
        claims=(line for line in said.claims if not line.startswith(OWN_CLAIMS)),
        reasons=[Reason(rule.rule, rule.text) for rule in found.reasons] if early else (),
    )


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if len(data) > limit_bytes:
        raise BadInput(f"{path} is too long: at most {limit_bytes} bytes")
    return data

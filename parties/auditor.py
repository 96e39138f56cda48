"""The auditor: checks receipts offline, and turns reports into pages. It has no access to data, models or shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enclave.errors import BadInput
from enclave.identity import Card
from enclave.leakage.report import MAX_REPORT_BYTES, LeakageReport
from enclave.receipts import MAX_RECEIPT_BYTES, Check, Verified, digest, verify_receipt

__all__ = ["read_report", "report", "summary", "verify"]


def verify(path: Path, trusted: Sequence[Card] | None = None, report_path: Path | None = None) -> Verified:
    """Checks the receipt at `path`; needs neither network nor keys.

    Args:
        trusted: the cards that the auditor knows from elsewhere. Without them the outcome says that the receipt is
            "consistent", with them that it is "authenticated".
        report_path: a leakage report (JSON) that is said to belong to the receipt; what it repeats of the signed
            statement of its party is compared. A report itself is not signed.

    Raises:
        BadInput: a file cannot be read, or the report is none. A receipt that is wrong is an answer, not an error.
    """
    verified = verify_receipt(_read(path, MAX_RECEIPT_BYTES), trusted)
    if report_path is None:
        return verified
    return dataclasses.replace(verified, checks=verified.checks + _compare(verified, read_report(report_path)))


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


def _compare(verified: Verified, found: LeakageReport) -> tuple[Check, ...]:
    said = next((s for s in verified.statements if s.party == found.party), None)
    if said is None or verified.body is None:
        return (Check("report.party", False, found.party, "a party with a statement in the receipt", found.party),)
    transcript = said.transcript.digest.hex() if said.transcript is not None else ""
    figures = said.transcript.openings if said.transcript is not None else 0
    pairs: tuple[tuple[str, object, object], ...] = (
        ("report.job", said.job_id, found.job_id),
        ("report.spec", digest(verified.body.spec).hex(), found.spec_digest),
        ("report.plan", said.plan_digest.hex(), found.plan_digest),
        ("report.transcript", transcript, found.transcript_digest),
        ("report.openings", figures, found.openings),
    )
    checks = [Check(name, a == b, found.party, str(a)[:80], str(b)[:80]) for name, a, b in pairs]
    foreign = sorted(set(found.claims) - set(said.claims))
    checks.append(
        Check("report.claims", not foreign, found.party, "claims that the statement makes", ", ".join(foreign)[:200])
    )
    return tuple(checks)


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if len(data) > limit_bytes:
        raise BadInput(f"{path} is too long: at most {limit_bytes} bytes")
    return data

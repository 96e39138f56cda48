"""What a session leaves behind for the auditor, whether it ran to its end or not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclave.executor.claims import job_claims
from enclave.leakage.audit import AuditResult
from enclave.leakage.report import HiddenCiphertexts, PlanFigures, PlannedLink, PlannedStage, build_report
from enclave.messages import JobSpec, Reason, Signed, Statement, Transcript
from enclave.receipts import digest

if TYPE_CHECKING:
    from enclave.plan import Plan

__all__ = ["Evidence"]


@dataclass(slots=True)
class Evidence:
    """Filled while a session runs."""

    plan: Plan | None = None
    transcript: Transcript | None = None
    audit: AuditResult | None = None

    def report(self, signed: Signed, spec: JobSpec, party: str, state: str, reasons: Iterable[Reason] = ()) -> bytes:
        """The leakage report as JSON; empty when the session did not get as far as its plan and its first step."""
        if self.plan is None or self.audit is None or self.transcript is None:
            return b""
        said = Statement(
            job_id=spec.job_id,
            party=party,
            spec_digest=digest(signed.body),
            plan_digest=self.plan.digest,
            state=state,
            claims=(),
            views=(),
            ledger_head=b"",
            ledger_index=0,
            finished_unix_s=0,
            transcript=self.transcript,
        )
        report = build_report(
            spec,
            said.spec_digest,
            said,
            plan=_figures(self.plan, spec, spec.rank(party)),
            audit=self.audit,
            claims=job_claims(spec),
            reasons=reasons,
        )
        return report.to_json().encode()


def _figures(plan: Plan, spec: JobSpec, rank: int) -> PlanFigures:
    names = [party.name for party in spec.parties]
    # What was dealt ahead came in a session of its own, before the one that this is evidence of.
    online = not spec.deal_ahead
    return PlanFigures(
        rounds=plan.rounds,
        links=tuple(
            PlannedLink(names[a], names[b], size)
            for (a, b), size in plan.link_bytes.items()
            if online or a != plan.parties
        ),
        openings=plan.openings_at[rank] if rank < plan.parties else 0,
        dealer_bytes=plan.dealer_bytes,
        stages=tuple(
            PlannedStage(s.name, s.rounds, s.sent_bytes + (0 if spec.deal_ahead else s.dealt_bytes))
            for s in plan.stages
        ),
        hiding=tuple(
            HiddenCiphertexts(h.label, h.bits if math.isfinite(h.bits) else None, h.method) for h in plan.hiding
        ),
    )

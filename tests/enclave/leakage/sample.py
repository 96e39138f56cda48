"""A small job and the report of one of its parties, for the tests of this folder."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from enclave.leakage.audit import AuditResult, OpeningAudit
from enclave.leakage.report import LeakageReport, PlanFigures, PlannedLink, PlannedStage, build_report
from enclave.messages import (
    Category,
    ClassTarget,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    LinkTraffic,
    NumericFeature,
    PartyRef,
    Reason,
    Statement,
    Target,
    Training,
    Transcript,
)
from enclave.models.model import dense_architecture
from enclave.receipts import digest

NAMES = ("charite", "uniklinik", "acme", "dealer")
ROLES = ("owner", "owner", "buyer", "dealer")
CLAIMS = (
    "transport.tls=1.3, peer certificates pinned",
    "engine=mpc",
    "random.generator=AES-128-CTR, keys from the operating system",
    "dealer.organisation=apart from all parties",
    "node.profile=production",
)
LINKS = {
    ("charite", "uniklinik"): 4_183_040,
    ("uniklinik", "charite"): 4_183_040,
    ("charite", "acme"): 4_190_112,
    ("acme", "charite"): 4_183_040,
    ("uniklinik", "acme"): 4_190_112,
    ("acme", "uniklinik"): 4_183_040,
    ("dealer", "charite"): 6_802_944,
}
PLAN = PlanFigures(
    rounds=61,
    links=tuple(PlannedLink(a, b, size) for (a, b), size in LINKS.items()),
    openings=48,
    dealer_bytes=6_802_944,
    stages=(
        PlannedStage("input", 1, 61_440),
        PlannedStage("hidden0", 2, 2_211_840),
        PlannedStage("hidden0.relu", 9, 9_034_112),
        PlannedStage("output", 2, 196_608),
        PlannedStage("auc", 47, 13_601_384),
    ),
)


def make_spec(**changes: Any) -> JobSpec:
    """Two owners, a buyer with an MLP on 13 columns, a dealer."""
    classes = ClassTarget((Category(("0",)), Category(("1",))))
    fields: dict[str, Any] = {
        "job_id": "5f0c" * 8,
        "kind": "evaluate",
        "created_unix_s": 1_700_000_000,
        "expires_unix_s": 1_700_003_600,
        "parties": tuple(PartyRef(n, r, digest(n.encode())) for n, r in zip(NAMES, ROLES, strict=True)),
        "datasets": (
            DatasetRef("charite", "heart", bytes(32), 303),
            DatasetRef("uniklinik", "heart", bytes(32), 294),
        ),
        "encoding": Encoding(
            tuple(Feature(f"c{i}", numeric=NumericFeature()) for i in range(13)), Target("sick", classes=classes)
        ),
        "architecture": dense_architecture(13, [16], 1),
        "outputs": ("accuracy", "confusion", "auc"),
        "plan_digest": digest(b"plan"),
        "purpose": "external validation of a risk score",
    }
    return JobSpec(**fields | changes)


def training_spec(**changes: Any) -> JobSpec:
    """The same parties train together, with rows of the buyer's."""
    schedule = Training("logistic", 5, 64, 0.1)
    fields: dict[str, Any] = {"kind": "train", "training": schedule, "outputs": ("model",), "buyer_rows": 100}
    return make_spec(**fields | changes)


def honest_audit(openings: int = 48) -> AuditResult:
    """Uniform words under a few labels."""
    rng = np.random.default_rng(1)
    audit = OpeningAudit()
    for i in range(openings):
        label = ("hidden0/x", "hidden0/w", "hidden0.relu/bits", "auc/sort", "auc/scan")[i % 5]
        audit.observe(label, rng.integers(0, 2**64, size=2000, dtype=np.uint64))
    return audit.result()


def make_statement(party: str = "charite", state: str = "RELEASED", **changes: Any) -> Statement:
    """What `party` states, with a transcript that equals PLAN unless `changes` to it say otherwise."""
    links = tuple(
        LinkTraffic(peer, LINKS.get((party, peer), 0), LINKS.get((peer, party), 0)) for peer in NAMES if peer != party
    )
    transcript = Transcript(
        rounds=PLAN.rounds, links=links, digest=digest(b"t"), equals_plan=True, openings=PLAN.openings,
        peak_rss_bytes=412_000_000, wall_s=1.84,
    )  # fmt: skip
    return Statement(
        job_id="5f0c" * 8,
        party=party,
        spec_digest=bytes(32),
        plan_digest=digest(b"plan"),
        state=state,
        claims=CLAIMS,
        views=(),
        ledger_head=b"",
        ledger_index=0,
        finished_unix_s=1_700_000_100,
        transcript=dataclasses.replace(transcript, **changes),
    )


def make_report(
    spec: JobSpec | None = None,
    statement: Statement | None = None,
    audit: AuditResult | None = None,
    reasons: tuple[Reason, ...] = (),
    claims: tuple[str, ...] = CLAIMS,
    plan: PlanFigures = PLAN,
) -> LeakageReport:
    """An honest report, or one with the given part in the place of an honest one."""
    return build_report(
        spec or make_spec(),
        digest(b"spec"),
        statement or make_statement(),
        plan=plan,
        audit=audit or honest_audit(),
        claims=claims,
        reasons=reasons,
    )

"""The leakage report of one job as one party saw it: a frozen value, its JSON, and through `page` its HTML.

Every figure is of one of three kinds: declared (follows from the specification), planned (follows from the plan),
measured (came out of the run). The report never says that a job is safe: it says what was looked at, what was
found, and what was not looked at. Attacks on released outputs and privacy budgets are not part of this version,
and `limits` says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from enclave.errors import BadInput
from enclave.leakage.audit import AuditResult
from enclave.leakage.declared import Output, PartyView, declared_outputs, party_views, public_facts
from enclave.messages import JobSpec, Reason, Statement, Transcript
from enclave.receipts import SMALLEST_P

__all__ = [
    "MAX_REPORT_BYTES",
    "SCHEMA",
    "Finding",
    "HiddenCiphertexts",
    "LeakageReport",
    "LinkFigures",
    "PlanFigures",
    "PlannedLink",
    "PlannedStage",
    "Rule",
    "build_report",
]

SCHEMA = "enclave.report/2"
MAX_REPORT_BYTES = 8 << 20
_MAX_ITEMS = 10_000
_LEAST_HIDING_BITS = 40


@dataclass(frozen=True, slots=True)
class PlannedLink:
    """Payload bytes that the plan sends from one party to another, by name."""

    sender: str
    receiver: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of the plan: its name, its rounds, and the bytes of all links together."""

    name: str
    rounds: int
    bytes: int


@dataclass(frozen=True, slots=True)
class HiddenCiphertexts:
    """One kind of ciphertext that leaves an owner.

    Attributes:
        label: which.
        bits: what it tells of the rows beyond its declared content is a statistical distance of at most 2^-bits; None
            where that is nothing at all.
        method: what hides them, in words.
    """

    label: str
    bits: float | None
    method: str


@dataclass(frozen=True, slots=True)
class PlanFigures:
    """What the report needs of a plan. `dealer_bytes` is what the dealer sends in all."""

    rounds: int
    links: tuple[PlannedLink, ...]
    openings: int
    dealer_bytes: int
    stages: tuple[PlannedStage, ...] = ()
    hiding: tuple[HiddenCiphertexts, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkFigures:
    """One direction between two parties. `measured_bytes` is None where this party cannot know it."""

    sender: str
    receiver: str
    planned_bytes: int
    measured_bytes: int | None


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule that spoke."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an honest run would not show. `check` is stable."""

    check: str
    text: str


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """See the module's text. Digests are hex; all bytes are payload, without the transport's own.

    Attributes:
        party, role: who wrote the report.
        findings: empty when nothing was found. `checks` says how many things were looked at.
        planned_rounds, rounds: by plan, and counted at this party.
        plan_digest, spec_digest, transcript_digest: hex.
        hiding: what hides the owners' rows in the ciphertexts that leave them, and what the engine "hybrid" masked
            instead, and why; empty under "mpc".
        links: the plan's links, measured where this party is one end.
        transcript_equals_plan: step by step, as this party's session found.
        claims: lines "key=value", computed from the configuration that ran.
        reasons: what policy said; empty when it admitted and released without a word.
    """

    job_id: str
    kind: str
    state: str
    party: str
    role: str
    buyer: str
    datasets: tuple[str, ...]
    rows: int
    purpose: str
    spec_digest: str
    plan_digest: str
    transcript_digest: str
    checks: tuple[str, ...]
    findings: tuple[Finding, ...]
    outputs: tuple[Output, ...]
    views: tuple[PartyView, ...]
    public: tuple[str, ...]
    planned_rounds: int
    rounds: int
    links: tuple[LinkFigures, ...]
    dealer_bytes: int
    stages: tuple[PlannedStage, ...]
    hiding: tuple[HiddenCiphertexts, ...]
    planned_openings: int
    openings: int
    transcript_equals_plan: bool
    audit: AuditResult
    claims: tuple[str, ...]
    reasons: tuple[Rule, ...]
    limits: tuple[str, ...]
    wall_s: float
    peak_rss_bytes: int

    @property
    def verdict(self) -> str:
        """One sentence. Never "safe": what was looked at is listed, and so is what was not."""
        if not self.findings and self.state != "RELEASED":
            return f"The job ended without a result ({self.state.lower()}); nothing undeclared was found until then."
        if not self.findings:
            return f"Nothing undeclared was found in {len(self.checks)} checks."
        count = len(self.findings)
        return f"{count} finding{'s' * (count > 1)}: {self.findings[0].text}."

    @property
    def bits(self) -> float:
        """Upper bound of what all declared outputs tell together, in bits."""
        return sum(output.bits for output in self.outputs)

    def to_json(self) -> str:
        """The report as JSON text, keys in a fixed order."""
        return json.dumps({"schema": SCHEMA, **_plain(self)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> LeakageReport:
        """Reads what `to_json` wrote; raises BadInput for anything else."""
        if len(text) > MAX_REPORT_BYTES:
            raise BadInput(f"report too long: at most {MAX_REPORT_BYTES} bytes, found {len(text)}")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput("not a leakage report: malformed JSON") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise BadInput(f"not a leakage report: expected schema {SCHEMA}, found {str(found)[:80]!r}")
        del data["schema"]
        return typing.cast(LeakageReport, _typed(cls, data, "report"))

    def to_html(self) -> str:
        """One page without scripts or external resources."""
        # Imported here: a worker writes JSON and has no use for a plotting library.
        from enclave.leakage.page import render

        return render(self)


def build_report(
    spec: JobSpec,
    spec_digest: bytes,
    statement: Statement,
    *,
    plan: PlanFigures,
    audit: AuditResult,
    claims: Iterable[str],
    reasons: Iterable[Reason] = (),
) -> LeakageReport:
    """The report of the party that makes `statement` (its ledger fields are not read, it need not be signed yet).

    Args:
        spec_digest: SHA-256 of the specification's bytes.
        plan: figures of the plan that was followed.
        audit: of everything opened at this party; at a dealer, of nothing.
        claims: lines "key=value" from the running configuration.
        reasons: what policy said at admission and release.
    """
    party = spec.party(statement.party)
    transcript = statement.transcript or Transcript(0, (), b"", False)
    links = _links(plan, statement.party, transcript)
    checks, findings = _findings(party.role, statement.state, plan, transcript, links, audit)
    return LeakageReport(
        job_id=spec.job_id,
        kind=spec.kind,
        state=statement.state,
        party=party.name,
        role=party.role,
        buyer=spec.buyer.name,
        datasets=tuple(f"{d.owner}/{d.name}" for d in spec.datasets),
        rows=spec.rows,
        purpose=spec.purpose,
        spec_digest=spec_digest.hex(),
        plan_digest=statement.plan_digest.hex(),
        transcript_digest=transcript.digest.hex(),
        checks=checks,
        findings=findings,
        outputs=declared_outputs(spec),
        views=party_views(spec),
        public=public_facts(spec),
        planned_rounds=plan.rounds,
        rounds=transcript.rounds,
        links=links,
        dealer_bytes=plan.dealer_bytes,
        stages=plan.stages,
        hiding=plan.hiding,
        planned_openings=plan.openings,
        openings=transcript.openings,
        transcript_equals_plan=transcript.equals_plan,
        audit=audit,
        claims=tuple(claims),
        reasons=tuple(Rule(reason.rule, reason.text) for reason in reasons),
        limits=_limits(spec),
        wall_s=transcript.wall_s if math.isfinite(transcript.wall_s) else 0.0,
        peak_rss_bytes=transcript.peak_rss_bytes,
    )


def _links(plan: PlanFigures, party: str, transcript: Transcript) -> tuple[LinkFigures, ...]:
    measured: dict[tuple[str, str], int] = {}
    for link in transcript.links:
        measured[party, link.peer] = link.sent_bytes
        measured[link.peer, party] = link.received_bytes
    planned: dict[tuple[str, str], int] = {}
    for entry in plan.links:
        planned[entry.sender, entry.receiver] = planned.get((entry.sender, entry.receiver), 0) + entry.bytes
    rows = []
    for pair in [*planned, *(pair for pair in measured if pair not in planned)]:
        seen = measured.get(pair, 0) if party in pair else None
        if planned.get(pair) or seen:
            rows.append(LinkFigures(*pair, planned.get(pair, 0), seen))
    return tuple(rows)


def _findings(
    role: str,
    state: str,
    plan: PlanFigures,
    transcript: Transcript,
    links: tuple[LinkFigures, ...],
    audit: AuditResult,
) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """The names of the checks, and what they found. A job that ended early cannot equal its plan: not a finding."""
    checks = ["openings.uniform", "openings.fresh"]
    found = []
    if not audit.uniform:
        text = f"opened words are not uniform at {audit.uniformity_at} (p = {audit.uniformity_p:.1e})"
        found.append(Finding("openings.uniform", text))
    if audit.reused_masks:
        where = f", {audit.reused_at}" if audit.reused_at else ""
        found.append(Finding("openings.fresh", f"masks were used {audit.reused_masks} times more than once{where}"))
    if plan.hiding:
        checks.append("ciphertexts.hidden")
        for hidden in plan.hiding:
            if hidden.bits is not None and hidden.bits < _LEAST_HIDING_BITS:
                text = f"ciphertexts {hidden.label!r} hide their rows with {math.floor(hidden.bits)} bits alone"
                found.append(Finding("ciphertexts.hidden", text))
    if state == "RELEASED":
        checks += ["transcript.steps", "transcript.bytes"]
        if not transcript.equals_plan:
            found.append(Finding("transcript.steps", "the steps that were run are not the planned ones"))
        for link in links:
            if link.measured_bytes is not None and link.measured_bytes != link.planned_bytes:
                text = f"{link.sender} sent {link.receiver} {link.measured_bytes} bytes, planned {link.planned_bytes}"
                found.append(Finding("transcript.bytes", text))
        if role != "dealer":
            checks += ["transcript.rounds", "transcript.openings"]
            if transcript.rounds != plan.rounds:
                text = f"{transcript.rounds} rounds, planned {plan.rounds}"
                found.append(Finding("transcript.rounds", text))
            if transcript.openings != plan.openings:
                text = f"{transcript.openings} openings, planned {plan.openings}"
                found.append(Finding("transcript.openings", text))
    return tuple(checks), tuple(found)


_ENCRYPTED_LIMITS = (
    "Ciphertexts that are flooded hide the rows from a buyer whose public key and encryptions are honest. What one that"
    " makes larger errors or another public key learns beyond the outputs is outside the model; uniform masks hide the"
    " rows from it too.",
    "That a job failed at the buyer tells an owner one bit, of what the buyer decrypted; each job has keys of its own.",
)


def _limits(spec: JobSpec) -> tuple[str, ...]:
    limits = [
        "No attack on the released outputs was run: neither membership or attribute inference nor reconstruction.",
        "Outputs are exact, without noise. Jobs on the same rows add up, and no budget is kept across jobs yet: n + 1"
        " exact accuracies on n rows reveal all labels.",
        "A weak random generator behind uniform masks is invisible to these tests; the claims name the generator.",
        "Parties are assumed to follow the protocol; wrong inputs, or a party that deviates, are not detected.",
        "The dealer together with any one party that computes could remove all masks; who runs it is a claim."
        if spec.has_dealer
        else "Ciphertexts hide what they hold as long as ring learning with errors is hard, at 128 bits.",
        *(_ENCRYPTED_LIMITS if spec.engine != "mpc" else ()),
        "Timing was not tested for dependence on data.",
        f"Large jobs are sampled; a defect in a few words only can be missed. p below {SMALLEST_P:g} counts as found.",
    ]
    if "model" in spec.outputs:
        limits.insert(
            1, "A trained model can remember single rows; this model was trained without differential privacy."
        )
    if "predictions" in spec.outputs:
        limits.insert(1, "Row predictions say something about every single row they were made for.")
    return tuple(limits)


def _plain(value: Any) -> Any:
    """JSON types of a report value; dictionaries keep the order of the fields."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _typed(hint: Any, value: Any, where: str) -> Any:
    """The reverse of `_plain`: exactly the declared fields and types, else BadInput naming the place."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        if not isinstance(value, dict) or set(value) != set(hints):
            raise BadInput(f"not a leakage report: {where} needs the fields {', '.join(hints)}")
        return hint(**{name: _typed(inner, value[name], f"{where}.{name}") for name, inner in hints.items()})
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or len(value) > _MAX_ITEMS:
            raise BadInput(f"not a leakage report: {where} must be a list of at most {_MAX_ITEMS} items")
        inner = typing.get_args(hint)[0]
        return tuple(_typed(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    if typing.get_origin(hint) is types.UnionType:
        return None if value is None else _typed(typing.get_args(hint)[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 53 else value
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise BadInput(f"not a leakage report: {where} must be {hint.__name__}, found {str(value)[:40]!r}")
    return value

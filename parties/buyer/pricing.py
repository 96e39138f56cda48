"""A job's plan and its price, from the specification alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from enclave.messages import JobSpec
from parties.buyer.results import Cost, HiddenBits, Quote

if TYPE_CHECKING:
    from enclave.plan import Plan
    from parties.buyer.preparing import Draft

__all__ = ["cost_of", "plan_of", "price"]


def plan_of(spec: JobSpec) -> Plan:
    """The plan that every party of the job derives."""
    from enclave.executor.session import plan_job

    return plan_job(spec)


def cost_of(plan: Plan, spec: JobSpec) -> Cost:
    """Rounds and bytes of a job's session, by the names of the parties; without what is dealt ahead of it."""
    names = [party.name for party in spec.parties]
    links = {(a, b): size for (a, b), size in plan.link_bytes.items() if size}
    if spec.deal_ahead:
        links = {(a, b): size for (a, b), size in links.items() if a != plan.parties}
    return Cost(plan.rounds, {(names[a], names[b]): size for (a, b), size in links.items()})


def price(draft: Draft, *, bandwidth_bps: float, latency_s: float) -> Quote:
    """What the job would send, how long it would take at a bandwidth and a one-way latency, and how exact it is."""
    from enclave.plan import encrypted_work_s

    spec = draft.spec
    plan = plan_of(spec)
    return Quote(
        kind=spec.kind,
        rows=spec.rows,
        steps=plan.steps,
        cost=cost_of(plan, spec),
        dealer_bytes=plan.dealer_bytes,
        seconds=plan.quote(bandwidth_bps, latency_s).time_s + encrypted_work_s(plan, spec),
        bandwidth_bps=bandwidth_bps,
        latency_s=latency_s,
        plan_digest=plan.digest,
        parties=tuple(party.name for party in spec.parties),
        numbers=draft.numbers(),
        engine=spec.engine,
        dealer=spec.dealer.name if spec.dealer is not None else "",
        hiding=tuple(HiddenBits(h.label, h.bits if math.isfinite(h.bits) else None, h.method) for h in plan.hiding),
    )

"""`enclave owner ...` and `enclave dealer serve`."""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from enclave.errors import BadInput
from enclave.executor.orders import printable
from enclave.identity import Identity, TrustStore
from parties import dealer, owner
from parties.cli.console import Answer, Console, table
from parties.config import NodeConfig

if TYPE_CHECKING:
    from enclave.policy import Policy
    from parties.node import NodeProcess

__all__ = ["COMMANDS"]


def _add(args: Namespace, console: Console) -> Answer:
    added = owner.add(args.home, args.dataset, replace=args.replace)
    policy = added.policy
    value = {
        "name": added.name,
        "rows": added.rows,
        "columns": list(added.columns),
        "version": added.version.hex(),
        "policy": _policy_value(policy),
    }
    lines = [
        f"data set {added.name}: {added.rows:,} rows, {len(added.columns)} columns",
        f"version  {added.version.hex()[:32]}",
        f"buyers   {', '.join(policy.buyers) or 'nobody'}",
        f"jobs     {', '.join(policy.kinds) or 'none'}",
        f"outputs  {', '.join(policy.outputs) or 'none'}",
        f"needs    {policy.minimum_rows:,} rows, {policy.approval} approval",
    ]
    if not (policy.buyers and policy.kinds and policy.outputs and policy.engines):
        lines.append("note     this policy refuses every job: whatever a [policy] does not name is not allowed")
    return Answer(value, "\n".join(lines))


def _policy_value(policy: Policy) -> dict[str, Any]:
    return {
        "buyers": list(policy.buyers),
        "kinds": list(policy.kinds),
        "outputs": list(policy.outputs),
        "engines": list(policy.engines),
        "minimum_rows": policy.minimum_rows,
        "approval": policy.approval,
    }


def _serve_owner(args: Namespace, console: Console) -> Answer:
    return _serve(args, console, "owner", owner.serve)


def _serve_dealer(args: Namespace, console: Console) -> Answer:
    return _serve(args, console, "dealer", dealer.serve)


def _serve(args: Namespace, console: Console, role: str, start: Callable[..., NodeProcess]) -> Answer:
    identity = Identity.load(args.home)
    handler = logging.StreamHandler(console.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    process = start(args.home)
    trusted = TrustStore(args.home).cards()
    value = {"event": "serving", "name": identity.name, "role": role, "address": process.address}
    text = f"{role} {identity.name} serves on {process.address}; stop it with Ctrl-C"
    if not trusted:
        text += "\nnote     it trusts nobody yet: run `enclave trust CARD`, the node picks the card up at once"
    configured = NodeConfig.load(args.home).address
    if identity.card.address != configured and not configured.endswith(":0"):
        text += (
            f"\nwarning  its card tells others to dial {identity.card.address}, node.toml says {configured}: "
            f"run `enclave move {configured}` and hand the new card out"
        )
    console.event(value, text)
    process.run()
    return Answer({"event": "stopped", "name": identity.name}, f"{role} {identity.name} has stopped")


class _OneLine(logging.Formatter):
    """Keeps what other parties say from forging lines of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def _approve(args: Namespace, console: Console) -> Answer:
    job_id = _job_id(args)
    facts = _show(args, console, job_id)
    decision = owner.approve(args.home, job_id)
    value = {"job_id": decision.job_id, "state": decision.state, "approved": True, "facts": facts}
    return Answer(value, f"approved {decision.job_id}; the buyer can go on")


def _show(args: Namespace, console: Console, job_id: str) -> list[str]:
    """What a consent is given to, on stderr before it is given."""
    job = next((j for j in owner.jobs(args.home, states=("PROPOSED",), limit=-1) if j.job_id == job_id), None)
    if job is None:
        return []
    facts = [f"{job.kind} job of {job.buyer} on {job.dataset}", *job.facts]
    facts = [printable(fact) for fact in facts]
    if not console.as_json:
        console.note("\n".join(facts))
    return facts


def _withdraw(args: Namespace, console: Console) -> Answer:
    status = owner.withdraw(args.home, _job_id(args))
    value = {"job_id": status.job_id, "state": status.state, "reasons": [r.text for r in status.reasons]}
    return Answer(value, f"job {status.job_id} is {status.state.lower()}")


def _jobs(args: Namespace, console: Console) -> Answer:
    jobs = owner.jobs(args.home)
    values = [
        {
            "job_id": job.job_id,
            "state": job.state,
            "kind": job.kind,
            "buyer": job.buyer,
            "dataset": job.dataset,
            "outputs": list(job.outputs),
            "purpose": job.purpose,
            "facts": list(job.facts),
            "reasons": [{"rule": reason.rule, "text": reason.text} for reason in job.reasons],
            "received_unix_s": job.received_unix_s,
            "updated_unix_s": job.updated_unix_s,
            "expires_unix_s": job.expires_unix_s,
            "spec_digest": job.spec_digest.hex(),
        }
        for job in jobs
    ]
    rows = [
        (
            job.job_id,
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(job.received_unix_s)),
            printable(job.buyer),
            printable(job.kind),
            printable(job.dataset),
            printable(", ".join(job.outputs)),
            job.state,
            printable("; ".join(reason.text for reason in job.reasons)[:80]),
        )
        for job in jobs
    ]
    headers = ("job", "received (UTC)", "buyer", "kind", "data set", "outputs", "state", "reason")
    return Answer({"jobs": values}, table(headers, rows) if rows else "no jobs yet")


def _job_id(args: Namespace) -> str:
    """The full id of the job that the argument is, or begins."""
    given = str(args.job)
    if not given or not all(c in "0123456789abcdef" for c in given):
        raise BadInput(f"expected a job id of hex digits, found {given[:80]!r}", hint="see enclave owner jobs")
    if len(given) == 32:
        return given
    found = [job.job_id for job in owner.jobs(args.home) if job.job_id.startswith(given)]
    if len(found) != 1:
        count = "no job" if not found else f"{len(found)} jobs"
        raise BadInput(f"{count} of this node with the id {given}", hint="see enclave owner jobs")
    return found[0]


COMMANDS: Mapping[str, Callable[[Namespace, Console], Answer]] = {
    "owner add": _add,
    "owner serve": _serve_owner,
    "owner approve": _approve,
    "owner withdraw": _withdraw,
    "owner jobs": _jobs,
    "dealer serve": _serve_dealer,
}

"""`enclave auditor verify` and `report`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping

from enclave.identity import Card, Identity, TrustStore
from enclave.messages import PartyRef
from enclave.receipts import Verified
from parties.auditor import report, summary, verify
from parties.cli.console import FAILED, Answer, Console

__all__ = ["COMMANDS"]


def _verify(args: Namespace, console: Console) -> Answer:
    cards = _cards(args)
    verified = verify(args.receipt, cards, args.report)
    return Answer(summary(verified), _text(verified, console), 0 if verified.ok else FAILED)


def _report(args: Namespace, console: Console) -> Answer:
    path = report(args.report, args.out)
    return Answer({"page": str(path)}, f"page     {path}")


def _cards(args: Namespace) -> tuple[Card, ...] | None:
    """The cards that this party trusts; None without a home, where a receipt can only be consistent in itself.

    Raises: StoreError: a home was named and is none. A misspelt name must not weaken the check in silence.
    """
    if args.home == args.default_home and not (args.home / "card").is_file():
        return None
    identity = Identity.load(args.home, expired_ok=True)
    # Whoever verifies may be a party of the job itself.
    return (*TrustStore(identity.home).cards(), identity.card)


def _text(verified: Verified, console: Console) -> str:
    lines = []
    if verified.spec is not None:
        spec = verified.spec
        data = ", ".join(f"{d.owner}/{d.name} ({d.rows:,} rows)" for d in spec.datasets)
        ended = "released" if verified.released else "ended without release"
        lines += [f"job      {spec.job_id}", f"kind     {spec.kind}, {ended}", f"data     {data}"]
        lines.append(f"parties  {', '.join(map(_party, spec.parties))}")
    if verified.body is not None:
        lines.append(f"released {', '.join(verified.body.released) or 'nothing'}")
    if not verified.released:
        lines += _ends(verified)
    failures = verified.failures
    if failures:
        lines.append(console.style("bad", f"verdict  {len(failures)} of {len(verified.checks)} checks failed"))
        lines += [f"  {check}" for check in failures]
        return "\n".join(lines)
    known = "signed by parties whose cards this home trusts"
    unknown = "consistent in itself; whose keys these are was not checked (no trusted cards: give --home)"
    lines.append(
        console.style("good", f"verdict  all {len(verified.checks)} checks passed: ")
        + (known if verified.mode == "authenticated" else unknown)
    )
    return "\n".join(lines)


def _ends(verified: Verified) -> list[str]:
    """How the job ended at each party, with the reasons that the party states."""
    width = max((len(said.party) for said in verified.statements), default=0)
    lines = []
    for said in verified.statements:
        reasons = "; ".join(f"{_plain(reason.text)} ({_plain(reason.rule)})" for reason in said.reasons)
        lines.append(
            f"end      {_plain(said.party).ljust(width)}  {_plain(said.state).lower()}"
            + (f": {reasons}" if reasons else "")
        )
    return lines


def _party(party: PartyRef) -> str:
    run_by = "" if party.run_by == party.name else f" of {party.run_by}"
    return f"{party.name} ({party.role}{run_by})"


def _plain(text: str) -> str:
    # A receipt is a stranger's file: nothing in it may move the cursor.
    return "".join(c if c.isprintable() else " " for c in text)


COMMANDS: Mapping[str, Callable[[Namespace, Console], Answer]] = {
    "auditor verify": _verify,
    "auditor report": _report,
}

"""What an owner allows: pure decisions over public facts. What is not allowed is refused.

    [policy]
    buyers = ["acme"]              # names of trusted parties; "*" is any trusted buyer, never in production
    kinds = ["evaluate"]           # evaluate, train
    outputs = ["accuracy", "auc"]  # each output by name; there is no wildcard
    engines = ["mpc"]              # mpc, hybrid, he
    minimum_rows = 100             # of this owner's own rows in the job
    approval = "manual"            # or "automatic"
    # optional, and unbounded when absent:
    columns = ["age", "income"]    # what a job may use, target included
    dealers = ["dealer"]           # names of trusted dealers; restricts the jobs that have one
    purposes = ["credit scoring"]  # the job's stated purpose must be one of them
    maximum_jobs_per_buyer = 20
    not_after = 2027-12-31         # the last day (UTC)

A table without a field allows nothing of it: an empty table refuses every job. A decision reports every rule that is
broken and not only the first, so that a buyer need not learn them one by one. `admit` is asked when a job is
proposed, approved and started; `release` asks it again at the end, with the policy as it then stands.

Metrics and row predictions are different things: the predictions of a linear model on known columns can be solved for
its input rows. So "predictions" and "model" are released only where the owner wrote the word, and never because
other outputs are allowed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Self

from enclave.errors import BadInput
from enclave.messages import ENGINES, OUTPUTS, JobSpec, Reason

__all__ = ["APPROVAL_RULE", "RULES", "Facts", "Policy", "awaits_approval"]

KINDS = ("evaluate", "train")
APPROVALS = ("automatic", "manual")
ANY_BUYER = "*"
DEFAULT_MINIMUM_ROWS = 100
SHOWN_COLUMNS = 10
_DAY_S = 86_400
APPROVAL_RULE = "policy.approval"
RULES = (
    "policy.caller",
    "policy.party",
    "policy.buyer",
    "policy.kind",
    "policy.engine",
    "policy.output",
    "policy.dataset",
    "policy.column",
    "policy.rows.declared",
    "policy.rows.minimum",
    "policy.dealer",
    "policy.purpose",
    "policy.jobs.maximum",
    "policy.expired",
    APPROVAL_RULE,
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the node knows and the specification does not prove.

    Attributes:
        caller: name on the trusted card whose key signed the job.
        caller_role: role on that card.
        caller_key_id: that card's key id, 32 bytes.
        owner: this node's name.
        dataset: name of the data set that the policy belongs to.
        version: its commitment as this node computes it, 32 bytes.
        rows: this owner's own rows that take part; at the release, those that did.
        columns: names of all columns of the data set.
        trusted: (name, role, key id) of every card the node trusts, and of its own.
        unix_s: now.
        production: whether the node runs in the production profile.
        approved: the operator has signed for exactly this specification.
        granted_jobs: other jobs of this buyer on this data set that were released or still may be.
    """

    caller: str
    caller_role: str
    caller_key_id: bytes
    owner: str
    dataset: str
    version: bytes
    rows: int
    columns: tuple[str, ...]
    trusted: frozenset[tuple[str, str, bytes]]
    unix_s: int
    production: bool = True
    approved: bool = False
    granted_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """One data set's rules. `Policy()` refuses everything.

    Attributes:
        not_after_unix_s: first second at which nothing is allowed any more; None for no end.
    """

    buyers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    minimum_rows: int = DEFAULT_MINIMUM_ROWS
    approval: str = "manual"
    columns: tuple[str, ...] | None = None
    dealers: tuple[str, ...] | None = None
    purposes: tuple[str, ...] | None = None
    maximum_jobs_per_buyer: int | None = None
    not_after_unix_s: int | None = None

    @classmethod
    def parse(cls, source: str | Mapping[str, object]) -> Self:
        """Reads a policy from the text of a data set's TOML file, or from its [policy] table.

        A text without a [policy] table is a policy that refuses everything.

        Raises:
            BadInput: not TOML, an unknown key, or a value of the wrong type or out of range.
        """
        if isinstance(source, str):
            try:
                table = tomllib.loads(source).get("policy", {})
            except tomllib.TOMLDecodeError as error:
                raise BadInput(f"the data set's description is not TOML: {error}", code="input.policy") from error
            if not isinstance(table, Mapping):
                raise _bad("policy", "a table", table)
            source = table
        unknown = sorted(set(source) - set(_READERS))
        if unknown:
            raise BadInput(
                f"unknown key {unknown[0]!r} in [policy]",
                hint=f"known keys: {', '.join(sorted(_READERS))}",
                code="input.policy",
            )
        return cls(**{_FIELD.get(key, key): _READERS[key](key, source[key]) for key in source})

    def allows_buyer(self, name: str, *, production: bool) -> bool:
        """Whether the buyer called `name` may ask at all; a node shows the data set to no other."""
        return name in self.buyers or (ANY_BUYER in self.buyers and not production)

    def admit(self, spec: JobSpec, facts: Facts) -> tuple[Reason, ...]:
        """Every rule that stands against the job; empty if it may run.

        If all that is left is `APPROVAL_RULE`, the job waits for the operator; see `awaits_approval`.
        """
        found = [*_against_identity(spec, facts)]
        found += self._against_request(spec, facts)
        found += self._against_data(spec, facts)
        if self.approval != "automatic" and not facts.approved:
            found.append(Reason(APPROVAL_RULE, "the owner must approve this job"))
        return tuple(found)

    def release(self, spec: JobSpec, outputs: Sequence[str], facts: Facts) -> tuple[Reason, ...]:
        """Every rule that stands against opening `outputs` of a sealed job; empty if they may leave.

        Args:
            facts: as they are now; `rows` are the rows that took part.
        """
        found = list(self.admit(spec, facts))
        for output in outputs:
            if output not in spec.outputs:
                found.append(Reason("policy.output", f"{output[:40]} was not declared by the job"))
        return tuple(found)

    def _against_request(self, spec: JobSpec, facts: Facts) -> list[Reason]:
        found = []
        if not self.allows_buyer(facts.caller, production=facts.production):
            found.append(Reason("policy.buyer", f"{facts.caller} is not among the buyers of {facts.dataset}"))
        if spec.kind not in self.kinds:
            found.append(Reason("policy.kind", f"{spec.kind} jobs are not allowed; allowed: {_listed(self.kinds)}"))
        if spec.engine not in self.engines:
            found.append(
                Reason("policy.engine", f"engine {spec.engine} is not allowed; allowed: {_listed(self.engines)}")
            )
        for output in spec.outputs:
            if output not in self.outputs:
                text = f"output {output} is not allowed; allowed: {_listed(self.outputs)}"
                found.append(Reason("policy.output", text))
        if self.dealers is not None and spec.dealer is not None and spec.dealer.name not in self.dealers:
            text = f"dealer {spec.dealer.name} is not allowed; allowed: {_listed(self.dealers)}"
            found.append(Reason("policy.dealer", text))
        if self.purposes is not None and spec.purpose not in self.purposes:
            text = f"purpose {spec.purpose[:80]!r} is not allowed; allowed: {_listed(self.purposes)}"
            found.append(Reason("policy.purpose", text))
        if self.maximum_jobs_per_buyer is not None and facts.granted_jobs >= self.maximum_jobs_per_buyer:
            text = f"{facts.caller} has had {facts.granted_jobs} of {self.maximum_jobs_per_buyer} jobs"
            found.append(Reason("policy.jobs.maximum", text))
        if self.not_after_unix_s is not None and facts.unix_s >= self.not_after_unix_s:
            ago_s = facts.unix_s - self.not_after_unix_s
            found.append(Reason("policy.expired", f"the policy of {facts.dataset} ended {ago_s} s ago"))
        return found

    def _against_data(self, spec: JobSpec, facts: Facts) -> list[Reason]:
        found = []
        mine = next((d for d in spec.datasets if d.owner == facts.owner), None)
        if mine is None or mine.name != facts.dataset:
            found.append(Reason("policy.dataset", f"the job does not name {facts.dataset} of {facts.owner}"))
        else:
            if mine.version != facts.version:
                text = (
                    f"the job is for another version of {facts.dataset}: "
                    f"expected {facts.version.hex()[:16]}, found {mine.version.hex()[:16]}"
                )
                found.append(Reason("policy.dataset", text))
            if mine.rows != facts.rows:
                text = f"{facts.dataset} has {facts.rows} rows, the job says {mine.rows}"
                found.append(Reason("policy.rows.declared", text))
        if facts.rows < self.minimum_rows:
            text = f"{facts.rows} rows of {facts.dataset} take part, at least {self.minimum_rows} must"
            found.append(Reason("policy.rows.minimum", text))
        present = frozenset(facts.columns)
        allowed = present if self.columns is None else present & frozenset(self.columns)
        used = [f.column for f in spec.encoding.features]
        used += [spec.encoding.target.column] if spec.encoding.target is not None else []
        # One reason whatever the number: a specification can name more columns than a ledger entry should hold.
        barred = [repr(column[:80]) for column in used if column not in allowed]
        if barred:
            more = f" and {len(barred) - SHOWN_COLUMNS} more" if len(barred) > SHOWN_COLUMNS else ""
            text = f"columns of {facts.dataset} that may not be used: {', '.join(barred[:SHOWN_COLUMNS])}{more}"
            found.append(Reason("policy.column", text))
        return found


def awaits_approval(reasons: Sequence[Reason]) -> bool:
    """Whether nothing but the operator's consent is missing."""
    return len(reasons) > 0 and all(reason.rule == APPROVAL_RULE for reason in reasons)


def _against_identity(spec: JobSpec, facts: Facts) -> list[Reason]:
    found = []
    if facts.caller_role != "buyer":
        found.append(Reason("policy.caller", f"{facts.caller} is trusted as {facts.caller_role}, not as a buyer"))
    if (facts.caller, facts.caller_key_id) != (spec.buyer.name, spec.buyer.key_id):
        text = f"the job is signed by {facts.caller} and not by its buyer {spec.buyer.name}"
        found.append(Reason("policy.caller", text))
    # By key and not by name alone: a buyer who could name a key of its own as the dealer would learn everything.
    for party in spec.parties:
        if (party.name, party.role, party.key_id) not in facts.trusted:
            text = f"{party.role} {party.name} with key {party.key_id.hex()[:16]} is not trusted here"
            found.append(Reason("policy.party", text))
    return found


# From here on: how each key of the table is read.
_Reader = Callable[[str, object], Any]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _bad(key: str, expected: str, found: object) -> BadInput:
    return BadInput(f"{key} in [policy] must be {expected}, found {str(found)[:80]!r}", code="input.policy")


def _names(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise _bad(key, "a list of names", value)
    if len(set(value)) != len(value):
        raise _bad(key, "a list without repetition", value)
    return tuple(value)


def _among(*known: str) -> _Reader:
    def read(key: str, value: object) -> tuple[str, ...]:
        names = _names(key, value)
        for name in names:
            if name not in known:
                raise _bad(key, f"a list out of {', '.join(known)}", name)
        return names

    return read


def _at_least(low: int) -> _Reader:
    def read(key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise _bad(key, f"a whole number of at least {low}", value)
        return value

    return read


def _approval(key: str, value: object) -> str:
    if not isinstance(value, str) or value not in APPROVALS:
        raise _bad(key, " or ".join(APPROVALS), value)
    return value


def _not_after(key: str, value: object) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _bad(key, "a date, or a time with its offset from UTC", value)
        return int(value.timestamp())
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()) + _DAY_S
    raise _bad(key, "a date, or a time with its offset from UTC", value)


_READERS: Mapping[str, _Reader] = {
    "buyers": _names,
    "kinds": _among(*KINDS),
    "outputs": _among(*OUTPUTS),
    "engines": _among(*ENGINES),
    "minimum_rows": _at_least(1),
    "approval": _approval,
    "columns": _names,
    "dealers": _names,
    "purposes": _names,
    "maximum_jobs_per_buyer": _at_least(0),
    "not_after": _not_after,
}
_FIELD = {"not_after": "not_after_unix_s"}

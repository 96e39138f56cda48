"""Four parties with their keys, and the receipt of an honest job of theirs, or of a job in which some lied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enclave.clock import ManualClock
from enclave.identity import Identity
from enclave.messages import (
    Architecture,
    Category,
    ClassTarget,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    Layer,
    LinkTraffic,
    NumericFeature,
    PartyRef,
    Receipt,
    ReceiptBody,
    Signed,
    Statement,
    Target,
    TensorType,
    Transcript,
)
from enclave.receipts import digest

NAMES = ("north", "south", "acme", "deal")
ROLES = ("owner", "owner", "buyer", "dealer")
NOW = 1_700_000_000
PLAN = bytes(range(32))
SENT = {(a, b): 1000 * i + j + 7 for i, a in enumerate(NAMES) for j, b in enumerate(NAMES) if a != b}


class Room:
    """Four parties with their keys, and what an honest job leaves behind."""

    def __init__(self, base: Path) -> None:
        clock = ManualClock(NOW)
        self.identities = [Identity.create(base / n, r, n, clock=clock) for n, r in zip(NAMES, ROLES, strict=True)]
        self.cards = [i.card for i in self.identities]
        self.spec = self.make_spec()
        self.signed_spec = self.identities[2].sign("job", self.spec.encode())
        self.statements = [self.statement(n) for n in NAMES]

    def make_spec(self, **changes: Any) -> JobSpec:
        fields: dict[str, Any] = {
            "job_id": "ab" * 16,
            "kind": "evaluate",
            "created_unix_s": NOW,
            "expires_unix_s": NOW + 3600,
            "parties": tuple(PartyRef(i.name, i.role, i.key_id) for i in self.identities),
            "datasets": tuple(DatasetRef(n, "heart", bytes(32), 300) for n in NAMES[:2]),
            "encoding": Encoding(
                (Feature("age", numeric=NumericFeature()),),
                Target("sick", classes=ClassTarget((Category(("0",)), Category(("1",))))),
            ),
            "architecture": Architecture(
                (1,), (Layer("linear", "out", ("input",), ("w",)),), (TensorType("w", (1, 1)),)
            ),
            "outputs": ("accuracy", "auc"),
            "plan_digest": PLAN,
        }
        return JobSpec(**fields | changes)

    def statement(self, name: str, **changes: Any) -> Statement:
        links = tuple(LinkTraffic(p, SENT[name, p], SENT[p, name]) for p in NAMES if p != name)
        rounds = 0 if name == "deal" else 41
        fields: dict[str, Any] = {
            "job_id": self.spec.job_id,
            "party": name,
            "spec_digest": digest(self.signed_spec.body),
            "plan_digest": PLAN,
            "state": "RELEASED",
            "claims": ("engine=mpc", "tls=1.3", f"node.profile={name}"),
            "views": ("its own rows",),
            "ledger_head": bytes(32),
            "ledger_index": 5,
            "finished_unix_s": NOW + 60,
            "transcript": Transcript(rounds, links, bytes(32), True, 12, 4000, 1.0, 0),
        }
        return Statement(**fields | changes)

    def signed(self, statements: list[Statement] | None = None) -> list[Signed]:
        return [
            i.sign("statement", s.encode()) for i, s in zip(self.identities, statements or self.statements, strict=True)
        ]

    def body(self, **changes: Any) -> ReceiptBody:
        fields: dict[str, Any] = {
            "spec": self.signed_spec.body,
            "spec_signature": self.signed_spec.signature,
            "statements": tuple(self.signed()),
            "outputs_digest": bytes(32),
            "released": ("accuracy",),
        }
        return ReceiptBody(**fields | changes)

    def receipt(self, body: ReceiptBody | None = None, **changes: Any) -> bytes:
        """A receipt that all four sign, whatever the body says: the worst case, everybody colludes."""
        encoded = (body or self.body()).encode()
        fields: dict[str, Any] = {
            "body": encoded,
            "countersignatures": tuple(i.sign("receipt", digest(encoded)) for i in self.identities),
            "cards": tuple(c.encoded for c in self.cards),
        }
        return Receipt(**fields | changes).encode()

    def lie(self, name: str, **changes: Any) -> bytes:
        """A receipt in which one party states something else, signed by all."""
        said = [self.statement(n, **changes) if n == name else s for n, s in zip(NAMES, self.statements, strict=True)]
        return self.receipt(self.body(statements=tuple(self.signed(said))))

"""Parties, one job and a thread for each rank: the room in which whole sessions are tested."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from enclave.channel.grpc_link import Listener
from enclave.errors import EnclaveError
from enclave.executor.assignment import read_job
from enclave.executor.evidence import Evidence
from enclave.executor.session import SessionResult, plan_job, run_session
from enclave.identity import Identity, TrustStore
from enclave.messages import (
    Category,
    ClassTarget,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    NumericFeature,
    PartyRef,
    Target,
)
from enclave.models import Model, dense_architecture
from enclave.workloads import Inputs

ROWS = 24
LONG_S = 20.0


@dataclass(frozen=True)
class Table:
    """Rows in memory."""

    x: np.ndarray
    y: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.x)

    def features(self, start: int, stop: int) -> np.ndarray:
        return self.x[start:stop]

    def targets(self, start: int, stop: int) -> np.ndarray:
        return self.y[start:stop]


def _table(seed: int) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (ROWS, 3))
    return Table(x, (x @ np.array([1.0, -2.0, 0.5]) > 0.2).astype(np.int64))


@dataclass
class Room:
    """Some parties, one job, and what each rank's thread ended with."""

    ids: list[Identity]
    trusts: dict[str, TrustStore]
    changes: dict[str, Any] = field(default_factory=dict)
    engine: str = "mpc"
    outputs: tuple[str, ...] = ("accuracy",)
    commits: list[str] = field(default_factory=list)
    sealings: dict[str, Any] = field(default_factory=dict)
    channels: dict[str, Any] = field(default_factory=dict)
    results: dict[str, SessionResult | EnclaveError] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owners = [i for i in self.ids if i.role == "owner"]
        architecture = dense_architecture(3, (), 2)
        weight, bias = architecture.parameters
        values = np.array([[-1.0, 1.0], [2.0, -2.0], [-0.5, 0.5]])
        self.model = Model(architecture, {weight.name: values, bias.name: np.zeros(2)})
        numeric = NumericFeature(low=-2.0, high=2.0)
        classes = ClassTarget((Category(("no",)), Category(("yes",))))
        spec = JobSpec(
            job_id="ab" * 16,
            kind="evaluate",
            created_unix_s=1000,
            expires_unix_s=2000,
            parties=tuple(PartyRef(i.name, i.role, i.key_id) for i in self.ids),
            datasets=tuple(DatasetRef(o.name, "points", b"v" * 32, ROWS) for o in owners),
            encoding=Encoding(tuple(Feature(c, numeric) for c in "abc"), Target("y", classes=classes)),
            architecture=architecture,
            outputs=self.outputs,
            engine=self.engine,
        )
        spec = replace(spec, plan_digest=plan_job(spec).digest)
        self.spec = replace(spec, **self.changes)
        self.tables = {o.name: _table(i) for i, o in enumerate(owners)}
        self.buyer = next(i for i in self.ids if i.role == "buyer")
        self.signed = self.buyer.sign("job", self.spec.encode())

    def run(self, **overrides: Callable[..., Any]) -> dict[str, SessionResult | EnclaveError]:
        """Runs every rank; `overrides` are run_session arguments by party and name, as in `owner0_gate`."""
        listeners = {
            i.name: Listener(
                i,
                self.trusts[i.name],
                self.spec.job_id,
                "127.0.0.1",
                range(1),
                read_job(self.signed, i, self.trusts[i.name]).peers,
            )
            for i in self.ids
            if i.role != "buyer"
        }

        def one(identity: Identity) -> None:
            name = identity.name
            evidence = self.evidence[name] = Evidence()

            def gate(sealing: Any) -> tuple[str, ...]:
                self.sealings[name] = sealing
                return tuple(sealing.outputs)

            arguments: dict[str, Any] = {
                "inputs": Inputs(rows=self.tables.get(name), model=self.model if identity is self.buyer else None),
                "locate": lambda rank: listeners[self.spec.parties[rank].name].address,
                "gate": gate,
                "commit": lambda: self.commits.append(name),
                "attach": lambda channel: self.channels.__setitem__(name, channel),
                "evidence": evidence,
                "listener": listeners.get(name),
                "connect_s": LONG_S,
                "deadline_s": LONG_S,
            }
            for key, value in overrides.items():
                who, _, argument = key.partition("_")
                if who == name:
                    arguments[argument] = value
            try:
                self.results[name] = run_session(self.signed, identity=identity, trust=self.trusts[name], **arguments)
            except EnclaveError as error:
                self.results[name] = error

        threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in self.ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for listener in listeners.values():
            listener.close()
        assert len(self.results) == len(self.ids), f"still running: {set(i.name for i in self.ids) - set(self.results)}"
        return self.results

    def errors(self) -> dict[str, EnclaveError]:
        """The errors by party; fails when somebody has none."""
        found = {name: result for name, result in self.results.items() if isinstance(result, EnclaveError)}
        assert set(found) == set(self.results), self.results
        return found


MakeRoom = Callable[..., Room]


@pytest.fixture
def make_room(new_party: Callable[..., Identity], acquaint: Callable[..., tuple[TrustStore, ...]]) -> MakeRoom:
    def make(
        owners: int = 1,
        engine: str = "mpc",
        outputs: tuple[str, ...] = ("accuracy",),
        ends: tuple[str, ...] = ("buyer", "dealer"),
        **changes: Any,
    ) -> Room:
        ids = [new_party("owner", f"owner{i}") for i in range(owners)]
        ids += [new_party(role, role) for role in ends]
        trusts = dict(zip((i.name for i in ids), acquaint(*ids), strict=True))
        return Room(ids, trusts, changes, engine, outputs)

    return make

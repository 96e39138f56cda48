"""A node's desk: its store, its keys, a clock, and a buyer who signs jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enclave.clock import ManualClock
from enclave.identity import Identity
from enclave.jobs import JobLimits, JobRecord, Jobs
from enclave.ledger import verify_chain
from enclave.messages import (
    Architecture,
    DatasetRef,
    Encoding,
    Feature,
    JobSpec,
    NumericFeature,
    PartyRef,
)
from enclave.store import Store

NOW = 1_700_000_000


class Desk:
    """One node's store with its keys, and a buyer who signs jobs."""

    def __init__(self, home: Path, limits: JobLimits | None = None) -> None:
        self.clock = ManualClock(NOW)
        home.mkdir(exist_ok=True)
        self.owner = Identity.create(home / "owner", "owner", "clinic", "127.0.0.1:1", self.clock)
        self.buyer = Identity.create(home / "buyer", "buyer", "acme", "", self.clock)
        self.path = home / "store.db"
        self.limits = limits
        self.store = Store.open(self.path)
        self.jobs = Jobs(self.store, self.owner, self.clock, limits)

    def reopen(self) -> Jobs:
        self.store.close()
        self.store = Store.open(self.path)
        self.jobs = Jobs(self.store, self.owner, self.clock, self.limits)
        return self.jobs

    def spec(self, number: int = 1, *, expires_in_s: int = 3600, purpose: str = "") -> JobSpec:
        return JobSpec(
            job_id=f"{number:032x}",
            kind="evaluate",
            created_unix_s=NOW - 1,
            expires_unix_s=self.clock.unix_s() + expires_in_s,
            parties=(
                PartyRef("clinic", "owner", self.owner.key_id, "127.0.0.1:1"),
                PartyRef("acme", "buyer", self.buyer.key_id),
                PartyRef("dealer", "dealer", b"d" * 32, "127.0.0.1:2"),
            ),
            datasets=(DatasetRef("clinic", "hearts", b"v" * 32, 300),),
            encoding=Encoding((Feature("age", NumericFeature()),)),
            architecture=Architecture((1,), (), ()),
            outputs=("accuracy",),
            purpose=purpose,
        )

    def propose(self, spec: JobSpec) -> JobRecord:
        return self.jobs.propose(self.buyer.sign("job", spec.encode()), spec)

    def admitted(self, number: int = 1) -> str:
        record = self.propose(self.spec(number))
        return self.jobs.advance(record.job_id, "ADMITTED").job_id

    def running(self, number: int = 1, worker: str = "w1", lease_s: int = 60) -> str:
        job_id = self.admitted(number)
        self.jobs.ask_start(job_id)
        assert self.jobs.lease(worker, lease_s, job_id) is not None
        return job_id

    def at(self, state: str, number: int = 1) -> str:
        """A job brought to `state` by a shortest allowed way."""
        ways = {"PROPOSED": [], "ADMITTED": ["ADMITTED"], "RUNNING": ["ADMITTED", "RUNNING"]}
        ways["SEALED"] = [*ways["RUNNING"], "SEALED"]
        ways["RELEASED"] = [*ways["SEALED"], "RELEASED"]
        ways["FAILED"] = [*ways["RUNNING"], "FAILED"]
        ways |= {state: [state] for state in ("REFUSED", "WITHDRAWN", "EXPIRED")}
        job_id = self.propose(self.spec(number)).job_id
        for step in ways[state]:
            if step == "RUNNING":
                self.jobs.ask_start(job_id)
                self.jobs.lease("w1", 60, job_id)
            else:
                self.jobs.advance(job_id, step)
        return job_id

    def events(self) -> list[tuple[str, str]]:
        return [(e.job_id, e.event) for e in verify_chain(self.jobs.ledger_entries(), self.owner.card)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


@pytest.fixture
def new_desk(tmp_path: Path) -> Iterator[Callable[[JobLimits], Desk]]:
    made = []

    def make(limits: JobLimits) -> Desk:
        made.append(Desk(tmp_path / str(len(made)), limits))
        return made[-1]

    yield make
    for desk in made:
        desk.store.close()

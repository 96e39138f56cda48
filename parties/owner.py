"""The owner: registers data sets, serves them, and says yes or no to jobs.

Everything but `serve` also works while no node is running: a consent or a withdrawal is written into the store, and
a running node acts on it within a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enclave.clock import Clock, SystemClock
from enclave.errors import BadInput, Refused, Untrusted
from enclave.executor.catalogue import Catalogue
from enclave.identity import Identity
from enclave.jobs import FINAL, JobRecord, Jobs
from enclave.messages import Approval, Decision, JobRef, JobSpec, JobStatus, Reason
from enclave.policy import Policy
from parties.config import NodeConfig
from parties.node import NodeProcess, open_node
from parties.node.assembly import open_jobs, open_store

__all__ = ["DatasetSummary", "JobSummary", "add", "approve", "datasets", "jobs", "remove", "serve", "withdraw"]


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A registered data set and the policy in force."""

    name: str
    rows: int
    columns: tuple[str, ...]
    version: bytes
    policy: Policy
    folder: Path


@dataclass(frozen=True, slots=True)
class JobSummary:
    """One job as its node has it on record. `facts` is what a person needs to read before a consent."""

    job_id: str
    state: str
    kind: str
    buyer: str
    dataset: str
    outputs: tuple[str, ...]
    purpose: str
    reasons: tuple[Reason, ...]
    received_unix_s: int
    updated_unix_s: int
    expires_unix_s: int
    spec_digest: bytes
    facts: tuple[str, ...]


def add(home: Path, toml_path: Path, *, replace: bool = False) -> DatasetSummary:
    """Registers the data set that a TOML file describes, with its policy. A running node offers it at once.

    Raises:
        BadData, BadInput: description, policy or rows are wrong, or the name is taken.
        StoreError: the disk refuses.
    """
    identity = _owner(home)
    try:
        text = Path(toml_path).read_text()
    except OSError as error:
        raise BadInput(f"cannot read {toml_path}: {error.strerror}", code="input.dataset") from error
    Policy.parse(text)
    registered = Catalogue(home, identity.name).add(Path(toml_path), replace=replace)
    return _summary(registered.info.ref.name, home, identity)


def remove(home: Path, name: str) -> None:
    """Stops offering a data set; the data itself is not touched. Raises BadInput when there is none of that name."""
    Catalogue(home, _owner(home).name).remove(name)


def datasets(home: Path) -> tuple[DatasetSummary, ...]:
    """All registered data sets, by name."""
    identity = _owner(home)
    names = [registered.info.ref.name for registered in Catalogue(home, identity.name).all()]
    return tuple(_summary(name, home, identity) for name in names)


def serve(home: Path, *, clock: Clock | None = None) -> NodeProcess:
    """Starts the owner's node; see `open_node`. The caller runs and closes it."""
    return open_node(home, role="owner", clock=clock)


def approve(home: Path, job_id: str, *, clock: Clock | None = None) -> Decision:
    """Signs the operator's consent to the job as it was proposed. The decision follows when the job is next asked for.

    Raises: Refused: no such job, or it no longer waits for approval.
    """
    with _records(home, clock) as (identity, jobs):
        record = jobs.get(job_id)
        if record.state in FINAL:
            raise Refused(f"job {job_id} has ended as {record.state}: there is nothing to approve", code="job.state")
        signed = identity.sign("approval", Approval(job_id, record.spec_digest).encode())
        record = jobs.approve(signed)
        return Decision(job_id, record.state, record.reasons)


def withdraw(home: Path, job_id: str, *, clock: Clock | None = None) -> JobStatus:
    """Ends a job that is not final yet, for this node's part; a running session stops within a second.

    Raises: Refused: no such job, or it has ended in another way.
    """
    with _records(home, clock) as (identity, jobs):
        signed = identity.sign("withdraw", JobRef(job_id).encode())
        if jobs.get(job_id).state not in FINAL:
            reason = Reason("job.withdrawn", f"withdrawn by {identity.name}")
            try:
                jobs.advance(job_id, "WITHDRAWN", (reason,), detail=signed.signature)
            except Refused as error:
                if error.code != "job.state":
                    raise
        status = jobs.status(job_id)
        if status.state != "WITHDRAWN":
            raise Refused(f"job {job_id} is {status.state}: it cannot be withdrawn any more", code="job.state")
        return status


def jobs(home: Path, *, states: tuple[str, ...] = (), limit: int = 100) -> tuple[JobSummary, ...]:
    """The node's jobs: all that wait for a consent, then the newest `limit` of the others, each oldest first.

    With `states`, the newest `limit` of the jobs in them.
    """
    with _records(home, None) as (_, book):
        found = book.list(states, limit=limit)
        if not states:
            # However many others there are, none hides a job that waits.
            found = (*book.list(("PROPOSED",)), *(record for record in found if record.state != "PROPOSED"))
        return tuple(_job(record) for record in found)


def _job(record: JobRecord) -> JobSummary:
    spec = record.spec()
    return JobSummary(
        job_id=record.job_id,
        state=record.state,
        kind=spec.kind,
        buyer=spec.buyer.name,
        dataset=record.dataset,
        outputs=spec.outputs,
        purpose=spec.purpose,
        reasons=record.reasons,
        received_unix_s=record.received_unix_s,
        updated_unix_s=record.updated_unix_s,
        expires_unix_s=record.expires_unix_s,
        spec_digest=record.spec_digest,
        facts=_facts(spec),
    )


def _facts(spec: JobSpec) -> tuple[str, ...]:
    from enclave.leakage.declared import public_facts

    facts = public_facts(spec)
    if spec.training is not None:
        t = spec.training
        text = f"learning rate {t.learning_rate:g}, l2 {t.l2:g}, momentum {t.momentum:g}, model to {t.deliver}"
        of = f"{t.epochs} steps over" if spec.engine == "he" else f"batches of {t.batch_rows} of"
        facts = (*facts, f"training: {of} {spec.rows} rows, {text}")
    return facts


def _owner(home: Path) -> Identity:
    identity = Identity.load(home)
    if identity.role != "owner":
        raise Untrusted(f"{home} is the home of {identity.role} {identity.name}, expected an owner's")
    return identity


def _summary(name: str, home: Path, identity: Identity) -> DatasetSummary:
    registered = Catalogue(home, identity.name).get(name)
    info = registered.info
    return DatasetSummary(
        name=name,
        rows=info.ref.rows,
        columns=tuple(column.name for column in info.columns),
        version=info.ref.version,
        policy=Policy.parse(registered.description),
        folder=registered.folder,
    )


@contextmanager
def _records(home: Path, clock: Clock | None) -> Iterator[tuple[Identity, Jobs]]:
    identity, config = Identity.load(home), NodeConfig.load(home)
    if identity.role not in ("owner", "dealer"):
        raise Untrusted(f"{home} is the home of {identity.role} {identity.name}, which runs no node")
    with open_store(home, config) as store:
        yield identity, open_jobs(store, identity, clock or SystemClock(), config)

"""What nodes and buyers tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from enclave.messages.codec import Value
from enclave.messages.job import DatasetRef
from enclave.wire import node_pb2

__all__ = [
    "Approval",
    "ColumnInfo",
    "DatasetInfo",
    "Decision",
    "DescribeReply",
    "JobRef",
    "JobStatus",
    "Reason",
]


@dataclass(frozen=True, slots=True)
class Reason(Value):
    """A rule that decided, and what it says to a person."""

    wire = node_pb2.Reason
    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Decision(Value):
    """A node's answer to a proposal."""

    wire = node_pb2.Decision
    job_id: str
    state: str
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Approval(Value):
    """An operator's consent to exactly one specification."""

    wire = node_pb2.Approval
    job_id: str
    spec_digest: bytes


@dataclass(frozen=True, slots=True)
class JobStatus(Value):
    """Where a job stands at one node.

    Attributes:
        dealing: of an admitted job that is dealt ahead: open, waiting (for a worker), running, failed (`reasons` say
            why), or dealt: it can be started.
    """

    wire = node_pb2.JobStatus
    job_id: str
    state: str
    reasons: tuple[Reason, ...] = ()
    steps_done: int = 0
    steps_total: int = 0
    stage: str = ""
    updated_unix_s: int = 0
    dealing: str = ""


@dataclass(frozen=True, slots=True)
class ColumnInfo(Value):
    """Public description of one column."""

    wire = node_pb2.ColumnInfo
    name: str
    type: str
    nullable: bool = False
    width: int = 1


@dataclass(frozen=True, slots=True)
class JobRef(Value):
    """Names a job; signed, it is the order to withdraw it."""

    wire = node_pb2.JobRef
    job_id: str


@dataclass(frozen=True, slots=True)
class DatasetInfo(Value):
    """What a buyer may know of a data set, and what the owner's policy could allow that buyer."""

    wire = node_pb2.DatasetInfo
    ref: DatasetRef
    description: str
    columns: tuple[ColumnInfo, ...]
    job_kinds: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    minimum_rows: int = 0
    approval: str = "manual"
    mock_parquet: bytes = b""
    engines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DescribeReply(Value):
    """A node's answer to who it is and what it offers the caller."""

    wire = node_pb2.DescribeReply
    name: str
    role: str
    datasets: tuple[DatasetInfo, ...]
    claims: tuple[str, ...]
    code_version: str
    profile: str
    organisation: str = ""

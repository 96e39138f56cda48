"""Frozen, validated values for what crosses a process boundary, and their wire form.

A value is parsed once, at the edge, by `decode`; behind the edge nothing validates again. Fields have the names
of the `.proto` messages, so that one codec serves them all. Bytes that were signed are kept beside the value
parsed from them (`Signed`): a specification is never serialised twice.

`codec` is the codec, `encoding` says how rows become numbers, `job` what is computed, `control` what nodes and
buyers tell each other, `records` what is kept of a job.
"""

from enclave.messages.codec import MAX_SPEC_BYTES, Value, check, is_name, sha256
from enclave.messages.control import (
    Approval,
    ColumnInfo,
    DatasetInfo,
    Decision,
    DescribeReply,
    JobRef,
    JobStatus,
    Reason,
)
from enclave.messages.encoding import Category, ClassTarget, Encoding, Feature, NumericFeature, OneHotFeature, Target
from enclave.messages.job import (
    ENGINES,
    OUTPUTS,
    Architecture,
    DatasetRef,
    JobSpec,
    Layer,
    PartyRef,
    Signed,
    TensorType,
    Training,
    is_organisation,
)
from enclave.messages.records import LedgerEntry, LinkTraffic, Receipt, ReceiptBody, Statement, Transcript

__all__ = [
    "ENGINES",
    "MAX_SPEC_BYTES",
    "OUTPUTS",
    "Approval",
    "Architecture",
    "Category",
    "ClassTarget",
    "ColumnInfo",
    "DatasetInfo",
    "DatasetRef",
    "Decision",
    "DescribeReply",
    "Encoding",
    "Feature",
    "JobRef",
    "JobSpec",
    "JobStatus",
    "Layer",
    "LedgerEntry",
    "LinkTraffic",
    "NumericFeature",
    "OneHotFeature",
    "PartyRef",
    "Reason",
    "Receipt",
    "ReceiptBody",
    "Signed",
    "Statement",
    "Target",
    "TensorType",
    "Training",
    "Transcript",
    "Value",
    "check",
    "is_name",
    "is_organisation",
    "sha256",
]

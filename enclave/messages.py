"""Frozen, validated values for what crosses a process boundary, and their wire form.

A value is parsed once, at the edge, by `decode`; behind the edge nothing validates again. Fields have the names
of the `.proto` messages, so that one codec serves them all. Bytes that were signed are kept beside the value
parsed from them (`Sealed`): a specification is never serialised twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from google.protobuf.message import DecodeError, Message

from enclave.errors import BadSpec
from enclave.wire import job_pb2, node_pb2, receipt_pb2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MAX_SPEC_BYTES = 1 << 20
T = TypeVar("T", bound="Value")


def sha256(*parts: bytes) -> bytes:
    """SHA-256 over length-prefixed parts, so that no two different lists collide."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()


def check(condition: bool, text: str) -> None:
    """Raises BadSpec with `text` unless `condition` holds."""
    if not condition:
        raise BadSpec(text)


def is_name(text: str) -> bool:
    """Whether `text` can name a party, a data set or a file: letters, digits, `_.-`, at most 64, no leading sign."""
    return bool(_NAME.fullmatch(text))


class Value:
    """Base of all wire values: a frozen dataclass whose `wire` names the protobuf message of the same shape."""

    wire: ClassVar[type[Message]]

    def encode(self) -> bytes:
        """The value's protobuf bytes."""
        return _to_wire(self).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls: type[T], data: bytes, *, limit_bytes: int = MAX_SPEC_BYTES) -> T:
        """Parses and validates `data`; raises BadSpec when it is too long, malformed or inconsistent."""
        if len(data) > limit_bytes:
            raise BadSpec(f"{cls.__name__} too long: at most {limit_bytes} bytes, found {len(data)}")
        message = cls.wire()
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise BadSpec(f"malformed {cls.__name__}") from error
        return cls.from_message(message)

    def to_message(self) -> Any:
        """The protobuf message of this value."""
        return _to_wire(self)

    @classmethod
    def from_message(cls: type[T], message: Message) -> T:
        """The validated value of a protobuf message."""
        return typing.cast(T, _from_wire(cls, message))


def _to_wire(value: Value) -> Message:
    message = value.wire()
    for field in dataclasses.fields(typing.cast(Any, value)):
        item = getattr(value, field.name)
        if item is None:
            continue
        if isinstance(item, Value):
            getattr(message, field.name).CopyFrom(_to_wire(item))
        elif isinstance(item, tuple):
            target = getattr(message, field.name)
            target.extend(_to_wire(x) if isinstance(x, Value) else x for x in item)
        else:
            setattr(message, field.name, item)
    return message


def _from_wire(cls: type[Value], message: Message) -> Value:
    hints = _hints(cls)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        hint, item = hints[field.name], getattr(message, field.name)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is tuple:
            inner = args[0]
            nested = isinstance(inner, type) and issubclass(inner, Value)
            found[field.name] = tuple(_from_wire(inner, x) if nested else x for x in item)
        elif origin is types.UnionType:
            inner = next(a for a in args if a is not type(None))
            if not message.HasField(field.name):
                found[field.name] = None
            elif isinstance(inner, type) and issubclass(inner, Value):
                found[field.name] = _from_wire(inner, item)
            else:
                found[field.name] = item
        elif isinstance(hint, type) and issubclass(hint, Value):
            found[field.name] = _from_wire(hint, item)
        else:
            found[field.name] = item
    return cls(**found)


def _hints(cls: type[Value]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@dataclass(frozen=True, slots=True)
class PartyRef(Value):
    """A party of a job: its key, and where its node listens (empty for a buyer)."""

    wire = job_pb2.PartyRef
    name: str
    role: str
    key_id: bytes
    address: str = ""

    def __post_init__(self) -> None:
        check(bool(_NAME.fullmatch(self.name)), f"party name {self.name[:80]!r} is not a plain name")
        check(self.role in ("owner", "dealer", "buyer"), f"role must be owner, dealer or buyer, found {self.role!r}")
        check(len(self.key_id) == 32, f"key id must have 32 bytes, found {len(self.key_id)}")


@dataclass(frozen=True, slots=True)
class DatasetRef(Value):
    """One owner's data set at one version; the row count is public."""

    wire = job_pb2.DatasetRef
    owner: str
    name: str
    version: bytes
    rows: int

    def __post_init__(self) -> None:
        check(bool(_NAME.fullmatch(self.name)), f"data set name {self.name[:80]!r} is not a plain name")
        check(len(self.version) == 32, f"data set version must have 32 bytes, found {len(self.version)}")
        check(0 < self.rows < 1 << 40, f"data set {self.name} must have rows, found {self.rows}")


@dataclass(frozen=True, slots=True)
class Category(Value):
    """Raw values behind one indicator or class."""

    wire = job_pb2.Category
    values: tuple[str, ...] = ()
    missing: bool = False
    other: bool = False


@dataclass(frozen=True, slots=True)
class NumericFeature(Value):
    """encoded = (value - shift) / scale, for raw values declared to lie in [low, high]."""

    wire = job_pb2.NumericFeature
    shift: float = 0.0
    scale: float = 1.0
    low: float = -1e6
    high: float = 1e6
    fill: float | None = None
    clip: bool = False
    width: int = 1

    def __post_init__(self) -> None:
        numbers = (self.shift, self.scale, self.low, self.high, self.fill or 0.0)
        check(all(abs(x) < 1e18 for x in numbers), "encoding constants must be finite")
        check(self.scale > 0, f"scale must be positive, found {self.scale}")
        check(self.low < self.high, f"declared range is empty: [{self.low}, {self.high}]")
        check(self.fill is None or self.low <= self.fill <= self.high, "fill lies outside the declared range")
        check(0 <= self.width <= 1 << 20, f"width out of range: {self.width}")


@dataclass(frozen=True, slots=True)
class OneHotFeature(Value):
    """One indicator per category, in order; a value that no category takes encodes as zeros."""

    wire = job_pb2.OneHotFeature
    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        _check_categories(self.categories)


def _check_categories(categories: tuple[Category, ...]) -> None:
    named = [v for c in categories for v in c.values]
    check(0 < len(categories) <= 4096, f"between 1 and 4096 categories, found {len(categories)}")
    check(len(named) == len(set(named)), "a value stands in two categories")
    check(sum(c.missing for c in categories) <= 1, "two categories take missing values")
    check(sum(c.other for c in categories) <= 1, "two categories take other values")


@dataclass(frozen=True, slots=True)
class Feature(Value):
    """One column of the data set and its public encoding: exactly one of the two."""

    wire = job_pb2.Feature
    column: str
    numeric: NumericFeature | None = None
    one_hot: OneHotFeature | None = None

    def __post_init__(self) -> None:
        check((self.numeric is None) != (self.one_hot is None), f"feature {self.column} needs exactly one encoding")

    @property
    def width(self) -> int:
        """Encoded columns that this feature yields."""
        if self.numeric is not None:
            return max(1, self.numeric.width)
        assert self.one_hot is not None
        return len(self.one_hot.categories)


@dataclass(frozen=True, slots=True)
class ClassTarget(Value):
    """Class i holds the raw values of group i."""

    wire = job_pb2.ClassTarget
    classes: tuple[Category, ...]

    def __post_init__(self) -> None:
        _check_categories(self.classes)
        check(2 <= len(self.classes) <= 1024, f"between 2 and 1024 classes, found {len(self.classes)}")


@dataclass(frozen=True, slots=True)
class Target(Value):
    """What is to be predicted: a number or a class."""

    wire = job_pb2.Target
    column: str
    numeric: NumericFeature | None = None
    classes: ClassTarget | None = None

    def __post_init__(self) -> None:
        check((self.numeric is None) != (self.classes is None), f"target {self.column} needs exactly one kind")


@dataclass(frozen=True, slots=True)
class Encoding(Value):
    """How every owner turns its own rows into numbers: public, the same for all."""

    wire = job_pb2.Encoding
    features: tuple[Feature, ...]
    target: Target | None = None
    standardise: bool = False

    def __post_init__(self) -> None:
        columns = [f.column for f in self.features]
        check(len(columns) > 0, "an encoding needs at least one feature")
        check(len(columns) == len(set(columns)), "a column is encoded twice")
        check(self.target is None or self.target.column not in columns, "the target is also a feature")

    @property
    def width(self) -> int:
        """Encoded columns of one row."""
        return sum(f.width for f in self.features)


@dataclass(frozen=True, slots=True)
class TensorType(Value):
    """Name and shape of one weight tensor."""

    wire = job_pb2.TensorType
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layer(Value):
    """One operator of an architecture; `enclave.models.graph` says what `ints` means for each `op`."""

    wire = job_pb2.Layer
    op: str
    name: str
    inputs: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    ints: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Architecture(Value):
    """A network without its weights: public to all parties. The last layer is the output."""

    wire = job_pb2.Architecture
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    parameters: tuple[TensorType, ...]


@dataclass(frozen=True, slots=True)
class Training(Value):
    """A fixed public schedule: nothing about it depends on the data."""

    wire = job_pb2.Training
    loss: str
    epochs: int
    batch_rows: int
    learning_rate: float
    momentum: float = 0.0
    l2: float = 0.0
    shuffle_seed: int = 0
    init_seed: int = 0
    deliver: str = "buyer"

    def __post_init__(self) -> None:
        check(self.loss in ("squared", "logistic", "cross_entropy"), f"unknown loss {self.loss!r}")
        check(1 <= self.epochs <= 100_000, f"epochs out of range: {self.epochs}")
        check(1 <= self.batch_rows <= 1 << 24, f"batch_rows out of range: {self.batch_rows}")
        check(0 < self.learning_rate <= 100, f"learning_rate out of range: {self.learning_rate}")
        check(0 <= self.momentum < 1, f"momentum out of range: {self.momentum}")
        check(0 <= self.l2 <= 1e3, f"l2 out of range: {self.l2}")
        check(self.deliver in ("buyer", "shared"), f"deliver must be buyer or shared, found {self.deliver!r}")


OUTPUTS = ("accuracy", "confusion", "auc", "rmse", "r2", "predictions", "model")


@dataclass(frozen=True, slots=True)
class JobSpec(Value):
    """Everything that decides what a job computes, for whom, and until when."""

    wire = job_pb2.JobSpec
    job_id: str
    kind: str
    created_unix_s: int
    expires_unix_s: int
    parties: tuple[PartyRef, ...]
    datasets: tuple[DatasetRef, ...]
    encoding: Encoding
    architecture: Architecture
    outputs: tuple[str, ...]
    model_commitment: bytes = b""
    training: Training | None = None
    engine: str = "mpc"
    frac_bits: int = 20
    plan_digest: bytes = b""
    code_version: str = ""
    purpose: str = ""
    block_rows: int = 4096
    buyer_rows: int = 0

    def __post_init__(self) -> None:
        check(bool(re.fullmatch(r"[0-9a-f]{32}", self.job_id)), "job id must be 32 hex digits")
        check(self.kind in ("evaluate", "train"), f"kind must be evaluate or train, found {self.kind!r}")
        check(self.created_unix_s < self.expires_unix_s, "the job expires before it is created")
        roles = [p.role for p in self.parties]
        owners = roles.count("owner")
        expected = ["owner"] * owners + ["buyer", "dealer"]
        check(owners >= 1 and roles == expected, f"parties must be owners, buyer, dealer in this order, found {roles}")
        check(owners <= 15, f"at most 15 owners, found {owners}")
        names = [p.name for p in self.parties]
        check(len(set(names)) == len(names), "two parties have one name")
        check(len({p.key_id for p in self.parties}) == len(names), "two parties have one key")
        check(tuple(d.owner for d in self.datasets) == tuple(names[:owners]), "one data set per owner, in rank order")
        check(all(o in OUTPUTS for o in self.outputs) and len(self.outputs) > 0, f"outputs must be among {OUTPUTS}")
        check(len(set(self.outputs)) == len(self.outputs), "an output is listed twice")
        check((self.kind == "train") == (self.training is not None), "a training section belongs to train jobs")
        check(("model" not in self.outputs) or self.kind == "train", "only a training job releases a model")
        check(self.engine == "mpc", f"engine must be mpc, found {self.engine!r}")
        check(8 <= self.frac_bits <= 26, f"frac_bits must lie in 8..26, found {self.frac_bits}")
        check(1 <= self.block_rows <= 1 << 20, f"block_rows out of range: {self.block_rows}")
        check(0 <= self.buyer_rows < 1 << 40, f"buyer_rows out of range: {self.buyer_rows}")

    @property
    def compute_parties(self) -> tuple[PartyRef, ...]:
        """Owners and buyer: those who hold shares, in rank order."""
        return self.parties[:-1]

    @property
    def dealer(self) -> PartyRef:
        """The party that deals correlated randomness."""
        return self.parties[-1]

    @property
    def buyer(self) -> PartyRef:
        """The party that signed the job and gets the outputs."""
        return self.parties[-2]

    @property
    def rows(self) -> int:
        """Rows of all parties together."""
        return sum(d.rows for d in self.datasets) + self.buyer_rows

    def party(self, name: str) -> PartyRef:
        """The party called `name`; raises BadSpec when the job has none."""
        for party in self.parties:
            if party.name == name:
                return party
        raise BadSpec(f"the job has no party {name!r}")

    def rank(self, name: str) -> int:
        """The session rank of the party called `name`."""
        return self.parties.index(self.party(name))


@dataclass(frozen=True, slots=True)
class Signed(Value):
    """Bytes and who signed them; `identity` verifies, nobody serialises the body again."""

    wire = job_pb2.Signed
    body: bytes
    key_id: bytes
    signature: bytes


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
    """Where a job stands at one node."""

    wire = node_pb2.JobStatus
    job_id: str
    state: str
    reasons: tuple[Reason, ...] = ()
    steps_done: int = 0
    steps_total: int = 0
    stage: str = ""
    updated_unix_s: int = 0


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


@dataclass(frozen=True, slots=True)
class LinkTraffic(Value):
    """Bytes between this party and one peer."""

    wire = receipt_pb2.LinkTraffic
    peer: str
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Transcript(Value):
    """What one party's session did, in figures that do not depend on the data."""

    wire = receipt_pb2.Transcript
    rounds: int
    links: tuple[LinkTraffic, ...]
    digest: bytes
    equals_plan: bool
    openings: int = 0
    opened_words: int = 0
    uniformity_p: float = 1.0
    reused_masks: int = 0
    peak_rss_bytes: int = 0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Statement(Value):
    """What one party says of a finished job."""

    wire = receipt_pb2.Statement
    job_id: str
    party: str
    spec_digest: bytes
    plan_digest: bytes
    state: str
    claims: tuple[str, ...]
    views: tuple[str, ...]
    ledger_head: bytes
    ledger_index: int
    finished_unix_s: int
    transcript: Transcript | None = None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiptBody(Value):
    """What all parties countersign."""

    wire = receipt_pb2.ReceiptBody
    spec: bytes
    spec_signature: bytes
    statements: tuple[Signed, ...]
    outputs_digest: bytes
    released: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Receipt(Value):
    """A body with every party's countersignature, and the cards needed to check it offline."""

    wire = receipt_pb2.Receipt
    body: bytes
    countersignatures: tuple[Signed, ...]
    cards: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LedgerEntry(Value):
    """One event of one job at one party, linked to the entry before it."""

    wire = receipt_pb2.LedgerEntry
    index: int
    previous: bytes
    unix_s: int
    event: str
    job_id: str
    spec_digest: bytes
    reasons: tuple[Reason, ...] = ()
    detail: bytes = b""

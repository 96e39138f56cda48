"""What is computed, for whom and until when."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from enclave.errors import BadSpec
from enclave.messages.codec import Value, check, is_name
from enclave.messages.encoding import Encoding
from enclave.wire import job_pb2

__all__ = [
    "ENGINES",
    "OUTPUTS",
    "Architecture",
    "DatasetRef",
    "JobSpec",
    "Layer",
    "PartyRef",
    "Signed",
    "TensorType",
    "Training",
    "is_organisation",
]


def is_organisation(text: str) -> bool:
    """Whether `text` can name an organisation, or is empty: one line of at most 120 printable signs."""
    return len(text) <= 120 and text.isprintable() and text == text.strip()


def _organisation_key(text: str) -> str:
    """Two names are one organisation's when this is equal for both: capitals and blanks do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True, slots=True)
class PartyRef(Value):
    """A party of a job: its key, where its node listens (empty for a buyer), and who runs it (empty: its name)."""

    wire = job_pb2.PartyRef
    name: str
    role: str
    key_id: bytes
    address: str = ""
    organisation: str = ""

    @property
    def run_by(self) -> str:
        """The organisation that runs the party."""
        return self.organisation or self.name

    def __post_init__(self) -> None:
        check(is_name(self.name), f"party name {self.name[:80]!r} is not a plain name")
        check(is_organisation(self.organisation), f"organisation of {self.name} must be one line of at most 120 signs")
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
        check(is_name(self.name), f"data set name {self.name[:80]!r} is not a plain name")
        check(len(self.version) == 32, f"data set version must have 32 bytes, found {len(self.version)}")
        check(0 < self.rows < 1 << 40, f"data set {self.name} must have rows, found {self.rows}")


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
    """A fixed public schedule: nothing about it depends on the data.

    Attributes:
        average_epochs: the model is the mean of the weights of all steps of so many last epochs; 0: the last weights.
    """

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
    average_epochs: int = 0

    def __post_init__(self) -> None:
        check(self.loss in ("squared", "logistic", "cross_entropy"), f"unknown loss {self.loss!r}")
        check(1 <= self.epochs <= 100_000, f"epochs out of range: {self.epochs}")
        check(1 <= self.batch_rows <= 1 << 24, f"batch_rows out of range: {self.batch_rows}")
        check(0 < self.learning_rate <= 100, f"learning_rate out of range: {self.learning_rate}")
        check(0 <= self.momentum < 1, f"momentum out of range: {self.momentum}")
        check(0 <= self.l2 <= 1e3, f"l2 out of range: {self.l2}")
        check(0 <= self.average_epochs <= self.epochs, f"average_epochs out of range: {self.average_epochs}")
        check(self.deliver in ("buyer", "shared"), f"deliver must be buyer or shared, found {self.deliver!r}")


NETWORKS = ("lan", "wan")
OUTPUTS = ("accuracy", "confusion", "auc", "brier", "rmse", "r2", "mean_score", "predictions", "model")
ENGINES = ("mpc", "hybrid", "he")
DEALT_ENGINES = ("mpc", "hybrid")  # their correlated randomness needs a dealer; `he` may have one


@dataclass(frozen=True, slots=True)
class JobSpec(Value):
    """Everything that decides what a job computes, for whom, and until when.

    Attributes:
        parties: owners in rank order, the buyer, and the dealer last. Engine "he" can do without a dealer: the buyer
            is last then.
        engine: "mpc" shares everything; "hybrid" multiplies rows with weights under homomorphic encryption and does the
            rest on shares; "he" uses shares only after the last layer, and only if there is a dealer.
    """

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
    deal_ahead: bool = False
    network: str = "lan"

    def __post_init__(self) -> None:
        check(bool(re.fullmatch(r"[0-9a-f]{32}", self.job_id)), "job id must be 32 hex digits")
        check(self.kind in ("evaluate", "train"), f"kind must be evaluate or train, found {self.kind!r}")
        check(self.created_unix_s < self.expires_unix_s, "the job expires before it is created")
        roles = [p.role for p in self.parties]
        owners = roles.count("owner")
        check(self.engine in ENGINES, f"engine must be one of {', '.join(ENGINES)}, found {self.engine!r}")
        dealt = self.engine in DEALT_ENGINES or "dealer" in roles
        expected = ["owner"] * owners + ["buyer", "dealer"][: 2 if dealt else 1]
        check(owners >= 1 and roles == expected, f"parties must be owners, buyer, dealer in this order, found {roles}")
        check(dealt or not self.deal_ahead, "nothing can be dealt ahead without a dealer")
        check(owners <= 15, f"at most 15 owners, found {owners}")
        names = [p.name for p in self.parties]
        check(len(set(names)) == len(names), "two parties have one name")
        check(len({p.key_id for p in self.parties}) == len(names), "two parties have one key")
        check(tuple(d.owner for d in self.datasets) == tuple(names[:owners]), "one data set per owner, in rank order")
        check(all(o in OUTPUTS for o in self.outputs) and len(self.outputs) > 0, f"outputs must be among {OUTPUTS}")
        check(len(set(self.outputs)) == len(self.outputs), "an output is listed twice")
        check((self.kind == "train") == (self.training is not None), "a training section belongs to train jobs")
        check(("model" not in self.outputs) or self.kind == "train", "only a training job releases a model")
        check(8 <= self.frac_bits <= 26, f"frac_bits must lie in 8..26, found {self.frac_bits}")
        check(self.network in NETWORKS, f"network must be one of {', '.join(NETWORKS)}, found {self.network!r}")
        check(1 <= self.block_rows <= 1 << 20, f"block_rows out of range: {self.block_rows}")
        check(0 <= self.buyer_rows < 1 << 40, f"buyer_rows out of range: {self.buyer_rows}")

    @property
    def compute_parties(self) -> tuple[PartyRef, ...]:
        """Owners and buyer: those who hold shares or ciphertexts, in rank order."""
        return self.parties[: len(self.datasets) + 1]

    @property
    def dealer(self) -> PartyRef | None:
        """The party that deals correlated randomness; None in a job of engine "he" without one."""
        return self.parties[-1] if self.has_dealer else None

    @property
    def has_dealer(self) -> bool:
        """Whether some party deals correlated randomness. Its rank is `len(compute_parties)`."""
        return self.parties[-1].role == "dealer"

    @property
    def buyer(self) -> PartyRef:
        """The party that signed the job and gets the outputs."""
        return self.parties[len(self.datasets)]

    @property
    def dealer_kin(self) -> tuple[PartyRef, ...]:
        """Parties that compute and are run by the organisation of the dealer; empty for an independent one or none."""
        if self.dealer is None:
            return ()
        own = _organisation_key(self.dealer.run_by)
        return tuple(party for party in self.compute_parties if _organisation_key(party.run_by) == own)

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

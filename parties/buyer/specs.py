"""From what a buyer asks for to the specification that everybody reads.

Everything here is public: the result is serialised once, signed, and travels unchanged. What is secret (weights,
salts, the buyer's own rows) never comes near.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from enclave.errors import BadInput, BadModel, BadSpec
from enclave.identity import Card
from enclave.messages import (
    Architecture,
    DatasetInfo,
    DatasetRef,
    Encoding,
    JobSpec,
    Layer,
    PartyRef,
    Training,
)
from enclave.models import dense_architecture, lenet_architecture

__all__ = [
    "KINDS",
    "Offer",
    "Schedule",
    "Terms",
    "job_spec",
    "split_data",
    "trained_network",
]

KINDS = ("logistic", "linear", "softmax", "mlp", "lenet")


@dataclass(frozen=True, slots=True)
class Offer:
    """A data set as its owner describes it to this buyer."""

    owner: Card
    info: DatasetInfo
    code_version: str

    @property
    def name(self) -> str:
        """OWNER/DATASET, the name by which a buyer asks for it."""
        return f"{self.owner.name}/{self.info.ref.name}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train: the public hyperparameters, in scikit-learn's words.

    Attributes:
        hidden: widths of the hidden layers of an mlp.
        average_epochs: the model is the mean of the weights over so many last epochs, which calms a constant learning
            rate; 0: the last weights.
        image: of a lenet, (height, width) or (channels, height, width) of the encoded columns, row by row; empty for
            a square image of one channel.
    """

    kind: str
    hidden: tuple[int, ...] = ()
    epochs: int = 10
    batch_rows: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    l2: float = 0.0
    seed: int = 0
    keep_shared: bool = False
    image: tuple[int, ...] = ()
    average_epochs: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"kind must be one of {', '.join(KINDS)}, found {str(self.kind)[:40]!r}")


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions of a job besides what it computes; `frac_bits` None: chosen by the numeric plan.

    Attributes:
        engine: "mpc", "hybrid" or "he"; "auto" until `engines` has chosen one of them.
    """

    created_unix_s: int
    lifetime_s: int = 86_400
    frac_bits: int | None = None
    block_rows: int = 4096
    purpose: str = ""
    deal_ahead: bool = False
    network: str = "lan"
    engine: str = "mpc"


def split_data(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(owner, data set) of each OWNER/DATASET; raises BadInput when one is malformed or an owner stands twice."""
    if isinstance(names, str):
        raise BadInput(
            f"expected a list of OWNER/DATASET, found the text {names[:80]!r}", hint=f"give [{names[:80]!r}]"
        )
    found = []
    for name in names:
        owner, slash, dataset = name.partition("/")
        if not slash or not owner or not dataset or "/" in dataset:
            raise BadInput(f"expected OWNER/DATASET, found {name[:80]!r}", hint="see enclave buyer datasets")
        found.append((owner, dataset))
    if not found:
        raise BadInput("a job needs at least one data set", hint="see enclave buyer datasets")
    owners = [owner for owner, _ in found]
    twice = sorted({owner for owner in owners if owners.count(owner) > 1})
    if twice:
        raise BadInput(f"one data set per owner and job, found two of {twice[0]}")
    return tuple(found)


def trained_network(schedule: Schedule, encoding: Encoding) -> tuple[Architecture, Training]:
    """The network and the schedule of a training job; raises BadInput when kind and target do not go together."""
    if encoding.target is None:
        raise BadInput("training needs a [target] in the encoding")
    if not isinstance(schedule, Schedule):
        example = 'for example Schedule("logistic", epochs=10)'
        raise BadInput(f"expected a Schedule, found {type(schedule).__name__}", hint=example)
    kind, classes = schedule.kind, encoding.target.classes
    if (kind == "mlp") != bool(schedule.hidden):
        raise BadInput("hidden layers belong to kind mlp, and an mlp needs them", hint="for example hidden 64,32")
    count = 1 if classes is None else len(classes.classes)
    if schedule.image and kind != "lenet":
        raise BadInput(f"an image belongs to kind lenet, found kind {kind}")
    if kind == "linear" and classes is not None:
        raise BadInput("linear regression needs a number as target, found classes")
    if kind in ("logistic", "softmax") and classes is None:
        raise BadInput(f"{kind} regression needs classes as target, found a number")
    if kind == "logistic" and count != 2:
        raise BadInput(f"logistic regression needs two classes, found {count}", hint="use kind softmax")
    if classes is None:
        loss, outputs = "squared", 1
    elif count == 2 and kind != "softmax":
        loss, outputs = "logistic", 1
    else:
        loss, outputs = "cross_entropy", count
    if kind == "lenet":
        network = lenet_architecture(_image(schedule.image, encoding.width), outputs)
    else:
        network = dense_architecture(encoding.width, schedule.hidden, outputs)
    architecture = _with_head(network, _HEADS[loss])
    if schedule.seed < 0 or schedule.seed >= 1 << 64:
        raise BadInput(f"seed must lie in 0..2^64-1, found {schedule.seed}")
    training = Training(
        loss=loss,
        epochs=schedule.epochs,
        batch_rows=schedule.batch_rows,
        learning_rate=schedule.learning_rate,
        momentum=schedule.momentum,
        l2=schedule.l2,
        shuffle_seed=schedule.seed,
        init_seed=schedule.seed,
        deliver="shared" if schedule.keep_shared else "buyer",
        average_epochs=schedule.average_epochs,
    )
    return architecture, training


def _image(given: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Channels, height and width of rows of `width` numbers."""
    side = math.isqrt(width)
    image = given if len(given) == 3 else (1, *(given or (side, side)))
    if len(image) != 3 or math.prod(image) != width:
        shown = "x".join(map(str, image))
        raise BadInput(
            f"the encoding yields {width} numbers a row, an image of {shown} has {math.prod(image)}",
            hint="--image gives the size, as HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH",
        )
    return image


_HEADS = {"squared": "", "logistic": "sigmoid", "cross_entropy": "softmax"}


def _with_head(architecture: Architecture, op: str) -> Architecture:
    """Ends the network in `op`, so that the trained model puts out probabilities; training ignores the head."""
    if not op:
        return architecture
    head = Layer(op, "probability", (architecture.layers[-1].name,))
    return Architecture(architecture.input_shape, (*architecture.layers, head), architecture.parameters)


def job_spec(
    *,
    owners: Sequence[Card],
    datasets: Sequence[DatasetRef],
    buyer: Card,
    dealer: Card | None,
    encoding: Encoding,
    architecture: Architecture,
    outputs: Sequence[str],
    terms: Terms,
    code_version: str,
    training: Training | None = None,
    model_commitment: bytes = b"",
    buyer_rows: int = 0,
) -> JobSpec:
    """The specification, still without its plan digest; raises BadInput where the request contradicts itself."""
    if math.prod(architecture.input_shape) != encoding.width:
        raise BadModel(
            f"the encoding yields {encoding.width} numbers a row, the model takes {architecture.input_shape}",
            hint="compare the [[features]] of the encoding with the columns the model was trained on",
        )
    parties = [
        PartyRef(card.name, card.role, card.key_id, card.address, card.organisation)
        for card in (*owners, buyer, *(() if dealer is None else (dealer,)))
    ]
    try:
        return JobSpec(
            job_id=secrets.token_hex(16),
            kind="evaluate" if training is None else "train",
            created_unix_s=terms.created_unix_s,
            expires_unix_s=terms.created_unix_s + terms.lifetime_s,
            parties=tuple(parties),
            datasets=tuple(datasets),
            encoding=encoding,
            architecture=architecture,
            model_commitment=model_commitment,
            outputs=tuple(outputs),
            training=training,
            frac_bits=20 if terms.frac_bits is None else terms.frac_bits,
            code_version=code_version,
            purpose=terms.purpose,
            block_rows=terms.block_rows,
            buyer_rows=buyer_rows,
            deal_ahead=terms.deal_ahead,
            network=terms.network,
            engine=terms.engine,
        )
    except BadSpec as error:
        raise BadInput(error.public, hint=error.hint, code=error.code) from error

"""From a request to a job that can be proposed: the specification with its plan, and what stays secret beside it."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave import __version__
from enclave.errors import BadData, BadInput, BadSpec, EnclaveError, PolicyRefused, RangeExceeded, SessionError
from enclave.identity import Card, Identity
from enclave.messages import Architecture, DatasetRef, Encoding, JobSpec
from parties.buyer.classes import class_order
from parties.buyer.records import REQUEST, SPEC, WEIGHTS, JobFolder
from parties.buyer.results import Progress
from parties.buyer.specs import Offer, Schedule, Terms, job_spec, trained_network

if TYPE_CHECKING:
    from enclave.datasets import RowSource
    from enclave.jobs import JobRecord
    from enclave.models import Model
    from enclave.workloads import Inputs
    from enclave.workloads.numeric import NumericPlan

__all__ = [
    "Draft",
    "Parties",
    "ended",
    "evaluation",
    "fitting_block",
    "imagined",
    "own_rows",
    "reload",
    "store",
    "training",
    "with_plan",
]

_BLOCK_VALUES = 1 << 22
_SALT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Parties:
    """Who takes part, in the order of ranks. `offers` is empty where nobody was asked.

    Attributes:
        dealer: None where there is none, or none is wanted.
        no_dealer: why there is none; raised where a job needs one.
    """

    owners: tuple[Card, ...]
    datasets: tuple[DatasetRef, ...]
    buyer: Card
    dealer: Card | None
    offers: tuple[Offer, ...] = ()
    no_dealer: EnclaveError | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Draft:
    """A specification and the buyer's secrets that belong to it.

    Attributes:
        model: what is evaluated; None in a training job.
        salt: of the model's commitment.
        outputs_salt: of the receipt's digest of the outputs.
        parties: None for a job that is taken up again.
        own: the buyer's own training rows.
        planned: the plan's rounds and bytes, as JSON types.
    """

    spec: JobSpec
    parties: Parties | None
    model: Model | None = None
    salt: bytes = b""
    outputs_salt: bytes = field(default_factory=lambda: secrets.token_bytes(_SALT_BYTES))
    own: RowSource | None = None
    own_path: str | None = None
    planned: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Draft({self.spec.kind} {self.spec.job_id})"

    def numbers(self) -> NumericPlan:
        """How far the job's numbers go and how wrong they can be.

        Raises: RangeExceeded: naming the layer of an encrypted network whose values could leave its numbers.
        """
        from enclave.workloads.encrypted.networks import check_weights, has_products
        from enclave.workloads.numeric import evaluation_numbers, training_numbers

        spec, model = self.spec, self.model
        if model is None:
            return training_numbers(spec)
        numbers = evaluation_numbers(model, spec)
        if spec.engine == "he" and spec.dealer is None and has_products(spec.architecture):
            numbers = replace(numbers, output_error=check_weights(spec, model.weights).error)
        return numbers

    def inputs(self) -> Inputs:
        """What this party brings to the session."""
        from enclave.workloads import Inputs

        return Inputs(rows=self.own, model=self.model)


def evaluation(
    parties: Parties,
    encoding: Encoding,
    model: Any,
    metrics: Sequence[str],
    predictions: bool,
    terms: Terms,
) -> Draft:
    """The draft of an evaluation.

    Raises: BadModel, BadInput where model, encoding and metrics do not fit; RangeExceeded naming the layer whose
        values could leave the fixed-point range.
    """
    from enclave.models import read_model
    from enclave.workloads.numeric import check_evaluation

    _check_columns(parties, encoding)
    read = read_model(model, class_order=lambda labels: class_order(labels, encoding))
    salt = secrets.token_bytes(_SALT_BYTES)
    outputs = tuple(dict.fromkeys(metrics)) + (("predictions",) if predictions else ())
    spec = job_spec(
        owners=parties.owners,
        datasets=parties.datasets,
        buyer=parties.buyer,
        dealer=parties.dealer,
        encoding=encoding,
        architecture=read.architecture,
        outputs=outputs,
        terms=replace(terms, block_rows=fitting_block(read.architecture, terms.block_rows)),
        code_version=__version__,
        model_commitment=read.commitment(salt),
    )
    _check(spec, ranges=False)
    spec = _with_digits(spec, terms, lambda attempt: check_evaluation(read, attempt))
    return Draft(spec, parties, model=read, salt=salt)


def fitting_block(architecture: Architecture, block_rows: int) -> int:
    """At most `block_rows`, and so few that no layer of a block has more than 2^22 values (32 MiB of shares)."""
    from enclave.models import shapes

    widest = max(math.prod(shape) for shape in shapes(architecture).values())
    return max(1, min(block_rows, _BLOCK_VALUES // widest))


def training(
    parties: Parties,
    encoding: Encoding,
    schedule: Schedule,
    metrics: Sequence[str],
    buyer_rows: int,
    terms: Terms,
) -> Draft:
    """The draft of a training; raises BadInput where kind, target, metrics and schedule do not fit, RangeExceeded
    where what enters it leaves the fixed-point range."""
    _check_columns(parties, encoding)
    try:
        architecture, plan = trained_network(schedule, encoding)
    except BadSpec as error:
        raise _as_input(error) from error
    spec = job_spec(
        owners=parties.owners,
        datasets=parties.datasets,
        buyer=parties.buyer,
        dealer=parties.dealer,
        encoding=encoding,
        architecture=architecture,
        # A model that stays shared is not an output; a job needs one nevertheless, and "model" then opens nothing.
        outputs=tuple(dict.fromkeys(metrics))
        if schedule.keep_shared and metrics
        else ("model", *dict.fromkeys(metrics)),
        terms=terms,
        code_version=__version__,
        training=plan,
        buyer_rows=buyer_rows,
    )
    _check(spec, ranges=False)
    return Draft(_with_digits(spec, terms, lambda attempt: None), parties)


def own_rows(source: Any, encoding: Encoding) -> RowSource | None:
    """The buyer's own rows, all of them checked; None without a source. Raises BadData."""
    if source is None:
        return None
    from enclave.datasets import RowSource

    rows = RowSource(source, encoding)
    rows.check()
    return rows


def imagined(wanted: Sequence[tuple[str, str]], rows: Sequence[int], buyer: Card, dealer: str) -> Parties:
    """Parties that nobody has asked, for a quote: only names and row counts are real. `dealer` "": there is none."""
    if len(rows) != len(wanted):
        raise BadInput(f"expected one row count per data set, {len(wanted)}, found {len(rows)}")
    owners = tuple(_figurehead("owner", owner) for owner, _ in wanted)
    try:
        datasets = tuple(
            DatasetRef(owner, name, bytes(32), count) for (owner, name), count in zip(wanted, rows, strict=True)
        )
    except BadSpec as error:
        raise _as_input(error) from error
    return Parties(owners, datasets, buyer, _figurehead("dealer", dealer) if dealer else None)


def with_plan(draft: Draft, report: Progress) -> Draft:
    """The draft with its plan's digest in the specification."""
    from parties.buyer.pricing import cost_of, plan_of

    report("planning", 0, 0, 0)
    plan = plan_of(draft.spec)
    planned = {"steps": plan.steps, **cost_of(plan, draft.spec).to_json()}
    return replace(draft, spec=replace(draft.spec, plan_digest=plan.digest), planned=planned)


def store(draft: Draft, folder: JobFolder, identity: Identity) -> None:
    """Serialises and signs the specification, once, and writes all that running the job needs."""
    folder.write_json(
        REQUEST,
        {
            "salt": draft.salt.hex(),
            "outputs_salt": draft.outputs_salt.hex(),
            "rows": None if draft.own_path is None else str(Path(draft.own_path).resolve()),
            "planned": draft.planned,
        },
    )
    if draft.model is not None:
        from enclave.models import write_safetensors

        folder.write(WEIGHTS, write_safetensors(draft.model))
    # Last: a folder with a specification is a job, so a crash before this leaves none.
    folder.write(SPEC, identity.sign("job", draft.spec.encode()).encode())


def reload(folder: JobFolder) -> Draft:
    """The draft that `store` wrote."""
    request, spec = folder.read_json(REQUEST), folder.spec()
    model = None
    if folder.has(WEIGHTS):
        from enclave.models import read_model

        model = read_model(folder.path / WEIGHTS, architecture=spec.architecture)
    own = own_rows(request["rows"], spec.encoding)
    if own is not None and own.rows != spec.buyer_rows:
        raise BadInput(f"{request['rows']} changed: expected {spec.buyer_rows} rows, found {own.rows}")
    return Draft(
        spec,
        parties=None,
        model=model,
        salt=bytes.fromhex(request["salt"]),
        outputs_salt=bytes.fromhex(request["outputs_salt"]),
        own=own,
        own_path=request["rows"],
        planned=request["planned"],
    )


def ended(record: JobRecord) -> EnclaveError:
    """The error that says again why a job ended without a result."""
    text = "; ".join(reason.text for reason in record.reasons) or "no reason recorded"
    public = f"job {record.job_id} is {record.state.lower()}: {text}"
    if record.state == "REFUSED":
        return PolicyRefused(public, rules=tuple(dict.fromkeys(r.rule for r in record.reasons)))
    code = record.reasons[0].rule if record.reasons else "session.ended"
    return SessionError(public, code=code, hint="propose it again as a new job")


def _check_columns(parties: Parties, encoding: Encoding) -> None:
    """Raises BadData for a column that an owner does not describe; the owner would refuse the job, and record it."""
    used = [feature.column for feature in encoding.features]
    if encoding.target is not None:
        used.append(encoding.target.column)
    for offer in parties.offers:
        known = [column.name for column in offer.info.columns]
        missing = [name for name in used if name not in known]
        if missing:
            shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
            raise BadData(f"{offer.name} has no column {', '.join(missing[:8])}", hint=f"its columns: {shown}")


def _check(spec: JobSpec, *, ranges: bool = True) -> None:
    from enclave.workloads import check_spec

    try:
        check_spec(spec)
    except BadSpec as error:
        raise _as_input(error) from error
    except RangeExceeded:
        if ranges:
            raise


def _with_digits(spec: JobSpec, terms: Terms, check: Callable[[JobSpec], object]) -> JobSpec:
    """The specification with the fractional bits of the terms, or the most that its numbers leave room for."""
    from enclave.workloads.numeric import fitting

    def attempt(bits: int) -> None:
        candidate = replace(spec, frac_bits=bits)
        _check(candidate)
        check(candidate)

    return replace(spec, frac_bits=fitting(attempt, terms.frac_bits))


def _as_input(error: BadSpec) -> BadInput:
    return BadInput(error.public, hint=error.hint, code=error.code)


def _figurehead(role: str, name: str) -> Card:
    # Never dialled, never signed with, never proposed: it stands in for a party in a quote.
    key = hashlib.sha256(f"{role} {name}".encode()).digest()
    return Card(name, role, "", key, (), 0, b"")

"""What a job gives away by design, computed from its specification alone: outputs, views, public facts.

An output's bound in bits is the logarithm of the number of values it can take. It bounds what one release tells
about the rows; it is not a privacy guarantee, and bounds of repeated jobs add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from enclave.messages import JobSpec, PartyRef
from enclave.models.graph import output_shape

__all__ = ["Output", "PartyView", "declared_outputs", "party_views", "public_facts", "view_of"]

_WORD_BITS = 64


@dataclass(frozen=True, slots=True)
class Output:
    """One declared output.

    Attributes:
        name: as in the specification.
        type: what it is, in words.
        values: how many values it can take, in words.
        bits: upper bound of what it can tell, in bits.
        to: who gets it.
    """

    name: str
    type: str
    values: str
    bits: float
    to: str


@dataclass(frozen=True, slots=True)
class PartyView:
    """What one party has before its eyes, and what stays hidden from it.

    Attributes:
        organisation: who runs the party; empty for whoever watches the network.
    """

    name: str
    role: str
    sees: tuple[str, ...]
    hidden: tuple[str, ...]
    organisation: str = ""


def declared_outputs(spec: JobSpec) -> tuple[Output, ...]:
    """The outputs of `spec` with their bounds, in the order of the specification."""
    return tuple(_output(name, spec) for name in spec.outputs)


def _output(name: str, spec: JobSpec) -> Output:
    rows, to = spec.rows, spec.buyer.name
    if name == "accuracy":
        return Output(name, f"how many of {rows} rows are right", f"{rows + 1} counts", math.log2(rows + 1), to)
    if name == "confusion":
        target = spec.encoding.target
        cells = (len(target.classes.classes) if target is not None and target.classes is not None else 2) ** 2
        bits = _log2_compositions(rows, cells)
        return Output(name, f"{cells} counts that sum to {rows}", f"C({rows + cells - 1}, {cells - 1})", bits, to)
    if name == "auc":
        # Twice the area times positives times negatives is an integer from 0; one more value for a single class.
        possible = rows * (rows * rows - 1) // 3 + rows
        bits = min(math.log2((1 << spec.frac_bits) + 2), math.log2(possible + 1))
        return Output(name, f"a number of {spec.frac_bits} fractional bits", f"at most 2^{bits:.1f}", bits, to)
    if name == "r2":
        bits = float(spec.frac_bits + 1)
        return Output(name, f"a ratio of {spec.frac_bits} fractional bits, and its side", f"2^{bits:.0f}", bits, to)
    if name == "brier":
        return Output(name, f"a sum of {rows} squares of at most 1", "2^63 fixed-point numbers", 63.0, to)
    if name == "mean_score":
        return Output(name, f"a sum of {rows} scores", "2^64 fixed-point numbers", 64.0, to)
    if name == "rmse":
        return Output(name, f"a sum of squares over {rows} rows", "2^63 fixed-point numbers", 63.0, to)
    if name == "predictions":
        width = math.prod(output_shape(spec.architecture))
        scored = sum(d.rows for d in spec.datasets)
        text = f"{width} number{'s' * (width > 1)} for each of {scored} rows"
        return Output(name, text, f"{scored * width} words of 64 bits", float(scored * width * _WORD_BITS), to)
    count = sum(math.prod(parameter.shape) for parameter in spec.architecture.parameters)
    if spec.training is not None and spec.training.deliver == "shared":
        return Output(name, f"{count} parameters that stay shared", "none", 0.0, "nobody")
    return Output(name, f"{count} parameters", f"{count} words of 64 bits", float(count * _WORD_BITS), to)


def _log2_compositions(rows: int, cells: int) -> float:
    """log2 of the ways to write `rows` as an ordered sum of `cells` counts."""
    log = math.lgamma(rows + cells) - math.lgamma(cells) - math.lgamma(rows + 1)
    return max(0.0, log / math.log(2))


def view_of(spec: JobSpec, name: str) -> PartyView:
    """The view of the party called `name`: what its statement lists. Raises BadSpec when the job has none."""
    party = spec.party(name)
    return next(view for view in party_views(spec) if view.name == party.name)


def party_views(spec: JobSpec) -> tuple[PartyView, ...]:
    """The view of every party in rank order, and of whoever watches the network."""
    views = [_owner(spec, rank) for rank in range(len(spec.datasets))]
    views.append(_buyer(spec))
    if spec.dealer is not None:
        views.append(_dealer(spec.dealer))
    known = [replace(view, organisation=p.run_by) for view, p in zip(views, spec.parties, strict=True)]
    return (*known, _observer())


_PUBLIC = "the public facts of the job"
_SHARES = "shares of every intermediate value, and masked openings: uniform words"
_ENCRYPTED = "weights under the buyer's key, made for this job"
_RETURNED = "ciphertexts that owners computed, which hide their rows as the report says"


def _working(spec: JobSpec, encrypted: str) -> tuple[str, ...]:
    """What a party that computes has before its eyes on the way, besides what is its own."""
    shares = (_SHARES,) if spec.has_dealer else ()
    return (_PUBLIC, *shares) if spec.engine == "mpc" else (_PUBLIC, *shares, encrypted)


def _owner(spec: JobSpec, rank: int) -> PartyView:
    own = spec.datasets[rank]
    others = [f"the rows of {d.owner}" for d in spec.datasets if d.owner != own.owner]
    if spec.buyer_rows:
        others.append(f"the rows of {spec.buyer.name}")
    weights = "the model that is trained" if spec.kind == "train" else "the model's weights"
    outputs = [f"the result ({', '.join(spec.outputs)})"]
    sees = (f"its own data set {own.name}, {own.rows} rows", *_working(spec, _ENCRYPTED))
    return PartyView(own.owner, "owner", sees, (weights, *others, *outputs))


def _buyer(spec: JobSpec) -> PartyView:
    own = ["its own model"] if spec.kind == "evaluate" else []
    if spec.buyer_rows:
        own.append(f"its own {spec.buyer_rows} rows")
    shared = spec.training is not None and spec.training.deliver == "shared"
    released = [name for name in spec.outputs if not (shared and name == "model")]
    if released:
        own.append(f"the released outputs, of those declared: {', '.join(released)}")
    hidden = [f"any row, feature, label or score of {d.owner} beyond the released outputs" for d in spec.datasets]
    if shared:
        hidden.append("the trained model: it stays shared")
    return PartyView(spec.buyer.name, "buyer", (*own, *_working(spec, _RETURNED)), tuple(hidden))


def _dealer(dealer: PartyRef) -> PartyView:
    sees = (_PUBLIC, "the correlated randomness that it deals", "how fast each party took it")
    hidden = ("every share, every opened word, all data, all weights, all outputs",)
    return PartyView(dealer.name, "dealer", sees, hidden)


def _observer() -> PartyView:
    sees = ("addresses, times, and sizes of encrypted records",)
    return PartyView("anyone on the network", "observer", sees, ("every message's content", "the job itself"))


def public_facts(spec: JobSpec) -> tuple[str, ...]:
    """What all parties of the job may know, one line each."""
    weights = sum(math.prod(parameter.shape) for parameter in spec.architecture.parameters)
    columns = [feature.column for feature in spec.encoding.features]
    shown = ", ".join(columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")
    layers = [layer.op for layer in spec.architecture.layers]
    chain = " → ".join(layers[:16]) + (f" and {len(layers) - 16} more" if len(layers) > 16 else "")
    facts = [
        f"who takes part: {', '.join(f'{p.name} ({p.role})' for p in spec.parties)}",
        f"rows: {', '.join(f'{d.owner}/{d.name} {d.rows}' for d in spec.datasets)}",
        f"columns used: {shown}",
        "the encoding: scaling constants, declared ranges, vocabularies, fill values",
        f"architecture: {chain}, {weights} parameters",
        f"outputs asked for: {', '.join(spec.outputs)}",
        f"engine: {spec.engine}, {'no dealer' if spec.dealer is None else f'dealer {spec.dealer.name}'}, "
        f"{spec.frac_bits} fractional bits",
        "the plan: steps, rounds, bytes and openings; and how long the job took",
    ]
    if spec.encoding.target is not None:
        facts.insert(3, f"target column: {spec.encoding.target.column}")
    if spec.buyer_rows:
        facts.insert(2, f"rows that the buyer brings: {spec.buyer_rows}")
    if spec.training is not None:
        t = spec.training
        facts.append(f"schedule: {t.loss} loss, {t.epochs} epochs, batches of {t.batch_rows}, seeds of order and start")
    if spec.purpose:
        facts.append(f"stated purpose: {spec.purpose}")
    return tuple(facts)

"""The training of a job without a dealer, under homomorphic encryption.

owners:  their rows in the clear, standardised where there is one owner         nothing leaves before the permit
both:    gradient descent on encrypted weights, see `engines.he.training`
result:  the weights, rounded, for rows in column units where they are standardised

How the schedule is read:

    epochs          steps of gradient descent, each over all rows: `batch_rows` does not matter, nor does any seed
    learning_rate   one owner: of the step that the bounded Hessian proposes, at most 1 (the squared loss is solved
                    exactly, in one step, whatever the schedule); several owners: of the plain gradient of the mean loss
    momentum, l2    as for the other engines
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from enclave.engines.he.engine import HeEngine
from enclave.engines.he.regression import descent
from enclave.engines.he.regression import training as encrypted
from enclave.engines.he.regression.descent import OwnRows, Problem
from enclave.engines.interface import Engine, Secret
from enclave.engines.mpc.session import Protocol, Session
from enclave.errors import BadModel, BadSpec
from enclave.messages import JobSpec
from enclave.workloads.encrypted.rows import JobColumns
from enclave.workloads.inputs import Inputs, Rows
from enclave.workloads.specification import class_count, row_holders
from enclave.workloads.standardise import column_units, own_scaling
from enclave.workloads.trainable import TrainableNetwork

__all__ = ["check", "plain_weights", "train"]

Floats = NDArray[np.float64]
_HINT = "hybrid or mpc would do: --engine hybrid, or --engine mpc"


def check(spec: JobSpec) -> None:
    """Refuses what this training cannot do.

    Raises:
        BadModel: the architecture has a layer besides one linear one; the text names it.
        BadSpec: a loss, an output or a schedule that needs another engine; too many rows and columns.
    """
    network, training = TrainableNetwork(spec.architecture), spec.training
    if training is None:
        raise BadSpec("a training job needs a training section")
    if len(network.steps) > 1:
        layer = network.steps[1]
        text = f"layer {layer.name}: engine he trains one linear layer, found {layer.op} behind {network.steps[0].name}"
        raise BadModel(text, hint=_HINT)
    if training.loss not in ("logistic", "squared"):
        raise BadSpec(f"engine he trains with the logistic or the squared loss, found {training.loss}", hint=_HINT)
    others = sorted(set(spec.outputs) - {"model"})
    if others:
        text = f"a training under engine he releases the model alone, found {', '.join(others)}"
        raise BadSpec(text, hint=f"evaluate the released model, or {_HINT}")
    if training.deliver != "buyer":
        raise BadSpec(f"a training under engine he delivers to the buyer, found {training.deliver}", hint=_HINT)
    if training.average_epochs:
        raise BadSpec("a training under engine he averages no weights: its steps are over all rows", hint=_HINT)
    if spec.buyer_rows:
        raise BadSpec("a training under engine he takes no rows of the buyer's, who has the key", hint=_HINT)
    if len(spec.datasets) == 1 and training.loss == "logistic" and training.learning_rate > 1.0:
        text = f"with one owner the learning rate is part of a whole step, at most 1, found {training.learning_rate:g}"
        raise BadSpec(text, hint="leave it at 1 or below")
    if spec.encoding.standardise:
        JobColumns.of(spec)
    encrypted.check(_problem(spec))


def train(engine: Engine, spec: JobSpec, inputs: Inputs) -> Mapping[str, Secret]:
    """The output "model", sealed: all weights, flat, in the order of the architecture's parameters."""
    problem = _problem(spec)
    rows = None if engine.rank is None else inputs.of(engine.rank, engine.rank)
    own = None if rows is None or engine.rank is None else _own_rows(spec, problem, engine.rank, rows)
    he = cast(HeEngine, engine)
    sealed = he.run(encrypted.train(he, problem, own))
    return {"model": cast(Secret, _Model(sealed, _order(spec), _factors(spec)))}


@dataclass(frozen=True, slots=True, repr=False)
class _Model:
    """Sealed weights in the architecture's order.

    Attributes:
        order: the column of each weight. factors: of each column's weight, public.
    """

    weights: encrypted.Trained
    order: tuple[int, ...]
    factors: Floats

    def __repr__(self) -> str:
        return repr(self.weights)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weights.shape

    @property
    def is_integer(self) -> bool:
        return False

    def release(self, session: Session, name: str, to: int) -> Protocol[NDArray[Any] | None]:
        """See `Trained.release`."""
        found = yield from self.weights.release(session, name, to)
        return None if found is None else (found * self.factors)[list(self.order)]


def plain_weights(spec: JobSpec, rows: Mapping[int, Rows]) -> Floats:
    """The same training in the clear, by the rank that holds rows: what "model" opens to, but for its rounding."""
    problem = _problem(spec)
    found = descent.plain_training(problem, [_own_rows(spec, problem, rank, rows[rank]) for rank in sorted(rows)])
    return np.asarray((found * _factors(spec))[list(_order(spec))])


def _problem(spec: JobSpec) -> Problem:
    training, network = spec.training, TrainableNetwork(spec.architecture)
    assert training is not None
    return Problem(
        training.loss,
        tuple(count for _, count in row_holders(spec)),
        network.size,
        network.steps[0].bias is not None,
        training.epochs,
        training.learning_rate,
        training.momentum,
        training.l2,
    )


def _order(spec: JobSpec) -> tuple[int, ...]:
    """The column of each weight as the architecture lists them; the bias is the last column."""
    network = TrainableNetwork(spec.architecture)
    found: list[int] = []
    for name, _ in network.parameters:
        found += [network.size - 1] if name == network.steps[0].bias else range(spec.encoding.width)
    return tuple(found)


def _factors(spec: JobSpec) -> Floats:
    """What the weights of columns in units are multiplied by: 1 where rows are standardised, as the engines have it."""
    found = np.ones(TrainableNetwork(spec.architecture).size)
    if not spec.encoding.standardise:
        found[: spec.encoding.width] = column_units(spec)
    return found


def _back(spec: JobSpec, columns: int, rows: Rows) -> Floats:
    """Weights of the columns that the job descends in, standardised or as encoded -> weights of columns in units."""
    found, width = np.eye(columns), spec.encoding.width
    if spec.encoding.standardise:
        mean, inverse = own_scaling(spec, rows)
        found[:width, :width] = np.diag(inverse)
        found[-1, :width] = -mean * inverse
    else:
        found[:width, :width] = np.diag(1.0 / column_units(spec))
    return found


def _own_rows(spec: JobSpec, problem: Problem, rank: int, rows: Rows) -> OwnRows:
    """All rows of this party, in column units: a training takes them all at once, so they stay in memory."""
    x = np.ones((rows.rows, problem.columns))
    x[:, : spec.encoding.width] = rows.features(0, rows.rows) * column_units(spec)
    targets = rows.targets(0, rows.rows)
    if class_count(spec) is not None:
        targets = (targets == 1).astype(np.float64)
    return descent.own_rows(problem, rank, x, targets, _back(spec, problem.columns, rows))

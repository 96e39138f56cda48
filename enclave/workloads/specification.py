"""What can be asked of a job, checked before anybody is bothered with it. Pure functions of the specification."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from enclave.errors import BadSpec, RangeExceeded
from enclave.messages import JobSpec, NumericFeature, Training
from enclave.metrics import error_limit
from enclave.models.graph import output_shape
from enclave.workloads.trainable import TrainableNetwork

__all__ = [
    "HALF_RANGE",
    "bounds",
    "check_spec",
    "class_count",
    "first_gradient",
    "input_bound",
    "row_holders",
    "target_bound",
]

_RING_BITS = 62
_SMALLEST_RATE = 2.0**-30
MAX_TRAINED_WEIGHTS = 1 << 22
MOST_AVERAGED = 1 << 17  # steps whose weights are added up, each below 2^(44 - frac_bits)
LARGEST_DECAY = 0.1  # of the weights in one step
HALF_RANGE = 16.0  # of a column before joint standardisation, see `standardise`
_CLASS_OUTPUTS = ("accuracy", "confusion", "auc", "brier")
_NUMBER_OUTPUTS = ("rmse", "r2")
MAX_AUC_ROWS = 1 << 30  # 2 * positives * negatives must stay below 2^60


def row_holders(spec: JobSpec) -> tuple[tuple[int, int], ...]:
    """(rank, rows) of everyone who brings rows, in rank order."""
    found = [(rank, dataset.rows) for rank, dataset in enumerate(spec.datasets)]
    if spec.buyer_rows:
        found.append((len(spec.datasets), spec.buyer_rows))
    return tuple(found)


def class_count(spec: JobSpec) -> int | None:
    """Number of classes of the target, None for a number or without a target."""
    target = spec.encoding.target
    return len(target.classes.classes) if target is not None and target.classes is not None else None


def _numeric_bound(numeric: NumericFeature) -> float:
    return max(abs(numeric.low - numeric.shift), abs(numeric.high - numeric.shift)) / numeric.scale


def bounds(spec: JobSpec) -> NDArray[np.float64]:
    """Largest magnitude of each encoded column by the declared ranges, (width,)."""
    found: list[float] = []
    for feature in spec.encoding.features:
        found += [1.0 if feature.numeric is None else _numeric_bound(feature.numeric)] * feature.width
    return np.array(found, dtype=np.float64)


def check_spec(spec: JobSpec) -> None:
    """Refuses a specification whose outputs, target, architecture and schedule do not fit together.

    Raises:
        BadSpec: a contradiction; the text names both sides.
        BadModel: the architecture is not allowed, or cannot be trained.
        RangeExceeded: the target's declared range, or a batch of rows, does not fit the fixed-point range.
    """
    shape = output_shape(spec.architecture)
    if math.prod(spec.architecture.input_shape) != spec.encoding.width:
        raise BadSpec(
            f"the encoding yields {spec.encoding.width} columns, the model takes rows of shape "
            f"{tuple(spec.architecture.input_shape)}"
        )
    if spec.kind == "evaluate" and spec.buyer_rows:
        raise BadSpec("only a training job takes rows of the buyer's")
    _check_outputs(spec, shape)
    if spec.training is not None:
        _check_training(spec, shape)
    if spec.encoding.target is not None and spec.encoding.target.numeric is not None:
        _check_target_range(spec, _numeric_bound(spec.encoding.target.numeric))
    if spec.engine == "he":
        from enclave.workloads.encrypted import check_encrypted  # which reads this module

        check_encrypted(spec)


def _check_outputs(spec: JobSpec, shape: tuple[int, ...]) -> None:
    classes, target = class_count(spec), spec.encoding.target
    for name in spec.outputs:
        if name in ("predictions", "model"):
            continue
        if name == "mean_score":
            if shape != (1,):
                raise BadSpec(f"mean_score needs a model with 1 output, found rows of shape {shape}")
            continue
        if target is None:
            raise BadSpec(f"{name} needs a target, the encoding has none")
        if name in _CLASS_OUTPUTS and classes is None:
            raise BadSpec(f"{name} needs a target of classes, {target.column} is a number")
        if name in _NUMBER_OUTPUTS and classes is not None:
            raise BadSpec(f"{name} needs a numeric target, {target.column} has classes")
        if len(shape) != 1:
            raise BadSpec(f"{name} needs a model with one axis of outputs, found rows of shape {shape}")
        if name == "auc" and classes != 2:
            raise BadSpec(f"auc needs two classes, {target.column} has {classes}")
        if name == "brier":
            _check_brier(spec, classes)
        if name == "auc" and spec.rows > MAX_AUC_ROWS:
            raise BadSpec(f"auc takes at most {MAX_AUC_ROWS} rows, found {spec.rows}")
        width = shape[0]
        fits = width == 1 if classes is None else width == classes or (classes == 2 and width == 1)
        if not fits:
            wanted = "1 output" if classes is None else "1 or 2 outputs" if classes == 2 else f"{classes} outputs"
            raise BadSpec(f"{name} of {target.column} needs a model with {wanted}, found {width}")


def _check_brier(spec: JobSpec, classes: int | None) -> None:
    """A probability is what a final sigmoid or softmax yields, and what the loss of a training makes of an output."""
    target, last = spec.encoding.target, spec.architecture.layers[-1].op
    assert target is not None
    if classes != 2:
        raise BadSpec(f"brier needs two classes, {target.column} has {classes}")
    if spec.kind == "evaluate" and last not in ("sigmoid", "softmax"):
        raise BadSpec(
            f"brier needs a model whose output is a probability: a last layer sigmoid or softmax, found {last}",
            hint="export the model with its final sigmoid",
        )
    if last == "sigmoid" and math.prod(output_shape(spec.architecture)) != 1:
        raise BadSpec("brier of a model that ends in a sigmoid needs 1 output")
    if not spec.rows < 2.0 ** (60 - spec.frac_bits):
        raise RangeExceeded("the sum of brier", float(spec.rows), 2.0 ** (60 - spec.frac_bits))


def _check_training(spec: JobSpec, shape: tuple[int, ...]) -> None:
    training, classes = spec.training, class_count(spec)
    assert training is not None
    network = TrainableNetwork(spec.architecture)
    if network.size > MAX_TRAINED_WEIGHTS:
        raise BadSpec(f"a training job has at most {MAX_TRAINED_WEIGHTS} weights, found {network.size}")
    if "predictions" in spec.outputs:
        raise BadSpec("a training job releases no predictions of rows")
    if "mean_score" in spec.outputs:
        raise BadSpec("a training job releases no mean_score: it is a figure of a model of the buyer's")
    if spec.encoding.target is None:
        raise BadSpec("a training job needs a target")
    if spec.encoding.standardise and (network.first_linear is None or network.first_linear.bias is None):
        raise BadSpec(
            "standardised training needs a linear first layer with a bias, which the model's shift becomes part of",
            hint="images have one scale for all columns: give it in the encoding instead",
        )
    width = network.outputs
    if training.loss == "squared" and (classes is not None or width != 1):
        raise BadSpec(f"the squared loss needs a numeric target and 1 output, found {classes} classes, {width} outputs")
    if training.loss == "logistic" and (classes != 2 or width != 1):
        raise BadSpec(f"the logistic loss needs 2 classes and 1 output, found {classes} classes, {width} outputs")
    if training.loss == "cross_entropy" and (classes is None or width != classes):
        raise BadSpec(f"the cross-entropy needs one output a class, found {classes} classes, {width} outputs")
    _check_schedule(spec, training)
    expected = {"squared": None, "logistic": "sigmoid", "cross_entropy": "softmax"}[training.loss]
    if network.final not in (None, expected):
        raise BadSpec(f"a model trained with the {training.loss} loss cannot end in {network.final}")


def input_bound(spec: JobSpec) -> float:
    """Largest magnitude of any number that the first layer takes, by the declared ranges."""
    if not spec.encoding.standardise:
        return float(bounds(spec).max())
    # Of n numbers with mean 0 and variance 1 none is further from 0 than sqrt(n - 1), and a factor has its limit.
    return min(math.sqrt(max(1, spec.rows - 1)), 2.0 * HALF_RANGE * math.sqrt(2.0 ** (spec.frac_bits - 6)))


def target_bound(spec: JobSpec) -> float:
    """Largest magnitude of a target: 1 for classes, whose one-hot rows are bits."""
    target = spec.encoding.target
    assert target is not None  # a training has one
    return 1.0 if target.numeric is None else _numeric_bound(target.numeric)


def first_gradient(spec: JobSpec) -> float:
    """Largest element of the first gradient of a single layer, or of the last layer's part in it.

    It is a sum over a batch of inputs times derivatives of the loss. A derivative is at most 1 for classes; for a
    number it is an error, taken as at most 2 bounds of the target.
    """
    assert spec.training is not None and spec.encoding.target is not None
    derivative = 1.0 if spec.encoding.target.numeric is None else 2.0 * target_bound(spec)
    return min(spec.training.batch_rows, spec.rows) * input_bound(spec) * derivative


def _check_schedule(spec: JobSpec, training: Training) -> None:
    """Refuses what can overflow in the first product with data, or what no data could make converge.

    Later products depend on how the training goes: `watch` finds at its end whether they stayed in the range.
    """
    largest = first_gradient(spec)
    limit = 2.0 ** (_RING_BITS - 2 * spec.frac_bits)
    if not largest < limit and spec.engine != "he":  # which sums no batches in fixed point
        raise RangeExceeded("the first gradient", largest, limit)
    if not training.learning_rate * training.l2 <= LARGEST_DECAY:
        # Safety: at 1 each step erases all earlier ones, and the released model is the gradient of the last batch.
        raise BadSpec(
            f"learning_rate * l2 must be at most {LARGEST_DECAY:g}, found {training.learning_rate * training.l2:g}",
            hint="each step shrinks the weights by this part; useful trainings stay far below",
        )
    if training.average_epochs * (spec.rows // training.batch_rows + len(row_holders(spec)) + 1) > MOST_AVERAGED:
        raise BadSpec(f"at most {MOST_AVERAGED} steps are averaged, found {training.average_epochs} epochs of them")
    rate = training.learning_rate / training.batch_rows
    if rate < _SMALLEST_RATE:
        raise BadSpec(
            f"learning_rate / batch_rows must be at least 2^-30, found {rate:g}",
            hint="steps would be lost in the rounding of the weights",
        )


def _check_target_range(spec: JobSpec, bound: float) -> None:
    """Errors are taken as at most 2 bounds here; where they are larger after all, the job says so at its end."""
    limit = error_limit(spec.frac_bits, spec.rows)
    if any(name in spec.outputs for name in _NUMBER_OUTPUTS) and 2.0 * bound >= limit:
        raise RangeExceeded("target", 2.0 * bound, limit)

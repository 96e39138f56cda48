"""The numeric plan: how far every value can go, how wrong it can be, and what happens if it is.

For an evaluation everything follows from the weights, which only the buyer has, and from the declared ranges, which
every owner enforces on its rows. `enclave.models.ranges` bounds the values; here errors are carried along, element by
element, so that a row's measured error is never above what is stated:

    input      half a unit (2^-(f + 1)), the rounding of what was encoded
    linear, conv2d   |error of x| @ |W as encoded| + |x| @ |rounding of W| + the bias's, and one unit of truncation
    mul        |error of x| |y| + |x| |error of y| + |error of x| |error of y|, and one unit
    relu, max  the largest error that comes in; functions: their steepest slope times it, and their own stated error

The stated errors stand beside the protocols (`enclave.engines.mpc.protocols.accuracy`). No step of an evaluation can
fail within the ranges: every protocol is exact but for rounding, and a model that could leave them is refused.

Of a training the same can be said of the data and of the first gradient. Later numbers depend on how it goes: they
are watched, and a training that left the range says so in the place of all its outputs.

Fractional bits are public, and chosen after the weights: hence from a ladder of few steps, and the default wherever
it fits. Whoever reads the specification learns from a lower step that the weights need the room: a bound on a norm
of theirs within a factor of 64. A buyer who does not want that fixes the number. A comparison may take for granted
that ring words lie below 2^61, as the limits have it. How far below they lie in one model is not made public: fewer
compared bits would save work, and tell a norm layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from enclave.engines.mpc.protocols import accuracy
from enclave.errors import RangeExceeded
from enclave.messages import Encoding, JobSpec, Layer
from enclave.metrics import error_limit
from enclave.models import Model
from enclave.models.commute import pooled_first
from enclave.models.graph import INPUT
from enclave.models.model import FloatArray
from enclave.models.ranges import Interval, Reach, intervals, reaches, rounded_model
from enclave.models.reference import apply_layer
from enclave.workloads.descent import Layout
from enclave.workloads.specification import first_gradient, input_bound, row_holders, target_bound
from enclave.workloads.watch import watch_limit, weight_limit

__all__ = [
    "DEFAULT_FRAC_BITS",
    "NumericPlan",
    "NumericStep",
    "check_evaluation",
    "evaluation_numbers",
    "fitting",
    "output_errors",
    "training_numbers",
]

DEFAULT_FRAC_BITS = 20
LADDER = (DEFAULT_FRAC_BITS, 17, 14, 11, 8)  # three bits are a factor of 64 of room for a product
_RING_BITS = 61


@dataclass(frozen=True, slots=True)
class NumericStep:
    """One layer of an evaluation, or one kind of number of a training.

    Attributes:
        bound: the largest magnitude of its values; None where nothing but the run decides.
        limit: what that may be.
        digits: fractional bits of the values before the next truncation.
        error: the largest absolute error of an element against real numbers; None where nobody can say.
        failure: probability that one value out of range goes unnoticed; many do with a power of it.
        on_failure: what happens when it is noticed.
    """

    name: str
    op: str
    bound: float | None
    limit: float
    digits: int
    error: float | None
    failure: float
    on_failure: str

    @property
    def room_bits(self) -> float | None:
        """Bits between the bound and the limit."""
        return None if self.bound is None or self.bound == 0 else math.log2(self.limit / self.bound)

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "room_bits": self.room_bits}


@dataclass(frozen=True, slots=True)
class NumericPlan:
    """Steps in the order of execution; `output_error` is that of the last layer, None where nobody can say."""

    frac_bits: int
    steps: tuple[NumericStep, ...]
    output_error: float | None

    @property
    def failure(self) -> float:
        """The largest probability of a step that a number out of range goes unnoticed."""
        return max(step.failure for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "frac_bits": self.frac_bits,
            "output_error": self.output_error,
            "failure": self.failure,
            "steps": [step.to_json() for step in self.steps],
        }


def fitting(attempt: Callable[[int], Any], wanted: int | None) -> int:
    """The fractional bits of a job: `wanted`, or the first of the ladder at which `attempt` raises no RangeExceeded.

    Raises: RangeExceeded of `wanted`, or of the default when no step of the ladder fits; its hint says what would.
    """
    first: RangeExceeded | None = None
    for bits in (DEFAULT_FRAC_BITS if wanted is None else wanted, *LADDER):
        if first is not None and bits >= (DEFAULT_FRAC_BITS if wanted is None else wanted):
            continue
        try:
            attempt(bits)
        except RangeExceeded as error:
            first = first or error
            continue
        if first is None or wanted is None:
            return bits
        raise RangeExceeded(
            first.layer,
            first.bound,
            first.limit,
            hint=f"it fits with {bits} fractional bits (--frac-bits {bits}), or with smaller declared ranges",
        )
    assert first is not None
    raise RangeExceeded(
        first.layer,
        first.bound,
        first.limit,
        hint=f"no number of fractional bits makes room: scale what enters {first.layer} down, or lower the declared "
        "ranges of the features",
    )


# ---- evaluation


def check_evaluation(model: Model, spec: JobSpec) -> tuple[Reach, ...]:
    """How far "input" and each layer of the job's model go.

    Raises: RangeExceeded naming the first layer that could wrap; BadModel as `reaches`.
    """
    return reaches(
        _executed(model),
        spec.encoding,
        spec.frac_bits,
        rows=spec.rows,
        holders=len(spec.datasets),
        outputs=spec.outputs,
        error_limit=error_limit(spec.frac_bits, spec.rows),
    )


def evaluation_numbers(model: Model, spec: JobSpec) -> NumericPlan:
    """The numeric plan of an evaluation; raises as `check_evaluation`."""
    bits, encoding = spec.frac_bits, spec.encoding
    # Joint standardisation divides by deviations that no declared range bounds from below.
    stated = not (encoding.standardise and len(spec.datasets) > 1)
    errors = output_errors(_executed(model), encoding, bits, rows=spec.rows) if stated else {}
    steps = tuple(_step(reach, bits, errors) for reach in check_evaluation(model, spec))
    return NumericPlan(bits, steps, steps[-1].error)


def _executed(model: Model) -> Model:
    return Model(pooled_first(model.architecture), model.weights)


def _step(reach: Reach, frac_bits: int, errors: Mapping[str, FloatArray]) -> NumericStep:
    error = float(errors[reach.name].max()) if reach.name in errors else None
    digits = frac_bits * (2 if reach.wide else 1)
    return NumericStep(reach.name, reach.op, reach.bound, reach.limit, digits, error, 0.0, "refused beforehand")


def output_errors(
    model: Model, encoding: Encoding, frac_bits: int, *, rows: int | None = None
) -> dict[str, FloatArray]:
    """The largest |computed - real| of every element of "input" and of each layer, (1, *row) each.

    For rows that one party holds, or that are not standardised.
    """
    values = intervals(model, encoding, rows=rows)
    encoded = rounded_model(model, frac_bits)
    rounding = {name: np.abs(encoded.weights[name] - weight) for name, weight in model.weights.items()}
    unit = 2.0**-frac_bits
    found: dict[str, FloatArray] = {INPUT: np.full_like(values[INPUT][0], unit / 2)}
    for layer in model.architecture.layers:
        taken = _Taken(
            inputs=[values[name] for name in layer.inputs],
            errors=[found[name] for name in layer.inputs],
            weights=[model.weights[name] for name in layer.parameters],
            rounding=[rounding[name] for name in layer.parameters],
            frac_bits=frac_bits,
        )
        rule = _RULES.get(layer.op)
        low, high = values[layer.name]
        error = taken.moved(layer) if rule is None else rule(layer, taken)
        # Safety of the bound: a saturating function cannot be off by more than it spans, and its own error.
        own = _own(layer.op, low.shape[-1]).at(frac_bits)
        found[layer.name] = np.minimum(error, (high - low) + 2 * own) if layer.op in _SATURATING else error
    return found


@dataclass(frozen=True, slots=True)
class _Taken:
    """What one layer takes: intervals and errors of its inputs, its weights and how far they were rounded."""

    inputs: list[Interval]
    errors: list[FloatArray]
    weights: list[FloatArray]
    rounding: list[FloatArray]
    frac_bits: int

    @property
    def truncated(self) -> float:
        return accuracy.TRUNCATION.at(self.frac_bits)

    def magnitude(self, index: int = 0) -> FloatArray:
        low, high = self.inputs[index]
        return np.maximum(np.abs(low), np.abs(high))

    def moved(self, layer: Layer) -> FloatArray:
        """Errors go where their elements go: flatten, reshape, concat, and the largest one of a window."""
        return apply_layer(layer, self.errors, self.weights)


_Rule = Callable[[Layer, _Taken], FloatArray]
_SATURATING = ("sigmoid", "tanh", "softmax")


def _own(op: str, columns: int) -> accuracy.Accuracy:
    if op == "softmax":
        return accuracy.softmax_accuracy(columns)
    return {"relu": accuracy.RELU, "sigmoid": accuracy.SIGMOID, "tanh": accuracy.TANH}.get(op, accuracy.Accuracy())


def _linear(layer: Layer, taken: _Taken) -> FloatArray:
    bare = Layer(layer.op, layer.name, layer.inputs, layer.parameters[:1], layer.ints)
    weight = np.abs(taken.weights[0]) + taken.rounding[0]
    error = apply_layer(bare, taken.errors, [weight])
    error = error + apply_layer(bare, [taken.magnitude()], [taken.rounding[0]]) + taken.truncated
    if len(taken.weights) == 1:
        return error
    bias = taken.rounding[1]
    return error + (bias if layer.op == "linear" else bias[:, None, None])


def _affine(layer: Layer, taken: _Taken) -> FloatArray:
    column = (-1,) + (1,) * (taken.errors[0].ndim - 2)
    scale, scale_off, shift_off = (
        a.reshape(column) for a in (np.abs(taken.weights[0]), taken.rounding[0], taken.rounding[1])
    )
    error: FloatArray = taken.errors[0] * (scale + scale_off) + taken.magnitude() * scale_off + shift_off
    return error + taken.truncated


def _add(layer: Layer, taken: _Taken) -> FloatArray:
    other = taken.errors[1] if len(taken.errors) == 2 else taken.rounding[0]
    return taken.errors[0] + other


def _mul(layer: Layer, taken: _Taken) -> FloatArray:
    if len(taken.errors) == 2:
        other, other_off = taken.magnitude(1), taken.errors[1]
    else:
        other, other_off = np.abs(taken.weights[0]), taken.rounding[0]
    left, left_off = taken.magnitude(), taken.errors[0]
    error: FloatArray = left_off * other + left * other_off + left_off * other_off
    return error + taken.truncated


def _relu(layer: Layer, taken: _Taken) -> FloatArray:
    return taken.errors[0] + accuracy.RELU.at(taken.frac_bits)


def _avg_pool2d(layer: Layer, taken: _Taken) -> FloatArray:
    # The factor 1 / count has 18 significant bits, those of a smaller one the unit of the largest.
    factor = 2.0**-accuracy.FACTOR_BITS
    counted = Layer(layer.op, layer.name, layer.inputs, (), (*layer.ints[:8], 1))
    window = layer.ints[0] * layer.ints[1]
    sums = apply_layer(counted, [taken.magnitude()], []) * window
    error: FloatArray = apply_layer(layer, taken.errors, []) + sums * factor
    # A sum that still has the digits of a product is truncated before the factor, and once more after it.
    return error + 2 * taken.truncated


def _sigmoid(layer: Layer, taken: _Taken) -> FloatArray:
    slope = 1.0 / (4.0 * np.cosh(np.minimum(_closest_to_zero(taken) / 2.0, 300.0)) ** 2)
    return slope * taken.errors[0] + accuracy.SIGMOID.at(taken.frac_bits)


def _tanh(layer: Layer, taken: _Taken) -> FloatArray:
    slope = 1.0 / np.cosh(np.minimum(_closest_to_zero(taken), 300.0)) ** 2
    return slope * taken.errors[0] + accuracy.TANH.at(taken.frac_bits)


def _closest_to_zero(taken: _Taken) -> FloatArray:
    """The smallest |x| of what an input can be, its error included: there both functions are steepest."""
    low, high = taken.inputs[0][0] - taken.errors[0], taken.inputs[0][1] + taken.errors[0]
    return np.where(low > 0, low, np.where(high < 0, -high, 0.0))


def _softmax(layer: Layer, taken: _Taken) -> FloatArray:
    # |ds_i| <= s_i (1 - s_i) 2 max |dx| <= max |dx| / 2
    error: FloatArray = np.broadcast_to(taken.errors[0].max(axis=-1, keepdims=True) / 2, taken.errors[0].shape)
    return error + accuracy.softmax_accuracy(error.shape[-1]).at(taken.frac_bits)


_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "linear": _linear,
        "conv2d": _linear,
        "affine": _affine,
        "add": _add,
        "mul": _mul,
        "relu": _relu,
        "avg_pool2d": _avg_pool2d,
        "sigmoid": _sigmoid,
        "tanh": _tanh,
        "softmax": _softmax,
    }
)


# ---- training

_WATCHED = "all outputs of the job become marks: the buyer learns that, and nothing else"
_REFUSED = "refused beforehand"


def training_numbers(spec: JobSpec) -> NumericPlan:
    """What can be said of a training before it runs: the data, the first gradient, and what is only watched.

    Raises: RangeExceeded, BadSpec as `check_spec`, which a job passes before this.
    """
    bits = spec.frac_bits
    unit, value_limit = 2.0**-bits, 2.0 ** (_RING_BITS - bits)
    training = spec.training
    assert training is not None
    stated = not (spec.encoding.standardise and len(row_holders(spec)) > 1)
    largest = first_gradient(spec)
    layout = Layout.of(training, bits, largest)
    digits, limit = layout.gradient_bits, watch_limit(bits, largest)
    missed = limit / 2.0 ** (63 - digits)  # of one number that wraps alone; see `watch`
    room = 2.0 ** (62 - layout.weight_bits)
    weights = min(weight_limit(bits), room)
    step = training.learning_rate / min(training.batch_rows, spec.rows) * largest
    steps = (
        NumericStep(
            "features", "encoding", input_bound(spec), value_limit, bits, unit / 2 if stated else None, 0.0, _REFUSED
        ),
        NumericStep("target", "encoding", target_bound(spec), value_limit, bits, unit / 2, 0.0, _REFUSED),
        NumericStep("first gradient", "sum over a batch", largest, 2.0 ** (62 - digits), digits, None, 0.0, _REFUSED),
        NumericStep("first step", "learning rate x gradient", step, weights, layout.weight_bits, unit, 0.0, _REFUSED),
        # Beyond its room a weight is misread: found at the end of an epoch, unless it was out and back within it.
        NumericStep("weights", "any step", None, weights, layout.weight_bits, unit, missed, _WATCHED),
        NumericStep("outputs, gradients", "any step", None, limit, digits, None, missed, _WATCHED),
    )
    return NumericPlan(bits, steps, None)

"""From shares to results: what is sealed, what the gate lets out, what the buyer makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from enclave.engines.interface import AnyArray, Engine, Permit, Secret
from enclave.errors import PolicyRefused, RangeExceeded
from enclave.messages import JobSpec
from enclave.metrics import OUT_OF_RANGE, error_limit
from enclave.workloads.encrypted import run_encrypted
from enclave.workloads.evaluate import evaluate
from enclave.workloads.inputs import Inputs
from enclave.workloads.standardise import column_units
from enclave.workloads.train import train
from enclave.workloads.trainable import TrainableNetwork
from enclave.workloads.watch import weight_limit

__all__ = ["Result", "Sealed", "finish", "opened_outputs", "release", "run"]

LOWEST_R2 = -float(1 << 20)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A finished computation that nobody has seen: `outputs` may be opened, `shared` stays with the parties."""

    outputs: Mapping[str, Secret]
    shared: Mapping[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What the buyer gets. A field is None when the output was not asked for.

    Attributes:
        accuracy: part of correct rows. auc: NaN where the rows had only one class.
        brier: mean of (probability of class 1 - true class)^2.
        mean_score: mean of the model's one output before a final sigmoid; raw units for a numeric target.
        rmse: in the target's raw units. r2: at least -2^20, which also stands for a constant target.
        confusion: int64 counts (true class, predicted class).
        predictions: float64 (rows,) or (rows, outputs), owner by owner; raw units for a numeric target.
        weights: float64 tensors by parameter name, for rows as the job's encoding gives them.
    """

    rows: int
    accuracy: float | None = None
    auc: float | None = None
    brier: float | None = None
    mean_score: float | None = None
    rmse: float | None = None
    r2: float | None = None
    confusion: NDArray[np.int64] | None = None
    predictions: NDArray[np.float64] | None = None
    weights: Mapping[str, NDArray[np.float64]] | None = None

    @property
    def figures(self) -> dict[str, float]:
        """The released figures that are one number, by name."""
        found = {
            "accuracy": self.accuracy,
            "auc": self.auc,
            "brier": self.brier,
            "rmse": self.rmse,
            "r2": self.r2,
            "mean_score": self.mean_score,
        }
        return {name: figure for name, figure in found.items() if figure is not None}


def run(engine: Engine, spec: JobSpec, inputs: Inputs) -> Sealed:
    """Computes a job up to the gate. Every step depends on `spec` alone; `inputs` is empty where only shapes are."""
    if spec.engine == "he" and not spec.has_dealer:
        return Sealed(run_encrypted(engine, spec, inputs))
    if spec.training is None:
        return Sealed(evaluate(engine, spec, inputs))
    found = train(engine, spec, inputs)
    model = found.pop("model")
    shared = {"model": model} if spec.training.deliver == "shared" else {}
    if "model" in spec.outputs and not shared:
        found["model"] = model
    return Sealed({name: found[name] for name in opened_outputs(spec)}, shared)


def opened_outputs(spec: JobSpec) -> tuple[str, ...]:
    """The outputs that the buyer sees: all that the job lists but a model that stays shared."""
    stays = spec.training is not None and spec.training.deliver == "shared"
    return tuple(name for name in spec.outputs if not (stays and name == "model"))


def release(engine: Engine, spec: JobSpec, sealed: Sealed, permit: Permit) -> dict[str, AnyArray] | None:
    """Opens every output to the buyer's rank. Raises PolicyRefused unless the permit covers them all.

    Returns: the opened arrays at the buyer, None elsewhere.
    """
    wanted = opened_outputs(spec)
    if permit.job_id != spec.job_id or not permit.outputs.issuperset(wanted):
        missing = sorted(set(wanted) - permit.outputs)
        raise PolicyRefused(f"no permit to release {missing} of job {spec.job_id}", rules=("permit.output",))
    buyer, found = len(spec.datasets), dict[str, AnyArray]()
    with engine.stage("release"):
        for name in wanted:
            value = engine.open(name, sealed.outputs[name], buyer, permit)
            if value is not None:
                found[name] = value
    return found if found or engine.rank == buyer else None


def finish(spec: JobSpec, opened: Mapping[str, AnyArray]) -> Result:
    """What the opened arrays say, computed in the clear at the buyer.

    Raises: RangeExceeded where an output says that a value left the fixed-point range, or could not be what it
        claims to be: nothing is clamped into a plausible result.
    """
    numeric = spec.encoding.target.numeric if spec.encoding.target is not None else None
    shift, scale = (numeric.shift, numeric.scale) if numeric is not None else (0.0, 1.0)
    for name, values in opened.items():
        _check_possible(spec, name, values)
    area = float(opened["auc"][0]) if "auc" in opened else None
    predictions = opened["predictions"] * scale + shift if "predictions" in opened else None
    return Result(
        rows=spec.rows,
        accuracy=int(opened["accuracy"][0]) / spec.rows if "accuracy" in opened else None,
        auc=area if area is None or area > -0.5 else math.nan,
        brier=float(opened["brier"][0]) / spec.rows if "brier" in opened else None,
        mean_score=float(opened["mean_score"][0]) / spec.rows * scale + shift if "mean_score" in opened else None,
        rmse=math.sqrt(float(opened["rmse"][0]) / spec.rows) * scale if "rmse" in opened else None,
        r2=_r2(opened["r2"]) if "r2" in opened else None,
        confusion=opened.get("confusion"),
        predictions=predictions,
        weights=_weights(spec, opened["model"]) if "model" in opened else None,
    )


def _check_possible(spec: JobSpec, name: str, values: AnyArray) -> None:
    """Raises RangeExceeded unless every opened number is one that this output can have."""
    rounding = 2.0**-16  # of a division, generously
    errors = error_limit(spec.frac_bits, spec.rows)
    lowest, highest = {
        "accuracy": (0.0, float(spec.rows)),
        "confusion": (0.0, float(spec.rows)),
        "auc": (-rounding, 1.0 + rounding),
        "brier": (-rounding * spec.rows, spec.rows * (1.0 + rounding)),
        "rmse": (0.0, spec.rows * errors**2 * (1.0 + rounding)),
        "r2": (-rounding, 1.0 + rounding),
        "model": (-weight_limit(spec.frac_bits), weight_limit(spec.frac_bits)),
    }.get(name, (-(2.0 ** (62 - spec.frac_bits)), 2.0 ** (62 - spec.frac_bits)))
    if name not in ("model", "predictions", "mean_score") and np.all(values == OUT_OF_RANGE):
        where = "output - target" if name in ("rmse", "r2") else "the training"
        raise RangeExceeded(where, math.inf, errors if name in ("rmse", "r2") else 2.0 ** (62 - 2 * spec.frac_bits))
    if name == "model" and np.any(np.abs(values) > highest):
        raise RangeExceeded("the training", math.inf, 2.0 ** (62 - 2 * spec.frac_bits))
    possible = (values >= lowest) & (values <= highest)
    if name == "auc":
        possible |= values == -1.0  # one class alone
    if not possible.all():
        raise RangeExceeded(f"the released {name}", float(values[~possible].flat[0]), highest)
    if name == "confusion" and values.sum() != spec.rows:
        raise RangeExceeded("the released confusion", float(values.sum()), float(spec.rows))


def _r2(parts: AnyArray) -> float:
    quotient, fits = float(parts[0]), parts[1] > 0.5
    if fits:
        return 1.0 - quotient
    return max(LOWEST_R2, 1.0 - 1.0 / quotient) if quotient > 0 else LOWEST_R2


def _weights(spec: JobSpec, flat: AnyArray) -> dict[str, NDArray[np.float64]]:
    network, found, start = TrainableNetwork(spec.architecture), dict[str, NDArray[np.float64]](), 0
    for name, shape in network.parameters:
        size = math.prod(shape)
        found[name] = flat[start : start + size].reshape(shape)
        start += size
    if spec.encoding.standardise:
        # The sealed model takes rows in column units; a released one takes them as the encoding gives them.
        assert network.first_linear is not None and network.first_linear.weight is not None  # check_spec
        first = network.first_linear.weight
        found[first] = found[first] * column_units(spec)[:, None]
    return found

"""Which jobs of engine "he" may have a dealer: evaluations whose layers are linear or polynomial.

Their first products are encrypted, the shares that come of them are for what follows the last layer: comparisons,
sorting, the final sigmoid of a probability. A network that compares between its layers is a job for `hybrid` or `mpc`.
"""

from __future__ import annotations

from enclave.errors import BadModel, BadSpec
from enclave.messages import Architecture, JobSpec
from enclave.models.graph import INPUT

__all__ = ["check_dealt", "check_polynomial"]

_POLYNOMIAL = ("linear", "conv2d", "affine", "add", "mul", "avg_pool2d", "flatten", "reshape", "concat")
_FINAL = ("sigmoid", "softmax")


def check_dealt(spec: JobSpec) -> None:
    """Raises BadSpec for a training, BadModel for a layer that is neither linear nor polynomial."""
    if spec.kind == "train":
        raise BadSpec(
            "a training under engine he takes no dealer",
            hint="leave the dealer out, or train under hybrid or mpc",
        )
    check_polynomial(spec.architecture)
    _check_first(spec)


def _check_first(spec: JobSpec) -> None:
    """Rows meet encrypted weights and nothing else: any other step on them would send them out under a mask."""
    rows, readers = {INPUT}, []
    for layer in spec.architecture.layers:
        if rows & {*layer.inputs}:
            if layer.op in ("flatten", "reshape"):
                rows.add(layer.name)
                continue
            readers.append(layer)
            if layer.op not in ("linear", "conv2d"):
                raise BadModel(
                    f"layer {layer.name}: engine he multiplies rows with weights first, found {layer.op}",
                    hint="hybrid or mpc would do: --engine hybrid, or --engine mpc",
                )
    folds = len(readers) == 1 and readers[0].op == "linear" and len(spec.architecture.input_shape) == 1
    if spec.encoding.standardise and len(spec.datasets) > 1 and not folds:
        raise BadModel(
            f"layer {readers[0].name}: engine he standardises rows of several parties in one first linear layer alone",
            hint="standardise beforehand, or use --engine hybrid or --engine mpc",
        )


def check_polynomial(architecture: Architecture) -> None:
    """Raises BadModel naming the first layer that is not polynomial; a final sigmoid or softmax may stand."""
    for layer in architecture.layers:
        final = layer is architecture.layers[-1] and layer.op in _FINAL and len(architecture.layers) > 1
        if layer.op not in _POLYNOMIAL and not final:
            raise BadModel(
                f"layer {layer.name}: engine he computes linear and polynomial layers, found {layer.op}",
                hint="hybrid or mpc would do: --engine hybrid, or --engine mpc",
            )

"""Jobs under homomorphic encryption. Without a dealer: `evaluation` and `training`, which know `HeEngine` alone.

With a dealer an encrypted product becomes shares and the ordinary workloads do the rest; `dealt` says for which jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from enclave.messages import JobSpec
from enclave.workloads.encrypted.dealt import check_dealt

if TYPE_CHECKING:
    from enclave.engines.interface import Engine, Secret
    from enclave.workloads.inputs import Inputs

__all__ = ["check_encrypted", "run_encrypted"]


def check_encrypted(spec: JobSpec) -> None:
    """Refuses a job of engine "he" that this engine cannot do.

    Raises:
        BadModel: naming the layer that stands in the way, and the engines that would do.
        BadSpec: an output, or a training, that needs a dealer or another engine.
    """
    if spec.has_dealer:
        check_dealt(spec)
    elif spec.kind == "evaluate":
        from enclave.workloads.encrypted import evaluation

        evaluation.check(spec)
    else:
        from enclave.workloads.encrypted import training

        training.check(spec)


def run_encrypted(engine: Engine, spec: JobSpec, inputs: Inputs) -> Mapping[str, Secret]:
    """The outputs by name of a job of engine "he" without a dealer, sealed: `engine.open` releases them."""
    if spec.kind == "evaluate":
        from enclave.workloads.encrypted import evaluation

        return evaluation.evaluate(engine, spec, inputs)
    from enclave.workloads.encrypted import training

    return training.train(engine, spec, inputs)

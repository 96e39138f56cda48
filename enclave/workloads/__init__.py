"""The jobs: the only place where data, model, engine, metric and gate meet."""

from enclave.workloads.inputs import Inputs, Rows, Weights
from enclave.workloads.outcome import Result, Sealed, finish, opened_outputs, release, run
from enclave.workloads.specification import check_spec, row_holders

__all__ = [
    "Inputs",
    "Result",
    "Rows",
    "Sealed",
    "Weights",
    "check_spec",
    "finish",
    "opened_outputs",
    "release",
    "row_holders",
    "run",
]

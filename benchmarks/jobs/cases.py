"""Which cases there are, and how each becomes a job.

Models that are evaluated are fitted here, in the clear, on the training rows, or published (`dice_adult`). Trained
ones follow a schedule that was chosen in plaintext.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.jobs.encodings import joint
from benchmarks.jobs.job import Figures, Job
from benchmarks.jobs.names import Name
from benchmarks.jobs.tables import Split, load, made_up, owners_of
from parties.buyer import Schedule

if TYPE_CHECKING:
    from enclave.models import Model

__all__ = ["LISTED", "build", "check_name"]

# Published figures: logistic regression with C = 1, an MLP of 32 by Adam, of 128-128 by Adam; the notes of dice_adult.
_REFERENCES = {
    "adult-lr": Figures(0.8530, 0.9055),
    "adult-mlp32": Figures(0.8577, 0.9101),
    "adult-dice": Figures(0.8218, 0.8814),
    "credit-lr": Figures(0.8111, 0.7145),
    "credit-mlp32": Figures(0.8189, 0.7622),
    "heart-lr": Figures(0.8080, 0.8906),
    "mnist-mlp": Figures(0.9726),
    "mnist-lenet": Figures(),
}
# Chosen so that the plain training itself is steady: its accuracy moves by less than 0.1 points (standard deviation)
# when its initial weights move by one unit of the fixed point. With twice the rate of mnist-mlp it moves by 0.3.
_LOGISTIC = Schedule("logistic", epochs=10, batch_rows=128, learning_rate=0.1, momentum=0.9)
_SCHEDULES = {
    "breast-cancer-lr": replace(_LOGISTIC, epochs=20, l2=1 / 398),
    "adult-lr": replace(_LOGISTIC, epochs=5, batch_rows=256, l2=1 / 32561),
    "adult-mlp32": Schedule("mlp", (32,), epochs=10, batch_rows=1024, learning_rate=0.05, momentum=0.9),
    "credit-lr": replace(_LOGISTIC, epochs=10, batch_rows=1024, learning_rate=0.05, l2=1 / 21000),
    "credit-mlp32": Schedule("mlp", (32,), epochs=20, batch_rows=1024, learning_rate=0.1, momentum=0.9),
    "heart-lr": replace(_LOGISTIC, epochs=20, learning_rate=0.05, l2=1 / 644),
    "digits-mlp": Schedule("mlp", (32,), epochs=15, batch_rows=64, learning_rate=0.1, momentum=0.9),
    "mnist-mlp": Schedule("mlp", (128, 128), epochs=5, batch_rows=128, learning_rate=0.04, momentum=0.9),
    "mnist-lenet": Schedule(
        "lenet", epochs=5, batch_rows=128, learning_rate=0.1, momentum=0.9, average_epochs=1
    ),  # without the mean of the last epoch a constant rate ends half a point lower
}
_OWNERS = {"heart-lr": 4}
LISTED: tuple[tuple[str, str], ...] = (
    ("evaluate/breast-cancer-lr", "logistic regression by scikit-learn, 171 test rows"),
    ("evaluate/digits-mlp", "MLP 64-32-10, 540 test rows"),
    ("evaluate/heart-lr/owners=4", "logistic regression over the test rows of four hospitals"),
    ("evaluate/adult-lr", "logistic regression, 98 inputs, 16,281 test rows"),
    ("evaluate/adult-dice", "the published MLP 29-20-1, 16,281 test rows"),
    ("evaluate/adult-mlp32", "MLP 98-32-1, 16,281 test rows"),
    ("evaluate/credit-lr", "logistic regression, 23 inputs, 9,000 test rows"),
    ("evaluate/credit-mlp32", "MLP 23-32-1, 9,000 test rows"),
    ("evaluate/mnist-mlp", "MLP 784-128-128-10, 10,000 test rows"),
    ("evaluate/rows=200000/cols=50", "a linear model over made-up rows: accuracy and AUC in bounded memory"),
    ("train/breast-cancer-lr/owners=1", "logistic regression, 398 rows"),
    ("train/breast-cancer-lr/owners=3", "the same over three owners"),
    ("train/digits-mlp/owners=1", "MLP 64-32-10, 1,257 rows"),
    ("train/heart-lr/owners=4", "logistic regression over four hospitals, 644 rows"),
    ("train/heart-lr/owners=4/joint=1", "the same, standardised under encryption"),
    ("train/adult-lr/owners=1", "logistic regression, 32,561 rows, 98 inputs"),
    ("train/adult-mlp32/owners=1", "MLP 98-32-1"),
    ("train/credit-lr/owners=1", "logistic regression, 21,000 rows, 23 inputs"),
    ("train/credit-mlp32/owners=1", "MLP 23-32-1"),
    ("train/mnist-mlp/epochs=1", "MLP 784-128-128-10, 60,000 rows"),
    ("train/mnist-mlp/epochs=5", "the same for five epochs"),
    ("train/mnist-lenet/epochs=1", "MiniONN's convolutional network, 60,000 rows"),
    ("train/mnist-lenet/epochs=5", "the same for five epochs"),
)


def check_name(name: Name) -> None:
    """Raises ValueError for a name that no job has."""
    if not name.what:
        allowed = {"rows", "cols"}
        if name.kind != "evaluate" or not allowed >= set(name.parameters) or "rows" not in name.parameters:
            raise ValueError(f"made-up rows are evaluate/rows=N/cols=N, found {name}")
        return
    known = {case.split("/")[1] for case, _ in LISTED if case.startswith(name.kind)}
    allowed = {"owners"} if name.kind == "evaluate" else {"owners", "epochs", "batch", "rows", "joint"}
    if name.what not in known or not allowed >= set(name.parameters):
        raise ValueError(f"no case {name}: see `python -m benchmarks list`")


def build(name: Name, data: Path | None) -> Job:
    """The job of a case; raises ValueError for an unknown name, Unavailable where its data are missing."""
    check_name(name)
    if not name.what:
        return _made_up(name)
    return _evaluation(name, data) if name.kind == "evaluate" else _training(name, data)


def _reference(what: str, split: Split) -> Figures:
    if what in _REFERENCES:
        return _REFERENCES[what]
    from benchmarks.jobs.models import FITTED

    # No published figure: the usual estimator, fitted on the same rows.
    model = FITTED[what](split)
    return Job("", {}, split.encoding, test=split.test).score(model)


def _training(name: Name, data: Path | None) -> Job:
    split = load(name.what.rpartition("-")[0], data)
    given = name.parameters
    schedule = _SCHEDULES[name.what]
    schedule = replace(
        schedule,
        epochs=given.get("epochs", schedule.epochs),
        batch_rows=given.get("batch", schedule.batch_rows),
    )
    if "rows" in given:
        split = replace(split, train=split.train.slice(0, given["rows"]))
    return Job(
        case=str(name),
        owners=owners_of(split, given.get("owners", _OWNERS.get(name.what, 1))),
        encoding=joint(split.encoding) if "joint" in given else split.encoding,
        schedule=schedule,
        test=split.test,
        reference=_reference(name.what, split),
    )


def _evaluation(name: Name, data: Path | None) -> Job:
    from benchmarks.jobs.models import FITTED, dice_adult

    dice = name.what == "adult-dice"
    split = load("adult-dice" if dice else name.what.rpartition("-")[0], data)
    model: Model = dice_adult(data) if dice else FITTED[name.what](split)
    count = name.parameters.get("owners", 1)
    targets = split.encoding.target
    assert targets is not None and targets.classes is not None
    return Job(
        case=str(name),
        owners=owners_of(Split(split.test, split.test, split.encoding), count),
        encoding=split.encoding,
        metrics=("accuracy", "auc") if len(targets.classes.classes) == 2 else ("accuracy",),
        model=model,
        reference=_REFERENCES.get(name.what, Figures()),
    )


def _made_up(name: Name) -> Job:
    from enclave.models import Model, dense_architecture

    table, encoding, rule = made_up(name.parameters["rows"], name.parameters.get("cols", 50))
    architecture = dense_architecture(encoding.width, (), 1)
    weight, bias = (tensor.name for tensor in architecture.parameters)
    model = Model(architecture, {weight: rule.reshape(-1, 1), bias: np.zeros(1)})
    return Job(str(name), {"owner0": table}, encoding, metrics=("accuracy", "auc"), model=model)

"""Models of a buyer: fitted in the clear on the training rows, or published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.jobs.tables import Split
from benchmarks.suite import Unavailable
from enclave.datasets import RowSource

if TYPE_CHECKING:
    from enclave.models import Model

__all__ = ["FITTED", "dice_adult"]


def _rows(split: Split) -> tuple[Any, Any]:
    rows = RowSource(split.train, split.encoding)
    return rows.features(0, rows.rows), rows.targets(0, rows.rows)


def _logistic(split: Split) -> Model:
    from sklearn.linear_model import LogisticRegression

    from enclave.models import read_model

    return read_model(LogisticRegression(C=1.0, max_iter=2000).fit(*_rows(split)))


def _perceptron(hidden: tuple[int, ...], epochs: int, batch: int) -> Callable[[Split], Model]:
    def fit(split: Split) -> Model:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the references stop at a fixed number of epochs
            network = MLPClassifier(hidden, batch_size=batch, max_iter=epochs, random_state=0).fit(*_rows(split))
        return _dense(network.coefs_, network.intercepts_)

    return fit


def _dense(weights: Any, biases: Any) -> Model:
    """A ReLU network; its last layer gives the decision or one score a class."""
    from enclave.models import Model, dense_architecture

    widths = [np.asarray(w).shape[1] for w in weights]
    architecture = dense_architecture(np.asarray(weights[0]).shape[0], widths[:-1], widths[-1])
    values = [value for pair in zip(weights, biases, strict=True) for value in pair]
    return Model(architecture, {t.name: v for t, v in zip(architecture.parameters, values, strict=True)})


def dice_adult(data: Path | None) -> Model:
    """The published MLP 29-20-1 with a sigmoid, as a torch module would bring it."""
    from torch import from_numpy, nn

    from enclave.models import read_model

    path = None if data is None else data / "models" / "dice_adult.npz"
    if path is None or not path.is_file():
        raise Unavailable("needs models/dice_adult.npz in the folder of data sets: set ENCLAVE_DATA or --data")
    network = nn.Sequential(nn.Linear(29, 20), nn.ReLU(), nn.Linear(20, 1), nn.Sigmoid())
    with np.load(path) as arrays:
        network.load_state_dict({name: from_numpy(arrays[name]) for name in arrays.files})
    return read_model(network)


FITTED: Mapping[str, Callable[[Split], Model]] = MappingProxyType(
    {
        "breast-cancer-lr": _logistic,
        "heart-lr": _logistic,
        "adult-lr": _logistic,
        "credit-lr": _logistic,
        "adult-mlp32": _perceptron((32,), 20, 200),
        "credit-mlp32": _perceptron((32,), 20, 200),
        "digits-mlp": _perceptron((32,), 100, 64),
        "mnist-mlp": _perceptron((128, 128), 5, 128),
    }
)

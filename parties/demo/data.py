"""The demonstration's data: scikit-learn's breast-cancer set, cut into three clinics and the buyer's own few rows.

Rows are dealt round the parties in the order of a fixed public shuffle, so that a run can be repeated to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OWNERS", "TARGET", "FloatArray", "IntArray", "Split", "load_split", "write_encoding", "write_owner"]

OWNERS = ("north", "south", "west")
TARGET = "diagnosis"
CLASSES = ("malignant", "benign")  # scikit-learn's classes 0 and 1
_BUYER_ROWS = 69
_SEED = 7

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Features float64 (rows, 30) and classes int64 (rows,) of the buyer and of each owner."""

    columns: tuple[str, ...]
    buyer: tuple[FloatArray, IntArray]
    owners: dict[str, tuple[FloatArray, IntArray]]

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """What each column may lie in, as the description of the data set says: 0 to a bit above the largest."""
        every = np.concatenate([self.buyer[0], *(features for features, _ in self.owners.values())])
        return [(0.0, float(f"{1.05 * top:.2g}")) for top in every.max(axis=0)]


def load_split() -> Split:
    """The 569 rows: 69 with the buyer, 500 with the owners."""
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer()
    order = np.random.default_rng(_SEED).permutation(len(bunch.target))
    features, classes = bunch.data[order].astype(np.float64), bunch.target[order].astype(np.int64)
    columns = tuple(str(name).replace(" ", "_") for name in bunch.feature_names)
    rest, truth = features[_BUYER_ROWS:], classes[_BUYER_ROWS:]
    owners = {name: (rest[i :: len(OWNERS)], truth[i :: len(OWNERS)]) for i, name in enumerate(OWNERS)}
    return Split(columns, (features[:_BUYER_ROWS], classes[:_BUYER_ROWS]), owners)


def write_owner(folder: Path, name: str, split: Split, buyer: str) -> Path:
    """Writes an owner's Parquet file and its description with a policy; returns the description's path."""
    from enclave.datasets.export import write_parquet

    folder.mkdir(parents=True, exist_ok=True)
    features, classes = split.owners[name]
    columns: dict[str, Any] = {column: features[:, i] for i, column in enumerate(split.columns)}
    columns[TARGET] = [CLASSES[c] for c in classes]
    write_parquet(folder / "biopsies.parquet", columns)
    lines = [
        "[dataset]",
        'name = "biopsies"',
        'path = "biopsies.parquet"',
        f'description = "Fine needle aspirates, clinic {name}"',
        "",
        "[policy]",
        f'buyers = ["{buyer}"]',
        'kinds = ["evaluate", "train"]',
        'outputs = ["accuracy", "confusion", "auc", "mean_score", "model"]',
        'engines = ["mpc", "hybrid", "he"]',
        "minimum_rows = 100",
        'approval = "automatic"',
        "",
        f"[columns.{TARGET}]",
        f"values = {_toml_list(CLASSES)}",
    ]
    for column, (low, high) in zip(split.columns, split.ranges, strict=True):
        lines += [f"[columns.{column}]", f"low = {low}", f"high = {high}"]
    path = folder / "biopsies.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_encoding(path: Path, split: Split) -> Path:
    """Writes the buyer's encoding: every column centred and scaled by constants from the buyer's own rows."""
    features = split.buyer[0]
    means, deviations = features.mean(axis=0), features.std(axis=0)
    lines: list[str] = []
    for i, (column, (low, high)) in enumerate(zip(split.columns, split.ranges, strict=True)):
        lines += [
            "[[features]]",
            f'column = "{column}"',
            f"shift = {_short(means[i])}",
            f"scale = {_short(deviations[i])}",
            f"low = {low}",
            f"high = {high}",
            "",
        ]
    lines += ["[target]", f'column = "{TARGET}"', f"classes = {_toml_list(CLASSES)}", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _short(value: float) -> str:
    return f"{value:.4g}" if "e" not in f"{value:.4g}" else f"{value:.8f}"


def _toml_list(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"

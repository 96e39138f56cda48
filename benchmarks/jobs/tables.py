"""The data sets: columns as they are published, split as the plaintext references split them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs.encodings import classes, fitted
from benchmarks.suite import Unavailable
from enclave.messages import Category, Encoding, Feature, NumericFeature, OneHotFeature, Target

__all__ = ["Split", "load", "made_up", "owners_of"]

_CREDIT_AMOUNTS = [f"{kind}_AMT{i}" for kind in ("BILL", "PAY") for i in range(1, 7)]
_CREDIT_GUEST = ["PAY_6", *_CREDIT_AMOUNTS]
_CREDIT_HOST = ["LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE", "PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5"]


@dataclass(frozen=True, slots=True)
class Split:
    """Training and test rows (pyarrow tables) with their encoding. `sites` names an owner per training row."""

    train: Any
    test: Any
    encoding: Encoding
    sites: Any | None = None


def load(name: str, data: Path | None) -> Split:
    """A data set by name; raises Unavailable when its files are not here, ValueError for an unknown name."""
    loaders = {
        "breast-cancer": _breast_cancer,
        "digits": _digits,
        "adult": _adult,
        "adult-dice": _adult_dice,
        "credit": _credit,
        "heart": _heart,
        "mnist": _mnist,
    }
    if name not in loaders:
        raise ValueError(f"no data set {name!r}: expected {', '.join(sorted(loaders))}")
    return loaders[name](data)


def owners_of(split: Split, count: int) -> dict[str, Any]:
    """The training rows cut into owners: by site where the data have sites, else every count-th row."""
    import pyarrow as pa

    if split.sites is not None:
        names = sorted(set(split.sites))
        if len(names) != count:
            raise ValueError(f"these rows belong to {len(names)} owners, found owners={count}")
        return {name: split.train.take(pa.array(np.flatnonzero(split.sites == name))) for name in names}
    rows = split.train.num_rows
    return {f"owner{i}": split.train.take(pa.array(np.arange(i, rows, count))) for i in range(count)}


def _file(data: Path | None, *parts: str) -> Path:
    if data is None:
        raise Unavailable("needs the folder of data sets: set ENCLAVE_DATA or --data")
    path = data.joinpath(*parts)
    if not path.is_file():
        raise Unavailable(f"needs {path}")
    return path


def _parquet(data: Path | None, *parts: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(_file(data, *parts))


def _seventy_thirty(classes_: Any) -> tuple[Any, Any]:
    """Row indices of the stratified split of the references."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(classes_)), test_size=0.3, random_state=0, stratify=classes_)
    return train, test


def _split(table: Any, target: Target, columns: list[str], sites: Any | None = None) -> Split:
    import pyarrow as pa

    assert target.classes is not None
    raw = [str(value) for value in table.column(target.column).to_pylist()]
    order = {value: i for i, group in enumerate(target.classes.classes) for value in group.values}
    train, test = _seventy_thirty(np.array([order[value] for value in raw]))
    return Split(
        table.take(pa.array(train)),
        table.take(pa.array(test)),
        fitted(table, train, target, columns),
        None if sites is None else sites[train],
    )


def _breast_cancer(data: Path | None) -> Split:
    import pyarrow as pa
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in bunch.feature_names]
    table = pa.table({**{n: bunch.data[:, i] for i, n in enumerate(names)}, "benign": bunch.target})
    return _split(table, classes("benign", "0", "1"), names)


def _digits(data: Path | None) -> Split:
    import pyarrow as pa
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    table = pa.table({"pixels": _lists(bunch.data), "digit": bunch.target})
    train, test = _seventy_thirty(bunch.target)
    pixels = Feature("pixels", NumericFeature(scale=16.0, low=0.0, high=16.0, width=64))
    encoding = Encoding((pixels,), classes("digit", *map(str, range(10))))
    return Split(table.take(pa.array(train)), table.take(pa.array(test)), encoding)


def _adult(data: Path | None) -> Split:
    import pyarrow as pa

    train, test = (_parquet(data, "adult", f"adult_{part}.parquet") for part in ("train", "test"))
    names = [name for name in train.schema.names if name != "income"]
    both = pa.concat_tables([train, test])
    encoding = fitted(both, np.arange(train.num_rows), classes("income", "<=50K", ">50K"), names)
    return Split(train, test, encoding)


def _adult_dice(data: Path | None) -> Split:
    """Adult in the encoding that the published model `dice_adult` was made for."""
    train, test = (_parquet(data, "adult", f"adult_{part}.parquet") for part in ("train", "test"))
    numbers = (
        Feature("age", NumericFeature(17.0, 73.0, 17.0, 90.0)),
        Feature("hours_per_week", NumericFeature(1.0, 98.0, 1.0, 99.0)),
    )
    text = tuple(
        Feature(column, one_hot=OneHotFeature(tuple(_category(group) for group in groups.split(";"))))
        for column, groups in _DICE.items()
    )
    return Split(train, test, Encoding((*numbers, *text), classes("income", "<=50K", ">50K")))


def _category(group: str) -> Category:
    """`a,b`: these values; `?` among them: missing; `*`: all others."""
    values = group.split(",")
    named = tuple(value for value in values if value not in ("?", "*"))
    return Category(named, missing="?" in values, other="*" in values)


_DICE = {
    "workclass": "Federal-gov,State-gov,Local-gov;?,Without-pay,Never-worked;Private;Self-emp-inc,Self-emp-not-inc",
    "education": "Assoc-voc,Assoc-acdm;Bachelors;Doctorate;HS-grad;Masters;Prof-school;"
    "Preschool,1st-4th,5th-6th,7th-8th,9th,10th,11th,12th;Some-college",
    "marital_status": "Divorced;Married-civ-spouse,Married-AF-spouse,Married-spouse-absent;Separated;"
    "Never-married;Widowed",
    "occupation": "Craft-repair,Farming-fishing,Handlers-cleaners,Machine-op-inspct,Transport-moving;?,Armed-Forces;"
    "Prof-specialty;Sales;Other-service,Priv-house-serv,Protective-serv,Tech-support;Adm-clerical,Exec-managerial",
    "race": "*;White",
    "sex": "Female;Male",
}


def _credit(data: Path | None) -> Split:
    table = _parquet(data, "credit_default_tw", "credit_default.parquet")
    return _split(table, classes("default.payment.next.month", "0", "1"), _CREDIT_GUEST + _CREDIT_HOST)


def _heart(data: Path | None) -> Split:
    table = _parquet(data, "heart_disease_4sites", "heart_disease.parquet")
    names = [name for name in table.schema.names if name not in ("num", "hospital")]
    target = Target("num", classes=_sick())
    return _split(table, target, names, np.array(table.column("hospital").to_pylist()))


def _sick() -> Any:
    from enclave.messages import ClassTarget

    return ClassTarget((Category(("0",)), Category(("1", "2", "3", "4"))))


def _mnist(data: Path | None) -> Split:
    import pyarrow as pa

    with np.load(_file(data, "mnist", "mnist.npz")) as arrays:
        train, test = (
            pa.table({"pixels": _lists(arrays[f"x_{part}"].reshape(-1, 784)), "digit": arrays[f"y_{part}"]})
            for part in ("train", "test")
        )
    pixels = Feature("pixels", NumericFeature(scale=255.0, low=0.0, high=255.0, width=784))
    return Split(train, test, Encoding((pixels,), classes("digit", *map(str, range(10)))))


def _lists(values: Any) -> Any:
    """A fixed-size list per row."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def made_up(rows: int, columns: int) -> tuple[Any, Encoding, Any]:
    """Rows in [-8, 8] with a linear rule and noise, their encoding, and the rule's weights (columns,)."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    rule = rng.standard_normal(columns) / np.sqrt(columns)
    values = np.clip(rng.standard_normal((rows, columns)), -8, 8)
    truth = (values @ rule + 0.5 * rng.standard_normal(rows) > 0).astype(np.int64)
    names = [f"c{i}" for i in range(columns)]
    table = pa.table({**{name: values[:, i] for i, name in enumerate(names)}, "y": truth})
    numeric = NumericFeature(low=-8.0, high=8.0)
    return table, Encoding(tuple(Feature(n, numeric) for n in names), classes("y", "0", "1")), rule

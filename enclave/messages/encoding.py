"""How rows become numbers: public, the same at every owner."""

from __future__ import annotations

from dataclasses import dataclass

from enclave.messages.codec import Value, check
from enclave.wire import job_pb2

__all__ = ["Category", "ClassTarget", "Encoding", "Feature", "NumericFeature", "OneHotFeature", "Target"]


@dataclass(frozen=True, slots=True)
class Category(Value):
    """Raw values behind one indicator or class."""

    wire = job_pb2.Category
    values: tuple[str, ...] = ()
    missing: bool = False
    other: bool = False


@dataclass(frozen=True, slots=True)
class NumericFeature(Value):
    """encoded = (value - shift) / scale, for raw values declared to lie in [low, high]."""

    wire = job_pb2.NumericFeature
    shift: float = 0.0
    scale: float = 1.0
    low: float = -1e6
    high: float = 1e6
    fill: float | None = None
    clip: bool = False
    width: int = 1

    def __post_init__(self) -> None:
        numbers = (self.shift, self.scale, self.low, self.high, self.fill or 0.0)
        check(all(abs(x) < 1e18 for x in numbers), "encoding constants must be finite")
        check(self.scale > 0, f"scale must be positive, found {self.scale}")
        check(self.low < self.high, f"declared range is empty: [{self.low}, {self.high}]")
        check(self.fill is None or self.low <= self.fill <= self.high, "fill lies outside the declared range")
        check(0 <= self.width <= 1 << 20, f"width out of range: {self.width}")


@dataclass(frozen=True, slots=True)
class OneHotFeature(Value):
    """One indicator per category, in order; a value that no category takes encodes as zeros."""

    wire = job_pb2.OneHotFeature
    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        _check_categories(self.categories)


def _check_categories(categories: tuple[Category, ...]) -> None:
    named = [v for c in categories for v in c.values]
    check(0 < len(categories) <= 4096, f"between 1 and 4096 categories, found {len(categories)}")
    check(len(named) == len(set(named)), "a value stands in two categories")
    check(sum(c.missing for c in categories) <= 1, "two categories take missing values")
    check(sum(c.other for c in categories) <= 1, "two categories take other values")


@dataclass(frozen=True, slots=True)
class Feature(Value):
    """One column of the data set and its public encoding: exactly one of the two."""

    wire = job_pb2.Feature
    column: str
    numeric: NumericFeature | None = None
    one_hot: OneHotFeature | None = None

    def __post_init__(self) -> None:
        check((self.numeric is None) != (self.one_hot is None), f"feature {self.column} needs exactly one encoding")

    @property
    def width(self) -> int:
        """Encoded columns that this feature yields."""
        if self.numeric is not None:
            return max(1, self.numeric.width)
        assert self.one_hot is not None
        return len(self.one_hot.categories)


@dataclass(frozen=True, slots=True)
class ClassTarget(Value):
    """Class i holds the raw values of group i."""

    wire = job_pb2.ClassTarget
    classes: tuple[Category, ...]

    def __post_init__(self) -> None:
        _check_categories(self.classes)
        check(2 <= len(self.classes) <= 1024, f"between 2 and 1024 classes, found {len(self.classes)}")


@dataclass(frozen=True, slots=True)
class Target(Value):
    """What is to be predicted: a number or a class."""

    wire = job_pb2.Target
    column: str
    numeric: NumericFeature | None = None
    classes: ClassTarget | None = None

    def __post_init__(self) -> None:
        check((self.numeric is None) != (self.classes is None), f"target {self.column} needs exactly one kind")


@dataclass(frozen=True, slots=True)
class Encoding(Value):
    """How every owner turns its own rows into numbers: public, the same for all."""

    wire = job_pb2.Encoding
    features: tuple[Feature, ...]
    target: Target | None = None
    standardise: bool = False

    def __post_init__(self) -> None:
        columns = [f.column for f in self.features]
        check(len(columns) > 0, "an encoding needs at least one feature")
        check(len(columns) == len(set(columns)), "a column is encoded twice")
        check(self.target is None or self.target.column not in columns, "the target is also a feature")

    @property
    def width(self) -> int:
        """Encoded columns of one row."""
        return sum(f.width for f in self.features)

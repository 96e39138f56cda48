"""Names of cases: KIND/WHAT, then parameters, e.g. train/heart-lr/owners=4 or evaluate/rows=200000/cols=50."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Name"]


@dataclass(frozen=True, slots=True)
class Name:
    """A parsed name. `what` is empty for rows that are made up."""

    kind: str
    what: str = ""
    parameters: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Name:
        """Raises ValueError saying what is wrong."""
        kind, *parts = text.split("/")
        if kind not in ("evaluate", "train"):
            raise ValueError(f"a case starts with evaluate/ or train/, found {text!r}")
        what = parts.pop(0) if parts and "=" not in parts[0] else ""
        parameters: dict[str, int] = {}
        for part in parts:
            key, sign, value = part.partition("=")
            if not sign or not value.isdecimal() or int(value) < 1 or key in parameters:
                raise ValueError(f"expected KEY=NUMBER once each, found {part!r} in {text!r}")
            parameters[key] = int(value)
        return cls(kind, what, parameters)

    def __str__(self) -> str:
        parts = [self.kind, *([self.what] if self.what else []), *(f"{k}={v}" for k, v in self.parameters.items())]
        return "/".join(parts)

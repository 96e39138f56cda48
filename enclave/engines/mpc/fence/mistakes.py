"""Errors that are also of the built-in type that CrypTen raises, so that a program which catches it keeps working."""

from __future__ import annotations

from enclave.errors import BadModel, BadSpec, Unsupported

__all__ = ["BadArgument", "BadShape", "BadState", "BadType", "BadValue", "NoTruthValue"]


class BadArgument(BadSpec, AssertionError):
    """What CrypTen asserts of an argument does not hold."""


class BadShape(BadSpec, RuntimeError):
    """Shapes, or states of an object, that do not fit each other."""


class BadState(BadModel, AssertionError):
    """Parameters that do not fit the module that they are loaded into."""


class BadType(BadSpec, TypeError):
    """An argument of a type that has no meaning here."""


class BadValue(BadSpec, ValueError):
    """An argument that is not one of the values there are."""


class NoTruthValue(Unsupported, RuntimeError):
    """Control flow that would depend on a secret."""

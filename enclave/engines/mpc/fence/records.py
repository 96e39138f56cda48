"""Frozen dataclasses of a closed list to typed records and back.

A tape entry is a dataclass of numbers, shapes, element types, named functions, and other such dataclasses. Its record
has the number of its kind and its fields in order. Types are those of the class's annotations, and only values that
have them come back: no name that a party sends is ever looked up.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enclave.engines.mpc.protocols.harmonics import Series
from enclave.errors import BadSpec
from enclave.messages import check
from enclave.wire import tape_pb2 as wire

__all__ = ["MAX_NUMBER", "Catalogue"]

MAX_NUMBER = 1 << 40  # of elements, streams, lengths; real limits are the dealer's
_MAX_ITEMS, _MAX_DEPTH = 4096, 8
_WIDTHS = {wire.TAPE_WIDTH_U1: "u1", wire.TAPE_WIDTH_U2: "u2", wire.TAPE_WIDTH_U4: "u4", wire.TAPE_WIDTH_U8: "u8"}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The kinds that may travel.

    Attributes:
        kinds: number -> class.
        functions: number -> public function that a field may name.
        operations: classes that a field of a union of operations may hold.
    """

    kinds: Mapping[int, type]
    functions: Mapping[int, Series]
    operations: tuple[type, ...]

    def to_wire(self, value: Any) -> Any:
        """The record of a value; BadSpec when its kind is not one that travels."""
        found = [number for number, kind in self.kinds.items() if type(value) is kind]
        check(bool(found), f"{type(value).__name__} has no form on the wire")
        record = wire.TapeRecord(kind=typing.cast(Any, found[0]))
        for field in dataclasses.fields(value):
            record.fields.append(self._field(getattr(value, field.name)))
        return record

    def _field(self, value: Any) -> Any:
        if value is None:
            return wire.TapeField(nothing=wire.TapeNothing())
        if isinstance(value, bool):
            return wire.TapeField(flag=value)
        if isinstance(value, int):
            check(0 <= value <= MAX_NUMBER, f"{value} has no form on the wire")
            return wire.TapeField(number=value)
        if isinstance(value, str):
            widths = [number for number, width in _WIDTHS.items() if width == value]
            check(bool(widths), f"{value!r} is no element type")
            return wire.TapeField(width=typing.cast(Any, widths[0]))
        if isinstance(value, tuple):
            return wire.TapeField(list=wire.TapeList(items=[self._field(item) for item in value]))
        if isinstance(value, Series):
            functions = [number for number, function in self.functions.items() if function == value]
            check(bool(functions), f"the function {value.name} has no number on the wire")
            return wire.TapeField(function=typing.cast(Any, functions[0]))
        return wire.TapeField(record=self.to_wire(value))

    def from_wire(self, record: Any, allowed: tuple[type, ...], depth: int = 0) -> Any:
        """The value of a record whose kind is one of `allowed`; BadSpec for anything else."""
        kind = self.kinds.get(record.kind)
        check(kind is not None and kind in allowed and depth < _MAX_DEPTH, f"a record of kind {record.kind} here")
        assert kind is not None
        hints, fields = _hints(kind), dataclasses.fields(typing.cast(Any, kind))
        check(len(record.fields) == len(fields), f"a record of kind {record.kind} with {len(record.fields)} fields")
        values = [
            self._value(item, hints[field.name], depth) for item, field in zip(record.fields, fields, strict=True)
        ]
        return kind(*values)

    def _value(self, item: Any, hint: Any, depth: int) -> Any:
        which = item.WhichOneof("value")
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            if which == "nothing":
                check(type(None) in args, "a field is missing")
                return None
            args = tuple(arg for arg in args if arg is not type(None))
            if which == "record":
                wanted = self.operations if set(args) & set(self.operations) else args
                return self.from_wire(item.record, wanted, depth + 1)
            check(len(args) == 1, "a field of another type")
            return self._value(item, args[0], depth)
        if hint is bool and which == "flag":
            return bool(item.flag)
        if hint is int and which == "number":
            check(item.number <= MAX_NUMBER, f"{item.number} is too large")
            return int(item.number)
        if hint is str and which == "width":
            check(item.width in _WIDTHS, "an unknown element type")
            return _WIDTHS[item.width]
        if hint is Series and which == "function":
            check(item.function in self.functions, f"tape function {item.function} is unknown")
            return self.functions[item.function]
        if origin is tuple and which == "list":
            return self._items(item.list.items, args, depth)
        if isinstance(hint, type) and which == "record":
            return self.from_wire(item.record, (hint,), depth + 1)
        raise BadSpec(f"a field of another type: expected {hint}, found {which}")

    def _items(self, items: Any, args: tuple[Any, ...], depth: int) -> tuple[Any, ...]:
        if len(args) == 2 and args[1] is Ellipsis:
            check(len(items) <= _MAX_ITEMS, f"a list of {len(items)} items")
            args = (args[0],) * len(items)
        check(len(items) == len(args), f"a list of {len(items)} items, expected {len(args)}")
        return tuple(self._value(item, hint, depth) for item, hint in zip(items, args, strict=True))


@functools.cache  # resolving them costs a hundred times what parsing a record does
def _hints(cls: typing.Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls)

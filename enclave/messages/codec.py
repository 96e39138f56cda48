"""Values to protobuf and back."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import types
import typing
from typing import Any, ClassVar, TypeVar

from google.protobuf.message import DecodeError, Message

from enclave.errors import BadSpec

__all__ = ["MAX_SPEC_BYTES", "Value", "check", "is_name", "sha256"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MAX_SPEC_BYTES = 1 << 20
T = TypeVar("T", bound="Value")


def sha256(*parts: bytes) -> bytes:
    """SHA-256 over length-prefixed parts, so that no two different lists collide."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()


def check(condition: bool, text: str) -> None:
    """Raises BadSpec with `text` unless `condition` holds."""
    if not condition:
        raise BadSpec(text)


def is_name(text: str) -> bool:
    """Whether `text` can name a party, a data set or a file: letters, digits, `_.-`, at most 64, no leading sign."""
    return bool(_NAME.fullmatch(text))


class Value:
    """Base of all wire values: a frozen dataclass whose `wire` names the protobuf message of the same shape."""

    wire: ClassVar[type[Message]]

    def encode(self) -> bytes:
        """The value's protobuf bytes."""
        return _to_wire(self).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls: type[T], data: bytes, *, limit_bytes: int = MAX_SPEC_BYTES) -> T:
        """Parses and validates `data`; raises BadSpec when it is too long, malformed or inconsistent."""
        if len(data) > limit_bytes:
            raise BadSpec(f"{cls.__name__} too long: at most {limit_bytes} bytes, found {len(data)}")
        message = cls.wire()
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise BadSpec(f"malformed {cls.__name__}") from error
        return cls.from_message(message)

    def to_message(self) -> Any:
        """The protobuf message of this value."""
        return _to_wire(self)

    @classmethod
    def from_message(cls: type[T], message: Message) -> T:
        """The validated value of a protobuf message."""
        return typing.cast(T, _from_wire(cls, message))


def _to_wire(value: Value) -> Message:
    message = value.wire()
    for field in dataclasses.fields(typing.cast(Any, value)):
        item = getattr(value, field.name)
        if item is None:
            continue
        if isinstance(item, Value):
            getattr(message, field.name).CopyFrom(_to_wire(item))
        elif isinstance(item, tuple):
            target = getattr(message, field.name)
            target.extend(_to_wire(x) if isinstance(x, Value) else x for x in item)
        else:
            setattr(message, field.name, item)
    return message


def _from_wire(cls: type[Value], message: Message) -> Value:
    hints = _hints(typing.cast(typing.Hashable, cls))
    found: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        hint, item = hints[field.name], getattr(message, field.name)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is tuple:
            inner = args[0]
            nested = isinstance(inner, type) and issubclass(inner, Value)
            found[field.name] = tuple(_from_wire(inner, x) if nested else x for x in item)
        elif origin is types.UnionType:
            inner = next(a for a in args if a is not type(None))
            if not message.HasField(field.name):
                found[field.name] = None
            elif isinstance(inner, type) and issubclass(inner, Value):
                found[field.name] = _from_wire(inner, item)
            else:
                found[field.name] = item
        elif isinstance(hint, type) and issubclass(hint, Value):
            found[field.name] = _from_wire(hint, item)
        else:
            found[field.name] = item
    return cls(**found)


@functools.cache  # resolving them costs a hundred times what parsing a message does
def _hints(cls: typing.Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls)

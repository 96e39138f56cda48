from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Card(_message.Message):
    __slots__ = ("name", "role", "address", "signing_key", "certificates", "issued_unix_s", "organisation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    ISSUED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    ORGANISATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    address: str
    signing_key: bytes
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    issued_unix_s: int
    organisation: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., address: _Optional[str] = ..., signing_key: _Optional[bytes] = ..., certificates: _Optional[_Iterable[bytes]] = ..., issued_unix_s: _Optional[int] = ..., organisation: _Optional[str] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TapeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAPE_KIND_UNSPECIFIED: _ClassVar[TapeKind]
    TAPE_KIND_PRODUCT: _ClassVar[TapeKind]
    TAPE_KIND_TRUNCATION: _ClassVar[TapeKind]
    TAPE_KIND_COMPARISON: _ClassVar[TapeKind]
    TAPE_KIND_RELU: _ClassVar[TapeKind]
    TAPE_KIND_GATE: _ClassVar[TapeKind]
    TAPE_KIND_SERIES: _ClassVar[TapeKind]
    TAPE_KIND_GATED: _ClassVar[TapeKind]
    TAPE_KIND_ONE_HOT: _ClassVar[TapeKind]
    TAPE_KIND_BITS: _ClassVar[TapeKind]
    TAPE_KIND_AND: _ClassVar[TapeKind]
    TAPE_KIND_SATURATING: _ClassVar[TapeKind]
    TAPE_KIND_PAIRS: _ClassVar[TapeKind]
    TAPE_KIND_SOFTMAX: _ClassVar[TapeKind]
    TAPE_KIND_EXPONENTIAL: _ClassVar[TapeKind]
    TAPE_KIND_BRACKETED: _ClassVar[TapeKind]
    TAPE_KIND_MASK: _ClassVar[TapeKind]
    TAPE_KIND_SEGMENT: _ClassVar[TapeKind]
    TAPE_KIND_FLIPS: _ClassVar[TapeKind]
    TAPE_KIND_TREE: _ClassVar[TapeKind]
    TAPE_KIND_GATING: _ClassVar[TapeKind]
    TAPE_KIND_MUL: _ClassVar[TapeKind]
    TAPE_KIND_MATMUL: _ClassVar[TapeKind]
    TAPE_KIND_CONV2D: _ClassVar[TapeKind]
    TAPE_KIND_BATCH_MATMUL: _ClassVar[TapeKind]
    TAPE_KIND_CONVOLUTION: _ClassVar[TapeKind]

class TapeWidth(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAPE_WIDTH_UNSPECIFIED: _ClassVar[TapeWidth]
    TAPE_WIDTH_U1: _ClassVar[TapeWidth]
    TAPE_WIDTH_U2: _ClassVar[TapeWidth]
    TAPE_WIDTH_U4: _ClassVar[TapeWidth]
    TAPE_WIDTH_U8: _ClassVar[TapeWidth]

class TapeFunction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAPE_FUNCTION_UNSPECIFIED: _ClassVar[TapeFunction]
    TAPE_FUNCTION_SIGMOID: _ClassVar[TapeFunction]
    TAPE_FUNCTION_RECIPROCAL: _ClassVar[TapeFunction]
    TAPE_FUNCTION_RSQRT: _ClassVar[TapeFunction]
    TAPE_FUNCTION_LOG: _ClassVar[TapeFunction]
    TAPE_FUNCTION_SINE: _ClassVar[TapeFunction]
    TAPE_FUNCTION_COSINE: _ClassVar[TapeFunction]
    TAPE_FUNCTION_ERF: _ClassVar[TapeFunction]
    TAPE_FUNCTION_TANH: _ClassVar[TapeFunction]
    TAPE_FUNCTION_GELU: _ClassVar[TapeFunction]
    TAPE_FUNCTION_BRACKETED_RECIPROCAL: _ClassVar[TapeFunction]
    TAPE_FUNCTION_BRACKETED_INVERSE_ROOT: _ClassVar[TapeFunction]
    TAPE_FUNCTION_BRACKETED_LOGARITHM: _ClassVar[TapeFunction]
TAPE_KIND_UNSPECIFIED: TapeKind
TAPE_KIND_PRODUCT: TapeKind
TAPE_KIND_TRUNCATION: TapeKind
TAPE_KIND_COMPARISON: TapeKind
TAPE_KIND_RELU: TapeKind
TAPE_KIND_GATE: TapeKind
TAPE_KIND_SERIES: TapeKind
TAPE_KIND_GATED: TapeKind
TAPE_KIND_ONE_HOT: TapeKind
TAPE_KIND_BITS: TapeKind
TAPE_KIND_AND: TapeKind
TAPE_KIND_SATURATING: TapeKind
TAPE_KIND_PAIRS: TapeKind
TAPE_KIND_SOFTMAX: TapeKind
TAPE_KIND_EXPONENTIAL: TapeKind
TAPE_KIND_BRACKETED: TapeKind
TAPE_KIND_MASK: TapeKind
TAPE_KIND_SEGMENT: TapeKind
TAPE_KIND_FLIPS: TapeKind
TAPE_KIND_TREE: TapeKind
TAPE_KIND_GATING: TapeKind
TAPE_KIND_MUL: TapeKind
TAPE_KIND_MATMUL: TapeKind
TAPE_KIND_CONV2D: TapeKind
TAPE_KIND_BATCH_MATMUL: TapeKind
TAPE_KIND_CONVOLUTION: TapeKind
TAPE_WIDTH_UNSPECIFIED: TapeWidth
TAPE_WIDTH_U1: TapeWidth
TAPE_WIDTH_U2: TapeWidth
TAPE_WIDTH_U4: TapeWidth
TAPE_WIDTH_U8: TapeWidth
TAPE_FUNCTION_UNSPECIFIED: TapeFunction
TAPE_FUNCTION_SIGMOID: TapeFunction
TAPE_FUNCTION_RECIPROCAL: TapeFunction
TAPE_FUNCTION_RSQRT: TapeFunction
TAPE_FUNCTION_LOG: TapeFunction
TAPE_FUNCTION_SINE: TapeFunction
TAPE_FUNCTION_COSINE: TapeFunction
TAPE_FUNCTION_ERF: TapeFunction
TAPE_FUNCTION_TANH: TapeFunction
TAPE_FUNCTION_GELU: TapeFunction
TAPE_FUNCTION_BRACKETED_RECIPROCAL: TapeFunction
TAPE_FUNCTION_BRACKETED_INVERSE_ROOT: TapeFunction
TAPE_FUNCTION_BRACKETED_LOGARITHM: TapeFunction

class TapeEntry(_message.Message):
    __slots__ = ("stream", "entry")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    stream: int
    entry: TapeRecord
    def __init__(self, stream: _Optional[int] = ..., entry: _Optional[_Union[TapeRecord, _Mapping]] = ...) -> None: ...

class TapeRecord(_message.Message):
    __slots__ = ("kind", "fields")
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    kind: TapeKind
    fields: _containers.RepeatedCompositeFieldContainer[TapeField]
    def __init__(self, kind: _Optional[_Union[TapeKind, str]] = ..., fields: _Optional[_Iterable[_Union[TapeField, _Mapping]]] = ...) -> None: ...

class TapeField(_message.Message):
    __slots__ = ("number", "flag", "width", "function", "record", "list", "nothing")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    NOTHING_FIELD_NUMBER: _ClassVar[int]
    number: int
    flag: bool
    width: TapeWidth
    function: TapeFunction
    record: TapeRecord
    list: TapeList
    nothing: TapeNothing
    def __init__(self, number: _Optional[int] = ..., flag: _Optional[bool] = ..., width: _Optional[_Union[TapeWidth, str]] = ..., function: _Optional[_Union[TapeFunction, str]] = ..., record: _Optional[_Union[TapeRecord, _Mapping]] = ..., list: _Optional[_Union[TapeList, _Mapping]] = ..., nothing: _Optional[_Union[TapeNothing, _Mapping]] = ...) -> None: ...

class TapeList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TapeField]
    def __init__(self, items: _Optional[_Iterable[_Union[TapeField, _Mapping]]] = ...) -> None: ...

class TapeNothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TapeFunction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAPE_FUNCTION_UNSPECIFIED: _ClassVar[TapeFunction]
    TAPE_FUNCTION_EXP: _ClassVar[TapeFunction]
    TAPE_FUNCTION_SIGMOID: _ClassVar[TapeFunction]
    TAPE_FUNCTION_RECIPROCAL: _ClassVar[TapeFunction]
    TAPE_FUNCTION_RSQRT: _ClassVar[TapeFunction]
    TAPE_FUNCTION_LOG: _ClassVar[TapeFunction]
    TAPE_FUNCTION_SINE: _ClassVar[TapeFunction]
    TAPE_FUNCTION_COSINE: _ClassVar[TapeFunction]
    TAPE_FUNCTION_ERF: _ClassVar[TapeFunction]
    TAPE_FUNCTION_RECIPROCAL_TO_10: _ClassVar[TapeFunction]
TAPE_FUNCTION_UNSPECIFIED: TapeFunction
TAPE_FUNCTION_EXP: TapeFunction
TAPE_FUNCTION_SIGMOID: TapeFunction
TAPE_FUNCTION_RECIPROCAL: TapeFunction
TAPE_FUNCTION_RSQRT: TapeFunction
TAPE_FUNCTION_LOG: TapeFunction
TAPE_FUNCTION_SINE: TapeFunction
TAPE_FUNCTION_COSINE: TapeFunction
TAPE_FUNCTION_ERF: TapeFunction
TAPE_FUNCTION_RECIPROCAL_TO_10: TapeFunction

class TapeEntry(_message.Message):
    __slots__ = ("stream", "product", "truncation", "comparison", "series", "gated", "one_hot", "bits")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    GATED_FIELD_NUMBER: _ClassVar[int]
    ONE_HOT_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    stream: int
    product: TapeProduct
    truncation: TapeTruncation
    comparison: TapeComparison
    series: TapeSeries
    gated: TapeGated
    one_hot: TapeOneHot
    bits: TapeBits
    def __init__(self, stream: _Optional[int] = ..., product: _Optional[_Union[TapeProduct, _Mapping]] = ..., truncation: _Optional[_Union[TapeTruncation, _Mapping]] = ..., comparison: _Optional[_Union[TapeComparison, _Mapping]] = ..., series: _Optional[_Union[TapeSeries, _Mapping]] = ..., gated: _Optional[_Union[TapeGated, _Mapping]] = ..., one_hot: _Optional[_Union[TapeOneHot, _Mapping]] = ..., bits: _Optional[_Union[TapeBits, _Mapping]] = ...) -> None: ...

class TapeMask(_message.Message):
    __slots__ = ("segments", "shape")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[TapeSegment]
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, segments: _Optional[_Iterable[_Union[TapeSegment, _Mapping]]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class TapeSegment(_message.Message):
    __slots__ = ("stream", "shape", "start", "stop", "holder")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    stream: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    start: int
    stop: int
    holder: int
    def __init__(self, stream: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ..., holder: _Optional[int] = ...) -> None: ...

class TapeProduct(_message.Message):
    __slots__ = ("x", "y", "mul", "matmul", "conv2d", "batch_matmul", "convolution")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    MUL_FIELD_NUMBER: _ClassVar[int]
    MATMUL_FIELD_NUMBER: _ClassVar[int]
    CONV2D_FIELD_NUMBER: _ClassVar[int]
    BATCH_MATMUL_FIELD_NUMBER: _ClassVar[int]
    CONVOLUTION_FIELD_NUMBER: _ClassVar[int]
    x: TapeMask
    y: TapeMask
    mul: TapeMul
    matmul: TapeMatMul
    conv2d: TapeConv2d
    batch_matmul: TapeBatchMatMul
    convolution: TapeConvolution
    def __init__(self, x: _Optional[_Union[TapeMask, _Mapping]] = ..., y: _Optional[_Union[TapeMask, _Mapping]] = ..., mul: _Optional[_Union[TapeMul, _Mapping]] = ..., matmul: _Optional[_Union[TapeMatMul, _Mapping]] = ..., conv2d: _Optional[_Union[TapeConv2d, _Mapping]] = ..., batch_matmul: _Optional[_Union[TapeBatchMatMul, _Mapping]] = ..., convolution: _Optional[_Union[TapeConvolution, _Mapping]] = ...) -> None: ...

class TapeMul(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TapeMatMul(_message.Message):
    __slots__ = ("transpose_x", "transpose_y")
    TRANSPOSE_X_FIELD_NUMBER: _ClassVar[int]
    TRANSPOSE_Y_FIELD_NUMBER: _ClassVar[int]
    transpose_x: bool
    transpose_y: bool
    def __init__(self, transpose_x: _Optional[bool] = ..., transpose_y: _Optional[bool] = ...) -> None: ...

class TapeBatchMatMul(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TapeConv2d(_message.Message):
    __slots__ = ("stride", "padding", "dilation", "groups")
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    DILATION_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    stride: _containers.RepeatedScalarFieldContainer[int]
    padding: _containers.RepeatedScalarFieldContainer[int]
    dilation: _containers.RepeatedScalarFieldContainer[int]
    groups: int
    def __init__(self, stride: _Optional[_Iterable[int]] = ..., padding: _Optional[_Iterable[int]] = ..., dilation: _Optional[_Iterable[int]] = ..., groups: _Optional[int] = ...) -> None: ...

class TapeConvolution(_message.Message):
    __slots__ = ("stride", "padding", "dilation", "output_padding", "groups", "transposed")
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    DILATION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PADDING_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TRANSPOSED_FIELD_NUMBER: _ClassVar[int]
    stride: _containers.RepeatedScalarFieldContainer[int]
    padding: _containers.RepeatedScalarFieldContainer[int]
    dilation: _containers.RepeatedScalarFieldContainer[int]
    output_padding: _containers.RepeatedScalarFieldContainer[int]
    groups: int
    transposed: bool
    def __init__(self, stride: _Optional[_Iterable[int]] = ..., padding: _Optional[_Iterable[int]] = ..., dilation: _Optional[_Iterable[int]] = ..., output_padding: _Optional[_Iterable[int]] = ..., groups: _Optional[int] = ..., transposed: _Optional[bool] = ...) -> None: ...

class TapeTruncation(_message.Message):
    __slots__ = ("shape", "bits")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    bits: int
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., bits: _Optional[int] = ...) -> None: ...

class TapeComparison(_message.Message):
    __slots__ = ("n", "thresholds", "relu")
    N_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    RELU_FIELD_NUMBER: _ClassVar[int]
    n: int
    thresholds: int
    relu: bool
    def __init__(self, n: _Optional[int] = ..., thresholds: _Optional[int] = ..., relu: _Optional[bool] = ...) -> None: ...

class TapeSeries(_message.Message):
    __slots__ = ("n", "function", "bits")
    N_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    n: int
    function: TapeFunction
    bits: int
    def __init__(self, n: _Optional[int] = ..., function: _Optional[_Union[TapeFunction, str]] = ..., bits: _Optional[int] = ...) -> None: ...

class TapeGated(_message.Message):
    __slots__ = ("comparison", "function", "frac_bits")
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    FRAC_BITS_FIELD_NUMBER: _ClassVar[int]
    comparison: TapeComparison
    function: TapeFunction
    frac_bits: int
    def __init__(self, comparison: _Optional[_Union[TapeComparison, _Mapping]] = ..., function: _Optional[_Union[TapeFunction, str]] = ..., frac_bits: _Optional[int] = ...) -> None: ...

class TapeOneHot(_message.Message):
    __slots__ = ("n", "bits")
    N_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    n: int
    bits: int
    def __init__(self, n: _Optional[int] = ..., bits: _Optional[int] = ...) -> None: ...

class TapeBits(_message.Message):
    __slots__ = ("n",)
    N_FIELD_NUMBER: _ClassVar[int]
    n: int
    def __init__(self, n: _Optional[int] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PartyRef(_message.Message):
    __slots__ = ("name", "role", "key_id", "address", "organisation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ORGANISATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    key_id: bytes
    address: str
    organisation: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., key_id: _Optional[bytes] = ..., address: _Optional[str] = ..., organisation: _Optional[str] = ...) -> None: ...

class DatasetRef(_message.Message):
    __slots__ = ("owner", "name", "version", "rows")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    owner: str
    name: str
    version: bytes
    rows: int
    def __init__(self, owner: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[bytes] = ..., rows: _Optional[int] = ...) -> None: ...

class Category(_message.Message):
    __slots__ = ("values", "missing", "other")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    missing: bool
    other: bool
    def __init__(self, values: _Optional[_Iterable[str]] = ..., missing: _Optional[bool] = ..., other: _Optional[bool] = ...) -> None: ...

class NumericFeature(_message.Message):
    __slots__ = ("shift", "scale", "low", "high", "fill", "clip", "width")
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    FILL_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    shift: float
    scale: float
    low: float
    high: float
    fill: float
    clip: bool
    width: int
    def __init__(self, shift: _Optional[float] = ..., scale: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., fill: _Optional[float] = ..., clip: _Optional[bool] = ..., width: _Optional[int] = ...) -> None: ...

class OneHotFeature(_message.Message):
    __slots__ = ("categories",)
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    categories: _containers.RepeatedCompositeFieldContainer[Category]
    def __init__(self, categories: _Optional[_Iterable[_Union[Category, _Mapping]]] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("column", "numeric", "one_hot")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_FIELD_NUMBER: _ClassVar[int]
    ONE_HOT_FIELD_NUMBER: _ClassVar[int]
    column: str
    numeric: NumericFeature
    one_hot: OneHotFeature
    def __init__(self, column: _Optional[str] = ..., numeric: _Optional[_Union[NumericFeature, _Mapping]] = ..., one_hot: _Optional[_Union[OneHotFeature, _Mapping]] = ...) -> None: ...

class ClassTarget(_message.Message):
    __slots__ = ("classes",)
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[Category]
    def __init__(self, classes: _Optional[_Iterable[_Union[Category, _Mapping]]] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("column", "numeric", "classes")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    NUMERIC_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    column: str
    numeric: NumericFeature
    classes: ClassTarget
    def __init__(self, column: _Optional[str] = ..., numeric: _Optional[_Union[NumericFeature, _Mapping]] = ..., classes: _Optional[_Union[ClassTarget, _Mapping]] = ...) -> None: ...

class Encoding(_message.Message):
    __slots__ = ("features", "target", "standardise")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    STANDARDISE_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    target: Target
    standardise: bool
    def __init__(self, features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., standardise: _Optional[bool] = ...) -> None: ...

class TensorType(_message.Message):
    __slots__ = ("name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("op", "name", "inputs", "parameters", "ints")
    OP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    INTS_FIELD_NUMBER: _ClassVar[int]
    op: str
    name: str
    inputs: _containers.RepeatedScalarFieldContainer[str]
    parameters: _containers.RepeatedScalarFieldContainer[str]
    ints: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, op: _Optional[str] = ..., name: _Optional[str] = ..., inputs: _Optional[_Iterable[str]] = ..., parameters: _Optional[_Iterable[str]] = ..., ints: _Optional[_Iterable[int]] = ...) -> None: ...

class Architecture(_message.Message):
    __slots__ = ("input_shape", "layers", "parameters")
    INPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    input_shape: _containers.RepeatedScalarFieldContainer[int]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    parameters: _containers.RepeatedCompositeFieldContainer[TensorType]
    def __init__(self, input_shape: _Optional[_Iterable[int]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., parameters: _Optional[_Iterable[_Union[TensorType, _Mapping]]] = ...) -> None: ...

class Training(_message.Message):
    __slots__ = ("loss", "epochs", "batch_rows", "learning_rate", "momentum", "l2", "shuffle_seed", "init_seed", "deliver", "average_epochs")
    LOSS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_FIELD_NUMBER: _ClassVar[int]
    L2_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_SEED_FIELD_NUMBER: _ClassVar[int]
    INIT_SEED_FIELD_NUMBER: _ClassVar[int]
    DELIVER_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    loss: str
    epochs: int
    batch_rows: int
    learning_rate: float
    momentum: float
    l2: float
    shuffle_seed: int
    init_seed: int
    deliver: str
    average_epochs: int
    def __init__(self, loss: _Optional[str] = ..., epochs: _Optional[int] = ..., batch_rows: _Optional[int] = ..., learning_rate: _Optional[float] = ..., momentum: _Optional[float] = ..., l2: _Optional[float] = ..., shuffle_seed: _Optional[int] = ..., init_seed: _Optional[int] = ..., deliver: _Optional[str] = ..., average_epochs: _Optional[int] = ...) -> None: ...

class JobSpec(_message.Message):
    __slots__ = ("job_id", "kind", "created_unix_s", "expires_unix_s", "parties", "datasets", "encoding", "architecture", "model_commitment", "outputs", "training", "engine", "frac_bits", "plan_digest", "code_version", "purpose", "block_rows", "buyer_rows", "deal_ahead", "network")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    MODEL_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    FRAC_BITS_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ROWS_FIELD_NUMBER: _ClassVar[int]
    BUYER_ROWS_FIELD_NUMBER: _ClassVar[int]
    DEAL_AHEAD_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    kind: str
    created_unix_s: int
    expires_unix_s: int
    parties: _containers.RepeatedCompositeFieldContainer[PartyRef]
    datasets: _containers.RepeatedCompositeFieldContainer[DatasetRef]
    encoding: Encoding
    architecture: Architecture
    model_commitment: bytes
    outputs: _containers.RepeatedScalarFieldContainer[str]
    training: Training
    engine: str
    frac_bits: int
    plan_digest: bytes
    code_version: str
    purpose: str
    block_rows: int
    buyer_rows: int
    deal_ahead: bool
    network: str
    def __init__(self, job_id: _Optional[str] = ..., kind: _Optional[str] = ..., created_unix_s: _Optional[int] = ..., expires_unix_s: _Optional[int] = ..., parties: _Optional[_Iterable[_Union[PartyRef, _Mapping]]] = ..., datasets: _Optional[_Iterable[_Union[DatasetRef, _Mapping]]] = ..., encoding: _Optional[_Union[Encoding, _Mapping]] = ..., architecture: _Optional[_Union[Architecture, _Mapping]] = ..., model_commitment: _Optional[bytes] = ..., outputs: _Optional[_Iterable[str]] = ..., training: _Optional[_Union[Training, _Mapping]] = ..., engine: _Optional[str] = ..., frac_bits: _Optional[int] = ..., plan_digest: _Optional[bytes] = ..., code_version: _Optional[str] = ..., purpose: _Optional[str] = ..., block_rows: _Optional[int] = ..., buyer_rows: _Optional[int] = ..., deal_ahead: _Optional[bool] = ..., network: _Optional[str] = ...) -> None: ...

class Signed(_message.Message):
    __slots__ = ("body", "key_id", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    key_id: bytes
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., key_id: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

from enclave.wire import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ColumnInfo(_message.Message):
    __slots__ = ("name", "type", "nullable", "width")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NULLABLE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    nullable: bool
    width: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., nullable: _Optional[bool] = ..., width: _Optional[int] = ...) -> None: ...

class DatasetInfo(_message.Message):
    __slots__ = ("ref", "description", "columns", "job_kinds", "outputs", "minimum_rows", "approval", "mock_parquet", "engines")
    REF_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    JOB_KINDS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    MOCK_PARQUET_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    ref: _job_pb2.DatasetRef
    description: str
    columns: _containers.RepeatedCompositeFieldContainer[ColumnInfo]
    job_kinds: _containers.RepeatedScalarFieldContainer[str]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    minimum_rows: int
    approval: str
    mock_parquet: bytes
    engines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ref: _Optional[_Union[_job_pb2.DatasetRef, _Mapping]] = ..., description: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[ColumnInfo, _Mapping]]] = ..., job_kinds: _Optional[_Iterable[str]] = ..., outputs: _Optional[_Iterable[str]] = ..., minimum_rows: _Optional[int] = ..., approval: _Optional[str] = ..., mock_parquet: _Optional[bytes] = ..., engines: _Optional[_Iterable[str]] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("name", "role", "datasets", "claims", "code_version", "profile", "organisation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    ORGANISATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    datasets: _containers.RepeatedCompositeFieldContainer[DatasetInfo]
    claims: _containers.RepeatedScalarFieldContainer[str]
    code_version: str
    profile: str
    organisation: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., datasets: _Optional[_Iterable[_Union[DatasetInfo, _Mapping]]] = ..., claims: _Optional[_Iterable[str]] = ..., code_version: _Optional[str] = ..., profile: _Optional[str] = ..., organisation: _Optional[str] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("rule", "text")
    RULE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    rule: str
    text: str
    def __init__(self, rule: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("job_id", "state", "reasons")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    state: str
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    def __init__(self, job_id: _Optional[str] = ..., state: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ...) -> None: ...

class Approval(_message.Message):
    __slots__ = ("job_id", "spec_digest")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    spec_digest: bytes
    def __init__(self, job_id: _Optional[str] = ..., spec_digest: _Optional[bytes] = ...) -> None: ...

class JobRef(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("job_id", "deal")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DEAL_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    deal: bool
    def __init__(self, job_id: _Optional[str] = ..., deal: _Optional[bool] = ...) -> None: ...

class JobStatus(_message.Message):
    __slots__ = ("job_id", "state", "reasons", "steps_done", "steps_total", "stage", "updated_unix_s", "dealing")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    UPDATED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    DEALING_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    state: str
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    steps_done: int
    steps_total: int
    stage: str
    updated_unix_s: int
    dealing: str
    def __init__(self, job_id: _Optional[str] = ..., state: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., steps_done: _Optional[int] = ..., steps_total: _Optional[int] = ..., stage: _Optional[str] = ..., updated_unix_s: _Optional[int] = ..., dealing: _Optional[str] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "text", "hint", "rules", "who", "step", "expected", "found", "kind")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    code: str
    text: str
    hint: str
    rules: _containers.RepeatedScalarFieldContainer[str]
    who: str
    step: int
    expected: str
    found: str
    kind: str
    def __init__(self, code: _Optional[str] = ..., text: _Optional[str] = ..., hint: _Optional[str] = ..., rules: _Optional[_Iterable[str]] = ..., who: _Optional[str] = ..., step: _Optional[int] = ..., expected: _Optional[str] = ..., found: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

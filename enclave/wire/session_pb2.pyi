from enclave.wire import node_pb2 as _node_pb2
from enclave.wire import receipt_pb2 as _receipt_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Order(_message.Message):
    __slots__ = ("spec", "spec_signature", "session_id", "party", "home", "data_path", "listen_host", "port_low", "port_high", "step_deadline_s", "profile")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SPEC_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    DATA_PATH_FIELD_NUMBER: _ClassVar[int]
    LISTEN_HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_LOW_FIELD_NUMBER: _ClassVar[int]
    PORT_HIGH_FIELD_NUMBER: _ClassVar[int]
    STEP_DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    spec: bytes
    spec_signature: bytes
    session_id: str
    party: str
    home: str
    data_path: str
    listen_host: str
    port_low: int
    port_high: int
    step_deadline_s: float
    profile: str
    def __init__(self, spec: _Optional[bytes] = ..., spec_signature: _Optional[bytes] = ..., session_id: _Optional[str] = ..., party: _Optional[str] = ..., home: _Optional[str] = ..., data_path: _Optional[str] = ..., listen_host: _Optional[str] = ..., port_low: _Optional[int] = ..., port_high: _Optional[int] = ..., step_deadline_s: _Optional[float] = ..., profile: _Optional[str] = ...) -> None: ...

class WorkerEvent(_message.Message):
    __slots__ = ("listening", "progress", "sealed", "outcome")
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    listening: _node_pb2.Endpoint
    progress: Progress
    sealed: Sealed
    outcome: Outcome
    def __init__(self, listening: _Optional[_Union[_node_pb2.Endpoint, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., sealed: _Optional[_Union[Sealed, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("steps_done", "steps_total", "stage")
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    steps_done: int
    steps_total: int
    stage: str
    def __init__(self, steps_done: _Optional[int] = ..., steps_total: _Optional[int] = ..., stage: _Optional[str] = ...) -> None: ...

class Sealed(_message.Message):
    __slots__ = ("transcript", "outputs", "rows")
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    transcript: _receipt_pb2.Transcript
    outputs: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    def __init__(self, transcript: _Optional[_Union[_receipt_pb2.Transcript, _Mapping]] = ..., outputs: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("ok", "code", "text", "transcript", "report")
    OK_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ok: bool
    code: str
    text: str
    transcript: _receipt_pb2.Transcript
    report: bytes
    def __init__(self, ok: _Optional[bool] = ..., code: _Optional[str] = ..., text: _Optional[str] = ..., transcript: _Optional[_Union[_receipt_pb2.Transcript, _Mapping]] = ..., report: _Optional[bytes] = ...) -> None: ...

class NodeOrder(_message.Message):
    __slots__ = ("start", "permit", "refuse", "cancel")
    START_FIELD_NUMBER: _ClassVar[int]
    PERMIT_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    start: Order
    permit: Permit
    refuse: str
    cancel: bool
    def __init__(self, start: _Optional[_Union[Order, _Mapping]] = ..., permit: _Optional[_Union[Permit, _Mapping]] = ..., refuse: _Optional[str] = ..., cancel: _Optional[bool] = ...) -> None: ...

class Permit(_message.Message):
    __slots__ = ("job_id", "outputs")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    outputs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_id: _Optional[str] = ..., outputs: _Optional[_Iterable[str]] = ...) -> None: ...

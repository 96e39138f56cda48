from enclave.wire import job_pb2 as _job_pb2
from enclave.wire import node_pb2 as _node_pb2
from enclave.wire import receipt_pb2 as _receipt_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Order(_message.Message):
    __slots__ = ("spec", "home", "dataset", "listen_host", "port_low", "port_high", "connect_s", "step_deadline_s", "dealer_bytes_limit", "profile", "deal", "stock_bytes_limit", "transport", "encodings_limit_bytes", "memory_limit_bytes")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    LISTEN_HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_LOW_FIELD_NUMBER: _ClassVar[int]
    PORT_HIGH_FIELD_NUMBER: _ClassVar[int]
    CONNECT_S_FIELD_NUMBER: _ClassVar[int]
    STEP_DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    DEALER_BYTES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    DEAL_FIELD_NUMBER: _ClassVar[int]
    STOCK_BYTES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    spec: _job_pb2.Signed
    home: str
    dataset: str
    listen_host: str
    port_low: int
    port_high: int
    connect_s: float
    step_deadline_s: float
    dealer_bytes_limit: int
    profile: str
    deal: bool
    stock_bytes_limit: int
    transport: str
    encodings_limit_bytes: int
    memory_limit_bytes: int
    def __init__(self, spec: _Optional[_Union[_job_pb2.Signed, _Mapping]] = ..., home: _Optional[str] = ..., dataset: _Optional[str] = ..., listen_host: _Optional[str] = ..., port_low: _Optional[int] = ..., port_high: _Optional[int] = ..., connect_s: _Optional[float] = ..., step_deadline_s: _Optional[float] = ..., dealer_bytes_limit: _Optional[int] = ..., profile: _Optional[str] = ..., deal: _Optional[bool] = ..., stock_bytes_limit: _Optional[int] = ..., transport: _Optional[str] = ..., encodings_limit_bytes: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ...) -> None: ...

class WorkerEvent(_message.Message):
    __slots__ = ("listening", "progress", "sealed", "outcome", "locate", "ready", "connected", "agreed")
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LOCATE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    listening: _node_pb2.Endpoint
    progress: Progress
    sealed: Sealed
    outcome: Outcome
    locate: Locate
    ready: Ready
    connected: Ready
    agreed: Ready
    def __init__(self, listening: _Optional[_Union[_node_pb2.Endpoint, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., sealed: _Optional[_Union[Sealed, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., locate: _Optional[_Union[Locate, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., connected: _Optional[_Union[Ready, _Mapping]] = ..., agreed: _Optional[_Union[Ready, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Locate(_message.Message):
    __slots__ = ("rank",)
    RANK_FIELD_NUMBER: _ClassVar[int]
    rank: int
    def __init__(self, rank: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("job_id", "outputs", "rows", "transcript")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    outputs: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    transcript: _receipt_pb2.Transcript
    def __init__(self, job_id: _Optional[str] = ..., outputs: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ..., transcript: _Optional[_Union[_receipt_pb2.Transcript, _Mapping]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("failure", "transcript", "report", "plan_digest")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    failure: _node_pb2.Failure
    transcript: _receipt_pb2.Transcript
    report: bytes
    plan_digest: bytes
    def __init__(self, failure: _Optional[_Union[_node_pb2.Failure, _Mapping]] = ..., transcript: _Optional[_Union[_receipt_pb2.Transcript, _Mapping]] = ..., report: _Optional[bytes] = ..., plan_digest: _Optional[bytes] = ...) -> None: ...

class NodeOrder(_message.Message):
    __slots__ = ("start", "permit", "refuse", "cancel", "located", "release")
    START_FIELD_NUMBER: _ClassVar[int]
    PERMIT_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    LOCATED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    start: Order
    permit: Permit
    refuse: _node_pb2.Failure
    cancel: _node_pb2.Failure
    located: Located
    release: Ready
    def __init__(self, start: _Optional[_Union[Order, _Mapping]] = ..., permit: _Optional[_Union[Permit, _Mapping]] = ..., refuse: _Optional[_Union[_node_pb2.Failure, _Mapping]] = ..., cancel: _Optional[_Union[_node_pb2.Failure, _Mapping]] = ..., located: _Optional[_Union[Located, _Mapping]] = ..., release: _Optional[_Union[Ready, _Mapping]] = ...) -> None: ...

class Permit(_message.Message):
    __slots__ = ("job_id", "outputs")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    outputs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_id: _Optional[str] = ..., outputs: _Optional[_Iterable[str]] = ...) -> None: ...

class Located(_message.Message):
    __slots__ = ("rank", "address", "failure")
    RANK_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    rank: int
    address: str
    failure: _node_pb2.Failure
    def __init__(self, rank: _Optional[int] = ..., address: _Optional[str] = ..., failure: _Optional[_Union[_node_pb2.Failure, _Mapping]] = ...) -> None: ...

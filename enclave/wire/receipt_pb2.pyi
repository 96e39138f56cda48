from enclave.wire import job_pb2 as _job_pb2
from enclave.wire import node_pb2 as _node_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkTraffic(_message.Message):
    __slots__ = ("peer", "sent_bytes", "received_bytes")
    PEER_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    peer: str
    sent_bytes: int
    received_bytes: int
    def __init__(self, peer: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ...) -> None: ...

class Transcript(_message.Message):
    __slots__ = ("rounds", "links", "digest", "equals_plan", "openings", "opened_words", "uniformity_p", "reused_masks", "peak_rss_bytes", "wall_s")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EQUALS_PLAN_FIELD_NUMBER: _ClassVar[int]
    OPENINGS_FIELD_NUMBER: _ClassVar[int]
    OPENED_WORDS_FIELD_NUMBER: _ClassVar[int]
    UNIFORMITY_P_FIELD_NUMBER: _ClassVar[int]
    REUSED_MASKS_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    links: _containers.RepeatedCompositeFieldContainer[LinkTraffic]
    digest: bytes
    equals_plan: bool
    openings: int
    opened_words: int
    uniformity_p: float
    reused_masks: int
    peak_rss_bytes: int
    wall_s: float
    def __init__(self, rounds: _Optional[int] = ..., links: _Optional[_Iterable[_Union[LinkTraffic, _Mapping]]] = ..., digest: _Optional[bytes] = ..., equals_plan: _Optional[bool] = ..., openings: _Optional[int] = ..., opened_words: _Optional[int] = ..., uniformity_p: _Optional[float] = ..., reused_masks: _Optional[int] = ..., peak_rss_bytes: _Optional[int] = ..., wall_s: _Optional[float] = ...) -> None: ...

class Statement(_message.Message):
    __slots__ = ("job_id", "party", "spec_digest", "plan_digest", "state", "reasons", "claims", "views", "transcript", "ledger_head", "ledger_index", "finished_unix_s", "report_digest")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    LEDGER_INDEX_FIELD_NUMBER: _ClassVar[int]
    FINISHED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    REPORT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    party: str
    spec_digest: bytes
    plan_digest: bytes
    state: str
    reasons: _containers.RepeatedCompositeFieldContainer[_node_pb2.Reason]
    claims: _containers.RepeatedScalarFieldContainer[str]
    views: _containers.RepeatedScalarFieldContainer[str]
    transcript: Transcript
    ledger_head: bytes
    ledger_index: int
    finished_unix_s: int
    report_digest: bytes
    def __init__(self, job_id: _Optional[str] = ..., party: _Optional[str] = ..., spec_digest: _Optional[bytes] = ..., plan_digest: _Optional[bytes] = ..., state: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[_node_pb2.Reason, _Mapping]]] = ..., claims: _Optional[_Iterable[str]] = ..., views: _Optional[_Iterable[str]] = ..., transcript: _Optional[_Union[Transcript, _Mapping]] = ..., ledger_head: _Optional[bytes] = ..., ledger_index: _Optional[int] = ..., finished_unix_s: _Optional[int] = ..., report_digest: _Optional[bytes] = ...) -> None: ...

class ReceiptBody(_message.Message):
    __slots__ = ("spec", "spec_signature", "statements", "outputs_digest", "released")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SPEC_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    spec: bytes
    spec_signature: bytes
    statements: _containers.RepeatedCompositeFieldContainer[_job_pb2.Signed]
    outputs_digest: bytes
    released: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, spec: _Optional[bytes] = ..., spec_signature: _Optional[bytes] = ..., statements: _Optional[_Iterable[_Union[_job_pb2.Signed, _Mapping]]] = ..., outputs_digest: _Optional[bytes] = ..., released: _Optional[_Iterable[str]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("body", "countersignatures", "cards")
    BODY_FIELD_NUMBER: _ClassVar[int]
    COUNTERSIGNATURES_FIELD_NUMBER: _ClassVar[int]
    CARDS_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    countersignatures: _containers.RepeatedCompositeFieldContainer[_job_pb2.Signed]
    cards: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, body: _Optional[bytes] = ..., countersignatures: _Optional[_Iterable[_Union[_job_pb2.Signed, _Mapping]]] = ..., cards: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LedgerEntry(_message.Message):
    __slots__ = ("index", "previous", "unix_s", "event", "job_id", "spec_digest", "reasons", "detail")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    UNIX_S_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    index: int
    previous: bytes
    unix_s: int
    event: str
    job_id: str
    spec_digest: bytes
    reasons: _containers.RepeatedCompositeFieldContainer[_node_pb2.Reason]
    detail: bytes
    def __init__(self, index: _Optional[int] = ..., previous: _Optional[bytes] = ..., unix_s: _Optional[int] = ..., event: _Optional[str] = ..., job_id: _Optional[str] = ..., spec_digest: _Optional[bytes] = ..., reasons: _Optional[_Iterable[_Union[_node_pb2.Reason, _Mapping]]] = ..., detail: _Optional[bytes] = ...) -> None: ...

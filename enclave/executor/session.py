"""One session of one job at one rank: the core that a node's worker and a buyer's own process share.

A job is one session: its channel is named by the job id, and a retry is a new job with fresh randomness.
The caller hands in everything that has an address or a person behind it: how to find a peer's worker (`locate`)
and who decides whether a sealed result may leave (`gate`). This module is the only place that makes a `Permit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from enclave.messages import Signed, Transcript

if TYPE_CHECKING:
    from enclave.channel import Channel
    from enclave.channel.grpc_link import Listener
    from enclave.identity import Identity, TrustStore
    from enclave.plan import Plan
    from enclave.workloads import Inputs

__all__ = ["Gate", "Progress", "Sealing", "SessionResult", "run_session"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a session stands: plan steps done and in all, and the name of the stage."""

    steps_done: int
    steps_total: int
    stage: str


@dataclass(frozen=True, slots=True)
class Sealing:
    """What the gate is told once the result exists, as shares only. `rows` counts the rows of all parties."""

    job_id: str
    outputs: tuple[str, ...]
    rows: int
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class SessionResult:
    """What a session leaves at one rank. `opened` is None everywhere but at the buyer."""

    opened: Mapping[str, NDArray[Any]] | None
    transcript: Transcript
    plan: Plan
    report: bytes  # the leakage report as JSON


# Returns the outputs that may be opened to the buyer, once that decision is durable; raises Refused otherwise.
Gate = Callable[[Sealing], tuple[str, ...]]


def run_session(
    signed: Signed,
    *,
    identity: Identity,
    trust: TrustStore,
    inputs: Inputs,
    locate: Callable[[int], str],
    gate: Gate,
    listener: Listener | None = None,
    progress: Callable[[Progress], None] | None = None,
    attach: Callable[[Channel], None] | None = None,
    connect_s: float = 30.0,
    deadline_s: float = 10.0,
    dealer_bytes_limit: int | None = None,
) -> SessionResult:
    """Runs this party's rank of the job `signed`, from connecting to the released outputs.

    Args:
        signed: the buyer's signed JobSpec, as received; its signature is verified again here.
        identity: whose rank to run: its key id must be one of the spec's parties.
        inputs: this party's rows and model (both None at the dealer).
        locate: rank -> "host:port" of that rank's worker; may block; raises EnclaveError.
        gate: decides on release; at the buyer `lambda sealing: sealing.outputs`.
        listener: where peers connect; None at the buyer, who only dials.
        progress: called often and from this thread; must be quick.
        attach: given the open channel, so that another thread can end the session with `channel.close(error)`.
        connect_s: how long to wait for all peers to be connected.
        deadline_s: how long to wait for any one frame.
        dealer_bytes_limit: at the dealer, the most bytes of correlated randomness it agrees to deal.

    Raises:
        Untrusted, PlanMismatch, PolicyRefused, BadInput, PeerLost, Desynchronised.
    """
    raise NotImplementedError

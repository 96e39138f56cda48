"""What the nodes say of a job while the buyer's own session runs.

A session that breaks shows the buyer a closed connection; the node whose worker broke knows why. So the buyer
listens to all nodes meanwhile, stops at once when one of them ends the job, and reports that node's own words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from enclave.errors import EnclaveError, PolicyRefused, SessionError
from enclave.messages import JobStatus, Reason

if TYPE_CHECKING:
    from enclave.channel import Channel
    from parties.server import NodeClient

__all__ = ["Watch", "ended_at", "refused_by"]

_BROKEN = frozenset({"FAILED", "REFUSED", "WITHDRAWN", "EXPIRED"})
# Reasons that only repeat that somebody else went away; another node's reason explains more.
_ECHOES = ("session.peer_lost", "session.desynchronised", "session")


class Watch:
    """Follows a job at several nodes, one thread each, until `stop`."""

    def __init__(self, clients: Sequence[NodeClient], job_id: str) -> None:
        self._job_id = job_id
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._states: dict[str, JobStatus] = {}
        self._channel: Channel | None = None
        self._stopped = False
        self._names = tuple(client.card.name for client in clients)
        for client in clients:
            threading.Thread(target=self._follow, args=(client,), name=f"watch {client.card.name}", daemon=True).start()

    def attach(self, channel: Channel) -> None:
        """The session's channel: it is closed when a node ends the job."""
        with self._lock:
            self._channel = channel
            broken = self._verdict()
        if broken is not None:
            channel.close(broken)

    def traffic_bytes(self) -> int:
        """Payload that this party has sent and received so far."""
        with self._lock:
            channel = self._channel
        if channel is None:
            return 0
        return sum(link.sent_bytes + link.received_bytes for link in channel.stats())

    def broken(self) -> bool:
        """Whether some node has ended the job without a result."""
        with self._lock:
            return self._verdict() is not None

    def explain(self, error: EnclaveError, patience_s: float = 2.0) -> EnclaveError:
        """The best account of why the job ended: a node's own reason if one comes in time, else `error`."""
        end_s = time.monotonic() + patience_s
        with self._changed:
            while (found := self._verdict(echoes=False)) is None and len(self._broken_names()) < len(self._names):
                if not self._changed.wait(end_s - time.monotonic()) and time.monotonic() >= end_s:
                    break
            return found or error

    def refusals(self) -> dict[str, tuple[Reason, ...]]:
        """The rules that decided, by node, at the nodes that have refused the job."""
        with self._lock:
            return {name: status.reasons for name, status in self._states.items() if status.state == "REFUSED"}

    def stop(self) -> None:
        """Lets the threads end with their connections; whatever nodes still say is ignored."""
        with self._lock:
            self._stopped = True
            self._channel = None

    def _follow(self, client: NodeClient) -> None:
        name = client.card.name
        try:
            for status in client.status(self._job_id):
                with self._changed:
                    if self._stopped:
                        return
                    self._states[name] = status
                    self._changed.notify_all()
                    channel, verdict = self._channel, self._verdict()
                if verdict is not None and channel is not None:
                    channel.close(verdict)
        except EnclaveError:
            # A node that cannot be asked shows in the session itself, which has deadlines of its own.
            return
        except ValueError:
            return  # the connection was closed under the call while the buyer finished

    def _broken_names(self) -> list[str]:
        return [name for name in self._names if name in self._states and self._states[name].state in _BROKEN]

    def _verdict(self, *, echoes: bool = True) -> EnclaveError | None:
        plain: EnclaveError | None = None
        for name in self._broken_names():
            status = self._states[name]
            if not any(reason.rule in _ECHOES for reason in status.reasons):
                return ended_at(name, status.state, status.reasons)
            plain = plain or ended_at(name, status.state, status.reasons)
        return plain if echoes else None


def ended_at(name: str, state: str, reasons: Sequence[Reason]) -> EnclaveError:
    """The error for a job that ended at node `name` without a result."""
    text = "; ".join(reason.text for reason in reasons) or "no reason given"
    if state == "REFUSED":
        return refused_by({name: reasons})
    code = reasons[0].rule if reasons else "session.ended"
    return SessionError(
        f"the job {_ENDS.get(state, state.lower())} at {name}: {text}",
        hint=f"ask the operator of {name}; the job can be proposed again as a new one",
        code=code,
    )


_ENDS = {"FAILED": "failed", "WITHDRAWN": "was withdrawn", "EXPIRED": "expired"}


def refused_by(refusals: Mapping[str, Sequence[Reason]]) -> PolicyRefused:
    """The error for a job that one or more nodes refuse, with every rule that decided."""
    several = len(refusals) > 1
    said = [
        f"{name}: " * several + "; ".join(f"{reason.text} ({reason.rule})" for reason in reasons)
        for name, reasons in refusals.items()
    ]
    rules = tuple(dict.fromkeys(reason.rule for reasons in refusals.values() for reason in reasons))
    allowed = "ask for what `enclave buyer datasets` says is allowed, or ask the owner to change the policy"
    encoding = "change the encoding; `enclave buyer datasets` lists the columns"
    return PolicyRefused(
        f"refused by {', '.join(refusals)}: " + ("; ".join(said) or "no reason given"),
        rules=rules,
        hint=encoding if rules and all(rule.startswith("encoding.") for rule in rules) else allowed,
    )

"""The nodes of a job's other parties, asked over their control ports."""

from __future__ import annotations

import time
from collections.abc import Callable

from enclave.channel.addresses import Offer
from enclave.errors import EnclaveError, PeerLost, SessionError
from enclave.identity import Identity, TrustStore
from enclave.identity.card import is_address
from enclave.jobs import FINAL
from enclave.messages import JobSpec
from parties.server import NodeClient

__all__ = ["NodePeers"]

_ASK_S = 3.0
_RETRY_S = 0.5


class NodePeers:
    """Implements `parties.node.runner.Peers`. A connection lives for one question: questions are few."""

    def __init__(self, identity: Identity, trust: TrustStore) -> None:
        self._identity = identity
        self._trust = trust

    def locate(self, spec: JobSpec, rank: int, stop: Callable[[], bool]) -> str:
        """See `Peers`. Keeps asking: how long is for the job's own watch to say."""
        party = spec.parties[rank]
        while True:
            try:
                with self._client(spec, rank) as client:
                    found = client.locate(spec.job_id, within_s=86_400.0, stop=stop)
                return str(Offer.parse(found, party.name))
            except SessionError as error:
                # A node that restarts just now is asked again; a job that ended there is over here too.
                if error.code == "session.ended":
                    raise PeerLost(party.name, 0, why=error.public) from error
                if stop():
                    raise
                time.sleep(_RETRY_S)

    def broken(self, spec: JobSpec) -> EnclaveError | None:
        """See `Peers`. A node that does not answer is not taken for one that has ended the job."""
        for rank, party in enumerate(spec.parties):
            if party.key_id == self._identity.key_id or party.role == "buyer":
                continue
            try:
                with self._client(spec, rank, deadline_s=_ASK_S) as client:
                    status = client.status_now(spec.job_id)
            except EnclaveError:
                continue
            if status.state in FINAL:
                said = "; ".join(reason.text for reason in status.reasons)
                return PeerLost(
                    party.name, 0, why=f"the job is {status.state.lower()} there" + (f": {said}" if said else "")
                )
        return None

    def _client(self, spec: JobSpec, rank: int, deadline_s: float = 15.0) -> NodeClient:
        party = spec.parties[rank]
        card = self._trust.by_key_id(party.key_id)
        address = card.address or party.address
        # Safety: where the card has none, the address is the buyer's word. gRPC would also dial files and resolvers.
        if not is_address(address):
            text = f"the address of {party.name} in the job is not host:port"
            raise SessionError(text, hint=f"ask {party.name} for a card with an address", code="session.unreachable")
        return NodeClient(self._identity, card, address=address, deadline_s=deadline_s)
